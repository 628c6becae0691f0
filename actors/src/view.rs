//! What readers see of a task: plain data made by the registry from committed events, and kept in the `tasks` row.
//!
//! In: folded task states. Out: status, list and history answers.

use serde::{Deserialize, Serialize};

use crate::command::{Answer, Caller, TaskSpec};
use crate::event::{CommittedEvent, Failure, PauseKind, Phase, Request, TaskResult, Todo, Usage};
use crate::id::{EngineName, EventNumber, TaskId, WallTime};

/// A task as of its event `last_event`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub phase_since: WallTime,
    /// What was asked for.
    pub spec: TaskSpec,
    /// By whom.
    pub caller: Caller,
    /// With this key, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Accepted at.
    pub created_at: WallTime,
    /// Got its slot at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<WallTime>,
    /// Final since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<WallTime>,
    /// Attempts so far; 0 while queued.
    pub attempt: u32,
    /// Running time up to `running_since` (or in all, when that is absent), in milliseconds.
    pub running_ms: u64,
    /// The clock against the timeout runs since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<WallTime>,
    /// What it is doing, in one sentence.
    pub doing: String,
    /// Steps of the model so far.
    pub steps: u32,
    /// Tokens and cost so far.
    pub usage: Usage,
    /// The worker's to-do list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub todos: Vec<Todo>,
    /// Files seen written so far (the exact set is in the result).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files_touched: Vec<String>,
    /// Open requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<OpenRequest>,
    /// How it is paused, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseKind>,
    /// Workdir on Chargehand's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The engine's session id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Messages accepted and not yet taken up by the worker.
    pub messages_waiting: u32,
    /// What came out, when something ran and ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<TaskResult>,
    /// Why it failed, timed out or was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What it kept on disk (workdir, patch, output) was removed then; its record and result stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_cleared: Option<WallTime>,
    /// Its newest event.
    pub last_event: EventNumber,
    /// How many events it has.
    pub events_total: u64,
}

/// An open request of the worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// What it asks.
    pub request: Request,
    /// Since when.
    pub asked_at: WallTime,
    /// When its default is applied.
    pub expires_at: WallTime,
    /// The answer that is given then.
    pub default: Answer,
    /// Who answered it already (`policy` and `default` included), while the answer is on its way to the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
}

/// Answer to a status read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// The task.
    pub view: TaskView,
    /// Events asked for, oldest first.
    pub events: Vec<CommittedEvent>,
    /// There are more events after the last one of `events`.
    pub more_events: bool,
    /// Place in the queue (1 = next), while queued.
    pub queue_position: Option<u32>,
    /// What a queued task waits for: a slot, its engine, a resume.
    pub waiting_for: Option<String>,
}

/// A page of a task's events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryPage {
    /// The task.
    pub view: TaskView,
    /// The page, oldest first.
    pub events: Vec<CommittedEvent>,
    /// Number of all events.
    pub total: u64,
    /// As asked.
    pub offset: u64,
}

/// A page of tasks, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListPage {
    /// The page.
    pub tasks: Vec<TaskView>,
    /// For the next page; absent on the last.
    pub next_cursor: Option<String>,
}

/// Answer to an accepted task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    /// The task.
    pub task: TaskId,
    /// Its phase now.
    pub phase: Phase,
    /// The same key had been used before: this is the earlier task.
    pub existing: bool,
    /// Place in the queue (1 = next), while queued.
    pub queue_position: Option<u32>,
}

/// Answer to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageReceipt {
    /// Its id.
    pub message_id: String,
    /// When it was accepted.
    pub at: WallTime,
    /// What happens with it now, for the sender: sent, or kept until the task is resumed or started.
    pub delivery: Delivery,
}

/// What happens with an accepted message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// On its way to the worker's session; `message_taken_up` says when it is read.
    Sent,
    /// Kept; goes to the worker when the task starts or is resumed.
    Kept,
}

/// Answer to a control signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlOutcome {
    /// The phase reached.
    pub phase: Phase,
    /// How it is paused, when it is.
    pub pause: Option<PauseKind>,
    /// The signal changed nothing, because the task already was where it leads.
    pub already: bool,
}

/// Health of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHealth {
    /// `journal`, `engine local`, `memory`, …
    pub name: String,
    /// How it is.
    pub state: HealthState,
    /// Since when.
    pub since: WallTime,
    /// Why, or what it is (version).
    pub detail: String,
}

/// How a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Works.
    Ok,
    /// Being started or recovered.
    Starting,
    /// Works, but not as it should.
    Degraded,
    /// Does not work.
    Down,
    /// Not configured.
    Off,
}

/// Health of the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// Parts in a fixed order.
    pub parts: Vec<PartHealth>,
    /// Tasks that hold a slot.
    pub active: u32,
    /// Tasks that wait.
    pub queued: u32,
    /// Slots.
    pub limit: u32,
    /// Places in the queue.
    pub queue_limit: u32,
    /// A submit would be accepted now.
    pub accepting: bool,
    /// Newest event.
    pub last_event: EventNumber,
}

/// A state folded into numbers for one engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// Its name.
    pub engine: EngineName,
    /// Its version.
    pub version: String,
}
