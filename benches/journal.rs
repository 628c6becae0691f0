//! What the journal costs on this disk: appends in groups of different size, a start and a list over a long history.
//!
//! `cargo bench --bench journal`. The files are made in the build directory, because a temporary directory is often in
//! memory, where a durable write costs nothing.
#![expect(clippy::unwrap_used, reason = "a failed step ends the bench")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand_actors::command::Identity;
use chargehand_actors::event::{CommittedEvent, Event, Phase};
use chargehand_actors::id::{BatchId, EventNumber, WallTime};
use chargehand_actors::ports::{Batch, JournalStore, ListFilter};
use chargehand_actors::view::TaskView;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

#[path = "support/history.rs"]
mod history;

use history::{TASKS, TOKEN, finished, observation, view};

struct Bench {
    runtime: Runtime,
    journal: Arc<SqliteJournal>,
    last: u64,
    folder: TempDir,
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
        for start in (0..TASKS).step_by(500) {
            let batches = (start..start + 500)
                .map(|n| {
                    let (row, events) = finished(n);
                    self.batch(row, events)
                })
                .collect();
            self.append(batches);
        }
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

fn long_history(criterion: &mut Criterion) {
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
            token: TOKEN.to_owned(),
            agent_id: Some("agent-3".to_owned()),
            from: Default::default(),
        }),
        limit: 50,
        ..ListFilter::default()
    };
    let deep = view(TASKS / 2, Phase::Failed);
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

criterion_group!(benches, appends, long_history);
criterion_main!(benches);
