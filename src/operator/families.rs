//! Every family of `/metrics`: its name, its words, its samples. docs/metrics.md has the same list; a test compares the two.
//!
//! In: the numbers of one moment. Out: families written to a [`Page`], always all of them, in one order.

use std::collections::BTreeMap;

use chargehand_actors::board::ActorKind;
use chargehand_actors::event::Phase;
use chargehand_actors::id::WallTime;
use chargehand_actors::metrics::TreeMetrics;
use chargehand_actors::view::HealthState;
use prometheus_client::registry::Unit;

use super::disks::Room;
use super::metrics::{Labels, Page, label};
use crate::counters::EdgeNumbers;

/// The numbers of one moment.
#[derive(Debug)]
pub(super) struct Families {
    pub(super) started: WallTime,
    pub(super) tree: TreeMetrics,
    pub(super) edge: EdgeNumbers,
    pub(super) rooms: Vec<Room>,
}

/// The one sample of a family without labels.
fn one<V>(value: V) -> [(Labels, V); 1] {
    [(Labels::new(), value)]
}

/// A sample for each word.
fn each<'a, K: AsRef<str> + 'a>(
    name: &'static str,
    counts: &'a BTreeMap<K, u64>,
) -> impl Iterator<Item = (Labels, u64)> + 'a {
    counts
        .iter()
        .map(move |(word, count)| (label(name, word.as_ref()), *count))
}

/// A sample for each pair of words.
fn pairs<'a, A: AsRef<str> + 'a, B: AsRef<str> + 'a>(
    names: (&'static str, &'static str),
    counts: &'a BTreeMap<(A, B), u64>,
) -> impl Iterator<Item = (Labels, u64)> + 'a {
    counts.iter().map(move |((first, second), count)| {
        let first = (names.0, first.as_ref().to_owned());
        let second = (names.1, second.as_ref().to_owned());
        (vec![first, second], *count)
    })
}

impl Families {
    pub(super) fn write(&self, page: &mut Page<'_>) -> std::fmt::Result {
        self.process(page)?;
        self.tasks(page)?;
        self.runs(page)?;
        self.requests(page)?;
        self.journal(page)?;
        self.actors(page)?;
        self.engines(page)?;
        self.edge(page)
    }

