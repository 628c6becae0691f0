//! The planner's memory, kept current by workspace-sync. Its failure never reaches a task.
//!
//! In: tasks as they stand, with their newest events. Out: whether the memory outside says so. What the memory looks like,
//! and what it is made of outside, is the adapter's affair; when it is written and given up is the actors'.

use super::{PlannerError, PortFuture};
use crate::event::CommittedEvent;
use crate::id::TaskId;
use crate::view::TaskView;

/// What a memory is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPage {
    /// The task.
    pub view: TaskView,
    /// Its newest events, oldest first; at most as many as [`Memory::events_wanted`] says.
    pub events: Vec<CommittedEvent>,
}

/// A memory outside, as an earlier call left it. Kept by the task's actor while it lives; lost with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlace {
    /// The other side's id of it.
    pub id: String,
    /// Its label there.
    pub label: String,
    /// Digest of what it says.
    pub digest: u64,
    /// Made again so often, because somebody had removed it.
    pub remade: u32,
    /// There can be no other one: it was made by a call whose answer came.
    pub only: bool,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where it stands now.
    pub place: MemoryPlace,
    /// Something was sent; the same text is not sent twice.
    pub changed: bool,
}

/// A memory of this instance found outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftMemory {
    /// The task that it is of.
    pub task: TaskId,
    /// The other side's id of it.
    pub id: String,
    /// Its label there.
    pub label: String,
    /// Whose memory it is in.
    pub agent: String,
}

/// The planner's memory of tasks.
pub trait Memory: Send + Sync + 'static {
    /// For health, before anything is known of the other side: `none`, `letta classic`, …
    fn name(&self) -> String;
    /// Whether anything is configured; without, no actor is started.
    fn enabled(&self) -> bool;
    /// Whether this task has a memory: its caller must be an agent of the other side.
    fn wants(&self, view: &TaskView) -> bool;
    /// How many of a task's newest events a page needs.
    fn events_wanted(&self) -> u64;
    /// Asks the other side who it is; gives kind, version and address, for health.
    fn probe(&self) -> PortFuture<'_, Result<String, PlannerError>>;
    /// Makes the memory say what the page says: makes it and puts it before the agent's eyes when it is not there. `at` is
    /// where an earlier call left it; without, it is looked for first unless `fresh` says that there cannot be one.
    fn write(
        &self,
        page: MemoryPage,
        at: Option<MemoryPlace>,
        fresh: bool,
    ) -> PortFuture<'_, Result<Written, PlannerError>>;
    /// Whether the end of a task is also put into the planner's archive.
    fn archives(&self) -> bool;
    /// Puts the end of a task into the planner's archive. `in_doubt`: an earlier call may have done it.
    fn archive(&self, view: TaskView, in_doubt: bool) -> PortFuture<'_, Result<(), PlannerError>>;
    /// Takes the memory out of the agent's sight and, unless it is to be kept, deletes it. What is gone already is fine.
    fn close(
        &self,
        view: TaskView,
        at: Option<MemoryPlace>,
    ) -> PortFuture<'_, Result<(), PlannerError>>;
    /// Memories of this instance that an agent sees, or that are to be deleted: those that no task has must go.
    fn left(&self) -> PortFuture<'_, Result<Vec<LeftMemory>, PlannerError>>;
    /// Removes one of them as [`Self::close`] does.
    fn remove(&self, left: LeftMemory) -> PortFuture<'_, Result<(), PlannerError>>;
}
