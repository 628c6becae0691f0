//! The stdio bridge against a scripted server: both eras of the protocol, lost sessions, a server that is away.
#![expect(clippy::unwrap_used, reason = "tests")]

use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::cli_support::{Finished, Server, chargehand, rpc};

fn lines(messages: &[Value]) -> String {
    messages
        .iter()
        .map(|message| format!("{message}\n"))
        .collect()
}

fn answers(ended: &Finished) -> Vec<Value> {
    let mut answers: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // Requests run side by side; their answers may come in any order.
    answers.sort_by_key(|answer| answer["id"].to_string());
    answers
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}})
}

/// Answers the handshake with session `id`.
fn with_session(server: &Server, id: &'static str) {
    server.answer("initialize", move |seen| {
        let result = json!({"protocolVersion": "2025-06-18", "capabilities": {}});
        let mut response = rpc(seen, "result", result);
        response
            .headers_mut()
            .insert("mcp-session-id", id.parse().unwrap());
        response
    });
}

#[tokio::test]
async fn an_older_client_gets_a_session_that_is_closed_at_the_end() {
    let server = Server::start().await;
    with_session(&server, "s-1");
    server.answer("notifications/initialized", |_| {
        StatusCode::ACCEPTED.into_response()
    });
    server.answer("tools/list", |seen| {
        rpc(seen, "result", json!({"tools": []}))
    });
    server.answer("DELETE /mcp", |_| StatusCode::ACCEPTED.into_response());
    let ended = chargehand(
        &["--server", &server.url(), "--token", "secret", "mcp"],
        &lines(&[
            initialize(),
            json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
            json!({"jsonrpc": "2.0", "id": "two", "method": "tools/list"}),
        ]),
    )
    .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let answers = answers(&ended);
    assert_eq!(
        answers[0],
        json!({"jsonrpc": "2.0", "id": "two", "result": {"tools": []}})
    );
    assert_eq!(answers[1]["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(answers.len(), 2);
    let seen = server.seen();
    let list = seen
        .iter()
        .find(|s| s.body["method"] == "tools/list")
        .unwrap();
    assert_eq!(list.header("mcp-session-id"), "s-1");
    assert_eq!(list.header("mcp-protocol-version"), "2025-06-18");
    assert_eq!(list.header("authorization"), "Bearer secret");
    let last = seen.last().unwrap();
    assert_eq!(
        (last.method.as_str(), last.header("mcp-session-id").as_str()),
        ("DELETE", "s-1")
    );
}

#[tokio::test]
async fn a_session_that_the_server_forgot_is_made_again() {
    let server = Server::start().await;
    with_session(&server, "old");
    with_session(&server, "new");
    server.answer("notifications/initialized", |_| {
        StatusCode::ACCEPTED.into_response()
    });
    server.answer("tools/list", |seen| {
        if seen.header("mcp-session-id") == "new" {
            rpc(seen, "result", json!({"tools": []}))
        } else {
            (StatusCode::NOT_FOUND, "Not Found: Session not found").into_response()
        }
    });
    let ended = chargehand(
        &["--server", &server.url(), "mcp"],
        &lines(&[
            initialize(),
            json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}),
        ]),
    )
    .await;
    let answers = answers(&ended);
    assert_eq!(
        answers.len(),
        2,
        "the second handshake is not the client's: {answers:?}"
    );
    assert_eq!(
        answers[1],
        json!({"jsonrpc": "2.0", "id": 2, "result": {"tools": []}})
    );
}

/// `tools/list` is served in session "new" only.
fn lists_in_the_new_session(server: &Server) {
    server.answer("notifications/initialized", |_| {
        StatusCode::ACCEPTED.into_response()
    });
    server.answer("tools/list", |seen| {
        if seen.header("mcp-session-id") == "new" {
            rpc(seen, "result", json!({"tools": []}))
        } else {
            (StatusCode::NOT_FOUND, "Not Found: Session not found").into_response()
        }
    });
}

fn handshakes(server: &Server) -> usize {
    let seen = server.seen();
    let handshakes = seen.iter().filter(|s| s.body["method"] == "initialize");
    handshakes.count()
}

