//! A worker beyond its limits: a new one takes new tasks, the old one finishes what it has and is ended. Also when Chargehand or the old
//! worker is killed meanwhile.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chargehand_actors::event::SessionRef;
use chargehand_actors::ports::{Engine, EngineError, SendPrompt, Signal};
use serde_json::{Value, json};

use crate::harness::{Live, Watched, bash, ended_well, file_holds};
use crate::harness_gate::Gated;
use crate::harness_product::{Product, Setup, Worker, alive, turns, until, wait_for};

/// A session whose command has begun and waits for the file `gate` in its workdir.
async fn working(live: &Live, watched: &Watched, name: &str) -> (SendPrompt, PathBuf, i32) {
    let workdir = live.workdir(name);
    let (session, worker) = watched
        .engine
        .open(live.opening(live.attempt(), &workdir))
        .await
        .unwrap();
    let place = Path::new(&workdir);
    let gate = place.join("gate");
    let command = format!("echo begun > log; {}", wait_for(&gate));
    let text = format!("Done: {name}.");
    let sent = live.prompt(&session, 1, json!([bash(&command), {"text": text}]));
    watched.engine.prompt(sent.clone()).await.unwrap();
    file_holds(&place.join("log"), "begun").await;
    let pid = worker.0.split(':').next().unwrap().parse().unwrap();
    (sent, gate, pid)
}

