//! compose.yaml for real: `up` gives a healthy server whose tasks run in containers beside it, on a network that both are in.
//!
//! In: `CHARGEHAND_TEST_COMPOSE` (the program, with its first arguments), the base image of the tests, OpenCode's program. The images are
//! built from the public Dockerfile with the program of this build.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bollard::Docker;
use chargehand::scripted_model::{ScriptedModel, opencode_provider_config};
use serde_json::{Value, json};

use crate::harness::{bash, chargehand};
use crate::harness_docker::{Way, daemon, gateway};
use crate::harness_product::{task, turns, until};

/// A project of compose; taken down with the value.
struct Project {
    program: String,
    environment: Vec<(String, String)>,
    place: tempfile::TempDir,
}

impl Project {
    fn new(program: String, host: &str, model: &str) -> Self {
        let place = tempfile::Builder::new()
            .prefix("chargehand-compose-")
            .tempdir()
            .unwrap();
        let secrets = format!("/dev/shm/chargehand-compose-{}", std::process::id());
        let config = toml::Value::try_from(opencode_provider_config(model)).unwrap();
        let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
        let environment = [
            ("DOCKER_HOST", host.to_owned()),
            (
                "DOCKER_SOCKET",
                host.strip_prefix("unix://").unwrap().to_owned(),
            ),
            (
                "COMPOSE_PROJECT_NAME",
                format!("chargehand{}", std::process::id()),
            ),
            ("DOCKER_BUILDKIT", "0".to_owned()),
            ("CHARGEHAND_BUILD_CONTEXT", path("context")),
            ("CHARGEHAND_BUILD_TARGET", "chargehand-runtime".to_owned()),
            ("BASE_IMAGE", "chargehand-test-base".to_owned()),
            ("CHARGEHAND_DATA_DIR", path("data")),
            ("CHARGEHAND_SECRETS_DIR", secrets),
            ("MCP_PORT", free_port().to_string()),
            (
                "CHARGEHAND_ENGINES_DOCKER_OPENCODE_CONFIG",
                config.to_string(),
            ),
            // A name of the original's.
            ("RUNNER_MEMORY_LIMIT", "900m".to_owned()),
        ];
        let environment = environment
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec();
        let project = Self {
            program,
            environment,
            place,
        };
        project.context();
        project
    }

    /// What the images are built from: the public Dockerfile, and the programs that stand for downloads and a compiler.
    fn context(&self) {
        let (root, context) = (
            Path::new(env!("CARGO_MANIFEST_DIR")),
            self.place.path().join("context"),
        );
        for directory in ["config/images", "opencode"] {
            std::fs::create_dir_all(context.join(directory)).unwrap();
        }
        for file in ["Dockerfile", "config/images/as-chargehand"] {
            std::fs::copy(root.join(file), context.join(file)).unwrap();
        }
        let opencode = std::env::var_os("CHARGEHAND_OPENCODE")
            .map(PathBuf::from)
            .unwrap();
        std::fs::copy(opencode, context.join("opencode/opencode")).unwrap();
        let stripped = Command::new("strip")
            .arg("-o")
            .arg(context.join("chargehand"))
            .arg(chargehand())
            .status();
        if !stripped.is_ok_and(|status| status.success()) {
            std::fs::copy(chargehand(), context.join("chargehand")).unwrap();
        }
    }

    /// Brings everything up. Somebody may have taken the port since it was found free.
    fn up(&mut self) {
        for _ in 0..5 {
            let output = self.run(&["up", "--detach"]);
            if output.status.success() {
                return;
            }
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                errors.contains("port is already allocated")
                    || errors.contains("address already in use"),
                "{errors}"
            );
            let port = self
                .environment
                .iter_mut()
                .find(|(name, _)| name == "MCP_PORT");
            port.unwrap().1 = free_port().to_string();
        }
        panic!("no port stays free");
    }

    fn value(&self, name: &str) -> &str {
        let found = self.environment.iter().find(|(known, _)| known == name);
        &found.unwrap().1
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut words = self.program.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .arg("--file")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("compose.yaml"));
        command
            .args(arguments)
            .envs(self.environment.iter().cloned());
        command.output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}\n{errors}");
        told
    }

    /// A command of this build's, from outside.
    async fn ask(&self, arguments: &[&str]) -> Value {
        let token = Path::new(self.value("CHARGEHAND_DATA_DIR")).join("token");
        let mut command = tokio::process::Command::new(chargehand());
        command
            .arg("--server")
            .arg(format!("http://127.0.0.1:{}", self.value("MCP_PORT")));
        let output = command
            .arg("--token-file")
            .arg(token)
            .arg("--json")
            .args(arguments)
            .output()
            .await
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}\n{errors}");
        serde_json::from_str(told.lines().last().unwrap())
            .or_else(|_| serde_json::from_str(&told))
            .unwrap()
    }
}

