//! Tasks in containers: the whole way, with what the other engines can do.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_docker::Docked;
use crate::harness_product::{Setup, turns, until};

fn write(path: &str, content: &str) -> Value {
    json!({"tools": [{"name": "write", "args": {"filePath": format!("{{{{cwd}}}}/{path}"), "content": content}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coding_task_of_five_steps_streams_takes_a_message_and_leaves_files() {
    let Some(docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let planner = &docked.product.client;
    let script = json!({
        "turns": [
            write("hello.txt", "first\n"),
            {"tools": [{"name": "read", "args": {"filePath": "{{cwd}}/hello.txt"}}]},
            bash("id -u > who.txt; until [ -e go ]; do sleep 0.05; done"),
            {"text": "Nobody told me."}],
        "on_message": [{"contains": "blue", "turns": [bash("echo blue > color.txt"), {"text": "Done, in blue."}]}]});
    let id = planner.submit(script, json!({})).await;
    planner
        .until(&id, "the command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    // While it runs: its container, its file, and a message to it.
    assert_eq!(docked.state(&id).await, "running");
    assert_eq!(planner.file(&id, "hello.txt").await["content"], "first\n");
    planner.message(&id, "Make it blue.").await;
    std::fs::write(docked.workdir(&id).await.join("go"), "").unwrap();

    let seen = docked
        .product
        .ended_saying(&id, "completed", "Done, in blue.")
        .await;
    assert_eq!(seen["messages_waiting"], 0);
    assert_eq!(planner.file(&id, "color.txt").await["content"], "blue\n");
    assert_eq!(planner.file(&id, "who.txt").await["content"], "10001\n");
    let patch = planner.artifact(&id, "changes.diff").await.unwrap();
    assert!(
        patch.contains("hello.txt") && patch.contains("+blue"),
        "{patch}"
    );
    let events = planner.history(&id).await;
    let told = |word: &str| events.iter().any(|one| one["event"] == word);
    assert!(
        told("tools_finished") && told("message_taken_up"),
        "{events:#?}"
    );
    assert_eq!(seen["steps"], 5, "{seen:#}");
    // It was told of its limits.
    let asked = docked.product.model.requests();
    let first = asked.iter().find(|one| one.scenario == "inline").unwrap();
    assert!(
        first.body.to_string().contains("1024 MB of memory"),
        "{:#}",
        first.body
    );
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_run_side_by_side_up_to_the_limit_each_in_its_own_container() {
    let setup = Setup {
        tasks: json!({"max_running": 3}),
        ..Setup::default()
    };
    let Some(docked) = Docked::start(json!({"memory": "600m"}), setup).await else {
        return;
    };
    let planner = &docked.product.client;
    let mut tasks = Vec::new();
    for number in 0..4 {
        let wait =
            format!("echo {number} > mine.txt; until [ -e go ]; do sleep 0.1; done; ls /workspace");
        let script = turns(json!([bash(&wait), {"text": format!("Done {number}.")}]));
        tasks.push(planner.submit(script, json!({})).await);
    }
    for id in &tasks[..3] {
        planner
            .until(id, "the command runs", |seen| {
                seen["doing"].as_str().unwrap().contains("bash")
            })
            .await;
    }
    assert_eq!(planner.status(&tasks[3]).await["phase"], "queued");
    assert_eq!(docked.containers().await.len(), 3);
    // Three OpenCodes hold some hundred MB each.
    until("health tells what the workers hold", || async {
        let health = docked.product.everybody().ok("health", json!({})).await;
        let parts = health["parts"].as_array().unwrap().clone();
        let of = |part: &Value| part["detail"].as_str().map(str::to_owned);
        let mut details = parts.iter().filter_map(of);
        let detail = details.find(|detail| detail.contains("3 workers, "))?;
        let megabytes = detail.split("3 workers, ").nth(1)?.split(' ').next()?;
        megabytes
            .parse::<u64>()
            .ok()
            .filter(|held| (200..2_000).contains(held))
    })
    .await;
    for id in &tasks[..3] {
        std::fs::write(docked.workdir(id).await.join("go"), "").unwrap();
    }
    std::fs::write(docked.workdir(&tasks[3]).await.join("go"), "").unwrap();
    for (number, id) in tasks.iter().enumerate() {
        docked
            .product
            .ended_saying(id, "completed", &format!("Done {number}."))
            .await;
        let mine = planner.file(id, "mine.txt").await;
        assert_eq!(mine["content"], format!("{number}\n"));
    }
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_commands_run_before_the_first_prompt_and_are_told() {
    let setup = Setup {
        more: json!({"worker": {"setup": {
            "": ["sleep 1; id -u > made.txt", "cat made.txt >> twice.txt; cat made.txt >> twice.txt"],
            "/nowhere/*": ["false"]}}}),
        ..Setup::default()
    };
    let Some(docked) = Docked::start(json!({}), setup).await else {
        return;
    };
    let planner = &docked.product.client;
    let script =
        turns(json!([bash("test -e twice.txt && cp twice.txt seen.txt"), {"text": "Done."}]));
    let id = planner.submit(script, json!({})).await;
    docked.product.ended_saying(&id, "completed", "Done.").await;
    assert_eq!(
        planner.file(&id, "seen.txt").await["content"],
        "10001\n10001\n"
    );
    let events = planner.history(&id).await;
    let told = events.iter().find(|event| {
        event["event"] == "tools_finished" && event["message"].as_str().unwrap().contains("setup")
    });
    assert!(told.is_some(), "{events:#?}");
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_command_that_fails_ends_the_task_with_what_it_said() {
    let setup = Setup {
        more: json!({"worker": {"setup": {"*": ["echo no such thing >&2; exit 3"]}}}),
        ..Setup::default()
    };
    let Some(docked) = Docked::start(json!({}), setup).await else {
        return;
    };
    let id = docked
        .product
        .client
        .submit(turns(json!([{"text": "Never."}])), json!({}))
        .await;
    let seen = docked.product.ended(&id, "failed").await;
    let error = seen["error"].as_str().unwrap();
    for word in ["setup command", "ended with 3", "no such thing"] {
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(docked.product.model_calls(), 0);
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_does_not_wait_for_a_setup_command() {
    let setup = Setup {
        tasks: json!({"max_running": 1}),
        more: json!({"worker": {"setup": {"*": ["touch begun; sleep 3600"]}}}),
        ..Setup::default()
    };
    let Some(docked) = Docked::start(json!({}), setup).await else {
        return;
    };
    let planner = &docked.product.client;
    let id = planner
        .submit(turns(json!([{"text": "Never."}])), json!({}))
        .await;
    let begun = docked.workdir(&id).await.join("begun");
    until("the setup has begun", || async {
        begun.exists().then_some(())
    })
    .await;
    assert_eq!(planner.status(&id).await["phase"], "starting");
    planner.control(&id, "cancel").await;
    docked.product.ended(&id, "cancelled").await;
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_command_that_fails_late_ends_the_task_and_is_run_once() {
    let setup = Setup {
        // Longer than any call of the engine waits.
        more: json!({"worker": {"setup": {"*": ["echo x >> runs.txt; sleep 35; echo too late >&2; exit 3"]}}}),
        ..Setup::default()
    };
    let Some(docked) = Docked::start(json!({}), setup).await else {
        return;
    };
    let script = turns(json!([{"text": "Never."}]));
    let id = docked.product.client.submit(script, json!({})).await;
    let seen = docked.product.ended(&id, "failed").await;
    let error = seen["error"].as_str().unwrap();
    for word in ["setup command", "ended with 3", "too late"] {
        assert!(error.contains(word), "{error}");
    }
    let runs = docked.product.client.file(&id, "runs.txt").await;
    assert_eq!(runs["content"], "x\n");
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_chargehand_waits_for_the_setup_command_that_runs() {
    for (variable, end, status) in [
        ("CHARGEHAND_TEST_DOCKER_HOST", "true", "completed"),
        ("CHARGEHAND_TEST_DOCKER_HOST", "exit 4", "failed"),
        ("CHARGEHAND_TEST_PODMAN_HOST", "exit 4", "failed"),
    ] {
        let command = format!(
            "echo begun >> runs.txt; until [ -e set ]; do sleep 0.1; done; echo ended >> runs.txt; {end}"
        );
        let setup = Setup {
            more: json!({"worker": {"setup": {"*": [command]}}}),
            ..Setup::default()
        };
        let Some(mut docked) = Docked::with(variable, json!({}), setup).await else {
            return;
        };
        let script = turns(json!([{"text": "Done."}]));
        let id = docked.product.client.submit(script, json!({})).await;
        docked.until_lines(&id, "runs.txt", 1).await;
        docked.product.kill();
        docked.product.start_again().await;
        // Time for a second run to begin, if there were one.
        tokio::time::sleep(std::time::Duration::from_secs(8)).await;
        std::fs::write(docked.workdir_of(&id).join("set"), "").unwrap();
        let seen = docked.product.ended(&id, status).await;
        if status == "failed" {
            let error = seen["error"].as_str().unwrap();
            assert!(error.contains("ended with 4"), "{error}");
        }
        let runs = docked.product.client.file(&id, "runs.txt").await;
        assert_eq!(runs["content"], "begun\nended\n", "{variable} {end}");
        docked.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_command_that_prints_the_secrets_does_not_get_them_told() {
    const KEY: &str = "sk-canary-93b1c2d47a";
    let setup = Setup {
        more: json!({"worker": {"setup": {"*": ["cat /run/chargehand/env /run/chargehand/password >&2; exit 3"]}}}),
        ..Setup::default()
    };
    let engine = json!({"env": {"PROVIDER_API_KEY": KEY}});
    let Some(docked) = Docked::start(engine, setup).await else {
        return;
    };
    let script = turns(json!([{"text": "Never."}]));
    let id = docked.product.client.submit(script, json!({})).await;
    let seen = docked.product.ended(&id, "failed").await;
    let error = seen["error"].as_str().unwrap();
    assert!(
        error.contains("ended with 3") && error.contains("[secret]"),
        "{error}"
    );
    assert!(!error.contains(KEY), "{error}");
    for file in ["journal.db", "journal.db-wal"] {
        let Ok(bytes) = std::fs::read(docked.product.data().join(file)) else {
            continue;
        };
        assert!(!String::from_utf8_lossy(&bytes).contains(KEY), "{file}");
    }
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_that_opencode_is_kept_from_is_none_for_its_commands() {
    for (engine, expected) in [
        (json!({}), "none\n"),
        (
            json!({"env": {"npm_config_registry": "http://registry.invalid/"}}),
            "http://registry.invalid/\n",
        ),
    ] {
        let Some(docked) = Docked::start(engine, Setup::default()).await else {
            return;
        };
        let script = turns(json!([
            bash("echo ${npm_config_registry:-none} > npm.txt"),
            {"text": "Done."}
        ]));
        let id = docked.product.client.submit(script, json!({})).await;
        docked.product.ended_saying(&id, "completed", "Done.").await;
        let told = docked.product.client.file(&id, "npm.txt").await;
        assert_eq!(told["content"], expected);
        docked.stop().await;
    }
}
