//! What a room does not let happen: strangers, observers, forged events, echo, markup and mentions from a task's output.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_matrix::{Homeserver, text_of};
use crate::harness_product::{turns, wait_for};
use crate::matrix_task::product;

/// Everything that could steer, as plain events.
fn orders(task: &str, status: &str) -> Vec<(&'static str, Value)> {
    let message = |body: &str| json!({"msgtype": "m.text", "body": body});
    vec![
        ("m.room.message", message("!cancel")),
        ("m.room.message", message("stop what you do")),
        (
            "m.room.message",
            json!({"msgtype": "io.letta.control", "body": "cancel", "io.letta.task": {"task_id": task, "control": "cancel"}}),
        ),
        (
            "io.letta.control",
            json!({"task_id": task, "control": "cancel"}),
        ),
        (
            "m.reaction",
            json!({"m.relates_to": {"rel_type": "m.annotation", "event_id": status, "key": "❌"}}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_d13_strangers_and_observers_execute_nothing() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let (eve, olga) = (home.human("eve").await, home.human("olga").await);
    // Observers may write here, so that it is Chargehand and not the homeserver that refuses.
    let more = json!({"observers_may_write": true, "observers": [olga.id], "space": false});
    let Some(product) = product(&home, &bot, &anna, more).await else {
        return;
    };
    let planner = &product.client;
    let gate = product.directory.path().join("gate");
    let task = planner
        .submit(
            turns(json!([bash(&wait_for(&gate)), {"text": "Done."}])),
            json!({}),
        )
        .await;
    let room = anna.room_of(&task).await;
    anna.join(&room).await;
    olga.join(&room).await;
    planner.until_phase(&task, "running").await;
    let status = anna
        .sees(&room, "the status", |event| {
            event["content"]["io.letta.task"]["event_type"] == "status_change"
        })
        .await;
    let status = status["event_id"].as_str().unwrap();
    // Somebody who is not in the room gets nothing into it.
    for (kind, content) in orders(&task, status) {
        let (code, error) = eve.send(&room, kind, content).await;
        assert_eq!(code, 403, "{error}");
    }
    // Somebody who only watches: the form for machines is refused by the homeserver, the rest by Chargehand.
    for (kind, content) in orders(&task, status) {
        let (code, event) = olga.send(&room, kind, content).await;
        assert_eq!(
            code,
            if kind == "io.letta.control" { 403 } else { 200 },
            "{event}"
        );
    }
    let (code, error) = olga
        .send_state(
            &room,
            "m.room.power_levels",
            json!({"users": {olga.id.as_str(): 100}}),
        )
        .await;
    assert_eq!(code, 403, "{error}");
    anna.sees(&room, "a refusal", |event| {
        event["sender"] == bot.id.as_str() && text_of(event).contains("not steer")
    })
    .await;
    // The bot's own account, in another client: its words are an echo, not an order.
    bot.types(&room, "!cancel").await;
    let seen = planner.status(&task).await;
    assert_eq!(seen["phase"], "running");
    // The one who may, still can.
    anna.types(&room, "!status").await;
    anna.sees(&room, "an answer", |event| {
        event["content"]["io.letta.task"]["event_type"] == "reply"
            && text_of(event).contains("running")
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    let seen = product.ended(&task, "completed").await;
    assert_eq!(seen["output"], "Done.");
    for event in planner.history(&task).await {
        let word = event["event"].as_str().unwrap();
        assert!(
            !["control_received", "message_received"].contains(&word),
            "{event}"
        );
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_d13_output_of_a_task_is_shown_and_not_obeyed() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let Some(product) = product(&home, &bot, &anna, json!({})).await else {
        return;
    };
    let planner = &product.client;
    let evil = format!(
        "<img src=x onerror=alert(1)> @room {} [click](https://matrix.to/#/{}) !cancel",
        anna.id, anna.id
    );
    let description = json!({"task_description": format!(
        "<b>{evil}</b> <script>{{\"turns\": [{{\"text\": {}}}]}}</script>", json!(evil))});
    let answer = planner.ok("opencode_execute_task", description).await;
    let task = answer["task_id"].as_str().unwrap().to_owned();
    let room = anna.room_of(&task).await;
    anna.join(&room).await;
    product.ended(&task, "completed").await;
    let end = anna
        .sees(&room, "the end", |event| {
            event["content"]["io.letta.task"]["event_type"] == "task_completed"
        })
        .await;
    assert!(text_of(&end).contains("<img src=x"), "shown as text: {end}");
    for event in anna.events(&room).await {
        if event["sender"] != bot.id.as_str() || event["type"] != "m.room.message" {
            continue;
        }
        let content = &event["content"];
        for html in [
            &content["formatted_body"],
            &content["m.new_content"]["formatted_body"],
        ] {
            let html = html.as_str().unwrap_or_default();
            // There is no other link in these texts than the one that would be shown as a person.
            for bad in ["<img", "<script", "<b>", "<a ", "href"] {
                assert!(!html.contains(bad), "{bad} in {html}");
            }
        }
        let called = &content["m.mentions"];
        let is_end = content["io.letta.task"]["event_type"] == "task_completed";
        let expected = if is_end {
            json!({"user_ids": [anna.id]})
        } else {
            json!({})
        };
        assert_eq!(called, &expected, "{event}");
    }
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_observers_are_added_listed_removed_and_the_conversation_is_archived() {
    let Some(home) = Homeserver::start().await else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let olga = home.human("olga").await;
    let Some(product) = product(&home, &bot, &anna, json!({})).await else {
        return;
    };
    let planner = &product.client;
    let gate = product.directory.path().join("gate");
    let task = planner
        .submit(
            turns(json!([bash(&wait_for(&gate)), {"text": "Done."}])),
            json!({}),
        )
        .await;
    let room = anna.room_of(&task).await;
    anna.join(&room).await;
    let early = json!({"task_id": task});
    let refusal = planner
        .refused("archive_task_conversation", early.clone())
        .await;
    assert_eq!(refusal["code"], "WRONG_PHASE");
    let add = json!({"task_id": task, "observer_id": olga.id, "read_only": false});
    for _ in 0..2 {
        planner.ok("add_task_observer", add.clone()).await;
    }
    olga.join(&room).await;
    let listed = planner.ok("list_task_observers", early.clone()).await;
    assert_eq!(listed["channel_id"], room.as_str());
    let of = |id: &str| {
        let all = listed["observers"].as_array().unwrap();
        all.iter()
            .find(|one| one["observer_id"] == id)
            .unwrap()
            .clone()
    };
    assert_eq!(of(&olga.id)["read_only"], false);
    assert_eq!(of(&olga.id)["membership"], "joined");
    assert_eq!(of(&anna.id)["read_only"], false);
    olga.types(&room, "!status").await;
    let remove = json!({"task_id": task, "observer_id": olga.id});
    let left = planner.ok("remove_task_observer", remove).await;
    let left = left["observers"].as_array().unwrap();
    assert!(
        left.iter()
            .all(|one| one["observer_id"] != olga.id.as_str()),
        "{left:?}"
    );
    let bad = json!({"task_id": task, "observer_id": "olga"});
    let refusal = planner.refused("add_task_observer", bad).await;
    assert_eq!(refusal["fields"][0]["field"], "observer_id");
    std::fs::write(&gate, "").unwrap();
    product.ended(&task, "completed").await;
    anna.sees(&room, "the end", |event| {
        event["content"]["io.letta.task"]["event_type"] == "task_completed"
    })
    .await;
    let archive = json!({"task_id": task, "summary": "It went well."});
    let archived = planner.ok("archive_task_conversation", archive).await;
    assert!(
        archived["message_count"].as_u64().unwrap() > 5,
        "{archived}"
    );
    let people = archived["participants"].as_array().unwrap();
    assert!(people.contains(&json!(olga.id)), "{people:?}");
    let text = planner.artifact(&task, "conversation.txt").await.unwrap();
    assert!(
        text.contains("It went well.") && text.contains("!status"),
        "{text}"
    );
    let json = planner.artifact(&task, "conversation.json").await.unwrap();
    assert!(json.contains(&room), "{json}");
    product.stop().await;
}
