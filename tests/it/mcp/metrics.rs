//! `/metrics`: what is exported is what is documented, the numbers are right, and only operators read them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chargehand::config::TokenRole;
use chargehand_actors::fakes::{Fate, World};
use reqwest::StatusCode;
use serde_json::json;

use super::client::Client;
use super::server::{Server, token};

const DOCUMENTED: &str = include_str!("../../../docs/metrics.md");

/// One scrape, taken apart.
struct Scrape {
    text: String,
    /// Type of each family.
    types: BTreeMap<String, String>,
    /// Value of each sample, by name with its labels as written.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    async fn of(server: &Server) -> Self {
        let response = reqwest::get(format!("{}/metrics", server.url))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert!(
            kind.starts_with("application/openmetrics-text; version=1.0.0"),
            "{kind}"
        );
        Self::parse(response.text().await.unwrap())
    }

    fn parse(text: String) -> Self {
        let mut types = BTreeMap::new();
        let mut samples = BTreeMap::new();
        assert!(text.ends_with("# EOF\n"), "{text}");
        for line in text.lines() {
            if let Some(of_type) = line.strip_prefix("# TYPE ") {
                let (name, kind) = of_type.split_once(' ').unwrap();
                assert_eq!(
                    types.insert(name.to_owned(), kind.to_owned()),
                    None,
                    "{name} twice"
                );
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
                assert_eq!(samples.insert(name.to_owned(), value), None, "{name} twice");
            }
        }
        Self {
            text,
            types,
            samples,
        }
    }

    fn value(&self, sample: &str) -> f64 {
        let found = self.samples.get(sample);
        *found.unwrap_or_else(|| panic!("{sample} is missing in\n{}", self.text))
    }

    /// The labels that the samples of each family have, without a histogram's own.
    fn labels(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for sample in self.samples.keys() {
            let (name, rest) = sample.split_once('{').unwrap_or((sample, "}"));
            let family = ["_total", "_info", "_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|family| self.types.contains_key(*family))
                .unwrap_or(name);
            let known = labels.entry(family.to_owned()).or_default();
            for pair in rest
                .trim_end_matches('}')
                .split(',')
                .filter(|pair| !pair.is_empty())
            {
                let (label, _) = pair.split_once('=').unwrap();
                if label != "le" {
                    known.insert(label.to_owned());
                }
            }
        }
        labels
    }
}

/// Name, type and labels of every row of docs/metrics.md.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut rows = BTreeMap::new();
    for line in DOCUMENTED
        .lines()
        .filter(|line| line.starts_with("| `chargehand_"))
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let labels = cells[3].split(", ").filter(|label| !label.is_empty());
        let labels = labels
            .map(|label| label.trim_matches('`').to_owned())
            .collect();
        let name = cells[1].trim_matches('`').to_owned();
        assert!(!cells[4].is_empty(), "{name} has no meaning");
        let known = rows.insert(name.clone(), (cells[2].to_owned(), labels));
        assert_eq!(known, None, "{name} is documented twice");
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_what_is_documented() {
    let server = Server::start().await;
    let client = server.client().await;
    client.task_in("Say hello.", "completed").await;
    let scrape = Scrape::of(&server).await;
    let documented = documented();
    let types: BTreeMap<String, String> = documented
        .iter()
        .map(|(name, (kind, _))| (name.clone(), kind.clone()))
        .collect();
    assert_eq!(scrape.types, types);
    for (family, labels) in scrape.labels() {
        assert_eq!(labels, documented[&family].1, "labels of {family}");
    }
    server.stop().await;
}

