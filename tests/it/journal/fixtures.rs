//! Payloads that an earlier program wrote, kept as text: each must still read as the value that it was.
//!
//! A new kind of event is added to `events_v1.json` once, by hand; what stands there is never changed.

use chargehand_actors::command::{
    Answer, ControlSignal, MessageType, ModelRef, Notify, Origin, PermissionAction, PermissionRule,
    Priority, Source, TaskSpec,
};
use chargehand_actors::event::{
    AbortReason, Changes, Event, Failure, FailureKind, FileChange, FileMark, LeftOut, Outcome,
    PauseKind, Phase, Prompt, PromptKind, Question, Request, RequestEnd, RequestKind, SessionRef,
    TaskResult, Todo, ToolRun, Usage, Watchdog,
};
use chargehand_actors::id::{AttemptId, EngineName, EventNumber, RequestId, WallTime, WorkerId};
use chargehand_actors::ports::JournalStore;
use chargehand_actors::view::{OpenRequest, TaskView};
use serde_json::{Value, json};

use super::support::{Desk, caller, task_id, view};

const EVENTS: &str = include_str!("../../fixtures/events_v1.json");
const VIEW: &str = include_str!("../../fixtures/view_v1.json");

fn s(text: &str) -> String {
    text.to_owned()
}

fn usage() -> Usage {
    Usage {
        input: 1_200,
        output: 340,
        reasoning: 56,
        cache_read: 7_000,
        cache_write: 8,
        cost: 0.1 + 0.2,
    }
}

fn result() -> TaskResult {
    TaskResult {
        text: s("Done: \u{1F41F} <b>\n"),
        text_cut: true,
        changes: Changes {
            files: vec![FileChange {
                path: s("src/a.rs"),
                mark: FileMark::Modified,
                additions: 3,
                deletions: 1,
                binary: true,
            }],
            files_total: 2_000,
            additions: 3,
            deletions: 1,
            diff: s("--- a\n+++ b\n"),
            diff_bytes: 12,
            patch_file: Some(s("/data/t/patch")),
            branch: Some(s("chargehand/t")),
            left_out: vec![LeftOut {
                path: s("node_modules"),
                reason: s("nested repository"),
            }],
            note: Some(s("in part")),
        },
        usage: usage(),
    }
}

fn failure() -> Failure {
    Failure {
        kind: FailureKind::WorkerLost,
        message: s("the worker died"),
    }
}

fn session() -> SessionRef {
    SessionRef {
        id: s("ses_1"),
        directory: s("/w"),
        server: s("gen-1"),
    }
}

fn full_spec() -> TaskSpec {
    TaskSpec {
        description: s("Write it"),
        engine: EngineName::new("docker"),
        model: Some(ModelRef {
            provider: s("anthropic"),
            model: s("big"),
        }),
        agent: Some(s("build")),
        source: Source::Repository {
            url: s("https://example.org/r.git"),
            reference: Some(s("main")),
        },
        timeout_ms: 300_000,
        priority: Priority::High,
        labels: vec![s("nightly")],
        observers: vec![s("@me:example.org")],
        attended: true,
        permissions: Vec::new(),
        max_steps: None,
        notify: Notify::default(),
        conversation: None,
    }
}

fn request(kind: RequestKind) -> Request {
    Request {
        id: RequestId(s("per_1")),
        session: s("ses_1"),
        text: s("May I?"),
        kind,
    }
}

fn permission() -> Request {
    request(RequestKind::Permission {
        permission: s("bash"),
        patterns: vec![s("rm *")],
        always: Vec::new(),
    })
}

fn question() -> Request {
    request(RequestKind::Question {
        questions: vec![Question {
            text: s("Which one?"),
            header: s("Colour"),
            options: vec![s("blue"), s("red")],
        }],
    })
}

fn deny() -> Answer {
    Answer::Deny {
        message: s("nobody is here"),
    }
}

fn todo() -> Todo {
    Todo {
        content: s("test"),
        status: s("pending"),
    }
}

