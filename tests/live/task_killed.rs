//! `kill -9` of Chargehand, of OpenCode, and of both: every task is taken over and ends once.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::bash;
use crate::harness_product::{
    Product, Setup, alive, id_of, lines, task, turns, until, wait_for, working_in,
};

/// A command with an effect before and one after the gate.
fn two_effects(effects: &Path, gate: &Path) -> Value {
    let file = effects.display();
    bash(&format!(
        "echo begun >> {file}; {}; echo ended >> {file}",
        wait_for(gate)
    ))
}

/// How many records of a task's session OpenCode has.
async fn sessions_of(product: &Product, task: &str) -> usize {
    let all = product
        .worker()
        .await
        .get("/experimental/session?limit=1000")
        .await;
    let all = all
        .iter()
        .flat_map(|all| all.as_array().into_iter().flatten());
    all.filter(|session| session["metadata"]["chargehand"]["task"] == task)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn chargehand_with_a_task_in_each_phase() {
    let setup = Setup {
        tasks: json!({"max_running": 4}),
        ..Setup::default()
    };
    let Some(mut product) = Product::start(setup).await else {
        return;
    };
    let place = product.directory.path().to_owned();
    let (effects, gate) = (place.join("effects"), place.join("gate"));
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/x.git", mute.local_addr().unwrap());
    let slow = "Said slowly. ".repeat(40);
    let planner = product.client.clone();

    let script = turns(json!([two_effects(&effects, &gate), {"text": "marker-command done."}]));
    let command_arguments = task(script, json!({"idempotency_key": "once"}));
    let command = id_of(
        &planner
            .ok("opencode_execute_task", command_arguments.clone())
            .await,
    );
    let paused = planner
        .submit(
            turns(json!([bash("sleep 604"), {"text": "marker-paused done."}])),
            json!({}),
        )
        .await;
    until("the command has begun", || async {
        (lines(&effects) == 1).then_some(())
    })
    .await;
    planner
        .until(&paused, "its command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    planner.control(&paused, "pause").await;
    let starting = planner
        .submit(
            turns(json!([{"text": "Never."}])),
            json!({"repository": {"url": url}}),
        )
        .await;
    let (_connection, _) = mute.accept().await.unwrap();
    let stream =
        json!([{"text": slow, "chunk": 4, "chunk_delay_ms": 100, "reasoning": "marker-stream"}]);
    let streaming = planner.submit(turns(stream), json!({})).await;
    let queued = planner
        .submit(turns(json!([{"text": "marker-queued done."}])), json!({}))
        .await;
    planner.until_phase(&streaming, "running").await;
    until("the model speaks", || async {
        (product.model_calls_with("marker-stream") == 1).then_some(())
    })
    .await;
    let phases = [
        (&command, "running"),
        (&paused, "paused"),
        (&starting, "starting"),
        (&streaming, "running"),
        (&queued, "queued"),
    ];
    for (id, phase) in phases {
        assert_eq!(planner.status(id).await["phase"], phase);
    }
    let before = product.worker().await;
    let known = planner.history(&command).await;

    product.kill();
    tokio::time::sleep(Duration::from_millis(700)).await;
    product.start_again().await;
    let planner = product.client.clone();
    for (id, phase) in phases {
        assert_eq!(planner.status(id).await["phase"], phase, "after the start");
    }
    assert_eq!(
        planner.history(&command).await[..known.len()],
        known[..],
        "the events are the same"
    );
    let again = planner.ok("opencode_execute_task", command_arguments).await;
    assert_eq!(
        (&again["task_id"], &again["existing"]),
        (&json!(command), &json!(true))
    );

    std::fs::write(&gate, "").unwrap();
    product
        .ended_saying(&command, "completed", "marker-command done.")
        .await;
    assert_eq!(std::fs::read_to_string(&effects).unwrap(), "begun\nended\n");
    product.ended_saying(&streaming, "completed", &slow).await;
    product
        .ended_saying(&queued, "completed", "marker-queued done.")
        .await;
    assert_eq!(planner.status(&paused).await["phase"], "paused");
    planner.control(&paused, "resume").await;
    product
        .ended_saying(&paused, "completed", "marker-paused done.")
        .await;
    assert_eq!(
        planner.control(&starting, "cancel").await["status"],
        "cancelled"
    );
    product.ended(&starting, "cancelled").await;

    assert_eq!(
        product.worker().await.pid,
        before.pid,
        "the worker was taken over"
    );
    for (marker, calls) in [
        ("marker-command", 2),
        ("marker-stream", 1),
        ("marker-queued", 1),
        ("marker-paused", 2),
    ] {
        assert_eq!(product.model_calls_with(marker), calls, "{marker}");
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chargehand_while_a_session_is_being_opened() {
    let Some(mut product) = Product::start(Setup::default()).await else {
        return;
    };
    let planner = product.client.clone();
    let warm = planner
        .submit(turns(json!([{"text": "Warm."}])), json!({}))
        .await;
    product.ended(&warm, "completed").await;
    let worker = product.worker().await;
    worker.signal("-STOP");
    let id = planner
        .submit(turns(json!([{"text": "marker-started once."}])), json!({}))
        .await;
    until("the request for a session is on its way", || async {
        planner.has_event(&id, "session_wanted").await.then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    product.kill();
    worker.signal("-CONT");
    tokio::time::sleep(Duration::from_secs(1)).await;
    product.start_again().await;
    product
        .ended_saying(&id, "completed", "marker-started once.")
        .await;
    assert_eq!(product.model_calls_with("marker-started"), 1);
    assert_eq!(sessions_of(&product, &id).await, 0);
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_chargehand_was_dead_is_told_and_not_done_again() {
    let Some(mut product) = Product::start(Setup::default()).await else {
        return;
    };
    let place = product.directory.path().to_owned();
    let (effects, gate) = (place.join("effects"), place.join("gate"));
    let script = turns(json!([two_effects(&effects, &gate), {"text": "marker-alone done."}]));
    let id = product.client.submit(script, json!({})).await;
    until("the command has begun", || async {
        (lines(&effects) == 1).then_some(())
    })
    .await;
    product.client.until_phase(&id, "running").await;
    product.kill();
    std::fs::write(&gate, "").unwrap();
    until("the model has answered to the end", || async {
        let requests = product.model.requests();
        let done = requests
            .iter()
            .filter(|one| one.scenario == "inline" && format!("{:?}", one.end) == "Done");
        (done.count() == 2).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    product.start_again().await;
    let seen = product
        .ended_saying(&id, "completed", "marker-alone done.")
        .await;
    assert_eq!((&seen["attempt"], &seen["steps"]), (&json!(1), &json!(2)));
    assert_eq!(lines(&effects), 2);
    assert_eq!(product.model_calls_with("marker-alone"), 2);

    // And once more: a start finds nothing left to do.
    product.kill();
    product.start_again().await;
    assert_eq!(product.client.status(&id).await["status"], "completed");
    let next = product
        .client
        .submit(turns(json!([{"text": "Next."}])), json!({}))
        .await;
    product.ended_saying(&next, "completed", "Next.").await;
    assert_eq!(product.model_calls_with("marker-alone"), 2);
    product.stop().await;
}

/// A task in a command and one in a stream that lasts more than 20 s, both under way.
async fn two_under_way(
    product: &Product,
    effects: &Path,
    gate: &Path,
) -> (String, String, Vec<i32>) {
    let planner = &product.client;
    let script =
        turns(json!([two_effects(effects, gate), {"text": "Went on after: {{last_tool}}"}]));
    let command = planner.submit(script, json!({})).await;
    let stream = json!([{"text": "Slow but sure. ".repeat(10), "chunk": 5, "chunk_delay_ms": 700, "reasoning": "marker-slow"}]);
    let streaming = planner.submit(turns(stream), json!({})).await;
    until("both are under way", || async {
        (lines(effects) == 1 && product.model_calls_with("marker-slow") == 1).then_some(())
    })
    .await;
    planner.until_phase(&streaming, "running").await;
    let seen = planner.until_phase(&command, "running").await;
    let shells = working_in(seen["directory"].as_str().unwrap());
    assert!(!shells.is_empty());
    let requests = product.model.requests();
    let spoken = requests
        .iter()
        .filter(|one| one.scenario == "inline" && one.body.to_string().contains("marker-slow"));
    let ends: Vec<String> = spoken.map(|one| format!("{:?}", one.end)).collect();
    assert_eq!(ends, ["Open"], "the stream is not under way");
    (command, streaming, shells)
}

/// Both were resumed and ended; the command was ended with its worker and says so.
async fn both_resumed(product: &Product, command: &str, streaming: &str, effects: &Path) {
    let seen = product.ended(command, "completed").await;
    let output = seen["output"].as_str().unwrap();
    assert!(
        output.starts_with("Went on after:") && output.contains("interrupted"),
        "{output}"
    );
    product
        .ended_saying(streaming, "completed", &"Slow but sure. ".repeat(10))
        .await;
    for id in [command, streaming] {
        for event in ["worker_changed", "resume_wanted"] {
            assert!(product.client.has_event(id, event).await, "{event}");
        }
    }
    let told = product.client.until_event(command, "resume_wanted").await;
    assert!(
        told["message"].as_str().unwrap().contains("worker"),
        "{told}"
    );
    assert_eq!(std::fs::read_to_string(effects).unwrap(), "begun\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn opencode_during_a_command_and_a_stream() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let place = product.directory.path().to_owned();
    let (effects, gate) = (place.join("effects"), place.join("gate"));
    let (command, streaming, shells) = two_under_way(&product, &effects, &gate).await;
    let before = product.worker().await;
    before.signal("-KILL");
    until("the engine is back", || async {
        product
            .client
            .has_event(&command, "worker_changed")
            .await
            .then_some(())
    })
    .await;
    // What the dead worker had started was ended before the run went on.
    assert!(
        shells.iter().all(|pid| !alive(*pid)),
        "a shell of the dead worker still runs"
    );
    std::fs::write(&gate, "").unwrap();
    both_resumed(&product, &command, &streaming, &effects).await;
    assert_ne!(product.worker().await.pid, before.pid);
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_during_a_command_and_a_stream() {
    let Some(mut product) = Product::start(Setup::default()).await else {
        return;
    };
    let place = product.directory.path().to_owned();
    let (effects, gate) = (place.join("effects"), place.join("gate"));
    let (command, streaming, shells) = two_under_way(&product, &effects, &gate).await;
    let worker = product.worker().await;
    product.kill();
    worker.signal("-KILL");
    product.start_again().await;
    until("the engine is back", || async {
        product
            .client
            .has_event(&command, "worker_changed")
            .await
            .then_some(())
    })
    .await;
    assert!(
        shells.iter().all(|pid| !alive(*pid)),
        "a shell of the dead worker still runs"
    );
    std::fs::write(&gate, "").unwrap();
    both_resumed(&product, &command, &streaming, &effects).await;
    product.stop().await;
}
