//! A task whose worker waits for an answer: cancelled there, and answered.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use chargehand_actors::command::{Answer, Control, ControlSignal};
use chargehand_actors::event::Phase;
use chargehand_actors::id::TaskId;
use chargehand_actors::ports::Engine;
use serde_json::json;

use crate::harness::bash;
use crate::harness_tree::{Grove, file_of, operator};

/// An attended task whose only tool call needs a permission.
async fn submit(grove: &Grove) -> TaskId {
    let script = json!({"turns": [bash("echo done > effect.txt"), {"text": "finished"}]});
    grove.submit(script, |spec| spec.attended = true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_for_an_answer_is_cancelled_or_answered() {
    let Some(grove) = Grove::start(json!({"permission": {"bash": "ask"}}), |_| {}).await else {
        return;
    };
    let cancelled = submit(&grove).await;
    let waiting = grove.reach(cancelled, Phase::InputRequired).await;
    assert_eq!(waiting.requests.len(), 1);
    let control = Control {
        task: cancelled,
        signal: ControlSignal::Cancel,
        reason: None,
    };
    let outcome = grove.handle.control(&operator(), control).await.unwrap();
    assert_eq!(outcome.phase, Phase::Cancelled);
    let events = grove.removed(cancelled).await;
    assert_eq!(events.iter().filter(|e| e.is_final()).count(), 1);
    assert!(
        grove.engine.owned().await.unwrap().is_empty(),
        "its session is gone"
    );
    let effect = file_of(&waiting, "effect.txt");
    assert_eq!(effect, None, "what was never allowed was not done");

    let answered = submit(&grove).await;
    let asked = grove.asked(answered).await;
    let answer = Answer::Allow { always: false };
    grove.answer(answered, &asked, answer).await;
    let done = grove.reach(answered, Phase::Completed).await;
    assert_eq!(file_of(&done, "effect.txt").as_deref(), Some("done\n"));
    grove.removed(answered).await;
    grove.stop().await;
}
