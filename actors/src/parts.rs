//! How the planner's side is, for health: written by the outward actors, read by the registry's jobs without a message.
//!
//! In: what a call told. Out: state, since when, and what it is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::WallTime;
use crate::view::{HealthState, PartHealth};

/// What each part is in. A part that was never heard of is being started.
#[derive(Debug, Default)]
pub(crate) struct Parts(Mutex<BTreeMap<&'static str, Part>>);

#[derive(Clone, Debug)]
struct Part {
    state: HealthState,
    since: WallTime,
    /// What it is, with its version; known once it has answered.
    what: Option<String>,
    trouble: Option<String>,
}

impl Parts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, name: &'static str, now: WallTime, change: impl FnOnce(&mut Part)) {
        let mut parts = self.lock();
        let part = parts.entry(name).or_insert_with(|| Part {
            state: HealthState::Starting,
            since: now,
            what: None,
            trouble: None,
        });
        let before = part.state;
        change(part);
        if part.state != before {
            part.since = now;
        }
    }

    /// It says who it is.
    pub(crate) fn is(&self, name: &'static str, what: String, now: WallTime) {
        self.set(name, now, |part| {
            part.state = HealthState::Ok;
            part.what = Some(what);
            part.trouble = None;
        });
    }

    /// A call was answered.
    pub(crate) fn works(&self, name: &'static str, now: WallTime) {
        self.set(name, now, |part| {
            part.state = HealthState::Ok;
            part.trouble = None;
        });
    }

    /// A call was not answered, or refused.
    pub(crate) fn fails(&self, name: &'static str, why: String, now: WallTime) {
        self.set(name, now, |part| {
            part.state = HealthState::Down;
            part.trouble = Some(why);
        });
    }

    /// How it is, if it was ever heard of.
    pub(crate) fn state(&self, name: &'static str) -> Option<HealthState> {
        self.lock().get(name).map(|part| part.state)
    }

    /// For health; `fallback` is what it is as long as it has not said so itself.
    pub(crate) fn health(
        &self,
        name: &'static str,
        fallback: String,
        started: WallTime,
    ) -> PartHealth {
        let part = self.lock().get(name).cloned();
        let (state, since, what, trouble) = part.map_or_else(
            || (HealthState::Starting, started, None, None),
            |part| (part.state, part.since, part.what, part.trouble),
        );
        let what = what.unwrap_or(fallback);
        PartHealth {
            name: name.to_owned(),
            state,
            since,
            detail: match trouble {
                Some(trouble) => format!("{what}: {trouble}; tasks go on without it"),
                None => what,
            },
        }
    }
}
