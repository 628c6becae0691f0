//! An engine runs attempts: it opens sessions, takes prompts, aborts, and tells what its own records say.
//!
//! Streams are hints, records are the truth: [`Signal`]s make the task read a [`SessionReport`], which decides.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{PortFuture, Workdirs};
use crate::command::{Answer, ModelRef, PermissionRule, Source};
use crate::event::{Prompt, Request, SessionRef, Todo, ToolRun, Usage};
use crate::id::{AttemptId, EngineName, RequestId, WallTime, WorkerId};

/// How an engine can pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseAbility {
    /// Only by ending the run and starting another in the same session.
    AbortAndPrompt,
    /// By freezing the processes.
    Freeze,
}

/// What `start` found or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineReady {
    /// Version of OpenCode.
    pub version: String,
    /// The worker that serves new sessions; engines with a worker per attempt give a constant.
    pub worker: WorkerId,
    /// Something to tell an operator (newer than tested, adopted after a restart, …).
    pub note: Option<String>,
    /// Why no new task can begin in it, and what to do; those that it has go on. The engine ends its stream when that has changed.
    pub blocked: Option<String>,
}

/// A quick look at an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineHealth {
    /// For a person: version, address, memory.
    pub detail: String,
}

/// What an engine knows about its worker without asking anybody; nothing where there is no worker of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineNumbers {
    /// Which life of the worker process this is, counted from 1 over all starts of this instance.
    pub generation: Option<u64>,
    /// Resident memory of the worker process.
    pub memory_bytes: Option<u64>,
    /// Directories open in it.
    pub directories: Option<u64>,
}

/// How to leave an engine at shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopHow {
    /// Leave workers alive for the next Chargehand.
    LeaveRunning,
    /// End everything that this engine started.
    EndWorkers,
}

/// Open (or find again) the session of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// The owner, written into the session's metadata.
    pub attempt: AttemptId,
    /// Workdir on Chargehand's machine.
    pub directory: String,
    /// For people looking at the session.
    pub title: String,
    /// Model, if the task names one.
    pub model: Option<ModelRef>,
    /// OpenCode agent, if the task names one.
    pub agent: Option<String>,
    /// The permission policy of the task.
    pub permissions: Vec<PermissionRule>,
    /// What the workdir was filled with.
    pub source: Source,
    /// Who asked for the task, for people looking at what the engine holds.
    pub caller: String,
}

/// Send a prompt exactly as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendPrompt {
    /// Where to.
    pub session: SessionRef,
    /// Ids and text.
    pub prompt: Prompt,
    /// Model, if the task names one.
    pub model: Option<ModelRef>,
    /// OpenCode agent, if the task names one.
    pub agent: Option<String>,
}

/// What the engine's status says about a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Works on it.
    Busy,
    /// Waits for the provider.
    Retrying {
        /// 1, 2, …
        attempt: u32,
        /// The provider's words.
        message: String,
        /// When it is tried again, if the engine says so.
        next: Option<WallTime>,
    },
    /// Does nothing.
    Idle,
}

/// One recorded prompt as the engine has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptState {
    /// Our id of the message.
    pub message_id: String,
    /// The message exists.
    pub stored: bool,
    /// It has its part (a message without part was cut by a crash).
    pub complete: bool,
    /// An assistant message was created after it.
    pub taken_up: bool,
    /// It is the newest user message of the session.
    pub newest: bool,
}

/// The last message of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastMessage {
    /// There is none.
    None,
    /// A user message that nobody has answered.
    User,
    /// An assistant message.
    Assistant {
        /// It has its end time.
        completed: bool,
        /// OpenCode's finish word (`stop`, `tool-calls`, `unknown`, …), if set.
        finish: Option<String>,
        /// The error it ended with: name and message.
        error: Option<(String, String)>,
        /// Its last tool call was refused by a rejected permission or question.
        rejected: bool,
    },
}

/// What the engine's own records say about a session, taken in one reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionReport {
    /// The worker that answered.
    pub worker: WorkerId,
    /// Status.
    pub activity: Activity,
    /// The prompts asked about, in the order asked.
    pub prompts: Vec<PromptState>,
    /// The last message.
    pub last: LastMessage,
    /// Open permissions and questions, child sessions included.
    pub requests: Vec<Request>,
    /// Totals over all assistant messages.
    pub usage: Usage,
    /// Number of model steps, the one under way included.
    pub steps: u32,
    /// Consecutive newest assistant messages that ended without a proper finish (OpenCode's endless loop).
    pub unfinished_in_a_row: u32,
    /// Text of the last assistant message (at most 50 KB) and whether it was cut.
    pub text: String,
    /// The text was cut.
    pub text_cut: bool,
    /// Tools running now: name and title. Of a sub-agent the tools that it runs, not itself.
    pub running_tools: Vec<ToolRun>,
    /// When the newest piece of work in the record was done (text, a tool, an answer), whoever listened then.
    #[serde(default)]
    pub newest_at: Option<WallTime>,
    /// To-do list.
    pub todos: Vec<Todo>,
}

/// What an attempt left or keeps in an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedAttempt {
    /// The owner by its metadata or label.
    pub attempt: AttemptId,
    /// The session, when there is one.
    pub session: Option<SessionRef>,
}

/// What came of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerOutcome {
    /// The engine took it.
    Given,
    /// The engine no longer knows the request.
    Gone,
}

