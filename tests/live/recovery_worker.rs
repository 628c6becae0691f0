//! The worker of the engine `local` hangs, dies again and again, or is another version after a restart. Each task ends truthfully,
//! nothing is done twice, nothing is left.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{bash, opencode};
use crate::harness_gate::Gated;
use crate::harness_product::{Product, Setup, alive, lines, turns, until};
use crate::task_old_opencode::{OLD, installed};

/// A task in the command `sleep`.
async fn asleep(product: &Product, seconds: u32) -> String {
    let script = turns(json!([bash(&format!("sleep {seconds}")), {"text": "Awake."}]));
    let id = product.client.submit(script, json!({})).await;
    product
        .client
        .until(&id, "its command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn it_hangs_for_a_while() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let client = &product.client;
    let goes_on = Gated::begin(&product, "it", "Went on.").await;
    let cancelled = asleep(&product, 621).await;
    let worker = product.worker().await;
    worker.signal("-STOP");
    goes_on.open();
    let waits = client
        .submit(turns(json!([{"text": "After the pause."}])), json!({}))
        .await;
    let asked = Instant::now();
    assert_eq!(
        client.control(&cancelled, "cancel").await["status"],
        "cancelled"
    );
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(client.status(&goes_on.id).await["phase"], "running");
        assert_eq!(client.status(&cancelled).await["phase"], "cancelled");
    }
    worker.signal("-CONT");
    product
        .ended_saying(&goes_on.id, "completed", "Went on.")
        .await;
    product
        .ended_saying(&waits, "completed", "After the pause.")
        .await;
    product.ended(&cancelled, "cancelled").await;
    assert_eq!(product.worker().await.pid, worker.pid, "slow is not dead");
    assert_eq!(product.model_calls(), 4);
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_hangs_for_ever() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let Gated { id, .. } = Gated::begin(&product, "it", "Went on after: {{last_tool}}").await;
    let worker = product.worker().await;
    worker.signal("-STOP");
    // The stream is silent for 30 s, then four starts without an answer are waited for.
    let end = Instant::now() + Duration::from_secs(270);
    while alive(worker.pid) {
        assert!(Instant::now() < end, "the hung worker is still there");
        assert_eq!(product.client.status(&id).await["phase"], "running");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let seen = product.ended(&id, "completed").await;
    let output = seen["output"].as_str().unwrap();
    assert!(
        output.starts_with("Went on after:") && output.contains("interrupted"),
        "{output}"
    );
    assert_ne!(product.worker().await.pid, worker.pid);
    assert_eq!(product.model_calls(), 2);
    product.stop().await;
}

/// A worker that dies at each run, and a Chargehand that is killed after each death: the counter is in the record.
#[tokio::test(flavor = "multi_thread")]
async fn it_dies_at_each_run() {
    let Some(mut product) = Product::start(Setup::default()).await else {
        return;
    };
    let effects = product.directory.path().join("effects");
    let deadly = bash(&format!(
        "echo died >> {}; kill -9 $PPID",
        effects.display()
    ));
    let script = turns(json!([deadly, deadly, deadly, deadly, deadly, {"text": "Never."}]));
    let id = product.client.submit(script, json!({})).await;
    for deaths in 1..=2 {
        until("the worker has died", || async {
            (lines(&effects) == deaths).then_some(())
        })
        .await;
        product.kill();
        product.start_again().await;
    }
    let seen = product.ended(&id, "failed").await;
    assert_eq!(seen["error_kind"], "worker_lost", "{seen:#}");
    // The first run and two resumes.
    assert_eq!(lines(&effects), 3);
    let events = product.client.history(&id).await;
    let resumes = events
        .iter()
        .filter(|event| event["event"] == "resume_wanted");
    assert_eq!(resumes.count(), 2, "{events:#?}");
    // The next task has a worker again.
    let next = product
        .client
        .submit(turns(json!([{"text": "Alive."}])), json!({}))
        .await;
    product.ended_saying(&next, "completed", "Alive.").await;
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_dies_while_a_task_is_paused() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let client = &product.client;
    let id = asleep(&product, 622).await;
    assert_eq!(client.control(&id, "pause").await["phase"], "paused");
    let before = product.worker().await;
    before.signal("-KILL");
    until("another worker is there", || async {
        (product.worker().await.pid != before.pid).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        client.status(&id).await["phase"],
        "paused",
        "it stays paused"
    );
    assert_eq!(product.model_calls(), 1);
    client.control(&id, "resume").await;
    product.ended_saying(&id, "completed", "Awake.").await;
    assert_eq!(product.model_calls(), 2);
    product.stop().await;
}

/// Version of the server that answers now.
async fn version(product: &Product) -> String {
    let health: Value = product.worker().await.get("/global/health").await.unwrap();
    health["version"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_upgraded_between() {
    let (Some(new), Some(old)) = (opencode().await, installed(OLD)) else {
        return;
    };
    let setup = Setup {
        opencode: Some(old),
        ..Setup::default()
    };
    let mut product = Product::start(setup).await.unwrap();
    let gated = Gated::begin(&product, "it", "By the old one.").await;
    let asleep = asleep(&product, 623).await;
    let before = product.worker().await;
    assert_eq!(version(&product).await, OLD);
    product.kill();
    product.use_opencode(&new);
    product.start_again().await;
    // What runs is not interrupted by an upgrade.
    gated.open();
    product
        .ended_saying(&gated.id, "completed", "By the old one.")
        .await;
    assert_eq!(
        product.worker().await.pid,
        before.pid,
        "the old one was taken over"
    );
    assert_eq!(version(&product).await, OLD);
    // When the old one ends, the new one goes on with its data and its sessions.
    before.signal("-KILL");
    product.ended_saying(&asleep, "completed", "Awake.").await;
    assert!(product.client.has_event(&asleep, "resume_wanted").await);
    assert_ne!(version(&product).await, OLD);
    assert_eq!(gated.times(), 1);
    assert_eq!(product.model_calls(), 4);
    product.stop().await;
}
