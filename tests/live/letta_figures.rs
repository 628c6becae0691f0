//! What a task costs a real classic Letta: requests counted on the way, and how long news take. The goals are asserted as counts;
//! times are printed, for docs/performance.md.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::bash;
use crate::harness_client::Client;
use crate::harness_product::{Product, Setup, id_of, task, turns};
use crate::letta_classic::{Classic, Release};
use crate::letta_loop::{letta, until};

/// A request that Chargehand made.
#[derive(Clone, Debug)]
struct Asked {
    at: u64,
    line: String,
    body: String,
}

/// Between Chargehand and Letta: passes on and writes down.
#[derive(Clone)]
struct Counter {
    to: String,
    http: reqwest::Client,
    asked: Arc<Mutex<Vec<Asked>>>,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

async fn pass(
    State(counter): State<Counter>,
    method: Method,
    uri: axum::http::Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    counter.asked.lock().unwrap().push(Asked {
        at: now(),
        line: format!("{method} {}", uri.path()),
        body: String::from_utf8_lossy(&body).into_owned(),
    });
    let url = Url::parse(&format!("{}{uri}", counter.to)).unwrap();
    let mut request = counter.http.request(method, url).body(body);
    if let Some(kind) = headers.get(CONTENT_TYPE) {
        request = request.header(CONTENT_TYPE, kind);
    }
    let Ok(answer) = request.send().await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let status = answer.status();
    let body = answer.bytes().await.unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

impl Counter {
    async fn start(to: &str) -> (Self, String) {
        let counter = Self {
            to: to.to_owned(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            asked: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(pass).with_state(counter.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (counter, url)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until nothing has been asked for a while; gives how much was asked up to then.
    async fn quiet(&self) -> usize {
        let mut known = self.asked().len();
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = self.asked().len();
            if now == known {
                return known;
            }
            known = now;
        }
    }
}

/// When an event of the task happened, in milliseconds of the epoch.
async fn at(client: &Client, id: &str, event: &str) -> u64 {
    let history = client.history(id).await;
    let found = history.iter().find(|one| one["event"] == event);
    found.unwrap_or_else(|| panic!("{event}: {history:#?}"))["timestamp"]
        .as_u64()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn letta_a_task_costs_few_requests() {
    let Some(classic) = Classic::start(Release::Last).await else {
        return;
    };
    let (counter, url) = Counter::start(&classic.url).await;
    let setup = Setup {
        more: letta(
            &url,
            json!({"interval_s": 5, "grace_s": 1, "notify": "end"}),
        ),
        ..Setup::default()
    };
    let Some(product) = Product::start(setup).await else {
        return;
    };
    let agent = classic.agent("figures", &[]).await;
    let client = product.client.of_agent(&agent);
    let steps = |n: u32| {
        let mut all: Vec<Value> = (0..n).map(|_| bash("echo one; sleep 1.3")).collect();
        all.push(json!({"text": "Done."}));
        turns(json!(all))
    };
    // The look at the server and for memories of earlier lives, at the start, belongs to no task.
    until(
        "the memory is there",
        || client.ok("health", json!({})),
        |health| {
            let mut parts = health["parts"].as_array().unwrap().iter();
            parts.any(|part| part["name"] == "memory" && part["state"] == "ok")
        },
    )
    .await;
    for (name, script) in [("short", steps(1)), ("long", steps(20))] {
        let before = counter.quiet().await;
        let delegated = client
            .ok("opencode_execute_task", task(script, json!({})))
            .await;
        let id = id_of(&delegated);
        let ended = until(
            "the task has ended",
            || client.status(&id),
            |seen| seen["status"] == "completed",
        )
        .await;
        until(
            "the memory is closed and the agent is told",
            async || counter.asked().split_off(before),
            |asked| {
                let did = |line: &str| asked.iter().any(|one| one.line.starts_with(line));
                did("DELETE /v1/blocks/")
                    && asked
                        .iter()
                        .any(|one| one.line.ends_with("/messages/async"))
            },
        )
        .await;
        counter.quiet().await;
        let asked = counter.asked().split_off(before);
        let is_notice = |one: &&Asked| one.line.ends_with("/messages/async");
        let memory = |word: &str| {
            let wrote = asked
                .iter()
                .find(|one| one.body.contains(&format!("status: {word}")));
            wrote.unwrap_or_else(|| panic!("{word}: {asked:#?}")).at
        };
        let took = ended["duration_ms"].as_u64().unwrap() / 1_000;
        let (running, completed) = (
            at(&client, &id, "prompt_accepted").await,
            at(&client, &id, "task_completed").await,
        );
        let notice = asked.iter().find(is_notice).unwrap().at;
        println!(
            "{name}: {took} s, {} requests; running in memory after {} ms, the end after {} ms, the notice after {} ms",
            asked.len(),
            memory("running").saturating_sub(running),
            memory("completed").saturating_sub(completed),
            notice.saturating_sub(completed)
        );
        for one in &asked {
            println!("  {}", one.line);
        }
        // Besides: the notice and the removal, with the recompile that takes it out of the prompt.
        let removal = asked
            .iter()
            .position(|one| one.line.starts_with("DELETE"))
            .unwrap();
        let kept = asked[..removal]
            .iter()
            .filter(|one| !is_notice(one))
            .count();
        let most = 6 + usize::try_from(took / 5).unwrap();
        assert!(
            kept <= most,
            "{name}: {kept} requests, at most {most}: {asked:#?}"
        );
        assert_eq!(asked.iter().filter(is_notice).count(), 1, "{asked:#?}");
    }
    product.stop().await;
}
