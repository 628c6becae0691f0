//! The product as users start it: the program `chargehand serve` on a data directory of its own, spoken to over HTTP.
//!
//! In: settings. Out: a [`Server`], and [`Client`]s for its tools. Dropping a server ends it and whatever it left running.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chargehand::adapters::opencode::end_leftovers;
use chargehand_actors::id::{EngineName, InstanceId};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::table::wall_ms;

/// How long anything that should happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const PROTOCOL: &str = "2026-07-28";

/// A running `chargehand serve`.
pub(crate) struct Server {
    child: Child,
    folder: PathBuf,
    spawned: (Instant, f64),
    url: String,
    http: reqwest::Client,
}

/// A place for a server's files, on the disk that is built on: a temporary directory is often in memory, where a durable
/// write costs nothing.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("figures-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap()
}

/// Settings with an engine that never becomes ready, so that nothing ever runs.
pub(crate) fn nothing_runs() -> Value {
    // Bound and closed again: nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap();
    json!({
        "engine": {"default": "remote"},
        "engines": {"local": {"enabled": false}, "remote": {"url": format!("http://{closed}")}},
        "tasks": {"max_queued": 10_000},
    })
}

impl Server {
    /// Spawns the program; the data directory is `data` in the folder.
    pub(crate) fn spawn(folder: &Path, settings: &Value) -> Self {
        let file = folder.join("chargehand.toml");
        std::fs::write(&file, toml::to_string(settings).unwrap()).unwrap();
        let log = File::create(folder.join("serve.log")).unwrap();
        let spawned = (Instant::now(), wall_ms());
        let child = Command::new(env!("CARGO_BIN_EXE_chargehand"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .arg("--config")
            .arg(file)
            .arg("--data-dir")
            .arg(folder.join("data"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child,
            folder: folder.to_owned(),
            spawned,
            url: String::new(),
            http: http_client(),
        }
    }

    /// Waits until `/health` answers with 200; gives the time since the program was spawned in milliseconds.
    pub(crate) async fn answers(&mut self) -> f64 {
        let log = self.folder.join("serve.log");
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            let address = text.lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                Some(line.get("address")?.as_str()?.to_owned())
            });
            if let Some(address) = address {
                self.url = format!("http://{address}");
                break;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "chargehand ended ({ended:?}): {text}");
            self.in_time("it listens");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        while self.health().await.is_none() {
            self.in_time("its health is good");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.spawned.0.elapsed().as_secs_f64() * 1e3
    }

    /// Waits until the engine `local` is ready; gives the time from the spawn to there in milliseconds. The time is the one
    /// that the server itself tells, so that it does not depend on how often it is asked.
    pub(crate) async fn engine_ready(&self) -> f64 {
        loop {
            let health = self.health().await.unwrap_or_default();
            let parts = health["report"]["parts"].as_array();
            let engine = parts
                .into_iter()
                .flatten()
                .find(|part| part["name"] == "engine local" && part["state"] == "ok");
            if let Some(engine) = engine {
                return engine["since"].as_f64().unwrap() - self.spawned.1;
            }
            self.in_time("its engine is ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn in_time(&self, what: &str) {
        assert!(
            self.spawned.0.elapsed() < PATIENCE,
            "waited in vain until {what}"
        );
    }

    async fn health(&self) -> Option<Value> {
        let answer = self.http.get(format!("{}/health", self.url)).send().await;
        let answer = answer.ok().filter(|answer| answer.status() == 200)?;
        answer.json().await.ok()
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written down, such as the record of its worker.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// A client with a connection of its own.
    pub(crate) fn client(&self) -> Client {
        Client {
            url: format!("{}/mcp", self.url),
            http: http_client(),
        }
    }

    /// Ends it in order; gives how long that took in milliseconds.
    pub(crate) async fn stop(mut self) -> f64 {
        let began = Instant::now();
        let pid = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(told.unwrap().success());
        loop {
            if let Some(ended) = self.child.try_wait().unwrap() {
                assert!(ended.success(), "chargehand ended with {ended}");
                return began.elapsed().as_secs_f64() * 1e3;
            }
            assert!(began.elapsed() < PATIENCE, "chargehand does not stop");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let data = self.data();
        let Ok(instance) = std::fs::read_to_string(data.join("instance")) else {
            return;
        };
        let instance = InstanceId(instance.trim().to_owned());
        // A thread of its own, because this one may be inside a runtime.
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.map(|runtime| {
                runtime.block_on(end_leftovers(&data, &EngineName::new("local"), &instance))
            })
        })
        .join();
        if !matches!(ended, Ok(Ok(Ok(_)))) {
            eprintln!("a worker could not be ended: {ended:?}");
        }
    }
}

/// Speaks to one server on one connection.
#[derive(Clone)]
pub(crate) struct Client {
    url: String,
    http: reqwest::Client,
}

impl Client {
    /// A tool call that must not be refused.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Value {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": tool, "arguments": arguments, "_meta": {
                "io.modelcontextprotocol/protocolVersion": PROTOCOL,
                "io.modelcontextprotocol/clientCapabilities": {}}}});
        let request = self
            .http
            .post(&self.url)
            .header("Accept", "application/json, text/event-stream")
            .header("MCP-Protocol-Version", PROTOCOL)
            .header("Mcp-Method", "tools/call")
            .header("Mcp-Name", tool)
            .json(&message);
        let mut answer: Value = request.send().await.unwrap().json().await.unwrap();
        let result = answer["result"].take();
        assert!(
            result["isError"] != true && result["structuredContent"].is_object(),
            "{tool}: {answer:#} {result:#}"
        );
        result["structuredContent"].clone()
    }

    /// A call, and how long it took in milliseconds.
    pub(crate) async fn timed(&self, tool: &str, arguments: Value) -> (f64, Value) {
        let began = Instant::now();
        let answer = self.call(tool, arguments).await;
        (began.elapsed().as_secs_f64() * 1e3, answer)
    }
}

/// For one connection at a time, on loopback.
pub(crate) fn http_client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .timeout(PATIENCE)
        .build()
        .unwrap()
}
