//! What happened, in the past tense, as plain data: the journal's content and everything that is told to readers.
//!
//! In: decisions of [`crate::machine`] and of the actors. Out: payloads of the journal, read by every projection.
//! A payload is only ever extended; a changed meaning needs a new version and an upcaster in the journal adapter.

use serde::{Deserialize, Serialize};

pub use crate::outcome::{
    Changes, Failure, FailureKind, FileChange, FileMark, LeftOut, Outcome, TaskResult, Usage,
};
pub use crate::phase::Phase;
pub use crate::request::{Question, Request, RequestEnd, RequestKind};

use crate::command::{Answer, Caller, ControlSignal, MessageType, Origin, TaskSpec};
use crate::id::{AttemptId, EngineName, EventNumber, RequestId, TaskId, WallTime, WorkerId};

/// Version written with each payload.
pub const PAYLOAD_VERSION: u32 = 1;

/// A session in an engine, as the engine needs it to find it again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionRef {
    /// OpenCode's session id (`ses_…`).
    pub id: String,
    /// The working directory as the worker sees it.
    pub directory: String,
    /// What serves it, where the engine has more than one server: a worker generation or a container name.
    pub server: String,
}

/// Why a prompt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// The task itself.
    First,
    /// A message of the planner.
    Message,
    /// Goes on after a pause or a lost worker.
    Resume,
    /// Asks a silent worker to go on.
    Nudge,
}

/// A prompt, recorded before it is sent, so that a repeat is exactly the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// 1, 2, … within the attempt.
    pub number: u32,
    /// Why.
    pub kind: PromptKind,
    /// `msg_…`, ascending.
    pub message_id: String,
    /// `prt_…` of its only part.
    pub part_id: String,
    /// The text.
    pub text: String,
    /// The planner's message that it carries, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carries: Option<String>,
}

/// One line of the worker's to-do list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Todo {
    /// What.
    pub content: String,
    /// OpenCode's word: pending, in_progress, completed, cancelled.
    pub status: String,
}

/// Why a run is ended from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortReason {
    /// To pause.
    Pause,
    /// Nothing was heard of the run for long: it is ended, and the worker is asked to go on.
    Nudge,
    /// A watchdog fired (endless loop, silence, retry limit).
    Watchdog,
}

/// What watches over a run that does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watchdog {
    /// Nothing runs and nothing is heard.
    Silence,
    /// Too many model steps.
    Steps,
    /// The provider makes the worker wait again and again, or says that a quota is used up.
    Retries,
    /// Model answers without an end, one after the other.
    Unfinished,
}

impl Watchdog {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Silence, Self::Steps, Self::Retries, Self::Unfinished];

    /// The word in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::Steps => "steps",
            Self::Retries => "retries",
            Self::Unfinished => "unfinished",
        }
    }
}

/// How a pause is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseKind {
    /// The processes are frozen and go on where they were.
    Frozen,
    /// The run is aborted and continued by a new prompt in the same session.
    Aborted,
    /// The task had not started; it keeps its place in the queue but is not dispatched.
    Held,
}

