//! Exit codes and messages when the server is not there, not ours, or says no.
#![expect(clippy::unwrap_used, reason = "tests")]

use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::json;

use crate::cli_support::{Server, TASK, chargehand};

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn no_server_is_3_and_says_how_to_start_one() {
    let url = nobody().await;
    for args in [
        &["tasks"][..],
        &["show", TASK],
        &["tree"],
        &["health"],
        &["run", "x"],
    ] {
        let mut all = vec!["--server", &url];
        all.extend_from_slice(args);
        let ended = chargehand(&all, "").await;
        assert_eq!(ended.code, Some(3), "{args:?}: {ended:?}");
        assert!(
            ended.err.contains("chargehand serve"),
            "{args:?}: {}",
            ended.err
        );
        assert_eq!(ended.out, "");
    }
}

#[tokio::test]
async fn a_refused_token_is_5_and_the_token_is_not_shown() {
    let server = Server::start().await;
    server.answer("list_tasks", |_| {
        (StatusCode::UNAUTHORIZED, "no").into_response()
    });
    let ended = server.run(&["tasks", "--token", "hunter2"]).await;
    assert_eq!(ended.code, Some(5));
    assert!(ended.err.contains("CHARGEHAND_TOKEN"), "{}", ended.err);
    assert!(!ended.err.contains("hunter2"), "{}", ended.err);
    let seen = server.seen();
    assert_eq!(seen[0].header("authorization"), "Bearer hunter2");
}

#[tokio::test]
async fn a_token_may_come_from_a_file() {
    let server = Server::start().await;
    server.tool("list_tasks", json!({"tasks": []}));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from-file\n").unwrap();
    let path = file.path().to_str().unwrap();
    let ended = server.run(&["tasks", "--token-file", path]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(server.seen()[0].header("authorization"), "Bearer from-file");
}

#[tokio::test]
async fn a_refusal_of_the_tree_is_5_in_its_own_words() {
    let server = Server::start().await;
    server.tool_error(
        "send_task_control",
        "task is completed: it cannot be paused",
    );
    let ended = server.run(&["pause", TASK]).await;
    assert_eq!(ended.code, Some(5));
    assert_eq!(ended.err, "error: task is completed: it cannot be paused\n");
}

#[tokio::test]
async fn something_else_at_the_address_is_recognised() {
    let server = Server::start().await;
    server.answer("list_tasks", |_| {
        ([("content-type", "text/html")], "<html>hello</html>").into_response()
    });
    let ended = server.run(&["tasks"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.contains("not a Chargehand server"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn ids_may_be_shortened_while_they_are_unique() {
    let server = Server::start().await;
    let other = "3f2b8c1e-0000-4000-8000-00000000000b";
    let third = "7aaaaaaa-0000-4000-8000-00000000000c";
    server.tool(
        "list_tasks",
        json!({"tasks": [{"task_id": TASK}], "next_cursor": "2"}),
    );
    server.tool(
        "list_tasks",
        json!({"tasks": [{"task_id": other}, {"task_id": third}]}),
    );
    server.tool(
        "send_task_control",
        json!({"task_id": third, "control": "pause", "phase": "paused"}),
    );
    let twice = server.run(&["pause", "3f2b"]).await;
    assert_eq!(twice.code, Some(5), "{twice:?}");
    assert!(
        twice.err.contains("2 task ids begin with \"3f2b\""),
        "{}",
        twice.err
    );
    let none = server.run(&["pause", "ffff"]).await;
    assert!(
        none.err.contains("no task id begins with \"ffff\""),
        "{}",
        none.err
    );
    let one = server.run(&["pause", "7AAA", "--reason", "lunch"]).await;
    assert_eq!(one.code, Some(0), "{one:?}");
    assert_eq!(one.out, format!("{third} is paused\n"));
    assert_eq!(
        server.calls("send_task_control"),
        [json!({"task_id": third, "control": "pause", "reason": "lunch"})]
    );
}
