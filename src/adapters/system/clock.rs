//! The wall clock of the machine.
//!
//! In: the system time. Out: milliseconds since 1970; they may step back when somebody sets the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use chargehand_actors::id::WallTime;
use chargehand_actors::ports::Clock;

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> WallTime {
        let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        WallTime(ms)
    }
}
