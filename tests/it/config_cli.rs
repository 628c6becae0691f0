//! `chargehand config`, and how `serve` takes settings: from files, variables and flags, with every mistake named.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::cli_support::{Finished, command};

/// Runs the program with these variables and no configuration of this machine's user.
async fn run(home: &Path, args: &[&str], env: &[(&str, &str)]) -> Finished {
    let mut command = command(args);
    command.env("HOME", home).env_remove("XDG_CONFIG_HOME");
    for name in ["DEBUG", "NODE_ENV"] {
        command.env_remove(name);
    }
    let output = command.envs(env.iter().copied()).output().await.unwrap();
    Finished {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A home with this file at its usual place.
fn home_with(file: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/chargehand");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("chargehand.toml"), file).unwrap();
    home
}

#[tokio::test]
async fn a_check_says_everything_that_is_wrong_at_once() {
    let home = home_with("[tasks]\nmax_running = 0\nmax_qeued = 5\n[log]\nformat = \"xml\"\n");
    let env = [
        ("CHARGEHAND_SERVER_BNID", "127.0.0.1:1"),
        ("MATRIX_ENABLED", "true"),
        ("MATRIX_HOMESERVER_URL", "https://matrix.example.org"),
        ("RUNNER_IMAGE", "x"),
        ("LETTA_API_URL", "https://letta"),
        ("ENABLE_ASYNC_EXECUTE", "true"),
    ];
    let ended = run(home.path(), &["config", "check"], &env).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for line in [
        "problem: tasks.max_running is 0; allowed: a whole number from 1 to 1000",
        "problem: tasks.max_qeued is no setting; allowed: did you mean tasks.max_queued?",
        "problem: log.format is \"xml\"; allowed: text or json",
        "problem: CHARGEHAND_SERVER_BNID is the variable of no setting; allowed: did you mean CHARGEHAND_SERVER_BIND?",
        if cfg!(feature = "matrix") {
            "problem: matrix.access_token is missing"
        } else {
            "problem: MATRIX_ENABLED is true"
        },
        "note: ENABLE_ASYNC_EXECUTE is not used",
        "5 problems: the settings cannot be used",
        "/.config/chargehand/chargehand.toml",
    ] {
        assert!(ended.out.contains(line), "{line:?} is not in {}", ended.out);
    }
    let json = run(home.path(), &["config", "check", "--json"], &env).await;
    let report: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&report["ok"], json.code), (&Value::Bool(false), Some(1)));
    assert_eq!(report["problems"].as_array().unwrap().len(), 5, "{report}");
    assert_eq!(report["notes"].as_array().unwrap().len(), 1, "{report}");

    // A server refuses the same, in the same words.
    let serve = run(home.path(), &["serve"], &env).await;
    assert_eq!(serve.code, Some(2), "{serve:?}");
    assert!(serve.err.contains("nothing was started"), "{}", serve.err);
    for problem in report["problems"].as_array().unwrap() {
        let words = problem["problem"].as_str().unwrap();
        assert!(serve.err.contains(words), "{words} is not in {}", serve.err);
    }
    assert!(!home.path().join(".local").exists(), "nothing was made");
}

