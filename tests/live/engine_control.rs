//! Ending runs: the end is seen, nothing goes on behind it, removal leaves nothing.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::time::{Duration, Instant};

use chargehand_actors::ports::{Activity, Engine, LastMessage, Signal};
use serde_json::json;

use crate::harness::{Live, bash, ended_well, file_holds};
use crate::harness_client::wait_for;

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_during_bash_ends_the_command() {
    let Some(live) = Live::new(json!({})).await else {
        return;
    };
    let watched = live.engine().await;
    let engine = &watched.engine;
    let workdir = live.workdir("abort");
    let (session, _) = engine
        .open(live.opening(live.attempt(), &workdir))
        .await
        .unwrap();
    let gate = live.directory.path().join("gate");
    let command = format!("echo start >> log; {}; echo end >> log", wait_for(&gate));
    let sent = live.prompt(&session, 1, json!([bash(&command), {"text": "Never."}]));
    engine.prompt(sent.clone()).await.unwrap();
    let log = Path::new(&workdir).join("log");
    file_holds(&log, "start").await;
    let report = watched
        .report(&sent, "the tool runs", |report| {
            !report.running_tools.is_empty()
        })
        .await;
    assert_eq!(report.running_tools[0].tool, "bash");
    engine.abort(session.clone()).await.unwrap();
    let report = watched.answered(&sent).await;
    match &report.last {
        LastMessage::Assistant {
            error: Some((name, _)),
            ..
        } => assert_eq!(name, "MessageAbortedError"),
        other => panic!("not aborted: {other:?}"),
    }
    // A shell that was left would write at once.
    std::fs::write(&gate, "").unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "start\n");
    // Aborting what does not run is fine and quick.
    let began = Instant::now();
    engine.abort(session.clone()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3));
    // The session goes on with a new prompt.
    let next = live.prompt(&session, 2, json!([{"text": "Going on."}]));
    engine.prompt(next.clone()).await.unwrap();
    let report = watched.answered(&next).await;
    assert!(ended_well(&report), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_abort_in_a_cold_directory_is_not_lost() {
    let Some(live) = Live::new(json!({})).await else {
        return;
    };
    let watched = live.engine().await;
    for (round, wait) in [0, 5, 60].into_iter().enumerate() {
        let workdir = live.workdir(&format!("cold{round}"));
        let (session, _) = watched
            .engine
            .open(live.opening(live.attempt(), &workdir))
            .await
            .unwrap();
        let sent = live.prompt(
            &session,
            1,
            json!([{"delay_ms": 1500, "text": ""}, bash("echo ran >> ran.txt")]),
        );
        watched.engine.prompt(sent.clone()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(wait)).await;
        watched.engine.abort(session.clone()).await.unwrap();
        let calls = live.model_calls();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let report = watched.report(&sent, "it is read", |_| true).await;
        assert_eq!(
            report.activity,
            Activity::Idle,
            "after {wait} ms: {report:#?}"
        );
        assert_eq!(
            live.model_calls(),
            calls,
            "after {wait} ms something went on behind the abort"
        );
        assert!(!Path::new(&workdir).join("ran.txt").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_session_is_removed_for_good() {
    let Some(live) = Live::new(json!({})).await else {
        return;
    };
    let watched = live.engine().await;
    let engine = &watched.engine;
    let workdir = live.workdir("remove");
    let attempt = live.attempt();
    let (session, _) = engine.open(live.opening(attempt, &workdir)).await.unwrap();
    let gate = live.directory.path().join("gate");
    let command = format!("echo start >> log; {}; echo end >> log", wait_for(&gate));
    let sent = live.prompt(&session, 1, json!([bash(&command), {"text": "Never."}]));
    engine.prompt(sent).await.unwrap();
    let log = Path::new(&workdir).join("log");
    file_holds(&log, "start").await;
    engine
        .remove(attempt, Some(session.clone()), Some(workdir.clone()))
        .await
        .unwrap();
    assert!(engine.owned().await.unwrap().is_empty());
    // A shell that was left would write at once.
    std::fs::write(&gate, "").unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "start\n");
    watched
        .told(&session, "the deletion", |signal| {
            *signal == Signal::Deleted
        })
        .await;
}
