//! What goes into the machine and what comes out of it, as plain data.

use crate::command::{Answer, Author, ControlSignal, MessageType};
use crate::event::{Changes, Event, Prompt, Request, SessionRef};
use crate::id::{RequestId, WallTime, WorkerId};
use crate::ports::{AnswerOutcome, EngineError, Prepared, SessionReport, Signal, WorkdirError};
use crate::view::{ControlOutcome, MessageReceipt};

/// Marks a reply that somebody waits for; made by the task actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Result of a reading.
pub type ReadResult = Result<SessionReport, EngineError>;

/// What can happen to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The actor (re)started on a folded record.
    Recovered,
    /// Admission gave it a slot.
    Dispatched {
        /// Holds that admission knew of ([`super::TaskState::holds`]).
        holds: u32,
    },
    /// Its engine is (again) there, its stream open.
    EngineUp {
        /// Who serves new sessions.
        worker: WorkerId,
    },
    /// Its engine's stream broke. What happens meanwhile is told by readings alone.
    StreamLost,
    /// Workdir job ended.
    WorkdirPrepared(Result<Prepared, WorkdirError>),
    /// Session job ended.
    SessionOpened(Result<(SessionRef, WorkerId), EngineError>),
    /// Prompt job ended.
    PromptSent {
        /// Which.
        number: u32,
        /// How.
        result: Result<(), EngineError>,
    },
    /// A reading ended.
    SessionRead(ReadResult),
    /// Abort job ended.
    Aborted(Result<(), EngineError>),
    /// Freeze or thaw job ended.
    Froze {
        /// Frozen, or thawed.
        frozen: bool,
        /// How.
        result: Result<(), EngineError>,
    },
    /// Answer job ended.
    Answered {
        /// To which request.
        request: RequestId,
        /// How.
        result: Result<AnswerOutcome, EngineError>,
    },
    /// Result job ended.
    ChangesTaken(Result<Changes, WorkdirError>),
    /// A hint from the stream.
    Signal {
        /// From a child session.
        child: bool,
        /// What.
        signal: Signal,
    },
    /// A planner's message.
    Message {
        /// Who waits.
        ticket: Ticket,
        /// Kind.
        message_type: MessageType,
        /// Text.
        text: String,
        /// As given.
        metadata: serde_json::Map<String, serde_json::Value>,
        /// By whom.
        by: Author,
    },
    /// A control signal.
    Control {
        /// Who waits.
        ticket: Ticket,
        /// Which.
        signal: ControlSignal,
        /// Why.
        reason: Option<String>,
        /// By whom.
        by: Author,
    },
    /// An answer to a request.
    Answer {
        /// Who waits.
        ticket: Ticket,
        /// Which request.
        request: RequestId,
        /// The answer.
        answer: Answer,
        /// By whom.
        by: Author,
    },
    /// Who watches it where it can be steered, all of them.
    Attendance {
        /// Who waits.
        ticket: Ticket,
        /// Them.
        people: Vec<String>,
    },
    /// The alarm that [`crate::machine::Machine::next_alarm`] asked for went off.
    Tick,
    /// The task's actor failed too often.
    GaveUp {
        /// Why.
        reason: String,
    },
}

/// What the machine wants done outside. Each names all it needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make the workdir.
    PrepareWorkdir,
    /// Open or find the session.
    OpenSession {
        /// Where.
        directory: String,
    },
    /// Send a recorded prompt.
    SendPrompt {
        /// Where.
        session: SessionRef,
        /// What.
        prompt: Prompt,
    },
    /// Read the session's record.
    ReadSession {
        /// Which.
        session: SessionRef,
        /// Message ids to look for.
        prompts: Vec<String>,
    },
    /// End the run.
    Abort {
        /// Which.
        session: SessionRef,
    },
    /// Freeze or thaw.
    Freeze {
        /// Which.
        session: SessionRef,
        /// Freeze, or thaw.
        frozen: bool,
    },
    /// Answer a request.
    GiveAnswer {
        /// Which.
        session: SessionRef,
        /// To what.
        request: Request,
        /// What.
        answer: Answer,
    },
    /// Compare the workdir with its baseline.
    TakeChanges,
    /// Text for the output file.
    AppendOutput {
        /// It.
        text: String,
    },
    /// Signals of this session belong to this task.
    Route {
        /// Which.
        session: SessionRef,
    },
    /// Drop all jobs of the attempt: their results no longer matter.
    DropJobs,
    /// Hand the attempt to the reaper; the actor's work is done.
    Release {
        /// Its session, if one was opened.
        session: Option<SessionRef>,
    },
    /// Nothing is owned outside; the actor's work is done.
    Finish,
    /// Tell a waiting caller.
    Reply(Ticket, Reply),
}

/// What a waiting caller is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A message was accepted.
    Message(MessageReceipt),
    /// A control signal took effect.
    Control(ControlOutcome),
    /// An answer is on its way.
    Answered,
    /// What was said is known.
    Noted,
    /// Refused.
    Refused(Refusal),
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// The phase does not allow it.
    Phase(String),
    /// No such open request.
    NoRequest(RequestId),
    /// The answer does not fit.
    BadAnswer(String),
    /// The engine did not do it, often enough tried.
    Engine(String),
}

/// The outcome of one input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// What happened; already folded.
    pub events: Vec<Event>,
    /// What to do once the events are durable.
    pub effects: Vec<Effect>,
}

/// Time and fresh ids for one input.
pub struct Context<'a> {
    /// Wall time.
    pub now: WallTime,
    /// Fresh ascending id text.
    pub mint: &'a mut dyn FnMut() -> String,
}