#[tokio::test]
async fn what_is_in_force_is_shown_with_where_it_came_from_and_without_secrets() {
    let home = home_with(
        "[tasks]\nmax_queued = 7\n[engines.local]\nenv = { OPENAI_API_KEY = \"hunter2hunter2\" }\n",
    );
    let env = [
        ("MAX_CONCURRENT_TASKS", "9"),
        ("CHARGEHAND_AUTH_TOKEN", "hunter2hunter2hunter2"),
    ];
    let args = ["config", "show", "--set", "log.level=debug"];
    let shown = run(home.path(), &args, &env).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let lines: Vec<Vec<&str>> = shown
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for line in [
        &["tasks.max_queued", "file", "7"][..],
        &["tasks.max_running", "MAX_CONCURRENT_TASKS", "9"],
        &["log.level", "flag", "\"debug\""],
        &["auth.token", "CHARGEHAND_AUTH_TOKEN", "\"«redacted»\""],
    ] {
        assert!(
            lines.iter().any(|found| found == line),
            "{line:?} is not in {}",
            shown.out
        );
    }
    assert!(shown.out.contains("OPENAI_API_KEY"), "{}", shown.out);
    assert!(
        !shown.out.contains("server.bind"),
        "a default: {}",
        shown.out
    );

    let all = run(home.path(), &["config", "show", "--all", "--json"], &env).await;
    let report: Value = serde_json::from_str(&all.out).unwrap();
    let settings = report["settings"].as_array().unwrap();
    assert!(settings.len() > 40, "{report}");
    let bind = settings
        .iter()
        .find(|s| s["name"] == "server.bind")
        .unwrap();
    assert_eq!(
        (bind["value"].as_str(), bind["from"].as_str()),
        (Some("127.0.0.1:3500"), Some("default"))
    );
    assert!(
        !format!("{shown:?}{all:?}").contains("hunter2"),
        "a secret was shown"
    );
}

#[tokio::test]
async fn any_setting_is_a_flag() {
    let home = home_with("[tasks]\nmax_running = 5\n");
    let value = |args: Vec<&'static str>| {
        let home = home.path().to_owned();
        async move { run(&home, &args, &[("CHARGEHAND_TASKS_MAX_RUNNING", "6")]).await }
    };
    let shown = value(vec!["config", "show", "--set", "tasks.max_running=7"]).await;
    assert!(shown.out.contains("flag"), "{shown:?}");
    for (args, words) in [
        (
            vec!["config", "check", "--set", "tasks.max_runing=7"],
            "did you mean tasks.max_running?",
        ),
        (
            vec!["config", "check", "--set", "tasks.max_running=many"],
            "tasks.max_running (flag) is \"many\"",
        ),
        (
            vec!["config", "check", "--set", "tasks.max_running"],
            "expected SECTION.NAME=VALUE",
        ),
        (
            vec![
                "serve",
                "--max-running",
                "3",
                "--set",
                "tasks.max_running=4",
            ],
            "tasks.max_running is given twice",
        ),
        (
            vec!["serve", "--engine", "podman"],
            "engine.default is \"podman\", which is not configured",
        ),
    ] {
        let ended = value(args.clone()).await;
        let said = format!("{}{}", ended.out, ended.err);
        assert!(
            ended.code != Some(0) && said.contains(words),
            "{args:?}: {said}"
        );
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_never_shown() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("own.toml");
    let name = file.to_str().unwrap();
    for (content, words) in [
        (&b"[auth]\ntoken = \"hunter2hunter2\" hunter2"[..], "line 2"),
        (b"\xff\xfe", "cannot be read"),
    ] {
        std::fs::write(&file, content).unwrap();
        let ended = run(home.path(), &["config", "check", "--config", name], &[]).await;
        let said = format!("{}{}", ended.out, ended.err);
        assert_ne!(ended.code, Some(0), "{said}");
        assert!(said.contains(name) && said.contains(words), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let missing = run(
        home.path(),
        &["config", "check", "--config", "/nowhere.toml"],
        &[],
    )
    .await;
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.err.contains("/nowhere.toml"), "{}", missing.err);
    let variable = [("CHARGEHAND_CONFIG", "/nowhere-either.toml")];
    let missing = run(home.path(), &["config", "show"], &variable).await;
    assert!(missing.err.contains("/nowhere-either.toml"), "{missing:?}");
}

#[tokio::test]
async fn files_with_secrets_that_everybody_can_read_are_named() {
    let home = home_with("[auth]\ntoken_file = \"~/token\"\n");
    let token = home.path().join("token");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    for (mode, told) in [(0o644, true), (0o600, false)] {
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).unwrap();
        let ended = run(home.path(), &["config", "check"], &[]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let found =
            ended.out.contains("can be read by every user") && ended.out.contains("chmod 600");
        assert_eq!(found, told, "{mode:o}: {}", ended.out);
    }
}
