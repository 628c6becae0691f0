//! A task from the call to its answer: what is told, when, and to whom.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_product::{Product, Setup, id_of, task, turns};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_answer_with_its_tokens_and_a_complete_history() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let planner = &product.client;
    let script = turns(json!([{
        "reasoning": "let me think", "text": "Hello there, planner.", "chunk": 1, "chunk_delay_ms": 150,
        "usage": {"prompt_tokens": 100, "completion_tokens": 7}}]));
    let arguments = task(
        script,
        json!({"idempotency_key": "plain-1", "labels": ["live"]}),
    );
    let accepted = planner.ok("opencode_execute_task", arguments.clone()).await;
    let id = id_of(&accepted);
    assert_eq!(
        (&accepted["existing"], &accepted["exit_code"]),
        (&json!(false), &Value::Null)
    );

    let running = planner
        .until(&id, "the session is open", |seen| {
            seen["session_id"].is_string()
        })
        .await;
    let worker = product.worker().await;
    let session = worker
        .session(running["session_id"].as_str().unwrap())
        .await
        .unwrap();
    assert_eq!(
        session["metadata"]["chargehand"]["task"],
        json!(id),
        "{session:#}"
    );
    assert_eq!(session["directory"], running["directory"]);

    let seen = product.ended(&id, "completed").await;
    assert_eq!(seen["output"], "Hello there, planner.");
    assert_eq!(
        (&seen["steps"], &seen["attempt"], &seen["exit_code"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!(
        (&seen["usage"]["input"], &seen["usage"]["output"]),
        (&json!(100), &json!(7))
    );
    assert_eq!(seen["changes"]["files_total"], 0);
    assert_eq!(seen["messages_waiting"], 0);
    let words: Vec<String> = planner
        .history(&id)
        .await
        .iter()
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect();
    let wanted = [
        "task_accepted",
        "attempt_started",
        "workdir_prepared",
        "session_wanted",
        "session_opened",
        "prompt_wanted",
        "prompt_accepted",
        "prompt_taken_up",
        "run_ended",
        "task_completed",
        "attempt_removed",
    ];
    let mut rest = words.iter();
    for word in wanted {
        assert!(
            rest.any(|one| one == word),
            "{word} is missing or out of order: {words:?}"
        );
    }
    assert_eq!(
        planner.artifact(&id, "execution_output").await.as_deref(),
        Some("Hello there, planner.")
    );

    // The same key again is the same task, done once; other arguments under it are refused.
    let again = planner.ok("opencode_execute_task", arguments).await;
    assert_eq!(
        (&again["task_id"], &again["existing"]),
        (&json!(id), &json!(true))
    );
    let other = task(
        turns(json!([{"text": "Other."}])),
        json!({"idempotency_key": "plain-1"}),
    );
    let refusal = planner.refused("opencode_execute_task", other).await;
    assert_eq!(
        (&refusal["code"], &refusal["task_id"]),
        (&json!("IDEMPOTENCY_KEY_REUSED"), &json!(id))
    );
    assert_eq!(product.model_calls(), 1);
    let listed = planner
        .ok(
            "list_tasks",
            json!({"label": "live", "state": ["completed"]}),
        )
        .await;
    assert_eq!(
        (&listed["count"], &listed["tasks"][0]["task_id"]),
        (&json!(1), &json!(id))
    );
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_the_outcome_or_hands_over_the_id() {
    let Some(product) = Product::start(Setup::default()).await else {
        return;
    };
    let planner = &product.client;
    let long = async {
        let began = Instant::now();
        let script = turns(json!([{"text": "Took long.", "hang_ms": 52_000}]));
        let answer = planner
            .ok("opencode_execute_task", task(script, json!({"sync": true})))
            .await;
        let waited = began.elapsed();
        assert!(
            (Duration::from_secs(44)..Duration::from_secs(49)).contains(&waited),
            "{waited:?}"
        );
        assert_eq!(answer["status"], "running");
        assert!(
            answer["timeout_hint"]
                .as_str()
                .unwrap()
                .contains("it goes on"),
            "{answer:#}"
        );
        assert!(answer.get("output").is_none());
        let seen = product.ended(&id_of(&answer), "completed").await;
        assert_eq!(seen["output"], "Took long.");
    };
    let short = async {
        let script = turns(json!([{"text": "Quick."}]));
        let answer = planner
            .ok("opencode_execute_task", task(script, json!({"sync": true})))
            .await;
        assert_eq!(
            (&answer["status"], &answer["output"]),
            (&json!("completed"), &json!("Quick."))
        );
        assert_eq!(answer["exit_code"], 0);
        product.ended(&id_of(&answer), "completed").await;

        let began = Instant::now();
        let script = turns(json!([{"text": "Later.", "delay_ms": 12_000}]));
        let answer = planner
            .ok(
                "opencode_execute_task",
                task(script, json!({"wait_seconds": 2})),
            )
            .await;
        let waited = began.elapsed();
        assert!(
            (Duration::from_secs(2)..Duration::from_secs(8)).contains(&waited),
            "{waited:?}"
        );
        assert!(answer["timeout_hint"].is_string(), "{answer:#}");
        product.ended(&id_of(&answer), "completed").await;
    };
    tokio::join!(long, short);
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_at_once_are_independent() {
    let setup = Setup {
        tasks: json!({"max_running": 4}),
        ..Setup::default()
    };
    let Some(product) = Product::start(setup).await else {
        return;
    };
    let product = &product;
    let clients = (0..16).map(|number| async move {
        let agent = format!("agent-{number}");
        let mut planner = product.client.of_agent(&agent);
        if number % 2 == 0 {
            // Half of them are older clients, which have a session of the protocol.
            planner.initialize().await;
        }
        let write = format!("echo {number} > mine.txt");
        let answer = format!("Client {number}.");
        let script = turns(json!([bash(&write), {"text": answer}]));
        let id = planner.submit(script, json!({})).await;
        if number == 3 {
            // A client that goes away in the middle of a call disturbs nobody.
            let leaving = planner.of_agent(&agent);
            let wait = leaving.ok(
                "get_task_status",
                json!({"task_id": id, "wait_seconds": 45}),
            );
            drop(tokio::time::timeout(Duration::from_millis(300), wait).await);
        }
        let seen = planner.final_status(&id).await;
        assert_eq!(
            (&seen["status"], &seen["output"]),
            (&json!("completed"), &json!(answer)),
            "{seen:#}"
        );
        assert_eq!(seen["agent_id"], agent);
        assert_eq!(
            planner.file(&id, "mine.txt").await["content"],
            format!("{number}\n")
        );
        let own = planner.ok("list_tasks", json!({"agent_id": agent})).await;
        assert_eq!(
            (&own["count"], &own["tasks"][0]["task_id"]),
            (&json!(1), &json!(id))
        );
        id
    });
    let mut ids = futures_util::future::join_all(clients).await;
    for id in &ids {
        product.ended(id, "completed").await;
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 16);
    assert_eq!(product.model_calls(), 32, "two steps each");
}
