//! What goes wrong at the ports: scripted fates for single calls, seeded rates for all, and a fuse that stops the world
//! exactly before or after the effect of the n-th call.
//!
//! In: every port call passes through [`Trouble::call`]. Out: its effect, or none, or an effect whose answer is lost.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Random, Watch};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It works.
    Fine,
    /// It fails and has no effect.
    FailBefore,
    /// It has its effect, and then fails.
    FailAfter,
    /// It never answers and has no effect.
    HangBefore,
    /// It has its effect and never answers.
    HangAfter,
    /// It works after this many milliseconds.
    Slow(u64),
    /// It works at once, and its answer comes this many milliseconds later: a reading is then out of date.
    Stale(u64),
    /// The port panics before the effect.
    Panic,
}

/// How often calls go wrong, in 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// [`Fate::FailBefore`].
    pub fail_before: u32,
    /// [`Fate::FailAfter`].
    pub fail_after: u32,
    /// [`Fate::HangBefore`].
    pub hang_before: u32,
    /// [`Fate::HangAfter`].
    pub hang_after: u32,
    /// [`Fate::Slow`], 0.1 to 20 s.
    pub slow: u32,
    /// [`Fate::Stale`], 0.1 to 20 s.
    pub stale: u32,
}

impl Fate {
    /// One word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::FailBefore => "fail before",
            Self::FailAfter => "fail after",
            Self::HangBefore => "hang before",
            Self::HangAfter => "hang after",
            Self::Slow(_) => "slow",
            Self::Stale(_) => "stale",
            Self::Panic => "panic",
        }
    }
}

impl Rates {
    fn draw(&self, random: &mut Random) -> Fate {
        let mut at = u32::try_from(random.below(1000)).unwrap_or(0);
        for (rate, fate) in [
            (self.fail_before, Fate::FailBefore),
            (self.fail_after, Fate::FailAfter),
            (self.hang_before, Fate::HangBefore),
            (self.hang_after, Fate::HangAfter),
            (self.slow, Fate::Slow(100 << random.below(8))),
            (self.stale, Fate::Stale(100 << random.below(8))),
        ] {
            if at < rate {
                return fate;
            }
            at -= rate;
        }
        Fate::Fine
    }
}

/// Counts port calls, before and after their effect, and stops the world at one of them.
#[derive(Clone, Debug, Default)]
pub struct Fuse(Arc<FuseState>);

#[derive(Debug, Default)]
struct FuseState {
    left: Mutex<Option<u64>>,
    blown: Notify,
}

impl Fuse {
    /// Blows at the `n`-th boundary from now; `None` = never.
    pub fn set(&self, n: Option<u64>) {
        *lock(&self.0.left) = n;
    }

    /// Blows now: from this instant on no call has an effect or an answer, as if the process had died.
    pub fn blow(&self) {
        self.set(Some(0));
        self.0.blown.notify_waiters();
    }

    /// Whether it has blown.
    pub fn is_blown(&self) -> bool {
        *lock(&self.0.left) == Some(0)
    }

    /// Completes when the fuse has blown.
    pub async fn blown(&self) {
        loop {
            let notified = self.0.blown.notified();
            if self.is_blown() {
                return;
            }
            notified.await;
        }
    }

    /// A boundary between a commit and an effect: at the blown one, and at every later one, nothing goes on.
    /// `blows` is called when this is the one.
    async fn boundary(&self, blows: impl FnOnce()) {
        let (blown, now) = match &mut *lock(&self.0.left) {
            None => (false, false),
            Some(0) => (true, false),
            Some(left) => {
                *left -= 1;
                (*left == 0, *left == 0)
            }
        };
        if now {
            blows();
            self.0.blown.notify_waiters();
        }
        if blown {
            std::future::pending::<()>().await;
        }
    }
}

/// What happened, line by line, with virtual milliseconds: printed for a failing seed.
#[derive(Clone, Debug)]
pub struct Trace(Arc<(Instant, Mutex<VecDeque<String>>)>);

impl Default for Trace {
    fn default() -> Self {
        Self(Arc::new((Instant::now(), Mutex::default())))
    }
}

impl Trace {
    const KEPT: usize = 20_000;

    /// Adds a line.
    pub fn note(&self, line: impl AsRef<str>) {
        let at = self.0.0.elapsed().as_millis();
        let mut lines = lock(&self.0.1);
        if lines.len() >= Self::KEPT {
            lines.pop_front();
        }
        lines.push_back(format!("{at:>9} {}", line.as_ref()));
    }

    /// The last `n` lines.
    pub fn tail(&self, n: usize) -> String {
        let text = self.text();
        let from = text.lines().count().saturating_sub(n);
        text.lines()
            .skip(from)
            .fold(String::new(), |mut text, line| {
                text.push_str(line);
                text.push('\n');
                text
            })
    }

    /// All lines.
    pub fn text(&self) -> String {
        let lines = lock(&self.0.1);
        lines.iter().fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        })
    }
}