#[tokio::test]
async fn requests_side_by_side_make_one_new_session() {
    let server = Server::start().await;
    with_session(&server, "old");
    with_session(&server, "new");
    // A session more than needed would be one that knows nothing.
    with_session(&server, "too many");
    lists_in_the_new_session(&server);
    let mut messages = vec![initialize()];
    messages.extend((2..10).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"})));
    let ended = chargehand(&["--server", &server.url(), "mcp"], &lines(&messages)).await;
    let answers = answers(&ended);
    assert_eq!(answers.len(), messages.len(), "{ended:?}");
    for answer in answers.iter().skip(1) {
        assert!(answer["result"]["tools"].is_array(), "{answer}");
    }
    assert_eq!(handshakes(&server), 2);
}

#[tokio::test]
async fn a_handshake_that_fails_during_a_restart_is_made_again_by_the_next_request() {
    let server = Server::start().await;
    with_session(&server, "old");
    server.answer("initialize", |_| {
        (StatusCode::SERVICE_UNAVAILABLE, "starting").into_response()
    });
    with_session(&server, "new");
    lists_in_the_new_session(&server);
    let list = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"});
    let messages = [initialize(), list(2), list(3)];
    let ended = chargehand(&["--server", &server.url(), "mcp"], &lines(&messages)).await;
    let answers = answers(&ended);
    assert_eq!(answers.len(), 3, "{ended:?}");
    // Which of the two met the failed handshake is open.
    let (refused, served): (Vec<&Value>, Vec<&Value>) = answers[1..]
        .iter()
        .partition(|answer| answer["error"].is_object());
    assert_eq!((refused.len(), served.len()), (1, 1), "{ended:?}");
    assert!(
        refused[0]["error"]["message"]
            .as_str()
            .unwrap()
            .contains("503")
    );
    assert_eq!(handshakes(&server), 3);
}

#[tokio::test]
async fn a_client_without_sessions_gets_its_headers_and_its_progress() {
    let server = Server::start().await;
    server.answer("get_task_status", |seen| {
        let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": 1, "progress": 1}});
        let result = json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": {"content": []}});
        let body = format!(": hi\n\ndata: {progress}\n\nid: 4\ndata: {result}\n\n");
        ([("content-type", "text/event-stream")], body).into_response()
    });
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {
        "name": "get_task_status", "arguments": {},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}});
    let ended = chargehand(
        &["--server", &server.url(), "mcp"],
        &lines(std::slice::from_ref(&call)),
    )
    .await;
    let out: Vec<&str> = ended.out.lines().collect();
    assert_eq!(out.len(), 2, "{ended:?}");
    assert!(out[0].contains("notifications/progress"));
    assert!(out[1].contains("\"id\":7"));
    let seen = server.seen();
    assert_eq!(
        seen.len(),
        1,
        "no handshake and no session to close: {seen:?}"
    );
    assert_eq!(seen[0].body, call, "passed on as it is");
    assert_eq!(seen[0].header("mcp-protocol-version"), "2026-07-28");
    assert_eq!(seen[0].header("mcp-method"), "tools/call");
    assert_eq!(seen[0].header("mcp-name"), "get_task_status");
    assert_eq!(seen[0].header("mcp-session-id"), "");
}

#[tokio::test]
async fn a_server_that_is_away_is_an_answer_not_a_silence() {
    let ended = chargehand(
        &["--server", "http://127.0.0.1:9", "mcp"],
        &lines(&[
            initialize(),
            json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}),
        ]),
    )
    .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let answers = answers(&ended);
    assert_eq!(answers.len(), 2, "{ended:?}");
    for answer in answers {
        assert_eq!(answer["error"]["code"], -32_000);
        let text = answer["error"]["message"].as_str().unwrap();
        assert!(text.contains("chargehand serve"), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_json_is_answered_and_the_next_line_still_works() {
    let server = Server::start().await;
    server.answer("ping", |seen| rpc(seen, "result", json!({})));
    let input = format!(
        "nonsense\n\n{}\n",
        json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    );
    let ended = chargehand(&["--server", &server.url(), "mcp"], &input).await;
    let answers = answers(&ended);
    assert_eq!(answers[0]["id"], 1);
    assert_eq!(answers[1]["error"]["code"], -32_700);
    assert_eq!(answers[1]["id"], Value::Null);
}

#[tokio::test]
async fn a_broken_answer_says_that_the_command_may_have_taken_effect() {
    let server = Server::start().await;
    server.answer("tools/call", |_| {
        (
            [("content-type", "text/event-stream")],
            ": the end comes early\n\n",
        )
            .into_response()
    });
    let call = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {}});
    let ended = chargehand(&["--server", &server.url(), "mcp"], &lines(&[call])).await;
    let answers = answers(&ended);
    let text = answers[0]["error"]["message"].as_str().unwrap();
    assert!(text.contains("may have taken effect"), "{text}");
}
