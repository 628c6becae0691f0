//! Actors that die and a journal that fails.

use std::time::Duration;

use chargehand_actors::command::{HistoryQuery, WaitFor};
use chargehand_actors::error::TreeError;
use chargehand_actors::event::{FailureKind, Phase};
use chargehand_actors::fakes::{Fate, World};
use chargehand_actors::ports::StopHow;

use crate::stage::{HOUR, Stage, sleep};

#[tokio::test(start_paused = true)]
async fn a_task_actor_that_panics_is_restarted_and_its_task_goes_on() {
    let stage = Stage::new().await;
    let other = stage.submit("work 5000").await;
    stage.works(other).await;
    stage.world.ids.panic_next(2);
    let task = stage.submit("work 1000").await;
    stage.reach(task, Phase::Completed).await;
    stage.reach(other, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.engine.tallies().runs.len(), 2);
    assert_eq!(world.engine.tallies().sessions.values().sum::<u32>(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_actor_keeps_panicking_is_given_up_and_others_go_on() {
    let stage = Stage::new().await;
    let other = stage.submit("work 5000").await;
    stage.works(other).await;
    stage.world.ids.panic_next(4);
    let task = stage.submit("work 1000").await;
    let view = stage.reach(task, Phase::Failed).await;
    assert_eq!(view.failure.unwrap().kind, FailureKind::Internal);
    stage.reach(other, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.finals(task).len(), 1);
}

/// A record that can be read no more, while the task's worker is at work.
async fn unreadable() -> (World, chargehand_actors::id::TaskId) {
    let stage = Stage::new().await;
    let task = stage.submit("work 60000").await;
    stage.works(task).await;
    let world = stage.crash().await;
    world.journal.poison(task, "scripted: not JSON");
    (world, task)
}

#[tokio::test(start_paused = true)]
async fn a_task_with_an_unreadable_record_is_quarantined_and_leaves_nothing() {
    let (world, task) = unreadable().await;
    let stage = Stage::of(world).await;
    let other = stage.submit("work 1000").await;
    stage.reach(other, Phase::Completed).await;
    let view = stage.reach(task, Phase::Failed).await;
    assert_eq!(view.failure.unwrap().kind, FailureKind::Internal);
    let world = stage.end().await;
    assert_eq!(world.finals(task).len(), 1);
    let stage = Stage::of(world).await;
    assert_eq!(stage.phase(task).await, Phase::Failed);
    let world = stage.end().await;
    assert_eq!(world.finals(task).len(), 1, "not given up on again");
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_record_becomes_unreadable_gives_its_slot_and_session_back() {
    let mut world = World::new(1);
    world.settings.max_running = 1;
    let stage = Stage::of(world).await;
    let task = stage.submit("work 60000").await;
    stage.works(task).await;
    stage.world.journal.poison(task, "scripted: not JSON");
    // Its actor dies at the next id that it asks for: with a message.
    stage.world.ids.panic_next(1);
    let lost = stage.message(task, "hello").await;
    assert!(
        matches!(lost, Err(TreeError::Closed(_) | TreeError::Internal(_))),
        "{lost:?}"
    );
    let view = stage.reach(task, Phase::Failed).await;
    assert_eq!(view.failure.unwrap().kind, FailureKind::Internal);
    let other = stage.submit("work 1000").await;
    stage.reach(other, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_actor_knows_what_the_dead_one_gave_to_the_journal() {
    let stage = Stage::new().await;
    let task = stage.submit("work 60000").await;
    stage.works(task).await;
    // The journal is slow; a message is on its way to it when the actor dies of the next one.
    stage
        .world
        .trouble
        .next("journal.append", Fate::Slow(5_000));
    let (first, second) = tokio::join!(stage.message(task, "one"), async {
        sleep(100).await;
        stage.world.ids.panic_next(1);
        stage.message(task, "two").await
    });
    assert!(first.is_err() && second.is_err(), "{first:?} {second:?}");
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.count(task, "message_received"), 1);
    assert_eq!(
        world.count(task, "message_taken_up"),
        1,
        "{:?}",
        world.life(task)
    );
    assert_eq!(world.finals(task).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_written_ends_the_tree_and_says_why() {
    for fate in [Fate::FailBefore, Fate::FailAfter, Fate::Panic] {
        let stage = Stage::new().await;
        let task = stage.submit("work 3000").await;
        stage.works(task).await;
        stage.world.trouble.always("journal.append", fate);
        let why = tokio::time::timeout(HOUR, stage.tree.failed())
            .await
            .unwrap();
        assert!(why.0.contains("cannot be written"), "{why}");
        let told = stage.wait(task, WaitFor::Nothing, 0).await.view.phase;
        assert_eq!(told, Phase::Running, "nobody is told what is not durable");
        stage.world.trouble.clear();
        let world = stage.stop(StopHow::LeaveRunning).await;
        let stage = Stage::of(world).await;
        stage.reach(task, Phase::Completed).await;
        let world = stage.end().await;
        assert_eq!(
            world.engine.tallies().runs.values().sum::<u32>(),
            1,
            "{fate:?}"
        );
        assert_eq!(world.finals(task).len(), 1, "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_whose_answer_is_lost_is_repeated_and_written_once() {
    for fate in [Fate::HangBefore, Fate::HangAfter] {
        let stage = Stage::new().await;
        let task = stage.submit("work 1000").await;
        stage.world.trouble.next("journal.append", fate);
        stage.reach(task, Phase::Completed).await;
        let world = stage.end().await;
        let numbers: Vec<u64> = world.journal.all().iter().map(|e| e.number.0).collect();
        let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(numbers, expected);
        assert_eq!(world.count(task, "attempt_started"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_core_actor_that_dies_is_rebuilt_with_all_and_tasks_go_on() {
    for core in [
        "reaper",
        "journal",
        "admission",
        "registry",
        "tasks",
        "engines",
    ] {
        let stage = Stage::new().await;
        let task = stage.submit("work 10000").await;
        let waits = stage.submit("work 1000").await;
        stage.works(task).await;
        stage.tree.kill_core(core);
        sleep(10_000).await;
        stage.reach(task, Phase::Completed).await;
        stage.reach(waits, Phase::Completed).await;
        let world = stage.end().await;
        let tallies = world.engine.tallies();
        assert_eq!(tallies.runs.values().sum::<u32>(), 2, "{core}");
        assert_eq!(tallies.sessions.values().sum::<u32>(), 2, "{core}");
        assert_eq!(world.finals(task).len(), 1, "{core}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_core_that_keeps_dying_ends_the_tree() {
    let stage = Stage::new().await;
    for _ in 0..6 {
        stage.tree.kill_core("registry");
        sleep(6_000).await;
    }
    let why = tokio::time::timeout(Duration::from_secs(5), stage.tree.failed()).await;
    assert!(why.unwrap().0.contains("registry"));
    stage.stop(StopHow::LeaveRunning).await;
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_waits_for_a_journal_that_does_not_answer() {
    let stage = Stage::new().await;
    let task = stage.submit("work 5000").await;
    stage.works(task).await;
    stage.world.trouble.next("journal.load", Fate::Slow(60_000));
    stage.tree.kill_core("registry");
    sleep(1_000).await;
    let away = World::view(&stage.handle, task).await;
    assert!(matches!(away, Err(TreeError::Closed(_))), "{away:?}");
    sleep(60_000).await;
    stage.reach(task, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn reads_answer_while_the_journals_disk_hangs() {
    let stage = Stage::new().await;
    let task = stage.submit("work 600000").await;
    stage.works(task).await;
    stage
        .world
        .trouble
        .always("journal.events", Fate::HangBefore);
    assert_eq!(stage.phase(task).await, Phase::Running);
    let query = HistoryQuery {
        task,
        offset: 0,
        limit: None,
    };
    let history = stage.handle.history(&World::operator(), query).await;
    assert!(
        matches!(history, Err(TreeError::Internal(_))),
        "bounded: {history:?}"
    );
    stage.world.trouble.clear();
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn d8_history_and_status_outlive_the_end_and_restarts() {
    let stage = Stage::new().await;
    let task = stage.submit("work 1000").await;
    stage.reach(task, Phase::Completed).await;
    sleep(120_000).await;
    let mut stage = stage;
    for _ in 0..3 {
        assert_eq!(stage.phase(task).await, Phase::Completed);
        let query = HistoryQuery {
            task,
            offset: 0,
            limit: None,
        };
        let page = stage
            .handle
            .history(&World::operator(), query)
            .await
            .unwrap();
        assert_eq!(page.events, stage.world.journal.of(task));
        assert_eq!(page.total, page.events.len() as u64);
        stage = stage.restart().await;
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_begins_before_its_prompt_is_known_to_be_accepted_is_told_as_what_it_does() {
    let world = World::new(1);
    world.trouble.next("engine.prompt", Fate::Stale(3_000));
    world.trouble.next("engine.read", Fate::Stale(3_000));
    let stage = Stage::of(world).await;
    let task = stage.submit("work 20000").await;
    stage.reach(task, Phase::Running).await;
    sleep(2_000).await;
    let doing = stage.view(task).await.doing;
    assert!(doing.starts_with("runs "), "{doing}");
    stage.reach(task, Phase::Completed).await;
    stage.end().await;
}
