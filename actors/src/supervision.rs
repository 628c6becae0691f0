//! How a child ended, and when a dead one is started again: intensity over a sliding window, full-jitter back-off.
//!
//! In: the time and reason of each death. Out: a [`Decision`]. Pure; the supervisors act on it.

use std::collections::VecDeque;
use std::time::Duration;

use ractor::{ActorId, SupervisionEvent};

use crate::id::WallTime;

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChildEnd {
    /// By a stop, with its last handler run to the end.
    Stopped(Option<String>),
    /// By a panic, an error, a kill or an abort.
    Died(String),
}

/// Reads a supervision event. A clean stop hands the state over; kill and abort do not, and look normal otherwise.
pub(crate) fn child_end(event: SupervisionEvent) -> Option<(ActorId, ChildEnd)> {
    match event {
        SupervisionEvent::ActorFailed(actor, error) => {
            Some((actor.get_id(), ChildEnd::Died(error.to_string())))
        }
        SupervisionEvent::ActorTerminated(actor, Some(_), reason) => {
            Some((actor.get_id(), ChildEnd::Stopped(reason)))
        }
        SupervisionEvent::ActorTerminated(actor, None, reason) => {
            let reason = reason.unwrap_or_else(|| "ended without a reason".to_owned());
            Some((actor.get_id(), ChildEnd::Died(reason)))
        }
        SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => None,
    }
}

/// How often and how fast a child may be started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// At most this many restarts …
    pub intensity: u32,
    /// … within this time.
    pub window: Duration,
    /// First back-off; doubles with each restart in the window.
    pub base: Duration,
    /// Longest back-off.
    pub cap: Duration,
}

impl RestartPolicy {
    /// For task actors: a task that keeps failing its actor is given up on soon.
    pub const TASK: Self = Self {
        intensity: 3,
        window: Duration::from_secs(60),
        base: Duration::from_millis(50),
        cap: Duration::from_secs(2),
    };
    /// For the actors below root.
    pub const CORE: Self = Self {
        intensity: 5,
        window: Duration::from_secs(60),
        base: Duration::from_millis(50),
        cap: Duration::from_secs(5),
    };
    /// For engines and outward actors: their trouble is usually outside and may last.
    pub const PATIENT: Self = Self {
        intensity: u32::MAX,
        window: Duration::from_secs(600),
        base: Duration::from_millis(200),
        cap: Duration::from_secs(30),
    };
}

/// What to do with a dead child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start it again after this long.
    Restart {
        /// Restarts so far, this one included.
        restarts: u32,
        /// Full jitter: between zero and the doubled base.
        after: Duration,
    },
    /// Too often: its supervisor must do something else.
    GiveUp {
        /// Restarts before.
        restarts: u32,
    },
}

/// The deaths of one child.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deaths {
    recent: VecDeque<WallTime>,
    restarts: u32,
    last_reason: Option<String>,
}

impl Deaths {
    /// Restarts so far and the last reason.
    pub fn record(&self) -> (u32, Option<String>) {
        (self.restarts, self.last_reason.clone())
    }

    /// Decides about a death at `now`; `jitter` is in `0.0..1.0`.
    pub fn decide(
        &mut self,
        policy: &RestartPolicy,
        now: WallTime,
        reason: &str,
        jitter: f64,
    ) -> Decision {
        self.last_reason = Some(reason.to_owned());
        let window_ms = u64::try_from(policy.window.as_millis()).unwrap_or(u64::MAX);
        while self
            .recent
            .front()
            .is_some_and(|at| now.ms_since(*at) > window_ms)
        {
            self.recent.pop_front();
        }
        let recent = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        if recent >= policy.intensity {
            return Decision::GiveUp {
                restarts: self.restarts,
            };
        }
        self.recent.push_back(now);
        if self.recent.len() > 64 {
            self.recent.pop_front();
        }
        self.restarts += 1;
        let ceiling = policy
            .base
            .saturating_mul(1 << recent.min(16))
            .min(policy.cap);
        Decision::Restart {
            restarts: self.restarts,
            after: ceiling.mul_f64(jitter.clamp(0.0, 1.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_up_after_intensity_and_forgives_after_the_window() {
        let policy = RestartPolicy {
            intensity: 2,
            ..RestartPolicy::TASK
        };
        let mut deaths = Deaths::default();
        let at = |s: i64| WallTime(s * 1000);
        assert!(matches!(
            deaths.decide(&policy, at(0), "a", 0.5),
            Decision::Restart { restarts: 1, .. }
        ));
        assert!(matches!(
            deaths.decide(&policy, at(1), "b", 0.5),
            Decision::Restart { restarts: 2, .. }
        ));
        assert_eq!(
            deaths.decide(&policy, at(2), "c", 0.5),
            Decision::GiveUp { restarts: 2 }
        );
        assert!(matches!(
            deaths.decide(&policy, at(62), "d", 0.5),
            Decision::Restart { restarts: 3, .. }
        ));
        assert_eq!(deaths.record(), (3, Some("d".to_owned())));
    }

    #[test]
    fn backs_off_with_full_jitter_up_to_the_cap() {
        let policy = RestartPolicy {
            intensity: 100,
            ..RestartPolicy::TASK
        };
        let mut deaths = Deaths::default();
        let mut waits = Vec::new();
        for n in 0..8 {
            if let Decision::Restart { after, .. } = deaths.decide(&policy, WallTime(n), "x", 1.0) {
                waits.push(after.as_millis());
            }
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        let mut none = Deaths::default();
        let first = none.decide(&policy, WallTime(0), "x", 0.0);
        assert_eq!(
            first,
            Decision::Restart {
                restarts: 1,
                after: Duration::ZERO
            }
        );
    }
}
