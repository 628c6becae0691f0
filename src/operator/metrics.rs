//! `/metrics`: the numbers of the tree and of the edge in the OpenMetrics text format, which Prometheus reads.
//!
//! In: GET by an operator. Out: every family of docs/metrics.md. Nothing is asked of an actor: it answers while they are stuck.

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chargehand_actors::metrics::Histogram;
use http::{StatusCode, header};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::families::Families;
use super::routes::Operator;
use crate::who::Who;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/metrics`
pub(super) async fn metrics(
    State(operator): State<Operator>,
    Extension(who): Extension<Who>,
) -> Response {
    if who.operator().is_none() {
        let problem = "only a token with role operator may read the metrics";
        return (StatusCode::FORBIDDEN, problem).into_response();
    }
    let mut rooms = Vec::new();
    for disk in operator.disks.iter() {
        rooms.extend(disk.room().await);
    }
    let mut registry = Registry::with_prefix("chargehand");
    registry.register_collector(Box::new(Families {
        started: operator.started,
        tree: operator.tree.metrics(),
        edge: operator.counters.numbers(),
        rooms,
    }));
    let mut page = String::new();
    match text::encode(&mut page, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the metrics could not be written: {error}"),
        )
            .into_response(),
    }
}

impl Collector for Families {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        self.write(&mut Page(encoder))
    }
}

/// Label names with their values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// One label.
pub(super) fn label(name: &'static str, value: impl Into<String>) -> Labels {
    vec![(name, value.into())]
}

/// Where families are written to. A family without a sample is still announced.
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// A counter of whole things, or of dollars. `name` has no `_total`; the format adds it.
    pub(super) fn counter<V: EncodeCounterValue>(
        &mut self,
        name: &'static str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> std::fmt::Result {
        let kind = MetricType::Counter;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                family.encode_counter::<Labels, V, u64>(&value, None)?;
            } else {
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// A value that rises and falls. `name` has no unit; the format adds it.
    pub(super) fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &'static str,
        unit: Option<&Unit>,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> std::fmt::Result {
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                family.encode_gauge(&value)?;
            } else {
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// A distribution. `name` has no unit; the format adds it.
    pub(super) fn histogram<'h>(
        &mut self,
        name: &'static str,
        unit: Option<&Unit>,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, &'h Histogram)>,
    ) -> std::fmt::Result {
        let kind = MetricType::Histogram;
        let mut family = self.0.encode_descriptor(name, help, unit, kind)?;
        for (labels, histogram) in samples {
            let (sum, count) = (histogram.sum(), histogram.count());
            let buckets = histogram.buckets();
            if labels.is_empty() {
                family.encode_histogram::<Labels>(sum, count, &buckets, None)?;
            } else {
                let mut member = family.encode_family(&labels)?;
                member.encode_histogram::<Labels>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    /// What something is, in labels.
    pub(super) fn info(
        &mut self,
        name: &'static str,
        help: &str,
        labels: &Labels,
    ) -> std::fmt::Result {
        let kind = MetricType::Info;
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        family.encode_info(labels)
    }
}
