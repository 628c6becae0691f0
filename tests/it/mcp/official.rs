//! The official clients drive all eleven tools: TypeScript (both lines), Python, and the Inspector's command line.
//!
//! `tests/run` installs them and names them in the environment; without them the tests are skipped, unless
//! `CHARGEHAND_REQUIRE_LIVE=1` says that nothing may be.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::server::Server;

/// What the environment names, or none when this test may be skipped.
fn tool(variable: &str) -> Option<OsString> {
    let found = std::env::var_os(variable).filter(|path| !path.is_empty());
    if found.is_none() {
        assert_ne!(
            std::env::var("CHARGEHAND_REQUIRE_LIVE").as_deref(),
            Ok("1"),
            "{variable} is not set; tests/run sets it"
        );
        eprintln!("skipped: {variable} is not set; tests/run sets it");
    }
    found
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

/// Runs a program to its end; answers what it printed.
async fn output_of(mut command: Command) -> String {
    let run = command.kill_on_drop(true).output();
    let done = tokio::time::timeout(Duration::from_secs(120), run)
        .await
        .expect("the client did not end within 2 minutes")
        .unwrap();
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{command:?} ended with {}:\n{printed}{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    printed
}

async fn typescript(line: &str) {
    let Some((node, modules)) =
        tool("CHARGEHAND_TEST_NODE").zip(tool("CHARGEHAND_TEST_NODE_MODULES"))
    else {
        return;
    };
    let server = Server::start().await;
    let mut command = Command::new(node);
    command
        .arg(script("drive.mjs"))
        .args([&server.url, line])
        .env("CHARGEHAND_TEST_NODE_MODULES", modules);
    assert_eq!(output_of(command).await.trim(), "ok");
    server.stop().await;
}

async fn python(mode: &str) {
    let Some(python) = tool("CHARGEHAND_TEST_PYTHON") else {
        return;
    };
    let server = Server::start().await;
    let mut command = Command::new(python);
    command.arg(script("drive.py")).args([&server.url, mode]);
    assert_eq!(output_of(command).await.trim(), "ok");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_v1_drives_all_tools() {
    typescript("v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_v2_drives_all_tools() {
    typescript("v2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_drives_all_tools() {
    python("auto").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_with_a_session_drives_all_tools() {
    python("legacy").await;
}

/// The Inspector's command line, one process a call.
struct Inspector {
    node: OsString,
    modules: OsString,
    url: String,
}

impl Inspector {
    async fn run(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(&self.node);
        command
            .arg(PathBuf::from(&self.modules).join(".bin/mcp-inspector"))
            .arg("--cli")
            .arg(format!("{}/mcp", self.url))
            .args(["--transport", "http"])
            .args(arguments);
        let printed = output_of(command).await;
        serde_json::from_str(&printed).unwrap_or_else(|_| panic!("no JSON: {printed}"))
    }

    async fn call(&self, tool: &str, arguments: &[&str]) -> Value {
        let mut all = vec!["--method", "tools/call", "--tool-name", tool];
        for argument in arguments {
            all.extend(["--tool-arg", argument]);
        }
        let result = self.run(&all).await;
        assert_ne!(result["isError"], true, "{tool}: {result}");
        result["structuredContent"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_calls_all_tools() {
    let Some((node, modules)) =
        tool("CHARGEHAND_TEST_NODE").zip(tool("CHARGEHAND_TEST_NODE_MODULES"))
    else {
        return;
    };
    let server = Server::start().await;
    let inspector = Inspector {
        node,
        modules,
        url: server.url.clone(),
    };
    let listed = inspector.run(&["--method", "tools/list", "--strict"]).await;
    assert_eq!(listed["tools"].as_array().unwrap().len(), 15);
    for tool in ["ping", "health"] {
        inspector.call(tool, &[]).await;
    }
    let describe = "task_description=Say the answer.";
    let done = inspector
        .call(
            "opencode_execute_task",
            &["agent_id=inspector", describe, "sync=true"],
        )
        .await;
    assert_eq!(done["status"], "completed");
    let task = format!("task_id={}", done["task_id"].as_str().unwrap());
    for (tool, more) in [
        ("get_task_status", None),
        ("get_task_history", Some("include_artifacts=true")),
        ("get_task_files", None),
        ("read_task_file", Some("file_path=hello.txt")),
    ] {
        let arguments: Vec<&str> = [task.as_str()].into_iter().chain(more).collect();
        inspector.call(tool, &arguments).await;
    }
    let list = inspector.call("list_tasks", &["agent_id=inspector"]).await;
    assert_eq!(list["count"], 1);
    let hanging = inspector
        .call(
            "opencode_execute_task",
            &["agent_id=inspector", "task_description=HANG for ever."],
        )
        .await;
    let task = format!("task_id={}", hanging["task_id"].as_str().unwrap());
    inspector
        .call("send_task_message", &[&task, "message=HANG on."])
        .await;
    let control = inspector
        .call("send_task_control", &[&task, "control=cancel"])
        .await;
    assert_eq!(control["status"], "cancelled");
    let asking = inspector
        .call(
            "opencode_execute_task",
            &[
                "agent_id=inspector",
                "task_description=ASK first.",
                "attended=true",
            ],
        )
        .await;
    let id = asking["task_id"].as_str().unwrap();
    let status = server.client().await.until(id, "input_required").await;
    let request = status["requests"][0]["request_id"].as_str().unwrap();
    let (task, request) = (format!("task_id={id}"), format!("request_id={request}"));
    let answered = inspector
        .call("answer_task_request", &[&task, &request, "answer=allow"])
        .await;
    assert_eq!(answered["answer"], "allow");
    server.stop().await;
}
