//! What the reading commands print, from fixtures of a scripted server.
#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use crate::cli_support::{Server, TASK, before};

const HOUR: i64 = 3_600_000;

/// Hostile text: an escape sequence that clears the screen and a character that reverses the line.
const HOSTILE: &str = "evil\u{1b}[2J\u{202e}text";

#[tokio::test]
async fn tasks_are_a_table_and_pages_are_joined() {
    let server = Server::start().await;
    server.tool(
        "list_tasks",
        json!({"next_cursor": "c2", "tasks": [{
            "task_id": TASK, "phase": "running", "description": format!("Mend {HOSTILE}"),
            "agent_id": "agent-1", "created_at": before(2 * HOUR)}]}),
    );
    server.tool(
        "list_tasks",
        json!({"tasks": [{
            "task_id": "7aaaaaaa-0000-4000-8000-00000000000c", "phase": "completed",
            "description": "Write\nthe docs", "agent_id": "cli", "created_at": before(25 * HOUR),
            "started_at": before(25 * HOUR), "completed_at": before(25 * HOUR) + 83_000}]}),
    );
    let args = ["tasks", "--state", "running", "--label", "x", "-n", "50"];
    let ended = server.run(&args).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    insta::assert_snapshot!(ended.out);
    assert_eq!(
        server.calls("list_tasks"),
        [
            json!({"limit": 50, "state": ["running"], "label": "x"}),
            json!({"limit": 50, "state": ["running"], "label": "x", "cursor": "c2"}),
        ]
    );
}

