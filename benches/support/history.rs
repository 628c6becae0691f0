//! Made-up tasks for measurements of a long journal, the same in every bench.
//!
//! In: a number. Out: the row of a task, or a finished one with all its events. Times ascend with the number.

use chargehand_actors::command::{Caller, Notify, TaskSpec};
use chargehand_actors::event::{Event, Failure, FailureKind, Phase, Usage};
use chargehand_actors::id::{EngineName, EventNumber, TaskId, WallTime};
use chargehand_actors::view::TaskView;
use uuid::Uuid;

/// Finished tasks in a long journal.
pub(crate) const TASKS: u128 = 10_000;

/// Owner of all of them: who speaks to a loopback server without tokens.
pub(crate) const TOKEN: &str = "local";

const EVENTS_OF_A_TASK: usize = 30;

/// A task in this phase.
pub(crate) fn view(id: u128, phase: Phase) -> TaskView {
    TaskView {
        id: TaskId::new(Uuid::from_u128(id)),
        phase,
        phase_since: WallTime(1),
        spec: TaskSpec {
            description: "Rename the module and make the tests pass. ".repeat(10),
            engine: EngineName::new("local"),
            model: None,
            agent: None,
            source: Default::default(),
            timeout_ms: 300_000,
            priority: Default::default(),
            labels: vec!["nightly".to_owned()],
            observers: Vec::new(),
            attended: false,
            permissions: Vec::new(),
            max_steps: None,
            notify: Notify::default(),
            conversation: None,
        },
        caller: Caller {
            token: TOKEN.to_owned(),
            agent_id: format!("agent-{}", id % 10),
        },
        idempotency_key: None,
        created_at: WallTime(
            i64::try_from(id).map_or(i64::MAX, |id| 1_790_000_000_000 + id * 1_000),
        ),
        started_at: None,
        ended_at: None,
        attempt: 1,
        running_ms: 60_000,
        running_since: None,
        doing: "editing src/main.rs".to_owned(),
        steps: 12,
        usage: Usage::default(),
        todos: Vec::new(),
        files_touched: (0..20).map(|n| format!("src/module_{n}/mod.rs")).collect(),
        requests: Vec::new(),
        pause: None,
        directory: Some("/data/tasks/workdir".to_owned()),
        session: Some("ses_0123456789".to_owned()),
        messages_waiting: 0,
        result: None,
        failure: None,
        files_cleared: None,
        last_event: EventNumber::ZERO,
        events_total: 0,
    }
}

/// Something that happens while a task runs.
pub(crate) fn observation() -> Event {
    Event::Remark {
        message: "edited src/module_7/mod.rs, then ran the tests of the module again".to_owned(),
    }
}

/// A failed task, removed from its engine, with all its events.
pub(crate) fn finished(id: u128) -> (TaskView, Vec<Event>) {
    let row = view(id, Phase::Failed);
    let mut events = vec![Event::TaskAccepted {
        spec: Box::new(row.spec.clone()),
        caller: row.caller.clone(),
        idempotency_key: None,
        fingerprint: "f".to_owned(),
        from: Default::default(),
    }];
    events.resize(EVENTS_OF_A_TASK - 2, observation());
    events.push(Event::TaskFailed {
        failure: Failure {
            kind: FailureKind::Model,
            message: "the provider answered 500".to_owned(),
        },
        result: None,
        running_ms: 60_000,
    });
    events.push(Event::AttemptRemoved { attempt: 1 });
    (row, events)
}
