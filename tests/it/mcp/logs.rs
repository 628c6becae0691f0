//! The log of a whole server as a program reads it: which task a line is about, and that no text can forge a line.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr};

use super::client::Client;
use crate::cli_support::command;
use crate::opencode_fake::{Fake, Faults, PASSWORD};

/// A text of a worker or a caller that would like to be a line of its own, and to drive the terminal.
const HOSTILE: &str = "fine\n{\"level\":\"INFO\",\"message\":\"task ended\",\"outcome\":\"completed\"}\r\u{1b}[2Jgone\u{202e}";

struct Log {
    lines: Lines<BufReader<ChildStderr>>,
    seen: Vec<Value>,
}

impl Log {
    /// Reads up to the line with this message. Every line is one JSON object without a character that does anything.
    async fn until(&mut self, message: &str) -> Value {
        loop {
            let line = tokio::time::timeout(Duration::from_secs(30), self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("no \"{message}\" in {:#?}", self.seen));
            let line = line.unwrap().expect("the server ended");
            assert!(!line.chars().any(char::is_control), "{line:?}");
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
            self.seen.push(line.clone());
            if line["message"] == message {
                return line;
            }
        }
    }
}

/// `serve` with the scripted OpenCode as its engine.
async fn serve(fake: &Fake, data: &std::path::Path) -> (Child, Log, Client) {
    let mut child = command(&["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .env("XDG_CONFIG_HOME", data)
        .env("CHARGEHAND_ENGINES_LOCAL_ENABLED", "false")
        .env("CHARGEHAND_ENGINES_REMOTE_URL", &fake.url)
        .env("CHARGEHAND_ENGINES_REMOTE_PASSWORD", PASSWORD)
        .env("CHARGEHAND_ENGINES_REMOTE_DIRECTORY", "/w")
        .env("CHARGEHAND_ENGINE_DEFAULT", "remote")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut log = Log {
        lines,
        seen: Vec::new(),
    };
    let serving = log.until("serving MCP at /mcp").await;
    let url = format!("http://{}", serving["address"].as_str().unwrap());
    log.until("engine is ready").await;
    (child, log, Client::stateless(&url))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_is_one_line_of_its_task_and_no_text_can_forge_one() {
    let fake = Fake::start(Faults::default()).await;
    let data = tempfile::tempdir().unwrap();
    let (_child, mut log, client) = serve(&fake, data.path()).await;
    let submit = json!({"agent_id": "agent-1", "task_description": format!("Work. {HOSTILE}")});
    let accepted = client.ok("opencode_execute_task", submit).await;
    let task = accepted["task_id"].as_str().unwrap();
    let line = log.until("task accepted").await;
    assert_eq!((&line["task"], &line["attempt"]), (&json!(task), &json!(0)));
    assert_eq!(
        (&line["engine"], &line["token"]),
        (&json!("remote"), &json!("local"))
    );
    for message in ["task started", "task running"] {
        let line = log.until(message).await;
        assert_eq!(
            (&line["task"], &line["attempt"]),
            (&json!(task), &json!(1)),
            "{message}"
        );
        assert_eq!(line["level"], "INFO");
    }
    // The worker asks with a text of its own.
    let session = fake.state().sessions[0]["id"].clone();
    let asks =
        json!({"id": "per_1", "sessionID": session, "permission": "bash", "patterns": [HOSTILE]});
    fake.state().permissions = vec![asks.clone()];
    fake.send(
        &json!({"directory": "/w", "payload": {"type": "permission.asked", "properties": asks}}),
    );
    let line = log.until("task asks").await;
    let text = line["text"].as_str().unwrap();
    assert!(
        text.contains("\\n{") && text.contains("\\u{1b}[2Jgone\\u{202e}"),
        "{text}"
    );
    fake.state().permissions.clear();
    // And the caller gives a reason.
    let cancel = json!({"task_id": task, "control": "cancel", "reason": HOSTILE});
    client.ok("send_task_control", cancel).await;
    let line = log.until("task ended").await;
    assert_eq!((&line["task"], &line["attempt"]), (&json!(task), &json!(1)));
    assert_eq!(
        (&line["outcome"], &line["by"]),
        (&json!("cancelled"), &json!("local"))
    );
    assert!(
        line["why"].as_str().unwrap().starts_with("fine\\n{"),
        "{line}"
    );

    let of_task: Vec<&Value> = log
        .seen
        .iter()
        .filter(|line| line["task"] == task)
        .collect();
    let ends = of_task
        .iter()
        .filter(|line| line["message"] == "task ended");
    assert_eq!(ends.count(), 1, "{of_task:#?}");
    assert!(
        of_task.iter().all(|line| line["attempt"].is_u64()),
        "{of_task:#?}"
    );
    let whole = format!("{:?}", log.seen);
    assert!(
        !whole.contains(PASSWORD) && !whole.contains("Work. fine"),
        "{whole}"
    );
}