/// Something that happened. `task` of [`CommittedEvent`] says to which task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    // ---- life of the task ----
    /// The task exists and waits.
    TaskAccepted {
        /// What was asked for.
        spec: Box<TaskSpec>,
        /// By whom.
        caller: Caller,
        /// With this key, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency_key: Option<String>,
        /// Digest of the arguments, to recognise the same key with other arguments.
        fingerprint: String,
        /// From where.
        #[serde(default, skip_serializing_if = "Origin::is_empty")]
        from: Origin,
    },
    /// The task got a slot. Phase `starting`.
    AttemptStarted {
        /// 1, 2, …
        attempt: u32,
        /// Where.
        engine: EngineName,
    },
    /// The workdir is ready and its baseline is taken.
    WorkdirPrepared {
        /// Path on Chargehand's machine.
        directory: String,
        /// The baseline could not be taken, or the workdir is not ours: why there will be no diff.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A session is about to be opened; one that carries this attempt may exist from here on.
    SessionWanted,
    /// The session exists.
    SessionOpened {
        /// It.
        session: SessionRef,
        /// The worker that serves it.
        worker: WorkerId,
    },
    /// A prompt is about to be sent.
    PromptWanted {
        /// It.
        prompt: Prompt,
    },
    /// The engine took the prompt (it may not be stored yet). The first one starts phase `running`.
    PromptAccepted {
        /// Which.
        number: u32,
    },
    /// The prompt stands in the engine's own record.
    PromptSeen {
        /// Which.
        number: u32,
    },
    /// The worker has begun to answer it.
    PromptTakenUp {
        /// Which.
        number: u32,
    },
    /// A message of the planner was accepted.
    MessageReceived {
        /// Its id, told to the sender.
        message_id: String,
        /// Kind.
        message_type: MessageType,
        /// Text.
        text: String,
        /// As given.
        #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
        metadata: serde_json::Map<String, serde_json::Value>,
        /// By whom.
        by: String,
        /// From where.
        #[serde(default, skip_serializing_if = "Origin::is_empty")]
        from: Origin,
    },
    /// The worker has begun to answer a prompt that carries the message.
    MessageTakenUp {
        /// Which.
        message_id: String,
    },
    /// A message will never reach the worker.
    MessageDropped {
        /// Which.
        message_id: String,
        /// Why.
        reason: String,
    },
    /// A control signal was accepted.
    ControlReceived {
        /// Which.
        signal: ControlSignal,
        /// Why, as given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// By whom.
        by: String,
        /// From where.
        #[serde(default, skip_serializing_if = "Origin::is_empty")]
        from: Origin,
    },
    /// Phase `paused` (or held in the queue).
    TaskPaused {
        /// How.
        pause: PauseKind,
    },
    /// The pause is over; the phase is what it was before.
    TaskResumed {
        /// How it was paused.
        pause: PauseKind,
    },
    /// The worker asks. Phase `input_required`.
    RequestOpened {
        /// What.
        request: Request,
        /// When its default is applied.
        expires_at: WallTime,
        /// The answer that is given then.
        default: Answer,
    },
    /// An answer is about to be given.
    AnswerWanted {
        /// To which request.
        request: RequestId,
        /// The answer.
        answer: Answer,
        /// By whom; `default` when nobody answered.
        by: String,
        /// From where.
        #[serde(default, skip_serializing_if = "Origin::is_empty")]
        from: Origin,
    },
    /// The request is closed.
    RequestClosed {
        /// Which.
        request: RequestId,
        /// How.
        end: RequestEnd,
    },
    /// Who watches the task where it can be steered and may answer requests; in place of those named before.
    AttendanceChanged {
        /// Matrix users; empty = nobody any more.
        people: Vec<String>,
    },
    /// A run is about to be ended from our side.
    AbortWanted {
        /// Why.
        reason: AbortReason,
        /// What happened, for a person.
        detail: String,
    },
    /// The run's end was seen in the engine.
    AbortSeen,
    /// The session is now served by another worker process; what ran was interrupted.
    WorkerChanged {
        /// The new one.
        worker: WorkerId,
    },
    /// The interrupted run is about to be continued.
    ResumeWanted {
        /// 1, 2, … of the attempt.
        resume: u32,
        /// Why, for a person.
        reason: String,
    },
    /// The worker is done; the result is being read. Phase `finishing`.
    RunEnded {
        /// How.
        #[serde(flatten)]
        outcome: Outcome,
        /// The worker's last answer (at most 50 KB).
        text: String,
        /// The answer was cut.
        #[serde(default)]
        text_cut: bool,
        /// Totals of the attempt.
        usage: Usage,
    },
    /// The changes are about to be taken again: whoever took them did not come to an end.
    ChangesWanted {
        /// 1, 2, … of the task.
        again: u32,
    },
    /// Final: done.
    TaskCompleted {
        /// What came out.
        result: Box<TaskResult>,
        /// Running time.
        running_ms: u64,
    },
    /// Final: failed.
    TaskFailed {
        /// Why.
        failure: Failure,
        /// What came out before, if anything ran.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<Box<TaskResult>>,
        /// Running time.
        running_ms: u64,
    },
    /// Final: ran longer than allowed.
    TaskTimedOut {
        /// For a person: which limit.
        message: String,
        /// Running time.
        running_ms: u64,
    },
    /// Final: ended on request.
    TaskCancelled {
        /// Why, as given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// By whom.
        by: String,
        /// From where.
        #[serde(default, skip_serializing_if = "Origin::is_empty")]
        from: Origin,
        /// Running time.
        running_ms: u64,
    },
    /// What the attempt owned (session, container) is gone from the engine. Comes after the final event.
    AttemptRemoved {
        /// Which.
        attempt: u32,
    },
    /// What the attempt owned could not be removed yet; the reaper goes on trying, the slot is free.
    AttemptRemovalDelayed {
        /// Which.
        attempt: u32,
        /// Why.
        reason: String,
    },
    /// What the task kept on disk (workdir, baseline, patch, output) was removed after its retention time; its record stays.
    FilesCleared,
    /// Something arrived after the end and changed nothing.
    LateArrival {
        /// What it was.
        what: String,
    },
    // ---- observations: coalesced, not awaited ----
    /// Tool calls that ended.
    ToolsFinished {
        /// Them.
        tools: Vec<ToolRun>,
    },
    /// A model step ended.
    StepFinished {
        /// Steps so far.
        steps: u32,
        /// Totals so far.
        usage: Usage,
    },
    /// Files that the worker wrote, relative to the workdir where possible.
    FilesTouched {
        /// Them.
        files: Vec<String>,
    },
    /// The worker's to-do list changed.
    TodosChanged {
        /// All of it.
        todos: Vec<Todo>,
    },
    /// The provider makes the worker wait.
    ProviderRetry {
        /// 1, 2, …
        attempt: u32,
        /// The provider's words.
        message: String,
    },
    /// What the worker is doing now.
    ActivityChanged {
        /// One sentence.
        doing: String,
    },
    /// A watchdog noticed something and did not end the run.
    WatchdogWarned {
        /// Which.
        watchdog: Watchdog,
        /// What it noticed and what it will do next, for a person.
        message: String,
    },
    /// A remark for readers, such as a resynchronisation.
    Remark {
        /// It.
        message: String,
    },
    // ---- not of one task ----
    /// An engine's own records were compared with the journal.
    EngineReconciled {
        /// Which.
        engine: EngineName,
        /// Attempts that are still there and owned.
        adopted: Vec<AttemptId>,
        /// What carried our instance but no live owner, and is being removed.
        stale: Vec<String>,
    },
}

