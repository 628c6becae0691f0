//! Whose tasks one sees and steers: tokens, the header X-Agent-Id, the agents of a token.

use chargehand::config::TokenRole;
use chargehand_actors::fakes::World;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::client::Client;
use super::server::{Server, token};
use super::wrong_calls::TASK;

const ANN: &str = "ann-0123456789abcdef";
const BOB: &str = "bob-0123456789abcdef";
const OPS: &str = "ops-0123456789abcdef";
const EXECUTE: &str = "opencode_execute_task";

/// Every tool that names a task, with arguments that are right for one that asks for a permission.
fn calls(task: &str, request: &Value) -> Vec<(&'static str, Value)> {
    vec![
        ("get_task_status", json!({"task_id": task})),
        (
            "get_task_status",
            json!({"task_id": task, "wait_seconds": 1}),
        ),
        ("get_task_history", json!({"task_id": task})),
        (
            "get_task_history",
            json!({"task_id": task, "include_artifacts": true}),
        ),
        ("get_task_files", json!({"task_id": task})),
        (
            "read_task_file",
            json!({"task_id": task, "file_path": "hello.txt"}),
        ),
        (
            "send_task_message",
            json!({"task_id": task, "message": "m"}),
        ),
        (
            "send_task_control",
            json!({"task_id": task, "control": "cancel"}),
        ),
        (
            "answer_task_request",
            json!({"task_id": task, "request_id": request, "answer": "allow"}),
        ),
    ]
}

/// Nobody of `strangers` sees anything of `task`: every tool answers as for a task that does not exist.
async fn hidden(strangers: &[(&str, Client)], task: &str, request: &Value) {
    for (name, stranger) in strangers {
        let of_unknown = calls(TASK, request);
        for ((tool, arguments), (_, unknown)) in calls(task, request).into_iter().zip(of_unknown) {
            let refused = stranger.refused(tool, arguments).await;
            assert_eq!(refused["code"], "TASK_NOT_FOUND", "{name}: {tool}");
            let unknown = stranger.refused(tool, unknown).await.to_string();
            let same = unknown.replace(TASK, task);
            assert_eq!(refused.to_string(), same, "{name}: {tool}");
        }
        for filter in [
            json!({}),
            json!({"agent_id": "a"}),
            json!({"state": "running"}),
        ] {
            let list = stranger.ok("list_tasks", filter).await;
            assert!(!list.to_string().contains(task), "{name}: {list}");
        }
    }
}