fn lifecycle_until_running() -> Vec<Event> {
    let mut metadata = serde_json::Map::new();
    metadata.insert(s("ticket"), json!({"n": 7}));
    vec![
        Event::TaskAccepted {
            spec: Box::new(full_spec()),
            caller: caller("planner", "agent-1"),
            idempotency_key: Some(s("k")),
            fingerprint: s("f"),
            from: Origin::default(),
        },
        Event::AttemptStarted {
            attempt: 1,
            engine: EngineName::new("docker"),
        },
        Event::WorkdirPrepared {
            directory: s("/w"),
            note: Some(s("no diff")),
        },
        Event::SessionWanted,
        Event::SessionOpened {
            session: session(),
            worker: WorkerId(s("w1")),
        },
        Event::PromptWanted {
            prompt: Prompt {
                number: 1,
                kind: PromptKind::Message,
                message_id: s("msg_1"),
                part_id: s("prt_1"),
                text: s("Write it"),
                carries: Some(s("m1")),
            },
        },
        Event::PromptAccepted { number: 1 },
        Event::PromptSeen { number: 1 },
        Event::PromptTakenUp { number: 1 },
        Event::MessageReceived {
            message_id: s("m1"),
            message_type: MessageType::RequirementChange,
            text: s("in blue"),
            metadata,
            by: s("planner/agent-1"),
            from: Origin::default(),
        },
        Event::MessageTakenUp {
            message_id: s("m1"),
        },
        Event::MessageDropped {
            message_id: s("m2"),
            reason: s("the task ended"),
        },
        Event::ControlReceived {
            signal: ControlSignal::Pause,
            reason: Some(s("lunch")),
            by: s("me"),
            from: Origin::default(),
        },
        Event::TaskPaused {
            pause: PauseKind::Frozen,
        },
        Event::TaskResumed {
            pause: PauseKind::Aborted,
        },
    ]
}

fn lifecycle_to_the_end() -> Vec<Event> {
    vec![
        Event::RequestOpened {
            request: permission(),
            expires_at: WallTime(1_790_000_000_000),
            default: deny(),
        },
        Event::RequestOpened {
            request: question(),
            expires_at: WallTime(-1),
            default: Answer::Choices {
                choices: vec![vec![s("blue")], vec![]],
            },
        },
        Event::AnswerWanted {
            request: RequestId(s("per_1")),
            answer: Answer::Allow { always: true },
            by: s("default"),
            from: Origin::default(),
        },
        Event::RequestClosed {
            request: RequestId(s("per_1")),
            end: RequestEnd::Superseded,
        },
        Event::AbortWanted {
            reason: AbortReason::Watchdog,
            detail: s("silent"),
        },
        Event::AbortSeen,
        Event::WorkerChanged {
            worker: WorkerId(s("w2")),
        },
        Event::ResumeWanted {
            resume: 1,
            reason: s("the worker died"),
        },
        Event::RunEnded {
            outcome: Outcome::Succeeded,
            text: s("all done"),
            text_cut: false,
            usage: Usage::default(),
        },
        Event::RunEnded {
            outcome: Outcome::Failed { failure: failure() },
            text: s("all done"),
            text_cut: false,
            usage: Usage::default(),
        },
        Event::TaskCompleted {
            result: Box::new(result()),
            running_ms: 12_345,
        },
        Event::TaskFailed {
            failure: failure(),
            result: Some(Box::new(result())),
            running_ms: 1,
        },
        Event::TaskTimedOut {
            message: s("5 minutes"),
            running_ms: 300_000,
        },
        Event::TaskCancelled {
            reason: Some(s("enough")),
            by: s("me"),
            from: Origin::default(),
            running_ms: 0,
        },
        Event::AttemptRemoved { attempt: 1 },
        Event::AttemptRemovalDelayed {
            attempt: 1,
            reason: s("engine down"),
        },
        Event::LateArrival { what: s("success") },
        Event::TaskAccepted {
            spec: Box::new(TaskSpec {
                permissions: vec![PermissionRule {
                    permission: s("bash"),
                    pattern: s("git push*"),
                    action: PermissionAction::Ask,
                }],
                max_steps: Some(40),
                notify: Notify::default(),
                conversation: None,
                ..full_spec()
            }),
            caller: caller("planner", "agent-1"),
            idempotency_key: None,
            fingerprint: s("f"),
            from: Origin(s("mcp 10.0.0.7")),
        },
        Event::FilesCleared,
        Event::WatchdogWarned {
            watchdog: Watchdog::Silence,
            message: s("silent for 2 minutes"),
        },
        Event::ChangesWanted { again: 1 },
        Event::AttendanceChanged {
            people: vec![s("@anna:example.org")],
        },
    ]
}

fn observations() -> Vec<Event> {
    vec![
        Event::ToolsFinished {
            tools: vec![ToolRun {
                tool: s("bash"),
                title: s("make"),
                failed: true,
                ms: 1_500,
            }],
        },
        Event::StepFinished {
            steps: 3,
            usage: usage(),
        },
        Event::FilesTouched {
            files: vec![s("a.txt")],
        },
        Event::TodosChanged {
            todos: vec![todo()],
        },
        Event::ProviderRetry {
            attempt: 2,
            message: s("overloaded"),
        },
        Event::ActivityChanged { doing: s("thinks") },
        Event::Remark {
            message: s("quiet for a minute"),
        },
        Event::EngineReconciled {
            engine: EngineName::new("local"),
            adopted: vec![AttemptId {
                task: task_id(1),
                number: 2,
            }],
            stale: vec![s("ses_9")],
        },
    ]
}

