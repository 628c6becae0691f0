//! What ended long ago: its files go first, its record later, and whoever asks is told so.

use std::time::Duration;

use chargehand_actors::command::{
    FilesQuery, HistoryQuery, ReadFileQuery, Submit, TextKind, TextQuery,
};
use chargehand_actors::error::TreeError;
use chargehand_actors::event::Phase;
use chargehand_actors::fakes::{Fate, World};
use chargehand_actors::id::TaskId;
use chargehand_actors::ports::StopHow;

use crate::stage::{HOUR, Stage, sleep};

const DAY: Duration = Duration::from_secs(86_400);

fn keeping(files_days: u32, tasks_days: u32) -> World {
    let mut world = World::new(1);
    world.settings.keep_files = DAY * files_days;
    world.settings.keep_tasks = DAY * tasks_days;
    world
}

async fn finished(stage: &Stage) -> TaskId {
    let task = stage.submit("work 100").await;
    stage.reach(task, Phase::Completed).await;
    stage.is_clean().await;
    task
}

/// So many days later, by the wall clock; and one sweep.
async fn days(stage: &Stage, n: u32) {
    stage.world.clock.shift(i64::from(n) * 86_400_000);
    tokio::time::sleep(HOUR + HOUR / 10).await;
}

async fn history(stage: &Stage, task: TaskId) -> Result<usize, TreeError> {
    let query = HistoryQuery {
        task,
        limit: None,
        offset: 0,
    };
    let page = stage.handle.history(&World::operator(), query).await?;
    Ok(page.events.len())
}

/// What a reader of files, of one file and of the texts is told.
async fn reads(stage: &Stage, task: TaskId) -> Vec<TreeError> {
    let who = World::operator();
    let files = FilesQuery {
        task,
        prefix: String::new(),
        offset: 0,
        limit: 10,
    };
    let file = ReadFileQuery {
        task,
        path: "a".to_owned(),
        offset: 0,
        limit: 10,
    };
    let mut told = vec![
        stage.handle.files(&who, files).await.err(),
        stage.handle.read_file(&who, file).await.err(),
    ];
    for text in [TextKind::Output, TextKind::Patch] {
        let query = TextQuery {
            task,
            text,
            offset: 0,
            limit: 10,
        };
        told.push(stage.handle.text(&who, query).await.err());
    }
    told.into_iter().flatten().collect()
}

#[tokio::test(start_paused = true)]
async fn files_go_after_their_time_and_readers_are_told_when_and_why() {
    let stage = Stage::of(keeping(7, 30)).await;
    let task = finished(&stage).await;
    let attempt = World::attempt(task);
    days(&stage, 6).await;
    assert_eq!(stage.world.workdirs.prepared(attempt), 1);
    assert!(!stage.world.output.of(task).is_empty());
    assert_eq!(stage.view(task).await.files_cleared, None);
    days(&stage, 1).await;
    assert_eq!(stage.world.workdirs.prepared(attempt), 0);
    assert!(stage.world.output.of(task).is_empty());
    assert_eq!(stage.world.count(task, "files_cleared"), 1);
    // Asked while it is remembered, and looked up after a restart.
    let stage = {
        assert_told(&stage, task).await;
        stage.restart().await
    };
    assert_told(&stage, task).await;
    days(&stage, 3).await;
    assert_eq!(stage.world.count(task, "files_cleared"), 1, "said once");
    assert_eq!(
        stage.world.trouble.calls("workdirs.remove"),
        2,
        "two places, once"
    );
    stage.end().await;
}

async fn assert_told(stage: &Stage, task: TaskId) {
    let view = stage.view(task).await;
    assert_eq!(view.phase, Phase::Completed);
    assert!(view.files_cleared.is_some());
    let told = reads(stage, task).await;
    assert_eq!(told, vec![TreeError::FilesCleared { task, days: 7 }; 4]);
    assert!(told[0].to_string().contains("7 days after its end"));
    assert!(history(stage, task).await.unwrap() > 5, "the record stays");
}