impl Project {
    async fn runs_a_task(&self, says: &str) {
        let script = turns(json!([bash("id -u > who.txt"), {"text": says}]));
        let description = task(script, json!({}))["task_description"]
            .as_str()
            .unwrap()
            .to_owned();
        let ended = self.ask(&["run", &description]).await;
        assert!(ended.to_string().contains(says), "{ended:#}");
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.run(&["logs", "chargehand"]);
            eprintln!("{}", String::from_utf8_lossy(&said.stdout));
        }
        self.run(&["down", "--timeout", "20"]);
        drop(std::fs::remove_dir_all(
            self.value("CHARGEHAND_SECRETS_DIR"),
        ));
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn up_gives_a_healthy_server_whose_tasks_run_beside_it() {
    let Some((host, docker)) = daemon("CHARGEHAND_TEST_DOCKER_HOST").await else {
        return;
    };
    let Ok(program) = std::env::var("CHARGEHAND_TEST_COMPOSE") else {
        assert!(
            std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_none_or(|v| v != "1"),
            "compose is required here: CHARGEHAND_TEST_COMPOSE is not set"
        );
        println!("SKIPPED, no compose: CHARGEHAND_TEST_COMPOSE is not set");
        return;
    };
    let model = ScriptedModel::start(([127, 0, 0, 1], 0).into(), Vec::new())
        .await
        .unwrap();
    let way = Way::open(&gateway(&docker).await).await;
    way.lead_to_model(&model);
    let mut project = Project::new(program, &host, &format!("http://{}/v1", way.address()));
    project.up();
    let id = project
        .ok(&["ps", "--quiet", "chargehand"])
        .trim()
        .to_owned();
    until("the server is healthy", || async {
        (health(&docker, &id).await == "healthy").then_some(())
    })
    .await;
    // An ordinary user, although the container starts as root.
    let users = serving_users(&docker, &id).await;
    assert_eq!(users, ["10001"], "who serves");
    let doctor = project.ok(&["exec", "-T", "chargehand", "as-chargehand", "doctor"]);
    for line in [
        "docker image",
        "docker limits",
        "docker sandbox",
        "docker workdirs",
        "docker network",
        "docker secrets",
    ] {
        assert!(
            doctor.contains(&format!("ok    {line}")),
            "{line}: {doctor}"
        );
    }
    assert!(
        doctor.contains("900 MB"),
        "the original's variable: {doctor}"
    );

    project.runs_a_task("Done beside the server.").await;

    // The host starts again: what was on tmpfs is gone, and the daemon makes what is mounted as root.
    docker.stop_container(&id, None).await.unwrap();
    let secrets = Path::new(project.value("CHARGEHAND_SECRETS_DIR"));
    std::fs::remove_dir_all(secrets).unwrap();
    docker.start_container(&id, None).await.unwrap();
    until("the server is healthy again", || async {
        (health(&docker, &id).await == "healthy").then_some(())
    })
    .await;
    let meta = std::fs::metadata(secrets).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o777), (10_001, 0o700));
    assert_eq!(serving_users(&docker, &id).await, ["10001"], "who serves");
    project.runs_a_task("Done after a reboot.").await;
    project.ok(&["down", "--timeout", "20"]);
    assert!(
        docker.inspect_container(&id, None).await.is_err(),
        "the container is still there"
    );
    assert!(
        docker
            .inspect_network("chargehand-workers", None)
            .await
            .is_err(),
        "the network is still there"
    );
}

async fn health(docker: &Docker, id: &str) -> String {
    let found = docker.inspect_container(id, None).await.unwrap();
    let health = found.state.and_then(|state| state.health);
    let status = health.and_then(|health| health.status);
    status.map_or_else(String::new, |status| status.to_string())
}

/// The users of the processes that are `chargehand serve`.
async fn serving_users(docker: &Docker, id: &str) -> Vec<String> {
    let found = docker.inspect_container(id, None).await.unwrap();
    let first = found.state.unwrap().pid.unwrap();
    let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
    let mut users = Vec::new();
    for pid in children.split_whitespace() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        let uid = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .unwrap();
        users.push(uid.split_whitespace().next().unwrap().to_owned());
    }
    users
}
