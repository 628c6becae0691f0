//! Nothing grows with history: neither the work of a call, nor the streams, nor the actors.

use std::collections::BTreeMap;

use chargehand_actors::event::Phase;
use chargehand_actors::fakes::World;
use chargehand_actors::id::TaskId;

use crate::stage::{Stage, sleep};

/// More than the registry keeps in memory.
const HISTORY: usize = 400;

/// Calls of every port so far.
fn calls(stage: &Stage) -> BTreeMap<&'static str, u64> {
    let mut calls = BTreeMap::new();
    for ((what, _), count) in stage.world.trouble.met() {
        *calls.entry(what).or_default() += count;
    }
    calls
}

/// The port calls that one task with its reads costs, the probes of health left out.
async fn cost(stage: &Stage) -> BTreeMap<&'static str, u64> {
    let before = calls(stage);
    let task = stage.submit("work 100; work 100").await;
    stage.reach(task, Phase::Completed).await;
    while stage.world.count(task, "attempt_removed") == 0 {
        sleep(100).await;
    }
    for _ in 0..10 {
        stage.view(task).await;
        World::view(&stage.handle, task).await.unwrap();
    }
    let mut cost = calls(stage);
    for (what, count) in before {
        *cost.entry(what).or_default() -= count;
    }
    cost.retain(|_, count| *count > 0);
    cost
}

async fn many(stage: &Stage, count: usize) -> Vec<TaskId> {
    let mut tasks = Vec::new();
    for _ in 0..count {
        let task = stage.submit("work 10").await;
        stage.reach(task, Phase::Completed).await;
        tasks.push(task);
    }
    stage.is_clean().await;
    tasks
}

#[tokio::test(start_paused = true)]
async fn d14_the_work_of_a_call_does_not_grow_with_history() {
    let stage = Stage::new().await;
    many(&stage, 3).await;
    let (young, actors) = (cost(&stage).await, stage.handle.board().actors.len());
    let tasks = many(&stage, HISTORY).await;
    let old = cost(&stage).await;
    let sum = |cost: &BTreeMap<_, u64>| cost.values().sum::<u64>();
    // A reading more or less is chance.
    assert!(sum(&old) <= sum(&young) + 5, "{young:?} became {old:?}");
    assert_eq!(stage.handle.board().actors.len(), actors);
    // What has left the memory costs a look into the journal, and no more when there is more of it.
    let before = stage.world.trouble.calls("journal.task");
    stage.view(tasks[0]).await;
    assert_eq!(stage.world.trouble.calls("journal.task"), before + 1);
    stage.view(tasks[HISTORY - 1]).await;
    assert_eq!(stage.world.trouble.calls("journal.task"), before + 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn d11_all_tasks_of_an_engine_share_its_one_stream() {
    let stage = Stage::new().await;
    many(&stage, 9).await;
    // One each for the two engines of the world, however many tasks there were.
    assert_eq!(stage.world.trouble.calls("engine.watch"), 2);
    stage.end().await;
}
