//! Defects of the system that this one replaces, with the real OpenCode: none of them may come back. The list with the
//! places of all the other tests stands in `docs/design/defects-of-the-original.md`.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_product::{Product, Setup, gone_from, lines, turns, until, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn d3_a_cancel_is_not_overwritten_by_a_later_success() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let place = product.directory.path();
    let (gate, effects) = (place.join("gate"), place.join("effects"));
    let command = format!(
        "echo begun >> {e}; {wait}; echo late >> {e}",
        e = effects.display(),
        wait = wait_for(&gate)
    );
    let script = turns(json!([bash(&command), {"text": "Well done."}]));
    let task = product.client.submit(script, json!({})).await;
    until("the command has begun", || async {
        (lines(&effects) == 1).then_some(())
    })
    .await;
    let told = product.client.control(&task, "cancel").await;
    assert_eq!(told["phase"], "cancelled", "{told:#}");
    // What would have let the run succeed comes now.
    std::fs::write(&gate, "").unwrap();
    product.ended(&task, "cancelled").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(product.client.status(&task).await["status"], "cancelled");
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d4_timeout_ms_ends_a_run_that_hangs() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let script = turns(json!([bash("sleep 3000"), {"text": "Never."}]));
    let more = json!({"timeout_ms": 4_000});
    let task = product.client.submit(script, more).await;
    let seen = product.ended(&task, "timeout").await;
    // The task waits for its command for ever; that it ended at all is the limit's doing. It is not counted before the run.
    assert!(seen["duration_ms"].as_u64().unwrap() >= 4_000, "{seen:#}");
    gone_from(seen["directory"].as_str().unwrap()).await;
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d5_no_end_is_lost_when_the_model_answers_at_once() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let mut tasks = Vec::new();
    for number in 0..8 {
        let script = turns(json!([{"text": format!("Done {number}.")}]));
        tasks.push(product.client.submit(script, json!({})).await);
    }
    for (number, task) in tasks.iter().enumerate() {
        let said = format!("Done {number}.");
        product.ended_saying(task, "completed", &said).await;
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_planner_and_worker_say_is_not_written_to_the_log() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let script = turns(json!([bash("echo marker-command"), {"text": "marker-answer"}]));
    let more = json!({"labels": ["marker-label"]});
    let task = product.client.submit(script, more).await;
    product
        .ended_saying(&task, "completed", "marker-answer")
        .await;
    let log = std::fs::read_to_string(product.directory.path().join("serve.log")).unwrap();
    assert!(
        log.contains("engine is ready"),
        "this is not the log:\n{log}"
    );
    // Neither arguments nor events of the stream: the record has them, for those who may read it.
    for word in ["marker", "<script>", "message.part", "session.idle"] {
        assert!(!log.contains(word), "{word} is in the log:\n{log}");
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d8_history_is_there_after_the_end_and_after_a_restart() {
    let Some(mut product) = Product::start(Setup::default()).await else {
        return;
    };
    let script = turns(json!([bash("echo hello"), {"text": "Done."}]));
    let task = product.client.submit(script, json!({})).await;
    product.ended_saying(&task, "completed", "Done.").await;
    let before: Vec<Value> = product.client.history(&task).await;
    assert!(before.len() > 8, "{before:#?}");
    product.kill();
    product.start_again().await;
    assert_eq!(product.client.history(&task).await, before);
    let seen = product.client.status(&task).await;
    assert_eq!(
        (&seen["status"], &seen["output"]),
        (&json!("completed"), &json!("Done."))
    );
    let output = product.client.artifact(&task, "execution_output").await;
    assert_eq!(output.as_deref(), Some("Done."));
    product.stop().await;
}
