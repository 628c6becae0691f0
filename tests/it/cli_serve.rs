//! `chargehand serve` as a program: it listens, answers, logs JSON on a pipe, and stops on a signal.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr};

use crate::cli_support::{chargehand, command};

struct Serving {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    url: String,
}

/// Starts `serve` on a free port, with an engine that never answers and needs nothing installed.
async fn serve(data: &std::path::Path) -> Serving {
    let mut child = command(&["serve", "--listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(data)
        .env("XDG_CONFIG_HOME", data)
        .env("CHARGEHAND_ENGINES_LOCAL_ENABLED", "false")
        .env("CHARGEHAND_ENGINES_REMOTE_URL", "http://127.0.0.1:9")
        .env("CHARGEHAND_ENGINE_DEFAULT", "remote")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = until(&mut lines, "serving MCP").await;
    let address = line["address"].as_str().unwrap();
    let url = format!("http://{address}");
    Serving { child, lines, url }
}

/// Reads log lines, all of which are JSON, up to the one whose message contains `text`.
async fn until(lines: &mut Lines<BufReader<ChildStderr>>, text: &str) -> Value {
    loop {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await;
        let line = line.unwrap().unwrap().unwrap_or_default();
        let line: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?} is no JSON"));
        if line["message"].as_str().unwrap_or_default().contains(text) {
            return line;
        }
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn it_serves_until_it_is_told_to_stop() {
    let data = tempfile::tempdir().unwrap();
    let mut serving = serve(data.path()).await;
    let tree = chargehand(&["--server", &serving.url, "tree"], "").await;
    assert_eq!(tree.code, Some(0), "{tree:?}");
    assert!(tree.out.contains("└─ engine remote"), "{}", tree.out);
    let health = chargehand(&["--server", &serving.url, "health"], "").await;
    assert!(health.out.contains("engine remote"), "{health:?}");
    let tasks = chargehand(&["--server", &serving.url, "tasks", "--json"], "").await;
    let tasks: Value = serde_json::from_str(&tasks.out).unwrap();
    assert_eq!(tasks["tasks"], serde_json::json!([]));

    let second = command(&["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data.path())
        .env("XDG_CONFIG_HOME", data.path())
        .output()
        .await
        .unwrap();
    let told = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{told}");
    assert!(told.contains("is in use by"), "{told}");

    send(&serving.child, Signal::TERM);
    until(&mut serving.lines, "stopping").await;
    let ended = tokio::time::timeout(Duration::from_secs(30), serving.child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn an_address_in_use_is_named_with_what_to_do() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let path = data.path().to_str().unwrap();
    let ended = chargehand(&["serve", "--listen", &address, "--data-dir", path], "").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains(&address) && ended.err.contains("--listen"),
        "{}",
        ended.err
    );
    assert!(
        !data.path().join("journal.db").exists(),
        "nothing was started"
    );
}

#[tokio::test]
async fn a_wrong_setting_is_a_usage_error_that_names_it() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("chargehand.toml");
    std::fs::write(&file, "[tasks]\nmax_runing = 5\n").unwrap();
    let ended = chargehand(&["serve", "--config", file.to_str().unwrap()], "").await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.err.contains("did you mean tasks.max_running"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn doctor_says_what_to_mend_and_fails_when_tasks_cannot_run() {
    let data = tempfile::tempdir().unwrap();
    // Nothing in PATH: no git, no OpenCode, no npm.
    let output = command(&[
        "doctor",
        "--json",
        "--server",
        "http://127.0.0.1:9",
        "--data-dir",
    ])
    .arg(data.path())
    .env("XDG_CONFIG_HOME", data.path())
    .env("PATH", data.path())
    .output()
    .await
    .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let check = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap()
    };
    assert_eq!(report["ok"], false);
    assert_eq!(check("configuration")["state"], "ok");
    assert_eq!(check("data directory")["state"], "ok");
    for name in ["git", "opencode"] {
        assert_eq!(check(name)["state"], "fail", "{report}");
        assert!(
            check(name)["mend"].as_str().unwrap().contains("install"),
            "{report}"
        );
    }
    assert_eq!(check("server")["state"], "warn");
}
