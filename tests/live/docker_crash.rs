//! Chargehand dies while its tasks are in containers: at every named point that the engine passes, and at random.
//!
//! In: the points; `CHARGEHAND_TEST_SEED` to repeat the moments of an earlier run. Out: every task ends once, as its own script says;
//! no model call is made twice, no container is left.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use chargehand_actors::crash::CrashPoint;
use serde_json::json;

use crate::crash_points::{can_die, passed_elsewhere};
use crate::harness::bash;
use crate::harness_docker::Docked;
use crate::harness_product::{Setup, turns, until};
use crate::kills::Choices;

/// Passed by the way of a task into its container.
const BEGINNING: [CrashPoint; 12] = [
    CrashPoint::BeforeOpen,
    CrashPoint::ContainerMissing,
    CrashPoint::ContainerPlaceMade,
    CrashPoint::ContainerMade,
    CrashPoint::ContainerStarted,
    CrashPoint::ContainerListens,
    CrashPoint::SessionMissing,
    CrashPoint::AfterOpen,
    CrashPoint::BeforeSend,
    CrashPoint::AfterSend,
    CrashPoint::BeforeRead,
    CrashPoint::AfterRead,
];
/// Passed by its way out. A start knows which slots are free: after a death before the release, none is told.
const END: [CrashPoint; 9] = [
    CrashPoint::BeforeChanges,
    CrashPoint::AfterChanges,
    CrashPoint::BeforeEnd,
    CrashPoint::BeforeRelease,
    CrashPoint::BeforeRemove,
    CrashPoint::ContainerGone,
    CrashPoint::AfterRelease,
    CrashPoint::AfterRemove,
    CrashPoint::BeforeReconciliation,
];
/// How often Chargehand dies on the way of one task.
const DEATHS: usize = 3;
/// Passed by a pause and by a resume.
const FREEZE: [CrashPoint; 2] = [CrashPoint::BeforeFreeze, CrashPoint::AfterFreeze];

#[test]
fn docker_every_point_that_no_other_engine_passes_is_tried() {
    for point in passed_elsewhere() {
        assert!(
            BEGINNING.contains(&point) || END.contains(&point) || FREEZE.contains(&point),
            "{}",
            point.name()
        );
    }
}

async fn mortal() -> Option<Docked> {
    if !can_die() {
        return None;
    }
    Docked::start(json!({}), Setup::default()).await
}

impl Docked {
    /// The server again, to die at a point.
    async fn again(&mut self, point: Option<CrashPoint>) {
        self.product.kill();
        self.product.start_again_to_die(point).await;
    }

    async fn until_died_at(&self, point: CrashPoint) {
        let line = format!("chargehand: died at {}", point.name());
        until(&line, || async {
            self.product.has_logged(&line).then_some(())
        })
        .await;
    }

    /// Tasks go their way and Chargehand dies at each point of it once: on the way of one task at a few of them in turn, because a
    /// container is dear and a task that was taken over is the harder case.
    async fn dies_at(&mut self, points: &[CrashPoint]) {
        let mut calls = self.product.model_calls();
        for points in points.chunks(DEATHS) {
            let names: Vec<&str> = points.iter().map(|point| point.name()).collect();
            self.again(Some(points[0])).await;
            let script = turns(json!([bash("echo x >> once.txt"), {"text": "Done."}]));
            let id = self.product.client.submit(script, json!({})).await;
            self.until_died_at(points[0]).await;
            for point in &points[1..] {
                self.product.kill();
                self.product.start_to_die_at_once(*point).await;
            }
            self.again(None).await;
            self.product.ended_saying(&id, "completed", "Done.").await;
            let once = self.product.client.file(&id, "once.txt").await;
            assert_eq!(once["content"], "x\n", "{names:?}");
            calls += 2;
            assert_eq!(self.product.model_calls(), calls, "{names:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_into_the_container() {
    let Some(mut docked) = mortal().await else {
        return;
    };
    docked.dies_at(&BEGINNING).await;
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_out() {
    let Some(mut docked) = mortal().await else {
        return;
    };
    let (in_a_task, in_a_start) = END.split_at(END.len() - 1);
    docked.dies_at(in_a_task).await;
    // A start that finds a container and dies before it says so.
    let id = docked
        .product
        .client
        .submit(
            turns(json!([bash("sleep 3"), {"text": "Done."}])),
            json!({}),
        )
        .await;
    docked.until_state(&id, "running").await;
    docked.product.kill();
    docked.product.start_to_die_at_once(in_a_start[0]).await;
    docked.again(None).await;
    docked.product.ended_saying(&id, "completed", "Done.").await;
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn between_a_freeze_and_its_record() {
    let Some(mut docked) = mortal().await else {
        return;
    };
    // One task through all of it: a container is dear.
    let ticks = "until [ -e go ]; do echo tick >> ticks; sleep 0.2; done";
    let script = turns(json!([bash(ticks), {"text": "Done."}]));
    let id = docked.product.client.submit(script, json!({})).await;
    docked.until_lines(&id, "ticks", 2).await;
    for point in FREEZE {
        for paused in [false, true] {
            if paused {
                docked.product.client.control(&id, "pause").await;
            }
            // What a start makes sure of passes the point, too: the record holds, whatever was under way.
            docked.product.kill();
            docked.product.start_to_die_at_once(point).await;
            docked.again(None).await;
            let wanted = if paused { "paused" } else { "running" };
            docked.until_state(&id, wanted).await;
            assert_eq!(docked.product.client.status(&id).await["phase"], wanted);
            if paused {
                docked.product.client.control(&id, "resume").await;
            }
        }
    }
    std::fs::write(docked.workdir_of(&id).join("go"), "").unwrap();
    docked.product.ended_saying(&id, "completed", "Done.").await;
    assert_eq!(docked.product.model_calls(), 2);
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments() {
    let Some(mut docked) = Docked::start(json!({"memory": "700m"}), Setup::default()).await else {
        return;
    };
    let kills = std::env::var("CHARGEHAND_TEST_DOCKER_KILLS");
    let kills: u64 = kills.map_or(8, |kills| kills.parse().unwrap());
    let mut choices = Choices::seeded();
    let mut tasks = Vec::new();
    for number in 0..kills {
        while tasks.len() < 3 + usize::try_from(number).unwrap() {
            let script = turns(json!([bash("sleep 1; echo x >> once.txt"), {"text": "Done."}]));
            tasks.push(docked.product.client.submit(script, json!({})).await);
        }
        // Spread over the life of a task.
        tokio::time::sleep(choices.millis(300, 9_300)).await;
        docked.again(None).await;
    }
    for id in &tasks {
        docked.product.ended_saying(id, "completed", "Done.").await;
        let once = docked.product.client.file(id, "once.txt").await;
        assert_eq!(once["content"], "x\n", "{id}");
    }
    assert_eq!(docked.product.model_calls(), 2 * tasks.len());
    docked.stop().await;
}
