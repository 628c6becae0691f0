//! The engine `remote`: an OpenCode server that somebody else runs, with sessions that are none of ours.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use chargehand::scripted_model::ScriptedModel;
use serde_json::{Value, json};

use crate::harness::{bash, opencode};
use crate::harness_foreign::Foreign;
use crate::harness_product::{Product, Setup, turns, until, wait_for};

/// Works on a task with the remote engine; gives its final status.
async fn does_a_task(product: &Product, foreign: &Foreign) -> Value {
    let planner = &product.client;
    let script = turns(json!([
        {"tools": [{"name": "write", "args": {"filePath": "{{cwd}}/tool.txt", "content": "by the tool\n"}}]},
        bash("echo by the shell > shell.txt; pwd"),
        {"text": "In {{last_tool}}"}]));
    let id = planner.submit(script, json!({})).await;
    let seen = product.ended(&id, "completed").await;
    assert_eq!(seen["engine"], "remote");
    let session = seen["session_id"].as_str().unwrap();
    assert_eq!(
        foreign.worker.session(session).await,
        None,
        "our session is still there"
    );
    for (path, content) in [
        ("tool.txt", "by the tool\n"),
        ("shell.txt", "by the shell\n"),
    ] {
        assert_eq!(planner.file(&id, path).await["content"], content);
    }
    assert_eq!(seen["changes"]["files_total"], 2, "{seen:#}");
    let diff = planner.artifact(&id, "changes.diff").await.unwrap();
    assert!(
        diff.contains("+by the tool") && diff.contains("+by the shell"),
        "{diff}"
    );

    let long = planner
        .submit(
            turns(json!([bash("sleep 605"), {"text": "Never."}])),
            json!({}),
        )
        .await;
    planner
        .until(&long, "the command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    planner.control(&long, "cancel").await;
    let cancelled = product.ended(&long, "cancelled").await;
    let session = cancelled["session_id"].as_str().unwrap();
    assert_eq!(
        foreign.worker.session(session).await,
        None,
        "our session is still there"
    );
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_same_paths_and_with_a_path_map() {
    let Some(program) = opencode().await else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let model = ScriptedModel::start(([127, 0, 0, 1], 0).into(), Vec::new())
        .await
        .unwrap();
    let foreign = Foreign::start(&program, &place.path().join("home"), &model).await;
    let project = place.path().join("project");
    std::fs::create_dir_all(&project).unwrap();
    let other = json!({"chargehand": {"instance": "000000000000", "task": "6b2b8c1e-0000-4000-8000-00000000000a", "attempt": 1}});
    let foreign_sessions = [
        foreign.session(&project, json!({})).await,
        foreign.session(&project, other).await,
    ];

    let setup = Setup {
        remote: Some(foreign.same_paths()),
        ..Setup::default()
    };
    let product = Product::start(setup).await.unwrap();
    let seen = does_a_task(&product, &foreign).await;
    assert!(
        seen["output"].as_str().unwrap().contains("/data/workdirs/"),
        "{seen:#}"
    );
    product.stop().await;

    let mut mapped = foreign.setting();
    let seen_as = place.path().join("seen-as");
    mapped["path_map"] = json!({"{place}/data/workdirs": seen_as});
    let setup = Setup {
        remote: Some(mapped),
        ..Setup::default()
    };
    let mut product = Product::start(setup).await.unwrap();
    // The same directory under another name, as a mount would make it.
    std::os::unix::fs::symlink(product.data().join("workdirs"), &seen_as).unwrap();
    does_a_task(&product, &foreign).await;
    // A session that carries our instance and belongs to no task is removed at the next start, by the server's path.
    product.kill();
    let lost = seen_as.join("6b2b8c1e-0000-4000-8000-00000000000b/1/work");
    std::fs::create_dir_all(&lost).unwrap();
    let owner = json!({"chargehand": {"instance": product.instance(), "task": "6b2b8c1e-0000-4000-8000-00000000000b", "attempt": 1}});
    let stale = foreign.session(&lost, owner).await;
    product.start_again().await;
    until("the stale session is gone", || async {
        foreign.worker.session(&stale).await.is_none().then_some(())
    })
    .await;
    product.stop().await;

    for id in &foreign_sessions {
        assert!(
            foreign.worker.session(id).await.is_some(),
            "a session of somebody else was removed"
        );
    }
    let all = foreign
        .worker
        .get("/experimental/session?limit=1000")
        .await
        .unwrap();
    assert_eq!(all.as_array().unwrap().len(), 2, "{all:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chargehand_is_killed_with_a_remote_task_running() {
    let Some(program) = opencode().await else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let model = ScriptedModel::start(([127, 0, 0, 1], 0).into(), Vec::new())
        .await
        .unwrap();
    let foreign = Foreign::start(&program, &place.path().join("home"), &model).await;
    let setup = Setup {
        remote: Some(foreign.same_paths()),
        ..Setup::default()
    };
    let mut product = Product::start(setup).await.unwrap();
    let gate = place.path().join("gate");
    let script = turns(json!([bash(&wait_for(&gate)), {"text": "Taken over."}]));
    let id = product.client.submit(script, json!({})).await;
    product
        .client
        .until(&id, "the command runs", |seen| {
            seen["doing"].as_str().unwrap().contains("bash")
        })
        .await;
    product.kill();
    product.start_again().await;
    std::fs::write(&gate, "").unwrap();
    let seen = product.ended_saying(&id, "completed", "Taken over.").await;
    assert_eq!(
        foreign
            .worker
            .session(seen["session_id"].as_str().unwrap())
            .await,
        None
    );
    product.stop().await;
}
