//! Chargehand dies at every named moment of its rooms, and at random ones, while a person sends commands and a task emits
//! events: each command is handled once, no status is doubled, nothing that matters is lost.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::time::Duration;

use chargehand_actors::crash::CrashPoint;
use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_matrix::{Homeserver, Human, is_sign, text_of};
use crate::harness_product::{Product, turns, wait_for};
use crate::matrix_task::product;

/// The points of rooms, in order of a task's life.
fn points() -> Vec<CrashPoint> {
    let all = CrashPoint::ALL.iter().copied();
    all.filter(|point| point.name().contains(".room_"))
        .collect()
}

/// A task that makes several steps, then waits for the gate.
fn steps(gate: &Path) -> Value {
    turns(json!([
        bash("echo one > one.txt"), bash("echo two > two.txt"), bash(&wait_for(gate)),
        {"text": "Done."}]))
}

/// Starts the server again if it dies within so many seconds; once.
async fn revive(product: &mut Product, died: &mut bool, seconds: u64) {
    if !*died && product.has_died_within(Duration::from_secs(seconds)).await {
        *died = true;
        product.start_again().await;
    }
}

/// What must hold of a room whatever happened.
async fn judge(
    product: &Product,
    anna: &Human,
    bot: &Human,
    task: &str,
    room: &str,
    typed: &[(String, &str)],
) {
    let events = anna.events(room).await;
    let bots = |event_type: &'static str| {
        let of_bot = events
            .iter()
            .filter(|event| event["sender"] == bot.id.as_str());
        of_bot.filter(move |event| event["content"]["io.letta.task"]["event_type"] == event_type)
    };
    let fresh = bots("status_change")
        .filter(|event| event["content"]["m.relates_to"]["rel_type"] != "m.replace")
        .filter(|event| event["content"]["io.letta.task"].get("rev").is_some());
    assert_eq!(fresh.count(), 1, "one status post");
    assert_eq!(bots("task_completed").count(), 1, "one end");
    let told: Vec<u64> = events
        .iter()
        .filter_map(|event| event["content"]["io.letta.task"]["event"].as_u64())
        .collect();
    let mut once = told.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), told.len(), "an event is told twice: {told:?}");
    let history = product.client.history(task).await;
    for (event, text) in typed {
        let times = history
            .iter()
            .filter(|one| one["event"] == "message_received")
            .filter(|one| one["message"].as_str().unwrap().contains(text))
            .count();
        assert_eq!(times, 1, "{text} is done once: {history:#?}");
        let sent = events
            .iter()
            .filter(|one| is_sign(one, event, "📨"))
            .count();
        assert_eq!(sent, 1, "{text} is acknowledged once");
    }
    let names: Vec<String> = events
        .iter()
        .filter(|event| event["content"]["msgtype"] == "m.file")
        .map(text_of)
        .collect();
    assert_eq!(names, ["changes.patch", "worker.log"], "files once");
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_every_named_point_of_rooms_loses_and_doubles_nothing() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let Some(mut product) = product(&home, &bot, &anna, json!({})).await else {
        return;
    };
    for point in points() {
        println!("dies at {}", point.name());
        let gate = product
            .directory
            .path()
            .join(format!("gate-{}", point.name()));
        product.kill();
        product.start_again_to_die(Some(point)).await;
        // It, or its answer, may be lost with the server; asked again with the same key.
        let script = steps(&gate);
        let key = json!({"idempotency_key": point.name()});
        let (planner, first) = (product.client.clone(), (script.clone(), key.clone()));
        let submitted = tokio::spawn(async move { planner.submit(first.0, first.1).await });
        let submitted = submitted.await.ok();
        let mut died = false;
        revive(&mut product, &mut died, 6).await;
        let task = match submitted {
            Some(task) => task,
            None => product.client.submit(script, key).await,
        };
        let room = anna.room_of(&task).await;
        anna.join(&room).await;
        revive(&mut product, &mut died, 4).await;
        product.client.until_event(&task, "tools_finished").await;
        let text = "please mind the gap";
        let typed = [(anna.types(&room, text).await, text)];
        revive(&mut product, &mut died, 8).await;
        anna.sees(&room, "the acknowledgement", |event| {
            is_sign(event, &typed[0].0, "📨")
        })
        .await;
        std::fs::write(&gate, "").unwrap();
        revive(&mut product, &mut died, 40).await;
        assert!(died, "{} is not passed", point.name());
        product.ended(&task, "completed").await;
        anna.sees(&room, "the closed room", |event| {
            event["type"] == "m.room.power_levels" && event["content"]["events_default"] == 100
        })
        .await;
        judge(&product, &anna, &bot, &task, &room, &typed).await;
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_random_kills_lose_and_double_nothing() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let Some(mut product) = product(&home, &bot, &anna, json!({})).await else {
        return;
    };
    let kills = std::env::var("CHARGEHAND_TEST_KILLS");
    let kills: u64 = kills.ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let gate = product.directory.path().join("gate");
    let task = product
        .client
        .submit(steps(&gate), json!({"timeout_ms": 3_600_000}))
        .await;
    let room = anna.room_of(&task).await;
    anna.join(&room).await;
    let texts: Vec<String> = (0..kills)
        .map(|n| format!("note number {n} of many."))
        .collect();
    let mut typed = Vec::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for text in &texts {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        typed.push((anna.types(&room, text).await, text.as_str()));
        tokio::time::sleep(Duration::from_millis((seed >> 33) % 900)).await;
        product.kill();
        product.start_again().await;
    }
    for (event, _) in &typed {
        anna.sees(&room, "an acknowledgement", |one| is_sign(one, event, "📨"))
            .await;
    }
    std::fs::write(&gate, "").unwrap();
    product.ended(&task, "completed").await;
    anna.sees(&room, "the closed room", |event| {
        event["type"] == "m.room.power_levels" && event["content"]["events_default"] == 100
    })
    .await;
    judge(&product, &anna, &bot, &task, &room, &typed).await;
    product.stop().await;
}
