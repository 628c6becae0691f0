//! What a worker may take: memory, processes, disk. Over a limit the task says so, and what it did before is kept.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_docker::Docked;
use crate::harness_product::{Setup, turns};

async fn run(docked: &Docked, commands: &[&str], status: &str) -> (String, Value) {
    let mut script: Vec<Value> = commands.iter().map(|command| bash(command)).collect();
    script.push(json!({"text": "Done."}));
    let id = docked
        .product
        .client
        .submit(turns(json!(script)), json!({}))
        .await;
    let seen = docked.product.ended(&id, status).await;
    (id, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_memory_fails_naming_the_limit_and_keeps_its_files() {
    // HOME and /tmp are memory: what is written there leaves none for OpenCode itself.
    let engine = json!({"memory": "600m", "tmpfs": "2g"});
    let Some(docked) = Docked::start(engine, Setup::default()).await else {
        return;
    };
    let fill = "sleep 1; dd if=/dev/zero of=/tmp/fill bs=1M count=2000";
    let (id, seen) = run(&docked, &["echo kept > kept.txt", fill], "failed").await;
    let error = seen["error"].as_str().unwrap();
    assert!(
        error.contains("out of memory") && error.contains("600 MB"),
        "{error}"
    );
    assert_eq!(seen["error_kind"], "worker_lost", "{seen:#}");
    let planner = &docked.product.client;
    assert_eq!(planner.file(&id, "kept.txt").await["content"], "kept\n");
    let patch = planner.artifact(&id, "changes.diff").await.unwrap();
    assert!(patch.contains("kept.txt"), "{patch}");
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_without_memory_is_its_own_matter() {
    let Some(docked) = Docked::start(json!({"memory": "1g"}), Setup::default()).await else {
        return;
    };
    let greedy = "dd if=/dev/zero of=/dev/null bs=900M count=1; echo ended with $? > code.txt";
    let (id, seen) = run(&docked, &[greedy], "completed").await;
    assert_eq!(seen["output"], "Done.");
    let planner = &docked.product.client;
    assert_eq!(
        planner.file(&id, "code.txt").await["content"],
        "ended with 137\n"
    );
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_limited_and_a_fork_bomb_hurts_nobody_else() {
    let Some(docked) = Docked::start(json!({"pids": 128}), Setup::default()).await else {
        return;
    };
    // The shell asks again for what was refused, for some seconds: the first ones have ended by then.
    let many = ["for i in $(seq 150); do sleep 4 & done 2>errors.txt; wait"];
    let ((counted, _), bombed) = tokio::join!(run(&docked, &many, "completed"), bomb(&docked));
    assert!(
        ["completed", "failed", "timeout"].contains(&bombed.as_str()),
        "{bombed}"
    );
    let errors = docked.product.client.file(&counted, "errors.txt").await;
    let errors = errors["content"].as_str().unwrap();
    assert!(
        errors.contains("Resource temporarily unavailable"),
        "150 processes were made where 128 may be: {errors:?}"
    );
    // The machine can still run tasks.
    run(&docked, &["true"], "completed").await;
    docked.stop().await;
}

/// How a task with a fork bomb ends: soon, whatever it is that it cannot do any more.
async fn bomb(docked: &Docked) -> String {
    let script = turns(json!([bash("b() { b | b & }; b; sleep 2"), {"text": "Done."}]));
    let more = json!({"timeout_ms": 25_000});
    let id = docked.product.client.submit(script, more).await;
    let seen = docked.product.everybody().final_status(&id).await;
    let status = seen["status"].as_str().unwrap().to_owned();
    docked.product.ended(&id, &status).await;
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_grows_over_the_limit_ends_the_task_with_the_reason() {
    let engine = json!({"disk": "64m", "tmpfs": "32m"});
    let Some(docked) = Docked::start(engine, Setup::default()).await else {
        return;
    };
    // A full /tmp is an error of the command; a full workdir is the end.
    let tmp = "dd if=/dev/zero of=/tmp/fill bs=1M count=64 2> tmp.txt; rm /tmp/fill";
    let big = "dd if=/dev/zero of=big.bin bs=1M count=200; sleep 60";
    let (id, seen) = run(&docked, &[tmp, big], "failed").await;
    let error = seen["error"].as_str().unwrap();
    assert!(
        error.contains("64 MB") && error.contains("engines.docker.disk"),
        "{error}"
    );
    let full = docked.product.client.file(&id, "tmp.txt").await;
    assert!(
        full["content"].as_str().unwrap().contains("No space left"),
        "{full:#}"
    );
    docked.stop().await;
}
