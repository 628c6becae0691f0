//! What a tree counts about itself: plain numbers, added up as events become durable and as actors act.
//!
//! In: committed events (from the journal actor, once each), the journal's own times, restarts, failures of outward
//! actors. Out: [`TreeMetrics`], a copy of all numbers with what the board, the queue and the engines say at that moment.
//! Counters begin at zero with the process; the record of what happened is the journal. Labels are words from fixed lists,
//! names of engines and names of tokens: never ids of tasks or agents.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::board::{ActorKind, BoardSnapshot};
use crate::event::{
    AbortReason, CommittedEvent, Event, FailureKind, Phase, PromptKind, RequestEnd, RequestKind,
    Usage, Watchdog,
};
use crate::id::{EngineName, EventNumber, TaskId, WallTime};
use crate::machine::TaskState;
use crate::ports::EngineNumbers;
use crate::view::{HealthState, PartHealth};
use crate::wiring::Wires;

/// Bounds for waits and runs of tasks, in seconds.
const LONG: &[f64] = &[
    0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 180.0, 600.0, 1_800.0, 7_200.0, 28_800.0,
];
/// Bounds for commits, in seconds.
const SHORT: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0,
];
/// Bounds for the number of events in a commit.
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1_024.0];

/// Counts by a word from a fixed list or by a configured name.
pub type Counts<K = &'static str> = BTreeMap<K, u64>;

/// How often a value fell below each bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty one. `bounds` ascend; what is above the last one is counted too.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        self.sum += value;
    }

    /// Counts a duration, in seconds.
    pub fn observe_duration(&mut self, value: Duration) {
        self.observe(value.as_secs_f64());
    }

    /// The sum of all values.
    pub const fn sum(&self) -> f64 {
        self.sum
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each upper bound with the number of values in its own bucket; the last bound is infinite.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().copied()).collect()
    }
}

/// Everything that is added up since the process began.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// Committed events of the life of tasks and of engines.
    pub lifecycle_events: u64,
    /// Committed observations (tools, steps, files).
    pub observations: u64,
    /// Tasks accepted, by name of the token.
    pub accepted: Counts<String>,
    /// Tasks ended, by final phase and kind of failure (`none` where there is none).
    pub ended: Counts<(&'static str, &'static str)>,
    /// From acceptance to slot.
    pub queue_seconds: Histogram,
    /// From slot to the accepted first prompt.
    pub start_seconds: Histogram,
    /// Running time of ended tasks that ran.
    pub running_seconds: Histogram,
    /// Runs continued after they lost their worker.
    pub resumes: u64,
    /// Warnings of watchdogs that did not end the run.
    pub watchdog_warnings: Counts,
    /// Silent workers that were asked to go on.
    pub watchdog_nudges: u64,
    /// Runs that a watchdog ended.
    pub watchdog_aborts: u64,
    /// Requests of workers, by kind.
    pub requests_opened: Counts,
    /// Requests closed, by how.
    pub requests_closed: Counts,
    /// Answers given, by who gave them: `policy`, `default`, `caller`.
    pub answers: Counts,
    /// Times that a provider made a worker wait.
    pub provider_retries: u64,
    /// Results and signals that came after the end and changed nothing.
    pub late_arrivals: u64,
    /// Model tokens of ended runs, by kind.
    pub tokens: Counts,
    /// Cost of ended runs in US dollars, as the engine computes it.
    pub cost_dollars: f64,
    /// Attempts removed from their engine.
    pub attempts_removed: u64,
    /// Attempts whose removal did not succeed in time.
    pub removals_delayed: u64,
    /// Leftovers without owner that reconciliation found, by engine.
    pub leftovers: Counts<String>,
    /// Tasks whose files were removed after their retention time.
    pub files_cleared: u64,
    /// Tasks whose record was removed after its retention time.
    pub tasks_forgotten: u64,
    /// Actors started again, by kind.
    pub restarts: Counts,
    /// Commits of the journal, by outcome.
    pub appends: Counts,
    /// How long a commit took.
    pub append_seconds: Histogram,
    /// Events in a commit.
    pub append_events: Histogram,
    /// Failed calls of outward actors, by projection and by whether they are tried again.
    pub outward_failures: Counts<(&'static str, &'static str)>,
}

