//! Fresh identifiers from the system's random numbers and clock.
//!
//! In: nothing. Out: UUIDs, ascending ids in OpenCode's own form, jitter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chargehand_actors::ports::{Clock, Ids};
use uuid::Uuid;

use super::clock::SystemClock;

/// Ids per millisecond before the counter runs ahead of the clock (which does no harm).
const PER_MS: u64 = 4096;
/// OpenCode keeps 48 bits of `ms * 4096 + counter`, so its order begins anew every 2.2 years. So does ours.
const LOW_48: u64 = (1 << 48) - 1;

/// The system's ids. Ascending within one value, so a process has one.
pub struct SystemIds {
    clock: Arc<dyn Clock>,
    /// The newest `ms * 4096 + counter`, not yet cut to 48 bits.
    newest: AtomicU64,
}

impl Default for SystemIds {
    fn default() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }
}

impl SystemIds {
    /// Ids whose ascending part follows another clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            newest: AtomicU64::new(0),
        }
    }

    /// The next value: of now, or one more than the newest when the clock stands still or steps back.
    fn tick(&self) -> u64 {
        let now = u64::try_from(self.clock.now().0)
            .unwrap_or(0)
            .saturating_mul(PER_MS);
        let next = |newest: u64| now.max(newest.saturating_add(1));
        match self
            .newest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(next(n)))
        {
            Ok(before) | Err(before) => next(before),
        }
    }
}

impl Ids for SystemIds {
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }

    fn ascending(&self) -> String {
        // The last 14 digits of a random UUID hold no fixed bits.
        let random = Uuid::new_v4().as_u128() & ((1 << 56) - 1);
        format!("{:012x}{random:014x}", self.tick() & LOW_48)
    }

    fn jitter(&self) -> f64 {
        const STEPS: u64 = 1 << f64::MANTISSA_DIGITS;
        let (_, low) = Uuid::new_v4().as_u64_pair();
        (low % STEPS) as f64 / STEPS as f64
    }
}
