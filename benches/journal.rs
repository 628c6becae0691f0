//! What the journal costs on this disk: appends in groups of different size, a start and a list over a long history.
//!
//! `cargo bench --bench journal`. The files are made in the build directory, because a temporary directory is often in
//! memory, where a durable write costs nothing.
#![expect(clippy::unwrap_used, reason = "a failed step ends the bench")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand_actors::command::{Caller, Identity, TaskSpec};
use chargehand_actors::event::{CommittedEvent, Event, Failure, FailureKind, Phase, Usage};
use chargehand_actors::id::{BatchId, EngineName, EventNumber, TaskId, WallTime};
use chargehand_actors::ports::{Batch, JournalStore, ListFilter};
use chargehand_actors::view::TaskView;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

const HISTORY: u128 = 10_000;
const EVENTS_OF_A_TASK: usize = 30;

struct Bench {
    runtime: Runtime,
    journal: Arc<SqliteJournal>,
    last: u64,
    folder: TempDir,
}

fn view(id: u128, phase: Phase) -> TaskView {
    TaskView {
        id: TaskId::new(Uuid::from_u128(id)),
        phase,
        phase_since: WallTime(1),
        spec: TaskSpec {
            description: "Rename the module and make the tests pass. ".repeat(10),
            engine: EngineName::new("local"),
            model: None,
            agent: None,
            source: Default::default(),
            timeout_ms: 300_000,
            priority: Default::default(),
            labels: vec!["nightly".to_owned()],
            observers: Vec::new(),
            attended: false,
        },
        caller: Caller {
            token: "planner".to_owned(),
            agent_id: format!("agent-{}", id % 10),
        },
        idempotency_key: None,
        created_at: WallTime(1_790_000_000_000 + i64::try_from(id).unwrap() * 1_000),
        started_at: None,
        ended_at: None,
        attempt: 1,
        running_ms: 60_000,
        running_since: None,
        doing: "editing src/main.rs".to_owned(),
        steps: 12,
        usage: Usage::default(),
        todos: Vec::new(),
        files_touched: (0..20).map(|n| format!("src/module_{n}/mod.rs")).collect(),
        requests: Vec::new(),
        pause: None,
        directory: Some("/data/tasks/workdir".to_owned()),
        session: Some("ses_0123456789".to_owned()),
        messages_waiting: 0,
        result: None,
        failure: None,
        last_event: EventNumber::ZERO,
        events_total: 0,
    }
}

impl Bench {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let settings = JournalSettings::at(folder.path().join("journal.db"));
        let journal = runtime.block_on(SqliteJournal::open(settings)).unwrap();
        Self {
            runtime,
            journal: Arc::new(journal),
            last: 0,
            folder,
        }
    }

    fn batch(&mut self, row: TaskView, events: Vec<Event>) -> Batch {
        let events = events.into_iter().map(|event| {
            self.last += 1;
            CommittedEvent {
                number: EventNumber(self.last),
                at: WallTime(1),
                task: Some(row.id),
                event,
            }
        });
        Batch {
            id: BatchId(Uuid::new_v4()),
            events: events.collect(),
            row: Some(row),
        }
    }

    fn append(&self, batches: Vec<Batch>) {
        self.runtime.block_on(self.journal.append(batches)).unwrap();
    }

    /// Tasks that run.
    fn fill_rows(&mut self, tasks: u64) {
        let batches = (0..tasks)
            .map(|n| self.batch(view(u128::from(n), Phase::Running), vec![observation()]))
            .collect();
        self.append(batches);
    }

    /// A long history: finished tasks, removed from their engine.
    fn fill(&mut self) {
        for start in (0..HISTORY).step_by(500) {
            let batches = (start..start + 500)
                .map(|n| {
                    let row = view(n, Phase::Failed);
                    let mut events = vec![Event::TaskAccepted {
                        spec: Box::new(row.spec.clone()),
                        caller: row.caller.clone(),
                        idempotency_key: None,
                        fingerprint: "f".to_owned(),
                    }];
                    events.resize(EVENTS_OF_A_TASK - 2, observation());
                    events.push(Event::TaskFailed {
                        failure: Failure {
                            kind: FailureKind::Model,
                            message: "the provider answered 500".to_owned(),
                        },
                        result: None,
                        running_ms: 60_000,
                    });
                    events.push(Event::AttemptRemoved { attempt: 1 });
                    self.batch(row, events)
                })
                .collect();
            self.append(batches);
        }
    }
}

fn observation() -> Event {
    Event::Remark {
        message: "edited src/module_7/mod.rs, then ran the tests of the module again".to_owned(),
    }
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    group
        .sample_size(30)
        .measurement_time(Duration::from_secs(5));
    for batches in [1_u64, 10, 100] {
        let mut bench = Bench::new();
        bench.fill_rows(batches);
        group.throughput(Throughput::Elements(batches));
        group.bench_with_input(
            BenchmarkId::from_parameter(batches),
            &batches,
            |b, &count| {
                b.iter_custom(|rounds| {
                    let mut took = Duration::ZERO;
                    for _ in 0..rounds {
                        let batches = (0..count)
                            .map(|n| {
                                let row = view(u128::from(n), Phase::Running);
                                bench.batch(row, vec![observation()])
                            })
                            .collect();
                        let start = std::time::Instant::now();
                        bench.append(batches);
                        took += start.elapsed();
                    }
                    took
                });
            },
        );
    }
}

fn history(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    bench.fill();
    let mut group = criterion.benchmark_group("after_10000_tasks");
    group.sample_size(20);
    group.bench_function("open", |b| {
        let path = bench.folder.path().join("journal.db");
        b.iter_batched(
            || JournalSettings::at(&path),
            |settings| {
                bench.runtime.block_on(async {
                    let opened = SqliteJournal::open(settings).await.unwrap();
                    opened.close().await;
                });
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("load", |b| {
        b.iter(|| {
            let loaded = bench.runtime.block_on(bench.journal.load(WallTime(0)));
            assert!(loaded.unwrap().tasks.is_empty());
        });
    });
    let page = ListFilter {
        identity: Some(Identity::Caller {
            token: "planner".to_owned(),
            agent_id: Some("agent-3".to_owned()),
        }),
        limit: 50,
        ..ListFilter::default()
    };
    let deep = view(HISTORY / 2, Phase::Failed);
    let before = Some((deep.created_at, deep.id));
    let none_running = vec!["running".to_owned(), "queued".to_owned()];
    for (name, filter, found) in [
        ("list_first_page", page.clone(), 50),
        (
            "list_page_in_the_middle",
            ListFilter {
                before,
                ..page.clone()
            },
            50,
        ),
        (
            "list_none_running",
            ListFilter {
                phases: none_running,
                ..page
            },
            0,
        ),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let listed = bench.runtime.block_on(bench.journal.list(filter.clone()));
                assert_eq!(black_box(listed.unwrap()).len(), found);
            });
        });
    }
    group.bench_function("status", |b| {
        b.iter(|| {
            let read = async {
                bench.journal.task(deep.id).await.unwrap().unwrap();
                bench.journal.newest_events(deep.id, 10).await.unwrap()
            };
            assert_eq!(bench.runtime.block_on(read).len(), 10);
        });
    });
}

criterion_group!(benches, appends, history);
criterion_main!(benches);
