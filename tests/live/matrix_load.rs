//! Many rooms at once, many events in one room, the bot exempt from limits: no task is slowed, every end is told, memory stays
//! flat.
//!
//! In: `CHARGEHAND_TEST_ROOMS`, how many rooms (12 where it is not set); `CHARGEHAND_TEST_CALLS`, how many tool calls of one task (400).
//! Out: times and memory, printed and held to bounds.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_matrix::Homeserver;
use crate::harness_product::{Product, Setup, turns};
use crate::matrix_outage::is_end;

fn number(variable: &str, usual: usize) -> usize {
    let set = std::env::var(variable).ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(usual)
}

fn rooms() -> usize {
    number("CHARGEHAND_TEST_ROOMS", 12)
}

/// Resident memory in kB.
fn memory(product: &Product) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", product.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn start(matrix: Value) -> Option<Product> {
    let setup = Setup {
        tasks: json!({"max_queued": 1_000}),
        more: json!({ "matrix": matrix }),
        ..Setup::default()
    };
    Product::start(setup).await
}

/// All tasks at once, to the end of the last one: the tasks, how long they took, and by how many kB Chargehand grew.
async fn run(product: &Product) -> (Vec<String>, Duration, u64) {
    let before = memory(product);
    let began = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..rooms() {
        let script = turns(json!([bash("echo one > one.txt"), {"text": "Done."}]));
        tasks.push(
            product
                .client
                .submit(script, json!({"timeout_ms": 3_600_000}))
                .await,
        );
    }
    let submitted = began.elapsed();
    for task in &tasks {
        // From the end of the one before it, or from the beginning: some always run.
        let end = Instant::now() + Duration::from_secs(60);
        while product.client.status(task).await["status"] != "completed" {
            assert!(Instant::now() < end, "{task} does not end");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let (took, grown) = (began.elapsed(), memory(product).saturating_sub(before));
    println!("submitted after {submitted:?}; {before} kB before, {grown} kB more at the end");
    // Sessions go after the end of their tasks.
    for task in &tasks {
        product.client.until_event(task, "attempt_removed").await;
    }
    (tasks, took, grown)
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_many_rooms_at_once_slow_no_task() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let Some(product) = start(json!({"enabled": false})).await else {
        return;
    };
    let (_, without, grown_without) = run(&product).await;
    product.stop().await;

    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let matrix = json!({"enabled": true, "homeserver_url": home.url(), "access_token": bot.token,
        "owners": {"local": anna.id}});
    let product = start(matrix).await.unwrap();
    let (tasks, with, grown) = run(&product).await;
    let told = Instant::now();
    for task in &tasks {
        let room = anna.room_within(task, Duration::from_secs(60)).await;
        anna.join_within(&room, Duration::from_secs(60)).await;
        anna.sees_within(&room, "the end", Duration::from_secs(60), is_end)
            .await;
    }
    println!(
        "{} rooms: the tasks took {with:?}, without rooms {without:?}; the ends were told {:?} later; +{grown} kB, without rooms +{grown_without} kB",
        rooms(),
        told.elapsed()
    );
    assert!(
        with < without.mul_f64(1.5) + Duration::from_secs(30),
        "rooms slow the tasks: {with:?}, without {without:?}"
    );
    assert!(
        grown < grown_without + 30_000 + 1_000 * rooms() as u64,
        "{grown} kB more with {} rooms, without rooms {grown_without} kB",
        rooms()
    );
    let health = product.everybody().ok("health", json!({})).await;
    assert_eq!(health["status"], "healthy", "{health:#}");
    product.stop().await;
}

/// Tool calls in one answer of the model.
const AT_ONCE: usize = 50;

/// One task that makes so many tool calls. Its id, how long they took, and by how many kB Chargehand grew meanwhile.
async fn calls(product: &Product, calls: usize) -> (String, Duration, u64) {
    // Each another one: OpenCode takes the same call three times in a row for a loop, and asks whether it may go on.
    let call = |n| json!({"name": "bash", "args": {"command": format!(": {n}"), "description": "nothing"}});
    let tools = (0..AT_ONCE).map(call).collect::<Vec<_>>();
    // The last turn is repeated until the message ends it.
    let script = json!({"turns": [{"tools": tools}],
        "on_message": [{"contains": "enough", "turns": [{"text": "Done."}]}]});
    let planner = &product.client;
    let more = json!({"timeout_ms": 3_600_000, "max_steps": 10_000});
    let task = planner.submit(script, more).await;
    let steps = |seen: &Value| seen["steps"].as_u64().unwrap_or(0) as usize;
    let until = async |wanted: usize| {
        let end = Instant::now() + Duration::from_secs(60 + calls as u64);
        loop {
            let seen = planner.status(&task).await;
            if steps(&seen) >= wanted {
                break;
            }
            assert!(seen["status"] != "failed", "{seen:#}");
            assert!(Instant::now() < end, "the calls are not made: {seen:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until(1).await;
    let (began, before) = (Instant::now(), memory(product));
    until(1 + calls / AT_ONCE).await;
    let took = began.elapsed();
    let grown = memory(product).saturating_sub(before);
    planner.message(&task, "that is enough").await;
    product.ended(&task, "completed").await;
    (task, took, grown)
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_many_events_of_one_task_slow_nothing_and_fill_no_message() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let wanted = number("CHARGEHAND_TEST_CALLS", 400);
    let Some(product) = start(json!({"enabled": false})).await else {
        return;
    };
    let (_, without, grown_without) = calls(&product, wanted).await;
    product.stop().await;

    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let matrix = json!({"enabled": true, "homeserver_url": home.url(), "access_token": bot.token,
        "owners": {"local": anna.id}});
    let product = start(matrix).await.unwrap();
    let (task, with, grown) = calls(&product, wanted).await;
    let room = anna.room_of(&task).await;
    anna.join(&room).await;
    anna.sees(&room, "the end", is_end).await;
    let events = anna.events(&room).await;
    let mut edits = BTreeMap::<String, usize>::new();
    for event in &events {
        let relates = &event["content"]["m.relates_to"];
        if relates["rel_type"] == "m.replace" {
            *edits.entry(relates["event_id"].to_string()).or_default() += 1;
        }
    }
    let most = edits.values().max().copied().unwrap_or(0);
    let of_task = product.client.status(&task).await["events_total"].clone();
    println!(
        "{wanted} tool calls, recorded in {of_task} events of the task, took {with:?} (+{grown} kB), without rooms {without:?} \
         (+{grown_without} kB); {} events in the room, at most {most} edits of one message",
        events.len()
    );
    assert!(most <= 100, "{most} edits of one message");
    assert!(
        with < without.mul_f64(1.5) + Duration::from_secs(10),
        "a room slows its task: {with:?}, without {without:?}"
    );
    assert!(
        grown < grown_without + 30_000,
        "{grown} kB more than before the calls, without rooms {grown_without} kB"
    );
    product.stop().await;
}
