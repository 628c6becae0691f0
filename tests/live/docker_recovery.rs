//! What a Chargehand does with containers that it finds: without the image, after a start that the daemon refused, after its own kills.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use bollard::query_parameters::{KillContainerOptionsBuilder, TagImageOptionsBuilder};
use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_docker::{Docked, daemon, image, remove_image};
use crate::harness_product::{Setup, lines, turns, until};

/// A command that writes a line five times a second until it is told to end.
const TICKS: &str = "until [ -e go ]; do echo tick >> ticks; sleep 0.2; done";

fn ticking() -> Value {
    turns(json!([bash(TICKS), {"text": "Done."}]))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_image_what_runs_goes_on_and_only_new_tasks_wait() {
    let Some((_, docker)) = daemon("CHARGEHAND_TEST_DOCKER_HOST").await else {
        return;
    };
    let name = format!("chargehand-test-gone-{}", std::process::id());
    let tag = async || {
        let options = TagImageOptionsBuilder::default()
            .repo(&name)
            .tag("latest")
            .build();
        docker.tag_image(&image(), Some(options)).await.unwrap();
    };
    tag().await;
    let mut docked = Docked::start(json!({"image": name}), Setup::default())
        .await
        .unwrap();
    let goes_on = docked.product.client.submit(ticking(), json!({})).await;
    let cancelled = docked.product.client.submit(ticking(), json!({})).await;
    for id in [&goes_on, &cancelled] {
        docked.until_lines(id, "ticks", 2).await;
    }
    docked.product.kill();
    // The containers keep what they need of it; the name is gone.
    remove_image(&docker, &name).await;
    docked.product.start_again().await;
    until("health names the image", || async {
        let health = docked.product.client.ok("health", json!({})).await;
        let health = health.to_string();
        (health.contains(&name) && health.contains("docker build --target worker")).then_some(())
    })
    .await;
    let waits = docked.product.client.submit(ticking(), json!({})).await;
    std::fs::write(docked.workdir_of(&goes_on).join("go"), "").unwrap();
    docked
        .product
        .ended_saying(&goes_on, "completed", "Done.")
        .await;
    docked.product.client.control(&cancelled, "cancel").await;
    docked.product.ended(&cancelled, "cancelled").await;
    until("both containers are removed", || async {
        docked.containers().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(
        docked.product.client.status(&waits).await["phase"],
        "queued"
    );

    tag().await;
    std::fs::write(docked.workdir(&waits).await.join("go"), "").unwrap();
    docked
        .product
        .ended_saying(&waits, "completed", "Done.")
        .await;
    docked.stop().await;
    remove_image(&docker, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_the_daemon_refuses_is_tried_again_until_it_works() {
    let Some(docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let id = docked.product.client.submit(ticking(), json!({})).await;
    docked.until_lines(&id, "ticks", 2).await;
    let workdir = docked.workdir(&id).await;
    let away = workdir.with_file_name("away");
    // What is to be mounted is not there: no start can succeed.
    std::fs::rename(&workdir, &away).unwrap();
    let kill = KillContainerOptionsBuilder::default()
        .signal("KILL")
        .build();
    docked
        .docker
        .kill_container(&docked.name(&id), Some(kill))
        .await
        .unwrap();
    docked.until_state(&id, "exited").await;
    // Many times what it takes to give a worker up that ends by itself.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(docked.product.client.status(&id).await["phase"], "running");
    std::fs::rename(&away, &workdir).unwrap();
    std::fs::write(workdir.join("go"), "").unwrap();
    docked.product.ended_saying(&id, "completed", "Done.").await;
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_our_own_is_no_lack_of_memory() {
    let Some(mut docked) = Docked::start(json!({"memory": "1g"}), Setup::default()).await else {
        return;
    };
    // The child that is killed for memory leaves its mark on the whole container.
    let greedy = "dd if=/dev/zero of=/dev/null bs=900M count=1; echo ended with $? > code.txt";
    let script = turns(json!([bash(greedy), bash(TICKS), {"text": "Done."}]));
    let id = docked.product.client.submit(script, json!({})).await;
    docked.until_lines(&id, "ticks", 2).await;
    docked.product.kill();
    // As a reboot does, but for the container, which runs on with a password that nobody knows.
    let container = docked.container(&id).await.unwrap();
    let secrets = container.mounts.into_iter().flatten().find_map(|mount| {
        (mount.destination.as_deref() == Some("/run/chargehand")).then(|| mount.source.unwrap())
    });
    std::fs::remove_dir_all(secrets.unwrap()).unwrap();
    docked.product.start_again().await;
    let ticks = docked.workdir_of(&id).join("ticks");
    docked
        .product
        .client
        .until_event(&id, "worker_changed")
        .await;
    std::fs::write(ticks.with_file_name("go"), "").unwrap();
    docked.product.ended_saying(&id, "completed", "Done.").await;
    assert!(lines(&ticks) >= 2);
    docked.stop().await;
}
