//! The audit log: what was refused, and who could not get in. (What was accepted is an event of its task.)
//!
//! In: refusals. Out: one structured log line each, target `audit`; never a token. Failed authentications of strangers
//! could be any number: [`Failures`] writes few lines and says how many it left out.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::who::Who;

/// Failed authentications that are written within [`SPAN`].
const LINES: u32 = 10;
/// After this time as many are written again.
const SPAN: Duration = Duration::from_secs(60);

/// A tool call that was refused: by whom it was made, from where, of which tool and task, and the code of the refusal.
pub(crate) fn refused(who: &Who, tool: &str, task: Option<&str>, code: &str) {
    tracing::info!(
        target: "audit",
        who = who.name(),
        from = who.from.0,
        tool,
        task = task.unwrap_or_default(),
        code,
        "refused"
    );
}

/// Counts and writes failed authentications.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<Span>);

#[derive(Debug, Default)]
struct Span {
    begun: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Failures {
    /// Somebody did not get in.
    pub(crate) fn record(&self, from: Option<IpAddr>, path: &str, why: &str) {
        if let Some(left_out) = self.line(Instant::now()) {
            let from = from.map(|from| from.to_string()).unwrap_or_default();
            let path: String = path.chars().take(100).collect();
            tracing::warn!(target: "audit", from, path, why, left_out, "authentication failed");
        }
    }

    /// Whether this one is written; with it, how many before were not.
    fn line(&self, now: Instant) -> Option<u64> {
        // Plain counters: whole after a panic elsewhere.
        let mut span = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if span.begun.is_none_or(|begun| now - begun >= SPAN) {
            span.begun = Some(now);
            span.written = 0;
        }
        if span.written >= LINES {
            span.left_out += 1;
            return None;
        }
        span.written += 1;
        Some(std::mem::take(&mut span.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Failures, LINES, SPAN};

    #[test]
    fn a_flood_of_failures_is_a_few_lines_and_a_number() {
        let failures = Failures::default();
        let now = Instant::now();
        let written = (0..1_000).filter(|_| failures.line(now).is_some()).count();
        assert_eq!(written, LINES as usize);
        assert_eq!(failures.line(now + SPAN), Some(990));
        assert_eq!(failures.line(now + SPAN), Some(0));
    }
}
