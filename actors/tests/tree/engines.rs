//! Engines that are down, die, lie, or break their stream.

use chargehand_actors::event::{FailureKind, Phase};
use chargehand_actors::fakes::engine::RunCause;
use chargehand_actors::fakes::{Fate, World};
use chargehand_actors::id::{AttemptId, EngineName};
use chargehand_actors::view::HealthState;

use crate::stage::{Stage, sleep};

#[tokio::test(start_paused = true)]
async fn tasks_wait_for_an_engine_that_comes_later_and_block_no_other() {
    let world = World::new(1);
    for _ in 0..5 {
        world.trouble.next("engine.start", Fate::FailBefore);
    }
    let stage = Stage::of(world).await;
    let task = stage.submit("work 100").await;
    sleep(100).await;
    assert_eq!(stage.phase(task).await, Phase::Queued);
    stage.reach(task, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_is_not_a_failed_task() {
    let stage = Stage::new().await;
    let task = stage.submit("work 3000; work 3000; work 3000").await;
    stage.works(task).await;
    for _ in 0..5 {
        stage.world.engine.break_stream();
        sleep(1_700).await;
    }
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.engine.tallies().runs.values().sum::<u32>(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_without_an_error_is_opened_again_and_the_tasks_are_read() {
    let stage = Stage::new().await;
    let task = stage.submit("work 8000").await;
    stage.works(task).await;
    // Long enough to be no stream that breaks at once.
    sleep(6_000).await;
    let (watched, read) = {
        let trouble = &stage.world.trouble;
        (trouble.calls("engine.watch"), trouble.calls("engine.read"))
    };
    stage.world.engine.close_stream();
    sleep(200).await;
    assert_eq!(stage.world.trouble.calls("engine.watch"), watched + 1);
    assert!(
        stage.world.trouble.calls("engine.read") > read,
        "what was missed is read at once"
    );
    stage.reach(task, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_at_once_is_not_opened_in_a_tight_loop() {
    let stage = Stage::new().await;
    let task = stage.submit("work 60000").await;
    stage.works(task).await;
    let before = stage.world.trouble.calls("engine.watch");
    let breaker = stage.world.engine.clone();
    let breaking = tokio::spawn(async move {
        loop {
            breaker.break_stream();
            sleep(1).await;
        }
    });
    sleep(60_000).await;
    breaking.abort();
    let opened = stage.world.trouble.calls("engine.watch") - before;
    assert!(opened < 60, "opened {opened} times in a minute");
    stage.reach(task, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_cut_by_its_workers_death_is_continued_and_finished_steps_are_not_repeated() {
    let stage = Stage::new().await;
    let task = stage.submit("work 1000; work 5000; work 1000").await;
    stage.works(task).await;
    sleep(3_000).await;
    stage.world.engine.kill_worker();
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    let tallies = world.engine.tallies();
    assert_eq!(
        tallies.effects.values().copied().collect::<Vec<_>>(),
        [1, 1, 1]
    );
    assert_eq!(world.count(task, "worker_changed"), 1);
    assert_eq!(world.count(task, "resume_wanted"), 1);
    let resumed = tallies
        .runs
        .iter()
        .filter(|((_, cause), _)| *cause == RunCause::Resumed);
    assert_eq!(resumed.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_again_and_again_fails_its_task_however_often_chargehand_starts_anew() {
    let mut stage = Stage::new().await;
    let task = stage.submit("die; die; die; die; die; die").await;
    for _ in 0..6 {
        if stage.view(task).await.phase.is_final() {
            break;
        }
        stage.reach(task, Phase::Running).await;
        sleep(4_000).await;
        stage = stage.restart().await;
    }
    let view = stage.reach(task, Phase::Failed).await;
    assert_eq!(view.failure.unwrap().kind, FailureKind::WorkerLost);
    assert_eq!(stage.world.count(task, "resume_wanted"), 2);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_prompt_lost_with_its_worker_is_sent_again() {
    let stage = Stage::new().await;
    let task = stage.submit("cold 5000; work 100").await;
    stage.reach(task, Phase::Running).await;
    sleep(1_000).await;
    stage.world.engine.kill_worker();
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.engine.tallies().runs.values().sum::<u32>(), 1);
    assert_eq!(world.count(task, "prompt_wanted"), 1, "with the same ids");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_again_and_again_fails_its_task() {
    let stage = Stage::new().await;
    let task = stage.submit("die; die; die; die; die").await;
    let view = stage.reach(task, Phase::Failed).await;
    assert_eq!(view.failure.unwrap().kind, FailureKind::WorkerLost);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ended_well_before_its_worker_died_is_completed() {
    let stage = Stage::new().await;
    stage
        .world
        .engine
        .set_signals(chargehand_actors::fakes::engine::SignalRates {
            missing: 1000,
            ..Default::default()
        });
    let task = stage.submit("work 2000").await;
    stage.works(task).await;
    sleep(3_000).await;
    assert_eq!(stage.phase(task).await, Phase::Running, "nobody told");
    stage.world.engine.kill_worker();
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.engine.tallies().runs.values().sum::<u32>(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_strangers_do_to_a_session_is_told_for_what_it_is() {
    let stage = Stage::new().await;
    let aborted = stage.submit("work 60000").await;
    let deleted = stage.submit("work 60000").await;
    stage.works(aborted).await;
    stage.works(deleted).await;
    stage
        .world
        .engine
        .abort_as_stranger(World::attempt(aborted));
    stage
        .world
        .engine
        .delete_as_stranger(World::attempt(deleted));
    let view = stage.reach(aborted, Phase::Failed).await;
    assert_eq!(view.failure.unwrap().kind, FailureKind::Aborted);
    let view = stage.reach(deleted, Phase::Failed).await;
    assert_eq!(view.failure.unwrap().kind, FailureKind::SessionGone);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn leftovers_of_nobody_are_removed_by_reconciliation() {
    let world = World::new(1);
    let nobody = AttemptId {
        task: chargehand_actors::id::TaskId::new(uuid::Uuid::from_u128(99)),
        number: 1,
    };
    world.engine.leave_session(nobody);
    let stage = Stage::of(world).await;
    stage.is_clean().await;
    let world = stage.end().await;
    assert_eq!(world.engine.tallies().removals.get(&nobody), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_second_session_of_a_live_attempt_does_not_end_it() {
    let stage = Stage::new().await;
    let task = stage.submit("work 60000").await;
    stage.works(task).await;
    let world = stage.crash().await;
    world.engine.leave_session(World::attempt(task));
    let stage = Stage::of(world).await;
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.engine.tallies().runs.values().sum::<u32>(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_doubled_when_every_answer_of_the_engine_is_lost_once() {
    for what in [
        "engine.open",
        "engine.prompt",
        "engine.read",
        "engine.remove",
        "engine.owned",
    ] {
        for fate in [
            Fate::FailAfter,
            Fate::HangAfter,
            Fate::FailBefore,
            Fate::HangBefore,
            Fate::Panic,
        ] {
            let stage = Stage::new().await;
            stage.world.trouble.next(what, fate);
            let task = stage.submit("work 1000").await;
            stage.reach(task, Phase::Completed).await;
            let world = stage.end().await;
            let tallies = world.engine.tallies();
            assert_eq!(tallies.runs.values().sum::<u32>(), 1, "{what} {fate:?}");
            assert_eq!(tallies.effects.len(), 1, "{what} {fate:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_is_told_and_harms_nobody() {
    let stage = Stage::new().await;
    let task = stage.submit("work 60000").await;
    stage.works(task).await;
    stage.world.trouble.always("engine.probe", Fate::HangBefore);
    let health = stage.handle.health().await.unwrap();
    let engine = health
        .parts
        .iter()
        .find(|part| part.name == "engine local")
        .unwrap();
    assert_eq!(engine.state, HealthState::Degraded);
    stage.reach(task, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_engine_gives_the_slots_of_its_ended_tasks_back() {
    let mut world = World::new(1);
    world.settings.max_running = 1;
    let stage = Stage::of(world).await;
    let mut submit = World::task("work 100000");
    submit.spec.engine = EngineName::new("frozen");
    let first = stage.send(submit).await;
    stage.works(first).await;
    stage.world.freezer.set_dead(true);
    // After the start it is not there to be reconciled: nothing may be removed from it.
    let stage = stage.restart().await;
    stage.cancel(first).await;
    let second = stage.submit("work 100").await;
    sleep(50_000).await;
    assert_eq!(stage.phase(second).await, Phase::Queued);
    stage.reach(second, Phase::Completed).await;
    assert_eq!(stage.world.count(first, "attempt_removal_delayed"), 1);
    assert_eq!(stage.world.count(first, "attempt_removed"), 0);
    stage.world.freezer.set_dead(false);
    let world = stage.end().await;
    assert_eq!(world.count(first, "attempt_removed"), 1);
}
