//! What several tools answer with: events, tokens, changes, requests, as JSON shapes with a schema.
//!
//! In: views of the tree. Out: plain serialisable structs. A field that has no value is left out, never `null`.

use chargehand_actors::event::{CommittedEvent, FileMark, PauseKind, Phase};
use chargehand_actors::view::TaskView;
use schemars::JsonSchema;
use serde::Serialize;

use crate::words;

/// An event of a task.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EventOut {
    /// Milliseconds since 1970.
    pub(crate) timestamp: i64,
    /// The kind of event in the original system's words, such as task_progress.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// The precise kind of event.
    pub(crate) event: &'static str,
    /// Its number; usable as since_event.
    pub(crate) number: u64,
    /// What happened, in one sentence.
    pub(crate) message: String,
    /// Who gave the command, where the event is one: token/agent, or default, policy, shutdown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    /// From where it came: the way in and the address, such as mcp 10.0.0.7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
}

impl From<&CommittedEvent> for EventOut {
    fn from(committed: &CommittedEvent) -> Self {
        let author = words::author(&committed.event);
        let (by, from) = author.map(|author| (author.by, author.from.0)).unzip();
        Self {
            timestamp: committed.at.0,
            kind: words::original_type(&committed.event),
            event: words::precise_type(&committed.event),
            number: committed.number.0,
            message: words::sentence(&committed.event),
            by: by.filter(|by| !by.is_empty()),
            from: from.filter(|from| !from.is_empty()),
        }
    }
}

/// Tokens and cost so far.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UsageOut {
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

impl From<&TaskView> for UsageOut {
    fn from(view: &TaskView) -> Self {
        let usage = view.usage;
        Self {
            input: usage.input,
            output: usage.output,
            reasoning: usage.reasoning,
            cache_read: usage.cache_read,
            cache_write: usage.cache_write,
            cost: usage.cost,
        }
    }
}

/// What the task changed in its workdir.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChangesOut {
    /// How many files changed.
    pub(crate) files_total: u64,
    /// Lines added.
    pub(crate) additions: u64,
    /// Lines removed.
    pub(crate) deletions: u64,
    /// The first changed files (at most 100).
    pub(crate) files: Vec<ChangedFileOut>,
    /// Branch in the task's own repository copy that holds the changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) branch: Option<String>,
    /// Patch file on Chargehand's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) patch_file: Option<String>,
    /// How many things in the workdir are no part of the result (nested repositories, devices, too large).
    pub(crate) left_out: usize,
    /// Said when the changes could not be taken, or only in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// One changed file.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChangedFileOut {
    /// Relative to the workdir.
    pub(crate) path: String,
    /// added, modified or deleted.
    pub(crate) change: &'static str,
    /// Lines added.
    pub(crate) additions: u64,
    /// Lines removed.
    pub(crate) deletions: u64,
}

impl ChangesOut {
    /// What the view's result says, if something ran and ended.
    pub(crate) fn of(view: &TaskView) -> Option<Self> {
        let changes = &view.result.as_ref()?.changes;
        Some(Self {
            files_total: changes.files_total,
            additions: changes.additions,
            deletions: changes.deletions,
            files: changes
                .files
                .iter()
                .take(100)
                .map(|file| ChangedFileOut {
                    path: file.path.clone(),
                    change: mark_word(file.mark),
                    additions: file.additions,
                    deletions: file.deletions,
                })
                .collect(),
            branch: changes.branch.clone(),
            patch_file: changes.patch_file.clone(),
            left_out: changes.left_out.len(),
            note: changes.note.clone(),
        })
    }
}

/// The word for what was done to a file.
pub(crate) const fn mark_word(mark: FileMark) -> &'static str {
    match mark {
        FileMark::Added => "added",
        FileMark::Modified => "modified",
        FileMark::Deleted => "deleted",
    }
}

/// The word for how a task is paused.
pub(crate) const fn pause_word(pause: PauseKind) -> &'static str {
    match pause {
        PauseKind::Frozen => "frozen",
        PauseKind::Aborted => "aborted",
        PauseKind::Held => "held",
    }
}

/// The original's exit code: 0 done, 1 failed, none otherwise.
pub(crate) const fn exit_code(phase: Phase) -> Option<i32> {
    match phase {
        Phase::Completed => Some(0),
        Phase::Failed => Some(1),
        Phase::Queued
        | Phase::Starting
        | Phase::Running
        | Phase::Paused
        | Phase::InputRequired
        | Phase::Finishing
        | Phase::Timeout
        | Phase::Cancelled => None,
    }
}

/// From the slot to the end, in milliseconds, once the task has ended.
pub(crate) fn duration_ms(view: &TaskView) -> Option<u64> {
    let ended = view.ended_at?;
    Some(ended.ms_since(view.started_at.unwrap_or(view.created_at)))
}

/// The start of the worker's last text, and whether it was cut here or before.
pub(crate) fn output(view: &TaskView, most: usize) -> Option<(String, bool)> {
    let result = view.result.as_ref()?;
    let shown: String = result.text.chars().take(most).collect();
    let cut = shown.len() < result.text.len() || result.text_cut;
    Some((shown, cut))
}

/// What to call next, for the model.
pub(crate) fn next_call(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued | Phase::Starting | Phase::Running | Phase::Finishing => {
            "Call get_task_status with this task_id and wait_seconds=45 until status is completed, failed, timeout or cancelled."
        }
        Phase::InputRequired => {
            "The worker waits for an answer. Call answer_task_request with this task_id and the request_id of each of requests (get_task_status shows them) before expires_at, when its default is given; then call get_task_status with wait_seconds=45."
        }
        Phase::Paused => {
            "Call send_task_control with control=resume to go on, or control=cancel to end it."
        }
        Phase::Completed => {
            "Done. Call get_task_history with include_artifacts=true for the full text and the diff, get_task_files and read_task_file for the files."
        }
        Phase::Failed | Phase::Timeout | Phase::Cancelled => {
            "The task has ended and will not change. Call get_task_history with include_artifacts=true to see what was done; call opencode_execute_task for a new task."
        }
    }
}
