//! `chargehand demo` and `run` with the real OpenCode: a finished task, its diff, and nothing left behind.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness;

/// The program with a data directory of its own and the OpenCode that the tests use.
fn chargehand(data: &Path, opencode: &Path) -> Command {
    let mut command = Command::new(harness::chargehand());
    for (name, _) in std::env::vars() {
        if name.starts_with("CHARGEHAND_") || name.ends_with("_API_KEY") {
            command.env_remove(name);
        }
    }
    command
        .env("CHARGEHAND_ENGINES_LOCAL_OPENCODE", opencode)
        .env("XDG_CONFIG_HOME", data)
        .env("CHARGEHAND_DATA_DIR", data)
        .stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn told(output: &Output) -> String {
    format!("{}\n{}", text(&output.stderr), text(&output.stdout))
}

#[tokio::test]
async fn the_demo_ends_with_a_mended_program_and_nothing_left() {
    let Some(opencode) = harness::opencode().await else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let output = chargehand(data.path(), &opencode)
        .args(["demo", "--scripted"])
        .output()
        .unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    for wanted in [
        "built-in SCRIPTED model",
        "bash: sh test.sh",
        "everything is stopped, no process is left",
        "+if [ $((year % 4)) -eq 0 ] && [ $((year % 100)) -ne 0 ] || [ $((year % 400)) -eq 0 ]; then",
        "+++ b/CHANGES.md",
        "✓ completed",
    ] {
        assert!(told.contains(wanted), "{wanted:?} is not in:\n{told}");
    }
    let left = std::fs::read_dir(data.path().join("own")).unwrap().count();
    assert_eq!(left, 0, "the private data directory is removed");
}

#[tokio::test]
async fn a_run_that_times_out_says_so_and_leaves_no_process() {
    let Some(opencode) = harness::opencode().await else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("chargehand.toml");
    // Nobody listens on port 9: the provider never answers, and OpenCode asks again for longer than the task may run.
    let provider = r#"
[engines.local]
model = "nobody/model"
[engines.local.opencode_config.provider.nobody]
npm = "@ai-sdk/openai-compatible"
options = { baseURL = "http://127.0.0.1:9/v1", apiKey = "none" }
models = { model = { name = "Nobody" } }
"#;
    std::fs::write(&config, provider).unwrap();
    let output = chargehand(data.path(), &opencode)
        .args([
            "run",
            "Say hello",
            "--own-server",
            "--timeout",
            "5s",
            "--json",
            "--config",
        ])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", told(&output));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["status"], "timeout");
    assert_eq!(processes_of(data.path()), Vec::<String>::new());
}

/// Command lines of the processes that name `directory` in their environment or command line.
fn processes_of(directory: &Path) -> Vec<String> {
    let name = directory.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| text(&std::fs::read(entry.path().join(file)).unwrap_or_default());
        let command = read("cmdline");
        if command.contains(name) || read("environ").contains(name) {
            found.push(command.replace('\0', " "));
        }
    }
    found
}
