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

/// `serve` on a free port, with an engine that never answers and needs nothing installed.
fn serve_command(data: &std::path::Path) -> tokio::process::Command {
    let mut command = command(&["serve", "--listen", "127.0.0.1:0"]);
    command
        .arg("--data-dir")
        .arg(data)
        .env("XDG_CONFIG_HOME", data)
        .env("CHARGEHAND_ENGINES_LOCAL_ENABLED", "false")
        .env("CHARGEHAND_ENGINES_REMOTE_URL", "http://127.0.0.1:9")
        .env("CHARGEHAND_ENGINE_DEFAULT", "remote")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

async fn serve(data: &std::path::Path) -> Serving {
    let mut child = serve_command(data).spawn().unwrap();
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

/// The states of all tasks, by the words of their descriptions.
async fn tasks(url: &str) -> Vec<(String, String)> {
    let listed = chargehand(&["--server", url, "tasks", "--json"], "").await;
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let mut found: Vec<(String, String)> = listed["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| {
            let word = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
            (word("description"), word("status"))
        })
        .collect();
    found.sort();
    found
}

async fn stop(mut serving: Serving) {
    send(&serving.child, Signal::TERM);
    until(&mut serving.lines, "the journal is closed").await;
    let ended = tokio::time::timeout(Duration::from_secs(30), serving.child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_backup_put_in_place_as_the_manual_says_brings_its_tasks_back() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().to_str().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let copy = outside.path().join("j.db");
    let copy = copy.to_str().unwrap();
    let serving = serve(data.path()).await;
    let url = serving.url.clone();
    let run = async |words: &'static str| {
        let args = ["--server", &url, "run", words, "--no-watch", "--json"];
        let handed = chargehand(&args, "").await;
        assert_eq!(handed.code, Some(0), "{handed:?}");
        let answer: Value = serde_json::from_str(&handed.out).unwrap();
        answer["task_id"].as_str().unwrap().to_owned()
    };
    let first = run("first").await;
    run("second").await;
    let backup = chargehand(&["journal", "backup", copy, "--data-dir", folder], "").await;
    assert_eq!(backup.code, Some(0), "{backup:?}");
    let known = tasks(&url).await;
    assert_eq!(known.len(), 2, "{known:?}");
    // What happens later is not in it.
    let cancelled = chargehand(&["--server", &url, "cancel", &first], "").await;
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    run("third").await;
    assert_eq!(tasks(&url).await.len(), 3);
    stop(serving).await;

    // Without the step that takes the old log away there would be a mixture: a killed server leaves one.
    let checked = chargehand(&["journal", "check", copy], "").await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let old = data.path().join(name);
        if old.exists() {
            std::fs::rename(&old, outside.path().join(name)).unwrap();
        }
    }
    std::fs::copy(copy, data.path().join("journal.db")).unwrap();

    let serving = serve(data.path()).await;
    assert_eq!(tasks(&serving.url).await, known, "as at the backup");
    let cancelled = chargehand(&["--server", &serving.url, "cancel", &first], "").await;
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    stop(serving).await;
    let checked = chargehand(&["journal", "check", "--data-dir", folder], "").await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[tokio::test]
async fn a_letta_that_cannot_be_reached_stops_nothing_and_is_told_in_the_health() {
    let data = tempfile::tempdir().unwrap();
    let mut child = serve_command(data.path())
        // Nobody listens there.
        .env("LETTA_API_URL", "http://127.0.0.1:9")
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = until(&mut lines, "serving MCP").await;
    let url = format!("http://{}", line["address"].as_str().unwrap());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let health = chargehand(&["--server", &url, "health"], "").await;
        if health.out.contains("Letta cannot be reached") {
            break;
        }
        assert!(std::time::Instant::now() < end, "{health:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    stop(Serving { child, lines, url }).await;
}

#[tokio::test]
async fn a_hangup_reads_the_tokens_again_and_a_bad_one_changes_nothing() {
    const OLD: &str = "old-0123456789abcdef";
    const NEW: &str = "new-0123456789abcdef";
    let data = tempfile::tempdir().unwrap();
    let settings = data.path().join("chargehand/chargehand.toml");
    std::fs::create_dir_all(settings.parent().unwrap()).unwrap();
    let with = |token: &str| {
        let token = format!("[auth]\ntokens = [{{ name = \"ann\", token = \"{token}\" }}]\n");
        std::fs::write(&settings, token).unwrap();
    };
    with(OLD);
    let mut serving = serve(data.path()).await;
    let url = serving.url.clone();
    let tasks = async |token: &str| {
        let args = ["--server", &url, "--token", token, "tasks"];
        chargehand(&args, "").await.code
    };
    assert_eq!((tasks(OLD).await, tasks(NEW).await), (Some(0), Some(5)));
    with(NEW);
    send(&serving.child, Signal::HUP);
    until(&mut serving.lines, "was read again").await;
    assert_eq!((tasks(OLD).await, tasks(NEW).await), (Some(5), Some(0)));
    for (content, named) in [
        (
            "[auth]\ntokens = [{ name = \"ann\", token = \"short\" }]\n",
            "16 bytes",
        ),
        ("[auth]\ntokens = []\n", "no token any more"),
        ("[auth", "TOML"),
    ] {
        std::fs::write(&settings, content).unwrap();
        send(&serving.child, Signal::HUP);
        let line = until(&mut serving.lines, "was not read again").await;
        assert_eq!(line["level"], "ERROR");
        let why = line["error"].as_str().unwrap();
        assert!(why.contains(named), "{line}");
        assert_eq!(tasks(NEW).await, Some(0), "{content}");
    }
    send(&serving.child, Signal::TERM);
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