async fn asking(client: &Client, mut arguments: Value) -> (String, Value) {
    arguments["task_description"] = json!("script: ask bash; finish stop");
    arguments["attended"] = json!(true);
    let accepted = client.ok(EXECUTE, arguments).await;
    let task = accepted["task_id"].as_str().unwrap().to_owned();
    let status = client.until(&task, "input_required").await;
    (task, status["requests"][0]["request_id"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_callers_task_is_as_unknown_as_one_that_never_was() {
    let world = World::new(11);
    let server = Server::on_fakes_with(&world, |settings| {
        settings.auth.tokens = vec![
            token("ann", ANN, TokenRole::Caller),
            token("bob", BOB, TokenRole::Caller),
            token("ops", OPS, TokenRole::Operator),
        ];
    })
    .await;
    let ann = server.as_token(ANN);
    let (task, request) = asking(&ann, json!({"agent_id": "a"})).await;
    let strangers = [
        ("bob", server.as_token(BOB)),
        ("bob as a", server.as_token(BOB).header("X-Agent-Id", "a")),
        ("ann as b", server.as_token(ANN).header("X-Agent-Id", "b")),
    ];
    hidden(&strangers, &task, &request).await;
    let status = ann.ok("get_task_status", json!({"task_id": task})).await;
    assert_eq!(status["phase"], "input_required", "nobody changed anything");
    // Its owner, narrowed to its agent, and an operator under any agent do see and steer it.
    let narrowed = server.as_token(ANN).header("X-Agent-Id", "a");
    let operator = server.as_token(OPS).header("X-Agent-Id", "b");
    for client in [&narrowed, &operator] {
        client.ok("get_task_status", json!({"task_id": task})).await;
        let list = client.ok("list_tasks", json!({})).await;
        assert_eq!(list["count"], 1, "{list}");
        client
            .ok(
                "send_task_message",
                json!({"task_id": task, "message": "m"}),
            )
            .await;
    }
    let (tool, answer) = calls(&task, &request).pop().unwrap();
    operator.ok(tool, answer).await;
    ann.until(&task, "completed").await;
    let history = ann
        .ok(
            "get_task_history",
            json!({"task_id": task, "events_limit": -1}),
        )
        .await;
    let by: Vec<(&str, &str, &str)> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event.get("by").is_some())
        .map(|event| {
            let text = |field: &str| event[field].as_str().unwrap_or_default();
            (text("event"), text("by"), text("from"))
        })
        .collect();
    let from = "mcp 127.0.0.1";
    assert_eq!(
        by,
        [
            ("task_accepted", "ann/a", from),
            ("message_received", "ann/a", from),
            ("message_received", "ops/b", from),
            ("answer_wanted", "ops/b", from),
        ]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_narrows_also_where_no_token_is_configured() {
    let world = World::new(12);
    let server = Server::on_fakes(&world).await;
    let as_agent = |agent: &str| Client::stateless(&server.url).header("X-Agent-Id", agent);
    let (task, request) = asking(&as_agent("a"), json!({})).await;
    hidden(&[("b", as_agent("b"))], &task, &request).await;
    let everybody = Client::stateless(&server.url);
    everybody
        .ok("get_task_status", json!({"task_id": task}))
        .await;
    // Who narrows itself is no operator.
    let http = reqwest::Client::new();
    let debug = |agent: Option<&str>| {
        let request = http.get(format!("{}/debug/tasks/{task}", server.url));
        match agent {
            Some(agent) => request.header("X-Agent-Id", agent).send(),
            None => request.send(),
        }
    };
    let narrowed = debug(Some("b")).await.unwrap();
    assert_eq!(narrowed.status(), StatusCode::FORBIDDEN);
    assert_eq!(debug(None).await.unwrap().status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_speaks_only_for_its_agents() {
    let server = Server::with(|settings| {
        let bound = |name: &str, secret: &str, agents: &[&str]| {
            let mut token = token(name, secret, TokenRole::Caller);
            token.agents = agents.iter().map(|agent| (*agent).to_owned()).collect();
            token
        };
        settings.auth.tokens = vec![bound("ann", ANN, &["a"]), bound("bob", BOB, &["b", "c"])];
    })
    .await;
    let (ann, bob) = (server.as_token(ANN), server.as_token(BOB));
    let submit = |agent: Option<&str>| match agent {
        Some(agent) => json!({"task_description": "d", "agent_id": agent}),
        None => json!({"task_description": "d"}),
    };
    // The only agent need not be named, and nothing else can be.
    let hers = ann.ok(EXECUTE, submit(None)).await;
    let hers = json!({"task_id": hers["task_id"]});
    let status = ann.ok("get_task_status", hers.clone()).await;
    assert_eq!(status["agent_id"], "a");
    let refused = ann.refused(EXECUTE, submit(Some("b"))).await;
    assert_eq!(refused["fields"][0]["field"], "agent_id");
    assert_eq!(refused["fields"][0]["allowed"], "a");
    // One of several must be named.
    let refused = bob.refused(EXECUTE, submit(None)).await;
    let allowed = refused["fields"][0]["allowed"].as_str().unwrap();
    assert!(allowed.contains("b, c"), "{refused}");
    bob.ok(EXECUTE, submit(Some("c"))).await;
    let as_b = server.as_token(BOB).header("X-Agent-Id", "b");
    as_b.ok(EXECUTE, submit(None)).await;
    assert_eq!(as_b.ok("list_tasks", json!({})).await["count"], 1);
    assert_eq!(bob.ok("list_tasks", json!({})).await["count"], 2);
    bob.refused("get_task_status", hers).await;
    // A header that names somebody else is refused before anything is read.
    let foreign = server.as_token(BOB).header("X-Agent-Id", "a");
    let response = foreign
        .request("tools/call", json!({"name": "list_tasks"}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let body: Value = response.json().await.unwrap();
    let text = body["error"]["message"].as_str().unwrap();
    assert!(
        text.contains("b, c") && text.contains("X-Agent-Id"),
        "{text}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_header_that_cannot_be_read_is_not_ignored() {
    let server = Server::start().await;
    for value in [vec![], vec![0xff], vec![b'x'; 201]] {
        let value = reqwest::header::HeaderValue::from_bytes(&value).unwrap();
        let response = Client::stateless(&server.url)
            .request("tools/call", json!({"name": "list_tasks"}))
            .header("X-Agent-Id", value)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let body: Value = response.json().await.unwrap();
        let text = body["error"]["message"].as_str().unwrap();
        assert!(text.contains("X-Agent-Id"), "{text}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_that_it_is_one() {
    let server = Server::start().await;
    let run = crate::cli_support::chargehand(
        &[
            "--server",
            &server.url,
            "run",
            "--no-watch",
            "--agent-id",
            "me",
            "Do it.",
        ],
        "",
    )
    .await;
    assert_eq!(run.code, Some(0), "{}", run.err);
    let history = server
        .client()
        .await
        .ok("get_task_history", json!({"task_id": run.out.trim()}))
        .await;
    let accepted = &history["events"][0];
    assert_eq!(
        (&accepted["by"], &accepted["from"]),
        (&json!("local/me"), &json!("cli 127.0.0.1"))
    );
    server.stop().await;
}
