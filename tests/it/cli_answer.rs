//! `chargehand answer`, and how an open request is shown, against a scripted server.
#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use crate::cli_support::{Server, TASK, before};

fn permission(id: &str) -> Value {
    json!({"request_id": id, "kind": "permission", "text": "bash: git push", "permission": "bash",
        "patterns": ["git push origin"], "expires_at": before(-600_000)})
}

fn question() -> Value {
    json!({"request_id": "que_1", "kind": "question", "text": "Which colour? And size?",
        "expires_at": before(-600_000),
        "questions": [{"text": "Which colour?", "header": "Colour", "options": ["red", "blue"]},
            {"text": "Which size?", "header": "Size", "options": ["S", "L"]}]})
}

async fn with(requests: &[Value]) -> Server {
    let server = Server::start().await;
    server.tool(
        "get_task_status",
        json!({"task_id": TASK, "status": "running", "phase": "input_required", "doing": "It waits.",
            "created_at": before(1_000), "requests": requests}),
    );
    server.tool(
        "answer_task_request",
        json!({"task_id": TASK, "answer": "allow", "still_open": ["que_9"], "phase": "input_required"}),
    );
    server
}

#[tokio::test]
async fn flags_become_answers() {
    for (requests, args, expected) in [
        (
            vec![permission("per_1")],
            vec!["--allow"],
            json!({"request_id": "per_1", "answer": "allow"}),
        ),
        (
            vec![permission("per_1"), question()],
            vec!["per", "--always"],
            json!({"request_id": "per_1", "answer": "allow_always"}),
        ),
        (
            vec![permission("per_1")],
            vec!["per_1", "--deny", "Use curl."],
            json!({"request_id": "per_1", "answer": "deny", "message": "Use curl."}),
        ),
        (
            vec![permission("per_1")],
            vec!["--deny"],
            json!({"request_id": "per_1", "answer": "deny", "message": ""}),
        ),
        (
            vec![question()],
            vec!["--choose", "red", "--choose", "L"],
            json!({"request_id": "que_1", "answer": "choices", "choices": [["red"], ["L"]]}),
        ),
    ] {
        let server = with(&requests).await;
        let mut all = vec!["answer", TASK];
        all.extend(&args);
        let ended = server.run(&all).await;
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        assert!(
            ended.out.contains("another request is open"),
            "{}",
            ended.out
        );
        let mut expected = expected;
        expected["task_id"] = json!(TASK);
        assert_eq!(server.calls("answer_task_request"), [expected], "{args:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_said_before_the_server_is_asked() {
    for (requests, args, code, told) in [
        (vec![], vec!["--allow"], 5, "waits for no answer"),
        (
            vec![permission("per_1"), permission("per_2")],
            vec!["--allow"],
            5,
            "per_2  bash: git push",
        ),
        (vec![permission("per_1")], vec![], 2, "--allow"),
        (
            vec![permission("per_1")],
            vec!["--allow", "--deny", "x"],
            2,
            "cannot be used with",
        ),
    ] {
        let server = with(&requests).await;
        let mut all = vec!["answer", TASK];
        all.extend(&args);
        let ended = server.run(&all).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert!(ended.err.contains(told), "{args:?}: {}", ended.err);
        assert!(server.calls("answer_task_request").is_empty());
    }
}

#[tokio::test]
async fn show_says_what_is_asked_and_how_to_answer() {
    let server = with(&[permission("per_1"), question()]).await;
    let ended = server.run(&["show", TASK]).await;
    for text in [
        "bash: git push",
        "git push origin",
        "chargehand answer 3f2b8c1e per_1 --allow | --always | --deny TEXT (within ",
        "- blue",
        "chargehand answer 3f2b8c1e que_1 --choose ANSWER | --deny TEXT",
    ] {
        assert!(ended.out.contains(text), "{text}: {}", ended.out);
    }
}

#[tokio::test]
async fn run_hands_the_policy_over() {
    let server = Server::start().await;
    server.tool(
        "opencode_execute_task",
        json!({"task_id": TASK, "status": "queued", "phase": "queued"}),
    );
    let args = [
        "run",
        "--no-watch",
        "--attended",
        "--allow",
        "read",
        "--allow",
        "edit",
        "--ask",
        "bash:git push*",
        "--deny",
        "webfetch",
        "--max-steps",
        "40",
        "--agent-id",
        "me",
        "Do it.",
    ];
    let ended = server.run(&args).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(
        server.calls("opencode_execute_task"),
        [
            json!({"agent_id": "me", "task_description": "Do it.", "attended": true,
            "max_steps": 40, "permissions": {"allow": ["read", "edit"], "ask": ["bash:git push*"],
            "deny": ["webfetch"]}})
        ]
    );
    let agent = server.seen().last().unwrap().header("user-agent");
    assert!(agent.starts_with("chargehand-cli/"), "{agent}");
}