#[tokio::test(start_paused = true)]
async fn a_task_is_forgotten_after_its_time_and_numbers_go_on() {
    let stage = Stage::of(keeping(7, 30)).await;
    let task = finished(&stage).await;
    days(&stage, 29).await;
    assert!(history(&stage, task).await.is_ok());
    days(&stage, 1).await;
    let not_found = Err(TreeError::TaskNotFound(task));
    assert_eq!(history(&stage, task).await, not_found);
    let status = World::view(&stage.handle, task).await;
    assert_eq!(
        status.map(|view| view.id),
        Err(TreeError::TaskNotFound(task))
    );
    assert_eq!(stage.world.journal.of(task), Vec::new());
    let used = stage.handle.health().await.unwrap().last_event;
    // Nothing is left to read the numbers from; a start goes on behind them all the same.
    let stage = stage.restart().await;
    let next = finished(&stage).await;
    let first = stage.world.journal.of(next).first().unwrap().number;
    assert!(first > used, "{first} was given before ({used})");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_is_forgotten_as_any_other() {
    let stage = Stage::of(keeping(7, 30)).await;
    let task = stage.submit("hang").await;
    stage.works(task).await;
    stage.cancel(task).await;
    stage.is_clean().await;
    days(&stage, 30).await;
    let not_found = Err(TreeError::TaskNotFound(task));
    assert_eq!(history(&stage, task).await, not_found);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_ever_or_with_its_task_stays() {
    let stage = Stage::of(keeping(0, 0)).await;
    let for_ever = finished(&stage).await;
    days(&stage, 400).await;
    assert!(history(&stage, for_ever).await.is_ok());
    assert_eq!(
        reads(&stage, for_ever).await.len(),
        2,
        "the fake has no file and no patch"
    );
    stage.end().await;

    let stage = Stage::of(keeping(0, 2)).await;
    let task = finished(&stage).await;
    days(&stage, 1).await;
    assert_eq!(stage.world.workdirs.prepared(World::attempt(task)), 1);
    days(&stage, 1).await;
    assert_eq!(stage.world.workdirs.prepared(World::attempt(task)), 0);
    assert_eq!(stage.world.journal.row(task), None);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_in_force_keeps_its_task() {
    let mut world = keeping(1, 1);
    world.settings.idempotency_keep = DAY * 3;
    let stage = Stage::of(world).await;
    let keyed = || Submit {
        idempotency_key: Some("k".to_owned()),
        ..World::task("work 100")
    };
    let task = stage.send(keyed()).await;
    stage.reach(task, Phase::Completed).await;
    days(&stage, 2).await;
    let repeat = stage.handle.submit(keyed()).await.unwrap();
    assert_eq!((repeat.task, repeat.existing), (task, true));
    assert!(
        history(&stage, task).await.is_ok(),
        "the answer can be looked up"
    );
    days(&stage, 1).await;
    let fresh = stage.handle.submit(keyed()).await.unwrap();
    assert!(!fresh.existing);
    assert_ne!(fresh.task, task);
    stage.reach(fresh.task, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_yet_gone_from_its_engine_is_kept() {
    let stage = Stage::of(keeping(1, 2)).await;
    stage
        .world
        .trouble
        .always("engine.remove", Fate::FailBefore);
    let task = stage.submit("work 100").await;
    stage.reach(task, Phase::Completed).await;
    days(&stage, 5).await;
    assert_eq!(stage.world.workdirs.prepared(World::attempt(task)), 1);
    assert!(history(&stage, task).await.is_ok());
    stage.world.trouble.clear();
    stage.is_clean().await;
    days(&stage, 0).await;
    assert_eq!(stage.world.journal.row(task), None);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn live_tasks_are_never_touched_however_old() {
    let mut world = keeping(1, 2);
    world.settings.hard_deadline = DAY * 100;
    let stage = Stage::of(world).await;
    let mut submit = World::task("work 864000000");
    submit.spec.timeout_ms = 90 * 86_400_000;
    let task = stage.send(submit).await;
    stage.works(task).await;
    days(&stage, 30).await;
    assert_eq!(stage.phase(task).await, Phase::Running);
    assert_eq!(stage.world.workdirs.prepared(World::attempt(task)), 1);
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_hangs_or_panics_is_repeated_and_holds_up_nobody() {
    for (call, fate) in [
        ("workdirs.remove", Fate::FailBefore),
        ("workdirs.remove", Fate::FailAfter),
        ("workdirs.remove", Fate::HangBefore),
        ("output.remove", Fate::FailAfter),
        ("output.remove", Fate::Panic),
        ("journal.ended", Fate::FailBefore),
        ("journal.ended", Fate::Panic),
        ("journal.forget", Fate::FailBefore),
        ("journal.forget", Fate::FailAfter),
        ("journal.tidy", Fate::HangAfter),
    ] {
        let stage = Stage::of(keeping(1, 2)).await;
        let first = finished(&stage).await;
        let second = finished(&stage).await;
        stage.world.trouble.next(call, fate);
        days(&stage, 1).await;
        sleep(2 * 3_600_000).await;
        for task in [first, second] {
            assert_eq!(
                stage.world.count(task, "files_cleared"),
                1,
                "{call} {fate:?}"
            );
        }
        stage.world.trouble.next(call, fate);
        days(&stage, 1).await;
        sleep(2 * 3_600_000).await;
        for task in [first, second] {
            assert_eq!(stage.world.journal.row(task), None, "{call} {fate:?}");
        }
        finished(&stage).await;
        stage.end().await;
    }
}

/// Dies at each boundary of a sweep, one after the other, until a sweep comes through.
#[tokio::test(start_paused = true)]
async fn a_crash_at_every_boundary_of_a_sweep_is_made_good_by_the_next() {
    for n in 1..200 {
        let stage = Stage::of(keeping(1, 2)).await;
        let task = finished(&stage).await;
        // A minute after its start the tree looks what is due: all of it.
        stage.world.clock.shift(3 * 86_400_000);
        sleep(59_900 - stage.world.clock.elapsed_ms()).await;
        let fuse = stage.world.trouble.fuse.clone();
        fuse.set(Some(n));
        let sweep = Duration::from_secs(2);
        let through = tokio::time::timeout(sweep, fuse.blown()).await.is_err();
        fuse.set(None);
        let stage = stage.restart().await;
        sleep(70_000).await;
        assert_eq!(stage.world.journal.row(task), None, "crash at {n}");
        assert_eq!(stage.world.workdirs.prepared(World::attempt(task)), 0);
        let next = finished(&stage).await;
        assert!(history(&stage, next).await.is_ok());
        stage.end().await;
        if through {
            assert!(n > 15, "a sweep has more boundaries than {n}");
            return;
        }
    }
    panic!("the fuse blew for ever");
}

#[tokio::test(start_paused = true)]
async fn its_death_touches_nobody_and_an_idle_tree_writes_nothing() {
    let stage = Stage::of(keeping(7, 30)).await;
    let task = finished(&stage).await;
    stage.tree.kill_core("retention");
    sleep(5_000).await;
    let appends = stage.world.trouble.calls("journal.append");
    let tree = stage.handle.board();
    let reaper = tree.actors.iter().find(|a| a.label == "reaper").unwrap();
    assert_eq!(reaper.restarts, 0, "the core was not rebuilt");
    tokio::time::sleep(DAY).await;
    assert_eq!(stage.world.trouble.calls("journal.append"), appends);
    days(&stage, 6).await;
    assert_eq!(
        stage.world.count(task, "files_cleared"),
        1,
        "it was started again"
    );
    stage.stop(StopHow::EndWorkers).await;
}
