//! Notices to the calling agent: its task ended, or its worker asks. Their failure never reaches a task.
//!
//! In: what there is to say. Out: whether the agent's side has it. The agent's own turn is never waited for.

use super::{PlannerError, PortFuture};
use crate::id::EventNumber;
use crate::view::{OpenRequest, TaskView};

/// What a notice is about.
#[derive(Clone, Debug, PartialEq)]
pub enum NoticeAbout {
    /// The task has ended.
    End,
    /// The worker waits for an answer.
    Request(Box<OpenRequest>),
}

/// One notice.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The task.
    pub view: TaskView,
    /// What about.
    pub about: NoticeAbout,
    /// The event that it tells of; with the task's id it names the notice.
    pub event: EventNumber,
}

impl Notice {
    /// Names the notice: the same for every try.
    pub fn key(&self) -> String {
        format!("{}:{}", self.view.id, self.event)
    }
}

/// What became of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It was sent now.
    Now,
    /// It was found there: an earlier try had arrived.
    Before,
}

/// Notices to agents.
pub trait Notices: Send + Sync + 'static {
    /// For health.
    fn name(&self) -> String;
    /// Whether anything is configured.
    fn enabled(&self) -> bool;
    /// Whether the task's caller can be reached.
    fn reaches(&self, view: &TaskView) -> bool;
    /// Tells the agent. `in_doubt`: an earlier try may have arrived, so it is looked for first.
    fn notify(
        &self,
        notice: Notice,
        in_doubt: bool,
    ) -> PortFuture<'_, Result<Delivered, PlannerError>>;
}
