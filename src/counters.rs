//! What the edge counts: tool calls, sessions, refused requests. Plain numbers, shared by the front-ends.
//!
//! In: a word for each call and refusal. Out: [`EdgeNumbers`], a copy for `/metrics`. What tasks do is counted by the tree
//! (`chargehand_actors::metrics`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chargehand_actors::metrics::{Counts, Histogram};
use http::StatusCode;

/// Bounds for tool calls, in seconds; the longest call takes 45.
const CALLS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0, 45.0];

/// The counters of one server.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    numbers: Mutex<EdgeNumbers>,
    sessions: AtomicU64,
}

/// What was counted since the server began.
#[derive(Clone, Debug, Default)]
pub(crate) struct EdgeNumbers {
    /// Answered tool calls, by tool and outcome: `ok`, or the `code` of the refusal.
    pub(crate) calls: Counts<(&'static str, &'static str)>,
    /// How long the calls of each tool took, waits included.
    pub(crate) call_seconds: BTreeMap<&'static str, Histogram>,
    /// Refused HTTP requests, by reason.
    pub(crate) refused: Counts,
    /// Sessions of older MCP clients now.
    pub(crate) sessions: u64,
}

impl Counters {
    /// A tool call was answered. `outcome` is one of our own words, never a client's.
    pub(crate) fn called(&self, tool: &'static str, outcome: &'static str, took: Duration) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        *numbers.calls.entry((tool, outcome)).or_default() += 1;
        let histogram = numbers.call_seconds.entry(tool);
        histogram
            .or_insert_with(|| Histogram::new(CALLS))
            .observe_duration(took);
    }

    /// An HTTP request was answered; counted when that was a refusal.
    pub(crate) fn answered(&self, status: StatusCode) {
        if let Some(reason) = reason(status) {
            let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
            *numbers.refused.entry(reason).or_default() += 1;
        }
    }

    /// There are so many sessions now.
    pub(crate) fn set_sessions(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.sessions.store(count, Ordering::Relaxed);
    }

    /// A copy of everything.
    pub(crate) fn numbers(&self) -> EdgeNumbers {
        let mut numbers = self
            .numbers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        numbers.sessions = self.sessions.load(Ordering::Relaxed);
        for reason in REASONS {
            numbers.refused.entry(reason).or_default();
        }
        numbers
    }
}

const REASONS: [&str; 6] = [
    "unauthorized",
    "forbidden",
    "too_large",
    "rate_limited",
    "unavailable",
    "other",
];

fn reason(status: StatusCode) -> Option<&'static str> {
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    Some(match status {
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limited",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        _ => "other",
    })
}