#[test]
fn alert_rules_name_only_what_there_is() {
    const RULES: &str = include_str!("../../../config/prometheus-alerts.yml");
    let documented = documented();
    let names = RULES.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    let names: BTreeSet<&str> = names
        .filter(|name| name.starts_with("chargehand_"))
        .collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let (family, kind) = match ["_total", "_bucket"]
            .iter()
            .find_map(|s| Some((name.strip_suffix(s)?, *s)))
        {
            Some((family, "_total")) => (family, "counter"),
            Some((family, _)) => (family, "histogram"),
            None => (name, "gauge"),
        };
        let known = documented.get(family).map(|(kind, _)| kind.as_str());
        assert_eq!(known, Some(kind), "{name} in config/prometheus-alerts.yml");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_help_keep_the_conventions() {
    let server = Server::start().await;
    let scrape = Scrape::of(&server).await;
    for (name, kind) in &scrape.types {
        assert!(
            scrape.text.contains(&format!("# HELP {name} ")),
            "{name} has no help"
        );
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        assert!(plain && name.starts_with("chargehand_"), "{name}");
        assert!(!name.ends_with("_total"), "{name}: the format adds it");
        if kind == "histogram" && !name.ends_with("_events") {
            assert!(name.ends_with("_seconds"), "{name}");
        }
    }
    // Words of a fixed list are there before the first of them happened.
    assert_eq!(
        scrape.value(r#"chargehand_tasks_ended_total{phase="failed",failure="model"}"#),
        0.0
    );
    assert_eq!(
        scrape.value(r#"chargehand_actor_restarts_total{actor="journal"}"#),
        0.0
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_follow_the_tasks() {
    let server = Server::start().await;
    let client = server.client().await;
    client.task_in("Say hello.", "completed").await;
    client.task_in("FAIL please.", "failed").await;
    let hanging = client.task_in("HANG for ever.", "running").await;
    let refused = client.call("get_task_status", json!({"task_id": 42})).await;
    assert!(refused.refused);
    let scrape = Scrape::of(&server).await;
    for (sample, expected) in [
        (r#"chargehand_tasks{phase="running"}"#, 1.0),
        (r#"chargehand_tasks{phase="queued"}"#, 0.0),
        (r#"chargehand_tasks_accepted_total{token="local"}"#, 3.0),
        (
            r#"chargehand_tasks_ended_total{phase="completed",failure="none"}"#,
            1.0,
        ),
        (
            r#"chargehand_tasks_ended_total{phase="failed",failure="model"}"#,
            1.0,
        ),
        ("chargehand_task_queue_seconds_count", 3.0),
        ("chargehand_task_start_seconds_count", 3.0),
        (r#"chargehand_task_start_seconds_bucket{le="+Inf"}"#, 3.0),
        ("chargehand_slots_limit", 3.0),
        ("chargehand_accepting", 1.0),
        ("chargehand_mcp_sessions", 1.0),
        (r#"chargehand_engine_up{engine="local"}"#, 1.0),
        (
            r#"chargehand_tool_calls_total{tool="opencode_execute_task",outcome="ok"}"#,
            3.0,
        ),
        (
            r#"chargehand_tool_calls_total{tool="get_task_status",outcome="INVALID_ARGUMENT"}"#,
            1.0,
        ),
        (r#"chargehand_journal_commits_total{outcome="failed"}"#, 0.0),
        (r#"chargehand_actors{actor="journal"}"#, 1.0),
        (r#"chargehand_build_info{version="0.1.0"}"#, 1.0),
    ] {
        assert_eq!(scrape.value(sample), expected, "{sample}\n{}", scrape.text);
    }
    let events = scrape.value("chargehand_journal_last_event");
    let counted = scrape.value(r#"chargehand_events_total{kind="lifecycle"}"#)
        + scrape.value(r#"chargehand_events_total{kind="observation"}"#);
    assert_eq!(
        counted, events,
        "a fresh journal: every event was counted once"
    );
    assert!(scrape.value(r#"chargehand_journal_commits_total{outcome="committed"}"#) > 3.0);
    assert!(scrape.value("chargehand_journal_commit_events_sum") >= events);
    assert!(scrape.value(r#"chargehand_mailbox_most_waiting{actor="journal"}"#) >= 1.0);
    for unbounded in [hanging.as_str(), "agent-1", "HANG"] {
        assert!(!scrape.text.contains(unbounded), "{unbounded} is no label");
    }
    client.close().await;
    assert_eq!(
        Scrape::of(&server).await.value("chargehand_mcp_sessions"),
        0.0
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_silent_for_long_is_closed_and_no_longer_counted() {
    let server =
        Server::with(|settings| settings.server.session_idle = Duration::from_secs(1)).await;
    let client = server.client().await;
    client.ok("ping", json!({})).await;
    let end = Instant::now() + Duration::from_secs(30);
    while Scrape::of(&server).await.value("chargehand_mcp_sessions") > 0.0 {
        assert!(Instant::now() < end, "it is counted for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let late = client
        .request("tools/list", json!({}))
        .send()
        .await
        .unwrap();
    assert_eq!(late.status(), reqwest::StatusCode::NOT_FOUND);
    server.client().await.ok("ping", json!({})).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_read_them() {
    let server = Server::with(|settings| {
        settings.auth.tokens = vec![
            token("ann", "ann-0123456789abcdef", TokenRole::Caller),
            token("ops", "ops-0123456789abcdef", TokenRole::Operator),
        ];
    })
    .await;
    let get = |bearer: Option<&str>| {
        let mut request = reqwest::Client::new().get(format!("{}/metrics", server.url));
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        async move { request.send().await.unwrap() }
    };
    assert_eq!(get(None).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        get(Some("wrong-0123456789abc")).await.status(),
        StatusCode::UNAUTHORIZED
    );
    let refused = get(Some("ann-0123456789abcdef")).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(refused.text().await.unwrap().contains("operator"));
    let page = get(Some("ops-0123456789abcdef")).await;
    assert_eq!(page.status(), StatusCode::OK);
    let scrape = Scrape::parse(page.text().await.unwrap());
    let refused = |reason| {
        scrape.value(&format!(
            "chargehand_http_refused_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!((refused("unauthorized"), refused("forbidden")), (2.0, 1.0));
    assert!(!scrape.text.contains("0123456789abcdef"), "no secret");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_read_while_the_journal_hangs() {
    let world = World::new(7);
    let server = Server::on_fakes(&world).await;
    let client = Client::stateless(&server.url);
    client.task_in("script: hang", "running").await;
    world.trouble.always("journal.task", Fate::HangBefore);
    // A task that only the journal could know: the registry waits for it.
    let unknown = json!({"task_id": "5b8f0b0e-6f0c-4a0e-9d7c-2b1a3c4d5e6f"});
    let call = json!({"name": "get_task_status", "arguments": unknown});
    let request = client.request("tools/call", call);
    let waits = tokio::spawn(async move { request.send().await });
    let before = Instant::now();
    let scrape = loop {
        let scrape = Scrape::of(&server).await;
        if scrape.value(r#"chargehand_jobs_running{actor="registry"}"#) == 1.0 {
            break scrape;
        }
        assert!(
            before.elapsed() < Duration::from_secs(20),
            "{}",
            scrape.text
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(scrape.value(r#"chargehand_tasks{phase="running"}"#), 1.0);
    // No ordered stop: it would wait for the call that hangs.
    waits.abort();
}
