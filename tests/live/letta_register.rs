//! `chargehand letta register` against a real classic Letta that asks for a password: tools under a prefix reach an agent; and
//! what is said, and done, where the password is wrong.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::process::{Command, Output};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{bash, chargehand};
use crate::harness_product::{Product, Setup, id_of, task, turns};
use crate::letta_classic::{Classic, Release};
use crate::letta_loop::{letta, until};

const PASSWORD: &str = "only-for-this-test";

async fn product(classic: &Classic, token: &str) -> Option<Product> {
    let mut more = letta(&classic.url, json!({"token": token, "notify": "end"}));
    more["server"] = json!({"tool_prefix": "dev_"});
    let setup = Setup {
        more,
        ..Setup::default()
    };
    Product::start(setup).await
}

/// Runs the command as an operator would.
fn register(product: &Product, agents: &[&str]) -> Output {
    let mut command = Command::new(chargehand());
    command
        .args([
            "letta",
            "register",
            "--json",
            "--url",
            &product.mcp_url(),
            "--config",
        ])
        .arg(product.directory.path().join("chargehand.toml"));
    for agent in agents {
        command.args(["--agent", agent]);
    }
    command.output().unwrap()
}

fn told(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn letta_registered_tools_with_a_prefix_are_called_by_an_agent() {
    let Some(classic) = Classic::start_with(Release::Old, Some(PASSWORD)).await else {
        return;
    };
    let Some(product) = product(&classic, PASSWORD).await else {
        return;
    };
    let (first, second) = (
        classic.agent("first", &[]).await,
        classic.agent("second", &[]).await,
    );
    let made = register(&product, &[&first]);
    assert!(made.status.success(), "{}", told(&made));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(
        (&made["updated"], &made["agents"]),
        (&json!(false), &json!([first]))
    );
    let tools = made["tools"].as_array().unwrap();
    assert!(
        tools.len() > 10
            && tools
                .iter()
                .all(|tool| tool.as_str().unwrap().starts_with("dev_")),
        "{made:#}"
    );
    // Again: nothing is doubled, and another agent gets them too.
    let again = register(&product, &[&first, &second]);
    assert!(again.status.success(), "{}", told(&again));
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["updated"], true, "{again:#}");
    assert_eq!(again["mcp_server_id"], made["mcp_server_id"]);
    assert_eq!(again["tools"].as_array().unwrap().len(), tools.len());
    for agent in [&first, &second] {
        let has = classic
            .ok(
                Method::GET,
                &format!("agents/{agent}/tools?limit=100"),
                None,
            )
            .await;
        let ours = |tool: &&Value| tool["name"].as_str().unwrap().starts_with("dev_");
        assert_eq!(
            has.as_array().unwrap().iter().filter(ours).count(),
            tools.len(),
            "{has:#}"
        );
    }
    let description = format!(
        "Do it. <script>{}</script>",
        turns(json!([bash("sleep 5"), {"text": "Done."}]))
    );
    let asked = json!({"task_description": description});
    let answer = classic
        .calls(&second, "dev_opencode_execute_task", asked)
        .await;
    let id = answer["task_id"].as_str().unwrap().to_owned();
    // Its model does what the newest message says: the notice shall not find the order there.
    let prompt = classic.prompt(&second).await;
    assert!(prompt.contains(&id), "{prompt}");
    product.ended_saying(&id, "completed", "Done.").await;
    // What it is told to call next has the prefix, too.
    until(
        "the notice names the tools as the agent knows them",
        async || json!(classic.model.prompts()).to_string(),
        |prompts| prompts.contains("next: dev_get_task_history with task_id"),
    )
    .await;
    // An agent that does not exist is named, and what was done before stays.
    let unknown = register(&product, &["agent-00000000-0000-4000-8000-000000000000"]);
    assert!(!unknown.status.success(), "{}", told(&unknown));
    assert!(
        told(&unknown).contains("agent-00000000"),
        "{}",
        told(&unknown)
    );
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letta_that_refuses_the_password_is_named_and_the_task_is_untouched() {
    let Some(classic) = Classic::start_with(Release::Last, Some(PASSWORD)).await else {
        return;
    };
    let Some(product) = product(&classic, "wrong-password").await else {
        return;
    };
    let agent = classic.agent("refused", &[]).await;
    let client = product.client.of_agent(&agent);
    let script = turns(json!([{"text": "Done."}]));
    let delegated = client
        .ok("dev_opencode_execute_task", task(script, json!({})))
        .await;
    let id = id_of(&delegated);
    let everybody = product.everybody();
    until(
        "the task has ended",
        || everybody.ok("dev_get_task_status", json!({"task_id": id})),
        |seen| seen["status"] == "completed",
    )
    .await;
    let health = until(
        "health says that the password is refused",
        || everybody.ok("dev_health", json!({})),
        |health| health["parts"].to_string().contains("letta.token"),
    )
    .await;
    assert!(!health.to_string().contains("wrong-password"), "{health:#}");
    let refused = register(&product, &[&agent]);
    assert!(!refused.status.success(), "{}", told(&refused));
    assert!(told(&refused).contains("letta.token"), "{}", told(&refused));
    assert!(
        !told(&refused).contains("wrong-password"),
        "{}",
        told(&refused)
    );
    assert_eq!(
        classic.tagged(&format!("oc-task:{id}")).await,
        Vec::<Value>::new()
    );
    product.stop().await;
}
