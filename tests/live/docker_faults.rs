//! What goes wrong around containers: images, the daemon, somebody's hands, Chargehand's own death.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bollard::query_parameters::{KillContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use serde_json::{Value, json};

use crate::harness::{bash, chargehand};
use crate::harness_docker::{
    Docked, altered_image, control_daemon, control_daemon_with, daemon, image, remove_image,
};
use crate::harness_product::{Setup, lines, turns, until};

/// A command that writes a line five times a second until it is told to end.
const TICKS: &str = "until [ -e go ]; do echo tick >> ticks; sleep 0.2; done";

fn ticking() -> Value {
    turns(json!([bash(TICKS), {"text": "Done."}]))
}

/// Makes the daemon run as before, however a test ends that stops it. Declared after what needs the daemon for its own end.
struct DaemonAgain;

impl Drop for DaemonAgain {
    fn drop(&mut self) {
        signal_daemon("CONT");
        let place = std::env::var_os("CHARGEHAND_TEST_DOCKER_DAEMON_DIR").unwrap();
        for what in ["stop", "start"] {
            let done = Command::new(Path::new(&place).join(what)).status();
            if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
                eprintln!("{what} of the container daemon: {done:?}");
            }
        }
    }
}

/// Sends dockerd a signal, if it runs.
fn signal_daemon(signal: &str) {
    let place = std::env::var_os("CHARGEHAND_TEST_DOCKER_DAEMON_DIR").unwrap();
    if let Ok(pid) = std::fs::read_to_string(Path::new(&place).join("pid")) {
        let pid: i32 = pid.trim().parse().unwrap();
        drop(
            Command::new("kill")
                .args([&format!("-{signal}"), &pid.to_string()])
                .status(),
        );
    }
}

