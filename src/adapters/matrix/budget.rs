//! Keeps to what the homeserver lets the bot send, and leaves room for what must arrive. Pure but for the clock.
//!
//! In: what a send is, what the homeserver said to it. Out: send now, or how long to wait.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chargehand_actors::ports::RoomError;

/// Between two progress posts of a room, where nothing limits us, …
const PACE: Duration = Duration::from_millis(1_500);
/// … and where the homeserver has said no lately.
const SLOW_PACE: Duration = Duration::from_secs(5);
/// How long a "no" counts as lately.
const LATELY: Duration = Duration::from_secs(600);
/// How long progress stands back after something that must arrive was refused.
const RESERVE: Duration = Duration::from_secs(6);

#[derive(Debug, Default)]
struct State {
    /// Nothing before this.
    closed_until: Option<Instant>,
    /// No progress before this.
    reserved_until: Option<Instant>,
    refused: Option<Instant>,
}

/// One for a bot account: limits hold for all its rooms together.
#[derive(Debug, Default)]
pub(super) struct Budget(Mutex<State>);

impl Budget {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something may be sent now.
    ///
    /// # Errors
    /// [`RoomError::Later`] with how long to wait.
    pub(super) fn gate(&self, must: bool, now: Instant) -> Result<(), RoomError> {
        let state = self.state();
        let until = if must {
            state.closed_until
        } else {
            state.closed_until.max(state.reserved_until)
        };
        match until {
            Some(until) if until > now => Err(RoomError::Later(until - now)),
            Some(_) | None => Ok(()),
        }
    }

    /// The homeserver refused something for so long.
    pub(super) fn refused(&self, must: bool, wait: Duration, now: Instant) {
        let mut state = self.state();
        state.refused = Some(now);
        state.closed_until = state.closed_until.max(Some(now + wait));
        if must {
            state.reserved_until = Some(now + wait + RESERVE);
        }
    }

    /// How long to leave between two progress posts of a room.
    pub(super) fn pace(&self, now: Instant) -> Duration {
        let lately = |at| now.saturating_duration_since(at) < LATELY;
        if self.state().refused.is_some_and(lately) {
            SLOW_PACE
        } else {
            PACE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_must_arrive_goes_before_progress() {
        let (budget, now) = (Budget::default(), Instant::now());
        assert_eq!(budget.gate(false, now), Ok(()));
        budget.refused(true, seconds(5), now);
        assert_eq!(budget.gate(true, now), Err(RoomError::Later(seconds(5))));
        let then = now + seconds(5);
        assert_eq!(budget.gate(true, then), Ok(()));
        assert_eq!(budget.gate(false, then), Err(RoomError::Later(RESERVE)));
        assert_eq!(budget.gate(false, then + RESERVE), Ok(()));
    }

    #[test]
    fn a_refusal_slows_progress_down_for_a_while() {
        let (budget, now) = (Budget::default(), Instant::now());
        assert_eq!(budget.pace(now), PACE);
        budget.refused(false, seconds(1), now);
        assert_eq!(budget.pace(now), SLOW_PACE);
        assert_eq!(budget.pace(now + LATELY), PACE);
    }
}
