//! Pause, resume, cancel and the timeout of tasks in containers.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_docker::{Docked, altered_image, daemon, remove_image};
use crate::harness_product::{Setup, lines, turns};

/// A command that writes a line five times a second until it is told to end.
const TICKS: &str = "until [ -e go ]; do echo tick >> ticks; sleep 0.2; done";

fn ticking() -> Value {
    turns(json!([bash(TICKS), {"text": "Done."}]))
}

impl Docked {
    /// Sends a signal to the OpenCode in a task's container, from outside.
    async fn signal_opencode(&self, task: &str, signal: &str) {
        let top = self.docker.top_processes(&self.name(task), None).await;
        let processes = top.unwrap().processes.unwrap();
        // By `ps -ef`: the second column is the process as this machine counts, the last is the command.
        let pids = processes
            .iter()
            .filter(|columns| columns.last().is_some_and(|c| c.contains("opencode serve")))
            .map(|columns| columns[1].clone());
        let sent = Command::new("kill").arg(signal).args(pids).status();
        assert!(sent.unwrap().success());
    }

    /// Cancels: the answer comes at once, it holds, and the container goes.
    async fn cancels(&self, task: &str) {
        let began = Instant::now();
        let answer = self.product.client.control(task, "cancel").await;
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "it took {:?}",
            began.elapsed()
        );
        assert_eq!(answer["status"], "cancelled", "{answer:#}");
        self.product.ended(task, "cancelled").await;
        assert_eq!(self.state(task).await, "", "the container is still there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_does_not_wait_for_a_worker_that_answers_nobody() {
    let Some(mut docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let id = docked.product.client.submit(ticking(), json!({})).await;
    docked.until_lines(&id, "ticks", 2).await;
    docked.product.kill();
    docked.signal_opencode(&id, "-STOP").await;
    docked.product.start_again().await;
    for signal in ["pause", "resume", "pause"] {
        let began = Instant::now();
        let answer = docked.product.client.control(&id, signal).await;
        let phase = if signal == "pause" {
            "paused"
        } else {
            "running"
        };
        assert_eq!(answer["phase"], phase, "{answer:#}");
        assert_eq!(docked.state(&id).await, phase);
        println!("{signal} after {:?}", began.elapsed());
    }
    docked.signal_opencode(&id, "-CONT").await;
    docked.product.client.control(&id, "resume").await;
    std::fs::write(docked.workdir_of(&id).join("go"), "").unwrap();
    docked.product.ended_saying(&id, "completed", "Done.").await;
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_longer_than_the_timeout_freezes_the_worker_and_its_clock() {
    let Some(docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let planner = &docked.product.client;
    let id = planner
        .submit(ticking(), json!({"timeout_ms": 60_000}))
        .await;
    docked.until_lines(&id, "ticks", 5).await;
    let ticks = docked.workdir(&id).await.join("ticks");
    let answer = planner.control(&id, "pause").await;
    assert_eq!(
        (&answer["phase"], &answer["pause"]),
        (&json!("paused"), &json!("frozen"))
    );
    assert_eq!(docked.state(&id).await, "paused");
    let (before, counted) = (planner.status(&id).await, lines(&ticks));
    assert_eq!(planner.control(&id, "pause").await["already"], true);
    tokio::time::sleep(Duration::from_secs(62)).await;
    let after = planner.status(&id).await;
    assert_eq!(
        (&after["status"], &after["running_ms"]),
        (&json!("paused"), &before["running_ms"])
    );
    assert_eq!(lines(&ticks), counted, "it worked during the pause");

    assert_eq!(planner.control(&id, "resume").await["status"], "running");
    docked.until_lines(&id, "ticks", counted + 2).await;
    std::fs::write(ticks.with_file_name("go"), "").unwrap();
    docked.product.ended_saying(&id, "completed", "Done.").await;
    // It went on where it was: the model saw no other prompt, and no command was cut.
    assert_eq!(docked.product.model_calls(), 2);
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_works_at_once_queued_running_and_paused() {
    let setup = Setup {
        tasks: json!({"max_running": 1}),
        ..Setup::default()
    };
    let Some(docked) = Docked::start(json!({}), setup).await else {
        return;
    };
    let planner = &docked.product.client;
    let running = planner.submit(ticking(), json!({})).await;
    let queued = planner.submit(ticking(), json!({})).await;
    docked.until_lines(&running, "ticks", 1).await;
    docked.cancels(&queued).await;
    docked.cancels(&running).await;

    let paused = planner.submit(ticking(), json!({})).await;
    docked.until_lines(&paused, "ticks", 1).await;
    planner.control(&paused, "pause").await;
    assert_eq!(docked.state(&paused).await, "paused");
    docked.cancels(&paused).await;
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_works_while_the_worker_waits_for_an_answer() {
    let asks = json!({"opencode_config": {"permission": {"bash": "ask"}}});
    let Some(docked) = Docked::start(asks, Setup::default()).await else {
        return;
    };
    let planner = &docked.product.client;
    let id = planner.submit(ticking(), json!({"attended": true})).await;
    planner.until_phase(&id, "input_required").await;
    let ticks = docked.workdir(&id).await.join("ticks");
    docked.cancels(&id).await;
    assert!(!ticks.exists(), "what was asked for was done");
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_works_while_the_start_hangs_and_frees_the_slot() {
    let Some((_, docker)) = daemon("CHARGEHAND_TEST_DOCKER_HOST").await else {
        return;
    };
    let hangs = "printf '#!/bin/sh\\nexec sleep 3600\\n' > /usr/local/bin/opencode; chmod 755 /usr/local/bin/opencode";
    let image = altered_image(&docker, "hangs", hangs).await;
    let setup = Setup {
        tasks: json!({"max_running": 1}),
        ..Setup::default()
    };
    let docked = Docked::start(json!({"image": image}), setup).await.unwrap();
    let planner = &docked.product.client;
    for _ in 0..2 {
        let id = planner.submit(ticking(), json!({})).await;
        docked.until_state(&id, "running").await;
        assert_eq!(planner.status(&id).await["phase"], "starting");
        docked.cancels(&id).await;
    }
    docked.stop().await;
    remove_image(&docker, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_a_cancel_is_not_overwritten_by_the_end_of_the_container() {
    let Some(mut docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let id = docked.product.client.submit(ticking(), json!({})).await;
    docked.until_lines(&id, "ticks", 2).await;
    docked.cancels(&id).await;
    // The container died by a signal and its stream broke: nothing of that reaches the task, now or after a restart.
    let events = docked.product.everybody().history(&id).await;
    let before = docked.product.everybody().status(&id).await;
    docked.product.kill();
    docked.product.start_again().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let seen = docked.product.everybody().status(&id).await;
    assert_eq!(
        (&seen["status"], &seen["error"]),
        (&json!("cancelled"), &before["error"])
    );
    let later = docked.product.everybody().history(&id).await;
    assert_eq!(events, later);
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d12_a_timeout_ends_a_container_that_ignores_signals_and_a_killed_chargehand_leaves_none() {
    let Some((_, docker)) = daemon("CHARGEHAND_TEST_DOCKER_HOST").await else {
        return;
    };
    // OpenCode below a shell that lets no signal through.
    let deaf = "mv /usr/local/bin/opencode /usr/local/bin/opencode-real; \
                printf '#!/bin/sh\\ntrap \"\" TERM INT HUP\\n/usr/local/bin/opencode-real \"$@\"\\nwhile true; do sleep 1; done\\n' \
                > /usr/local/bin/opencode; chmod 755 /usr/local/bin/opencode";
    let image = altered_image(&docker, "deaf", deaf).await;
    let mut docked = Docked::start(json!({"image": image}), Setup::default())
        .await
        .unwrap();
    let deaf_too =
        turns(json!([bash("trap '' TERM; while true; do sleep 1; done"), {"text": "Never."}]));
    let id = docked
        .product
        .client
        .submit(deaf_too, json!({"timeout_ms": 5_000}))
        .await;
    docked.product.ended(&id, "timeout").await;
    assert_eq!(
        docked.state(&id).await,
        "",
        "the container outlived its timeout"
    );

    // Chargehand dies while one runs, and the deadline passes meanwhile.
    let more = json!({"timeout_ms": 20_000});
    let id = docked.product.client.submit(ticking(), more).await;
    docked.until_lines(&id, "ticks", 1).await;
    docked.product.kill();
    assert_eq!(docked.state(&id).await, "running");
    tokio::time::sleep(Duration::from_secs(20)).await;
    docked.product.start_again().await;
    docked.product.ended(&id, "timeout").await;
    assert_eq!(docked.containers().await.len(), 0);
    docked.stop().await;
    remove_image(&docker, &image).await;
}
