//! Admission in a live tree: limits, fairness, idempotency.

use chargehand_actors::command::{ControlSignal, Submit};
use chargehand_actors::error::TreeError;
use chargehand_actors::event::Phase;
use chargehand_actors::fakes::World;
use chargehand_actors::ports::StopHow;

use crate::stage::{Stage, sleep};

async fn limited(running: u32, per_caller: u32, queued: u32) -> Stage {
    let mut world = World::new(1);
    world.settings.max_running = running;
    world.settings.max_running_per_caller = per_caller;
    world.settings.max_queued = queued;
    Stage::of(world).await
}

fn by(agent: &str, script: &str) -> Submit {
    Submit {
        caller: World::caller(agent),
        ..World::task(script)
    }
}

fn keyed(agent: &str, key: &str, script: &str) -> Submit {
    Submit {
        idempotency_key: Some(key.to_owned()),
        ..by(agent, script)
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_tasks_run_than_allowed_and_no_more_wait() {
    let stage = limited(2, 2, 3).await;
    let mut tasks = Vec::new();
    for _ in 0..5 {
        tasks.push(stage.submit("work 1000").await);
    }
    let refused = World::submit(&stage.handle, "work 1000").await;
    assert!(
        matches!(refused, Err(TreeError::QueueFull { limit: 3, .. })),
        "{refused:?}"
    );
    sleep(500).await;
    assert_eq!(stage.load().await, (2, 3));
    let status = stage
        .wait(tasks[4], chargehand_actors::command::WaitFor::Nothing, 0)
        .await;
    assert_eq!(status.queue_position, Some(3));
    for task in tasks {
        stage.reach(task, Phase::Completed).await;
        assert!(stage.load().await.0 <= 2);
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_submits_cannot_slip_past_the_limit() {
    let stage = limited(1, 1, 4).await;
    let handle = &stage.handle;
    let submits = (0..20).map(|_| World::submit(handle, "work 100"));
    let answers = futures_util::future::join_all(submits).await;
    let accepted: Vec<_> = answers.into_iter().filter_map(Result::ok).collect();
    assert_eq!(accepted.len(), 5);
    for submitted in accepted {
        stage.reach(submitted.task, Phase::Completed).await;
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn callers_take_turns() {
    let stage = limited(1, 1, 100).await;
    let mut mine = Vec::new();
    for _ in 0..3 {
        mine.push(stage.send(by("greedy", "work 1000")).await);
    }
    let other = stage.send(by("modest", "work 1000")).await;
    stage.reach(other, Phase::Completed).await;
    assert_eq!(stage.phase(mine[2]).await, Phase::Queued);
    for task in mine {
        stage.reach(task, Phase::Completed).await;
    }
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_held_task_keeps_its_place_and_blocks_nobody() {
    let stage = limited(1, 1, 100).await;
    let first = stage.submit("work 1000").await;
    let held = stage.submit("work 100").await;
    let other = stage.submit("work 100").await;
    let outcome = stage.control(held, ControlSignal::Pause).await.unwrap();
    assert_eq!(outcome.phase, Phase::Paused);
    stage.reach(first, Phase::Completed).await;
    stage.reach(other, Phase::Completed).await;
    assert_eq!(stage.phase(held).await, Phase::Paused);
    stage.control(held, ControlSignal::Resume).await.unwrap();
    stage.reach(held, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_answers_with_the_first_task_for_ever_and_across_restarts() {
    let stage = limited(1, 1, 1).await;
    let first = stage.send(keyed("a", "k", "work 1000")).await;
    let repeat = stage.handle.submit(keyed("a", "k", "work 1000")).await;
    let repeat = repeat.unwrap();
    assert_eq!((repeat.task, repeat.existing), (first, true));
    let other = stage.handle.submit(keyed("a", "k", "work 2000")).await;
    assert!(matches!(other, Err(TreeError::KeyReused { task }) if task == first));
    stage.reach(first, Phase::Completed).await;
    let stage = stage.restart().await;
    let repeat = stage.handle.submit(keyed("a", "k", "work 1000")).await;
    let repeat = repeat.unwrap();
    assert_eq!((repeat.task, repeat.phase), (first, Phase::Completed));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_of_many_submits_with_one_key_at_once_makes_the_task() {
    let stage = Stage::new().await;
    let handle = &stage.handle;
    let submits = (0..10).map(|_| handle.submit(keyed("a", "k", "work 100")));
    let answers = futures_util::future::join_all(submits).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.task == answers[0].task));
    let fresh = answers.iter().filter(|answer| !answer.existing).count();
    assert_eq!(fresh, 1);
    stage.reach(answers[0].task, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn d6_paused_tasks_hold_their_slot() {
    let stage = limited(1, 1, 100).await;
    let first = stage.submit("work 60000").await;
    let second = stage.submit("work 100").await;
    stage.works(first).await;
    stage.control(first, ControlSignal::Pause).await.unwrap();
    sleep(10_000).await;
    assert_eq!(stage.load().await, (1, 1));
    assert_eq!(stage.phase(second).await, Phase::Queued);
    stage.cancel(first).await;
    stage.reach(second, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn d7_keys_belong_to_a_caller_and_come_before_the_limit() {
    let stage = limited(1, 1, 1).await;
    let first = stage.send(keyed("a1", "k", "work 60000")).await;
    let other = stage.send(keyed("a2", "k", "work 60000")).await;
    assert_ne!(first, other, "another agent's key");
    let full = stage.handle.submit(keyed("a1", "new", "work 1")).await;
    assert!(matches!(full, Err(TreeError::QueueFull { .. })), "{full:?}");
    let known = stage.handle.submit(keyed("a1", "k", "work 60000")).await;
    assert_eq!(
        known.unwrap().task,
        first,
        "a known key is answered although the queue is full"
    );
    let again = stage.handle.submit(keyed("a1", "new", "work 1")).await;
    assert!(
        matches!(again, Err(TreeError::QueueFull { .. })),
        "a refused submit leaves no key: {again:?}"
    );
    stage.stop(StopHow::EndWorkers).await;
}
