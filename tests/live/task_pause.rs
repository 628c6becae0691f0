//! Pause and resume, and the limit of the running time.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_product::{Product, Setup, alive, lines, turns, until, wait_for, working_in};

/// Nothing counts and nothing happens while it is paused; other tasks of the product may speak to the model meanwhile.
async fn stands_still(product: &Product, task: &str) {
    let before = product.client.status(task).await;
    let directory = before["directory"].as_str().unwrap();
    let calls = calls_in(product, directory);
    assert_ne!(calls, 0, "no call of the task is known by its directory");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let after = product.client.status(task).await;
    assert_eq!(
        (&after["status"], &after["pause"]),
        (&json!("paused"), &json!("aborted"))
    );
    assert_eq!(before["running_ms"], after["running_ms"]);
    assert_eq!(before["next_event"], after["next_event"]);
    assert_eq!(
        calls_in(product, directory),
        calls,
        "the model was asked during the pause"
    );
}

/// How many requests to the model came from this workdir.
fn calls_in(product: &Product, directory: &str) -> usize {
    let requests = product.model.requests();
    requests.iter().filter(|one| one.cwd == directory).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_command_and_in_a_stream() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    tokio::join!(pause_in_a_command(&product), pause_in_a_stream(&product));
    product.stop().await;
}

async fn pause_in_a_command(product: &Product) {
    let planner = &product.client;
    let effects = product.directory.path().join("effects");
    let gate = product.directory.path().join("gate");
    let line = |word: &str| format!("echo {word} >> {}", effects.display());
    let first = format!("{}; {}; {}", line("begun"), wait_for(&gate), line("late"));
    let script =
        turns(json!([bash(&first), bash(&line("again")), {"text": "Done after the pause."}]));
    let id = planner.submit(script, json!({})).await;
    until("the command has begun", || async {
        (lines(&effects) == 1).then_some(())
    })
    .await;
    let seen = planner.until_phase(&id, "running").await;
    let shells = working_in(seen["directory"].as_str().unwrap());
    let answer = planner.control(&id, "pause").await;
    assert_eq!(
        (&answer["phase"], &answer["pause"]),
        (&json!("paused"), &json!("aborted"))
    );
    assert!(
        !shells.is_empty() && shells.iter().all(|pid| !alive(*pid)),
        "the shell still runs"
    );
    assert_eq!(planner.control(&id, "pause").await["already"], true);
    stands_still(product, &id).await;
    std::fs::write(&gate, "").unwrap();
    let answer = planner.control(&id, "resume").await;
    assert_eq!(answer["status"], "running");
    let refusal = json!({"task_id": id, "control": "resume"});
    assert_eq!(
        planner.refused("send_task_control", refusal).await["code"],
        "WRONG_PHASE"
    );
    let seen = product.ended(&id, "completed").await;
    assert_eq!(seen["output"], "Done after the pause.");
    assert_eq!(std::fs::read_to_string(&effects).unwrap(), "begun\nagain\n");
}

async fn pause_in_a_stream(product: &Product) {
    let planner = &product.client;
    let slow = json!({"text": "slow ".repeat(300), "chunk": 5, "chunk_delay_ms": 100});
    let id = planner
        .submit(turns(json!([slow, {"text": "Said in full."}])), json!({}))
        .await;
    let directory = planner
        .until(&id, "the workdir is there", |seen| {
            seen["directory"].is_string()
        })
        .await["directory"]
        .clone();
    until("the model speaks", || async {
        let requests = product.model.requests();
        requests
            .iter()
            .any(|one| one.scenario == "inline" && json!(one.cwd) == directory)
            .then_some(())
    })
    .await;
    planner.until_phase(&id, "running").await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(planner.control(&id, "pause").await["phase"], "paused");
    until("the stream to the model is closed", || async {
        let requests = product.model.requests();
        let ends = requests
            .iter()
            .filter(|one| one.scenario == "inline" && json!(one.cwd) == directory)
            .map(|one| format!("{:?}", one.end));
        let ends: Vec<String> = ends.collect();
        assert!(!ends.contains(&"Done".to_owned()), "all was said: {ends:?}");
        (ends == ["Aborted"]).then_some(())
    })
    .await;
    stands_still(product, &id).await;
    planner.control(&id, "resume").await;
    let seen = product.ended(&id, "completed").await;
    assert_eq!(seen["output"], "Said in full.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_too_long_is_ended_with_all_that_it_started() {
    let setup = Setup {
        tasks: json!({"max_running": 1}),
        ..Setup::default()
    };
    let Some(product) = Product::start(setup).await else {
        return;
    };
    let planner = &product.client;
    let pids = product.directory.path().join("pids");
    let note = format!("echo $! >> {}", pids.display());
    // One child left behind by an earlier command, one of the command that runs.
    let left = format!("nohup sleep 601 >/dev/null 2>&1 & {note}");
    let long = format!("sleep 602 & {note}; sleep 603");
    let script = turns(json!([bash(&left), bash(&long), {"text": "Never."}]));
    let began = Instant::now();
    let id = planner.submit(script, json!({"timeout_ms": 40_000})).await;
    let next = planner
        .submit(turns(json!([{"text": "Next."}])), json!({}))
        .await;
    until("both children run", || async {
        (lines(&pids) == 2).then_some(())
    })
    .await;
    let seen: Value = product.ended(&id, "timeout").await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(85), "{took:?}");
    assert_eq!(seen.get("exit_code"), None);
    let ran = seen["running_ms"].as_u64().unwrap();
    assert!((40_000..45_000).contains(&ran), "{ran}");
    assert!(u128::from(ran) <= took.as_millis(), "{ran} ms in {took:?}");
    assert!(seen["error"].as_str().unwrap().contains("40 s"), "{seen:#}");
    let children = std::fs::read_to_string(&pids).unwrap();
    assert!(
        children.lines().all(|pid| !alive(pid.parse().unwrap())),
        "a child is left"
    );
    product.ended_saying(&next, "completed", "Next.").await;
    assert_eq!(planner.status(&id).await["status"], "timeout");
    product.stop().await;
}
