//! How often somebody may call: a bucket of one minute's calls that fills up again evenly.
//!
//! In: a limit and the moments of calls. Out: yes, or how long to wait.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The calls of one token.
#[derive(Debug)]
pub(crate) struct CallLimit {
    per_minute: u32,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Calls that may still be made at `at`.
    left: f64,
    at: Instant,
}

impl CallLimit {
    /// `per_minute` calls a minute (at least 1), all of which may come at once.
    pub(crate) fn new(per_minute: u32) -> Self {
        let per_minute = per_minute.max(1);
        Self {
            per_minute,
            bucket: Mutex::new(Bucket {
                left: f64::from(per_minute),
                at: Instant::now(),
            }),
        }
    }

    /// Calls a minute.
    pub(crate) const fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Takes one call out of the bucket.
    ///
    /// # Errors
    /// It is empty; the time after which one call is in it again.
    pub(crate) fn take(&self) -> Result<(), Duration> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Result<(), Duration> {
        let most = f64::from(self.per_minute);
        let a_second = most / 60.0;
        // Two numbers: whole after a panic elsewhere.
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.left = (bucket.left + since * a_second).min(most);
        bucket.at = bucket.at.max(now);
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.left) / a_second))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::CallLimit;

    #[test]
    fn a_minutes_calls_at_once_then_evenly() {
        let limit = CallLimit::new(6);
        let start = Instant::now();
        let at = |seconds| limit.take_at(start + Duration::from_secs(seconds));
        for call in 0..6 {
            assert_eq!(at(1), Ok(()), "call {call}");
        }
        let wait = |taken: Result<(), Duration>| taken.err().map(|wait| wait.as_secs_f64().round());
        assert_eq!(wait(at(1)), Some(10.0));
        assert_eq!(wait(at(5)), Some(6.0));
        assert_eq!(at(12), Ok(()));
        assert!(at(12).is_err());
        // However long nobody calls: never more than a minute's calls at once.
        let at_once = (0..20).filter(|_| at(3_600).is_ok()).count();
        assert_eq!(at_once, 6);
    }
}
