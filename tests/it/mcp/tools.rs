//! What the eleven tools do.

use serde_json::{Value, json};

use super::client::Client;
use super::server::Server;

/// The bare status of a task without what differs from run to run.
fn redacted(mut value: Value) -> Value {
    fn walk(name: &str, value: &mut Value) {
        let moving = name.ends_with("_at")
            || name.ends_with("_ms")
            || matches!(
                name,
                "timestamp"
                    | "since"
                    | "phase_since"
                    | "number"
                    | "next_event"
                    | "mcp_port"
                    | "content"
            );
        match value {
            Value::Number(_) if moving && name != "timeout_ms" => *value = json!("[number]"),
            Value::String(text) => {
                for word in text
                    .clone()
                    .split(|c: char| !c.is_ascii_hexdigit() && c != '-')
                {
                    if word.len() == 36 {
                        *text = text.replace(word, "[id]");
                    }
                }
                if text.starts_with("Completed after") || text.starts_with("Failed after") {
                    *text = text
                        .split_once(':')
                        .map_or_else(String::new, |(_, rest)| format!("Ended:{rest}"));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| walk(name, item)),
            Value::Object(fields) => fields
                .iter_mut()
                .for_each(|(name, value)| walk(name, value)),
            _ => {}
        }
    }
    walk("", &mut value);
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tool_list_is_as_documented() {
    let server = Server::start().await;
    let listed = server.client().await.ask("tools/list", json!({})).await;
    insta::assert_json_snapshot!("tools_list", listed["result"]["tools"]);
    let stateless = Client::stateless(&server.url)
        .ask("tools/list", json!({}))
        .await;
    assert_eq!(listed["result"]["tools"], stateless["result"]["tools"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tool_answers_a_whole_life() {
    let server = Server::start().await;
    let client = server.client().await;
    let done = client
        .ok(
            "opencode_execute_task",
            json!({"agent_id": "agent-1", "task_description": "Say the answer.", "sync": true,
                "labels": ["deep", "thought"]}),
        )
        .await;
    insta::assert_json_snapshot!("execute_sync", redacted(done.clone()));
    let task = json!({"task_id": done["task_id"]});
    for (name, tool, more) in [
        ("status_completed", "get_task_status", json!({})),
        ("files", "get_task_files", json!({"path": "/"})),
        (
            "read_file",
            "read_task_file",
            json!({"file_path": "hello.txt"}),
        ),
        (
            "read_binary_file",
            "read_task_file",
            json!({"file_path": "img/logo.png"}),
        ),
        (
            "control_after_the_end",
            "send_task_control",
            json!({"control": "cancel"}),
        ),
        (
            "message_after_the_end",
            "send_task_message",
            json!({"message": "too late"}),
        ),
    ] {
        let mut arguments = task.clone();
        for (field, value) in more.as_object().unwrap() {
            arguments[field] = value.clone();
        }
        let mut answer = client.call(tool, arguments).await.body;
        // Which observations are coalesced, and whether the clean-up is over, differs from run to run.
        if let Some(Value::Array(events)) = answer.get_mut("recent_events") {
            assert_eq!(events.len(), 5);
            events.retain(|event| event["event"] == "task_completed");
            answer["events_total"] = json!("[number]");
            answer["steps"] = json!("[number]");
        }
        insta::assert_json_snapshot!(name, redacted(answer));
    }
    for (name, tool, arguments) in [
        (
            "list",
            "list_tasks",
            json!({"state": "completed", "label": "deep"}),
        ),
        ("ping", "ping", json!({})),
        ("health", "health", json!({})),
    ] {
        insta::assert_json_snapshot!(name, redacted(client.ok(tool, arguments).await));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_pages_events_and_artifacts() {
    let server = Server::start().await;
    let client = server.client().await;
    let task = client.task_in("Say the answer.", "completed").await;
    let all = client
        .ok(
            "get_task_history",
            json!({"task_id": task, "events_limit": -1}),
        )
        .await;
    let total = all["events_total"].as_u64().unwrap();
    assert_eq!(all["events"].as_array().unwrap().len() as u64, total);
    assert_eq!(all["has_more_events"], false);
    assert!(all.get("artifacts").is_none());
    let words: Vec<&str> = all["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(words.first(), Some(&"task_accepted"));
    assert!(words.contains(&"task_completed"), "{words:?}");

    let mut paged = Vec::new();
    loop {
        let page = client
            .ok(
                "get_task_history",
                json!({"task_id": task, "events_limit": 3, "events_offset": paged.len()}),
            )
            .await;
        paged.extend(page["events"].as_array().unwrap().clone());
        if page["has_more_events"] == false {
            break;
        }
    }
    assert!(paged.len() as u64 >= total);
    assert_eq!(paged.first(), all["events"].as_array().unwrap().first());

    let full = client.artifacts_with(&task, "worker_output").await;
    insta::assert_json_snapshot!("artifacts", redacted(full["artifacts"].clone()));
    let piece = client
        .ok(
            "get_task_history",
            json!({"task_id": task, "artifact": "changes.diff", "artifact_offset": 4, "artifact_limit": 11,
                "events_limit": 0}),
        )
        .await;
    assert_eq!(piece["artifacts"][0]["content"], "a/hello.txt");
    assert_eq!(piece["artifacts"][0]["next_offset"], 15);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_the_worker_and_ends_the_task() {
    let server = Server::start().await;
    let client = server.client().await;
    let task = client.task_in("HANG until told.", "running").await;
    let sent = client
        .ok(
            "send_task_message",
            json!({"task_id": task, "message": "Stop waiting.", "message_type": "correction",
                "metadata": {"ticket": 7}}),
        )
        .await;
    assert_eq!(sent["delivery"], "sent");
    let status = client.until(&task, "completed").await;
    assert_eq!(status["messages_waiting"], 0);
    let prompts = server.engine.prompts();
    assert!(
        prompts.iter().any(|text| text.contains("Stop waiting.")),
        "{prompts:?}"
    );
    let history = client
        .ok(
            "get_task_history",
            json!({"task_id": task, "events_limit": -1}),
        )
        .await;
    let events = history["events"].as_array().unwrap();
    let received = events
        .iter()
        .find(|e| e["event"] == "message_received")
        .unwrap();
    assert_eq!(received["type"], "task_feedback");
    let taken_up = events
        .iter()
        .find(|e| e["event"] == "message_taken_up")
        .unwrap();
    assert!(
        taken_up["message"]
            .as_str()
            .unwrap()
            .contains(sent["message_id"].as_str().unwrap())
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_answers_with_the_state_reached() {
    let server = Server::start().await;
    let client = server.client().await;
    let task = client.task_in("HANG for ever.", "running").await;
    let control = async |signal: &str| {
        let arguments = json!({"task_id": task, "control": signal, "reason": "a test"});
        client.ok("send_task_control", arguments).await
    };
    let paused = control("pause").await;
    assert_eq!(
        (&paused["status"], &paused["pause"]),
        (&json!("paused"), &json!("aborted"))
    );
    let again = control("pause").await;
    assert_eq!(
        (&again["status"], &again["already"]),
        (&json!("paused"), &json!(true))
    );
    let kept = client
        .ok(
            "send_task_message",
            json!({"task_id": task, "message": "HANG on."}),
        )
        .await;
    assert_eq!(kept["delivery"], "kept");
    let resumed = control("resume").await;
    assert_eq!(resumed["status"], "running");
    let cancelled = control("cancel").await;
    assert_eq!(
        (&cancelled["status"], &cancelled["already"]),
        (&json!("cancelled"), &json!(false))
    );
    let again = control("cancel").await;
    assert_eq!(
        (&again["status"], &again["already"]),
        (&json!("cancelled"), &json!(true))
    );
    let refused = client
        .refused(
            "send_task_control",
            json!({"task_id": task, "control": "pause"}),
        )
        .await;
    assert_eq!(refused["code"], "WRONG_PHASE");
    assert_eq!(refused["phase"], "cancelled");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_says_why() {
    let server = Server::start().await;
    let client = server.client().await;
    let task = client.task_in("FAIL please.", "failed").await;
    let status = client.ok("get_task_status", json!({"task_id": task})).await;
    assert_eq!(status["exit_code"], 1);
    assert_eq!(status["error_kind"], "model");
    assert!(
        status["error"]
            .as_str()
            .unwrap()
            .contains("the key is not valid"),
        "{status}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_is_checked_per_caller() {
    let server = Server::start().await;
    let client = server.client().await;
    let execute = async |agent: &str, text: &str| {
        let arguments =
            json!({"agent_id": agent, "task_description": text, "idempotency_key": "k"});
        client.call("opencode_execute_task", arguments).await
    };
    let first = execute("a", "One.").await.body;
    let repeat = execute("a", "One.").await.body;
    assert_eq!(repeat["task_id"], first["task_id"]);
    assert_eq!(
        (&first["existing"], &repeat["existing"]),
        (&json!(false), &json!(true))
    );
    let other = execute("a", "Two.").await;
    assert!(other.refused);
    assert_eq!(other.body["code"], "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(other.body["task_id"], first["task_id"]);
    let stranger = execute("b", "One.").await.body;
    assert_ne!(stranger["task_id"], first["task_id"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_said_as_the_original_said_it() {
    let server = Server::with(|settings| {
        settings.tasks.max_running = 1;
        settings.tasks.max_queued = 1;
    })
    .await;
    let client = server.client().await;
    client.task_in("HANG one.", "running").await;
    let waiting = client
        .ok(
            "opencode_execute_task",
            json!({"agent_id": "a", "task_description": "Wait."}),
        )
        .await;
    assert_eq!(
        (&waiting["status"], &waiting["queue_position"]),
        (&json!("queued"), &json!(1))
    );
    let full = client
        .refused(
            "opencode_execute_task",
            json!({"agent_id": "a", "task_description": "Too much."}),
        )
        .await;
    assert_eq!(
        (&full["code"], &full["status"]),
        (&json!("QUEUE_FULL"), &json!(429))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_come_back_with_news_and_no_later_than_asked() {
    let server = Server::start().await;
    let client = server.client().await;
    let task = client.task_in("HANG for ever.", "running").await;
    let status = client.ok("get_task_status", json!({"task_id": task})).await;
    // Two calls: the first may still see the tail of the start.
    let mut cursor = status["next_event"].clone();
    for _ in 0..2 {
        let quiet = client
            .ok(
                "get_task_status",
                json!({"task_id": task, "wait_seconds": 1, "since_event": cursor}),
            )
            .await;
        cursor = quiet["next_event"].clone();
    }
    let other = server.client().await;
    let waits = tokio::spawn({
        let (task, cursor) = (task.clone(), cursor.clone());
        async move {
            other
                .ok(
                    "get_task_status",
                    json!({"task_id": task, "wait_seconds": 45, "since_event": cursor}),
                )
                .await
        }
    });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    client
        .ok(
            "send_task_control",
            json!({"task_id": task, "control": "cancel"}),
        )
        .await;
    let news = waits.await.unwrap();
    let first = &news["recent_events"][0];
    assert!(first["number"].as_u64() > cursor.as_u64(), "{news:#}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_the_end_hands_the_id_over() {
    let server = Server::start().await;
    let client = server.client().await;
    let handed = client
        .ok(
            "opencode_execute_task",
            json!({"agent_id": "a", "task_description": "HANG.", "sync": true, "wait_seconds": 1}),
        )
        .await;
    assert_eq!(handed["status"], "running");
    assert!(
        handed["timeout_hint"]
            .as_str()
            .unwrap()
            .contains("1 seconds"),
        "{handed}"
    );
    assert!(handed["next"].as_str().unwrap().contains("get_task_status"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_tasks_join() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut made = Vec::new();
    for number in 0..5 {
        made.push(
            client
                .task_in(&format!("Task {number}."), "completed")
                .await,
        );
    }
    let mut found = Vec::new();
    let mut arguments = json!({"limit": 2});
    loop {
        let page = client.ok("list_tasks", arguments.clone()).await;
        for task in page["tasks"].as_array().unwrap() {
            found.push(task["task_id"].as_str().unwrap().to_owned());
        }
        match page.get("next_cursor") {
            Some(cursor) => arguments["cursor"] = cursor.clone(),
            None => break,
        }
    }
    made.reverse();
    assert_eq!(found, made);
    let none = client
        .ok("list_tasks", json!({"created_before": "2020-01-01"}))
        .await;
    assert_eq!(none["count"], 0);
    let all = client
        .ok(
            "list_tasks",
            json!({"created_after": "2020-01-01T00:00:00Z"}),
        )
        .await;
    assert_eq!(all["count"], 5);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_limit_of_the_server_gives_a_file_in_pieces() {
    let server = Server::with(|settings| settings.tasks.max_read_bytes = 4).await;
    let client = server.client().await;
    let done = client
        .ok(
            "opencode_execute_task",
            json!({"agent_id": "a", "task_description": "Do.", "sync": true}),
        )
        .await;
    let asked = json!({"task_id": done["task_id"], "file_path": "hello.txt", "limit": 1_000});
    let read = client.ok("read_task_file", asked).await;
    assert_eq!(
        (&read["length"], &read["next_offset"]),
        (&json!(4), &json!(4)),
        "{read}"
    );
    server.stop().await;
}
