//! Permissions and questions of a worker: how they are shown, how they are answered, what is refused.

use chargehand_actors::fakes::World;
use serde_json::{Value, json};

use super::client::Client;
use super::server::Server;

const ANSWER: &str = "answer_task_request";

/// An attended task whose worker follows `script`, in `input_required`; answers its id and its status.
async fn asking(client: &Client, script: &str) -> (String, Value) {
    let arguments = json!({"agent_id": "agent-1", "attended": true,
        "task_description": format!("script: {script}; finish stop")});
    let accepted = client.ok("opencode_execute_task", arguments).await;
    let task = accepted["task_id"].as_str().unwrap().to_owned();
    let status = client.until(&task, "input_required").await;
    (task, status)
}

fn to(task: &str, request: &Value, answer: &str) -> Value {
    json!({"task_id": task, "request_id": request["request_id"], "answer": answer})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_is_shown_in_full_and_allowed() {
    let world = World::new(1);
    let server = Server::on_fakes(&world).await;
    let client = server.client().await;
    let (task, status) = asking(&client, "ask bash").await;
    let request = &status["requests"][0];
    assert_eq!(request["kind"], "permission");
    assert_eq!(request["permission"], "bash");
    assert!(request["patterns"].is_array(), "{request}");
    assert_eq!(request["answers"], json!(["allow", "allow_always", "deny"]));
    assert_eq!(
        request["who_may_answer"],
        "the task's caller, operators, and people in its room who may steer"
    );
    assert_eq!(request["default"]["answer"], "deny");
    assert!(!request["default"]["message"].as_str().unwrap().is_empty());
    let waits = request["expires_at"].as_i64().unwrap() - request["asked_at"].as_i64().unwrap();
    assert!(waits > 0, "{request}");
    let next = status["next"].as_str().unwrap();
    assert!(next.contains(ANSWER), "{next}");
    let listed = client
        .ok("list_tasks", json!({"state": "input_required"}))
        .await;
    assert_eq!(&listed["tasks"][0]["requests"][0], request);

    let answered = client.ok(ANSWER, to(&task, request, "allow")).await;
    assert_eq!(answered["answer"], "allow");
    assert_eq!(answered["still_open"], json!([]));
    let done = client.until(&task, "completed").await;
    assert_eq!(done["requests"], json!([]));
    let history = client
        .ok(
            "get_task_history",
            json!({"task_id": task, "events_limit": -1}),
        )
        .await;
    let event = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["event"] == "answer_wanted")
        .unwrap();
    assert_eq!(event["by"], "local");
    assert_eq!(event["from"], "mcp 127.0.0.1");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_always_says_something() {
    let world = World::new(2);
    let server = Server::on_fakes(&world).await;
    let client = server.client().await;
    for (message, told) in [
        (json!("Use curl instead."), "Use curl instead."),
        (json!("  "), "Do without it"),
        (Value::Null, "Do without it"),
    ] {
        let (task, status) = asking(&client, "ask bash").await;
        let mut arguments = to(&task, &status["requests"][0], "deny");
        arguments["message"] = message;
        client.ok(ANSWER, arguments).await;
        let history = client
            .ok(
                "get_task_history",
                json!({"task_id": task, "events_limit": -1}),
            )
            .await;
        let event = history["events"]
            .as_array()
            .unwrap()
            .iter()
            .find(|event| event["event"] == "answer_wanted")
            .unwrap();
        let said = event["message"].as_str().unwrap();
        assert!(said.contains(told), "{said}");
        client.until(&task, "completed").await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_takes_choices_in_any_clear_form() {
    let world = World::new(3);
    let server = Server::on_fakes(&world).await;
    let client = server.client().await;
    for choices in [
        json!([["yes"]]),
        json!(["yes"]),
        json!("yes"),
        json!("[[\"yes\"]]"),
    ] {
        let (task, status) = asking(&client, "question").await;
        let request = &status["requests"][0];
        assert_eq!(request["kind"], "question");
        assert!(
            !request["questions"][0]["options"]
                .as_array()
                .unwrap()
                .is_empty()
        );
        let mut arguments = to(&task, request, "choices");
        arguments["choices"] = choices;
        let answered = client.ok(ANSWER, arguments).await;
        assert_eq!(answered["answer"], "choices");
        client.until(&task, "completed").await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_fit_is_told_what_would() {
    let world = World::new(4);
    let server = Server::on_fakes(&world).await;
    let client = server.client().await;
    let (permission, status) = asking(&client, "ask bash").await;
    let asked = &status["requests"][0];
    let (question, status) = asking(&client, "question").await;
    let chosen = &status["requests"][0];

    let mut wrong = to(&permission, asked, "choices");
    wrong["choices"] = json!([["yes"]]);
    let refused = client.refused(ANSWER, wrong).await;
    assert_eq!(refused["code"], "BAD_ANSWER");
    assert_eq!(refused["answers"], json!(["allow", "allow_always", "deny"]));
    let refused = client.refused(ANSWER, to(&question, chosen, "allow")).await;
    assert_eq!(refused["code"], "BAD_ANSWER");
    assert_eq!(refused["answers"], json!(["choices", "deny"]));
    assert_eq!(
        refused["options"],
        json!([chosen["questions"][0]["options"]])
    );
    for choices in [json!([["yes"], ["no"]]), json!([[]])] {
        let mut wrong = to(&question, chosen, "choices");
        wrong["choices"] = choices;
        let refused = client.refused(ANSWER, wrong).await;
        assert_eq!(refused["code"], "BAD_ANSWER", "{refused}");
    }
    // Nothing of this reached the worker.
    for task in [&permission, &question] {
        let status = client.ok("get_task_status", json!({"task_id": task})).await;
        assert_eq!(status["phase"], "input_required");
    }

    let unknown = json!({"task_id": permission, "request_id": "per_0", "answer": "allow"});
    let refused = client.refused(ANSWER, unknown).await;
    assert_eq!(refused["code"], "REQUEST_NOT_OPEN");
    assert_eq!(refused["open_requests"], json!([asked["request_id"]]));
    client.ok(ANSWER, to(&permission, asked, "allow")).await;
    let done = client.until(&permission, "completed").await;
    let again = client
        .refused(ANSWER, to(&permission, asked, "allow"))
        .await;
    assert_eq!(again["code"], "REQUEST_NOT_OPEN", "{done}");
    assert_eq!(again["open_requests"], json!([]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_attached_means_the_default_at_once() {
    let world = World::new(5);
    let server = Server::on_fakes(&world).await;
    let client = server.client().await;
    let task = client
        .task_in("script: ask bash; finish stop", "completed")
        .await;
    let history = client
        .ok(
            "get_task_history",
            json!({"task_id": task, "events_limit": -1}),
        )
        .await;
    let answers: Vec<&Value> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["event"] == "answer_wanted")
        .collect();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0]["by"], "default");
    assert!(answers[0].get("from").is_none());
    server.stop().await;
}
