//! OpenCode of older lines: the same product, with two and more turns in one session.
//!
//! The versions are installed with npm below the target directory, or found in `CHARGEHAND_OPENCODE_OLD/<version>`.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::harness::bash;
use crate::harness_product::{Product, Setup, turns, until, wait_for};

/// The program of a version; none = skipped.
fn installed(version: &str) -> Option<PathBuf> {
    let given = std::env::var_os("CHARGEHAND_OPENCODE_OLD").map(PathBuf::from);
    let all = given.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("opencode-old"));
    let place = all.join(version);
    let program = place.join("node_modules/opencode-linux-x64/bin/opencode");
    if program.is_file() {
        return Some(program);
    }
    std::fs::create_dir_all(&place).unwrap();
    let done = Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
        ])
        .arg(&place)
        .arg(format!("opencode-ai@{version}"))
        .arg(format!("opencode-linux-x64@{version}"))
        .output();
    let problem = match done {
        Ok(done) if done.status.success() && program.is_file() => return Some(program),
        Ok(done) => String::from_utf8_lossy(&done.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(
        std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_none_or(|value| value != "1"),
        "OpenCode {version} is required here: {problem}"
    );
    println!("SKIPPED, no OpenCode {version}: {problem}");
    None
}

async fn works_with(version: &str) {
    let Some(program) = installed(version) else {
        return;
    };
    let setup = Setup {
        opencode: Some(program),
        ..Setup::default()
    };
    let product = Product::start(setup).await.unwrap();
    let planner = &product.client;
    let gates = [1, 2].map(|number| product.directory.path().join(format!("gate-{number}")));
    let write = json!({"tools": [{"name": "write", "args": {"filePath": "{{cwd}}/tool.txt", "content": "by the tool\n"}}]});
    let script = json!({
    "turns": [write, bash("echo by the shell > shell.txt"), bash(&wait_for(&gates[0])), {"text": "Never the last word."}],
    "on_message": [{
        "contains": "second turn",
        "turns": [bash(&wait_for(&gates[1])), {"text": "Never the last word either."}],
        "on_message": [{"contains": "third turn", "turns": [bash("echo third > third.txt"), {"text": "Three turns."}]}],
    }]});
    let id = planner.submit(script, json!({})).await;
    for (gate, text) in gates
        .iter()
        .zip(["Now the second turn.", "Now the third turn."])
    {
        planner
            .until(&id, "the command at the gate runs", |seen| {
                seen["messages_waiting"] == 0 && seen["doing"].as_str().unwrap().contains("bash")
            })
            .await;
        if text.contains("third") {
            // The first gate's command may still be told: the second one has begun when the model was asked for it.
            until("the second turn has begun", || async {
                (product.model_calls_with("second turn.") > 0).then_some(())
            })
            .await;
        }
        assert_eq!(planner.message(&id, text).await["delivery"], "sent");
        std::fs::write(gate, "").unwrap();
    }
    let seen = product.ended_saying(&id, "completed", "Three turns.").await;
    let changed: Vec<&str> = seen["changes"]["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert_eq!(changed, ["shell.txt", "third.txt", "tool.txt"]);
    let health = planner.ok("health", json!({})).await;
    assert!(health.to_string().contains(version), "{health:#}");

    let stopped = planner
        .submit(
            turns(json!([bash("sleep 606"), {"text": "Resumed."}])),
            json!({}),
        )
        .await;
    planner
        .until(&stopped, "the command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    assert_eq!(planner.control(&stopped, "pause").await["phase"], "paused");
    planner.control(&stopped, "resume").await;
    product
        .ended_saying(&stopped, "completed", "Resumed.")
        .await;
    let cancelled = planner
        .submit(
            turns(json!([bash("sleep 607"), {"text": "Never."}])),
            json!({}),
        )
        .await;
    planner
        .until(&cancelled, "the command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    planner.control(&cancelled, "cancel").await;
    product.ended(&cancelled, "cancelled").await;
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_3() {
    works_with("1.3.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_17() {
    works_with("1.17.19").await;
}
