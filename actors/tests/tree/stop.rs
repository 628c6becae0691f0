//! Ordered stops, and starts after them.

use std::time::Duration;

use chargehand_actors::command::ControlSignal;
use chargehand_actors::error::TreeError;
use chargehand_actors::event::Phase;
use chargehand_actors::fakes::{Fate, OutwardMode, World};
use chargehand_actors::ports::StopHow;
use tokio::time::Instant;

use crate::stage::{Stage, sleep};

#[tokio::test(start_paused = true)]
async fn a_stop_that_leaves_workers_running_is_followed_by_a_start_that_adopts_them() {
    let stage = Stage::new().await;
    let runs = stage.submit("work 5000; work 60000").await;
    let paused = stage.submit("work 5000; work 5000").await;
    let asks = stage.submit("work 3000; ask bash; work 100").await;
    stage.works(runs).await;
    stage.works(paused).await;
    stage.works(asks).await;
    stage.control(paused, ControlSignal::Pause).await.unwrap();
    let waits = stage.submit("work 100").await;
    let world = stage.stop(StopHow::LeaveRunning).await;
    sleep(20_000).await;
    let stage = Stage::of(world).await;
    assert_eq!(stage.phase(paused).await, Phase::Paused);
    stage.reach(asks, Phase::Completed).await;
    stage.reach(runs, Phase::Completed).await;
    stage.control(paused, ControlSignal::Resume).await.unwrap();
    stage.reach(paused, Phase::Completed).await;
    stage.reach(waits, Phase::Completed).await;
    let world = stage.end().await;
    let effects = world.engine.tallies().effects;
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ended_while_nobody_looked_is_completed_by_the_next_start() {
    let stage = Stage::new().await;
    let mut submit = World::task("work 5000");
    submit.spec.timeout_ms = 10_000;
    let task = stage.send(submit).await;
    stage.works(task).await;
    let world = stage.crash().await;
    sleep(3_600_000).await;
    let stage = Stage::of(world).await;
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.engine.tallies().runs.values().sum::<u32>(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_ends_the_workers_starts_nothing_new() {
    let mut world = World::new(1);
    world.settings.max_running = 2;
    let stage = Stage::of(world).await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        tasks.push(stage.submit("work 60000").await);
    }
    stage.works(tasks[0]).await;
    let world = stage.stop(StopHow::EndWorkers).await;
    assert_eq!(world.engine.truths(), []);
    assert_eq!(world.engine.tallies().sessions.len(), 2);
    assert_eq!(world.finals(tasks[0]).len(), 1);
    assert_eq!(
        world.finals(tasks[5]).len(),
        0,
        "it waits for the next start"
    );
    let stage = Stage::of(world).await;
    stage.reach(tasks[5], Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_bounded_in_time_whatever_hangs() {
    for what in [
        "engine.remove",
        "engine.stop",
        "engine.read",
        "engine.abort",
        "journal.append",
        "journal.list",
    ] {
        for how in [StopHow::LeaveRunning, StopHow::EndWorkers] {
            let world = World::new(1);
            world.memory.set(OutwardMode::Hangs);
            world.rooms.set(OutwardMode::Hangs);
            let stage = Stage::of(world).await;
            let task = stage.submit("work 60000").await;
            stage.works(task).await;
            stage.world.trouble.always(what, Fate::HangBefore);
            let begun = Instant::now();
            stage.stop(how).await;
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(120), "{what} {how:?}: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_tree_refuses_and_says_so() {
    let stage = Stage::new().await;
    let handle = stage.handle.clone();
    stage.stop(StopHow::EndWorkers).await;
    let refused = World::submit(&handle, "work 1").await;
    assert!(matches!(refused, Err(TreeError::Closed(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_every_boundary_of_a_tasks_life_changes_nothing_about_its_end() {
    // The fuse stops the world before or after the effect of the n-th port call.
    for n in 1..90 {
        let world = World::new(1);
        let stage = Stage::of(world).await;
        stage.world.trouble.fuse.set(Some(n));
        let world = stage.world.clone();
        let submitted = tokio::select! {
            submitted = World::submit(&stage.handle, "work 300; say 50; work 300") => submitted.ok(),
            () = world.trouble.fuse.blown() => None,
        };
        if submitted.is_some() {
            let _ = tokio::time::timeout(Duration::from_secs(30), world.trouble.fuse.blown()).await;
        }
        world.trouble.fuse.set(None);
        let stage = stage.restart().await;
        let Some(task) = submitted.map(|submitted| submitted.task) else {
            stage.is_clean().await;
            stage.stop(StopHow::EndWorkers).await;
            continue;
        };
        stage.reach(task, Phase::Completed).await;
        let world = stage.end().await;
        let tallies = world.engine.tallies();
        assert_eq!(world.finals(task).len(), 1, "boundary {n}");
        assert_eq!(
            tallies.runs.values().sum::<u32>(),
            1,
            "boundary {n}: {:?}",
            tallies.runs
        );
        assert_eq!(
            tallies.effects.values().copied().collect::<Vec<_>>(),
            [1, 1],
            "boundary {n}"
        );
        assert_eq!(tallies.sessions.values().sum::<u32>(), 1, "boundary {n}");
        assert_eq!(tallies.removals.values().sum::<u32>(), 1, "boundary {n}");
    }
}
