//! Encrypted rooms: a person with a client of another family (matrix-nio) reads the bot's messages and steers the task by encrypted ones.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::harness::bash;
use crate::harness_matrix::{Homeserver, PASSWORD};
use crate::harness_product::{turns, wait_for};
use crate::matrix_task::product;

/// Python with matrix-nio; none = the test is skipped.
fn nio() -> Option<PathBuf> {
    match std::env::var_os("CHARGEHAND_TEST_NIO") {
        Some(python) => Some(PathBuf::from(python)),
        None if std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_some_and(|v| v == "1") => {
            panic!("matrix-nio is required here; CHARGEHAND_TEST_NIO is not set")
        }
        None => {
            println!("SKIPPED, no matrix-nio: CHARGEHAND_TEST_NIO is not set");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_a_second_client_reads_and_steers_an_encrypted_room() {
    let (Some(python), Some(home)) = (nio(), Homeserver::start().await) else {
        return;
    };
    let (bot, anna) = (home.human("bot").await, home.human("anna").await);
    let more = json!({"user_id": bot.id, "password": PASSWORD, "encrypt_rooms": true});
    let Some(product) = product(&home, &bot, &anna, more).await else {
        return;
    };
    let planner = &product.client;
    let store = product.directory.path().join("nio");
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/clients/matrix_encrypted.py"
    );
    let mut person = Command::new(python)
        .arg(script)
        .args([&home.url(), "anna", PASSWORD])
        .arg(&store)
        .args(["running", "!cancel my secret reason", "my secret reason"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(person.stdout.take().unwrap()).lines();
    // Its device must be there before the first message is encrypted for it.
    let first = lines.next_line().await.unwrap().unwrap();
    assert!(first.contains("logged in"), "{first}");
    let gate = product.directory.path().join("gate");
    let task = planner
        .submit(
            turns(json!([bash(&wait_for(&gate)), {"text": "Never."}])),
            json!({}),
        )
        .await;
    let mut told = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        println!("the person's client: {line}");
        told.push(line);
    }
    product.ended(&task, "cancelled").await;
    assert!(person.wait().await.unwrap().success(), "{told:#?}");
    assert!(told.last().unwrap().contains("answered"), "{told:#?}");
    let by = planner.history(&task).await;
    let by = by.iter().find(|event| event["event"] == "task_cancelled");
    let by = by.unwrap()["message"].as_str().unwrap();
    assert!(
        by.contains(&anna.id) && by.contains("my secret reason"),
        "{by}"
    );
    // The homeserver has nothing of it in the clear.
    let room = anna.room_of(&task).await;
    for event in anna.events(&room).await {
        assert_ne!(event["type"], "m.room.message", "{event}");
        assert!(!event["content"].to_string().contains("secret"), "{event}");
    }
    let key = product.data().join("matrix/recovery-key");
    let key = std::fs::read_to_string(key).unwrap();
    assert!(key.len() > 40, "the recovery key");
    product.stop().await;
}
