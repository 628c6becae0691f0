//! The outward actors: they tell what happened, and never delay a task.

use std::time::Duration;

use chargehand_actors::board::ActorKind;
use chargehand_actors::event::{CommittedEvent, Event, Phase};
use chargehand_actors::fakes::{Fate, OutwardMode, World};
use chargehand_actors::id::BatchId;
use chargehand_actors::ports::{Batch, JournalStore, Post, StopHow};
use tokio::time::Instant;

use crate::stage::{Stage, sleep};

fn outside(mode: OutwardMode) -> World {
    let mut world = World::new(1);
    world.settings.memory.grace = Duration::from_secs(10);
    world.memory.set(mode);
    world.rooms.set(mode);
    world.notices.set(mode);
    world
}

/// Posts that tell an end.
fn ends(posted: &[Post]) -> usize {
    let word = |post: &Post| post.about.get("event_type").cloned();
    let ends = [
        "task_completed",
        "task_failed",
        "task_timeout",
        "task_cancelled",
    ];
    posted
        .iter()
        .filter(|post| word(post).is_some_and(|word| ends.iter().any(|end| word == *end)))
        .count()
}

fn lanes(stage: &Stage) -> usize {
    let actors = stage.handle.board().actors;
    actors
        .iter()
        .filter(|actor| {
            matches!(
                actor.kind,
                ActorKind::TaskMemory | ActorKind::Room | ActorKind::Notice
            )
        })
        .count()
}

