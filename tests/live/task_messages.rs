//! Messages of the planner to a running worker, and what the worker asks back.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_product::{Product, Setup, turns, wait_for};

/// A script whose outcome depends on a message that says "blue".
fn red_or_blue(first: &Value) -> Value {
    json!({
        "turns": [first, {"text": "Red."}],
        "on_message": [{"contains": "blue", "turns": [bash("echo blue > color.txt"), {"text": "Blue it is."}]}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_during_the_run_changes_the_outcome() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let planner = &product.client;
    let gate = product.directory.path().join("gate");
    let script = red_or_blue(&bash(&wait_for(&gate)));
    let told = planner.submit(script.clone(), json!({})).await;
    let untold = planner.submit(script, json!({})).await;
    for id in [&told, &untold] {
        planner
            .until(id, "the command runs", |seen| {
                seen["doing"].as_str().unwrap().contains("bash")
            })
            .await;
    }
    let sent = planner.message(&told, "Make it blue.").await;
    assert_eq!(sent["delivery"], "sent");
    let message = sent["message_id"].as_str().unwrap();
    let seen = planner.status(&told).await;
    assert_eq!(
        (&seen["phase"], &seen["messages_waiting"]),
        (&json!("running"), &json!(1))
    );
    assert!(
        !planner.has_event(&told, "message_taken_up").await,
        "the command still runs"
    );
    std::fs::write(&gate, "").unwrap();

    let seen = product.ended(&told, "completed").await;
    assert_eq!(
        (&seen["output"], &seen["messages_waiting"]),
        (&json!("Blue it is."), &json!(0))
    );
    assert_eq!(planner.file(&told, "color.txt").await["content"], "blue\n");
    let events = planner.history(&told).await;
    let place = |word: &str| {
        let found = events.iter().position(|event| {
            event["event"] == word && event["message"].as_str().unwrap().contains(message)
        });
        found.unwrap_or_else(|| panic!("no {word} of {message}: {events:#?}"))
    };
    assert!(place("message_received") < place("message_taken_up"));
    let seen = product.ended(&untold, "completed").await;
    assert_eq!(seen["output"], "Red.");

    let late = json!({"task_id": told, "message": "Make it green."});
    let refusal = planner.refused("send_task_message", late).await;
    assert_eq!(
        (&refusal["code"], &refusal["phase"]),
        (&json!("WRONG_PHASE"), &json!("completed"))
    );
    assert_eq!(planner.status(&told).await["output"], "Blue it is.");
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_kept_while_queued_and_while_paused() {
    let setup = Setup {
        tasks: json!({"max_running": 1}),
        ..Setup::default()
    };
    let Some(product) = Product::start(setup).await else {
        return;
    };
    let planner = &product.client;
    let gate = product.directory.path().join("gate");
    let paused = planner
        .submit(red_or_blue(&bash(&wait_for(&gate))), json!({}))
        .await;
    let queued = planner
        .submit(
            red_or_blue(&json!({"text": "Red at once.", "delay_ms": 2_000})),
            json!({}),
        )
        .await;
    planner
        .until(&paused, "the command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    assert_eq!(planner.status(&queued).await["queue_position"], 1);
    assert_eq!(
        planner.message(&queued, "Make it blue.").await["delivery"],
        "kept"
    );
    planner.control(&paused, "pause").await;
    assert_eq!(
        planner.message(&paused, "Make it blue.").await["delivery"],
        "kept"
    );
    let seen = planner.status(&paused).await;
    assert_eq!(
        (&seen["phase"], &seen["messages_waiting"]),
        (&json!("paused"), &json!(1))
    );
    planner.control(&paused, "resume").await;
    for id in [&paused, &queued] {
        let seen = product.ended_saying(id, "completed", "Blue it is.").await;
        assert_eq!(seen["messages_waiting"], 0);
        assert!(planner.has_event(id, "message_taken_up").await);
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_that_nobody_can_give_is_denied_and_the_run_goes_on() {
    let setup = Setup {
        opencode_config: json!({"permission": {"bash": {"*": "allow", "touch *": "ask"}}}),
        ..Setup::default()
    };
    let Some(product) = Product::start(setup).await else {
        return;
    };
    let planner = &product.client;
    let script = turns(
        json!([bash("touch forbidden.txt"), bash("echo yes > allowed.txt"), {"text": "Went on."}]),
    );
    let id = planner.submit(script, json!({})).await;
    let seen = product.ended(&id, "completed").await;
    assert_eq!(
        (&seen["output"], &seen["requests"]),
        (&json!("Went on."), &json!([]))
    );
    let listed = planner.ok("get_task_files", json!({"task_id": id})).await;
    assert_eq!(listed["files"], json!(["allowed.txt"]));
    for event in ["request_opened", "answer_wanted", "request_closed"] {
        assert!(planner.has_event(&id, event).await, "{event}");
    }
    product.stop().await;
}
