//! How long an outward actor goes on trying what fails.
//!
//! In: calls that failed or worked. Out: the how manieth failure in a row this is, and whether it has gone on for too long: by
//! time, because a call that hangs takes its whole deadline each time.

use std::time::Duration;

use tokio::time::Instant;

/// How long somebody who is told of an ended task is tried. What is left then is for the next start or the hourly sweep.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience {
    failures: u32,
    since: Option<Instant>,
}

impl Patience {
    /// One more failure.
    pub(crate) fn failed(&mut self) {
        self.failures += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    /// Failures since it last worked.
    pub(crate) const fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it has failed for an hour.
    pub(crate) fn is_over(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= LONGEST)
    }

    /// `base` doubled for each failure after the first, up to `cap`.
    pub(crate) fn wait(&self, base: Duration, cap: Duration) -> Duration {
        let doublings = self.failures.clamp(1, 8) - 1;
        base.saturating_mul(1 << doublings).min(cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_an_hour_after_the_first_failure_and_begins_anew_when_something_worked() {
        let mut patience = Patience::default();
        assert!(!patience.is_over());
        let (base, cap) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut waits = Vec::new();
        for _ in 0..8 {
            patience.failed();
            waits.push(patience.wait(base, cap).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        tokio::time::advance(LONGEST - Duration::from_secs(1)).await;
        patience.failed();
        assert!(!patience.is_over());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(patience.is_over());
        patience = Patience::default();
        patience.failed();
        assert_eq!((patience.is_over(), patience.failures()), (false, 1));
    }
}
