//! The outward actors: they tell what happened, and never delay a task.

use std::time::Duration;

use chargehand_actors::board::ActorKind;
use chargehand_actors::event::Phase;
use chargehand_actors::fakes::{Fate, OutwardMode, World};
use tokio::time::Instant;

use crate::stage::{Stage, sleep};

fn outside(mode: OutwardMode) -> World {
    let world = World::new(1);
    world.memory.set(mode);
    world.rooms.set(mode);
    world.notices.set(mode);
    world
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
    let ended = posted.iter().filter(|e| e.event.is_final()).count();
    assert_eq!(ended, 1);
    let numbers: Vec<u64> = posted.iter().map(|e| e.number.0).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "in order, once each"
    );
    let notices = stage.world.notices.notices();
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].0.phase, Phase::Completed);
    assert_eq!(lanes(&stage), 0, "nobody is left for a finished task");
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
    let ended = stage.world.rooms.posted(task);
    assert_eq!(ended.iter().filter(|e| e.event.is_final()).count(), 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_told_before_a_restart_is_told_after_it() {
    let stage = Stage::of(outside(OutwardMode::Hangs)).await;
    let task = stage.submit("work 1000").await;
    stage.reach(task, Phase::Completed).await;
    stage.is_clean().await;
    let world = stage.crash().await;
    for port in [&world.memory, &world.rooms, &world.notices] {
        port.set(OutwardMode::Works);
    }
    let stage = Stage::of(world).await;
    sleep(60_000).await;
    assert_eq!(stage.world.notices.notices().len(), 1);
    assert_eq!(
        stage.world.memory.views().last().unwrap().phase,
        Phase::Completed
    );
    let posted = stage.world.rooms.posted(task);
    assert_eq!(posted.iter().filter(|e| e.event.is_final()).count(), 1);
    assert_eq!(lanes(&stage), 0);
    let stage = stage.restart().await;
    sleep(60_000).await;
    assert_eq!(stage.world.notices.notices().len(), 1, "told once");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_notice_whose_answer_is_lost_is_repeated_with_the_same_key() {
    let stage = Stage::of(outside(OutwardMode::Works)).await;
    stage.world.trouble.next("notices.notify", Fate::FailAfter);
    let task = stage.submit("work 1000").await;
    stage.reach(task, Phase::Completed).await;
    sleep(60_000).await;
    let notices = stage.world.notices.notices();
    assert_eq!(notices.len(), 2);
    assert_eq!(notices[0].1, notices[1].1);
    stage.end().await;
}
