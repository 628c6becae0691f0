//! Several tasks at once: never more than allowed, the others in fair order.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::json;

use crate::harness::bash;
use crate::harness_product::{Peak, Product, Setup, turns, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_and_callers_take_turns() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let (greedy, modest) = (
        product.client.of_agent("greedy"),
        product.client.of_agent("modest"),
    );
    // No slot becomes free before all are there.
    let gate = product.directory.path().join("gate");
    let script =
        || turns(json!([bash(&wait_for(&gate)), {"text": "Worked a while.", "delay_ms": 3_000}]));
    // Once the engine is up, slots are given at once.
    let warm = greedy
        .submit(turns(json!([{"text": "Warm."}])), json!({}))
        .await;
    product.ended(&warm, "completed").await;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        first.push(greedy.submit(script(), json!({})).await);
    }
    for _ in 0..3 {
        second.push(modest.submit(script(), json!({})).await);
    }
    let waiting = greedy.status(&first[5]).await;
    assert_eq!(waiting["status"], "queued");
    assert!(waiting["queue_position"].as_u64() > Some(1), "{waiting:#}");

    std::fs::write(&gate, "").unwrap();

    let peak = Peak::default();
    let watch = async {
        loop {
            let states = json!({"state": ["starting", "running", "input_required", "finishing"]});
            let listed = product.everybody().ok("list_tasks", states).await;
            peak.note(
                "status",
                usize::try_from(listed["count"].as_u64().unwrap()).unwrap(),
            );
            let requests = product.model.requests();
            let open = requests
                .iter()
                .filter(|one| format!("{:?}", one.end) == "Open");
            peak.note("model", open.count());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let all = async {
        let mut started: Vec<(u64, char)> = Vec::new();
        for (name, ids) in [('g', &first), ('m', &second)] {
            for id in ids {
                product.ended(id, "completed").await;
                let history = product.everybody().history(id).await;
                let start = history.iter().find(|one| one["event"] == "attempt_started");
                // Its place in the journal: two may start within one millisecond.
                started.push((start.unwrap()["number"].as_u64().unwrap(), name));
            }
        }
        started.sort_unstable();
        started
            .into_iter()
            .map(|(_, name)| name)
            .collect::<String>()
    };
    let order = tokio::select! {
        order = all => order,
        () = watch => unreachable!(),
    };
    // Three slots went to the only caller there was; then they take turns until one has nothing left.
    assert_eq!(order, "gggmgmgmg");
    assert_eq!(peak.of("status"), 3);
    assert!((2..=3).contains(&peak.of("model")), "{}", peak.of("model"));
    assert_eq!(product.model_calls(), 19);
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_task_on_hold_lets_others_pass() {
    let setup = Setup {
        tasks: json!({"max_running": 1}),
        ..Setup::default()
    };
    let Some(product) = Product::start(setup).await else {
        return;
    };
    let planner = &product.client;
    let gate = product.directory.path().join("gate");
    let first = planner
        .submit(
            turns(json!([bash(&wait_for(&gate)), {"text": "First."}])),
            json!({}),
        )
        .await;
    planner.until_phase(&first, "running").await;
    let held = planner
        .submit(turns(json!([{"text": "Held."}])), json!({}))
        .await;
    let other = planner
        .submit(turns(json!([{"text": "Other."}])), json!({}))
        .await;
    let answer = planner.control(&held, "pause").await;
    assert_eq!(
        (&answer["status"], &answer["pause"]),
        (&json!("paused"), &json!("held"))
    );
    std::fs::write(&gate, "").unwrap();
    product.ended_saying(&first, "completed", "First.").await;
    product.ended_saying(&other, "completed", "Other.").await;
    let seen = planner.status(&held).await;
    assert_eq!(
        (&seen["phase"], &seen["attempt"]),
        (&json!("paused"), &json!(0))
    );
    planner.control(&held, "resume").await;
    product.ended_saying(&held, "completed", "Held.").await;
    product.stop().await;
}
