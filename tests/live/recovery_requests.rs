//! Somebody dies while a worker waits for an answer: the request is the same afterwards, expires when it was said, or is gone with
//! its run. What was asked for is done once or not at all.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_product::{Product, Setup, lines, turns, until};

fn asks(expiry_s: u64) -> Setup {
    Setup {
        tasks: json!({"request_expiry_s": expiry_s}),
        opencode_config: json!({"permission": {"bash": "ask"}}),
        ..Setup::default()
    }
}

/// An attended task whose worker asks whether it may do the effect; gives the task and its request.
async fn asking(product: &Product) -> (String, Value) {
    let effects = product.directory.path().join("effects");
    let command = bash(&format!("echo done >> {}", effects.display()));
    let script = turns(json!([command, {"text": "Said after: {{last_tool}}"}]));
    let id = product
        .client
        .submit(script, json!({"attended": true}))
        .await;
    let seen = product.client.until_phase(&id, "input_required").await;
    (id, seen["requests"][0].clone())
}

fn effects(product: &Product) -> usize {
    lines(&product.directory.path().join("effects"))
}

#[tokio::test(flavor = "multi_thread")]
async fn chargehand_dies_and_the_request_is_answered_afterwards() {
    let Some(mut product) = Product::start(asks(600)).await else {
        return;
    };
    let (id, request) = asking(&product).await;
    for _ in 0..2 {
        product.kill();
        product.start_again().await;
        let seen = product.client.status(&id).await;
        assert_eq!(seen["phase"], "input_required");
        assert_eq!(seen["requests"], json!([request]), "its deadline too");
    }
    let answer = json!({"task_id": id, "request_id": request["request_id"], "answer": "allow"});
    // Until the engine is back an answer waits; it is durable when the call is answered.
    product.client.ok("answer_task_request", answer).await;
    product.kill();
    product.start_again().await;
    let seen = product.ended(&id, "completed").await;
    assert!(seen["output"].as_str().unwrap().starts_with("Said after:"));
    assert_eq!((effects(&product), product.model_calls()), (1, 2));
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_expires_while_chargehand_is_dead() {
    let Some(mut product) = Product::start(asks(20)).await else {
        return;
    };
    let (id, request) = asking(&product).await;
    product.kill();
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        i64::try_from(since.unwrap().as_millis()).unwrap()
    };
    let expires = request["expires_at"].as_i64().unwrap();
    until("the request expires", || async {
        (now() > expires).then_some(())
    })
    .await;
    product.start_again().await;
    // The default is a denial that tells the worker to do without.
    product.ended(&id, "completed").await;
    let closed = product.client.until_event(&id, "request_closed").await;
    assert!(
        closed["message"].as_str().unwrap().contains("default"),
        "{closed}"
    );
    assert_eq!((effects(&product), product.model_calls()), (0, 2));
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_dies_and_takes_its_request_with_it() {
    let Some(product) = Product::start(asks(600)).await else {
        return;
    };
    let (id, request) = asking(&product).await;
    let before = product.worker().await;
    before.signal("-KILL");
    let seen = product.ended(&id, "completed").await;
    let output = seen["output"].as_str().unwrap();
    assert!(output.contains("interrupted"), "{output}");
    assert_eq!(seen["requests"], json!([]), "{seen:#}");
    let late = json!({"task_id": id, "request_id": request["request_id"], "answer": "allow"});
    let refused = product.client.refused("answer_task_request", late).await;
    assert_eq!(refused["code"], "REQUEST_NOT_OPEN");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((effects(&product), product.model_calls()), (0, 2));
    product.stop().await;
}
