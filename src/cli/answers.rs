//! The server's answers as far as the command line reads them.
//!
//! In: the structured content of tools and of the operator's endpoints. Out: plain data. Fields that this program does
//! not know are ignored and missing ones take their default, so that a newer or older server still works.

use serde::Deserialize;

/// One event of a task.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EventLine {
    /// Milliseconds since 1970.
    pub(crate) timestamp: i64,
    /// The precise kind, such as `tools_finished`.
    pub(crate) event: String,
    /// Its number in the journal.
    pub(crate) number: u64,
    /// One sentence.
    pub(crate) message: String,
}

/// Tokens and cost.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Usage {
    /// Prompt tokens.
    pub(crate) input: u64,
    /// Answer tokens.
    pub(crate) output: u64,
    /// Reasoning tokens.
    pub(crate) reasoning: u64,
    /// Tokens read from the provider's cache.
    pub(crate) cache_read: u64,
    /// Tokens written to the provider's cache.
    pub(crate) cache_write: u64,
    /// US dollars; 0 when the price is not known.
    pub(crate) cost: f64,
}

impl Usage {
    /// Everything that the model read.
    pub(crate) const fn read(&self) -> u64 {
        self.input + self.cache_read + self.cache_write
    }

    /// Everything that the model wrote.
    pub(crate) const fn written(&self) -> u64 {
        self.output + self.reasoning
    }
}

/// One changed file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ChangedFile {
    /// Relative to the workdir.
    pub(crate) path: String,
    /// `added`, `modified`, `deleted`.
    pub(crate) change: String,
    /// Lines added.
    pub(crate) additions: u64,
    /// Lines removed.
    pub(crate) deletions: u64,
}

/// What the worker changed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Changes {
    /// How many files.
    pub(crate) files_total: u64,
    /// Lines added.
    pub(crate) additions: u64,
    /// Lines removed.
    pub(crate) deletions: u64,
    /// The first of them.
    pub(crate) files: Vec<ChangedFile>,
    /// Branch in the task's own repository copy.
    pub(crate) branch: Option<String>,
    /// Patch file on the server's machine.
    pub(crate) patch_file: Option<String>,
    /// How many things are not part of the result.
    pub(crate) left_out: u64,
    /// Why there are no changes, or only some.
    pub(crate) note: Option<String>,
}

/// An open permission or question of the worker.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OpenRequest {
    /// Its id.
    pub(crate) request_id: String,
    /// `permission` or `question`.
    pub(crate) kind: String,
    /// What the worker asks.
    pub(crate) text: String,
    /// The commands or paths of a permission.
    pub(crate) patterns: Vec<String>,
    /// The questions of a question.
    pub(crate) questions: Vec<Question>,
    /// When its default is given, milliseconds since 1970.
    pub(crate) expires_at: i64,
}

/// One question of the worker.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Question {
    /// The question.
    pub(crate) text: String,
    /// Answers offered.
    pub(crate) options: Vec<String>,
}

/// `get_task_status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TaskStatus {
    /// The task.
    pub(crate) task_id: String,
    /// One of the original's seven words.
    pub(crate) status: String,
    /// The precise phase.
    pub(crate) phase: String,
    /// What it is doing, in one sentence.
    pub(crate) doing: String,
    /// Whose task it is.
    pub(crate) agent_id: String,
    /// Which engine runs it.
    pub(crate) engine: String,
    /// Milliseconds since 1970.
    pub(crate) created_at: i64,
    /// From the slot to the end.
    pub(crate) duration_ms: Option<u64>,
    /// Attempts so far.
    pub(crate) attempt: u64,
    /// Model steps so far.
    pub(crate) steps: u64,
    /// Tokens and cost so far.
    pub(crate) usage: Usage,
    /// Place in the queue, 1 = next.
    pub(crate) queue_position: Option<u64>,
    /// What a queued task waits for.
    pub(crate) waiting_for: Option<String>,
    /// Files seen written so far.
    pub(crate) files_touched: Vec<String>,
    /// Open requests of the worker.
    pub(crate) requests: Vec<OpenRequest>,
    /// New events since the cursor, oldest first.
    pub(crate) recent_events: Vec<EventLine>,
    /// The cursor for what is new after this answer.
    pub(crate) next_event: u64,
    /// There are more than these.
    pub(crate) more_events: bool,
    /// The worker's last text.
    pub(crate) output: Option<String>,
    /// Why it did not complete.
    pub(crate) error: Option<String>,
    /// What changed.
    pub(crate) changes: Option<Changes>,
    /// The workdir on the server's machine.
    pub(crate) directory: Option<String>,
}

impl TaskStatus {
    /// Whether nothing changes any more.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self.status.as_str(),
            "completed" | "failed" | "timeout" | "cancelled"
        )
    }
}

/// One task of `list_tasks`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListedTask {
    /// The task.
    pub(crate) task_id: String,
    /// The precise phase.
    pub(crate) phase: String,
    /// The start of what was asked for.
    pub(crate) description: String,
    /// Whose task it is.
    pub(crate) agent_id: String,
    /// Milliseconds since 1970.
    pub(crate) created_at: i64,
    /// Got its slot, milliseconds since 1970.
    pub(crate) started_at: Option<i64>,
    /// Ended, milliseconds since 1970.
    pub(crate) completed_at: Option<i64>,
}

/// `list_tasks`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TaskList {
    /// Newest first.
    pub(crate) tasks: Vec<ListedTask>,
    /// For the next page.
    pub(crate) next_cursor: Option<String>,
}

/// `opencode_execute_task`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Accepted {
    /// The new task.
    pub(crate) task_id: String,
    /// The key had been used before: this is the earlier task.
    pub(crate) existing: bool,
}

/// A piece of a stored text.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Text {
    /// The piece.
    pub(crate) text: String,
    /// Where to read on.
    pub(crate) next_offset: u64,
    /// Size of the whole now.
    pub(crate) total: u64,
}
