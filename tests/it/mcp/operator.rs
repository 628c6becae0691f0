//! Health for machines and the debug endpoint.

use std::time::{Duration, Instant};

use chargehand_actors::fakes::{Fate, World};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::client::Client;
use super::server::Server;

async fn get(server: &Server, path: &str) -> (StatusCode, Value) {
    let response = reqwest::get(format!("{}{path}", server.url)).await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness() {
    let server = Server::start().await;
    let (status, health) = get(&server, "/health").await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("ok")));
    let parts = health["report"]["parts"].as_array().unwrap();
    assert!(
        parts.iter().any(|part| part["name"] == "journal"),
        "{health}"
    );
    let (status, ready) = get(&server, "/ready").await;
    assert_eq!(
        (status, &ready["status"]),
        (StatusCode::OK, &json!("ready")),
        "{ready}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_shows_every_actor_under_its_supervisor() {
    let server = Server::start().await;
    let task = server
        .client()
        .await
        .task_in("HANG for ever.", "running")
        .await;
    let (status, body) = get(&server, "/debug/tree").await;
    assert_eq!(status, StatusCode::OK);
    let roots = body["tree"].as_array().unwrap();
    assert_eq!(roots.len(), 1, "{body:#}");
    assert_eq!(roots[0]["kind"], "root");
    let mut kinds = Vec::new();
    fn collect<'a>(node: &'a Value, kinds: &mut Vec<(&'a str, &'a str)>) {
        kinds.push((
            node["kind"].as_str().unwrap(),
            node["label"].as_str().unwrap(),
        ));
        for child in node["children"].as_array().unwrap() {
            collect(child, kinds);
        }
    }
    collect(&roots[0], &mut kinds);
    assert_eq!(body["actors"], kinds.len());
    for kind in ["journal", "admission", "registry", "engines", "tasks"] {
        assert!(
            kinds.iter().any(|(have, _)| *have == kind),
            "{kind} is missing: {kinds:?}"
        );
    }
    assert!(kinds.contains(&("task", task.as_str())), "{kinds:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_with_its_actors_record_output_and_patch() {
    let server = Server::start().await;
    let client = server.client().await;
    let task = client.task_in("HANG for ever.", "running").await;
    let (status, body) = get(&server, &format!("/debug/tasks/{task}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["registry"], "answered");
    assert_eq!(body["status"]["view"]["phase"], "running");
    assert_eq!(body["actors"][0]["phase"], "running", "{body:#}");
    assert!(!body["status"]["events"].as_array().unwrap().is_empty());

    let (status, text) = get(
        &server,
        &format!("/debug/tasks/{task}/output?offset=9&limit=5"),
    )
    .await;
    assert_eq!(
        (status, &text["text"]),
        (StatusCode::OK, &json!("aloud")),
        "{text}"
    );
    assert_eq!(text["next_offset"], 14);
    let (status, patch) = get(&server, &format!("/debug/tasks/{task}/patch")).await;
    assert_eq!(status, StatusCode::OK, "{patch}");
    assert!(patch["text"].as_str().unwrap().contains("hello.txt"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_wrong_tasks() {
    let server = Server::start().await;
    let unknown = "5b8f0b0e-6f0c-4a0e-9d7c-2b1a3c4d5e6f";
    for (path, expected) in [
        (format!("/debug/tasks/{unknown}"), StatusCode::NOT_FOUND),
        (
            format!("/debug/tasks/{unknown}/output"),
            StatusCode::NOT_FOUND,
        ),
        ("/debug/tasks/42".to_owned(), StatusCode::BAD_REQUEST),
        (
            format!("/debug/tasks/{unknown}/output?offset=x"),
            StatusCode::BAD_REQUEST,
        ),
    ] {
        let (status, body) = get(&server, &path).await;
        assert_eq!(status, expected, "{path}: {body}");
        assert!(body["error"].is_string(), "{body}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_is_shown_while_the_journal_hangs() {
    let world = World::new(7);
    let server = Server::on_fakes(&world).await;
    let client = server.client().await;
    let task = client.task_in("script: hang", "running").await;
    world.trouble.always("journal.task", Fate::HangBefore);
    world
        .trouble
        .always("journal.newest_events", Fate::HangBefore);
    let before = Instant::now();
    let (status, body) = get(&server, "/debug/tree").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.to_string().contains(&task), "{body:#}");
    // A task that only the journal could know: the registry waits for it, we do not.
    let unknown = "5b8f0b0e-6f0c-4a0e-9d7c-2b1a3c4d5e6f";
    let (status, body) = get(&server, &format!("/debug/tasks/{unknown}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["registry"], "no answer within 1 s");
    assert_eq!(body["status"], Value::Null);
    assert_eq!(body["actors"], json!([]));
    // A live task is answered from memory.
    let (_, body) = get(&server, &format!("/debug/tasks/{task}")).await;
    assert_eq!(body["registry"], "answered", "{body:#}");
    client.ok("ping", json!({})).await;
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "{:?}",
        before.elapsed()
    );
    world.trouble.clear();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_connects_while_it_stops_is_told_so() {
    let world = World::new(1);
    // A pause whose engine does not answer keeps the stop waiting.
    world.trouble.next("engine.abort", Fate::HangBefore);
    let server = Server::on_fakes(&world).await;
    let client = server.client().await;
    let task = client.task_in("work 600000", "running").await;
    let pause = client.request(
        "tools/call",
        json!({"name": "send_task_control", "arguments": {"task_id": task, "control": "pause"}}),
    );
    let pausing = tokio::spawn(async move { pause.send().await });
    let received = async || {
        let history = client
            .ok("get_task_history", json!({"task_id": task}))
            .await;
        history.to_string().contains("abort_wanted")
    };
    while !received().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.ask_to_stop();
    let late = Client::stateless(&server.url);
    let mut told = Value::Null;
    for _ in 0..50 {
        let arguments = json!({"agent_id": "a", "task_description": "work 10"});
        let answer = late.call("opencode_execute_task", arguments).await;
        told = answer.body;
        if answer.refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(told["code"], "UNAVAILABLE", "{told}");
    server.ended().await.unwrap();
    drop(pausing);
}
