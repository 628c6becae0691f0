//! What the tree answers when it does not do what was asked. Each message says what it means for the task and what to do.

use crate::event::Phase;
use crate::id::{RequestId, TaskId};

/// Why a command or read was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// No such task, or not one that the asker may see.
    #[error("no task {0} is known to you; list_tasks shows the tasks you can see")]
    TaskNotFound(TaskId),
    /// The queue has no free place.
    #[error(
        "the queue is full ({queued} tasks wait, limit {limit}); try again when a task has ended"
    )]
    QueueFull {
        /// Waiting now.
        queued: u32,
        /// Allowed.
        limit: u32,
    },
    /// This caller has no free place of its own.
    #[error(
        "you already have {held} tasks in the queue, your limit is {limit}; nothing was accepted. Try again when one of yours has started, or cancel one"
    )]
    CallerLimit {
        /// Waiting now.
        held: u32,
        /// Allowed.
        limit: u32,
    },
    /// The disk is nearly full: what runs may end, nothing new begins.
    #[error(
        "the disk is nearly full ({0}); nothing was accepted. Running tasks go on. Try again when an operator has made room"
    )]
    DiskLow(String),
    /// The idempotency key was used with other arguments.
    #[error(
        "idempotency_key was used within 24 hours for task {task} with other arguments; use a new key for a new task, or repeat the arguments exactly"
    )]
    KeyReused {
        /// The earlier task.
        task: TaskId,
    },
    /// No engine of this name is configured.
    #[error("engine \"{engine}\" is not configured; configured: {configured}")]
    NoSuchEngine {
        /// As asked.
        engine: String,
        /// Names, comma separated.
        configured: String,
    },
    /// The phase does not allow it.
    #[error("task {task} is {phase}: {why}", phase = phase.as_str())]
    WrongPhase {
        /// The task.
        task: TaskId,
        /// Its phase.
        phase: Phase,
        /// Why not, and what to do.
        why: String,
    },
    /// The engine did not do what the command asked for.
    #[error(
        "task {task} is {phase} as before: {why}. Repeat the command, or cancel the task",
        phase = phase.as_str()
    )]
    EngineFailed {
        /// The task.
        task: TaskId,
        /// Its phase.
        phase: Phase,
        /// What the engine said.
        why: String,
    },
    /// The request is not open.
    #[error("task {task} has no open request {request}; get_task_status lists the open ones")]
    RequestNotOpen {
        /// The task.
        task: TaskId,
        /// As asked.
        request: RequestId,
    },
    /// The answer does not fit the request.
    #[error("{0}")]
    BadAnswer(String),
    /// A path or file problem.
    #[error("{0}")]
    File(String),
    /// What the task kept on disk is gone after its retention time.
    #[error(
        "the workdir, patch and output of task {task} were removed, {days} days after its end (retention.files_days); its record and result are still there: get_task_status, get_task_history"
    )]
    FilesCleared {
        /// The task.
        task: TaskId,
        /// Whole days between its end and the removal.
        days: u64,
    },
    /// Something about the task's room.
    #[error("{0}")]
    Room(String),
    /// Chargehand is stopping or starting.
    #[error("Chargehand is {0}; nothing was done, try again shortly")]
    Closed(&'static str),
    /// The tree did not answer in time. A command may still take effect.
    #[error(
        "no answer within {seconds} s; the command may still take effect, read get_task_status before repeating it"
    )]
    Slow {
        /// Seconds waited.
        seconds: u64,
    },
    /// Something inside failed.
    #[error("internal error: {0}")]
    Internal(String),
}

impl TreeError {
    /// A stable word for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TaskNotFound(_) => "TASK_NOT_FOUND",
            Self::QueueFull { .. } => "QUEUE_FULL",
            Self::CallerLimit { .. } => "CALLER_LIMIT",
            Self::DiskLow(_) => "DISK_LOW",
            Self::KeyReused { .. } => "IDEMPOTENCY_KEY_REUSED",
            Self::NoSuchEngine { .. } => "NO_SUCH_ENGINE",
            Self::WrongPhase { .. } => "WRONG_PHASE",
            Self::EngineFailed { .. } => "ENGINE_FAILED",
            Self::RequestNotOpen { .. } => "REQUEST_NOT_OPEN",
            Self::BadAnswer(_) => "BAD_ANSWER",
            Self::File(_) => "FILE",
            Self::FilesCleared { .. } => "FILES_REMOVED",
            Self::Room(_) => "ROOM",
            Self::Closed(_) => "UNAVAILABLE",
            Self::Slow { .. } => "NO_ANSWER_YET",
            Self::Internal(_) => "INTERNAL",
        }
    }
}
