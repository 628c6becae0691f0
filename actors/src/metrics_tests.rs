//! The sums of [`super::Metrics`]: events in, numbers out.

use std::time::Duration;

use super::*;
use crate::command::{Answer, Caller, Origin};
use crate::fakes::World;
use crate::id::RequestId;
use crate::outcome::Failure;

fn at(seconds: i64, task: TaskId, event: Event) -> CommittedEvent {
    CommittedEvent {
        number: EventNumber(1),
        at: WallTime(seconds * 1_000),
        task: Some(task),
        event,
    }
}

fn accepted(token: &str) -> Event {
    let submit = World::task("say: hi");
    Event::TaskAccepted {
        spec: Box::new(submit.spec),
        caller: Caller {
            token: token.to_owned(),
            agent_id: "agent".to_owned(),
        },
        idempotency_key: None,
        fingerprint: String::new(),
        from: Origin::default(),
    }
}

fn started() -> Event {
    Event::AttemptStarted {
        attempt: 1,
        engine: EngineName::new("local"),
    }
}

fn failed(kind: FailureKind) -> Event {
    Event::TaskFailed {
        failure: Failure {
            kind,
            message: String::new(),
        },
        result: None,
        running_ms: 2_000,
    }
}

fn task(number: u128) -> TaskId {
    TaskId::new(uuid::Uuid::from_u128(number))
}

#[test]
fn the_life_of_a_task_is_timed() {
    let metrics = Metrics::default();
    metrics.committed(&[
        at(0, task(1), accepted("letta")),
        at(1, task(2), accepted("letta")),
    ]);
    metrics.committed(&[
        at(40, task(1), started()),
        at(43, task(1), Event::PromptAccepted { number: 1 }),
        // A second prompt is no second start.
        at(90, task(1), Event::PromptAccepted { number: 2 }),
        at(99, task(1), failed(FailureKind::Model)),
        at(
            99,
            task(2),
            Event::TaskCancelled {
                reason: None,
                by: "ann".to_owned(),
                from: Origin::default(),
                running_ms: 0,
            },
        ),
    ]);
    let numbers = metrics.numbers();
    assert_eq!(numbers.accepted["letta"], 2);
    assert_eq!(
        (numbers.queue_seconds.count(), numbers.queue_seconds.sum()),
        (1, 40.0)
    );
    assert_eq!(
        (numbers.start_seconds.count(), numbers.start_seconds.sum()),
        (1, 3.0)
    );
    // The one that never ran is no run of 0 s.
    assert_eq!(
        (
            numbers.running_seconds.count(),
            numbers.running_seconds.sum()
        ),
        (1, 2.0)
    );
    assert_eq!(numbers.ended[&("failed", "model")], 1);
    assert_eq!(numbers.ended[&("cancelled", "none")], 1);
    assert_eq!(numbers.ended[&("completed", "none")], 0);
    assert_eq!(numbers.lifecycle_events, 7);
    assert!(
        metrics.with(|inner| inner.begun.is_empty()),
        "nothing is kept of what ended"
    );
}

#[test]
fn a_rebuild_goes_on_timing() {
    let metrics = Metrics::default();
    let mut state = TaskState::accepted(task(1), WallTime(1_000), &accepted("a")).unwrap();
    metrics.restored([&state].into_iter());
    metrics.committed(&[at(6, task(1), started())]);
    assert_eq!(metrics.numbers().queue_seconds.sum(), 5.0);
    state.fold_committed(&at(6, task(1), started()));
    metrics.restored([&state].into_iter());
    metrics.committed(&[at(8, task(1), Event::PromptAccepted { number: 1 })]);
    assert_eq!(metrics.numbers().start_seconds.sum(), 2.0);
    assert_eq!(metrics.numbers().queue_seconds.count(), 1, "queued once");
}

#[test]
fn answers_are_told_apart_by_who_gave_them() {
    let metrics = Metrics::default();
    let answer = |by: &str, from: &str| {
        at(
            1,
            task(1),
            Event::AnswerWanted {
                request: RequestId("per_1".to_owned()),
                answer: Answer::Allow { always: false },
                by: by.to_owned(),
                from: Origin(from.to_owned()),
            },
        )
    };
    metrics.committed(&[
        answer("policy", ""),
        answer("default", ""),
        answer("letta/agent", "mcp 127.0.0.1"),
        // A token may be called "policy".
        answer("policy", "mcp 127.0.0.1"),
    ]);
    let answers = metrics.numbers().answers;
    assert_eq!(
        answers,
        [("caller", 2), ("default", 1), ("policy", 1)].into()
    );
}

#[test]
fn buckets() {
    let mut histogram = Histogram::new(&[1.0, 2.0]);
    for value in [0.5, 1.0, 1.5, 2.0, 99.0] {
        histogram.observe(value);
    }
    assert_eq!(
        histogram.buckets(),
        [(1.0, 2), (2.0, 2), (f64::INFINITY, 1)]
    );
    assert_eq!((histogram.count(), histogram.sum()), (5, 104.0));
}

#[test]
fn commits() {
    let metrics = Metrics::default();
    metrics.appended(3, Duration::from_millis(2), true);
    metrics.appended(1, Duration::from_secs(1), false);
    let numbers = metrics.numbers();
    assert_eq!(numbers.appends, [("committed", 1), ("failed", 1)].into());
    assert_eq!(numbers.append_events.sum(), 4.0);
    assert_eq!(numbers.append_seconds.buckets()[2], (0.002_5, 1));
}

/// The words of labels are the words that the same things have everywhere else.
#[test]
fn words_are_those_of_the_record() {
    let json = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    for kind in FailureKind::ALL {
        assert_eq!(json(serde_json::to_value(kind).unwrap()), kind.as_str());
    }
    for dog in Watchdog::ALL {
        assert_eq!(json(serde_json::to_value(dog).unwrap()), dog.as_str());
    }
    for kind in ActorKind::ALL {
        assert_eq!(json(serde_json::to_value(kind).unwrap()), kind.as_str());
    }
}
