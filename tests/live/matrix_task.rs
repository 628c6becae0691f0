//! A person in a Matrix room follows a whole task on the real OpenCode and steers it: by text, by sign, by machine event.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_matrix::{Homeserver, Human, is_sign, text_of};
use crate::harness_product::{Product, Setup, turns, wait_for};

/// A product with rooms on this homeserver; `anna` owns every task.
pub(crate) async fn product(
    home: &Homeserver,
    bot: &Human,
    anna: &Human,
    more: Value,
) -> Option<Product> {
    let mut matrix = json!({
        "enabled": true, "homeserver_url": home.url(), "owners": {"local": anna.id},
    });
    if more.get("password").is_none() {
        matrix["access_token"] = json!(bot.token);
    }
    for (name, value) in more.as_object().into_iter().flatten() {
        matrix[name] = value.clone();
    }
    let setup = Setup {
        more: json!({ "matrix": matrix }),
        ..Setup::default()
    };
    Product::start(setup).await
}

/// Whether this is the bot's message about something of this type.
fn about(event: &Value, event_type: &str) -> bool {
    event["content"]["io.letta.task"]["event_type"] == event_type
}

/// The status notice: the first post of the room.
fn is_status(event: &Value) -> bool {
    let relates = event["content"]["m.relates_to"]["rel_type"].as_str();
    about(event, "status_change") && relates != Some("m.replace")
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_a_typed_cancel_ends_a_running_task() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let Some(product) = product(&home, &bot, &anna, json!({})).await else {
        return;
    };
    let planner = &product.client;
    let gate = product.directory.path().join("gate");
    let task = planner
        .submit(
            turns(json!([bash(&wait_for(&gate)), {"text": "Never."}])),
            json!({}),
        )
        .await;
    let room = anna.room_of(&task).await;
    anna.join(&room).await;
    let status = anna.sees(&room, "the status", is_status).await;
    assert_eq!(status["content"]["msgtype"], "m.notice");
    assert_eq!(status["content"]["m.mentions"], json!({}));
    planner.until_phase(&task, "running").await;
    anna.sees(&room, "an edited status", |event| {
        is_status(event) && text_of(event).contains("running")
    })
    .await;
    let cancel = anna.types(&room, "!cancel wrong branch").await;
    let seen = product.ended(&task, "cancelled").await;
    assert_eq!(seen["phase"], "cancelled");
    anna.sees(&room, "the acknowledgement", |event| {
        is_sign(event, &cancel, "✅")
    })
    .await;
    let end = anna
        .sees(&room, "the end", |event| about(event, "task_cancelled"))
        .await;
    assert_eq!(end["content"]["msgtype"], "m.text");
    assert_eq!(end["content"]["m.mentions"]["user_ids"], json!([anna.id]));
    assert!(text_of(&end).contains("wrong branch"), "{end}");
    let by = planner.history(&task).await;
    let by = by.iter().find(|event| event["event"] == "task_cancelled");
    assert!(
        by.unwrap()["message"].as_str().unwrap().contains(&anna.id),
        "{by:?}"
    );
    let name = anna
        .sees(&room, "the name", |event| {
            event["type"] == "m.room.name"
                && event["content"]["name"].as_str().unwrap().contains("🚫")
        })
        .await;
    assert!(name["content"]["name"].as_str().unwrap().contains(&task));
    // Read-only from here on.
    anna.sees(&room, "the closed room", |event| {
        event["type"] == "m.room.power_levels" && event["content"]["events_default"] == 100
    })
    .await;
    let (refused, _) = anna
        .send(
            &room,
            "m.room.message",
            json!({"msgtype": "m.text", "body": "!status"}),
        )
        .await;
    assert_eq!(refused, 403);
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_a_person_pauses_resumes_guides_and_reads_the_result() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let Some(product) = product(&home, &bot, &anna, json!({})).await else {
        return;
    };
    let planner = &product.client;
    let gate = product.directory.path().join("gate");
    let script = json!({
        "turns": [bash("echo one > one.txt"), bash(&wait_for(&gate)), {"text": "Red."}],
        "on_message": [{"contains": "blue", "turns": [bash("echo blue > color.txt"), {"text": "**Blue** it is."}]}]});
    let task = planner.submit(script, json!({})).await;
    let room = anna.room_of(&task).await;
    anna.join(&room).await;
    let status = anna.sees(&room, "the status", is_status).await;
    let status = status["event_id"].as_str().unwrap().to_owned();
    for sign in ["⏸", "▶", "❌"] {
        anna.sees(&room, "a button", |event| is_sign(event, &status, sign))
            .await;
    }
    planner.until_phase(&task, "running").await;

    // By text, then by a sign as a client with colours sends it.
    let pause = anna.types(&room, "!pause").await;
    planner.until_phase(&task, "paused").await;
    anna.sees(&room, "the pause is acknowledged", |event| {
        is_sign(event, &pause, "✅")
    })
    .await;
    anna.reacts(&room, &status, "▶\u{fe0f}").await;
    planner.until_phase(&task, "running").await;

    // Plain text reaches the worker and changes what it writes.
    let guidance = anna.types(&room, "Please make it blue.").await;
    anna.sees(&room, "the message is sent", |event| {
        is_sign(event, &guidance, "📨")
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    let seen = product.ended(&task, "completed").await;
    assert_eq!(seen["output"], "**Blue** it is.");
    assert_eq!(planner.file(&task, "color.txt").await["content"], "blue\n");
    anna.sees(&room, "the worker took it up", |event| {
        is_sign(event, &guidance, "👀")
    })
    .await;
    let end = anna
        .sees(&room, "the result", |event| about(event, "task_completed"))
        .await;
    let html = end["content"]["formatted_body"].as_str().unwrap();
    assert!(html.contains("<strong>Blue</strong> it is."), "{html}");
    assert!(html.contains("color.txt"), "{html}");
    for file in ["changes.patch", "worker.log"] {
        anna.sees(&room, file, |event| {
            event["content"]["msgtype"] == "m.file" && event["content"]["body"] == file
        })
        .await;
    }
    anna.sees(&room, "a tool call in the thread", |event| {
        event["content"]["m.relates_to"]["event_id"] == status.as_str()
            && text_of(event).contains("✓ bash")
    })
    .await;
    // Nothing but the result makes a sound.
    let events = anna.events(&room).await;
    let loud: Vec<&Value> = events
        .iter()
        .filter(|event| {
            event["sender"] == bot.id.as_str() && event["content"]["msgtype"] == "m.text"
        })
        .collect();
    assert_eq!(loud.len(), 1, "{loud:#?}");
    // For the picture in docs/matrix.md.
    if let Ok(path) = std::env::var("CHARGEHAND_TEST_EVENTS_TO") {
        std::fs::write(path, serde_json::to_vec(&events).unwrap()).unwrap();
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_a_person_approves_and_a_machine_cancels() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let Some(product) = product(&home, &bot, &anna, json!({})).await else {
        return;
    };
    let planner = &product.client;
    let gate = product.directory.path().join("gate");
    // The first request finds nobody. The call asks for nobody either: somebody who may steer is enough once she has joined.
    let joined = product.directory.path().join("joined");
    let script = turns(json!([
        bash("echo alone > alone.txt"), bash(&wait_for(&joined)),
        bash("echo asked > asked.txt"), bash("echo more > more.txt"), {"text": "done"}]));
    let asks = json!({"permissions": {"ask": ["bash:echo *"]}});
    let task = planner.submit(script, asks).await;
    let room = anna.room_of(&task).await;
    planner.until_event(&task, "answer_wanted").await;
    anna.join(&room).await;
    planner.until_event(&task, "attendance_changed").await;
    std::fs::write(&joined, "").unwrap();
    let asked = anna
        .sees(&room, "the request", |event| {
            about(event, "request") && text_of(event).contains("echo asked")
        })
        .await;
    assert_eq!(asked["content"]["m.mentions"]["user_ids"], json!([anna.id]));
    assert!(text_of(&asked).contains("echo asked"), "{asked}");
    let approve = anna.types(&room, "!approve").await;
    anna.sees(&room, "the approval", |event| {
        is_sign(event, &approve, "✅")
    })
    .await;
    // The second one by its button.
    let second = anna
        .sees(&room, "the second request", |event| {
            about(event, "request") && text_of(event).contains("echo more")
        })
        .await;
    anna.reacts(&room, second["event_id"].as_str().unwrap(), "✅")
        .await;
    let seen = product.ended(&task, "completed").await;
    assert_eq!(seen["output"], "done");
    assert_eq!(planner.file(&task, "more.txt").await["content"], "more\n");
    let files = planner.ok("get_task_files", json!({"task_id": task})).await;
    assert!(!files["files"].to_string().contains("alone.txt"), "{files}");

    // In the form for machines, which the homeserver itself guards.
    let task = planner
        .submit(
            turns(json!([bash(&wait_for(&gate)), {"text": "Never."}])),
            json!({}),
        )
        .await;
    let room = anna.room_of(&task).await;
    anna.join(&room).await;
    planner.until_phase(&task, "running").await;
    let (status, event) = anna
        .send(
            &room,
            "io.letta.control",
            json!({"task_id": task, "control": "cancel", "reason": "a machine"}),
        )
        .await;
    assert_eq!(status, 200, "{event}");
    product.ended(&task, "cancelled").await;
    product.stop().await;
}
