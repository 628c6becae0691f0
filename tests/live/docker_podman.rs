//! The same engine on Podman's socket: what of it is different there must not be seen by a task.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_docker::Docked;
use crate::harness_product::{Setup, lines, turns};

const TICKS: &str = "until [ -e go ]; do echo tick >> ticks; sleep 0.2; done";

fn ticking() -> Value {
    turns(json!([bash(TICKS), {"text": "Done."}]))
}

async fn podman(engine: Value) -> Option<Docked> {
    Docked::with("CHARGEHAND_TEST_PODMAN_HOST", engine, Setup::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_runs_streams_pauses_adopts_and_cancels() {
    let Some(mut docked) = podman(json!({})).await else {
        return;
    };
    let id = docked.product.client.submit(ticking(), json!({})).await;
    let cancelled = docked.product.client.submit(ticking(), json!({})).await;
    for id in [&id, &cancelled] {
        docked.until_lines(id, "ticks", 2).await;
    }
    let ticks = docked.workdir_of(&id).join("ticks");
    let answer = docked.product.client.control(&id, "pause").await;
    assert_eq!(answer["pause"], "frozen", "{answer:#}");
    assert_eq!(docked.state(&id).await, "paused");
    docked.product.client.control(&cancelled, "pause").await;
    let counted = lines(&ticks);

    docked.product.kill();
    docked.product.start_again().await;
    assert_eq!(docked.product.client.status(&id).await["phase"], "paused");
    assert_eq!(lines(&ticks), counted, "it worked during the pause");
    // A frozen container is removed, too.
    let answer = docked.product.client.control(&cancelled, "cancel").await;
    assert_eq!(answer["status"], "cancelled");
    docked.product.ended(&cancelled, "cancelled").await;
    assert_eq!(docked.state(&cancelled).await, "");

    docked.product.client.control(&id, "resume").await;
    docked.until_lines(&id, "ticks", counted + 2).await;
    std::fs::write(ticks.with_file_name("go"), "").unwrap();
    docked.product.ended_saying(&id, "completed", "Done.").await;
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_does_not_tell_of_memory_and_the_task_still_says_so() {
    let Some(docked) = podman(json!({"memory": "600m", "tmpfs": "2g"})).await else {
        return;
    };
    let fill = "echo kept > kept.txt; sleep 1; dd if=/dev/zero of=/tmp/fill bs=1M count=2000";
    let again = json!([bash(fill), bash(fill), bash(fill), bash(fill), {"text": "Never."}]);
    let id = docked.product.client.submit(turns(again), json!({})).await;
    let seen = docked.product.ended(&id, "failed").await;
    let error = seen["error"].as_str().unwrap();
    assert!(
        error.contains("memory") && error.contains("600 MB"),
        "{error}"
    );
    assert_eq!(seen["error_kind"], "worker_lost");
    docked.stop().await;
}
