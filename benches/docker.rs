//! What the engine `docker` costs, next to OpenCode in a container that is started by hand in the same run. Prints figures; asserts only
//! that what is measured has happened.
//!
//! In: the daemon and the image of the live tests (`CHARGEHAND_TEST_DOCKER_HOST`, `CHARGEHAND_TEST_WORKER_IMAGE`; `tests/docker/daemon` and
//! `tests/docker/images` make both). Out: lines on standard output. Nothing stays.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed measurement")]

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};
use bollard::query_parameters::{
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, StatsOptionsBuilder,
};
use chargehand::scripted_model::opencode_provider_config;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_docker::{Docked, image};
use crate::harness_product::{Setup, task, turns, until};

#[path = "../tests/live/harness.rs"]
#[expect(dead_code, reason = "shared with the live tests")]
mod harness;
#[path = "../tests/live/harness_client.rs"]
#[expect(dead_code, reason = "shared with the live tests")]
mod harness_client;
#[path = "../tests/live/harness_docker.rs"]
#[expect(dead_code, reason = "shared with the live tests")]
mod harness_docker;
#[path = "../tests/live/harness_outside.rs"]
#[expect(dead_code, reason = "shared with the live tests")]
mod harness_outside;
#[path = "../tests/live/harness_product.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the live tests")]
mod harness_product;

/// Pairs of measurements.
const TIMES: usize = 5;
/// Tasks that are taken over at once.
const ADOPTED: usize = 6;
const PASSWORD: &str = "figures";

fn said() -> Value {
    turns(json!([{"text": "Done."}]))
}

fn waiting() -> Value {
    turns(json!([bash("until [ -e go ]; do sleep 0.2; done"), {"text": "Done."}]))
}

#[tokio::main]
async fn main() {
    let tasks = json!({"max_running": ADOPTED});
    let setup = Setup {
        tasks,
        arguments: &[],
        ..Setup::default()
    };
    let Some(mut docked) = Docked::start(json!({}), setup).await else {
        return;
    };
    println!("load at the start: {}", load());
    first_requests(&docked).await;
    steering(&docked).await;
    adoption(&mut docked).await;
    println!("load at the end: {}", load());
    docked.stop().await;
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// From the call to the first request of the model, by turns with the bare container; and the memory of both.
async fn first_requests(docked: &Docked) {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let (mut our_memory, mut bare_memory) = (Vec::new(), Vec::new());
    let (mut our_steps, mut bare_steps) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let (begun, wall) = (Instant::now(), now());
        let before = docked.product.model.requests().len();
        let id = docked.product.client.submit(waiting(), json!({})).await;
        asked_after(docked, before).await;
        ours.push(begun.elapsed());
        docked.product.client.until_phase(&id, "running").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        our_memory.push(memory(&docked.docker, &docked.name(&id)).await);
        our_steps.push(
            Steps::of(
                &docked.docker,
                &docked.name(&id),
                wall,
                ours[ours.len() - 1],
            )
            .await,
        );
        std::fs::write(docked.workdir(&id).await.join("go"), "").unwrap();
        docked.product.ended(&id, "completed").await;
        nothing_runs(docked).await;

        let container = Bare::make(docked).await;
        let before = docked.product.model.requests().len();
        bare.push(container.run(docked, before).await);
        tokio::time::sleep(Duration::from_secs(2)).await;
        bare_memory.push(memory(&docked.docker, &container.id).await);
        let took = bare[bare.len() - 1];
        bare_steps.push(Steps::of(&docked.docker, &container.id, container.wall, took).await);
        container.remove(docked).await;
    }
    report("execute to the first request of the model", &ours);
    report(
        "the same by hand (create, start, log line, session, prompt)",
        &bare,
    );
    Steps::report("  of it, a task", &our_steps);
    Steps::report("  of it, by hand", &bare_steps);
    let more = median(&ours).as_secs_f64() / median(&bare).as_secs_f64() - 1.0;
    println!("  difference of the medians: {:+.1} %", more * 100.0);
    println!("memory of a container with a session: {our_memory:?} MB, by hand {bare_memory:?} MB");
}

