//! Messages, controls and reads to tasks that are in the wrong state for them: refused with the state and what to do, and the
//! task stays where it is.

use serde_json::{Value, json};

use super::bystander::{Bystander, server, settled};
use crate::mcp::client::Client;

/// Tool, arguments besides the task.
type Sent = (&'static str, Value);

fn control(word: &str) -> Sent {
    ("send_task_control", json!({"control": word}))
}

fn message() -> Sent {
    ("send_task_message", json!({"message": "Something new."}))
}

/// Every event of a task, and its state.
async fn known(client: &Client, task: &str) -> Value {
    let history = client
        .ok(
            "get_task_history",
            json!({"task_id": task, "events_limit": -1}),
        )
        .await;
    json!([history["phase"], history["events"]])
}

async fn refused(
    client: &Client,
    task: &str,
    (tool, mut arguments): Sent,
    phase: &str,
    says: &str,
) {
    let before = known(client, task).await;
    arguments["task_id"] = json!(task);
    let refusal = client.refused(tool, arguments).await;
    let error = refusal["error"].as_str().unwrap();
    assert_eq!(
        refusal["code"], "WRONG_PHASE",
        "{tool} when {phase}: {error}"
    );
    assert_eq!(refusal["phase"], phase, "{tool}: {error}");
    assert!(
        error.contains(says) && error.contains(task),
        "{tool} when {phase}: {error}"
    );
    assert_eq!(
        known(client, task).await,
        before,
        "{tool} when {phase} did something"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tasks_state_does_not_allow_is_refused_with_the_state_and_what_to_do() {
    let server = server(|settings| settings.tasks.max_running = 4).await;
    let bystander = Bystander::at(&server).await;
    let client = bystander.client();
    let completed = client.task_in("Done soon.", "completed").await;
    let failed = client.task_in("FAIL please.", "failed").await;
    let cancelled = client.task_in("HANG on.", "running").await;
    client
        .ok(
            "send_task_control",
            json!({"task_id": cancelled, "control": "cancel"}),
        )
        .await;
    for (task, phase) in [
        (&completed, "completed"),
        (&failed, "failed"),
        (&cancelled, "cancelled"),
    ] {
        refused(client, task, control("pause"), phase, "cannot be paused").await;
        refused(client, task, control("resume"), phase, "submit a new task").await;
        refused(client, task, message(), phase, "").await;
    }
    for (task, phase) in [(&completed, "completed"), (&failed, "failed")] {
        refused(client, task, control("cancel"), phase, "").await;
    }
    let again = client
        .ok(
            "send_task_control",
            json!({"task_id": cancelled, "control": "cancel"}),
        )
        .await;
    assert_eq!(again["already"], true, "a repeated cancel is no error");

    let running = client.task_in("HANG there.", "running").await;
    settled(client, &running).await;
    refused(
        client,
        &running,
        control("resume"),
        "running",
        "only a paused task can be resumed",
    )
    .await;
    let paused = client.task_in("HANG, then pause.", "running").await;
    client
        .ok(
            "send_task_control",
            json!({"task_id": paused, "control": "pause"}),
        )
        .await;
    let again = client
        .ok(
            "send_task_control",
            json!({"task_id": paused, "control": "pause"}),
        )
        .await;
    assert_eq!(
        (again["phase"].as_str(), again["already"].as_bool()),
        (Some("paused"), Some(true))
    );
    let kept = client
        .ok(
            "send_task_message",
            json!({"task_id": paused, "message": "Later."}),
        )
        .await;
    assert_eq!(kept["delivery"], "kept");
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_task_takes_what_it_can_and_says_what_it_cannot() {
    let server = server(|settings| {
        settings.tasks.max_running = 1;
        settings.tasks.max_queued = 2;
    })
    .await;
    let bystander = Bystander::at(&server).await;
    let client = bystander.client();
    let queued = client.task_in("Waits.", "queued").await;
    refused(
        client,
        &queued,
        control("resume"),
        "queued",
        "only a paused task can be resumed",
    )
    .await;
    for (tool, arguments) in [
        ("get_task_files", json!({})),
        ("read_task_file", json!({"file_path": "a"})),
    ] {
        refused(client, &queued, (tool, arguments), "queued", "").await;
    }
    let kept = client
        .ok(
            "send_task_message",
            json!({"task_id": queued, "message": "Before you begin."}),
        )
        .await;
    assert_eq!(kept["delivery"], "kept");
    client.task_in("Waits too.", "queued").await;
    let list = client.ok("list_tasks", json!({})).await;
    let third = json!({"agent_id": "agent-1", "task_description": "One too many."});
    let refusal = client.refused("opencode_execute_task", third).await;
    assert_eq!(
        (refusal["code"].as_str(), refusal["status"].as_u64()),
        (Some("QUEUE_FULL"), Some(429))
    );
    assert!(
        refusal["error"]
            .as_str()
            .unwrap()
            .contains("try again when a task has ended"),
        "{refusal}"
    );
    assert_eq!(
        client.ok("list_tasks", json!({})).await,
        list,
        "a refused task was kept"
    );
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tasks_of_another_caller_are_not_there() {
    use crate::mcp::server::{Server, token};
    use chargehand::config::TokenRole;
    let server = Server::with(|settings| {
        settings.auth.tokens = vec![
            token("ann", "ann-0123456789abcdef", TokenRole::Caller),
            token("bob", "bob-0123456789abcdef", TokenRole::Caller),
        ];
    })
    .await;
    let as_ = |token: &str| {
        Client::stateless(&server.url).header("Authorization", format!("Bearer {token}"))
    };
    let bystander = Bystander::with(as_("ann-0123456789abcdef")).await;
    let bob = as_("bob-0123456789abcdef");
    let unknown = "5b8f0b0e-6f0c-4a0e-9d7c-2b1a3c4d5e6f";
    for (tool, arguments) in [
        ("get_task_status", json!({})),
        ("get_task_status", json!({"wait_seconds": 45})),
        ("get_task_history", json!({"include_artifacts": true})),
        ("get_task_files", json!({})),
        ("read_task_file", json!({"file_path": "a"})),
        message(),
        control("cancel"),
        control("pause"),
        control("resume"),
    ] {
        let ask = |task: &str| {
            let mut arguments = arguments.clone();
            arguments["task_id"] = json!(task);
            arguments
        };
        let hers = bob.refused(tool, ask(bystander.task())).await;
        let nobodys = bob.refused(tool, ask(unknown)).await;
        assert_eq!(hers["code"], "TASK_NOT_FOUND", "{tool}: {hers}");
        // Word for word the same as for a task that does not exist: nothing is given away.
        let hidden = hers.to_string().replace(bystander.task(), unknown);
        assert_eq!(hidden, nobodys.to_string(), "{tool}");
        bystander.unchanged(tool).await;
    }
    // A key of hers is not his: his task is a new one.
    let keyed =
        json!({"agent_id": "agent-1", "task_description": "With a key.", "idempotency_key": "k"});
    let mine = bob.ok("opencode_execute_task", keyed.clone()).await;
    let hers = bystander.client().ok("opencode_execute_task", keyed).await;
    assert_eq!(
        (mine["existing"].as_bool(), hers["existing"].as_bool()),
        (Some(false), Some(false))
    );
    assert_ne!(mine["task_id"], hers["task_id"]);
    bystander.goes_on().await;
    server.stop().await;
}
