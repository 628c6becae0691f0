//! The way to the server misbehaves: cut, silent, late, repeating, slow, forgetful, refused. The task ends truthfully, once, and
//! nothing is done twice. A real OpenCode behind a [`FaultProxy`], as the engine `remote`.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::PathBuf;
use std::time::Duration;

use chargehand::scripted_model::ScriptedModel;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fault_proxy::FaultProxy;
use crate::harness::{bash, opencode};
use crate::harness_foreign::{Foreign, same_paths};
use crate::harness_product::{Product, Setup, lines, turns, until, wait_for};

/// Chargehand, a proxy, an OpenCode, a model.
struct Far {
    product: Product,
    proxy: FaultProxy,
    foreign: Foreign,
    model: ScriptedModel,
    place: TempDir,
}

impl Far {
    async fn start() -> Option<Self> {
        let program = opencode().await?;
        let place = tempfile::tempdir().unwrap();
        let model = ScriptedModel::start(([127, 0, 0, 1], 0).into(), Vec::new())
            .await
            .unwrap();
        let foreign = Foreign::start(&program, &place.path().join("home"), &model).await;
        let proxy = FaultProxy::start(&foreign.worker.url).await;
        let setup = Setup {
            remote: Some(same_paths(&proxy.url)),
            ..Setup::default()
        };
        let product = Product::start(setup).await?;
        Some(Self {
            product,
            proxy,
            foreign,
            model,
            place,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// One line of an effect, then the gate, then a last text.
    fn script(&self, text: &Value) -> Value {
        let command = format!(
            "echo done >> {}; {}",
            self.path("effects").display(),
            wait_for(&self.path("gate"))
        );
        turns(json!([bash(&command), text]))
    }

    fn open_gate(&self) {
        std::fs::write(self.path("gate"), "").unwrap();
    }

    async fn at_the_gate(&self, effects: usize) {
        until("the command has begun", || async {
            (lines(&self.path("effects")) == effects).then_some(())
        })
        .await;
    }

    fn model_calls(&self) -> usize {
        let requests = self.model.requests();
        requests
            .iter()
            .filter(|one| one.scenario == "inline")
            .count()
    }

    /// Ends Chargehand; the server holds nothing of it any more.
    async fn end(self) {
        self.product.stop().await;
        assert_eq!(self.foreign.sessions().await, Vec::<Value>::new());
    }
}

/// A text that takes about four seconds to be said.
fn slow_text() -> (Value, String) {
    let text = "Said slowly. ".repeat(12);
    (
        json!({"text": text, "chunk": 4, "chunk_delay_ms": 100}),
        text,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_cut_again_and_again() {
    let Some(far) = Far::start().await else {
        return;
    };
    let (turn, text) = slow_text();
    let id = far
        .product
        .client
        .submit(far.script(&turn), json!({}))
        .await;
    far.at_the_gate(1).await;
    far.proxy.cut_streams();
    far.open_gate();
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        far.proxy.cut_streams();
    }
    far.product.ended_saying(&id, "completed", &text).await;
    assert!(far.proxy.streams() >= 3, "{} streams", far.proxy.streams());
    assert_eq!((far.model_calls(), lines(&far.path("effects"))), (2, 1));
    far.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_comes_three_times() {
    let Some(far) = Far::start().await else {
        return;
    };
    far.proxy.faults().repeats = 2;
    far.proxy.cut_streams();
    far.open_gate();
    let (turn, text) = slow_text();
    let id = far
        .product
        .client
        .submit(far.script(&turn), json!({}))
        .await;
    let seen = far.product.ended_saying(&id, "completed", &text).await;
    assert_eq!(seen["steps"], 2, "{seen:#}");
    assert!(far.proxy.repeated() > 30, "{}", far.proxy.repeated());
    let events = far.product.client.history(&id).await;
    let tools: Vec<&Value> = events
        .iter()
        .filter(|event| event["event"] == "tools_finished")
        .collect();
    assert_eq!(tools.len(), 1, "{events:#?}");
    assert_eq!((far.model_calls(), lines(&far.path("effects"))), (2, 1));
    far.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_far_behind() {
    let Some(far) = Far::start().await else {
        return;
    };
    far.proxy.faults().stream_lag = Duration::from_millis(700);
    far.proxy.cut_streams();
    far.open_gate();
    let (turn, text) = slow_text();
    let client = &far.product.client;
    let first = client.submit(far.script(&turn), json!({})).await;
    far.product.ended_saying(&first, "completed", &text).await;
    // Events of the first are still on their way.
    let second = client
        .submit(turns(json!([bash("true"), {"text": "Second."}])), json!({}))
        .await;
    far.product
        .ended_saying(&second, "completed", "Second.")
        .await;
    assert_eq!((far.model_calls(), lines(&far.path("effects"))), (4, 1));
    far.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_for_longer_than_the_stream_may_be_silent() {
    let Some(far) = Far::start().await else {
        return;
    };
    let client = &far.product.client;
    let script = far.script(&json!({"text": "Done behind the silence."}));
    let id = client.submit(script, json!({})).await;
    far.at_the_gate(1).await;
    client.until_phase(&id, "running").await;
    far.proxy.faults().half_open = true;
    far.open_gate();
    let waiting = client
        .submit(turns(json!([{"text": "Later."}])), json!({}))
        .await;
    for _ in 0..45 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Unreachable is not failed.
        assert_eq!(client.status(&id).await["phase"], "running");
        let phase = client.status(&waiting).await["phase"].clone();
        assert!(phase == "queued" || phase == "starting", "{phase}");
    }
    assert_eq!(far.model_calls(), 2, "the run ended meanwhile");
    far.proxy.faults().half_open = false;
    far.product
        .ended_saying(&id, "completed", "Done behind the silence.")
        .await;
    far.product
        .ended_saying(&waiting, "completed", "Later.")
        .await;
    assert_eq!((far.model_calls(), lines(&far.path("effects"))), (3, 1));
    far.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_slow() {
    let Some(far) = Far::start().await else {
        return;
    };
    far.proxy.faults().slow = Duration::from_millis(1_500);
    let client = &far.product.client;
    let id = client
        .submit(far.script(&json!({"text": "Slow but sure."})), json!({}))
        .await;
    far.at_the_gate(1).await;
    let stopped = client
        .submit(
            turns(json!([bash("sleep 611"), {"text": "Never."}])),
            json!({}),
        )
        .await;
    client
        .until(&stopped, "its command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    client.control(&stopped, "cancel").await;
    far.open_gate();
    far.product.ended(&stopped, "cancelled").await;
    far.product
        .ended_saying(&id, "completed", "Slow but sure.")
        .await;
    assert_eq!((far.model_calls(), lines(&far.path("effects"))), (3, 1));
    far.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_lost_though_the_request_was_done() {
    let Some(far) = Far::start().await else {
        return;
    };
    far.proxy.faults().lose = vec!["POST /session?", "/prompt_async"];
    let client = &far.product.client;
    let id = client
        .submit(far.script(&json!({"text": "Once."})), json!({}))
        .await;
    far.at_the_gate(1).await;
    assert_eq!(far.proxy.lost().len(), 2, "{:?}", far.proxy.lost());
    let of_task: Vec<Value> = far
        .foreign
        .sessions()
        .await
        .into_iter()
        .filter(|session| session["metadata"]["chargehand"]["task"] == id)
        .collect();
    assert_eq!(of_task.len(), 1, "{of_task:#?}");
    far.open_gate();
    far.product.ended_saying(&id, "completed", "Once.").await;
    assert_eq!((far.model_calls(), lines(&far.path("effects"))), (2, 1));

    let stopped = client
        .submit(
            turns(json!([bash("sleep 612"), {"text": "Never."}])),
            json!({}),
        )
        .await;
    client
        .until(&stopped, "its command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    far.proxy.faults().lose = vec!["/abort", "DELETE /session/"];
    client.control(&stopped, "cancel").await;
    far.product.ended(&stopped, "cancelled").await;
    assert!(far.proxy.faults().lose.is_empty(), "{:?}", far.proxy.lost());
    assert_eq!(far.model_calls(), 3);
    far.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_server_is_killed_and_started_again() {
    let Some(mut far) = Far::start().await else {
        return;
    };
    let client = far.product.client.clone();
    let said = json!({"text": "Went on after: {{last_tool}}"});
    let id = client.submit(far.script(&said), json!({})).await;
    far.at_the_gate(1).await;
    client.until_phase(&id, "running").await;
    far.foreign.kill();
    // Its shell goes on: nobody but the server's owner can end it.
    far.open_gate();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(client.status(&id).await["phase"], "running");
    far.foreign.start_again().await;
    far.proxy.lead_to(&far.foreign.worker.url);
    let seen = far.product.ended(&id, "completed").await;
    let output = seen["output"].as_str().unwrap();
    assert!(
        output.starts_with("Went on after:") && output.contains("interrupted"),
        "{output}"
    );
    assert!(client.has_event(&id, "resume_wanted").await);
    assert_eq!((far.model_calls(), lines(&far.path("effects"))), (2, 1));
    far.end().await;
}