#[derive(Debug, Default)]
struct Plan {
    /// By prefix of the call's name; the first that fits counts.
    rates: Vec<(&'static str, Rates)>,
    once: HashMap<&'static str, VecDeque<Fate>>,
    always: HashMap<&'static str, Fate>,
    drawn: HashMap<String, u64>,
    calls: HashMap<&'static str, u64>,
    met: BTreeMap<(&'static str, &'static str), u64>,
}

/// The troubles of one world, shared by its ports.
#[derive(Clone, Debug)]
pub struct Trouble {
    seed: u64,
    plan: Arc<Mutex<Plan>>,
    /// Stops the world at a boundary.
    pub fuse: Fuse,
    /// What happened.
    pub trace: Trace,
    /// Sees every call.
    pub watch: Watch,
}

impl Trouble {
    /// No troubles yet; `seed` decides those of [`Self::set_rates`].
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            plan: Arc::default(),
            fuse: Fuse::default(),
            trace: Trace::default(),
            watch: Watch::default(),
        }
    }

    /// Every call from now on whose name begins with one of these prefixes goes wrong at its rates; the first that
    /// fits counts.
    pub fn set_rates(&self, rates: Vec<(&'static str, Rates)>) {
        lock(&self.plan).rates = rates;
    }

    /// The next call of `what` meets this fate; repeated, the one after it, and so on.
    pub fn next(&self, what: &'static str, fate: Fate) {
        lock(&self.plan)
            .once
            .entry(what)
            .or_default()
            .push_back(fate);
    }

    /// Every call of `what` meets this fate, until told otherwise ([`Fate::Fine`]).
    pub fn always(&self, what: &'static str, fate: Fate) {
        lock(&self.plan).always.insert(what, fate);
    }

    /// No troubles any more.
    pub fn clear(&self) {
        self.fuse.set(None);
        let mut plan = lock(&self.plan);
        plan.rates.clear();
        plan.once.clear();
        plan.always.clear();
    }

    /// How often `what` was called.
    pub fn calls(&self, what: &str) -> u64 {
        lock(&self.plan).calls.get(what).copied().unwrap_or(0)
    }

    /// How often each call met each fate, and how often the fuse blew before and after it.
    pub fn met(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        lock(&self.plan).met.clone()
    }

    fn meets(&self, what: &'static str, how: &'static str) {
        *lock(&self.plan).met.entry((what, how)).or_default() += 1;
    }

    fn draw(&self, what: &'static str, about: &str) -> (Fate, Random) {
        let mut plan = lock(&self.plan);
        *plan.calls.entry(what).or_default() += 1;
        let key = format!("{what} {about}");
        let nth = plan.drawn.entry(key.clone()).or_default();
        *nth += 1;
        let mut random = Random::keyed(self.seed, &key, *nth);
        let scripted = plan
            .once
            .get_mut(what)
            .and_then(VecDeque::pop_front)
            .or_else(|| plan.always.get(what).copied());
        let fate = scripted.unwrap_or_else(|| {
            let fits = plan.rates.iter().find(|(name, _)| what.starts_with(name));
            fits.map_or(Fate::Fine, |(_, rates)| rates.draw(&mut random))
        });
        (fate, random)
    }

    /// Runs the effect of the port call `what` as its fate wants it. `about` tells calls of the same name apart.
    ///
    /// # Errors
    /// When the answer is lost; the text says whether the effect happened.
    pub async fn call<T>(
        &self,
        what: &'static str,
        about: &str,
        effect: impl FnOnce(&mut Random) -> T,
    ) -> Result<T, String> {
        let blows = |how| {
            self.trace
                .note(format!("the fuse blows, {how} of {what} {about}"));
            self.meets(what, how);
        };
        self.fuse.boundary(|| blows("crash before")).await;
        let (fate, mut random) = self.draw(what, about);
        self.meets(what, fate.word());
        if fate != Fate::Fine {
            self.trace.note(format!("{what} {about}: {fate:?}"));
        }
        tokio::time::sleep(Duration::from_millis(random.between(1, 4))).await;
        match fate {
            Fate::FailBefore => return Err(format!("scripted: {what} failed before its effect")),
            Fate::HangBefore => std::future::pending().await,
            Fate::Panic => std::panic::panic_any(format!("scripted panic of {what}")),
            Fate::Slow(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Fate::Fine | Fate::FailAfter | Fate::HangAfter | Fate::Stale(_) => {}
        }
        let result = effect(&mut random);
        self.fuse.boundary(|| blows("crash after")).await;
        if let Fate::Stale(ms) = fate {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        match fate {
            Fate::FailAfter => Err(format!("scripted: {what} failed after its effect")),
            Fate::HangAfter => std::future::pending().await,
            Fate::Fine
            | Fate::FailBefore
            | Fate::HangBefore
            | Fate::Slow(_)
            | Fate::Stale(_)
            | Fate::Panic => Ok(result),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
