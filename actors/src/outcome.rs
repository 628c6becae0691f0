//! What comes out of a run: tokens, failures, changed files, results. Plain data, part of events ([`crate::event`]).
//!
//! In: what engines and workdirs report. Out: payloads of the journal and answers to readers.

use serde::{Deserialize, Serialize};

/// Token counts and cost, as the engine reports them; totals of the attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Prompt tokens.
    pub input: u64,
    /// Answer tokens.
    pub output: u64,
    /// Reasoning tokens.
    pub reasoning: u64,
    /// Tokens read from the provider's cache.
    pub cache_read: u64,
    /// Tokens written to the provider's cache.
    pub cache_write: u64,
    /// US dollars, as the engine computes them; 0 when it knows no price.
    pub cost: f64,
}

/// What kind of failure a failed task had: stable words for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The workdir could not be made (clone failed, directory missing, …).
    Workdir,
    /// The engine could not run it.
    Engine,
    /// The model provider answered with an error.
    Model,
    /// A rejected permission or question ended the run.
    Rejected,
    /// The run was aborted by somebody else.
    Aborted,
    /// The worker died and resuming did not help.
    WorkerLost,
    /// The session disappeared.
    SessionGone,
    /// A watchdog ended it.
    Watchdog,
    /// Chargehand itself gave up on the task (its actor failed again and again, or its record is unreadable).
    Internal,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Workdir,
        Self::Engine,
        Self::Model,
        Self::Rejected,
        Self::Aborted,
        Self::WorkerLost,
        Self::SessionGone,
        Self::Watchdog,
        Self::Internal,
    ];

    /// The word in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Workdir => "workdir",
            Self::Engine => "engine",
            Self::Model => "model",
            Self::Rejected => "rejected",
            Self::Aborted => "aborted",
            Self::WorkerLost => "worker_lost",
            Self::SessionGone => "session_gone",
            Self::Watchdog => "watchdog",
            Self::Internal => "internal",
        }
    }
}

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable word.
    pub kind: FailureKind,
    /// What happened, for a person, with what to do about it where that is known.
    pub message: String,
}

/// What was done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileMark {
    /// New since the baseline.
    Added,
    /// Content or mode changed since the baseline.
    Modified,
    /// There at the baseline, gone now.
    Deleted,
}

/// One changed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Relative to the workdir; bytes that are not UTF-8 are shown as `\xNN`.
    pub path: String,
    /// What was done.
    pub mark: FileMark,
    /// Lines added; 0 for binary files.
    pub additions: u64,
    /// Lines removed; 0 for binary files.
    pub deletions: u64,
    /// Binary content.
    #[serde(default)]
    pub binary: bool,
}

/// Something in the workdir that is not part of the result, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Relative to the workdir.
    pub path: String,
    /// For a person: `nested repository`, `device`, `larger than 20 MB`, …
    pub reason: String,
}

/// What the worker changed, against the baseline taken at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Changed files (at most 1,000 listed).
    pub files: Vec<FileChange>,
    /// How many files changed in all.
    pub files_total: u64,
    /// Lines added in all.
    pub additions: u64,
    /// Lines removed in all.
    pub deletions: u64,
    /// The start of the unified diff, for people (at most 50 KB; the whole is paged as a text of the task).
    pub diff: String,
    /// Size of the whole diff in bytes.
    pub diff_bytes: u64,
    /// Path of the patch file on Chargehand's machine, if one was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_file: Option<String>,
    /// Branch in the task's own repository copy, if one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// What was left out (at most 200 listed).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Said when the changes could not be taken, or only in part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a task that ran gives back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The worker's last answer (at most 50 KB; longer ones are cut and say so).
    pub text: String,
    /// The answer was cut.
    #[serde(default)]
    pub text_cut: bool,
    /// What changed in the workdir.
    pub changes: Changes,
    /// Tokens and cost of the attempt.
    pub usage: Usage,
}

/// How a run ended, seen in the engine's own records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The last answer is complete and without error.
    Succeeded,
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
    },
}