fn every_event() -> Vec<Event> {
    [
        lifecycle_until_running(),
        lifecycle_to_the_end(),
        observations(),
    ]
    .concat()
}

fn full_view() -> TaskView {
    TaskView {
        phase: Phase::InputRequired,
        spec: full_spec(),
        idempotency_key: Some(s("k")),
        started_at: Some(WallTime(2)),
        ended_at: Some(WallTime(9)),
        attempt: 2,
        running_ms: 4,
        running_since: Some(WallTime(3)),
        steps: 5,
        usage: usage(),
        todos: vec![todo()],
        files_touched: vec![s("a.txt")],
        requests: vec![OpenRequest {
            request: question(),
            asked_at: WallTime(6),
            expires_at: WallTime(7),
            default: deny(),
            answered_by: None,
        }],
        pause: Some(PauseKind::Held),
        directory: Some(s("/w")),
        session: Some(s("ses_1")),
        messages_waiting: 1,
        result: Some(result()),
        failure: Some(failure()),
        last_event: EventNumber(77),
        events_total: 70,
        ..view(task_id(1), Phase::Queued, 1)
    }
}

/// How many kinds of events there are. A new kind does not compile here until it is counted, and then fails below until
/// it has its kept payload.
fn kinds(event: &Event) -> usize {
    match event {
        Event::TaskAccepted { .. }
        | Event::AttemptStarted { .. }
        | Event::WorkdirPrepared { .. }
        | Event::SessionWanted
        | Event::SessionOpened { .. }
        | Event::PromptWanted { .. }
        | Event::PromptAccepted { .. }
        | Event::PromptSeen { .. }
        | Event::PromptTakenUp { .. }
        | Event::MessageReceived { .. }
        | Event::MessageTakenUp { .. }
        | Event::MessageDropped { .. }
        | Event::ControlReceived { .. }
        | Event::TaskPaused { .. }
        | Event::TaskResumed { .. }
        | Event::RequestOpened { .. }
        | Event::AnswerWanted { .. }
        | Event::RequestClosed { .. }
        | Event::AttendanceChanged { .. }
        | Event::AbortWanted { .. }
        | Event::AbortSeen
        | Event::WorkerChanged { .. }
        | Event::ResumeWanted { .. }
        | Event::RunEnded { .. }
        | Event::ChangesWanted { .. }
        | Event::TaskCompleted { .. }
        | Event::TaskFailed { .. }
        | Event::TaskTimedOut { .. }
        | Event::TaskCancelled { .. }
        | Event::AttemptRemoved { .. }
        | Event::AttemptRemovalDelayed { .. }
        | Event::FilesCleared
        | Event::WatchdogWarned { .. }
        | Event::LateArrival { .. }
        | Event::ToolsFinished { .. }
        | Event::StepFinished { .. }
        | Event::FilesTouched { .. }
        | Event::TodosChanged { .. }
        | Event::ProviderRetry { .. }
        | Event::ActivityChanged { .. }
        | Event::Remark { .. }
        | Event::EngineReconciled { .. } => 42,
    }
}

#[tokio::test]
async fn kept_events_still_read_as_what_they_were() {
    let kept: Vec<Value> = serde_json::from_str(EVENTS).unwrap();
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Queued, 1);
    desk.accept(&mut row).await;
    let mut raw = desk.raw().await;
    for (place, payload) in (2_i64..).zip(&kept) {
        sqlx::query(
            "INSERT INTO events (number, at, task, type, version, payload) VALUES ($1, 0, $2, '', 1, $3)",
        )
        .bind(place)
        .bind(row.id.to_string())
        .bind(payload.to_string())
        .execute(&mut raw)
        .await
        .unwrap();
    }
    let read = desk
        .journal
        .events(row.id, EventNumber(1), 0, 1_000)
        .await
        .unwrap();
    let read: Vec<_> = read.into_iter().map(|e| e.event).collect();
    assert_eq!(read, every_event());
}

#[test]
fn every_kind_of_event_is_kept() {
    let kept: Vec<Value> = serde_json::from_str(EVENTS).unwrap();
    let words: std::collections::BTreeSet<_> = kept.iter().map(|e| e["type"].to_string()).collect();
    assert_eq!(words.len(), kinds(&Event::SessionWanted));
}

#[test]
fn a_kept_view_still_reads_as_what_it_was() {
    let kept: TaskView = serde_json::from_str(VIEW).unwrap();
    assert_eq!(kept, full_view());
}
