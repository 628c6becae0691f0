//! A disk that is nearly full: nothing new begins, what runs goes on, and nobody looks while there is nothing to do.

use chargehand_actors::command::{Submit, WaitFor};
use chargehand_actors::error::TreeError;
use chargehand_actors::event::Phase;
use chargehand_actors::fakes::{Fate, World};
use chargehand_actors::ports::StopHow;
use chargehand_actors::view::{HealthState, PartHealth};

use crate::stage::{HOUR, Stage, sleep};

const LOW: &str = "3 MB are free on the disk of /data, 512 MB must be";

fn keyed(key: &str) -> Submit {
    Submit {
        idempotency_key: Some(key.to_owned()),
        ..World::task("work 1000")
    }
}

async fn one_slot() -> Stage {
    let mut world = World::new(1);
    world.settings.max_running = 1;
    Stage::of(world).await
}

async fn disk(stage: &Stage) -> (PartHealth, bool) {
    let health = stage.handle.health().await.unwrap();
    let part = health.parts.iter().find(|part| part.name == "disk");
    (part.unwrap().clone(), health.accepting)
}

#[tokio::test(start_paused = true)]
async fn a_low_disk_refuses_new_tasks_and_says_which_and_why() {
    let stage = one_slot().await;
    let running = stage.send(keyed("k")).await;
    stage.works(running).await;
    assert_eq!(disk(&stage).await.0.state, HealthState::Ok);
    stage.world.space.set_low(Some(LOW));
    sleep(6_000).await;
    let refused = stage.handle.submit(keyed("new")).await;
    assert_eq!(refused, Err(TreeError::DiskLow(LOW.to_owned())));
    let (part, accepting) = disk(&stage).await;
    assert_eq!((part.state, accepting), (HealthState::Degraded, false));
    assert!(part.detail.contains(LOW), "{}", part.detail);
    // A repeat is no new task; a running one comes to its end.
    let repeat = stage.handle.submit(keyed("k")).await.unwrap();
    assert_eq!((repeat.task, repeat.existing), (running, true));
    stage.reach(running, Phase::Completed).await;
    // A refused submit has left no key.
    stage.world.space.set_low(None);
    sleep(6_000).await;
    let accepted = stage.handle.submit(keyed("new")).await.unwrap();
    assert!(!accepted.existing);
    stage.reach(accepted.task, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_begins_when_there_is_room_again_and_not_before() {
    let stage = one_slot().await;
    let first = stage.submit("work 20000").await;
    let second = stage.submit("work 1000").await;
    stage.works(first).await;
    stage.world.space.set_low(Some(LOW));
    stage.reach(first, Phase::Completed).await;
    sleep(60_000).await;
    let status = stage.wait(second, WaitFor::Nothing, 0).await;
    assert_eq!(status.view.phase, Phase::Queued);
    assert_eq!(status.waiting_for, Some(format!("room on the disk: {LOW}")));
    // Also after a restart.
    let stage = stage.restart().await;
    sleep(60_000).await;
    assert_eq!(stage.phase(second).await, Phase::Queued);
    stage.world.space.set_low(None);
    stage.reach(second, Phase::Completed).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_looks_at_the_disks_while_there_is_nothing_to_do() {
    let stage = one_slot().await;
    let task = stage.submit("work 100").await;
    stage.reach(task, Phase::Completed).await;
    stage.world.space.set_low(Some(LOW));
    let refused = World::submit(&stage.handle, "work 1").await;
    sleep(6_000).await;
    let looks = stage.world.trouble.calls("space.low");
    tokio::time::sleep(HOUR).await;
    assert_eq!(stage.world.trouble.calls("space.low"), looks, "{refused:?}");
    stage.stop(StopHow::EndWorkers).await;
}

#[tokio::test(start_paused = true)]
async fn submits_that_come_together_share_a_look_and_keep_their_order() {
    let stage = one_slot().await;
    let looks = stage.world.trouble.calls("space.low");
    let submits = (0..5).map(|_| stage.handle.submit(keyed("same")));
    let answers = futures_util::future::join_all(submits).await;
    let fresh = answers.iter().flatten().filter(|a| !a.existing).count();
    assert_eq!((answers.len(), fresh), (5, 1), "{answers:?}");
    assert_eq!(stage.world.trouble.calls("space.low"), looks + 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_answer_is_not_called_full() {
    for fate in [Fate::HangBefore, Fate::Panic, Fate::FailBefore] {
        let stage = one_slot().await;
        stage.world.trouble.always("space.low", fate);
        let task = stage.submit("work 100").await;
        stage.reach(task, Phase::Completed).await;
        stage.world.trouble.clear();
        stage.end().await;
    }
}
