//! A task that takes longer than any single call of Letta's MCP clients may: agents of both Lettas wait for it by repeated calls.
//!
//! In: `CHARGEHAND_TEST_LONG`, seconds that the task takes (70 where it is not set: a call of Letta Code ends after 60).
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_product::{Product, Setup, turns};
use crate::letta_classic::{Classic, Release};
use crate::letta_code::LettaCode;
use crate::letta_loop::letta;

fn seconds() -> u64 {
    let set = std::env::var("CHARGEHAND_TEST_LONG").ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(70)
}

fn order(name: &str) -> Value {
    // OpenCode's own limit of a command is two minutes.
    let seconds = seconds();
    let mut steps: Vec<Value> = (0..seconds / 60).map(|_| bash("sleep 60")).collect();
    steps.push(bash(&format!("sleep {}", seconds % 60)));
    steps.push(json!({"text": format!("Done for {name}.")}));
    let script = turns(json!(steps));
    json!({"task_description": format!("Take your time. <script>{script}</script>"), "timeout_ms": 3_600_000})
}

/// Waits call after call, this many seconds with each; how many it took.
async fn waits<F: Future<Output = Value>>(
    name: &str,
    wait: u32,
    began: Instant,
    call: impl Fn(&'static str, Value) -> F,
    task: &str,
) -> usize {
    let end = began + Duration::from_secs(seconds() + 120);
    for calls in 1.. {
        let asked = Instant::now();
        let seen = call(
            "get_task_status",
            json!({"task_id": task, "wait_seconds": wait}),
        )
        .await;
        assert!(
            asked.elapsed() < Duration::from_secs(58),
            "{name}: {:?}",
            asked.elapsed()
        );
        if seen["status"] == "completed" {
            assert_eq!(seen["output"], format!("Done for {name}."));
            assert!(
                began.elapsed() >= Duration::from_secs(seconds()),
                "{seen:#}"
            );
            return calls;
        }
        assert_eq!(seen["status"], "running", "{name}: {seen:#}");
        assert!(Instant::now() < end, "{name} waits for ever: {seen:#}");
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn letta_a_long_task_is_waited_for_by_agents_of_both() {
    let (Some(classic), Some(mut code)) =
        (Classic::start(Release::Old).await, LettaCode::start().await)
    else {
        return;
    };
    let setup = Setup {
        more: letta(&classic.url, json!({"notify": "never"})),
        ..Setup::default()
    };
    let Some(product) = Product::start(setup).await else {
        return;
    };
    code.use_mcp(&product.mcp_url()).await;
    let tools = classic.register("chargehand", &product.mcp_url()).await;
    let agent = classic.agent("patient", &tools).await;
    let began = Instant::now();
    let first = classic
        .calls(&agent, "opencode_execute_task", order("classic"))
        .await;
    let second = code.calls("opencode_execute_task", order("code")).await;
    let id = |answer: &Value| answer["task_id"].as_str().unwrap().to_owned();
    let (first, second) = (id(&first), id(&second));
    let (of_classic, of_code) = tokio::join!(
        waits(
            "classic",
            45,
            began,
            |tool, more| classic.calls(&agent, tool, more),
            &first
        ),
        // After ten seconds its shell goes on in the background, and the agent is told of the end.
        waits(
            "code",
            4,
            began,
            |tool, more| code.calls(tool, more),
            &second
        ),
    );
    println!("{} s: {of_classic} and {of_code} calls", seconds());
    product
        .ended_saying(&first, "completed", "Done for classic.")
        .await;
    product
        .ended_saying(&second, "completed", "Done for code.")
        .await;
    product.stop().await;
}
