//! What a workdir of 5,000 files and 10 MB costs: `cargo bench --bench workdir`.

use std::path::Path;
use std::time::Duration;

use chargehand::adapters::workdir::{LocalWorkdirs, WorkdirLimits, WorkdirSettings};
use chargehand_actors::command::Source;
use chargehand_actors::id::{AttemptId, TaskId};
use chargehand_actors::ports::Workdirs as _;
use criterion::{Criterion, criterion_group, criterion_main};
use uuid::Uuid;

const FILES: usize = 5_000;
const BYTES: usize = 2_000;

const TASK: TaskId = TaskId::new(Uuid::from_u128(1));
const ATTEMPT: AttemptId = AttemptId {
    task: TASK,
    number: 1,
};

fn fill(dir: &Path) -> std::io::Result<()> {
    for index in 0..FILES {
        let dir = dir.join(format!("d{}/e{}", index % 20, index % 100));
        std::fs::create_dir_all(&dir)?;
        let line = format!("file {index} line\n");
        std::fs::write(
            dir.join(format!("f{index}")),
            line.repeat(BYTES / line.len()),
        )?;
    }
    Ok(())
}

fn workdir(criterion: &mut Criterion) {
    let mut run = || -> Result<(), Box<dyn std::error::Error>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let dir = tempfile::tempdir()?;
        let source = dir.path().join("source");
        fill(&source)?;
        let workdirs = LocalWorkdirs::new(WorkdirSettings {
            root: dir.path().join("workdirs"),
            store: dir.path().join("store"),
            git: None,
            instance: chargehand_actors::id::InstanceId("test".to_owned()),
            limits: WorkdirLimits::default(),
        });
        let from = Source::Directory {
            path: source.to_string_lossy().into_owned(),
        };
        let mut group = criterion.benchmark_group("workdir of 5,000 files, 10 MB");
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(5));
        group.bench_function("prepare (copy, baseline) and remove", |bench| {
            bench.iter(|| {
                runtime.block_on(async {
                    let prepared = workdirs.prepare(ATTEMPT, from.clone()).await;
                    (prepared, workdirs.remove(TASK).await)
                })
            });
        });
        let prepared = runtime.block_on(workdirs.prepare(ATTEMPT, from.clone()))?;
        std::fs::write(Path::new(&prepared.directory).join("d0/e0/f0"), "changed\n")?;
        group.bench_function("collect", |bench| {
            bench.iter(|| runtime.block_on(workdirs.collect(ATTEMPT)));
        });
        // Files just written are never remembered.
        std::thread::sleep(Duration::from_secs(3));
        group.bench_function("list all", |bench| {
            bench.iter(|| runtime.block_on(workdirs.list(TASK, String::new(), 0, 10_000)));
        });
        group.bench_function("list a page of 100", |bench| {
            bench.iter(|| runtime.block_on(workdirs.list(TASK, String::new(), 0, 100)));
        });
        group.finish();
        Ok(())
    };
    if let Err(error) = run() {
        panic!("the benchmark could not run: {error}");
    }
}

criterion_group!(benches, workdir);
criterion_main!(benches);