async fn gone(pid: i32) {
    until("the old worker is ended", || async {
        (!alive(pid)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_worker_takes_new_sessions_while_the_old_one_drains() {
    let Some(mut live) = Live::new(json!({})).await else {
        return;
    };
    live.settings.worker.recycle_directories = 1;
    let watched = live.engine().await;
    let (first, first_gate, old) = working(&live, &watched, "first").await;
    let (second, second_gate, new) = working(&live, &watched, "second").await;
    assert_ne!(old, new, "a new worker for the second directory");
    let (third, third_gate, same) = working(&live, &watched, "third").await;
    assert_eq!(same, new, "never a third one");
    assert!(alive(old) && alive(new));
    assert_eq!(watched.engine.owned().await.unwrap().len(), 3);

    // Each goes on where it is, and both streams are heard.
    for (sent, gate, text) in [
        (&second, second_gate, "Done: second."),
        (&first, first_gate, "Done: first."),
    ] {
        std::fs::write(gate, "").unwrap();
        let report = watched.answered(sent).await;
        assert!(ended_well(&report), "{report:#?}");
        assert_eq!(report.text, text);
        watched
            .told(&sent.session, "its end", |signal| {
                matches!(signal, Signal::Idle)
            })
            .await;
    }
    assert!(alive(old), "it still has a session");
    let SessionRef { directory, .. } = first.session.clone();
    let owned = watched.engine.owned().await.unwrap();
    let attempt = owned
        .iter()
        .find(|one| one.session.as_ref() == Some(&first.session));
    let attempt = attempt.unwrap().attempt;
    watched
        .engine
        .remove(attempt, Some(first.session.clone()), Some(directory))
        .await
        .unwrap();
    gone(old).await;
    let read = watched.engine.read(first.session.clone(), vec![]).await;
    assert_eq!(read.unwrap_err(), EngineError::SessionGone);
    // The other goes on, and its stream with it.
    std::fs::write(third_gate, "").unwrap();
    let report = watched.answered(&third).await;
    assert!(ended_well(&report), "{report:#?}");
    watched
        .told(&third.session, "its end", |signal| {
            matches!(signal, Signal::Idle)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_a_prompt_that_may_not_even_be_stored_is_not_replaced() {
    let Some(mut live) = Live::new(json!({})).await else {
        return;
    };
    live.settings.worker.recycle_directories = 1;
    let watched = live.engine().await;
    let workdir = live.workdir("first");
    let opening = live.opening(live.attempt(), &workdir);
    let (session, old) = watched.engine.open(opening).await.unwrap();
    let gate = live.directory.path().join("gate");
    let steps = json!([bash(&wait_for(&gate)), {"text": "Undisturbed."}]);
    let sent = live.prompt(&session, 1, steps);
    watched.engine.prompt(sent.clone()).await.unwrap();
    for round in 0..3 {
        let next = live.workdir(&format!("busy{round}"));
        let opening = live.opening(live.attempt(), &next);
        let (_, worker) = watched.engine.open(opening).await.unwrap();
        assert_ne!(worker, old, "its limit is one directory");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    std::fs::write(&gate, "").unwrap();
    let report = watched.answered(&sent).await;
    assert!(ended_well(&report), "{report:#?}");
    assert_eq!((report.text.as_str(), report.worker), ("Undisturbed.", old));
}

fn limited() -> Setup {
    Setup {
        more: json!({"engines": {"local": {"max_directories": 1}}}),
        ..Setup::default()
    }
}

async fn old_worker(product: &Product) -> Worker {
    product.worker().await
}

async fn new_worker(product: &Product) -> Worker {
    until("a second worker is recorded", || async {
        Worker::recorded(&product.data().join("local/second"))
    })
    .await
}

/// The task is completed with this text; its worker may be ended at any moment, so it is not asked.
async fn completed(product: &Product, id: &str, text: &str) {
    let seen: Value = product.client.final_status(id).await;
    assert_eq!(seen["status"], "completed", "{seen:#}");
    assert_eq!(seen["output"], text);
    product.client.until_event(id, "attempt_removed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_are_taken_over_by_the_next_chargehand() {
    let Some(mut product) = Product::start(limited()).await else {
        return;
    };
    let first = Gated::begin(&product, "first", "By the old one.").await;
    let old = old_worker(&product).await;
    // What the worker has served counts on after a restart.
    product.kill();
    product.start_again().await;
    let second = Gated::begin(&product, "second", "By the new one.").await;
    let new = new_worker(&product).await;
    assert_ne!(old.pid, new.pid);
    product.kill();
    product.start_again().await;
    for task in [&first, &second] {
        product.client.until_phase(&task.id, "running").await;
    }
    assert_eq!(old_worker(&product).await.pid, old.pid);
    assert_eq!(new_worker(&product).await.pid, new.pid);
    first.open();
    completed(&product, &first.id, "By the old one.").await;
    gone(old.pid).await;
    assert!(alive(new.pid));
    second.open();
    completed(&product, &second.id, "By the new one.").await;
    for task in [&first, &second] {
        assert_eq!(task.times(), 1, "done once");
        assert!(!product.client.has_event(&task.id, "resume_wanted").await);
    }
    let script = turns(json!([{"text": "The third."}]));
    let third = product.client.submit(script, json!({})).await;
    completed(&product, &third, "The third.").await;
    assert_eq!(product.model_calls(), 5);
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_worker_that_dies_goes_on_with_its_own_and_is_ended_after_it() {
    let Some(product) = Product::start(limited()).await else {
        return;
    };
    let first = Gated::begin(&product, "first", "Went on.").await;
    let old = old_worker(&product).await;
    let second = Gated::begin(&product, "second", "By the new one.").await;
    let new = new_worker(&product).await;
    first.open();
    old.signal("-KILL");
    completed(&product, &first.id, "Went on.").await;
    assert!(alive(new.pid), "the other is not disturbed");
    let end = Instant::now() + Duration::from_secs(60);
    while let Some(worker) = Worker::recorded(&product.data().join("local")) {
        assert!(Instant::now() < end, "worker {} is not ended", worker.pid);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    second.open();
    completed(&product, &second.id, "By the new one.").await;
    assert!(!product.client.has_event(&second.id, "resume_wanted").await);
    assert_eq!(second.times(), 1);
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_worker_that_hangs_holds_up_its_own_tasks_only() {
    let Some(product) = Product::start(limited()).await else {
        return;
    };
    let first = Gated::begin(&product, "first", "By the old one.").await;
    let old = old_worker(&product).await;
    let second = Gated::begin(&product, "second", "By the new one.").await;
    old.signal("-STOP");
    let script = turns(json!([{"text": "The third."}]));
    let third = product.client.submit(script, json!({})).await;
    completed(&product, &third, "The third.").await;
    second.open();
    completed(&product, &second.id, "By the new one.").await;
    old.signal("-CONT");
    first.open();
    completed(&product, &first.id, "By the old one.").await;
    gone(old.pid).await;
    for task in [&first, &second] {
        assert_eq!(task.times(), 1, "done once");
    }
    product.stop().await;
}
