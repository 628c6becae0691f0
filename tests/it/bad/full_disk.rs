//! A disk that takes nothing more, with the real program: it ends with the reason rather than go on without a record, and
//! what was accepted is there at the next start.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::cli_support::command;
use crate::mcp::client::{Client, message};

/// Starts it; its address, and the rest of its log.
pub(super) async fn serving(
    mut program: Command,
    data: &Path,
) -> (Child, String, Lines<BufReader<ChildStderr>>) {
    let mut child = program
        .arg(data)
        .env("HOME", data)
        .env("XDG_CONFIG_HOME", data)
        .env("CHARGEHAND_ENGINES_LOCAL_ENABLED", "false")
        .env("CHARGEHAND_ENGINES_REMOTE_URL", "http://127.0.0.1:9")
        .env("CHARGEHAND_ENGINE_DEFAULT", "remote")
        .env("CHARGEHAND_RETENTION_MIN_FREE_MB", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("the server ended");
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        if let Some(address) = line["address"].as_str() {
            return (child, format!("http://{address}"), lines);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nothing_more_can_be_written_it_ends_with_the_reason_and_keeps_what_was_accepted() {
    let data = tempfile::tempdir().unwrap();
    // The kernel lets no file of this program grow beyond 2 MB (in blocks of 512 bytes): for the journal that is a full
    // disk, and every machine has it. Without the trap the kernel would end the program instead.
    let mut limited = Command::new("/bin/sh");
    let run = "trap '' XFSZ; ulimit -f 4000; exec \"$0\" serve --listen 127.0.0.1:0 --log-format json --data-dir \"$1\"";
    limited.args(["-c", run, env!("CARGO_BIN_EXE_chargehand")]);
    let (mut child, url, mut lines) = serving(limited, data.path()).await;
    let client = Client::stateless(&url);
    let mut accepted = Vec::new();
    let refusal = loop {
        assert!(accepted.len() < 90, "the limit does not hold here");
        let description = format!("{} {}", accepted.len(), "x".repeat(90_000));
        let arguments = json!({"agent_id": "a", "task_description": description});
        let call = json!({"name": "opencode_execute_task", "arguments": arguments});
        let said = message(client.request("tools/call", call).send().await.unwrap()).await;
        match said["result"]["structuredContent"]["task_id"].as_str() {
            Some(id) => accepted.push(id.to_owned()),
            None => break said.to_string(),
        }
    };
    assert!(!accepted.is_empty());
    assert!(
        refusal.contains("look with list_tasks") || refusal.contains("journal"),
        "{refusal}"
    );
    let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(1));
    let mut log = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        log.push_str(&line);
    }
    for part in [
        "no space left for",
        "journal.db",
        "tasks are recovered at the next start",
    ] {
        assert!(log.contains(part), "no {part:?} in {log}");
    }

    let again = command(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--data-dir",
    ]);
    let (_child, url, _lines) = serving(again, data.path()).await;
    let list = Client::stateless(&url)
        .ok("list_tasks", json!({"limit": 200}))
        .await;
    let tasks = list["tasks"].as_array().unwrap().iter();
    let mut listed: Vec<&str> = tasks
        .map(|task| task["task_id"].as_str().unwrap())
        .collect();
    listed.sort_unstable();
    accepted.sort_unstable();
    assert_eq!(listed, accepted, "what was accepted and what is there");
}
