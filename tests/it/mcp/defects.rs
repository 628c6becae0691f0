//! Defects of the system that this one replaces, at the edge: none of them may come back. The list with the places of all
//! the other tests stands in `docs/design/defects-of-the-original.md`.

use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::client::Client;
use super::server::Server;

/// Long enough for a loaded machine; the defect was an answer that never came.
const NEVER: Duration = Duration::from_secs(60);

async fn answers(client: &Client) {
    let ping = client.ok("ping", json!({}));
    let ping = tokio::time::timeout(NEVER, ping).await;
    assert_eq!(ping.expect("a call hangs")["status"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_sessions_come_and_go_without_touching_each_other() {
    let server = Server::start().await;
    let first = server.client().await;
    answers(&first).await;
    let second = server.client().await;
    answers(&first).await;
    answers(&second).await;
    assert_eq!(second.close().await, StatusCode::NO_CONTENT);
    answers(&first).await;
    let third = server.client().await;
    assert_eq!(first.close().await, StatusCode::NO_CONTENT);
    answers(&third).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_a_control_signal_does_what_it_answers_and_needs_no_room() {
    let server = Server::start().await;
    let client = server.client().await;
    let task = client.task_in("HANG for ever.", "running").await;
    for (control, phase) in [
        ("pause", "paused"),
        ("resume", "running"),
        ("cancel", "cancelled"),
    ] {
        let arguments = json!({"task_id": task, "control": control});
        let told = client.ok("send_task_control", arguments).await;
        assert_eq!(told["phase"], phase, "{control}: {told}");
        let status = json!({"task_id": task});
        assert_eq!(client.ok("get_task_status", status).await["phase"], phase);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d8_history_is_there_after_the_end() {
    let server = Server::start().await;
    let client = server.client().await;
    let arguments = json!({"task_description": "Do it.", "agent_id": "a", "sync": true});
    let done = client.ok("opencode_execute_task", arguments).await;
    let query = json!({"task_id": done["task_id"], "include_artifacts": true});
    let history = client.ok("get_task_history", query).await;
    assert_eq!(history["status"], "completed");
    assert_eq!(history["events_total"], history["events_returned"]);
    assert_eq!(history["artifacts"][0]["name"], "execution_output");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn d15_arguments_may_be_left_out_and_broken_requests_get_json() {
    let server = Server::start().await;
    let client = server.client().await;
    for tool in ["ping", "health"] {
        let answer = client.ask("tools/call", json!({"name": tool})).await;
        assert_ne!(answer["result"]["isError"], true, "{tool}: {answer}");
    }
    let http = reqwest::Client::new();
    let mcp = format!("{}/mcp", server.url);
    let broken = http
        .post(&mcp)
        .header("Accept", "application/json, text/event-stream")
        .header("Content-Type", "application/json")
        .body("{nope")
        .send()
        .await
        .unwrap();
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        broken.json::<Value>().await.unwrap()["error"]["code"],
        -32700
    );
    let evil = client
        .request("tools/list", json!({}))
        .header("Origin", "http://localhost.evil.example");
    assert_eq!(evil.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(client.close().await, StatusCode::NO_CONTENT);
    let ended = client
        .request("tools/list", json!({}))
        .send()
        .await
        .unwrap();
    assert_eq!(ended.status(), StatusCode::NOT_FOUND);
    server.stop().await;
}

/// Text of this repository that nobody may have committed. Put together here, so that this file is not found.
fn secrets() -> Vec<String> {
    let begin = ["-----", "BEGIN"].concat();
    [
        vec![begin.clone(), " PRIVATE KEY".to_owned()],
        vec![begin.clone(), " RSA PRIVATE KEY".to_owned()],
        vec![begin, " OPENSSH PRIVATE KEY".to_owned()],
        vec!["gh".to_owned(), "p_".to_owned()],
        vec!["sk-".to_owned(), "ant-".to_owned()],
        vec!["sk-".to_owned(), "proj-".to_owned()],
        vec!["sy".to_owned(), "t_".to_owned()],
        vec!["AK".to_owned(), "IA".to_owned()],
    ]
    .iter()
    .map(|parts| parts.concat())
    .collect()
}

fn texts_below(directory: &Path, texts: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts_below(&path, texts);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            texts.push((path.display().to_string(), text));
        }
    }
}

#[test]
fn no_secret_is_in_the_repository() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for place in ["actors", "benches", "config", "docs", "src", "tests"] {
        texts_below(&root.join(place), &mut texts);
    }
    assert!(texts.len() > 150, "that is not everything");
    // A token or key has a long tail; a word in a sentence has none.
    let is_key = |text: &str, begin: &str| {
        text.match_indices(begin).any(|(at, _)| {
            let tail = &text[at + begin.len()..];
            let long = tail.chars().take_while(char::is_ascii_alphanumeric).count() >= 16;
            begin.starts_with('-') || long
        })
    };
    for (path, text) in texts {
        for begin in secrets() {
            assert!(
                !is_key(&text, &begin),
                "{path} holds something like {begin}…"
            );
        }
    }
}

#[test]
fn d16_every_dependency_is_locked_with_its_digest_and_comes_from_the_registry() {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    let lock: toml::Table = std::fs::read_to_string(lock).unwrap().parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    assert!(packages.len() > 50, "that is not the whole list");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let own = name == "chargehand" || name == "chargehand-actors";
        let source = package.get("source").and_then(toml::Value::as_str);
        let digest = package.get("checksum").and_then(toml::Value::as_str);
        assert_eq!(source.is_none(), own, "{name} comes from {source:?}");
        assert_eq!(digest.is_none(), own, "{name} has no digest");
        if let Some(source) = source {
            assert!(
                source.starts_with("registry+"),
                "{name} comes from {source}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d16_it_starts_and_works_without_its_optional_parts() {
    // No memory, no rooms, no notices, no OpenCode on this machine: only the journal.
    let server = Server::start().await;
    let client = server.client().await;
    let health = client.ok("health", json!({})).await;
    assert_eq!(health["status"], "healthy");
    for optional in ["memory", "rooms", "notices"] {
        let parts = health["parts"].as_array().unwrap();
        let part = parts.iter().find(|part| part["name"] == optional);
        assert_eq!(part.unwrap()["state"], "off", "{health:#}");
    }
    let arguments = json!({"task_description": "Do it.", "agent_id": "a", "sync": true});
    let done = client.ok("opencode_execute_task", arguments).await;
    assert_eq!(done["status"], "completed");
    server.stop().await;
}
