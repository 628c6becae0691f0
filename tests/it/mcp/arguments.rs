//! Wrong arguments: each is refused by name, with what is allowed, and nothing is done.

use serde_json::{Value, json};

use super::server::Server;

const TASK: &str = "5b8f0b0e-6f0c-4a0e-9d7c-2b1a3c4d5e6f";

/// (tool, arguments, field, what the refusal must say)
fn wrong() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let execute = "opencode_execute_task";
    let with = |field: &str, value: Value| {
        let mut arguments = json!({"agent_id": "a", "task_description": "d"});
        arguments[field] = value;
        arguments
    };
    let task = |field: &str, value: Value| {
        let mut arguments = json!({"task_id": TASK});
        arguments[field] = value;
        arguments
    };
    let message = |field: &str, value: Value| {
        let mut arguments = json!({"task_id": TASK, "message": "m"});
        arguments[field] = value;
        arguments
    };
    let control = |field: &str, value: Value| {
        let mut arguments = json!({"task_id": TASK, "control": "cancel"});
        arguments[field] = value;
        arguments
    };
    vec![
        (execute, json!({}), "task_description", "is missing"),
        (
            execute,
            json!({"task_description": "d"}),
            "agent_id",
            "X-Agent-Id",
        ),
        (
            execute,
            json!({"agent_id": "", "task_description": "d"}),
            "agent_id",
            "1 to 200",
        ),
        (
            execute,
            json!({"agent_id": "x".repeat(201), "task_description": "d"}),
            "agent_id",
            "201",
        ),
        (
            execute,
            json!({"agent_id": "a\nb", "task_description": "d"}),
            "agent_id",
            "control characters",
        ),
        (
            execute,
            json!({"agent_id": ["a"], "task_description": "d"}),
            "agent_id",
            "is a list",
        ),
        (
            execute,
            with("task_description", json!("")),
            "task_description",
            "1 to 100000",
        ),
        (
            execute,
            with("task_description", json!("  \n ")),
            "task_description",
            "blank",
        ),
        (
            execute,
            with("task_description", json!("x".repeat(100_001))),
            "task_description",
            "100001",
        ),
        (
            execute,
            with("task_description", json!({"text": "d"})),
            "task_description",
            "is an object",
        ),
        (
            execute,
            with("task_description", json!(null)),
            "task_description",
            "is missing",
        ),
        (
            execute,
            with("task_description", json!("a\0b")),
            "task_description",
            "NUL",
        ),
        (
            execute,
            with("idempotency_key", json!("")),
            "idempotency_key",
            "1 to 200",
        ),
        (
            execute,
            with("idempotency_key", json!("k".repeat(201))),
            "idempotency_key",
            "1 to 200",
        ),
        (
            execute,
            with("timeout_ms", json!(999)),
            "timeout_ms",
            "from 1000 to 86400000",
        ),
        (
            execute,
            with("timeout_ms", json!(86_400_001)),
            "timeout_ms",
            "from 1000",
        ),
        (
            execute,
            with("timeout_ms", json!(-5)),
            "timeout_ms",
            "is -5",
        ),
        (
            execute,
            with("timeout_ms", json!(1500.5)),
            "timeout_ms",
            "is 1500.5",
        ),
        (
            execute,
            with("timeout_ms", json!("soon")),
            "timeout_ms",
            "\"soon\"",
        ),
        (
            execute,
            with("timeout_ms", json!(true)),
            "timeout_ms",
            "truth value",
        ),
        (
            execute,
            with("timeout_ms", json!(1e300)),
            "timeout_ms",
            "whole number",
        ),
        (
            execute,
            with("sync", json!("maybe")),
            "sync",
            "true or false",
        ),
        (execute, with("sync", json!(1)), "sync", "is a number"),
        (
            execute,
            with("wait_seconds", json!(46)),
            "wait_seconds",
            "from 0 to 45",
        ),
        (
            execute,
            with("wait_seconds", json!(-1)),
            "wait_seconds",
            "from 0 to 45",
        ),
        (
            execute,
            with("model", json!("gpt")),
            "model",
            "provider/model",
        ),
        (
            execute,
            with("model", json!("/gpt-5")),
            "model",
            "provider/model",
        ),
        (
            execute,
            with("model", json!("open ai/gpt-5")),
            "model",
            "provider/model",
        ),
        (execute, with("agent", json!("")), "agent", "1 to 100"),
        (execute, with("engine", json!("")), "engine", "1 to 64"),
        (
            execute,
            with("priority", json!("urgent")),
            "priority",
            "low, normal, high",
        ),
        (
            execute,
            with("priority", json!("hihg")),
            "priority",
            "did you mean \"high\"",
        ),
        (execute, with("labels", json!({"a": 1})), "labels", "a list"),
        (
            execute,
            with("labels", json!(["x".repeat(65)])),
            "labels",
            "entry 0 has 65",
        ),
        (execute, with("labels", json!([""])), "labels", "entry 0"),
        (
            execute,
            with("labels", json!([null])),
            "labels",
            "entry 0 is null",
        ),
        (
            execute,
            with("labels", json!(vec!["x"; 21])),
            "labels",
            "21 entries",
        ),
        (
            execute,
            with("observers", json!(["ann"])),
            "observers",
            "Matrix user id",
        ),
        (
            execute,
            with("observers", json!(["@ann:example.org", "@:x"])),
            "observers",
            "entry 1",
        ),
        (
            execute,
            with("repository", json!({})),
            "repository.url",
            "is missing",
        ),
        (
            execute,
            with("repository", json!("x")),
            "repository",
            "an object with url, ref",
        ),
        (
            execute,
            with("repository", json!({"url": "ftp://x/y"})),
            "repository.url",
            "https://",
        ),
        (
            execute,
            with("repository", json!({"url": "--upload-pack=id"})),
            "repository.url",
            "starts with -",
        ),
        (
            execute,
            with("repository", json!({"url": "ext::sh -c id"})),
            "repository.url",
            "https://",
        ),
        (
            execute,
            with("repository", json!({"url": "https://a:b@x/y"})),
            "repository.url",
            "credentials",
        ),
        (
            execute,
            with("repository", json!({"url": "https://x/y", "ref": "-x"})),
            "repository.ref",
            "branch",
        ),
        (
            execute,
            with("repository", json!({"url": "https://x/y", "branch": "b"})),
            "repository.branch",
            "only url, ref",
        ),
        (
            execute,
            with("directory", json!("relative/path")),
            "directory",
            "absolute path",
        ),
        (
            execute,
            with("prompt", json!("x")),
            "prompt",
            "is no argument",
        ),
        (
            execute,
            with("timeout", json!(5000)),
            "timeout",
            "timeout_ms",
        ),
        (execute, with("agentId", json!("b")), "agentId", "agent_id"),
        ("get_task_status", json!({}), "task_id", "is missing"),
        ("get_task_status", json!({"task_id": ""}), "task_id", "UUID"),
        (
            "get_task_status",
            json!({"task_id": "task-1730000000000-abc"}),
            "task_id",
            "opencode_execute_task",
        ),
        (
            "get_task_status",
            json!({"task_id": 7}),
            "task_id",
            "no task id",
        ),
        (
            "get_task_status",
            json!({"taskId": TASK}),
            "taskId",
            "task_id",
        ),
        (
            "get_task_status",
            task("wait_seconds", json!(60)),
            "wait_seconds",
            "from 0 to 45",
        ),
        (
            "get_task_status",
            task("wait_seconds", json!("a while")),
            "wait_seconds",
            "\"a while\"",
        ),
        (
            "get_task_status",
            task("since_event", json!(-1)),
            "since_event",
            "is -1",
        ),
        (
            "get_task_status",
            task("since", json!(1)),
            "since",
            "is no argument",
        ),
        (
            "send_task_message",
            json!({"task_id": TASK}),
            "message",
            "is missing",
        ),
        (
            "send_task_message",
            message("message", json!("")),
            "message",
            "1 to 20000",
        ),
        (
            "send_task_message",
            message("message", json!("x".repeat(20_001))),
            "message",
            "20001",
        ),
        (
            "send_task_message",
            message("message_type", json!("shout")),
            "message_type",
            "correction",
        ),
        (
            "send_task_message",
            message("message_type", json!("feedbak")),
            "message_type",
            "did you mean \"feedback\"",
        ),
        (
            "send_task_message",
            message("metadata", json!("x")),
            "metadata",
            "a JSON object",
        ),
        (
            "send_task_message",
            message("metadata", json!({"x": "y".repeat(10_000)})),
            "metadata",
            "at most 10000 bytes",
        ),
        (
            "send_task_control",
            json!({"task_id": TASK}),
            "control",
            "cancel, pause, resume",
        ),
        (
            "send_task_control",
            control("control", json!("kill")),
            "control",
            "cancel, pause, resume",
        ),
        (
            "send_task_control",
            control("control", json!("cancle")),
            "control",
            "did you mean \"cancel\"",
        ),
        (
            "send_task_control",
            control("reason", json!("x".repeat(2_001))),
            "reason",
            "2001",
        ),
        (
            "get_task_history",
            task("events_limit", json!(-2)),
            "events_limit",
            "from -1 to 10000",
        ),
        (
            "get_task_history",
            task("events_limit", json!(10_001)),
            "events_limit",
            "from -1 to 10000",
        ),
        (
            "get_task_history",
            task("events_offset", json!(-1)),
            "events_offset",
            "is -1",
        ),
        (
            "get_task_history",
            task("artifact", json!("everything")),
            "artifact",
            "changes.diff",
        ),
        (
            "get_task_history",
            task("artifact_limit", json!(0)),
            "artifact_limit",
            "from 1 to 200000",
        ),
        (
            "get_task_history",
            task("include_artifacts", json!("some")),
            "include_artifacts",
            "true or false",
        ),
        (
            "get_task_files",
            task("limit", json!(0)),
            "limit",
            "from 1 to 2000",
        ),
        (
            "get_task_files",
            task("path", json!(["a"])),
            "path",
            "is a list",
        ),
        (
            "read_task_file",
            json!({"task_id": TASK}),
            "file_path",
            "is missing",
        ),
        (
            "read_task_file",
            json!({"task_id": TASK, "file_path": ""}),
            "file_path",
            "1 to 4096",
        ),
        (
            "read_task_file",
            json!({"task_id": TASK, "file_path": "a", "limit": 1_000_001}),
            "limit",
            "1000000",
        ),
        (
            "read_task_file",
            json!({"task_id": TASK, "path": "a"}),
            "path",
            "is no argument",
        ),
        ("list_tasks", json!({"state": "done"}), "state", "completed"),
        (
            "list_tasks",
            json!({"state": ["running", "sleeping"]}),
            "state",
            "sleeping",
        ),
        (
            "list_tasks",
            json!({"created_after": "yesterday"}),
            "created_after",
            "2026-11-22T16:00:00Z",
        ),
        (
            "list_tasks",
            json!({"created_before": -1}),
            "created_before",
            "milliseconds",
        ),
        (
            "list_tasks",
            json!({"limit": 201}),
            "limit",
            "from 1 to 200",
        ),
        ("list_tasks", json!({"label": ""}), "label", "1 to 64"),
        ("ping", json!({"loud": true}), "loud", "no arguments at all"),
        (
            "health",
            json!({"verbose": true}),
            "verbose",
            "no arguments at all",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_name_the_field_and_what_is_allowed() {
    let server = Server::start().await;
    let client = server.client().await;
    let wrong = wrong();
    assert!(wrong.len() > 80, "{}", wrong.len());
    for (tool, arguments, field, says) in wrong {
        let shown: String = arguments.to_string().chars().take(120).collect();
        let refusal = client.refused(tool, arguments).await;
        assert_eq!(
            refusal["code"], "INVALID_ARGUMENT",
            "{tool} {shown}: {refusal}"
        );
        let text = refusal["error"].as_str().unwrap();
        assert!(
            text.contains(field) && text.contains(says),
            "{tool} {shown}: {text}"
        );
        let named = refusal["fields"].as_array().unwrap();
        assert!(
            named.iter().any(|f| f["field"] == field),
            "{tool} {shown}: {named:?}"
        );
        assert!(refusal["next"].as_str().unwrap().contains(tool));
    }
    let list = client.ok("list_tasks", json!({})).await;
    assert_eq!(list["count"], 0, "a refused call did something");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_argument_is_reported_at_once() {
    let server = Server::start().await;
    let refusal = server
        .client()
        .await
        .refused(
            "get_task_status",
            json!({"wait_seconds": 90, "since_event": "x", "tsak_id": TASK}),
        )
        .await;
    let fields: Vec<&str> = refusal["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| field["field"].as_str().unwrap())
        .collect();
    assert_eq!(
        fields,
        ["task_id", "wait_seconds", "since_event", "tsak_id"]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sloppy_but_clear_values_are_taken() {
    let server = Server::start().await;
    let client = server.client().await;
    let accepted = client
        .ok(
            "opencode_execute_task",
            json!({"agent_id": 42, "task_description": "d", "timeout_ms": "60000", "sync": "true",
                "wait_seconds": 10.0, "labels": "one", "observers": "[\"@ann:example.org\"]",
                "priority": "High", "idempotency_key": null, "repository": "{\"url\":\"https://example.org/a\"}"}),
        )
        .await;
    assert_eq!(accepted["status"], "completed");
    let status = client
        .ok(
            "get_task_status",
            json!({"task_id": format!(" {} ", accepted["task_id"].as_str().unwrap())}),
        )
        .await;
    assert_eq!(status["timeout_ms"], 60_000);
    assert_eq!(status["agent_id"], "42");
    assert_eq!(status["labels"], json!(["one"]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_are_no_object_are_read_or_refused() {
    let server = Server::start().await;
    for client in [
        server.client().await,
        super::client::Client::stateless(&server.url),
    ] {
        let text = json!({"name": "list_tasks", "arguments": "{\"limit\": 1}"});
        let said = client.ask("tools/call", text).await;
        assert_eq!(said["result"]["structuredContent"]["count"], 0, "{said}");
        let list = json!({"name": "list_tasks", "arguments": [1]});
        let said = client.ask("tools/call", list).await;
        assert_eq!(said["result"]["isError"], true, "{said}");
        assert!(said.to_string().contains("is no JSON object"), "{said}");
        for tool in ["ping", "health"] {
            let said = client.ask("tools/call", json!({"name": tool})).await;
            assert_eq!(said["result"]["isError"], false, "{said}");
        }
        let said = client
            .ask("tools/call", json!({"name": "get_task_statsu"}))
            .await;
        assert_eq!(said["error"]["code"], -32602, "{said}");
        assert!(said.to_string().contains("get_task_status"), "{said}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_tree_refuses_is_told_in_its_words() {
    let server = Server::start().await;
    let client = server.client().await;
    let refusal = client
        .refused("get_task_status", json!({"task_id": TASK}))
        .await;
    assert_eq!(refusal["code"], "TASK_NOT_FOUND");
    assert!(refusal["error"].as_str().unwrap().contains("list_tasks"));
    let refusal = client
        .refused(
            "opencode_execute_task",
            json!({"agent_id": "a", "task_description": "d", "engine": "moon"}),
        )
        .await;
    assert_eq!(refusal["code"], "NO_SUCH_ENGINE");
    assert!(refusal["error"].as_str().unwrap().contains("local"));
    let task = client.task_in("d", "completed").await;
    let refusal = client
        .refused(
            "read_task_file",
            json!({"task_id": task, "file_path": "../../etc/passwd"}),
        )
        .await;
    assert_eq!(refusal["code"], "FILE");
    server.stop().await;
}
