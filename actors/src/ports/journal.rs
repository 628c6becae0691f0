//! Where events are kept. One writer (the journal actor); reads may run beside it.

use super::PortFuture;
use crate::command::Identity;
use crate::event::CommittedEvent;
use crate::id::{BatchId, EventNumber, TaskId, WallTime};
use crate::view::TaskView;

/// Events in one page, at most, however many are asked for.
pub const EVENTS_AT_ONCE: u64 = 10_000;

/// What is appended in one piece: events that belong together and the task's row as of the last of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Repeating the same id appends nothing and answers with the numbers given before.
    pub id: BatchId,
    /// The events, already numbered.
    pub events: Vec<CommittedEvent>,
    /// The row, written in the same transaction.
    pub row: Option<TaskView>,
}

/// A task that was not final when the journal was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedTask {
    /// Its id.
    pub id: TaskId,
    /// All its events, oldest first. Output never is among them.
    pub events: Vec<CommittedEvent>,
}

/// An idempotency key in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Token name of the caller.
    pub token: String,
    /// Agent id of the caller.
    pub agent_id: String,
    /// The key.
    pub key: String,
    /// Digest of the arguments.
    pub fingerprint: String,
    /// The task that it made.
    pub task: TaskId,
    /// When.
    pub at: WallTime,
}

/// What a start needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Number of the newest event; the next is one more.
    pub last_event: EventNumber,
    /// Tasks that are not final, and final ones whose attempt is not yet removed, oldest first.
    pub tasks: Vec<LoadedTask>,
    /// Events of tasks whose payload could not be read: the task is quarantined with this reason.
    pub unreadable: Vec<(TaskId, String)>,
    /// Idempotency keys made after the given time.
    pub keys: Vec<KeyRow>,
}

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Whose; `None` = nobody in particular (operators).
    pub identity: Option<Identity>,
    /// Phases (precise words); empty = all.
    pub phases: Vec<String>,
    /// Agent id.
    pub agent_id: Option<String>,
    /// Label.
    pub label: Option<String>,
    /// Created at or after.
    pub created_after: Option<WallTime>,
    /// Created before.
    pub created_before: Option<WallTime>,
    /// At most this many.
    pub limit: u32,
    /// Only tasks older than this one (created_at, id): the cursor.
    pub before: Option<(WallTime, TaskId)>,
}

/// Which final tasks to look at, in the order in which they ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedFilter {
    /// Ended before.
    pub before: WallTime,
    /// Only those that had an attempt and whose files are not yet cleared.
    pub with_files: bool,
    /// Only those that ended after this one (ended_at, id): the cursor.
    pub after: Option<(WallTime, TaskId)>,
    /// At most this many.
    pub limit: u32,
}

/// A final task, as retention looks at it.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedTask {
    /// Its row.
    pub view: TaskView,
    /// Final since.
    pub ended_at: WallTime,
    /// Nothing of its attempt is left in its engine, or it never had one.
    pub attempt_removed: bool,
}

/// Why the journal failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Nothing can be written: disk full, read-only, I/O error, lock lost.
    #[error("journal cannot be written: {0}")]
    Write(String),
    /// Something cannot be read.
    #[error("journal cannot be read: {0}")]
    Read(String),
    /// It was written by a newer program, is damaged, or belongs to a running instance.
    #[error("journal cannot be used: {0}")]
    Unusable(String),
}

/// The event store.
pub trait JournalStore: Send + Sync + 'static {
    /// Reads what a start needs; keys made before `keys_since` are left out.
    fn load(&self, keys_since: WallTime) -> PortFuture<'_, Result<Loaded, JournalError>>;

    /// Appends batches in one transaction, in order. `Ok` = all durable.
    fn append(&self, batches: Vec<Batch>) -> PortFuture<'_, Result<(), JournalError>>;

    /// Newest row of a task.
    fn task(&self, task: TaskId) -> PortFuture<'_, Result<Option<TaskView>, JournalError>>;

    /// All events of a task, oldest first, without a bound: what its state is folded from. Inside an `Err`: one of them cannot
    /// be read, and why.
    fn record(
        &self,
        task: TaskId,
    ) -> PortFuture<'_, Result<Result<Vec<CommittedEvent>, String>, JournalError>>;

    /// A page for readers: events of a task after `after`, oldest first, at most `limit` (and [`EVENTS_AT_ONCE`]), skipping
    /// `offset`.
    fn events(
        &self,
        task: TaskId,
        after: EventNumber,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<Vec<CommittedEvent>, JournalError>>;

    /// The newest `limit` events of a task, oldest first.
    fn newest_events(
        &self,
        task: TaskId,
        limit: u64,
    ) -> PortFuture<'_, Result<Vec<CommittedEvent>, JournalError>>;

    /// Tasks, newest first.
    fn list(&self, filter: ListFilter) -> PortFuture<'_, Result<Vec<TaskView>, JournalError>>;

    /// A named cursor of an outward actor.
    fn cursor(&self, name: String) -> PortFuture<'_, Result<EventNumber, JournalError>>;

    /// Moves a named cursor.
    fn set_cursor(&self, name: String, at: EventNumber)
    -> PortFuture<'_, Result<(), JournalError>>;

    /// Final tasks, those that ended first coming first.
    fn ended(&self, filter: EndedFilter) -> PortFuture<'_, Result<Vec<EndedTask>, JournalError>>;

    /// Deletes all that is known of a final task, and these cursors. From the first moment on no read finds the task;
    /// the deletion is done in pieces between which appends go on. A task that is not there is forgotten already; one
    /// that is not final is refused. Numbers of deleted events are never given again.
    fn forget(
        &self,
        task: TaskId,
        cursors: Vec<String>,
    ) -> PortFuture<'_, Result<(), JournalError>>;

    /// Finishes what an interrupted [`Self::forget`] left; deletes events of the whole instance from before
    /// `events_before` and idempotency keys from before `keys_before`. Writes nothing when there is nothing to do.
    fn tidy(
        &self,
        events_before: WallTime,
        keys_before: WallTime,
    ) -> PortFuture<'_, Result<(), JournalError>>;

    /// A write and read of nothing, for health.
    fn check(&self) -> PortFuture<'_, Result<String, JournalError>>;
}
