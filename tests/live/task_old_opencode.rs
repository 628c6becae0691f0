//! OpenCode of older lines: the same product, with two and more turns in one session.
//!
//! In: the programs that `tests/run` installs and names in `CHARGEHAND_OPENCODE_1_17` and `CHARGEHAND_OPENCODE_1_3`; where they
//! are not set, npm installs the same versions below the target directory, once.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::harness::bash;
use crate::harness_product::{Product, Setup, turns, until, wait_for};

/// The newest line before the pinned one.
pub(crate) const OLD: &str = "1.17.0";
/// The oldest that is taken.
pub(crate) const OLDEST: &str = "1.3.0";

/// The program of a version ([`OLD`] or [`OLDEST`]); none = skipped.
pub(crate) fn installed(version: &str) -> Option<PathBuf> {
    let line: Vec<&str> = version.split('.').take(2).collect();
    let name = format!("CHARGEHAND_OPENCODE_{}", line.join("_"));
    if let Some(given) = std::env::var_os(&name).filter(|given| !given.is_empty()) {
        let program = PathBuf::from(given);
        let said = Command::new(&program).arg("--version").output();
        let said = said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
        assert!(
            said.as_ref().is_ok_and(|said| said == version),
            "{name} is not OpenCode {version}, which these tests are for: {} says {said:?}",
            program.display()
        );
        return Some(program);
    }
    match by_npm(version) {
        Ok(program) => Some(program),
        Err(problem) => {
            assert!(
                std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_none_or(|value| value != "1"),
                "OpenCode {version} is required here, and {name} does not name it: {problem}"
            );
            println!("SKIPPED, no OpenCode {version}: {problem}");
            None
        }
    }
}

/// Installed below the target directory, now or by an earlier test.
fn by_npm(version: &str) -> Result<PathBuf, String> {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("opencode-old");
    let place = all.join(version);
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let program = place.join(format!("node_modules/opencode-linux-{arch}/bin/opencode"));
    let whole = place.join(".done");
    std::fs::create_dir_all(&place).unwrap();
    // Tests are processes of their own: only one may install.
    let lock = std::fs::File::create(all.join(format!("{version}.lock"))).unwrap();
    lock.lock().unwrap();
    if whole.exists() {
        return Ok(program);
    }
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
        .arg(format!("opencode-linux-{arch}@{version}"))
        .output();
    match done {
        Ok(done) if done.status.success() && program.is_file() => {
            std::fs::write(whole, "").unwrap();
            Ok(program)
        }
        Ok(done) => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    }
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
    works_with(OLDEST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_17() {
    works_with(OLD).await;
}
