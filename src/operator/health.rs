//! `/health` and `/ready`.
//!
//! In: GET, with or without a token. Out: 200 or 503; the parts are shown only to those who may speak.
//! `/health`: the process lives and its tree answers. `/ready`: a task would be accepted now.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chargehand_actors::error::TreeError;
use chargehand_actors::view::HealthReport;
use http::StatusCode;
use serde_json::{Value, json};

use super::routes::Operator;
use crate::who::Who;

pub(super) async fn health(
    State(operator): State<Operator>,
    who: Option<Extension<Who>>,
) -> Response {
    let report = operator.tree.health().await;
    let fine = report.is_ok();
    answer(fine, "ok", "down", &report, who.is_some(), &operator)
}

pub(super) async fn ready(
    State(operator): State<Operator>,
    who: Option<Extension<Who>>,
) -> Response {
    let report = operator.tree.health().await;
    let fine = report.as_ref().is_ok_and(|report| report.accepting);
    answer(
        fine,
        "ready",
        "not_ready",
        &report,
        who.is_some(),
        &operator,
    )
}

fn answer(
    fine: bool,
    yes: &str,
    no: &str,
    report: &Result<HealthReport, TreeError>,
    detailed: bool,
    operator: &Operator,
) -> Response {
    let (status, word) = if fine {
        (StatusCode::OK, yes)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, no)
    };
    let mut body = json!({"status": word, "timestamp": operator.clock.now().0});
    if let (true, Value::Object(fields)) = (detailed, &mut body) {
        fields.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        match report {
            Ok(report) => {
                fields.insert("report".to_owned(), json!(report));
            }
            Err(error) => {
                fields.insert("error".to_owned(), json!(error.to_string()));
            }
        }
    }
    (status, Json(body)).into_response()
}