/// A family in which every word is there from the start, so that a first count is seen as a rise.
fn zeroed(words: &[&'static str]) -> Counts {
    words.iter().map(|word| (*word, 0)).collect()
}

impl Default for Numbers {
    fn default() -> Self {
        let mut ended = Counts::new();
        for phase in [Phase::Completed, Phase::Timeout, Phase::Cancelled] {
            ended.insert((phase.as_str(), "none"), 0);
        }
        for kind in FailureKind::ALL {
            ended.insert((Phase::Failed.as_str(), kind.as_str()), 0);
        }
        let warnings: Vec<_> = Watchdog::ALL.iter().map(|dog| dog.as_str()).collect();
        let kinds: Vec<_> = ActorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        Self {
            lifecycle_events: 0,
            observations: 0,
            accepted: Counts::new(),
            ended,
            queue_seconds: Histogram::new(LONG),
            start_seconds: Histogram::new(LONG),
            running_seconds: Histogram::new(LONG),
            resumes: 0,
            watchdog_warnings: zeroed(&warnings),
            watchdog_nudges: 0,
            watchdog_aborts: 0,
            requests_opened: zeroed(&["permission", "question"]),
            requests_closed: zeroed(&["answered", "defaulted", "gone", "superseded"]),
            answers: zeroed(&["caller", "default", "policy"]),
            provider_retries: 0,
            late_arrivals: 0,
            tokens: zeroed(&["input", "output", "reasoning", "cache_read", "cache_write"]),
            cost_dollars: 0.0,
            attempts_removed: 0,
            removals_delayed: 0,
            leftovers: Counts::new(),
            files_cleared: 0,
            tasks_forgotten: 0,
            restarts: zeroed(&kinds),
            appends: zeroed(&["committed", "failed"]),
            append_seconds: Histogram::new(SHORT),
            append_events: Histogram::new(SIZES),
            outward_failures: Counts::new(),
        }
    }
}

/// What is needed to turn a later event of a task into a duration.
#[derive(Clone, Copy, Debug)]
enum Begun {
    Queued(WallTime),
    Starting(WallTime),
}

#[derive(Debug, Default)]
struct Inner {
    numbers: Numbers,
    /// Tasks that wait or start; nothing of those that run or have ended.
    begun: HashMap<TaskId, Begun>,
}

/// The counters of one tree, shared by its actors. A lock that is held for a few additions.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Inner>);

impl Metrics {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        // Only additions happen inside: after a panic elsewhere the numbers are still whole.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The tree is built from its record: tasks that wait or start go on being timed.
    pub(crate) fn restored<'a>(&self, tasks: impl Iterator<Item = &'a TaskState>) {
        let begun = tasks
            .filter_map(|task| Some((task.id, begun(task)?)))
            .collect();
        self.with(|inner| inner.begun = begun);
    }

    /// These events became durable.
    pub(crate) fn committed(&self, events: &[CommittedEvent]) {
        self.with(|inner| events.iter().for_each(|event| inner.count(event)));
    }

    /// A commit of so many events ended.
    pub(crate) fn appended(&self, events: usize, took: Duration, fine: bool) {
        self.with(|inner| {
            let numbers = &mut inner.numbers;
            *numbers
                .appends
                .entry(if fine { "committed" } else { "failed" })
                .or_default() += 1;
            numbers.append_seconds.observe_duration(took);
            let events = u32::try_from(events).unwrap_or(u32::MAX);
            numbers.append_events.observe(f64::from(events));
        });
    }

    /// An actor was started again.
    pub(crate) fn restarted(&self, kind: ActorKind) {
        self.with(|inner| *inner.numbers.restarts.entry(kind.as_str()).or_default() += 1);
    }

    /// A task's record was removed.
    pub(crate) fn task_forgotten(&self) {
        self.with(|inner| inner.numbers.tasks_forgotten += 1);
    }

    /// A call of an outward actor failed.
    pub(crate) fn outward_failed(&self, projection: &'static str, tried_again: bool) {
        let outcome = if tried_again { "retried" } else { "gave_up" };
        self.with(|inner| {
            let failures = &mut inner.numbers.outward_failures;
            *failures.entry((projection, outcome)).or_default() += 1;
        });
    }

    fn numbers(&self) -> Numbers {
        self.with(|inner| inner.numbers.clone())
    }
}

