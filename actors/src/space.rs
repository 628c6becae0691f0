//! What admission knows of the free space on the disks: the last answer, and how old it may be. Pure but for tokio's clock.
//!
//! In: looks that begin and end. Out: [`Look`]. No timer of its own: who does not ask costs nothing.

use std::time::Duration;

use tokio::time::Instant;

/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(5);

/// Whether there is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// As far as is known.
    Fine,
    /// No, and why.
    Low(String),
    /// Not looked at lately.
    Unknown,
}

/// The last answer.
#[derive(Debug, Default)]
pub(crate) struct KnownSpace {
    answer: Option<(Instant, Option<String>)>,
    looking: bool,
    /// Somebody will look again by and by.
    waiting: bool,
    /// Why tasks that could be dispatched are not.
    holds_back: Option<String>,
}

impl KnownSpace {
    /// How long a look may take.
    pub(crate) const DEADLINE: Duration = Duration::from_secs(3);

    pub(crate) fn known(&self) -> Look {
        match &self.answer {
            Some((at, low)) if at.elapsed() < FRESH => match low {
                Some(why) => Look::Low(why.clone()),
                None => Look::Fine,
            },
            Some(_) | None => Look::Unknown,
        }
    }

    /// A look is wanted: `true` when none is under way.
    pub(crate) fn start(&mut self) -> bool {
        !std::mem::replace(&mut self.looking, true)
    }

    /// A look has ended.
    pub(crate) fn set(&mut self, low: Option<String>) {
        self.looking = false;
        self.answer = Some((Instant::now(), low));
    }

    /// Tasks that could be dispatched are held back for this, or for nothing. `true` when that is new.
    pub(crate) fn hold_back(&mut self, why: Option<String>) -> bool {
        let changed = self.holds_back != why;
        self.holds_back = why;
        changed
    }

    /// Why tasks that could be dispatched are not.
    pub(crate) fn holds_back(&self) -> Option<String> {
        self.holds_back.clone()
    }

    /// Something waits for room: `true` when nobody is waiting to look again.
    pub(crate) fn wait(&mut self) -> bool {
        !std::mem::replace(&mut self.waiting, true)
    }

    /// The wait is over.
    pub(crate) fn waited(&mut self) {
        self.waiting = false;
    }
}
