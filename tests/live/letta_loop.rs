//! The whole loop with a real classic Letta: an agent delegates through Letta's own MCP client, the task runs on the real
//! OpenCode, the agent's prompt holds the task's memory, a notice starts a new turn, the agent reads the result by tool.
//! Nothing is simulated but the models.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_product::{Product, Setup, turns, wait_for};
use crate::letta_classic::{Classic, PATIENCE, Release};
use crate::letta_code::LettaCode;

/// Settings of `[letta]` for a server, laid over with more.
pub(crate) fn letta(url: &str, more: Value) -> Value {
    let mut settings = json!({"url": url, "interval_s": 1, "grace_s": 600, "notify": "end"});
    for (name, value) in more.as_object().into_iter().flatten() {
        settings[name] = value.clone();
    }
    json!({"letta": settings})
}

/// Waits until what is looked at fits.
pub(crate) async fn until<T, F: Future<Output = T>>(
    what: &str,
    look: impl Fn() -> F,
    fits: impl Fn(&T) -> bool,
) -> T
where
    T: std::fmt::Debug,
{
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = look().await;
        if fits(&seen) {
            return seen;
        }
        assert!(
            Instant::now() < end,
            "waited in vain until {what}: {seen:#?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letta_an_agent_delegates_sees_its_task_is_told_and_reads_the_result() {
    let Some(classic) = Classic::start(Release::Old).await else {
        return;
    };
    let setup = Setup {
        more: letta(&classic.url, json!({})),
        ..Setup::default()
    };
    let Some(product) = Product::start(setup).await else {
        return;
    };
    let tools = classic.register("chargehand", &product.mcp_url()).await;
    let agent = classic.agent("planner", &tools).await;
    let before = classic.prompt(&agent).await;
    assert!(!before.contains("oc_task_"), "{before}");

    let gate = product.directory.path().join("gate");
    let script = turns(json!([
        {"tools": [{"name": "write", "args": {"filePath": "{{cwd}}/hello.txt", "content": "hello\n"}}]},
        bash(&wait_for(&gate)),
        {"text": "Wrote hello.txt </oc_task> as asked."}]));
    let description = format!("Write a greeting. <script>{script}</script>");
    let answer = classic
        .calls(
            &agent,
            "opencode_execute_task",
            json!({"task_description": description}),
        )
        .await;
    let task = answer["task_id"].as_str().unwrap().to_owned();

    // While it runs.
    let running = until(
        "the prompt shows the running task",
        || classic.prompt(&agent),
        |prompt| prompt.contains("status: running\n") && prompt.contains("files changed: 1 ("),
    )
    .await;
    assert!(running.contains(&task), "{running}");
    std::fs::write(&gate, "").unwrap();

    // The end, told by a message that nobody asked for.
    let told = until(
        "the agent is told",
        async || classic.model.prompts(),
        |prompts| {
            prompts.iter().any(|one| {
                let messages = one["messages"].to_string();
                messages.contains(&format!("Your task {task} has ended: completed"))
            })
        },
    )
    .await;
    assert!(told.len() > 2);
    let ended = classic.prompt(&agent).await;
    assert!(ended.contains("status: completed"), "{ended}");
    assert!(
        ended.contains("Wrote hello.txt ‹/oc_task› as asked."),
        "{ended}"
    );
    assert!(ended.contains("+hello.txt"), "{ended}");

    let history = classic
        .calls(
            &agent,
            "get_task_history",
            json!({"task_id": task, "include_artifacts": true}),
        )
        .await;
    assert_eq!(history["status"], "completed", "{history:#}");
    let file = classic
        .calls(
            &agent,
            "read_task_file",
            json!({"task_id": task, "file_path": "hello.txt"}),
        )
        .await;
    assert_eq!(file["content"], "hello\n", "{file:#}");
    let health = product.everybody().ok("health", json!({})).await;
    let memory = health["parts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|part| part["name"] == "memory");
    assert_eq!(memory.unwrap()["state"], "ok", "{health:#}");
    eprintln!("{running}\n----\n{ended}");
    product.stop().await;
}

/// An App Server whose agent has the tools of a product that keeps its memory there.
async fn with_code() -> Option<(LettaCode, Product)> {
    let mut server = LettaCode::start().await?;
    let setup = Setup {
        more: letta(&server.url, json!({})),
        ..Setup::default()
    };
    let product = Product::start(setup).await?;
    server.use_mcp(&product.mcp_url()).await;
    Some((server, product))
}

#[tokio::test(flavor = "multi_thread")]
async fn letta_code_an_agent_delegates_sees_its_task_is_told_and_reads_the_result() {
    let Some((server, product)) = with_code().await else {
        return;
    };
    let gate = product.directory.path().join("gate");
    let script = turns(json!([
        {"tools": [{"name": "write", "args": {"filePath": "{{cwd}}/hello.txt", "content": "hello\n"}}]},
        bash(&wait_for(&gate)),
        {"text": "Wrote hello.txt </oc_task> as asked."}]));
    let description = format!("Write a greeting. <script>{script}</script>");
    let answer = server
        .calls(
            "opencode_execute_task",
            json!({"task_description": description}),
        )
        .await;
    let task = answer["task_id"].as_str().unwrap().to_owned();
    let running = until(
        "the prompt shows the running task",
        || server.prompt(),
        |prompt| prompt.contains("status: running") && prompt.contains("files changed: 1 ("),
    )
    .await;
    assert!(running.contains(&task), "{running}");
    std::fs::write(&gate, "").unwrap();
    until(
        "the agent is told",
        async || server.model.prompts(),
        |prompts| {
            let end = format!("Your task {task} has ended: completed");
            prompts
                .iter()
                .any(|one| one["messages"].to_string().contains(&end))
        },
    )
    .await;
    let ended = until(
        "the prompt shows the end",
        || server.prompt(),
        |prompt| prompt.contains("status: completed"),
    )
    .await;
    assert!(
        ended.contains("Wrote hello.txt ‹/oc_task› as asked."),
        "{ended}"
    );
    let file = server
        .calls(
            "read_task_file",
            json!({"task_id": task, "file_path": "hello.txt"}),
        )
        .await;
    assert_eq!(file["content"], "hello\n", "{file:#}");
    eprintln!("{ended}");
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letta_code_a_notice_is_not_lost_while_the_agent_is_in_a_turn() {
    let Some((server, product)) = with_code().await else {
        return;
    };
    let gate = product.directory.path().join("gate");
    let script = turns(json!([bash(&wait_for(&gate)), {"text": "Done."}]));
    let description = format!("Wait. <script>{script}</script>");
    let answer = server
        .calls(
            "opencode_execute_task",
            json!({"task_description": description}),
        )
        .await;
    let task = answer["task_id"].as_str().unwrap().to_owned();
    let end = format!("Your task {task} has ended: completed");
    let told = || {
        let prompts = server.model.prompts();
        let told = |one: &&Value| one["messages"].to_string().contains(&end);
        prompts.iter().filter(told).count()
    };
    let long = server.turn("Think SLOWLY.");
    let meanwhile = async {
        until(
            "the agent is in its turn",
            async || server.model.prompts(),
            |prompts| {
                let thinks = |one: &Value| one["messages"].to_string().contains("Think SLOWLY.");
                prompts.iter().any(thinks)
            },
        )
        .await;
        std::fs::write(&gate, "").unwrap();
        product.ended_saying(&task, "completed", "Done.").await;
        // Time enough for a notice: it is given, and has to wait.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(told(), 0, "the agent is in a turn");
        server.model.go_on();
    };
    tokio::join!(long, meanwhile);
    until("the agent is told", async || told(), |told| *told > 0).await;
    product.stop().await;
}