fn begun(task: &TaskState) -> Option<Begun> {
    match task.phase {
        Phase::Queued => Some(Begun::Queued(task.created_at)),
        Phase::Paused if task.attempt == 0 => Some(Begun::Queued(task.created_at)),
        Phase::Starting => Some(Begun::Starting(task.started_at?)),
        Phase::Running
        | Phase::Paused
        | Phase::InputRequired
        | Phase::Finishing
        | Phase::Completed
        | Phase::Failed
        | Phase::Timeout
        | Phase::Cancelled => None,
    }
}

fn seconds(from: WallTime, to: WallTime) -> f64 {
    Duration::from_millis(to.ms_since(from)).as_secs_f64()
}

impl Inner {
    fn count(&mut self, committed: &CommittedEvent) {
        if committed.event.is_lifecycle() {
            self.numbers.lifecycle_events += 1;
        } else {
            self.numbers.observations += 1;
        }
        self.time(committed);
        let numbers = &mut self.numbers;
        match &committed.event {
            Event::TaskAccepted { caller, .. } => {
                *numbers.accepted.entry(caller.token.clone()).or_default() += 1;
            }
            Event::ResumeWanted { .. } => numbers.resumes += 1,
            Event::WatchdogWarned { watchdog, .. } => {
                *numbers
                    .watchdog_warnings
                    .entry(watchdog.as_str())
                    .or_default() += 1;
            }
            Event::PromptWanted { prompt } if prompt.kind == PromptKind::Nudge => {
                numbers.watchdog_nudges += 1;
            }
            Event::AbortWanted {
                reason: AbortReason::Watchdog,
                ..
            } => numbers.watchdog_aborts += 1,
            Event::RequestOpened { request, .. } => {
                let kind = match request.kind {
                    RequestKind::Permission { .. } => "permission",
                    RequestKind::Question { .. } => "question",
                };
                *numbers.requests_opened.entry(kind).or_default() += 1;
            }
            Event::AnswerWanted { by, from, .. } => {
                let by = match by.as_str() {
                    "policy" if from.is_empty() => "policy",
                    "default" if from.is_empty() => "default",
                    _ => "caller",
                };
                *numbers.answers.entry(by).or_default() += 1;
            }
            Event::RequestClosed { end, .. } => {
                *numbers.requests_closed.entry(closed(*end)).or_default() += 1;
            }
            Event::RunEnded { usage, .. } => numbers.add_usage(usage),
            Event::ProviderRetry { .. } => numbers.provider_retries += 1,
            Event::LateArrival { .. } => numbers.late_arrivals += 1,
            Event::AttemptRemoved { .. } => numbers.attempts_removed += 1,
            Event::AttemptRemovalDelayed { .. } => numbers.removals_delayed += 1,
            Event::FilesCleared => numbers.files_cleared += 1,
            Event::EngineReconciled { engine, stale, .. } => {
                *numbers.leftovers.entry(engine.to_string()).or_default() += stale.len() as u64;
            }
            _ => {}
        }
    }

