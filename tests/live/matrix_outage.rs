//! A homeserver that is stopped, limits what is sent, or has much to show: the task is never slowed, the room is told in the end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_matrix::{Homeserver, text_of};
use crate::harness_product::turns;
use crate::matrix_task::product;

pub(crate) fn is_end(event: &Value) -> bool {
    event["content"]["io.letta.task"]["event_type"] == "task_completed"
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_a_homeserver_that_is_stopped_delays_no_task_and_is_told_later() {
    let Some(mut home) = Homeserver::start().await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let Some(product) = product(&home, &bot, &anna, json!({})).await else {
        return;
    };
    let script = || turns(json!([bash("echo one > one.txt"), {"text": "Done."}]));
    let began = Instant::now();
    let first = product.client.submit(script(), json!({})).await;
    product.ended(&first, "completed").await;
    let with_homeserver = began.elapsed();
    home.stop();
    let began = Instant::now();
    let task = product.client.submit(script(), json!({})).await;
    product.ended(&task, "completed").await;
    let without = began.elapsed();
    println!("with a homeserver {with_homeserver:?}, without {without:?}");
    assert!(
        without < with_homeserver + Duration::from_secs(10),
        "a homeserver that is away slows a task: {without:?}, with it {with_homeserver:?}"
    );
    let health = product.client.ok("health", json!({})).await;
    assert!(health.to_string().contains("does not answer"), "{health}");
    // Long enough that the next try of its own would come half a minute later or more.
    tokio::time::sleep(Duration::from_secs(60)).await;
    home.run().await;
    let room = anna.room_of(&task).await;
    anna.join(&room).await;
    anna.sees(&room, "the end", is_end).await;
    let events = anna.events(&room).await;
    assert_eq!(events.iter().filter(|event| is_end(event)).count(), 1);
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_the_usual_limits_with_five_rooms_lose_no_end() {
    // Synapse's own limits of messages; only the invitations are let through, which tests of limits are not about.
    let limits = "
rc_joins: {local: {per_second: 1000, burst_count: 1000}, remote: {per_second: 1000, burst_count: 1000}}
rc_invites: {per_room: {per_second: 1000, burst_count: 1000}, per_user: {per_second: 1000, burst_count: 1000}, per_issuer: {per_second: 1000, burst_count: 1000}}
rc_room_creation: {per_second: 1000, burst_count: 1000}
";
    let Some(home) = Homeserver::start_with(limits).await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let Some(product) = product(&home, &bot, &anna, json!({})).await else {
        return;
    };
    let mut tasks = Vec::new();
    for _ in 0..5 {
        let script = turns(json!([bash("echo one > one.txt"), {"text": "Done."}]));
        tasks.push(product.client.submit(script, json!({})).await);
    }
    let began = Instant::now();
    for task in &tasks {
        product.ended(task, "completed").await;
    }
    println!("five tasks took {:?}", began.elapsed());
    let told = Instant::now();
    for task in &tasks {
        let room = anna.room_within(task, Duration::from_secs(600)).await;
        anna.join_within(&room, Duration::from_secs(300)).await;
        anna.sees_within(&room, "the end", Duration::from_secs(600), is_end)
            .await;
    }
    println!(
        "their ends were told {:?} after the last one",
        told.elapsed()
    );
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_much_output_makes_few_events() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let Some(product) = product(&home, &bot, &anna, json!({})).await else {
        return;
    };
    let mut steps: Vec<Value> = (0..120)
        .map(|n| bash(&format!("echo {n} >> numbers.txt")))
        .collect();
    steps.push(json!({"text": "Done."}));
    let task = product
        .client
        .submit(turns(json!(steps)), json!({"timeout_ms": 1_200_000}))
        .await;
    let room = anna.room_of(&task).await;
    anna.join(&room).await;
    product.ended(&task, "completed").await;
    anna.sees(&room, "the end", is_end).await;
    let events = anna.events(&room).await;
    let of_bot = |event: &&Value| event["sender"] == bot.id.as_str();
    let all = events.iter().filter(of_bot).count();
    let edits = events
        .iter()
        .filter(|event| event["content"]["m.relates_to"]["rel_type"] == "m.replace")
        .count();
    let tools: usize = events
        .iter()
        .map(|event| text_of(event).matches("✓ bash").count())
        .sum();
    println!("120 tool calls: {all} events of the bot, {edits} edits, {tools} calls named");
    assert!(edits <= 100, "{edits} edits of one message");
    product.stop().await;
}
