//! Where a task stands: its phase, and the word that callers read for it.
//!
//! In: nothing. Out: names for the journal, for readers and for the tools.

use serde::{Deserialize, Serialize};

/// Where a task stands. Exactly one at a time; only [`crate::machine`] changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted, waits for a slot and a ready engine.
    Queued,
    /// Has a slot: workdir, session or container are being made.
    Starting,
    /// The worker has the prompt.
    Running,
    /// Stopped on request, can be resumed.
    Paused,
    /// The worker waits for an answer to a permission or question.
    InputRequired,
    /// The worker is done; the result is being read.
    Finishing,
    /// Done, the result is there.
    Completed,
    /// Ended without success; the error says why.
    Failed,
    /// Ran longer than allowed.
    Timeout,
    /// Ended on request.
    Cancelled,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::InputRequired,
        Self::Finishing,
        Self::Completed,
        Self::Failed,
        Self::Timeout,
        Self::Cancelled,
    ];

    /// Whether nothing can change the phase any more.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Timeout | Self::Cancelled => true,
            Self::Queued
            | Self::Starting
            | Self::Running
            | Self::Paused
            | Self::InputRequired
            | Self::Finishing => false,
        }
    }

    /// The precise word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::InputRequired => "input_required",
            Self::Finishing => "finishing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }

    /// The original system's word for it: one of seven.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting | Self::Running | Self::InputRequired | Self::Finishing => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }
}
