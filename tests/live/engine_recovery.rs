//! What is killed, taken over, left behind: the engine `local` under failure.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use chargehand::adapters::opencode::LocalEngine;
use chargehand_actors::ports::{Activity, Engine, LastMessage, StopHow};
use serde_json::{Value, json};

use crate::harness::{Live, PATIENCE, Watched, bash, ended_well, file_holds};
use crate::harness_client::wait_for;

fn process(live: &Live, who: &str) -> i32 {
    let path = live.settings.data_dir.join("local/process.json");
    let process: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    i32::try_from(process[who]["pid"].as_i64().unwrap()).unwrap()
}

fn kill(pid: i32) {
    signal(pid, "-KILL");
}

fn signal(pid: i32, signal: &str) {
    let killed = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
}

fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" Z"))
    })
}

async fn until_gone(pid: i32) {
    let end = Instant::now() + PATIENCE;
    while runs(pid) {
        assert!(Instant::now() < end, "process {pid} still runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn pid_in(path: &Path) -> i32 {
    std::fs::read_to_string(path)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced_and_leaves_no_orphan() {
    let Some(live) = Live::new(json!({})).await else {
        return;
    };
    let mut watched = live.engine().await;
    let workdir = live.workdir("killed");
    let (session, worker) = watched
        .engine
        .open(live.opening(live.attempt(), &workdir))
        .await
        .unwrap();
    // One orphan of the running tool, and one that left its shell and cleaned its environment.
    let command =
        "echo $$ > pid; (env -i setsid sleep 300 & echo $! > hidden); sleep 301; echo end >> log";
    let sent = live.prompt(
        &session,
        1,
        json!([bash(command), {"text": "After the interruption."}]),
    );
    watched.engine.prompt(sent.clone()).await.unwrap();
    let shell: PathBuf = Path::new(&workdir).join("pid");
    let hidden: PathBuf = Path::new(&workdir).join("hidden");
    file_holds(&shell, "\n").await;
    file_holds(&hidden, "\n").await;
    watched
        .report(&sent, "the tool runs", |report| {
            !report.running_tools.is_empty()
        })
        .await;

    kill(process(&live, "worker"));
    watched.broken().await;
    assert!(
        watched
            .engine
            .read(session.clone(), vec![])
            .await
            .unwrap_err()
            .is_transient()
    );
    let ready = watched.engine.start().await.unwrap();
    assert_ne!(ready.worker, worker);
    assert!(
        !runs(pid_in(&shell)),
        "the shell of the dead worker still runs"
    );
    assert!(
        !runs(pid_in(&hidden)),
        "the process without the mark still runs"
    );

    let watched = Watched::again(&watched).await;
    let report = watched.report(&sent, "it is read", |_| true).await;
    assert_eq!(
        (report.activity.clone(), &report.worker),
        (Activity::Idle, &ready.worker)
    );
    match &report.last {
        LastMessage::Assistant {
            completed, error, ..
        } => assert!(!completed && error.is_none()),
        other => panic!("not an unfinished answer: {other:?}"),
    }
    assert!(report.running_tools.is_empty());
    // Aborting the remains ends; sending the same prompt again goes on with it.
    watched.engine.abort(session.clone()).await.unwrap();
    watched.engine.prompt(sent.clone()).await.unwrap();
    let report = watched.answered(&sent).await;
    assert!(ended_well(&report), "{report:#?}");
    assert!(!Path::new(&workdir).join("log").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_worker_is_taken_over() {
    let Some(live) = Live::new(json!({})).await else {
        return;
    };
    let first = live.engine().await;
    let workdir = live.workdir("takeover");
    let attempt = live.attempt();
    let (session, worker) = first
        .engine
        .open(live.opening(attempt, &workdir))
        .await
        .unwrap();
    let gate = live.directory.path().join("gate");
    let command = format!("echo start >> log; {}; echo end >> log", wait_for(&gate));
    let sent = live.prompt(&session, 1, json!([bash(&command), {"text": "Survived."}]));
    first.engine.prompt(sent.clone()).await.unwrap();
    file_holds(&Path::new(&workdir).join("log"), "start").await;
    first.engine.stop(StopHow::LeaveRunning).await.unwrap();
    drop(first);

    let second = LocalEngine::new(live.settings.clone());
    let ready = second.start().await.unwrap();
    assert_eq!(ready.worker, worker);
    assert!(ready.note.is_some_and(|note| note.contains("took over")));
    assert_eq!(
        second.start().await.unwrap().worker,
        worker,
        "starting again changes nothing"
    );
    let second = Watched::new(second.into()).await;
    assert_eq!(
        second.engine.owned().await.unwrap()[0].session.as_ref(),
        Some(&session)
    );
    let (found, _) = second
        .engine
        .open(live.opening(attempt, &workdir))
        .await
        .unwrap();
    assert_eq!(found, session);
    std::fs::write(&gate, "").unwrap();
    let report = second.answered(&sent).await;
    assert!(ended_well(&report), "{report:#?}");
    assert_eq!((report.text.as_str(), live.model_calls()), ("Survived.", 2));

    let (worker, guard) = (process(&live, "worker"), process(&live, "guard"));
    second.engine.stop(StopHow::EndWorkers).await.unwrap();
    assert!(!runs(worker) && !runs(guard));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_start_was_interrupted_is_found_by_its_mark() {
    let Some(live) = Live::new(json!({})).await else {
        return;
    };
    let watched = live.engine().await;
    let old = process(&live, "worker");
    // As if Chargehand and the guard had been killed before the processes were written down.
    kill(process(&live, "guard"));
    std::fs::remove_file(live.settings.data_dir.join("local/process.json")).unwrap();
    drop(watched);
    assert!(runs(old));
    let next = live.engine().await;
    assert!(!runs(old), "two workers on one data directory");
    assert_ne!(process(&live, "worker"), old);
    next.engine.probe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_worker_ends_by_itself() {
    let Some(mut live) = Live::new(json!({})).await else {
        return;
    };
    live.settings.worker.abandoned_after = Duration::from_secs(2);
    let watched = live.engine().await;
    let (worker, guard) = (process(&live, "worker"), process(&live, "guard"));
    // Killed, not stopped: nobody touches the lease any more.
    drop(watched);
    until_gone(worker).await;
    until_gone(guard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_told_to_end_ends_its_worker() {
    let Some(live) = Live::new(json!({})).await else {
        return;
    };
    let _watched = live.engine().await;
    let (worker, guard) = (process(&live, "worker"), process(&live, "guard"));
    signal(guard, "-TERM");
    until_gone(guard).await;
    assert!(!runs(worker));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worn_worker_is_replaced_when_nothing_runs_in_it() {
    let Some(mut live) = Live::new(json!({})).await else {
        return;
    };
    live.settings.worker.recycle_directories = 1;
    let mut watched = live.engine().await;
    let first = live.workdir("first");
    let (session, old) = watched
        .engine
        .open(live.opening(live.attempt(), &first))
        .await
        .unwrap();
    let sent = live.prompt(
        &session,
        1,
        json!([bash("echo done > log"), {"text": "Undisturbed."}]),
    );
    watched.engine.prompt(sent.clone()).await.unwrap();
    assert!(ended_well(&watched.answered(&sent).await));
    let last = live.workdir("last");
    let (_, worker) = watched
        .engine
        .open(live.opening(live.attempt(), &last))
        .await
        .unwrap();
    assert_ne!(worker, old, "not replaced");
    watched.broken().await;
    let report = watched.answered(&sent).await;
    assert_eq!(
        (report.text.as_str(), report.worker),
        ("Undisturbed.", worker)
    );
}