    fn process(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let version = label("version", env!("CARGO_PKG_VERSION"));
        page.info("build", "What runs", &version)?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds since 1970 are far below 2^52"
        )]
        let started = self.started.0 as f64 / 1000.0;
        page.gauge(
            "start_time",
            Some(&Unit::Seconds),
            "When the server began, since 1970",
            one(started),
        )?;
        page.gauge(
            "disk_free",
            Some(&Unit::Bytes),
            "Room for our user on the disk of a directory; absent while the disk does not answer",
            self.rooms
                .iter()
                .map(|room| (label("disk", room.name), room.free)),
        )?;
        page.gauge(
            "disk_size",
            Some(&Unit::Bytes),
            "Size of the disk of a directory",
            self.rooms
                .iter()
                .map(|room| (label("disk", room.name), room.size)),
        )
    }

    fn tasks(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let TreeMetrics { numbers, .. } = &self.tree;
        page.gauge(
            "tasks",
            None,
            "Tasks that have not ended, by phase",
            self.live_phases(),
        )?;
        page.counter(
            "tasks_accepted",
            "Tasks accepted, by name of the token",
            each("token", &numbers.accepted),
        )?;
        page.counter(
            "tasks_ended",
            "Tasks ended, by final phase and kind of failure",
            pairs(("phase", "failure"), &numbers.ended),
        )?;
        page.gauge(
            "queue_length",
            None,
            "Tasks that wait",
            one(self.tree.queued),
        )?;
        page.gauge(
            "queue_limit",
            None,
            "Tasks that may wait",
            one(self.tree.queue_limit),
        )?;
        page.gauge(
            "slots_used",
            None,
            "Tasks that hold a slot",
            one(self.tree.slots_used),
        )?;
        page.gauge("slots_limit", None, "Slots", one(self.tree.slots))?;
        page.gauge(
            "accepting",
            None,
            "1 while a new task would be accepted",
            one(u32::from(self.tree.accepting)),
        )?;
        page.histogram(
            "task_queue",
            Some(&Unit::Seconds),
            "From acceptance to slot",
            one(&numbers.queue_seconds),
        )?;
        page.histogram(
            "task_start",
            Some(&Unit::Seconds),
            "From slot to the first prompt that the engine accepted",
            one(&numbers.start_seconds),
        )?;
        page.histogram(
            "task_running",
            Some(&Unit::Seconds),
            "Running time of ended tasks that ran; pauses and open requests do not count",
            one(&numbers.running_seconds),
        )
    }

    /// From the board: the actors of tasks say their phase. A task without an actor of its own has ended.
    fn live_phases(&self) -> Vec<(Labels, u64)> {
        let mut phases: BTreeMap<Phase, u64> = Phase::ALL
            .into_iter()
            .filter(|phase| !phase.is_final())
            .map(|phase| (phase, 0))
            .collect();
        let actors = &self.tree.board.actors;
        for actor in actors.iter().filter(|actor| actor.kind == ActorKind::Task) {
            let phase = phases
                .iter_mut()
                .find(|(phase, _)| phase.as_str() == actor.phase);
            if let Some((_, count)) = phase {
                *count += 1;
            }
        }
        phases
            .into_iter()
            .map(|(phase, count)| (label("phase", phase.as_str()), count))
            .collect()
    }

    fn runs(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let TreeMetrics { numbers, .. } = &self.tree;
        page.counter(
            "task_resumes",
            "Runs continued in their session after they lost their worker",
            one(numbers.resumes),
        )?;
        page.counter(
            "watchdog_warnings",
            "Warnings of watchdogs that did not end the run",
            each("watchdog", &numbers.watchdog_warnings),
        )?;
        page.counter(
            "watchdog_nudges",
            "Silent workers that were asked to go on",
            one(numbers.watchdog_nudges),
        )?;
        page.counter(
            "watchdog_aborts",
            "Runs that a watchdog ended",
            one(numbers.watchdog_aborts),
        )?;
        page.counter(
            "provider_retries",
            "Times that a model provider made a worker wait",
            one(numbers.provider_retries),
        )?;
        page.counter(
            "late_arrivals",
            "Results that came after the end of their task and changed nothing",
            one(numbers.late_arrivals),
        )?;
        page.counter(
            "model_tokens",
            "Model tokens of ended runs",
            each("kind", &numbers.tokens),
        )?;
        page.counter(
            "model_cost_dollars",
            "Cost of ended runs in US dollars, as the engine computes it",
            one(numbers.cost_dollars),
        )?;
        page.counter(
            "attempts_removed",
            "Attempts removed from their engine",
            one(numbers.attempts_removed),
        )?;
        page.counter(
            "attempt_removals_delayed",
            "Attempts that could not be removed within a minute",
            one(numbers.removals_delayed),
        )?;
        page.counter(
            "retention_files_cleared",
            "Tasks whose files were removed after their retention time",
            one(numbers.files_cleared),
        )?;
        page.counter(
            "retention_tasks_forgotten",
            "Tasks whose record was removed after its retention time",
            one(numbers.tasks_forgotten),
        )
    }

    fn requests(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let TreeMetrics { numbers, .. } = &self.tree;
        page.counter(
            "requests_opened",
            "Permissions and questions that workers asked for",
            each("kind", &numbers.requests_opened),
        )?;
        page.counter(
            "requests_closed",
            "Requests closed, by how",
            each("end", &numbers.requests_closed),
        )?;
        page.counter(
            "request_answers",
            "Answers given to requests, by who gave them",
            each("by", &numbers.answers),
        )
    }

    fn journal(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let TreeMetrics { numbers, .. } = &self.tree;
        page.counter(
            "events",
            "Events made durable",
            [
                (label("kind", "lifecycle"), numbers.lifecycle_events),
                (label("kind", "observation"), numbers.observations),
            ],
        )?;
        page.gauge(
            "journal_last_event",
            None,
            "Number of the newest event, counted over all lives of the journal",
            one(self.tree.last_event.0),
        )?;
        page.counter(
            "journal_commits",
            "Commits of the journal",
            each("outcome", &numbers.appends),
        )?;
        page.histogram(
            "journal_commit",
            Some(&Unit::Seconds),
            "How long a commit took",
            one(&numbers.append_seconds),
        )?;
        page.histogram(
            "journal_commit_events",
            None,
            "Events in a commit",
            one(&numbers.append_events),
        )
    }

    fn actors(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let mut live: BTreeMap<ActorKind, (u64, u64, u64)> = BTreeMap::new();
        for actor in &self.tree.board.actors {
            let (count, jobs, waiting) = live.entry(actor.kind).or_default();
            *count += 1;
            *jobs += actor.jobs.len() as u64;
            *waiting += actor.waiting;
        }
        let of = |pick: fn((u64, u64, u64)) -> u64| {
            ActorKind::ALL.map(|kind| {
                let numbers = live.get(&kind).copied().unwrap_or_default();
                (label("actor", kind.as_str()), pick(numbers))
            })
        };
        page.gauge("actors", None, "Live actors, by kind", of(|(n, _, _)| n))?;
        page.counter(
            "actor_restarts",
            "Actors started again after they died, by kind",
            each("actor", &self.tree.numbers.restarts),
        )?;
        page.gauge(
            "jobs_running",
            None,
            "Pieces of I/O in flight, by kind of actor",
            of(|(_, n, _)| n),
        )?;
        page.gauge(
            "mailbox_waiting",
            None,
            "Messages sent and not yet handled, by kind of actor",
            of(|(_, _, n)| n),
        )?;
        let most = ActorKind::ALL.map(|kind| {
            let most = self.tree.most_waiting.get(&kind).copied();
            (label("actor", kind.as_str()), most.unwrap_or_default())
        });
        page.gauge(
            "mailbox_most_waiting",
            None,
            "Most messages that waited at once in one mailbox since the server began",
            most,
        )?;
        page.counter(
            "outward_failures",
            "Failed calls to memory, rooms and notices, and whether they are tried again",
            pairs(
                ("projection", "outcome"),
                &self.tree.numbers.outward_failures,
            ),
        )
    }

    fn engines(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let engines = &self.tree.engines;
        let of = |engine: &chargehand_actors::metrics::EngineMetrics| {
            label("engine", engine.engine.to_string())
        };
        page.gauge(
            "engine_up",
            None,
            "1 while tasks are dispatched to the engine",
            engines
                .iter()
                .map(|engine| (of(engine), u32::from(engine.state == HealthState::Ok))),
        )?;
        page.gauge(
            "engine_worker_generation",
            None,
            "Lives of the engine's worker, counted over all starts",
            engines
                .iter()
                .filter_map(|engine| Some((of(engine), engine.worker.generation?))),
        )?;
        page.gauge(
            "engine_worker_directories",
            None,
            "Directories open in the engine's workers",
            engines
                .iter()
                .filter_map(|engine| Some((of(engine), engine.worker.directories?))),
        )?;
        page.gauge(
            "engine_worker_memory",
            Some(&Unit::Bytes),
            "Memory that the engine's workers hold",
            engines
                .iter()
                .filter_map(|engine| Some((of(engine), engine.worker.memory_bytes?))),
        )?;
        page.counter(
            "engine_leftovers",
            "Attempts without owner that were found in the engine",
            each("engine", &self.tree.numbers.leftovers),
        )
    }

    fn edge(&self, page: &mut Page<'_>) -> std::fmt::Result {
        page.counter(
            "tool_calls",
            "Answered tool calls; the outcome is ok or the code of the refusal",
            pairs(("tool", "outcome"), &self.edge.calls),
        )?;
        page.histogram(
            "tool_call",
            Some(&Unit::Seconds),
            "How long tool calls took, waits that were asked for included",
            self.edge
                .call_seconds
                .iter()
                .map(|(tool, histogram)| (label("tool", *tool), histogram)),
        )?;
        page.gauge(
            "mcp_sessions",
            None,
            "Sessions of older MCP clients",
            one(self.edge.sessions),
        )?;
        page.counter(
            "http_refused",
            "Refused HTTP requests, by reason",
            each("reason", &self.edge.refused),
        )
    }
}
