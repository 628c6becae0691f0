//! Dies at every crash point of memory and notices, with a real classic Letta and the real OpenCode: the task is untouched, the
//! memory ends true and then goes, the agent is told once. Twice is allowed at one point only: the notice was taken by
//! Letta's side and was not yet among the agent's messages when it was looked for.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use chargehand_actors::crash::CrashPoint as P;
use serde_json::json;

use crate::harness_product::{id_of, turns};
use crate::kills_world::World;
use crate::letta_classic::{Classic, Release};
use crate::letta_loop::{letta, until};

/// Those that lie on the way of one task, after each other. A memory that was made before a death is found again, on another way.
const POINTS: [&[P]; 5] = [
    &[P::BeforeMemory, P::MemoryMade],
    &[P::MemoryAttached, P::AfterMemory],
    &[P::BeforeArchive, P::AfterArchive],
    &[P::BeforeNotice, P::AfterNotice],
    &[
        P::BeforeMemoryClose,
        P::MemoryHalfClosed,
        P::AfterMemoryClose,
    ],
];

#[tokio::test(flavor = "multi_thread")]
async fn letta_killed_at_every_point_of_memory_and_notice() {
    if !cfg!(feature = "crash-points") {
        println!("SKIPPED, built without the feature crash-points");
        return;
    }
    let Some(classic) = Classic::start(Release::Last).await else {
        return;
    };
    let Some(mut world) = World::prepare().await else {
        return;
    };
    world.configure(&letta(
        &classic.url,
        json!({"grace_s": 2, "notify": "end", "archival": true}),
    ));
    for points in POINTS {
        let began = Instant::now();
        let (point, more) = points.split_first().unwrap();
        let agent = classic.agent(&point.name().replace('.', "-"), &[]).await;
        world.planner.speaks_for(&agent);
        world.start(Some(point.name())).await;
        let script = turns(json!([{"text": "done"}]));
        let asked = json!({"task_description": format!("Do this. <script>{script}</script>"),
            "idempotency_key": point.name()});
        let planner = world.planner.clone();
        let delegated =
            tokio::spawn(async move { planner.ok("opencode_execute_task", asked).await });
        world.until_died_at(point.name()).await;
        for point in more {
            world.kill_server();
            world.start(Some(point.name())).await;
            world.until_died_at(point.name()).await;
        }
        world.kill_server();
        world.start(None).await;
        let id = id_of(&delegated.await.unwrap());
        let planner = world.planner.clone();
        let seen = until(
            "the task ends",
            || planner.status(&id),
            |seen| seen["status"] != "running" && seen["status"] != "queued",
        )
        .await;
        assert_eq!(seen["status"], "completed", "{}: {seen:#}", point.name());
        let told = async || {
            let page = classic
                .ok(
                    reqwest::Method::GET,
                    &format!("agents/{agent}/messages?limit=100"),
                    None,
                )
                .await;
            let messages = page.as_array().unwrap().clone();
            let end = format!("{id} has ended: completed");
            messages
                .iter()
                .filter(|one| one["content"].to_string().contains(&end))
                .count()
        };
        until("the agent is told", told, |count| *count >= 1).await;
        let tag = format!("oc-task:{id}");
        until(
            "the memory is gone",
            || classic.tagged(&tag),
            |blocks| blocks.is_empty(),
        )
        .await;
        // Whatever would be told twice is told by now.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let times = told().await;
        let most = if points.contains(&P::AfterNotice) {
            2
        } else {
            1
        };
        assert!(
            (1..=most).contains(&times),
            "{}: told {times} times",
            point.name()
        );
        let archive = format!("agents/{agent}/archival-memory?limit=10");
        let archive = classic.ok(reqwest::Method::GET, &archive, None).await;
        assert_eq!(
            archive.as_array().unwrap().len(),
            1,
            "{}: {archive:#}",
            point.name()
        );
        println!(
            "{}: told {times}, all true again after {} ms",
            point.name(),
            began.elapsed().as_millis()
        );
        world.kill_server();
    }
    world.start(None).await;
    world.stop().await;
    assert_eq!(world.ours(), Vec::<i32>::new(), "processes are left");
}