async fn asked_after(docked: &Docked, before: usize) {
    let end = Instant::now() + Duration::from_secs(60);
    while docked.product.model.requests().len() <= before {
        assert!(Instant::now() < end, "the model was not asked");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn nothing_runs(docked: &Docked) {
    until("no container is left", || async {
        docked.containers().await.is_empty().then_some(())
    })
    .await;
}

/// Milliseconds since the epoch.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Where the time went, by the daemon's clock: until the container was made, started, OpenCode listened, the model was asked.
struct Steps([Duration; 4]);

impl Steps {
    async fn of(docker: &Docker, name: &str, begun: i64, took: Duration) -> Self {
        let found = docker.inspect_container(name, None).await.unwrap();
        let made = milliseconds(&found.created.unwrap().to_string());
        let started = milliseconds(&found.state.unwrap().started_at.unwrap());
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .build();
        let lines: Vec<_> = docker
            .logs(name, Some(options))
            .try_collect()
            .await
            .unwrap();
        let line = lines
            .iter()
            .map(ToString::to_string)
            .find(|line| line.contains("listening"));
        let listening = milliseconds(line.unwrap().split(' ').next().unwrap());
        let asked = begun + i64::try_from(took.as_millis()).unwrap();
        let times = [begun, made, started, listening, asked];
        let between = |step: usize| u64::try_from(times[step + 1] - times[step]).unwrap_or(0);
        Self([0, 1, 2, 3].map(|step| Duration::from_millis(between(step))))
    }

    fn report(what: &str, all: &[Self]) {
        let names = [
            "until it is made",
            "started",
            "OpenCode listens",
            "the model is asked",
        ];
        let steps = names.iter().enumerate().map(|(step, name)| {
            let times: Vec<Duration> = all.iter().map(|steps| steps.0[step]).collect();
            format!("{name} {}", shown(median(&times)))
        });
        println!("{what}: {}", steps.collect::<Vec<_>>().join(", "));
    }
}

/// Of a time as the daemon writes it.
fn milliseconds(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// Megabytes without the cache that the kernel would give back.
async fn memory(docker: &Docker, name: &str) -> u64 {
    let options = StatsOptionsBuilder::default().stream(false).build();
    let stats = docker
        .stats(name, Some(options))
        .next()
        .await
        .unwrap()
        .unwrap();
    let memory = stats.memory_stats.unwrap();
    let detail = serde_json::to_value(&memory.stats).unwrap();
    let cache = ["total_inactive_file", "inactive_file"]
        .iter()
        .find_map(|name| detail[name].as_u64());
    (memory.usage.unwrap() - cache.unwrap_or(0)) >> 20
}

/// Pause, resume and cancel, as a client sees them; the container must stand so when the answer comes.
async fn steering(docked: &Docked) {
    let client = &docked.product.client;
    let (mut pause, mut resume) = (Vec::new(), Vec::new());
    let id = client.submit(waiting(), json!({})).await;
    docked.until_state(&id, "running").await;
    client.until_phase(&id, "running").await;
    for _ in 0..TIMES {
        let begun = Instant::now();
        client.control(&id, "pause").await;
        pause.push(begun.elapsed());
        assert_eq!(docked.state(&id).await, "paused");
        let begun = Instant::now();
        client.control(&id, "resume").await;
        resume.push(begun.elapsed());
        docked.until_state(&id, "running").await;
        client.until_phase(&id, "running").await;
    }
    report("pause, call to answer", &pause);
    report("resume, call to answer", &resume);
    client.control(&id, "cancel").await;
    nothing_runs(docked).await;

    let (mut answered, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let id = client.submit(waiting(), json!({})).await;
        client.until_phase(&id, "running").await;
        let begun = Instant::now();
        let answer = client.control(&id, "cancel").await;
        answered.push(begun.elapsed());
        assert_eq!(answer["status"], "cancelled");
        while docked.container(&id).await.is_some() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        gone.push(begun.elapsed());
        docked.product.ended(&id, "cancelled").await;
    }
    report("cancel, call to answer", &answered);
    report("cancel, call to the container being gone", &gone);
}

/// A killed Chargehand starts again with containers that go on.
async fn adoption(docked: &mut Docked) {
    let mut tasks = Vec::new();
    for _ in 0..ADOPTED {
        let answer = docked
            .product
            .client
            .ok("opencode_execute_task", task(waiting(), json!({})))
            .await;
        tasks.push(answer["task_id"].as_str().unwrap().to_owned());
    }
    for id in &tasks {
        docked.product.client.until_phase(id, "running").await;
    }
    docked.product.kill();
    let begun = Instant::now();
    docked.product.start_again().await;
    let answers = begun.elapsed();
    let line = format!("\"adopted\":{ADOPTED}");
    while !docked.product.has_logged(&line) {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "nothing was adopted"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let adopted = begun.elapsed();
    println!(
        "start after a kill with {ADOPTED} running containers: answers after {}, all adopted after {} ({:.1} a second)",
        shown(answers),
        shown(adopted),
        ADOPTED as f64 / adopted.as_secs_f64()
    );
    for id in &tasks {
        std::fs::write(docked.workdir(id).await.join("go"), "").unwrap();
    }
    for id in &tasks {
        docked.product.ended(id, "completed").await;
    }
}

/// OpenCode in a container as somebody would start it by hand, with the same limits.
struct Bare {
    id: String,
    _place: tempfile::TempDir,
    begun: Instant,
    /// Milliseconds since the epoch.
    wall: i64,
}

impl Bare {
    async fn make(docked: &Docked) -> Self {
        let place = tempfile::tempdir().unwrap();
        let work = place.path().to_str().unwrap().to_owned();
        let prepared = Command::new("sh")
            .arg("-c")
            .arg(format!("git init -q {work} && chown -R 10001:10001 {work}"))
            .status();
        assert!(prepared.unwrap().success());
        let config = opencode_provider_config(&format!("http://{}/v1", docked.model_address()));
        let (begun, wall) = (Instant::now(), now());
        let body = ContainerCreateBody {
            image: Some(image()),
            cmd: Some(
                [
                    "opencode",
                    "serve",
                    "--hostname",
                    "0.0.0.0",
                    "--port",
                    "4096",
                ]
                .map(str::to_owned)
                .to_vec(),
            ),
            env: Some(vec![
                format!("OPENCODE_CONFIG_CONTENT={config}"),
                format!("OPENCODE_SERVER_PASSWORD={PASSWORD}"),
                "OPENCODE_DISABLE_MODELS_FETCH=1".to_owned(),
            ]),
            exposed_ports: Some(vec!["4096/tcp".to_owned()]),
            host_config: Some(HostConfig {
                binds: Some(vec![format!("{work}:/workspace")]),
                memory: Some(1 << 30),
                memory_swap: Some(1 << 30),
                nano_cpus: Some(1_000_000_000),
                init: Some(true),
                port_bindings: Some(HashMap::from([(
                    "4096/tcp".to_owned(),
                    Some(vec![PortBinding {
                        host_ip: Some("127.0.0.1".to_owned()),
                        host_port: Some(String::new()),
                    }]),
                )])),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let made = docked.docker.create_container(None, body).await.unwrap();
        docked.docker.start_container(&made.id, None).await.unwrap();
        Self {
            id: made.id,
            _place: place,
            begun,
            wall,
        }
    }

    /// From before the create to the model's first request.
    async fn run(&self, docked: &Docked, before: usize) -> Duration {
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(true)
            .build();
        let mut lines = docked.docker.logs(&self.id, Some(options));
        while let Some(line) = lines.try_next().await.unwrap() {
            if line.to_string().contains("listening") {
                break;
            }
        }
        let found = docked
            .docker
            .inspect_container(&self.id, None)
            .await
            .unwrap();
        let ports = found.network_settings.unwrap().ports.unwrap();
        let port = ports["4096/tcp"].as_ref().unwrap()[0]
            .host_port
            .clone()
            .unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let post = async |path: &str, body: Value| -> String {
            let answer = http
                .post(format!("http://127.0.0.1:{port}{path}"))
                .basic_auth("opencode", Some(PASSWORD))
                .json(&body)
                .send()
                .await
                .unwrap();
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
            answer.text().await.unwrap()
        };
        let session: Value =
            // With a title, as a task has one: without it the first request is a small one that asks for a title.
            serde_json::from_str(&post("/session?directory=/workspace", json!({"title": "by hand"})).await).unwrap();
        let path = format!(
            "/session/{}/prompt_async?directory=/workspace",
            session["id"].as_str().unwrap()
        );
        let text = task(said(), json!({}))["task_description"].clone();
        post(&path, json!({"parts": [{"type": "text", "text": text}]})).await;
        asked_after(docked, before).await;
        self.begun.elapsed()
    }

    async fn remove(self, docked: &Docked) {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        docked
            .docker
            .remove_container(&self.id, Some(options))
            .await
            .unwrap();
    }
}

fn report(what: &str, times: &[Duration]) {
    let all: Vec<String> = times.iter().map(|time| shown(*time)).collect();
    println!(
        "{what}: median {}, all {}",
        shown(median(times)),
        all.join(" ")
    );
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        (sorted[middle - 1] + sorted[middle]) / 2
    } else {
        sorted[middle]
    }
}

fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.0} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}