#[tokio::test(start_paused = true)]
async fn memory_room_and_agent_are_told_of_everything_that_matters() {
    let stage = Stage::of(outside(OutwardMode::Works)).await;
    let task = stage.submit("work 2000; work 2000").await;
    stage.reach(task, Phase::Completed).await;
    sleep(30_000).await;
    let views = stage.world.memory.views();
    assert_eq!(views.last().unwrap().phase, Phase::Completed);
    assert!(
        views.len() < 8,
        "not one write for each event: {}",
        views.len()
    );
    let posted = stage.world.rooms.posted(task);
    assert_eq!(ends(&posted), 1);
    let numbers: Vec<u64> = posted
        .iter()
        .filter_map(|post| post.about.get("event")?.as_u64())
        .collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "in order, once each"
    );
    let notices = stage.world.notices.notices();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].view.phase, Phase::Completed);
    assert_eq!(lanes(&stage), 0, "nobody is left for a finished task");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_memory_follows_a_change_of_state_at_once_and_other_news_at_the_interval() {
    let mut world = outside(OutwardMode::Works);
    world.settings.memory.interval = Duration::from_secs(5);
    let stage = Stage::of(world).await;
    let task = stage.submit("work 20000; ask bash; work 20000").await;
    stage.reach(task, Phase::Running).await;
    sleep(1_500).await;
    let memory = || stage.world.memory.memories()[&task].clone();
    assert_eq!(
        memory().phase.status(),
        "running",
        "a second after it began"
    );
    let before = stage.world.memory.views().len();
    sleep(15_000).await;
    let written = stage.world.memory.views().len() - before;
    assert!(written <= 3, "at most one an interval: {written}");
    stage.reach(task, Phase::Completed).await;
    sleep(500).await;
    assert_eq!(memory().phase, Phase::Completed);
    assert_eq!(stage.world.memory.made(), 1);
    sleep(11_000).await;
    assert_eq!(
        stage.world.memory.memories().len(),
        0,
        "closed after the grace"
    );
    assert_eq!(stage.world.memory.archived(), [task]);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_outside_that_fails_hangs_or_panics_delays_no_task() {
    let time = async |mode: OutwardMode| {
        let stage = Stage::of(outside(mode)).await;
        let begun = Instant::now();
        let task = stage.submit("work 1000; ask bash; work 1000").await;
        stage.reach(task, Phase::Completed).await;
        let took = begun.elapsed();
        let world = stage.end().await;
        (took, world.life(task))
    };
    let (off, life) = time(OutwardMode::Off).await;
    for mode in [
        OutwardMode::Fails,
        OutwardMode::Refuses,
        OutwardMode::Hangs,
        OutwardMode::Panics,
    ] {
        let (took, same) = time(mode).await;
        assert!(
            took < off + Duration::from_millis(50),
            "{mode:?}: {took:?}, off {off:?}"
        );
        assert_eq!(same, life, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_told_for_a_while_is_told_later() {
    let stage = Stage::of(outside(OutwardMode::Fails)).await;
    let task = stage.submit("work 1000").await;
    stage.reach(task, Phase::Completed).await;
    sleep(20_000).await;
    assert_eq!(stage.world.notices.notices(), []);
    stage.world.notices.set(OutwardMode::Works);
    stage.world.rooms.set(OutwardMode::Works);
    sleep(200_000).await;
    assert_eq!(stage.world.notices.notices().len(), 1);
    assert_eq!(ends(&stage.world.rooms.posted(task)), 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_told_before_a_restart_is_told_after_it() {
    let stage = Stage::of(outside(OutwardMode::Hangs)).await;
    let task = stage.submit("work 1000").await;
    stage.reach(task, Phase::Completed).await;
    stage.is_clean().await;
    let world = stage.crash().await;
    world.memory.set(OutwardMode::Works);
    world.rooms.set(OutwardMode::Works);
    world.notices.set(OutwardMode::Works);
    let stage = Stage::of(world).await;
    sleep(60_000).await;
    assert_eq!(stage.world.notices.notices().len(), 1);
    assert_eq!(
        stage.world.memory.views().last().unwrap().phase,
        Phase::Completed
    );
    assert_eq!(ends(&stage.world.rooms.posted(task)), 1);
    assert_eq!(lanes(&stage), 0);
    let stage = stage.restart().await;
    sleep(60_000).await;
    assert_eq!(stage.world.notices.notices().len(), 1, "told once");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_arrives_after_the_end_makes_no_second_notice() {
    let world = outside(OutwardMode::Off);
    world.notices.set(OutwardMode::Works);
    let stage = Stage::of(world).await;
    let task = stage.submit("work 1000").await;
    stage.reach(task, Phase::Completed).await;
    sleep(60_000).await;
    assert_eq!(stage.world.notices.notices().len(), 1);
    let world = stage.crash().await;
    let mut row = world.journal.row(task).unwrap();
    let late = CommittedEvent {
        number: world.journal.all().last().unwrap().number.next(),
        at: row.created_at,
        task: Some(task),
        event: Event::LateArrival {
            what: "a reading".to_owned(),
        },
    };
    row.last_event = late.number;
    let batch = Batch {
        id: BatchId(uuid::Uuid::from_u128(7)),
        events: vec![late],
        row: Some(row),
    };
    world.journal.append(vec![batch]).await.unwrap();
    let stage = Stage::of(world).await;
    sleep(60_000).await;
    assert_eq!(stage.world.notices.notices().len(), 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_memory_that_is_current_outlives_a_restart_while_its_task_runs() {
    let stage = Stage::of(outside(OutwardMode::Works)).await;
    let task = stage.submit("work 6000000").await;
    stage.reach(task, Phase::Running).await;
    sleep(60_000).await;
    let there = |stage: &Stage| stage.world.memory.memories().contains_key(&task);
    assert!(there(&stage));
    let stage = Stage::of(stage.crash().await).await;
    sleep(60_000).await;
    assert!(there(&stage), "taken away under a running task");
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_memory_that_nobody_answers_for_is_removed_at_the_start_and_every_hour() {
    let stage = Stage::of(outside(OutwardMode::Works)).await;
    let over = stage.submit("work 1000").await;
    stage.reach(over, Phase::Completed).await;
    sleep(60_000).await;
    let there = |stage: &Stage| {
        stage
            .world
            .memory
            .memories()
            .into_keys()
            .collect::<Vec<_>>()
    };
    assert_eq!(there(&stage), [], "closed");
    let views = stage.world.memory.views();
    let left = views.last().unwrap().clone();

    // Closed on record, and still there outside.
    let world = stage.crash().await;
    world.memory.leave_memory(left.clone());
    let stage = Stage::of(world).await;
    sleep(60_000).await;
    assert_eq!(there(&stage), [], "removed at the start");

    // Later it is looked for once in an hour; what fails is tried again an hour later.
    stage.world.memory.leave_memory(left.clone());
    sleep(30 * 60_000).await;
    assert_eq!(there(&stage), [over], "it was looked for too early");
    sleep(31 * 60_000).await;
    assert_eq!(there(&stage), [], "removed within the hour");
    for failing in ["memory.left", "memory.remove"] {
        stage.world.memory.leave_memory(left.clone());
        stage.world.trouble.next(failing, Fate::FailBefore);
        sleep(60 * 60_000).await;
        assert_eq!(there(&stage), [over], "{failing} did not fail");
        sleep(60 * 60_000).await;
        assert_eq!(there(&stage), [], "{failing} was not tried again");
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_notice_whose_answer_is_lost_is_not_sent_twice() {
    let stage = Stage::of(outside(OutwardMode::Works)).await;
    stage.world.trouble.next("notices.notify", Fate::FailAfter);
    let task = stage.submit("work 1000").await;
    stage.reach(task, Phase::Completed).await;
    sleep(60_000).await;
    let notices = stage.world.notices.notices();
    assert_eq!(
        notices.len(),
        1,
        "it was looked for before it was sent again"
    );
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_left_for_a_task_that_ended_while_the_look_back_read_it_as_running() {
    let world = outside(OutwardMode::Off);
    world.notices.set(OutwardMode::Works);
    let stage = Stage::of(world).await;
    let task = stage.submit("work 600000").await;
    stage.reach(task, Phase::Running).await;
    let world = stage.crash().await;
    // What is read at once is answered a second later.
    world.trouble.next("journal.cursor", Fate::Stale(1_000));
    let stage = Stage::of(world).await;
    stage.cancel(task).await;
    stage.reach(task, Phase::Cancelled).await;
    sleep(60_000).await;
    assert_eq!(
        stage.world.trouble.met().get(&("journal.cursor", "stale")),
        Some(&1)
    );
    assert_eq!(stage.world.notices.notices().len(), 1);
    assert_eq!(lanes(&stage), 0);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_left_for_what_comes_after_an_end_however_the_outside_fails() {
    for mode in [OutwardMode::Refuses, OutwardMode::Fails, OutwardMode::Works] {
        let mut world = outside(mode);
        world.settings.keep_files = Duration::from_secs(7_200);
        world.settings.idempotency_keep = Duration::from_secs(7_200);
        world.settings.keep_tasks = Duration::from_secs(7_200);
        let stage = Stage::of(world).await;
        let task = stage.submit("work 100").await;
        stage.reach(task, Phase::Completed).await;
        // Memory and notices are tried for about an hour.
        sleep(5_400_000).await;
        assert_eq!(lanes(&stage), 0, "after the end, {mode:?}");
        // Its files are removed, which is an event, and right after it the task is forgotten.
        sleep(6 * 3_600_000).await;
        assert!(stage.world.journal.of(task).is_empty(), "it is forgotten");
        assert_eq!(lanes(&stage), 0, "after it is forgotten, {mode:?}");
        stage.stop(StopHow::EndWorkers).await;
    }
}
