//! What a task may start from on Chargehand's machine, and the arguments that shape its run.

use std::path::PathBuf;

use chargehand::config::TokenRole;
use chargehand_actors::command::{PermissionAction, PermissionRule};
use chargehand_actors::fakes::World;
use serde_json::{Value, json};

use super::server::{Server, token};

const ANN: &str = "ann-0123456789abcdef";
const EXECUTE: &str = "opencode_execute_task";

fn from(field: &str, value: Value) -> Value {
    let mut arguments = json!({"agent_id": "a", "task_description": "d"});
    arguments[field] = value;
    arguments
}

#[tokio::test(flavor = "multi_thread")]
async fn d7_a_repeat_is_answered_whatever_settings_and_source_are_by_then() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().canonicalize().unwrap().join("source");
    std::fs::create_dir(&source).unwrap();
    let world = World::new(1);
    let asked = json!({
        "agent_id": "a", "task_description": "work 10", "idempotency_key": "k", "timeout_ms": 60_000,
        "directory": source.to_str().unwrap()});
    let allowed = Some(vec![directory.path().to_owned()]);
    let server = Server::on_fakes_with(&world, |settings| {
        settings.tasks.allowed_sources = allowed.clone();
    })
    .await;
    let first = server.client().await.ok(EXECUTE, asked.clone()).await;
    server.stop().await;
    // The answer was lost; meanwhile everything that the call was checked against has changed.
    std::fs::remove_dir(&source).unwrap();
    let server = Server::on_fakes_with(&world, |settings| {
        settings.tasks.allowed_sources = allowed;
        settings.tasks.max_timeout_ms = 30_000;
        settings
            .permissions
            .deny
            .push(PermissionRule::parse("webfetch", PermissionAction::Deny).unwrap());
    })
    .await;
    let client = server.client().await;
    let again = client.ok(EXECUTE, asked.clone()).await;
    assert_eq!(again["task_id"], first["task_id"]);
    assert_eq!(again["existing"], true);
    // How it is waited for is no part of what was asked for; the description is.
    let mut waiting = asked.clone();
    waiting["wait_seconds"] = json!(20);
    let waited = client.ok(EXECUTE, waiting).await;
    assert_eq!(
        (&waited["task_id"], &waited["status"]),
        (&first["task_id"], &json!("completed"))
    );
    let mut other = asked;
    other["task_description"] = json!("work 20");
    let refused = client.refused(EXECUTE, other).await;
    assert_eq!(refused["code"], "IDEMPOTENCY_KEY_REUSED");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tokens_nothing_on_this_machine_is_open_unless_said() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("open")).unwrap();
    std::fs::create_dir_all(root.join("closed")).unwrap();
    std::os::unix::fs::symlink(root.join("closed"), root.join("open/out")).unwrap();
    let at = |name: &str| json!(root.join(name).to_str().unwrap());
    let url = |name: &str| json!({"url": format!("file://{}", root.join(name).display())});
    let open = Some(vec![root.join("open")]);
    let any = Some(vec![PathBuf::from("/")]);
    for (with_token, allowed, fine) in [
        (false, None, ["open", "closed", "open/out"].as_slice()),
        (true, None, &[]),
        (true, Some(Vec::new()), &[]),
        (true, open.clone(), &["open"]),
        (false, open, &["open"]),
        (true, any, &["open", "closed", "open/out"]),
    ] {
        let case = format!("token: {with_token}, allowed: {allowed:?}");
        let server = Server::with(|settings| {
            if with_token {
                settings.auth.tokens = vec![token("ann", ANN, TokenRole::Caller)];
            }
            settings.tasks.allowed_sources = allowed;
        })
        .await;
        let client = server.as_token(ANN);
        for name in ["open", "closed", "open/out"] {
            for (field, value, named) in [
                ("directory", at(name), "directory"),
                ("repository", url(name), "repository.url"),
            ] {
                let answer = client.call(EXECUTE, from(field, value)).await;
                assert_eq!(
                    !answer.refused,
                    fine.contains(&name),
                    "{case}: {field} {name}"
                );
                if answer.refused {
                    assert_eq!(answer.body["fields"][0]["field"], named, "{case}");
                    let text = answer.body["error"].as_str().unwrap();
                    assert!(text.contains("tasks.allowed_sources"), "{text}");
                }
            }
        }
        let elsewhere = json!({"url": "https://127.0.0.1:1/a.git"});
        client.ok(EXECUTE, from("repository", elsewhere)).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_with_another_policy_is_another_task() {
    let server = Server::with(|settings| {
        settings.permissions.deny =
            vec![PermissionRule::parse("webfetch", PermissionAction::Deny).unwrap()];
        settings.watchdog.max_steps = 50;
    })
    .await;
    let client = server.client().await;
    let keyed = |field: &str, value: Value| {
        let mut arguments = from(field, value);
        arguments["idempotency_key"] = json!("k");
        arguments
    };
    let first = client.ok(EXECUTE, keyed("attended", json!(true))).await;
    let again = client.ok(EXECUTE, keyed("attended", json!("true"))).await;
    assert_eq!(first["task_id"], again["task_id"]);
    for (field, value) in [
        ("attended", json!(false)),
        ("permissions", json!({"allow": ["bash"]})),
        ("max_steps", json!(10)),
    ] {
        let other = client.refused(EXECUTE, keyed(field, value)).await;
        assert_eq!(other["code"], "IDEMPOTENCY_KEY_REUSED", "{field}");
    }
    let most = client.refused(EXECUTE, from("max_steps", json!(51))).await;
    assert_eq!(most["fields"][0]["allowed"], "1 to 50 on this server");
    // What the task asks for and what the server forbids are one list, the server's denial last.
    let own = json!({"allow": ["*"], "ask": ["bash:git push*"], "deny": ["edit"]});
    let accepted = client.ok(EXECUTE, from("permissions", own)).await;
    let task = accepted["task_id"].as_str().unwrap();
    let debug: Value = reqwest::get(format!("{}/debug/tasks/{task}", server.url))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let rules = &debug["status"]["view"]["spec"]["permissions"];
    let words: Vec<String> = rules
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| {
            let word = |field: &str| rule[field].as_str().unwrap().to_owned();
            format!(
                "{} {}:{}",
                word("action"),
                word("permission"),
                word("pattern")
            )
        })
        .collect();
    assert_eq!(
        words,
        [
            "allow *:*",
            "ask bash:git push*",
            "deny edit:*",
            "deny webfetch:*"
        ]
    );
    server.stop().await;
}
