//! A cancel takes effect in every phase, at once and for good: the worker stops, nothing of it is left, the slot is free.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::bash;
use crate::harness_git::HeldGit;
use crate::harness_product::{Product, Setup, alive, lines, turns, until, wait_for, working_in};

/// One task at a time, so that a slot that is not given back stops everything.
fn one_at_a_time() -> Setup {
    Setup {
        tasks: json!({"max_running": 1}),
        ..Setup::default()
    }
}

impl Product {
    /// Cancels, and checks that the answer comes at once and that it holds.
    async fn cancels(&self, task: &str) -> Value {
        self.cancels_at_once(task).await;
        self.stays_cancelled(task).await
    }

    /// The answer does not wait for anything that the task does.
    async fn cancels_at_once(&self, task: &str) {
        let began = Instant::now();
        let answer = self.client.control(task, "cancel").await;
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "it took {:?}",
            began.elapsed()
        );
        assert_eq!(
            (&answer["status"], &answer["already"]),
            (&json!("cancelled"), &json!(false))
        );
    }

    /// Nothing is left of it, and nothing that is said to it afterwards changes that.
    async fn stays_cancelled(&self, task: &str) -> Value {
        let seen = self.ended(task, "cancelled").await;
        assert_eq!(self.client.control(task, "cancel").await["already"], true);
        for control in ["pause", "resume"] {
            let arguments = json!({"task_id": task, "control": control});
            let refusal = self.client.refused("send_task_control", arguments).await;
            assert_eq!(refusal["code"], "WRONG_PHASE");
        }
        seen
    }

    /// The slot is free: another task runs to its end.
    async fn goes_on(&self) {
        let id = self
            .client
            .submit(turns(json!([{"text": "Next."}])), json!({}))
            .await;
        let seen = self.ended(&id, "completed").await;
        assert_eq!(seen["output"], "Next.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_in_a_command_in_a_stream_and_paused() {
    let Some(product) = Product::start(one_at_a_time()).await else {
        return;
    };
    let planner = &product.client;
    let place = product.directory.path();
    let (gate, effects) = (place.join("gate"), place.join("effects"));
    let command = format!(
        "echo begun >> {e}; {wait}; echo late >> {e}",
        e = effects.display(),
        wait = wait_for(&gate)
    );
    let running = planner
        .submit(
            turns(json!([bash(&command), {"text": "Never."}])),
            json!({}),
        )
        .await;
    let queued = planner
        .submit(
            turns(json!([bash("true"), {"text": "queued-marker"}])),
            json!({}),
        )
        .await;
    until("the command has begun", || async {
        (lines(&effects) == 1).then_some(())
    })
    .await;

    let seen = product.cancels(&queued).await;
    assert_eq!(
        (&seen["attempt"], seen.get("session_id")),
        (&json!(0), None)
    );

    let directory = planner.status(&running).await["directory"]
        .as_str()
        .unwrap()
        .to_owned();
    let shells = working_in(&directory);
    assert!(!shells.is_empty());
    let seen = product.cancels(&running).await;
    assert!(seen["error"].as_str().is_some(), "{seen:#}");
    assert!(
        shells.iter().all(|pid| !alive(*pid)),
        "the shell still runs"
    );
    std::fs::write(&gate, "").unwrap();

    let stream = json!([{"text": "word ".repeat(200), "chunk": 5, "chunk_delay_ms": 100}]);
    let streaming = planner.submit(turns(stream), json!({})).await;
    let calls = product.model_calls();
    until("the model speaks", || async {
        (product.model_calls() > calls).then_some(())
    })
    .await;
    planner.until_phase(&streaming, "running").await;
    product.cancels(&streaming).await;
    until("the stream to the model is closed", || async {
        let newest = product.model.requests().pop().unwrap();
        let end = format!("{:?}", newest.end);
        assert_ne!(end, "Done", "the model said everything");
        (end == "Aborted").then_some(())
    })
    .await;

    let paused = planner
        .submit(
            turns(json!([bash("sleep 600"), {"text": "Never."}])),
            json!({}),
        )
        .await;
    planner
        .until(&paused, "the command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    assert_eq!(planner.control(&paused, "pause").await["phase"], "paused");
    product.cancels(&paused).await;

    product.goes_on().await;
    assert_eq!(lines(&effects), 1, "what was cancelled had an effect");
    assert_eq!(
        product.model_calls_with("queued-marker"),
        0,
        "the queued task was begun"
    );
    for id in [&running, &queued, &streaming, &paused] {
        assert_eq!(planner.status(id).await["status"], "cancelled");
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_start_that_hangs() {
    let Some(product) = Product::start(one_at_a_time()).await else {
        return;
    };
    let planner = &product.client;
    product.goes_on().await;
    // A repository whose server takes the connection and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/x.git", mute.local_addr().unwrap());
    let cloning = planner
        .submit(
            turns(json!([{"text": "Never."}])),
            json!({"repository": {"url": url}}),
        )
        .await;
    let (_connection, _) = mute.accept().await.unwrap();
    assert_eq!(planner.status(&cloning).await["phase"], "starting");
    product.cancels(&cloning).await;
    until("git is gone", || async {
        processes_with(&url).is_empty().then_some(())
    })
    .await;
    product.goes_on().await;

    // An OpenCode that stands still.
    let worker = product.worker().await;
    worker.signal("-STOP");
    let hanging = planner
        .submit(turns(json!([{"text": "Never."}])), json!({}))
        .await;
    planner
        .until(&hanging, "the workdir is there", |seen| {
            seen["directory"].is_string()
        })
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(planner.status(&hanging).await["phase"], "starting");
    let began = Instant::now();
    let answer = planner.control(&hanging, "cancel").await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        began.elapsed()
    );
    assert_eq!(answer["status"], "cancelled");
    worker.signal("-CONT");
    product.ended(&hanging, "cancelled").await;
    product.goes_on().await;
    assert_eq!(product.model_calls_with("Never."), 0);
    product.stop().await;
}

/// Pids of processes that have a text in their command line.
fn processes_with(text: &str) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_result_is_read() {
    let git = HeldGit::new();
    let setup = Setup {
        programs: Some(git.programs()),
        ..one_at_a_time()
    };
    let Some(product) = Product::start(setup).await else {
        return;
    };
    let planner = &product.client;
    let gate = product.directory.path().join("gate");
    let command = format!("echo made > made.txt; {}", wait_for(&gate));
    let id = planner
        .submit(
            turns(json!([bash(&command), {"text": "One file."}])),
            json!({}),
        )
        .await;
    planner
        .until(&id, "its command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    git.shut();
    std::fs::write(&gate, "").unwrap();
    let seen = planner.until_phase(&id, "finishing").await;
    assert_eq!(seen["status"], "running");
    git.holds().await;
    let late = json!({"task_id": id, "message": "Too late."});
    let refusal = planner.refused("send_task_message", late).await;
    assert_eq!(refusal["code"], "WRONG_PHASE");
    assert_eq!(planner.status(&id).await["phase"], "finishing");
    product.cancels_at_once(&id).await;
    git.open();
    product.stays_cancelled(&id).await;
    product.goes_on().await;
    assert_eq!(planner.status(&id).await["status"], "cancelled");
    product.stop().await;
}