#[tokio::test]
async fn json_is_what_the_server_said() {
    let server = Server::start().await;
    let status = json!({"task_id": TASK, "phase": "running", "odd": [1, 2.5]});
    server.tool("get_task_status", status.clone());
    let ended = server.run(&["show", TASK, "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap(), status);
}

#[tokio::test]
async fn show_tells_everything_but_the_diff() {
    let server = Server::start().await;
    server.tool(
        "get_task_status",
        json!({
            "task_id": TASK, "status": "completed", "phase": "completed", "doing": "Completed.",
            "engine": "local", "agent_id": "planner", "attempt": 2, "steps": 7,
            "created_at": before(3 * HOUR), "duration_ms": 61_500, "directory": "/data/w",
            "usage": {"input": 12_345, "output": 400, "reasoning": 20, "cache_read": 1_000,
                      "cache_write": 0, "cost": 0.0321},
            "recent_events": [
                {"number": 41, "event": "tools_finished", "timestamp": before(2 * HOUR),
                 "message": "Tools: bash: sh test.sh."},
                {"number": 44, "event": "task_completed", "timestamp": before(2 * HOUR),
                 "message": format!("Completed {HOSTILE}")}],
            "output": format!("All done.\n{HOSTILE}"),
            "changes": {"files_total": 3, "additions": 10, "deletions": 2, "left_out": 1,
                "branch": "chargehand/3f2b", "patch_file": "/data/changes.patch",
                "files": [
                    {"path": "src/a.rs", "change": "modified", "additions": 9, "deletions": 1},
                    {"path": "CHANGES.md", "change": "added", "additions": 1, "deletions": 0}]},
        }),
    );
    let ended = server.run(&["show", TASK]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    insta::assert_snapshot!(ended.out);
}

#[tokio::test]
async fn the_tree_is_drawn_with_its_branches() {
    let server = Server::start().await;
    let actor = |kind: &str, label: &str, phase: &str, ago: i64, children: Value| {
        json!({"id": 1, "kind": kind, "label": label, "phase": phase, "since": before(ago),
               "restarts": 0, "waiting": 0, "last_event": 0, "jobs": [], "children": children})
    };
    let mut task = actor("task", TASK, "running", 2 * HOUR, json!([]));
    task["restarts"] = json!(2);
    task["last_restart"] = json!(format!("panicked: {HOSTILE}"));
    task["waiting"] = json!(64);
    task["jobs"] = json!([{"name": "prepare workdir", "since": before(2 * HOUR)}]);
    let queued = actor("task", "7aaa", "queued", 26 * HOUR, json!([]));
    let engine = actor("engine", "local", "ready", 3 * HOUR, json!([]));
    let engines = actor("engines", "engines", "ready", 3 * HOUR, json!([engine]));
    let tasks = actor("tasks", "tasks", "ready", 3 * HOUR, json!([task, queued]));
    let sync = actor("workspace_sync", "", "ready", 3 * HOUR, json!([]));
    let root = actor(
        "root",
        "root",
        "ready",
        3 * HOUR,
        json!([engines, sync, tasks]),
    );
    server.json(
        "GET /debug/tree",
        json!({"now": before(0), "version": "0", "actors": 7, "tree": [root]}),
    );
    let ended = server.run(&["tree"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    insta::assert_snapshot!(ended.out);
}

#[tokio::test]
async fn health_names_the_parts_and_its_exit_code_tells_whether_tasks_are_taken() {
    let server = Server::start().await;
    let health = |accepts: bool| {
        json!({"status": "degraded", "metrics": {"can_accept_task": accepts}, "parts": [
            {"name": "journal", "state": "ok", "since": before(2 * HOUR), "detail": "SQLite"},
            {"name": "engine local", "state": "down", "since": before(HOUR),
             "detail": "opencode ended with code 1"}]})
    };
    server.tool("health", health(true));
    server.tool("health", health(false));
    let ended = server.run(&["health"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    insta::assert_snapshot!(ended.out);
    assert_eq!(server.run(&["health"]).await.code, Some(1));
}

#[tokio::test]
async fn files_show_what_was_changed() {
    let server = Server::start().await;
    server.tool(
        "get_task_files",
        json!({"total": 3, "entries": [
            {"path": "README.md", "kind": "file", "size": 1_500},
            {"path": format!("src/{HOSTILE}"), "kind": "file", "size": 12, "change": "added"}]}),
    );
    server.tool(
        "get_task_files",
        json!({"total": 3, "entries": [
            {"path": "src/old.rs", "kind": "file", "size": 0, "change": "deleted"}]}),
    );
    let ended = server.run(&["files", TASK, "--changed"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    insta::assert_snapshot!(ended.out);
    assert_eq!(server.calls("get_task_files")[1]["offset"], 2);
}

#[tokio::test]
async fn a_file_is_printed_whole_and_exactly() {
    let server = Server::start().await;
    server.tool(
        "read_task_file",
        json!({"content": "aGVsbG8g", "encoding": "base64", "next_offset": 6}),
    );
    server.tool(
        "read_task_file",
        json!({"content": "wörld\u{1b}\n", "encoding": "utf-8"}),
    );
    let ended = server.run(&["cat", TASK, "a.txt"]).await;
    assert_eq!(
        ended.out, "hello wörld\u{1b}\n",
        "a pipe gets the bytes as they are"
    );
    assert_eq!(server.calls("read_task_file")[1]["offset"], 6);
}

const DIFF: &str = "\
diff --git a/a.txt b/a.txt
index 1..2 100644
--- a/a.txt
+++ b/a.txt
@@ -1,3 +1,3 @@
 same
--- dashes
+++ pluses\u{1b}[31m
 end
\\ No newline at end of file
";

#[tokio::test]
async fn a_diff_is_exact_on_a_pipe_and_coloured_for_a_person() {
    let server = Server::start().await;
    let (first, rest) = DIFF.split_at(40);
    let path = format!("GET /debug/tasks/{TASK}/patch");
    let piece = |text: &str, next: usize| json!({"offset": next - text.len(), "text": text, "next_offset": next, "total": DIFF.len()});
    server.json(&format!("{path}?offset=0&limit=65536"), piece(first, 40));
    server.json(
        &format!("{path}?offset=40&limit=65536"),
        piece(rest, DIFF.len()),
    );
    let piped = server.run(&["diff", TASK]).await;
    assert_eq!(piped.out, DIFF, "{piped:?}");
    let coloured = server.run(&["diff", TASK, "--color", "always"]).await;
    insta::assert_snapshot!(coloured.out.replace('\u{1b}', "^"));
}

#[tokio::test]
async fn logs_follow_to_the_end_and_miss_nothing() {
    let server = Server::start().await;
    let path = format!("GET /debug/tasks/{TASK}/output");
    let piece = |offset: u64, text: &str, total: u64| json!({"offset": offset, "text": text, "next_offset": offset + text.len() as u64, "total": total});
    server.json(
        &format!("{path}?offset=0&limit=65536"),
        piece(0, "one\n", 4),
    );
    server.json(&format!("{path}?offset=4&limit=65536"), piece(4, "", 4));
    server.json(
        &format!("{path}?offset=4&limit=65536"),
        piece(4, "two\n", 8),
    );
    server.json(&format!("{path}?offset=8&limit=65536"), piece(8, "", 8));
    server.tool(
        "get_task_status",
        json!({"task_id": TASK, "status": "running"}),
    );
    server.tool(
        "get_task_status",
        json!({"task_id": TASK, "status": "completed"}),
    );
    let ended = server.run(&["logs", TASK, "--follow"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(
        ended.out, "one\ntwo\n",
        "what came with the end is printed too"
    );
}
