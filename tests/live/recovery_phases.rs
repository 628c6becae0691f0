//! Chargehand killed with -9 where `task_killed` does not: with a queue behind a full house, while a result is read, between two
//! polls. Slots, order, keys and cursors are the same afterwards.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_git::HeldGit;
use crate::harness_product::{Client, Product, Setup, id_of, lines, task, turns, until, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn with_a_queue_its_order_its_slots_and_its_keys() {
    let setup = Setup {
        tasks: json!({"max_running": 1}),
        ..Setup::default()
    };
    let Some(mut product) = Product::start(setup).await else {
        return;
    };
    let place = product.directory.path().to_owned();
    let (effects, gate) = (place.join("effects"), place.join("gate"));
    let does = |name: &str, wait: &str| {
        let command = format!("echo {name} >> {}; {wait}", effects.display());
        turns(json!([bash(&command), {"text": name}]))
    };
    let client = product.client.clone();
    let first = client
        .submit(does("first", &wait_for(&gate)), json!({}))
        .await;
    until("the first has begun", || async {
        (lines(&effects) == 1).then_some(())
    })
    .await;
    let mut waiting = Vec::new();
    for (name, priority) in [
        ("second", "normal"),
        ("third", "low"),
        ("fourth", "normal"),
        ("fifth", "high"),
    ] {
        let arguments = task(
            does(name, "true"),
            json!({"idempotency_key": name, "priority": priority}),
        );
        let id = id_of(&client.ok("opencode_execute_task", arguments.clone()).await);
        waiting.push((id, arguments));
    }
    client.control(&waiting[0].0, "pause").await;
    let mut before = Vec::new();
    for (id, _) in &waiting {
        before.push(place_of(&client.status(id).await));
    }

    for _ in 0..2 {
        product.kill();
        product.start_again().await;
        let client = &product.client;
        for ((id, arguments), before) in waiting.iter().zip(&before) {
            assert_eq!(place_of(&client.status(id).await), *before);
            let again = client.ok("opencode_execute_task", arguments.clone()).await;
            assert_eq!(
                (&again["task_id"], &again["existing"]),
                (&json!(id), &json!(true))
            );
        }
        let mut other = waiting[1].1.clone();
        other["priority"] = json!("high");
        let refused = client.refused("opencode_execute_task", other).await;
        assert_eq!(refused["code"], "IDEMPOTENCY_KEY_REUSED");
        let health = client.ok("health", json!({})).await;
        assert_eq!(
            lines(&effects),
            1,
            "nothing starts beside the first: {health:#}"
        );
    }
    let client = product.client.clone();
    client.control(&waiting[0].0, "resume").await;
    std::fs::write(&gate, "").unwrap();
    product.ended_saying(&first, "completed", "first").await;
    for (id, _) in &waiting {
        product.ended(id, "completed").await;
    }
    let order = std::fs::read_to_string(&effects).unwrap();
    assert_eq!(order, "first\nfifth\nsecond\nfourth\nthird\n");
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_command_ends_and_the_next_begins() {
    let Some(mut product) = Product::start(Setup::default()).await else {
        return;
    };
    let place = product.directory.path().to_owned();
    let effects = place.join("effects");
    let step = |name: &str| {
        let begins = format!("echo begun >> {}", effects.display());
        let mut step = bash(&format!("{begins}; {}", wait_for(&place.join(name))));
        step["tools"][0]["args"]["description"] = json!(name);
        step
    };
    let script = turns(json!([step("first"), step("second"), {"text": "Done."}]));
    let id = product.client.submit(script, json!({})).await;
    let told = |name: &'static str| {
        let words = format!("It runs bash: {name}.");
        move |seen: &Value| seen["doing"] == words
    };
    let client = &product.client;
    client
        .until(&id, "the first command is told", told("first"))
        .await;
    product.kill();
    std::fs::write(place.join("first"), "").unwrap();
    begun(&effects, 2).await;
    product.start_again().await;
    let what = "the second command is told";
    product.client.until(&id, what, told("second")).await;
    std::fs::write(place.join("second"), "").unwrap();
    let ended = product.ended_saying(&id, "completed", "Done.").await;
    assert_eq!(
        ended["steps"], 3,
        "also the one that nobody heard: {ended:#}"
    );
    product.stop().await;
}

/// Phase and place in the queue.
fn place_of(status: &Value) -> (Value, Value) {
    (status["phase"].clone(), status["queue_position"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn between_two_polls_with_the_same_cursor() {
    let Some(mut product) = Product::start(Setup::default()).await else {
        return;
    };
    let place = product.directory.path().to_owned();
    let (effects, first, second) = (
        place.join("effects"),
        place.join("first"),
        place.join("second"),
    );
    let step = |gate| {
        bash(&format!(
            "echo begun >> {}; {}",
            effects.display(),
            wait_for(gate)
        ))
    };
    let script = turns(json!([step(&first), step(&second), {"text": "Done."}]));
    let id = product.client.submit(script, json!({})).await;
    begun(&effects, 1).await;
    product.client.until_phase(&id, "running").await;
    let (known, cursor) = read_from(&product.client, &id, json!(0)).await;
    // More happens than was polled, then Chargehand dies, then more happens.
    std::fs::write(&first, "").unwrap();
    begun(&effects, 2).await;
    product
        .client
        .until(&id, "the first step is told", |seen| seen["steps"] == 1)
        .await;
    product.kill();
    std::fs::write(&second, "").unwrap();
    product.start_again().await;
    product.ended_saying(&id, "completed", "Done.").await;
    let client = &product.client;
    let (missed, _) = read_from(client, &id, cursor.clone()).await;
    assert!(missed.len() > 3, "{missed:#?}");
    let (again, _) = read_from(client, &id, cursor).await;
    assert_eq!(again, missed, "the same again");
    let all = client.history(&id).await;
    let mut read = known;
    read.extend(again);
    assert_eq!(read, all[..read.len()], "nothing twice, nothing left out");
    assert_eq!(read.len(), all.len());
    product.stop().await;
}

/// So many commands have begun.
async fn begun(effects: &Path, count: usize) {
    until("the command has begun", || async {
        (lines(effects) == count).then_some(())
    })
    .await;
}

/// Everything after a cursor, page by page, and the next cursor.
async fn read_from(client: &Client, task: &str, mut cursor: Value) -> (Vec<Value>, Value) {
    let mut events = Vec::new();
    loop {
        let poll = json!({"task_id": task, "since_event": cursor});
        let page = client.ok("get_task_status", poll).await;
        events.extend_from_slice(page["recent_events"].as_array().unwrap());
        cursor = page["next_event"].clone();
        if page["more_events"] == false {
            return (events, cursor);
        }
    }
}

/// Chargehand's git (not the worker's) waits at a gate, so that the result of a task is still being read.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_result_is_read() {
    let git = HeldGit::new();
    let setup = Setup {
        programs: Some(git.programs()),
        ..Setup::default()
    };
    let Some(mut product) = Product::start(setup).await else {
        return;
    };
    let gate = product.directory.path().join("gate");
    let command = format!("echo made > made.txt; {}", wait_for(&gate));
    let script = turns(json!([bash(&command), {"text": "Read me."}]));
    let id = product.client.submit(script, json!({})).await;
    product
        .client
        .until(&id, "its command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    git.shut();
    std::fs::write(&gate, "").unwrap();
    product.client.until_phase(&id, "finishing").await;
    git.holds().await;
    product.kill();
    product.start_again().await;
    assert_eq!(product.client.status(&id).await["phase"], "finishing");
    // A message is too late, also after the restart.
    let late = json!({"task_id": id, "message": "one more thing", "message_type": "update"});
    let refused = product.client.refused("send_task_message", late).await;
    assert_eq!(refused["code"], "WRONG_PHASE");
    // And the worker is not needed any more.
    product.worker().await.signal("-KILL");
    git.open();
    let seen = product.ended_saying(&id, "completed", "Read me.").await;
    assert_eq!(seen["changes"]["files"][0]["path"], "made.txt", "{seen:#}");
    assert_eq!(product.model_calls(), 2);
    product.stop().await;
}
