//! A stop of `chargehand serve`: tasks are left to the next start or ended, waits are answered, a second signal is at once.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::bash;
use crate::harness_product::{Product, Setup, alive, lines, turns, until, wait_for};

/// One task at a time; what else is asked of `serve`.
fn one_at_a_time(arguments: &'static [&'static str]) -> Setup {
    Setup {
        tasks: json!({"max_running": 1}),
        arguments,
        ..Setup::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_is_left_to_the_next_start_and_ends_once() {
    let Some(mut product) = Product::start(one_at_a_time(&[])).await else {
        return;
    };
    let place = product.directory.path().to_owned();
    let (effects, gate) = (place.join("effects"), place.join("gate"));
    let file = effects.display();
    let command = bash(&format!(
        "echo begun >> {file}; {}; echo ended >> {file}",
        wait_for(&gate)
    ));
    let planner = product.client.clone();
    let task = planner
        .submit(turns(json!([command, {"text": "Done."}])), json!({}))
        .await;
    let queued = planner
        .submit(turns(json!([{"text": "Later."}])), json!({}))
        .await;
    until("the command has begun", || async {
        (lines(&effects) == 1).then_some(())
    })
    .await;
    let worker = product.worker().await;

    // Somebody waits for the end, which will not come while this server lives.
    let (waiting, asked) = (
        planner.clone(),
        json!({"task_id": task, "wait_seconds": 45}),
    );
    let events = planner.status(&task).await["next_event"].clone();
    let mut asked = asked;
    asked["since_event"] = events;
    let wait = tokio::spawn(async move { waiting.ok("get_task_status", asked).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    product.signal("-TERM");
    let began = Instant::now();
    let told = wait.await.unwrap();
    assert_eq!(told["status"], "running", "the wait is answered: {told:#}");
    assert_eq!(product.exit_code().await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(30));
    for words in [
        "go on in their workers and are taken over by the next start",
        "\"started\":1,\"queued\":1",
        "stopped; the journal is closed",
    ] {
        assert!(product.has_logged(words), "{words:?} was not said");
    }
    assert!(alive(worker.pid), "its worker goes on");
    product.check_journal();

    product.start_again().await;
    std::fs::write(&gate, "").unwrap();
    product.ended_saying(&task, "completed", "Done.").await;
    product.ended_saying(&queued, "completed", "Later.").await;
    assert_eq!(std::fs::read_to_string(&effects).unwrap(), "begun\nended\n");
    assert_eq!(product.worker().await.pid, worker.pid, "it was taken over");
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_stop_tasks_what_has_started_is_cancelled_and_nothing_is_left() {
    let Some(mut product) = Product::start(one_at_a_time(&["--stop-tasks"])).await else {
        return;
    };
    let planner = product.client.clone();
    let sleeping = turns(json!([bash("sleep 611"), {"text": "Never."}]));
    let task = planner.submit(sleeping, json!({})).await;
    let queued = planner
        .submit(turns(json!([{"text": "Later."}])), json!({}))
        .await;
    planner
        .until(&task, "its command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    let worker = product.worker().await;
    product.signal("-INT");
    assert_eq!(product.exit_code().await, Some(0));
    assert!(product.has_logged("are cancelled and their workers ended"));
    assert!(!alive(worker.pid));
    assert_eq!(product.marked(), Vec::<i32>::new(), "processes are left");
    product.check_journal();

    product.start_again().await;
    let seen = product.ended(&task, "cancelled").await;
    assert!(
        seen["error"].as_str().unwrap().contains("stopp"),
        "it says why: {seen:#}"
    );
    product.ended_saying(&queued, "completed", "Later.").await;
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_the_next_start_is_right() {
    let Some(mut product) = Product::start(one_at_a_time(&["--stop-tasks"])).await else {
        return;
    };
    let planner = product.client.clone();
    let sleeping = turns(json!([bash("sleep 612"), {"text": "Never."}]));
    let task = planner.submit(sleeping, json!({})).await;
    planner
        .until(&task, "its command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    // A worker that answers nothing makes the stop hang.
    let worker = product.worker().await;
    worker.signal("-STOP");
    // Passed on twice by whoever started it: one wish. Two kinds, because the kernel itself makes one of two equal signals.
    for passed_on in [Signal::TERM, Signal::INT] {
        product.signal_at_once(passed_on);
    }
    until("the stop begins", || async {
        product.has_logged("stopping: no new tasks").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        !product.has_logged("ended at once"),
        "two signals were one wish"
    );
    let began = Instant::now();
    product.signal("-TERM");
    assert_eq!(product.exit_code().await, Some(130));
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        began.elapsed()
    );
    product.check_journal();

    worker.signal("-CONT");
    product.start_again().await;
    let seen = product.ended(&task, "cancelled").await;
    assert_eq!(seen["status"], "cancelled");
    let next = product
        .client
        .submit(turns(json!([{"text": "Next."}])), json!({}))
        .await;
    product.ended_saying(&next, "completed", "Next.").await;
    product.stop().await;
}
