//! The clock and the ids port. In: tokio's (pausable) clock and a seed. Out: wall time and ids that repeat with the seed.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;
use uuid::Uuid;

use super::Random;
use crate::id::WallTime;
use crate::ports::{Clock, Ids};

/// When every fake world begins: 2026-01-01.
const EPOCH_MS: i64 = 1_767_225_600_000;

/// Wall time that follows tokio's clock.
#[derive(Debug)]
pub struct FakeClock {
    started: Instant,
    shift_ms: AtomicI64,
}

impl Default for FakeClock {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            shift_ms: AtomicI64::new(0),
        }
    }
}

impl FakeClock {
    /// Sets the wall clock forwards or backwards by `ms`, as an administrator or NTP does; elapsed time is not affected.
    pub fn shift(&self, ms: i64) {
        self.shift_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Milliseconds since the world began.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Clock for FakeClock {
    fn now(&self) -> WallTime {
        WallTime(EPOCH_MS + self.shift_ms.load(Ordering::Relaxed)).plus_ms(self.elapsed_ms())
    }
}

/// Ids from a seed.
#[derive(Debug)]
pub struct SeededIds {
    random: Mutex<Random>,
    ascending: AtomicU32,
    panics: AtomicU32,
}

impl SeededIds {
    /// Ids that repeat with the seed.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Mutex::new(Random::new(seed)),
            ascending: AtomicU32::new(0),
            panics: AtomicU32::new(0),
        }
    }

    /// Makes the next `n` calls of [`Ids::ascending`] panic: the task actor that makes them dies in its handler.
    pub fn panic_next(&self, n: u32) {
        self.panics.store(n, Ordering::Relaxed);
    }

    fn next(&self) -> u64 {
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    }
}

impl Ids for SeededIds {
    fn uuid(&self) -> Uuid {
        let bits = (u128::from(self.next()) << 64) | u128::from(self.next());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }

    fn ascending(&self) -> String {
        let left = self.panics.load(Ordering::Relaxed);
        if left > 0 {
            self.panics.store(left - 1, Ordering::Relaxed);
            std::panic::panic_any("scripted panic of the ids port".to_owned());
        }
        let n = self.ascending.fetch_add(1, Ordering::Relaxed);
        format!("{n:026x}")
    }

    fn jitter(&self) -> f64 {
        Random::new(self.next()).unit()
    }
}
