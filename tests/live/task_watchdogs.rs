//! Watchdogs with the real OpenCode: a model that hangs, loops, or never has time; each task ends, and says why.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use chargehand_actors::event::{Event, FailureKind, Phase, PromptKind};
use chargehand_actors::id::TaskId;
use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_tree::{Grove, file_of, sub_agent};

/// Says a word, then nothing for ever.
fn hang() -> Value {
    json!({"text": "hm", "hang_ms": 3_600_000})
}

fn nudges(events: &[Event]) -> usize {
    let nudge = |e: &&Event| matches!(e, Event::PromptWanted { prompt } if prompt.kind == PromptKind::Nudge);
    events.iter().filter(nudge).count()
}

/// Warned with each nudge; on a busy machine the work after a nudge may look silent, too.
fn woken_and_warned(events: &[Event]) {
    let warned = events
        .iter()
        .filter(|e| matches!(e, Event::WatchdogWarned { .. }));
    let (warned, nudged) = (warned.count(), nudges(events));
    assert!((1..=2).contains(&nudged), "{nudged} nudges");
    assert!(warned >= nudged, "{warned} warnings");
}

async fn failed(grove: &Grove, task: TaskId, part: &str) {
    let view = grove.reach(task, Phase::Failed).await;
    let failure = view.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::Watchdog, "{failure:?}");
    assert!(failure.message.contains(part), "{failure:?}");
    println!("{}", failure.message);
    let events = grove.removed(task).await;
    assert_eq!(events.iter().filter(|e| e.is_final()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_hangs_is_woken_or_given_up() {
    let start = Grove::start(json!({}), |settings| {
        settings.silence_warn = Duration::from_secs(5);
        settings.silence_nudge = Duration::from_secs(15);
        settings.silence_fail = Duration::from_secs(40);
    });
    let Some(whole) = start.await else {
        return;
    };
    let grove = &whole;
    let woken = json!([{
        "contains": "Nothing was heard from you",
        "turns": [bash("echo woken > woken.txt"), {"text": "went on"}],
    }]);
    let goes_on = async |turns: Value| {
        let script = json!({"turns": turns, "on_message": woken});
        let task = grove.submit(script, |_| {}).await;
        let view = grove.reach(task, Phase::Completed).await;
        assert_eq!(view.result.as_ref().unwrap().text, "went on");
        assert_eq!(file_of(&view, "woken.txt").as_deref(), Some("woken\n"));
        woken_and_warned(&grove.removed(task).await);
    };
    let ends = async {
        let script = json!({"turns": [bash("echo kept > kept.txt"), hang()]});
        let task = grove.submit(script, |_| {}).await;
        failed(grove, task, "also after it was asked to go on").await;
        let view = grove.view(task).await;
        assert_eq!(file_of(&view, "kept.txt").as_deref(), Some("kept\n"));
        let changes = view.result.unwrap().changes;
        assert_eq!(changes.files_total, 1, "what was done is told");
        woken_and_warned(&grove.events(task).await);
    };
    tokio::join!(
        goes_on(json!([hang()])),
        goes_on(json!([sub_agent(json!([hang()]))])),
        ends,
    );
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_runs_for_long_is_no_silence() {
    let start = Grove::start(json!({}), |settings| {
        settings.silence_warn = Duration::ZERO;
        settings.silence_nudge = Duration::ZERO;
        // Longer than the start of a cold directory on a busy machine.
        settings.silence_fail = Duration::from_secs(35);
    });
    let Some(grove) = start.await else {
        return;
    };
    let works = async |turn: Value| {
        let script = json!({"turns": [turn, {"text": "finished"}]});
        let task = grove.submit(script, |_| {}).await;
        grove.reach(task, Phase::Completed).await;
    };
    let sleep = bash("sleep 42");
    tokio::join!(
        works(sleep.clone()),
        works(sub_agent(json!([sleep, {"text": "slept"}]))),
    );
    grove.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_and_patience_with_the_provider_have_an_end() {
    let start = Grove::start(json!({}), |settings| {
        settings.max_steps = 50;
        settings.max_provider_retries = 1;
        settings.max_unfinished = 2;
    });
    let Some(whole) = start.await else {
        return;
    };
    let grove = &whole;
    let check = async |turn: Value, part: &str| {
        let script = json!({"turns": [turn]});
        let task = grove.submit(script, |spec| spec.max_steps = Some(3)).await;
        failed(grove, task, part).await;
        task
    };
    let error = |status: u16, words: &str, headers: Value| json!({"error": {"status": status, "headers": headers, "body": {"error": {"message": words}}}});
    let free = json!({"error": {"status": 429, "headers": {"retry-after": "3600"},
        "body": {"type": "error", "error": {"type": "FreeUsageLimitError", "message": "Free usage exceeded"}}}});
    let (steps, ..) = tokio::join!(
        check(bash("echo step >> steps.txt"), "3 model steps"),
        check(
            error(500, "the model is on fire", json!({})),
            "the model is on fire"
        ),
        check(free, "used up"),
        check(
            error(429, "come later", json!({"retry-after": "7200"})),
            "asked again only in"
        ),
        check(
            json!({"text": "cut off", "cut": true}),
            "without a finish reason"
        ),
    );
    let view = grove.view(steps).await;
    let done = file_of(&view, "steps.txt").unwrap().lines().count();
    assert!((3..=5).contains(&done), "{done}");
    assert_eq!(view.result.unwrap().changes.files_total, 1);
    // What was stopped stays stopped.
    let calls = grove.live.model_calls();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(grove.live.model_calls(), calls);
    whole.stop().await;
}
