//! `chargehand run` against a scripted server: what is asked for, what is shown, how it ends.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Stdio;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::cli_support::{Server, TASK, command, rpc};

/// When the task of the fixtures was made.
const START: i64 = 1_790_000_000_000;

fn event(number: u64, event: &str, message: &str) -> Value {
    json!({"number": number, "event": event, "type": "task_progress", "message": message,
           "timestamp": START + i64::try_from(number).unwrap() * 1_000})
}

fn status(phase: &str, status: &str, events: &[Value]) -> Value {
    let next = events
        .last()
        .map_or(0, |event| event["number"].as_u64().unwrap());
    json!({"task_id": TASK, "status": status, "phase": phase, "doing": "Works.",
           "created_at": START, "steps": 2, "usage": {"input": 900, "output": 80},
           "recent_events": events, "next_event": next, "requests": []})
}

async fn with_task() -> Server {
    let server = Server::start().await;
    server.tool(
        "opencode_execute_task",
        json!({"task_id": TASK, "status": "queued", "phase": "queued"}),
    );
    server
}

#[tokio::test]
async fn progress_is_told_and_the_result_comes_with_its_diff() {
    let server = with_task().await;
    server.tool(
        "get_task_status",
        status(
            "running",
            "running",
            &[
                event(1, "task_accepted", "Accepted from cli."),
                event(2, "prompt_wanted", "too small a step to be shown"),
                event(
                    3,
                    "tools_finished",
                    "Tools: read: a; bash: b; edit: c; and 2 more.",
                ),
            ],
        ),
    );
    let mut last = status(
        "completed",
        "completed",
        &[
            event(3, "tools_finished", "shown before"),
            event(4, "task_completed", "Completed after 3.0 s."),
        ],
    );
    last["duration_ms"] = json!(3_000);
    last["output"] = json!("Mended.");
    last["changes"] = json!({"files_total": 1, "additions": 1, "deletions": 1,
        "files": [{"path": "a.txt", "change": "modified", "additions": 1, "deletions": 1}]});
    server.tool("get_task_status", last);
    server.json(
        &format!("GET /debug/tasks/{TASK}/patch"),
        json!({"offset": 0, "text": "@@ -1 +1 @@\n-a\n+b\n", "next_offset": 18, "total": 18}),
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let ended = server
        .run(&[
            "run",
            "Mend it",
            "--dir",
            path.to_str().unwrap(),
            "--model",
            "p/m",
            "--engine",
            "local",
            "--timeout",
            "1h30m",
            "--label",
            "a",
            "--label",
            "b",
            "--priority",
            "high",
            "--key",
            "k1",
        ])
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let progress = ended.err.replace(&server.url(), "URL");
    insta::assert_snapshot!(progress);
    insta::assert_snapshot!(ended.out);
    assert_eq!(
        server.calls("opencode_execute_task"),
        [
            json!({"agent_id": "cli", "task_description": "Mend it", "directory": path,
                "model": "p/m", "engine": "local", "timeout_ms": 5_400_000, "labels": ["a", "b"],
                "priority": "high", "idempotency_key": "k1"})
        ]
    );
    let asked: Vec<Value> = server
        .calls("get_task_status")
        .iter()
        .map(|call| call["since_event"].clone())
        .collect();
    assert_eq!(asked, [json!(0), json!(3)], "the cursor moves on");
}

#[tokio::test]
async fn the_exit_code_says_how_the_task_ended() {
    for (word, code) in [("failed", 1), ("timeout", 4), ("cancelled", 4)] {
        let server = with_task().await;
        let mut last = status(word, word, &[]);
        last["error"] = json!("the reason");
        server.tool("get_task_status", last);
        let ended = server.run(&["run", "x"]).await;
        assert_eq!(ended.code, Some(code), "{word}: {ended:?}");
        assert!(ended.out.contains("the reason"), "{word}: {}", ended.out);
    }
}

#[tokio::test]
async fn a_repository_on_this_machine_becomes_a_file_url() {
    let server = with_task().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let repo = path.to_str().unwrap();
    let ended = server
        .run(&["run", "x", "--repo", repo, "--ref", "main", "--no-watch"])
        .await;
    assert_eq!(ended.out, format!("{TASK}\n"));
    assert_eq!(
        server.calls("opencode_execute_task")[0]["repository"],
        json!({"url": format!("file://{repo}"), "ref": "main"})
    );
}

#[tokio::test]
async fn a_running_server_keeps_its_own_environment() {
    let server = with_task().await;
    let ended = server.run(&["run", "x", "--pass-env", "HOME"]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("--own-server"), "{}", ended.err);
    assert!(server.calls("opencode_execute_task").is_empty());
}

#[tokio::test]
async fn a_running_server_keeps_its_own_settings() {
    let server = with_task().await;
    for (flag, value) in [
        ("--set", "tasks.max_running=1"),
        ("--config", "other.toml"),
        ("--data-dir", "/other"),
    ] {
        let ended = server.run(&["run", "x", flag, value]).await;
        assert_eq!(ended.code, Some(2), "{flag}: {ended:?}");
        let told = ended.err.contains(flag) && ended.err.contains("--own-server");
        assert!(told, "{}", ended.err);
    }
    assert!(server.calls("opencode_execute_task").is_empty());
}

#[tokio::test]
async fn a_refused_task_is_told_in_the_servers_words() {
    let server = Server::start().await;
    server.tool_error(
        "opencode_execute_task",
        "the queue is full (100 tasks wait)",
    );
    let ended = server.run(&["run", "x"]).await;
    assert_eq!(ended.code, Some(5));
    assert_eq!(ended.err, "error: the queue is full (100 tasks wait)\n");
}

#[tokio::test]
async fn a_server_that_is_restarted_is_asked_again() {
    let server = with_task().await;
    // The connection breaks in the middle of the answer.
    server.answer("get_task_status", |_| {
        ([("content-length", "100")], "{").into_response()
    });
    server.tool("get_task_status", status("completed", "completed", &[]));
    let ended = server.run(&["run", "x"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("asking again"), "{}", ended.err);
}

#[tokio::test]
async fn a_refusal_that_passes_does_not_end_the_watch() {
    let server = with_task().await;
    for code in ["RATE_LIMITED", "UNAVAILABLE", "NO_ANSWER_YET"] {
        server.answer("get_task_status", move |seen| {
            let text = json!({"error": "not now", "code": code, "retry_after_s": 1}).to_string();
            let result = json!({"isError": true, "content": [{"type": "text", "text": text}]});
            rpc(seen, "result", result)
        });
    }
    server.tool("get_task_status", status("completed", "completed", &[]));
    let ended = server.run(&["run", "x"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.err.contains("not now; asking again"), "{}", ended.err);
}

/// Starts `run`, waits for its first line, sends SIGINT `times` times; the exit code.
async fn interrupted(server: &Server, times: usize) -> Option<i32> {
    let url = server.url();
    let mut child = command(&["--server", &url, "run", "x"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await;
        line.unwrap().unwrap().unwrap_or_default()
    };
    while !next().await.contains("begun") {}
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    for sent in 0..times {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        if sent == 0 {
            while !next().await.contains("cancelled") {}
        }
    }
    let ended = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    ended.unwrap().unwrap().code()
}

fn begun(server: &Server) {
    let first = status(
        "running",
        "running",
        &[event(1, "attempt_started", "begun")],
    );
    server.tool("get_task_status", first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ctrl_c_cancels_the_task_and_waits_for_its_end() {
    let server = with_task().await;
    begun(&server);
    // The second question is answered when the task was cancelled, as the real server does.
    let cancelled = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let seen = std::sync::Arc::clone(&cancelled);
    server.answer("get_task_status", move |request| {
        let until = std::time::Instant::now() + Duration::from_secs(10);
        tokio::task::block_in_place(|| {
            while seen.available_permits() == 0 && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let content = status("cancelled", "cancelled", &[]);
        rpc(
            request,
            "result",
            json!({"content": [], "structuredContent": content}),
        )
    });
    server.answer("send_task_control", move |request| {
        cancelled.add_permits(1);
        let content = json!({"phase": "cancelled"});
        rpc(
            request,
            "result",
            json!({"content": [], "structuredContent": content}),
        )
    });
    assert_eq!(interrupted(&server, 1).await, Some(4));
    let calls = server.calls("send_task_control");
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0]["control"], "cancel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_ctrl_c_leaves_at_once() {
    let server = with_task().await;
    begun(&server);
    server.answer("get_task_status", |request| {
        // Never news again: the answer comes after the test's patience for the exit.
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_secs(2)));
        let content = status("running", "running", &[]);
        rpc(
            request,
            "result",
            json!({"content": [], "structuredContent": content}),
        )
    });
    server.answer("send_task_control", |_| {
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_secs(2)));
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    });
    assert_eq!(interrupted(&server, 2).await, Some(130));
}
