//! Sessions, hosts, tokens, disconnects, the end of the server.

use std::time::{Duration, Instant};

use chargehand::config::TokenRole;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::client::{ACCEPT, Client, message};
use super::server::{Server, token};

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_version_is_served() {
    let server = Server::start().await;
    for (asked, answered) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
    ] {
        let client = Client::stateless(&server.url);
        let (client, said) = client.open(asked).await;
        assert_eq!(said["result"]["protocolVersion"], answered);
        assert_eq!(said["result"]["serverInfo"]["name"], "chargehand");
        client.ok("ping", json!({})).await;
    }
    let modern = Client::stateless(&server.url);
    let said = modern.ask("server/discover", json!({})).await;
    assert!(said.to_string().contains("2026-07-28"), "{said}");
    let response = modern
        .request("tools/call", json!({"name": "ping"}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_are_independent() {
    let server = Server::start().await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(server.client().await);
    }
    // The first sessions still work after the later ones came and one of them went.
    assert_eq!(clients.pop().unwrap().close().await, StatusCode::NO_CONTENT);
    let mut calls = Vec::new();
    for (number, client) in clients.into_iter().enumerate() {
        calls.push(tokio::spawn(async move {
            let agent = format!("agent-{number}");
            let arguments =
                json!({"agent_id": agent, "task_description": format!("Task {number}."), "sync": true});
            let done = client.ok("opencode_execute_task", arguments).await;
            assert_eq!(done["status"], "completed");
            for _ in 0..20 {
                client.ok("ping", json!({})).await;
            }
            let mine = client.ok("list_tasks", json!({"agent_id": agent})).await;
            assert_eq!(mine["count"], 1);
            assert_eq!(mine["tasks"][0]["task_id"], done["task_id"]);
        }));
    }
    for call in calls {
        call.await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_of_one_client_does_not_hold_up_another() {
    let server = Server::start().await;
    let client = server.client().await;
    let task = client.task_in("HANG for ever.", "running").await;
    let waiting = client.waiting_for(&task).await;
    let waits = tokio::spawn(message(waiting));
    let other = server.client().await;
    other.ok("ping", json!({})).await;
    assert!(
        !waits.is_finished(),
        "the other call came only after the wait"
    );
    other.cancel(&task).await;
    let said = waits.await.unwrap();
    assert_eq!(said["result"]["structuredContent"]["status"], "cancelled");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_requests_get_json_errors() {
    let server = Server::start().await;
    let http = reqwest::Client::new();
    let mcp = format!("{}/mcp", server.url);
    let post = |body: &str| {
        http.post(&mcp)
            .header("Accept", ACCEPT)
            .header("Content-Type", "application/json")
            .body(body.to_owned())
    };
    let big = format!("{{\"x\": \"{}\"}}", "y".repeat(5_000_000));
    for (request, status, code) in [
        (post("{nope"), 400, -32700),
        (post(""), 400, -32700),
        (post("[1]"), 400, -32600),
        (post("{\"a\": 1}"), 400, -32600),
        (post(&big), 413, -32000),
        (post("{}").header("Mcp-Session-Id", "unknown"), 400, -32600),
        (
            http.post(&mcp)
                .header("Content-Type", "application/json")
                .body("{}"),
            406,
            -32000,
        ),
        (
            http.post(&mcp).header("Accept", ACCEPT).body("{}"),
            415,
            -32000,
        ),
        (http.get(&mcp), 406, -32000),
        (http.put(&mcp), 405, -32000),
    ] {
        let response = request.send().await.unwrap();
        let got = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/json");
        let body: Value = response.json().await.unwrap();
        assert_eq!(
            (got, body["error"]["code"].as_i64()),
            (status, Some(code)),
            "{body}"
        );
        assert_eq!(body["jsonrpc"], "2.0");
    }
    let missing = http
        .get(format!("{}/nothing", server.url))
        .send()
        .await
        .unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert!(missing.json::<Value>().await.unwrap()["error"].is_string());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_is_not_found() {
    let server = Server::start().await;
    let client = server.client().await;
    assert_eq!(client.close().await, StatusCode::NO_CONTENT);
    let response = client
        .request("tools/list", json!({}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let body: Value = response.json().await.unwrap();
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("Session not found")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_cap_the_longest_idle_session_goes() {
    let server = Server::with(|settings| settings.server.max_sessions = 2).await;
    let first = server.client().await;
    let second = server.client().await;
    first.ok("ping", json!({})).await;
    let third = server.client().await;
    first.ok("ping", json!({})).await;
    third.ok("ping", json!({})).await;
    let gone = second
        .request("tools/list", json!({}))
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_session_is_busy_a_new_one_is_refused() {
    let server = Server::with(|settings| settings.server.max_sessions = 1).await;
    let client = server.client().await;
    let task = client.task_in("HANG for ever.", "running").await;
    let waits = client.waiting_for(&task).await;
    let refused = Client::stateless(&server.url).try_open("2025-06-18").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    assert!(refused.text().await.unwrap().contains("busy"));
    Client::stateless(&server.url).cancel(&task).await;
    assert_eq!(message(waits).await["result"]["isError"], false);
    server.client().await.ok("ping", json!({})).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_origins_are_exact() {
    let server = Server::start().await;
    let client = server.client().await;
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    for (name, value, status) in [
        ("Host", "evil.example".to_owned(), 403),
        ("Host", format!("localhost.evil.example:{port}"), 403),
        ("Host", format!("localhost:{port}"), 200),
        ("Origin", "http://localhost.evil.example".to_owned(), 403),
        ("Origin", "null".to_owned(), 403),
        ("Origin", format!("http://localhost:{port}"), 200),
    ] {
        let request = client.request("tools/list", json!({})).header(name, &value);
        let got = request.send().await.unwrap().status().as_u16();
        assert_eq!(got, status, "{name}: {value}");
        let debug = reqwest::Client::new()
            .get(format!("{}/debug/tree", server.url))
            .header(name, &value);
        assert_eq!(
            debug.send().await.unwrap().status().as_u16(),
            status,
            "{name}: {value}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_say_whose_tasks_one_sees() {
    let server = Server::with(|settings| {
        settings.auth.tokens = vec![
            token("ann", "ann-0123456789abcdef", TokenRole::Caller),
            token("bob", "bob-0123456789abcdef", TokenRole::Caller),
            token("ops", "ops-0123456789abcdef", TokenRole::Operator),
        ];
    })
    .await;
    let as_ = |token: &str| {
        Client::stateless(&server.url).header("Authorization", format!("Bearer {token}"))
    };
    let nobody = Client::stateless(&server.url);
    for client in [nobody, as_("wrong-0123456789abcdef")] {
        let refused = client
            .request("tools/list", json!({}))
            .send()
            .await
            .unwrap();
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert!(
            refused.headers()["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Bearer")
        );
    }
    let ann = as_("ann-0123456789abcdef");
    let task = ann.task_in("Hers.", "completed").await;
    let asked = json!({"task_id": task});
    let bob = as_("bob-0123456789abcdef");
    let refusal = bob.refused("get_task_status", asked.clone()).await;
    assert_eq!(refusal["code"], "TASK_NOT_FOUND");
    assert_eq!(bob.ok("list_tasks", json!({})).await["count"], 0);
    let ops = as_("ops-0123456789abcdef");
    ops.ok("get_task_status", asked).await;
    let http = reqwest::Client::new();
    let debug = |token: &str| {
        http.get(format!("{}/debug/tree", server.url))
            .bearer_auth(token)
            .send()
    };
    assert_eq!(
        debug("ann-0123456789abcdef").await.unwrap().status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        debug("ops-0123456789abcdef").await.unwrap().status(),
        StatusCode::OK
    );
    let health = http
        .get(format!("{}/health", server.url))
        .send()
        .await
        .unwrap();
    assert_eq!(health.status(), StatusCode::OK);
    let health: Value = health.json().await.unwrap();
    assert!(
        health.get("report").is_none(),
        "details are for those who may speak: {health}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_header_stands_in_for_the_argument() {
    let server = Server::start().await;
    let client = Client::stateless(&server.url).header("X-Agent-Id", "agent-7");
    let execute = "opencode_execute_task";
    let accepted = client.ok(execute, json!({"task_description": "d"})).await;
    let status = client
        .ok("get_task_status", json!({"task_id": accepted["task_id"]}))
        .await;
    assert_eq!(status["agent_id"], "agent-7");
    client
        .ok(
            execute,
            json!({"task_description": "d", "agent_id": "agent-7"}),
        )
        .await;
    let refusal = client
        .refused(
            execute,
            json!({"task_description": "d", "agent_id": "agent-8"}),
        )
        .await;
    assert!(refusal["error"].as_str().unwrap().contains("contradicts"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_end_its_task() {
    let server = Server::start().await;
    let clients = [server.client().await, Client::stateless(&server.url)];
    for (number, client) in clients.iter().enumerate() {
        let arguments = json!({"agent_id": format!("a{number}"), "task_description": "HANG on.", "wait_seconds": 30});
        let call = json!({"name": "opencode_execute_task", "arguments": arguments});
        let request = client
            .request("tools/call", call)
            .timeout(Duration::from_secs(5));
        let left = async { request.send().await?.text().await }.await;
        assert!(
            left.is_err(),
            "the answer came before the client left: {left:?}"
        );
    }
    let client = server.client().await;
    let list = client.ok("list_tasks", json!({})).await;
    assert_eq!(list["count"], 2);
    for task in list["tasks"].as_array().unwrap() {
        client
            .until(task["task_id"].as_str().unwrap(), "running")
            .await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_waits_with_the_state() {
    let server = Server::start().await;
    let session = server.client().await;
    let task = session.task_in("HANG for ever.", "running").await;
    // The one answer has begun; the other is of a call that waits for its own task, which is there before the wait.
    let mut waits = vec![tokio::spawn(message(session.waiting_for(&task).await))];
    let arguments = json!({"agent_id": "b", "task_description": "HANG on.", "wait_seconds": 45});
    let call = json!({"name": "opencode_execute_task", "arguments": arguments});
    let request = Client::stateless(&server.url).request("tools/call", call);
    waits.push(tokio::spawn(async move {
        message(request.send().await.unwrap()).await
    }));
    let own = loop {
        let list = session.ok("list_tasks", json!({"agent_id": "b"})).await;
        if let Some(task) = list["tasks"][0]["task_id"].as_str() {
            break task.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    session.until(&own, "running").await;
    let before = Instant::now();
    server.ask_to_stop();
    for wait in waits {
        let said = wait.await.unwrap();
        assert_eq!(
            said["result"]["structuredContent"]["status"], "running",
            "{said}"
        );
    }
    server.ended().await.unwrap();
    assert!(
        before.elapsed() < Duration::from_secs(12),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn d14_answered_calls_are_not_kept_in_a_session() {
    let server = Server::start().await;
    let client = server.client().await;
    // A server that keeps each answered call looks through them at every message; what matters is that the
    // session can be used on and that an answered call cannot be asked for again.
    for _ in 0..300 {
        client.ok("ping", json!({})).await;
    }
    let resumed = reqwest::Client::new()
        .get(format!("{}/mcp", server.url))
        .header("Accept", "text/event-stream")
        .header("Mcp-Session-Id", client.session())
        .header("Last-Event-ID", "0/5")
        .send()
        .await
        .unwrap();
    assert_eq!(resumed.text().await.unwrap(), "", "an old answer was kept");
    server.stop().await;
}
