//! Tokens that are replaced while the server runs.

use std::time::Duration;

use chargehand::config::{AuthSettings, Secret, TokenRole, TokenSettings};
use reqwest::StatusCode;
use serde_json::json;

use super::client::Client;
use super::server::{Server, token};

const ANN: &str = "ann-0123456789abcdef";
const BOB: &str = "bob-0123456789abcdef";
const NEW: &str = "new-0123456789abcdef";

async fn status(client: &Client) -> StatusCode {
    let request = client.request("tools/list", json!({}));
    request.send().await.unwrap().status()
}

fn auth(tokens: Vec<TokenSettings>) -> AuthSettings {
    AuthSettings {
        tokens,
        ..AuthSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_token_stops_at_once_with_all_that_it_holds() {
    let (ann, bob) = (
        token("ann", ANN, TokenRole::Caller),
        token("bob", BOB, TokenRole::Caller),
    );
    let both = vec![ann.clone(), bob.clone()];
    let server = Server::with(|settings| settings.auth.tokens = both).await;
    let session = server.as_token(ANN).open("2025-06-18").await.0;
    let other = server.as_token(BOB).open("2025-06-18").await.0;
    let task = session.task_in("HANG for ever.", "running").await;
    // A stream of the session and a wait without session are open when the token goes.
    let stream = reqwest::Client::new()
        .get(format!("{}/mcp", server.url))
        .bearer_auth(ANN)
        .header("Accept", "text/event-stream")
        .header("Mcp-Session-Id", session.session())
        .send()
        .await
        .unwrap();
    assert_eq!(stream.status(), StatusCode::OK);
    let wait =
        json!({"name": "get_task_status", "arguments": {"task_id": task, "wait_seconds": 45}});
    let stateless = server.as_token(ANN);
    let waits = stateless.request("tools/call", wait);
    let waits = tokio::spawn(async move { waits.send().await.unwrap().status() });
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.tokens.reload(&auth(vec![bob.clone()])).unwrap();
    let within = Duration::from_secs(20);
    let ended = tokio::time::timeout(within, waits).await.unwrap().unwrap();
    assert_eq!(ended, StatusCode::UNAUTHORIZED);
    let closed = tokio::time::timeout(within, stream.bytes()).await;
    assert!(closed.is_ok(), "the stream is still open");
    assert_eq!(status(&session).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&other).await, StatusCode::OK, "bob goes on");
    // With the token back, the tasks are there and the session is not.
    server.tokens.reload(&auth(vec![ann, bob])).unwrap();
    assert_eq!(status(&session).await, StatusCode::NOT_FOUND);
    let again = stateless
        .ok("get_task_status", json!({"task_id": task}))
        .await;
    assert_eq!(again["status"], "running", "a task outlives its token");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_is_read_again_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, ANN).unwrap();
    let server = Server::with(|settings| {
        settings.auth.tokens = vec![TokenSettings {
            file: Some(file.clone()),
            token: Secret::new(ANN.to_owned()),
            ..token("ann", ANN, TokenRole::Caller)
        }];
    })
    .await;
    let (old, new) = (server.as_token(ANN), server.as_token(NEW));
    assert_eq!(status(&old).await, StatusCode::OK);
    assert_eq!(status(&new).await, StatusCode::UNAUTHORIZED);
    std::fs::write(&file, NEW).unwrap();
    for _ in 0..200 {
        if status(&new).await == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status(&new).await, StatusCode::OK);
    assert_eq!(status(&old).await, StatusCode::UNAUTHORIZED);
    server.stop().await;
}