    /// What ends a wait is timed; what ends a task is counted by its end.
    fn time(&mut self, committed: &CommittedEvent) {
        let Some(task) = committed.task else { return };
        let at = committed.at;
        match &committed.event {
            Event::TaskAccepted { .. } => {
                self.begun.insert(task, Begun::Queued(at));
            }
            Event::AttemptStarted { .. } => {
                if let Some(Begun::Queued(since)) = self.begun.insert(task, Begun::Starting(at)) {
                    self.numbers.queue_seconds.observe(seconds(since, at));
                }
            }
            Event::PromptAccepted { .. } => {
                if let Some(Begun::Starting(since)) = self.begun.remove(&task) {
                    self.numbers.start_seconds.observe(seconds(since, at));
                }
            }
            Event::TaskCompleted { running_ms, .. } => {
                self.ended(task, Phase::Completed, None, *running_ms);
            }
            Event::TaskFailed {
                failure,
                running_ms,
                ..
            } => self.ended(task, Phase::Failed, Some(failure.kind), *running_ms),
            Event::TaskTimedOut { running_ms, .. } => {
                self.ended(task, Phase::Timeout, None, *running_ms);
            }
            Event::TaskCancelled { running_ms, .. } => {
                self.ended(task, Phase::Cancelled, None, *running_ms);
            }
            _ => {}
        }
    }

    fn ended(&mut self, task: TaskId, phase: Phase, kind: Option<FailureKind>, running_ms: u64) {
        self.begun.remove(&task);
        let kind = kind.map_or("none", FailureKind::as_str);
        *self
            .numbers
            .ended
            .entry((phase.as_str(), kind))
            .or_default() += 1;
        if running_ms > 0 {
            let running = Duration::from_millis(running_ms);
            self.numbers.running_seconds.observe_duration(running);
        }
    }
}

impl Numbers {
    fn add_usage(&mut self, usage: &Usage) {
        for (kind, count) in [
            ("input", usage.input),
            ("output", usage.output),
            ("reasoning", usage.reasoning),
            ("cache_read", usage.cache_read),
            ("cache_write", usage.cache_write),
        ] {
            *self.tokens.entry(kind).or_default() += count;
        }
        // A counter never falls, whatever an engine says.
        if usage.cost.is_finite() && usage.cost > 0.0 {
            self.cost_dollars += usage.cost;
        }
    }
}

const fn closed(end: RequestEnd) -> &'static str {
    match end {
        RequestEnd::Answered => "answered",
        RequestEnd::Defaulted => "defaulted",
        RequestEnd::Gone => "gone",
        RequestEnd::Superseded => "superseded",
    }
}

/// An engine at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineMetrics {
    /// Its name.
    pub engine: EngineName,
    /// How it is.
    pub state: HealthState,
    /// What it knows about its worker.
    pub worker: EngineNumbers,
}

/// Everything that a tree can tell about itself in numbers, at one moment.
#[derive(Clone, Debug)]
pub struct TreeMetrics {
    /// Since the process began.
    pub numbers: Numbers,
    /// The live actors.
    pub board: BoardSnapshot,
    /// Most messages that waited at once in a mailbox, by kind of actor, since the process began.
    pub most_waiting: Counts<ActorKind>,
    /// Each configured engine.
    pub engines: Vec<EngineMetrics>,
    /// Tasks that hold a slot.
    pub slots_used: u32,
    /// Slots.
    pub slots: u32,
    /// Tasks that wait.
    pub queued: u32,
    /// Places in the queue.
    pub queue_limit: u32,
    /// A submit would be accepted now.
    pub accepting: bool,
    /// Number of the newest event that is durable.
    pub last_event: EventNumber,
}

/// Copies everything. Sends no message and waits for nobody.
pub(crate) fn collect(wires: &Wires) -> TreeMetrics {
    let queue = wires.queue.borrow().clone();
    let board = wires.board.snapshot();
    let journal = board
        .actors
        .iter()
        .find(|actor| actor.kind == ActorKind::Journal);
    let last_event = journal.map_or(EventNumber::ZERO, |actor| actor.last_event);
    let engines = wires.ports.engines.iter().map(|engine| {
        let PartHealth { state, .. } = wires.engine_states.get(&engine.name());
        EngineMetrics {
            engine: engine.name(),
            state,
            worker: engine.numbers(),
        }
    });
    TreeMetrics {
        numbers: wires.metrics.numbers(),
        most_waiting: wires.board.most_waiting(),
        engines: engines.collect(),
        slots_used: queue.active,
        slots: wires.settings.max_running,
        queued: queue.queued,
        queue_limit: wires.settings.max_queued,
        accepting: queue.accepting,
        last_event,
        board,
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
