//! When a local worker has served enough, and whether replacing it by a fresh one disturbs anybody.
//!
//! Each new directory costs OpenCode 25 to 90 MB that nothing gives back, short of a restart of 3 s. Sessions are on disk, so a
//! worker without a running or announced run can be replaced at any time. In: a driver and limits. Out: yes or no; in doubt no.

use std::collections::BTreeSet;
use std::time::Duration;

use chargehand_actors::ports::EngineError;
use tokio::time::Instant;

use super::client::Reply;
use super::driver::Driver;
use super::ending::has_answer;
use super::wire::StatusMap;

/// A prompt that was taken this long ago and has begun no run never will.
const ANNOUNCED: Duration = Duration::from_secs(30);

/// When a worker is worn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) directories: usize,
    pub(super) memory: u64,
}

impl Limits {
    /// Whether so many directories and bytes are too much for one worker.
    pub(super) fn are_passed(self, directories: usize, memory: u64) -> bool {
        directories > self.directories || memory > self.memory
    }
}

impl Driver {
    /// Whether no session of ours works and no prompt is on its way.
    pub(super) async fn is_idle(&self) -> Result<bool, EngineError> {
        // What an earlier Chargehand sent may have yet to begin.
        if Instant::now() < self.doubt_until {
            return Ok(false);
        }
        for (session, directory, message) in self.sent_within(ANNOUNCED) {
            let messages = match self.messages(&session, &directory, Some(30)).await {
                Ok(messages) => messages,
                Err(EngineError::SessionGone) => continue,
                Err(error) => return Err(error),
            };
            if !has_answer(&messages, &message) {
                return Ok(false);
            }
        }
        let mut directories: BTreeSet<String> = self.gate.directories();
        for owned in self.owned().await? {
            directories.extend(owned.session.map(|session| session.directory));
        }
        for directory in directories {
            let query = [("directory", directory.as_str())];
            let reply = self
                .client
                .get::<StatusMap>("/session/status", &query)
                .await?;
            let Reply::Json(statuses) = reply else {
                return Ok(false);
            };
            if statuses.values().any(|status| status.kind != "idle") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_worn_by_either_limit() {
        let limits = Limits {
            directories: 20,
            memory: 1000,
        };
        assert!(!limits.are_passed(20, 1000));
        assert!(limits.are_passed(21, 0));
        assert!(limits.are_passed(0, 1001));
    }
}