/// A tool call that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRun {
    /// Tool name.
    pub tool: String,
    /// What it did, in the worker's words or the command.
    pub title: String,
    /// It ended with an error.
    #[serde(default)]
    pub failed: bool,
    /// How long, in milliseconds; 0 when not known.
    #[serde(default)]
    pub ms: u64,
}

/// An event with its place in the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommittedEvent {
    /// Its number.
    pub number: EventNumber,
    /// When it was decided.
    pub at: WallTime,
    /// The task that it belongs to; none for events of the whole instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// What happened.
    pub event: Event,
}

impl Event {
    /// Whether this belongs to the life of a task (awaited, never dropped) rather than to its observation.
    pub const fn is_lifecycle(&self) -> bool {
        match self {
            Self::ToolsFinished { .. }
            | Self::StepFinished { .. }
            | Self::FilesTouched { .. }
            | Self::TodosChanged { .. }
            | Self::ProviderRetry { .. }
            | Self::ActivityChanged { .. }
            | Self::Remark { .. } => false,
            Self::TaskAccepted { .. }
            | Self::AttemptStarted { .. }
            | Self::WorkdirPrepared { .. }
            | Self::SessionWanted
            | Self::SessionOpened { .. }
            | Self::PromptWanted { .. }
            | Self::PromptAccepted { .. }
            | Self::PromptSeen { .. }
            | Self::PromptTakenUp { .. }
            | Self::MessageReceived { .. }
            | Self::MessageTakenUp { .. }
            | Self::MessageDropped { .. }
            | Self::ControlReceived { .. }
            | Self::TaskPaused { .. }
            | Self::TaskResumed { .. }
            | Self::RequestOpened { .. }
            | Self::AnswerWanted { .. }
            | Self::RequestClosed { .. }
            | Self::AttendanceChanged { .. }
            | Self::AbortWanted { .. }
            | Self::AbortSeen
            | Self::WorkerChanged { .. }
            | Self::ResumeWanted { .. }
            | Self::RunEnded { .. }
            | Self::ChangesWanted { .. }
            | Self::TaskCompleted { .. }
            | Self::TaskFailed { .. }
            | Self::TaskTimedOut { .. }
            | Self::TaskCancelled { .. }
            | Self::AttemptRemoved { .. }
            | Self::AttemptRemovalDelayed { .. }
            | Self::FilesCleared
            | Self::WatchdogWarned { .. }
            | Self::LateArrival { .. }
            | Self::EngineReconciled { .. } => true,
        }
    }

    /// Whether this comes only after a task's final event: bookkeeping that changes nothing about the task.
    pub const fn is_after_end(&self) -> bool {
        matches!(
            self,
            Self::AttemptRemoved { .. }
                | Self::AttemptRemovalDelayed { .. }
                | Self::FilesCleared
                | Self::LateArrival { .. }
        )
    }

    /// Whether this is a task's final event.
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::TaskCompleted { .. }
                | Self::TaskFailed { .. }
                | Self::TaskTimedOut { .. }
                | Self::TaskCancelled { .. }
        )
    }
}