/// How the engine stands, by the tool that tells health.
async fn engine_health(docked: &Docked) -> String {
    let health = docked.product.client.ok("health", json!({})).await;
    health.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_missing_is_told_by_health_and_tasks_wait_for_it() {
    let Some((_, docker)) = daemon("CHARGEHAND_TEST_DOCKER_HOST").await else {
        return;
    };
    let name = format!("chargehand-test-late-{}", std::process::id());
    let docked = Docked::start(json!({"image": name}), Setup::default())
        .await
        .unwrap();
    let planner = &docked.product.client;
    let id = planner
        .submit(turns(json!([{"text": "Done."}])), json!({}))
        .await;
    until("health names the image", || async {
        let health = engine_health(&docked).await;
        (health.contains(&name) && health.contains("docker build --target worker")).then_some(())
    })
    .await;
    assert_eq!(planner.status(&id).await["phase"], "queued");
    let options = bollard::query_parameters::TagImageOptionsBuilder::default()
        .repo(&name)
        .tag("latest")
        .build();
    docker.tag_image(&image(), Some(options)).await.unwrap();
    docked.product.ended_saying(&id, "completed", "Done.").await;
    docked.stop().await;
    remove_image(&docker, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_opencode_fails_naming_what_is_missing() {
    let Some((_, docker)) = daemon("CHARGEHAND_TEST_DOCKER_HOST").await else {
        return;
    };
    let image = altered_image(&docker, "bare", "rm /usr/local/bin/opencode").await;
    let docked = Docked::start(json!({"image": image}), Setup::default())
        .await
        .unwrap();
    let id = docked.product.client.submit(ticking(), json!({})).await;
    let seen = docked.product.ended(&id, "failed").await;
    let error = seen["error"].as_str().unwrap();
    for word in [
        "the program opencode is not in this image",
        &image,
        "engines.docker.image",
    ] {
        assert!(error.contains(word), "{error}");
    }
    docked.stop().await;
    remove_image(&docker, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_started_again_in_its_container_and_goes_on() {
    let Some(docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let planner = &docked.product.client;
    let id = planner.submit(ticking(), json!({})).await;
    docked.until_lines(&id, "ticks", 2).await;
    let before = docked.container(&id).await.unwrap();
    let kill = KillContainerOptionsBuilder::default()
        .signal("KILL")
        .build();
    docked
        .docker
        .kill_container(&docked.name(&id), Some(kill))
        .await
        .unwrap();
    std::fs::write(docked.workdir(&id).await.join("go"), "").unwrap();
    docked.product.ended_saying(&id, "completed", "Done.").await;
    let events = planner.history(&id).await;
    let told = |word: &str| events.iter().any(|event| event["event"] == word);
    assert!(
        told("worker_changed") && told("resume_wanted"),
        "{events:#?}"
    );
    assert!(before.id.is_some());
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_removed_is_a_task_that_failed() {
    let Some(docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let planner = &docked.product.client;
    let id = planner.submit(ticking(), json!({})).await;
    docked.until_lines(&id, "ticks", 2).await;
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    docked
        .docker
        .remove_container(&docked.name(&id), Some(force))
        .await
        .unwrap();
    let seen = docked.product.ended(&id, "failed").await;
    assert_eq!(seen["error_kind"], "session_gone", "{seen:#}");
    let patch = planner.artifact(&id, "changes.diff").await.unwrap();
    assert!(patch.contains("+tick"), "{patch}");
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_chargehand_adopts_its_containers_running_and_paused() {
    let Some(mut docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let running = docked.product.client.submit(ticking(), json!({})).await;
    let paused = docked.product.client.submit(ticking(), json!({})).await;
    let ended = docked.product.client.submit(ticking(), json!({})).await;
    for id in [&running, &paused, &ended] {
        docked.until_lines(id, "ticks", 2).await;
    }
    docked.product.client.control(&paused, "pause").await;
    let before = docked.container(&running).await.unwrap();
    docked.product.kill();
    // Meanwhile one comes to its end.
    std::fs::write(docked.workdir_of(&ended).join("go"), "").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    docked.product.start_again().await;
    docked
        .product
        .ended_saying(&ended, "completed", "Done.")
        .await;
    assert_eq!(docked.state(&paused).await, "paused");
    let after = docked.container(&running).await.unwrap();
    assert_eq!(before.id, after.id);
    assert_eq!(
        before.state.unwrap().started_at,
        after.state.unwrap().started_at,
        "it was started again"
    );
    docked.product.client.control(&paused, "resume").await;
    for id in [&running, &paused] {
        std::fs::write(docked.workdir_of(id).join("go"), "").unwrap();
        docked.product.ended_saying(id, "completed", "Done.").await;
    }
    // Two model calls each: nothing was done twice.
    assert_eq!(docked.product.model_calls(), 6);
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_daemon_stops_and_starts_during_a_task() {
    if control_daemon("status").is_none() {
        return;
    }
    let Some(docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let planner = &docked.product.client;
    let running = planner.submit(ticking(), json!({})).await;
    let paused = planner.submit(ticking(), json!({})).await;
    for id in [&running, &paused] {
        docked.until_lines(id, "ticks", 2).await;
    }
    planner.control(&paused, "pause").await;
    // Without live-restore it takes the containers with it.
    let _again = DaemonAgain;
    control_daemon("stop").unwrap();
    until("health says that the daemon is gone", || async {
        let health = engine_health(&docked).await;
        health.contains("no container daemon at").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Nothing is concluded about the tasks; a cancel still works.
    assert_eq!(planner.status(&running).await["phase"], "running");
    assert_eq!(planner.status(&paused).await["phase"], "paused");
    let late = planner.submit(ticking(), json!({})).await;
    assert_eq!(
        planner.control(&late, "cancel").await["status"],
        "cancelled"
    );
    control_daemon("start").unwrap();

    for id in [&running, &paused] {
        std::fs::write(docked.workdir_of(id).join("go"), "").unwrap();
    }
    docked
        .product
        .ended_saying(&running, "completed", "Done.")
        .await;
    planner.control(&paused, "resume").await;
    docked
        .product
        .ended_saying(&paused, "completed", "Done.")
        .await;
    docked.stop().await;
}

/// A task runs on while dockerd is killed and started again, with these options.
async fn docker_daemon_killed(options: &[&str], container_lives: bool) {
    if control_daemon("status").is_none() {
        return;
    }
    control_daemon("stop").unwrap();
    control_daemon_with("start", options).unwrap();
    let early = DaemonAgain;
    let Some(docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let _again = early;
    let planner = &docked.product.client;
    let id = planner.submit(ticking(), json!({})).await;
    docked.until_lines(&id, "ticks", 2).await;
    let before = docked.container(&id).await.unwrap();
    control_daemon_with("stop", &["KILL"]).unwrap();
    until("health says that the daemon is gone", || async {
        let health = engine_health(&docked).await;
        health.contains("the container daemon").then_some(())
    })
    .await;
    // The worker goes on, and nothing is concluded about its task.
    let counted = lines(&docked.workdir_of(&id).join("ticks"));
    docked.until_lines(&id, "ticks", counted + 5).await;
    assert_eq!(planner.status(&id).await["phase"], "running");
    control_daemon_with("start", options).unwrap();
    if container_lives {
        let after = docked.container(&id).await.unwrap();
        assert_eq!(before.id, after.id);
        assert_eq!(
            before.state.unwrap().started_at,
            after.state.unwrap().started_at,
            "it was started again"
        );
    }
    std::fs::write(docked.workdir_of(&id).join("go"), "").unwrap();
    docked.product.ended_saying(&id, "completed", "Done.").await;
    if container_lives {
        assert!(!planner.has_event(&id, "worker_changed").await);
        assert_eq!(docked.product.model_calls(), 2);
    }
    docked.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_daemon_killed_with_live_restore_changes_nothing_for_a_task() {
    docker_daemon_killed(&["--live-restore"], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_daemon_killed_takes_the_worker_with_it_and_the_task_goes_on() {
    docker_daemon_killed(&[], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_daemon_that_hangs_is_no_end_of_a_task_and_a_cancel_is_carried_out_later() {
    if control_daemon("status").is_none() {
        return;
    }
    let Some(docked) = Docked::start(json!({}), Setup::default()).await else {
        return;
    };
    let planner = &docked.product.client;
    let running = planner.submit(ticking(), json!({})).await;
    let cancelled = planner.submit(ticking(), json!({})).await;
    for id in [&running, &cancelled] {
        docked.until_lines(id, "ticks", 2).await;
    }
    let _again = DaemonAgain;
    signal_daemon("STOP");
    planner.control(&cancelled, "cancel").await;
    let counted = lines(&docked.workdir_of(&running).join("ticks"));
    docked.until_lines(&running, "ticks", counted + 5).await;
    assert_eq!(planner.status(&running).await["phase"], "running");
    signal_daemon("CONT");
    docked.product.ended(&cancelled, "cancelled").await;
    assert_eq!(docked.state(&cancelled).await, "");
    std::fs::write(docked.workdir_of(&running).join("go"), "").unwrap();
    docked
        .product
        .ended_saying(&running, "completed", "Done.")
        .await;
    docked.stop().await;
}

/// A CA, and certificates of the daemon and of a client that it has signed, in PEM; and a client of another CA.
fn certificates(place: &Path) {
    let made = Command::new("sh")
        .current_dir(place)
        .arg("-euc")
        .arg(
            "authority() { openssl req -x509 -newkey rsa:2048 -nodes -keyout $1.key -out $1.pem -days 2 -subj /CN=$1; }
             signed() {
                 openssl req -newkey rsa:2048 -nodes -keyout $1.key -out $1.csr -subj /CN=$1
                 printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=%s\n' $3 >$1.ext
                 openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 2 -extfile $1.ext -out $1.pem
             }
             authority ca; authority stranger
             signed daemon ca serverAuth; signed client ca clientAuth; signed outsider stranger clientAuth",
        )
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_daemon_is_spoken_to_over_tcp_with_mutual_tls() {
    if control_daemon("status").is_none() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    certificates(place.path());
    let file = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let address = "tcp://127.0.0.1:23760";
    control_daemon("stop").unwrap();
    let (ca, cert, key) = (file("ca.pem"), file("daemon.pem"), file("daemon.key"));
    let options = [
        "--host",
        address,
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
    ];
    let early = DaemonAgain;
    control_daemon_with("start", &options).unwrap();

    let engine = json!({
        "host": address, "tls_ca": ca, "tls_cert": file("client.pem"), "tls_key": file("client.key")});
    let Some(docked) = Docked::start(engine, Setup::default()).await else {
        return;
    };
    let _again = early;
    let task = docked.product.client.submit(ticking(), json!({})).await;
    docked.until_lines(&task, "ticks", 2).await;
    std::fs::write(docked.workdir_of(&task).join("go"), "").unwrap();
    docked
        .product
        .ended_saying(&task, "completed", "Done.")
        .await;
    docked.stop().await;

    // Somebody with a certificate of another authority is kept out.
    let settings = format!(
        "[engine]\ndefault = \"docker\"\n[engines.docker]\nhost = \"{address}\"\ntls_ca = \"{ca}\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
        file("outsider.pem"),
        file("outsider.key")
    );
    std::fs::write(file("chargehand.toml"), settings).unwrap();
    let start = Command::new(chargehand())
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--config",
            &file("chargehand.toml"),
        ])
        .args(["--data-dir", &file("data")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&start.stderr);
    assert!(!start.status.success(), "{said}");
    assert!(said.contains("there is no container daemon"), "{said}");
    assert!(said.contains("Nothing was started"), "{said}");
}
