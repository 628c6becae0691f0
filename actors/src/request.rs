//! What a worker asks, as plain data: permissions and questions.
//!
//! In: an engine's records. Out: part of events, views and answers; re-exported by [`crate::event`], whose payloads carry it.

use serde::{Deserialize, Serialize};

use crate::id::RequestId;

/// What kind of thing the worker asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RequestKind {
    /// May it do this?
    Permission {
        /// What for: `bash`, `edit`, `external_directory`, …
        permission: String,
        /// The commands or paths concerned.
        patterns: Vec<String>,
        /// What "always" would cover, in the engine's words with wildcards; the patterns themselves when empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        always: Vec<String>,
    },
    /// Which one?
    Question {
        /// The questions in order.
        questions: Vec<Question>,
    },
}

/// One question of the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The question.
    pub text: String,
    /// Short title.
    pub header: String,
    /// Answers offered.
    pub options: Vec<String>,
}

/// A permission or question of the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The engine's id of it.
    pub id: RequestId,
    /// The session that asks (a child session of the task's session, or itself).
    pub session: String,
    /// What it asks, for a person.
    pub text: String,
    /// Details by kind.
    #[serde(flatten)]
    pub kind: RequestKind,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestEnd {
    /// Somebody answered.
    Answered,
    /// Nobody was attached or nobody answered in time; the default went out.
    Defaulted,
    /// The engine no longer knows it: answered elsewhere or gone with its run.
    Gone,
    /// Closed by a pause, a cancel or an end.
    Superseded,
}