/// Something seen on the event stream of a session. A hint.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    /// Works.
    Busy,
    /// Stopped working.
    Idle,
    /// Waits for the provider.
    Retrying {
        /// 1, 2, …
        attempt: u32,
        /// The provider's words.
        message: String,
    },
    /// `session.error`.
    Error {
        /// OpenCode's error name.
        name: String,
        /// Its message.
        message: String,
    },
    /// The worker's text, coalesced by the adapter (about ten pieces a second at most).
    Text {
        /// The next piece.
        text: String,
        /// It is reasoning, not answer.
        reasoning: bool,
    },
    /// A tool started.
    ToolStarted(ToolRun),
    /// A tool ended.
    ToolFinished(ToolRun),
    /// An assistant message was created: earlier prompts are taken up.
    AssistantStarted,
    /// A model step ended, with the usage of this step alone.
    StepFinished {
        /// Tokens and cost of this step.
        usage: Usage,
        /// OpenCode's reason word.
        reason: String,
    },
    /// Files written, relative to the workdir.
    FilesTouched(Vec<String>),
    /// To-do list.
    Todos(Vec<Todo>),
    /// The worker asks.
    RequestAsked(Request),
    /// A request is closed.
    RequestClosed(RequestId),
    /// The session was deleted.
    Deleted,
}

/// A signal with the session that it belongs to (the task's own session, also for its child sessions).
#[derive(Clone, Debug, PartialEq)]
pub struct SessionSignal {
    /// Session id of the task's session.
    pub session: String,
    /// It came from a child session.
    pub child: bool,
    /// What.
    pub signal: Signal,
}

/// What an engine's stream tells.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineSignal {
    /// The stream is open: everything from now on is seen; what was before must be read.
    Open {
        /// Who serves it.
        worker: WorkerId,
    },
    /// About one session.
    Session(SessionSignal),
    /// Event types that the adapter does not know, counted.
    Unknown(u32),
}

/// Where an engine's stream delivers. Returns `false` when nobody listens any more; then `watch` ends.
pub type SignalSink = Arc<dyn Fn(EngineSignal) -> bool + Send + Sync>;

/// Why an engine call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No answer: says nothing about the task. Tried again.
    #[error("engine does not answer: {0}")]
    Unreachable(String),
    /// The engine answered with a fault of its own. Tried again a few times.
    #[error("engine fault: {0}")]
    Fault(String),
    /// The engine refused the request for good.
    #[error("engine refused: {0}")]
    Refused(String),
    /// The session does not exist (any more).
    #[error("the session no longer exists in the engine")]
    SessionGone,
    /// The attempt's worker has ended and cannot go on, because it would end again or must not go on (out of memory, …). The
    /// text says why and what to do, for a person.
    #[error("{0}")]
    Ended(String),
    /// The engine cannot be used as it is; the text says what to do.
    #[error("{0}")]
    Unusable(String),
}

impl EngineError {
    /// Whether trying again may help.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Fault(_) => true,
            Self::Refused(_) | Self::SessionGone | Self::Ended(_) | Self::Unusable(_) => false,
        }
    }
}

/// An engine. All methods may be repeated; none decides about a task.
pub trait Engine: Send + Sync + 'static {
    /// The configured name.
    fn name(&self) -> EngineName;

    /// The workdirs of this engine's tasks, when it keeps them itself (a server that shares no disk with Chargehand).
    /// None = they are the workdirs of Chargehand's machine.
    fn workdirs(&self) -> Option<Arc<dyn Workdirs>> {
        None
    }

    /// How it can pause.
    fn pause_ability(&self) -> PauseAbility;

    /// Makes the engine usable: adopts what lives, starts what is missing, ends what is in the way. Idempotent.
    fn start(&self) -> PortFuture<'_, Result<EngineReady, EngineError>>;

    /// Opens the event stream, says [`EngineSignal::Open`], delivers until the stream breaks. `Err` says why it broke.
    fn watch(&self, sink: SignalSink) -> PortFuture<'_, Result<(), EngineError>>;

    /// A quick look.
    fn probe(&self) -> PortFuture<'_, Result<EngineHealth, EngineError>>;

    /// What is known at once, for metrics.
    fn numbers(&self) -> EngineNumbers {
        EngineNumbers::default()
    }

    /// Everything that carries this instance.
    fn owned(&self) -> PortFuture<'_, Result<Vec<OwnedAttempt>, EngineError>>;

    /// Opens the session of an attempt, or finds the one that carries it (the oldest with messages; others are removed).
    fn open(
        &self,
        request: OpenSession,
    ) -> PortFuture<'_, Result<(SessionRef, WorkerId), EngineError>>;

    /// Sends a prompt. `Ok` is not yet a stored prompt.
    fn prompt(&self, request: SendPrompt) -> PortFuture<'_, Result<(), EngineError>>;

    /// Reads what the records say, about these prompts (message ids) in particular.
    fn read(
        &self,
        session: SessionRef,
        prompts: Vec<String>,
    ) -> PortFuture<'_, Result<SessionReport, EngineError>>;

    /// Ends the session's run; `Ok` when its end was seen (repeated inside until then).
    fn abort(&self, session: SessionRef) -> PortFuture<'_, Result<(), EngineError>>;

    /// Freezes or thaws the attempt, for engines with [`PauseAbility::Freeze`].
    fn freeze(&self, session: SessionRef, frozen: bool) -> PortFuture<'_, Result<(), EngineError>>;

    /// Answers a request.
    fn answer(
        &self,
        session: SessionRef,
        request: Request,
        answer: Answer,
    ) -> PortFuture<'_, Result<AnswerOutcome, EngineError>>;

    /// Removes everything that the attempt owns in the engine: run, session, container. `Ok` when provably gone.
    fn remove(
        &self,
        attempt: AttemptId,
        session: Option<SessionRef>,
        directory: Option<String>,
    ) -> PortFuture<'_, Result<(), EngineError>>;

    /// Leaves or ends the engine at shutdown.
    fn stop(&self, how: StopHow) -> PortFuture<'_, Result<(), EngineError>>;
}
