//! What happened, in the past tense, as plain data: the journal's content and everything that is told to readers.
//!
//! In: decisions of [`crate::machine`] and of the actors. Out: payloads of the journal, read by every projection.
//! A payload is only ever extended; a changed meaning needs a new version and an upcaster in the journal adapter.

use serde::{Deserialize, Serialize};

pub use crate::outcome::{
    Changes, Failure, FailureKind, FileChange, FileMark, LeftOut, Outcome, TaskResult, Usage,
};

use crate::command::{Answer, Caller, ControlSignal, MessageType, TaskSpec};
use crate::id::{AttemptId, EngineName, EventNumber, RequestId, TaskId, WallTime, WorkerId};

/// Version written with each payload.
pub const PAYLOAD_VERSION: u32 = 1;

/// Where a task stands. Exactly one at a time; only [`crate::machine`] changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted, waits for a slot and a ready engine.
    Queued,
    /// Has a slot: workdir, session or container are being made.
    Starting,
    /// The worker has the prompt.
    Running,
    /// Stopped on request, can be resumed.
    Paused,
    /// The worker waits for an answer to a permission or question.
    InputRequired,
    /// The worker is done; the result is being read.
    Finishing,
    /// Done, the result is there.
    Completed,
    /// Ended without success; the error says why.
    Failed,
    /// Ran longer than allowed.
    Timeout,
    /// Ended on request.
    Cancelled,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::InputRequired,
        Self::Finishing,
        Self::Completed,
        Self::Failed,
        Self::Timeout,
        Self::Cancelled,
    ];

    /// Whether nothing can change the phase any more.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Timeout | Self::Cancelled => true,
            Self::Queued
            | Self::Starting
            | Self::Running
            | Self::Paused
            | Self::InputRequired
            | Self::Finishing => false,
        }
    }

    /// The precise word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::InputRequired => "input_required",
            Self::Finishing => "finishing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }

    /// The original system's word for it: one of seven.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting | Self::Running | Self::InputRequired | Self::Finishing => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }
}

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

/// What kind of thing the worker asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RequestKind {
    /// May it do this?
    Permission {
        /// What for: `bash`, `edit`, `external_directory`, …
        permission: String,
        /// The commands or paths concerned.
        patterns: Vec<String>,
    },
    /// Which one?
    Question {
        /// The questions in order.
        questions: Vec<Question>,
    },
}

/// One question of the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The question.
    pub text: String,
    /// Short title.
    pub header: String,
    /// Answers offered.
    pub options: Vec<String>,
}

/// A permission or question of the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The engine's id of it.
    pub id: RequestId,
    /// The session that asks (a child session of the task's session, or itself).
    pub session: String,
    /// What it asks, for a person.
    pub text: String,
    /// Details by kind.
    #[serde(flatten)]
    pub kind: RequestKind,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestEnd {
    /// Somebody answered.
    Answered,
    /// Nobody was attached or nobody answered in time; the default went out.
    Defaulted,
    /// The engine no longer knows it: answered elsewhere or gone with its run.
    Gone,
    /// Closed by a pause, a cancel or an end.
    Superseded,
}

/// Why a run is ended from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbortReason {
    /// To pause.
    Pause,
    /// A watchdog fired (endless loop, silence, retry limit).
    Watchdog,
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
    },
    /// The request is closed.
    RequestClosed {
        /// Which.
        request: RequestId,
        /// How.
        end: RequestEnd,
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
    /// A remark for readers: a watchdog's warning, a resynchronisation.
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
            | Self::AbortWanted { .. }
            | Self::AbortSeen
            | Self::WorkerChanged { .. }
            | Self::ResumeWanted { .. }
            | Self::RunEnded { .. }
            | Self::TaskCompleted { .. }
            | Self::TaskFailed { .. }
            | Self::TaskTimedOut { .. }
            | Self::TaskCancelled { .. }
            | Self::AttemptRemoved { .. }
            | Self::AttemptRemovalDelayed { .. }
            | Self::LateArrival { .. }
            | Self::EngineReconciled { .. } => true,
        }
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
