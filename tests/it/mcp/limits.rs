//! Limits per token: calls a minute, sessions; and what belongs to a session.

use chargehand::config::TokenRole;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::client::{Client, message};
use super::server::{Server, token};

const ANN: &str = "ann-0123456789abcdef";
const BOB: &str = "bob-0123456789abcdef";
const OPS: &str = "ops-0123456789abcdef";

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_limit_are_told_when_to_come_back() {
    let server = Server::with(|settings| {
        settings.auth.calls_per_minute = 3;
        let mut ops = token("ops", OPS, TokenRole::Operator);
        let mut bob = token("bob", BOB, TokenRole::Caller);
        bob.limits.calls_per_minute = Some(5);
        ops.agents = Vec::new();
        settings.auth.tokens = vec![token("ann", ANN, TokenRole::Caller), bob, ops];
    })
    .await;
    let ann = server.as_token(ANN);
    for tool in ["ping", "health", "list_tasks"] {
        ann.ok(tool, json!({})).await;
    }
    let execute = json!({"agent_id": "a", "task_description": "d"});
    for (tool, arguments) in [
        ("ping", json!({})),
        ("opencode_execute_task", execute),
        // Before anything is looked at.
        ("get_task_status", json!({"task_id": 7})),
    ] {
        let refused = ann.refused(tool, arguments).await;
        assert_eq!(refused["code"], "RATE_LIMITED", "{refused}");
        assert_eq!(refused["status"], 429);
        let wait = refused["retry_after_s"].as_u64().unwrap();
        assert!((1..=20).contains(&wait), "{refused}");
    }
    // The limit is the token's, not the connection's; other tokens have their own, operators none.
    server.as_token(ANN).refused("ping", json!({})).await;
    let bob = server.as_token(BOB);
    for _ in 0..5 {
        bob.ok("ping", json!({})).await;
    }
    bob.refused("ping", json!({})).await;
    let ops = server.as_token(OPS);
    for _ in 0..20 {
        ops.ok("ping", json!({})).await;
    }
    assert_eq!(ops.ok("list_tasks", json!({})).await["count"], 0);
    server.stop().await;
}

/// A client of this token with a session.
async fn session(server: &Server, token: &str) -> Client {
    server.as_token(token).open("2025-06-18").await.0
}

async fn status(client: &Client) -> StatusCode {
    let request = client.request("tools/list", json!({}));
    request.send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_its_own_number_of_sessions() {
    let server = Server::with(|settings| {
        let mut ann = token("ann", ANN, TokenRole::Caller);
        ann.limits.max_sessions = Some(1);
        settings.auth.tokens = vec![ann, token("bob", BOB, TokenRole::Caller)];
        settings.auth.max_sessions_per_token = 2;
    })
    .await;
    let bobs = [session(&server, BOB).await, session(&server, BOB).await];
    let first = session(&server, ANN).await;
    // An idle one makes room for the next of the same token, and of no other.
    let second = session(&server, ANN).await;
    assert_eq!(status(&first).await, StatusCode::NOT_FOUND);
    for client in &bobs {
        assert_eq!(status(client).await, StatusCode::OK);
    }
    // A busy one does not.
    let task = second.task_in("HANG for ever.", "running").await;
    let waits = second.waiting_for(&task).await;
    let refused = server.as_token(ANN).try_open("2025-06-18").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    let body: Value = refused.json().await.unwrap();
    let text = body["error"]["message"].as_str().unwrap();
    assert!(text.contains("auth.max_sessions_per_token"), "{text}");
    server.as_token(ANN).cancel(&task).await;
    assert_eq!(message(waits).await["result"]["isError"], false);
    session(&server, ANN).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_belongs_to_its_token() {
    let server = Server::with(|settings| {
        settings.auth.tokens = vec![
            token("ann", ANN, TokenRole::Caller),
            token("bob", BOB, TokenRole::Caller),
        ];
    })
    .await;
    let ann = session(&server, ANN).await;
    let http = reqwest::Client::new();
    let as_bob = |request: reqwest::RequestBuilder| {
        request
            .bearer_auth(BOB)
            .header("Accept", "application/json, text/event-stream")
            .header("Mcp-Session-Id", ann.session())
            .send()
    };
    let mcp = format!("{}/mcp", server.url);
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let posted = as_bob(http.post(&mcp).json(&list)).await.unwrap();
    assert_eq!(posted.status(), StatusCode::NOT_FOUND);
    let listened = as_bob(http.get(&mcp)).await.unwrap();
    assert_eq!(listened.status(), StatusCode::NOT_FOUND);
    as_bob(http.delete(&mcp)).await.unwrap();
    assert_eq!(status(&ann).await, StatusCode::OK, "bob did not end it");
    server.stop().await;
}
