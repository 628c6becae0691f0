//! The projections outside: the planner's memory, Matrix rooms, completion notices. Their failure never reaches a task.

use super::PortFuture;
use crate::event::CommittedEvent;
use crate::id::TaskId;
use crate::view::TaskView;

/// Why an outward call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutwardError {
    /// Trying again may help.
    #[error("{0}")]
    Transient(String),
    /// It will not.
    #[error("{0}")]
    Permanent(String),
}

/// The planner's memory of a task.
pub trait Memory: Send + Sync + 'static {
    /// For health: `none`, `classic 0.16.8`, …
    fn name(&self) -> String;
    /// Whether anything is configured; without, no actor is started.
    fn enabled(&self) -> bool;
    /// Makes the memory say what the view says. The latest call wins.
    fn write(&self, view: TaskView) -> PortFuture<'_, Result<(), OutwardError>>;
}

/// The Matrix rooms.
pub trait Rooms: Send + Sync + 'static {
    /// For health.
    fn name(&self) -> String;
    /// Whether anything is configured.
    fn enabled(&self) -> bool;
    /// Tells a task's room about events; `key` makes a repeat harmless.
    fn post(
        &self,
        task: TaskId,
        key: String,
        events: Vec<CommittedEvent>,
    ) -> PortFuture<'_, Result<(), OutwardError>>;
}

/// Completion notices to the calling agent.
pub trait Notices: Send + Sync + 'static {
    /// For health.
    fn name(&self) -> String;
    /// Whether anything is configured.
    fn enabled(&self) -> bool;
    /// Tells the agent that its task is final; `key` makes a repeat harmless where the other side has keys.
    fn notify(&self, view: TaskView, key: String) -> PortFuture<'_, Result<(), OutwardError>>;
}
