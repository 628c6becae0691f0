//! Wrong arguments: each is refused by name, with what is allowed, and nothing is done.

use serde_json::json;

use super::server::Server;
use super::wrong_calls::{TASK, wrong_calls};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_name_the_field_and_what_is_allowed() {
    let server = Server::start().await;
    let client = server.client().await;
    let wrong = wrong_calls();
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
