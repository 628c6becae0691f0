//! The whole product: the program `chargehand serve` on a data directory of its own, spoken to by MCP over HTTP.
//!
//! In: a [`Setup`]. Out: a [`Product`] with the tools as calls, and ways to look from outside at what Chargehand says: OpenCode's own
//! records over HTTP, the processes of the machine, files. Dropping it ends every process that it started, also in a failed test.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chargehand::adapters::opencode::end_leftovers;
use chargehand::scripted_model::{ScriptedModel, opencode_provider_config};
use chargehand_actors::id::{EngineName, InstanceId};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{chargehand, opencode};
pub(crate) use crate::harness_client::{Client, id_of, task, turns, wait_for};
pub(crate) use crate::harness_outside::{
    PATIENCE, Peak, Worker, alive, gone_from, lines, processes, signal_to, until, working_in,
};

/// What a product is started with.
pub(crate) struct Setup {
    /// Settings of `[tasks]`.
    pub(crate) tasks: Value,
    /// Laid over OpenCode's configuration.
    pub(crate) opencode_config: Value,
    /// Another OpenCode than the usual one.
    pub(crate) opencode: Option<PathBuf>,
    /// `[engines.remote]`; the engine is then the default, and there is no local one. `{place}` is the product's directory.
    pub(crate) remote: Option<Value>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            tasks: json!({}),
            opencode_config: json!({}),
            opencode: None,
            remote: None,
        }
    }
}

/// A running Chargehand and the model behind its workers.
pub(crate) struct Product {
    pub(crate) model: ScriptedModel,
    pub(crate) directory: TempDir,
    pub(crate) client: Client,
    child: Child,
}

impl Product {
    /// Starts everything; `None` when there is no OpenCode and it is not required.
    pub(crate) async fn start(setup: Setup) -> Option<Self> {
        Self::start_with(setup, |_| {}).await
    }

    /// As [`Self::start`], with a last change of OpenCode's configuration.
    pub(crate) async fn start_with(setup: Setup, change: impl FnOnce(&mut Value)) -> Option<Self> {
        let program = match setup.opencode {
            Some(program) => program,
            None => opencode().await?,
        };
        let model = ScriptedModel::start(([127, 0, 0, 1], 0).into(), Vec::new())
            .await
            .unwrap();
        let directory = tempfile::Builder::new()
            .prefix("chargehand-live-")
            .tempdir()
            .unwrap();
        let mut config = opencode_provider_config(&model.base_url());
        for (key, value) in setup.opencode_config.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        change(&mut config);
        let engines = match &setup.remote {
            Some(remote) => json!({"local": {"enabled": false}, "remote": remote}),
            None => json!({"local": {"opencode": program, "opencode_config": config}}),
        };
        let default = if setup.remote.is_some() {
            "remote"
        } else {
            "local"
        };
        let settings = json!({
            "tasks": setup.tasks, "engines": engines, "engine": {"default": default, "on_stop": "end_workers"},
            "log": {"level": "info,chargehand_actors=debug"},
        });
        let file = directory.path().join("chargehand.toml");
        std::fs::write(
            &file,
            toml::to_string(&settings)
                .unwrap()
                .replace("{place}", directory.path().to_str().unwrap()),
        )
        .unwrap();
        let child = serve(directory.path());
        let mut product = Self {
            model,
            directory,
            client: Client::new("", "planner"),
            child,
        };
        product.listens().await;
        Some(product)
    }

    /// Waits until the server tells its address.
    async fn listens(&mut self) {
        let log = self.log();
        let end = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let address = text.lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                Some(line.get("address")?.as_str()?.to_owned())
            });
            if let Some(address) = address {
                self.client = Client::new(&format!("http://{address}"), "planner");
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "chargehand ended ({ended:?}): {text}");
            assert!(Instant::now() < end, "chargehand does not listen: {text}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("serve.log")
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// `kill -9` of the server.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The server again on the same data directory.
    pub(crate) async fn start_again(&mut self) {
        let old = self
            .directory
            .path()
            .join(format!("serve-{}.log", self.child.id()));
        std::fs::rename(self.log(), old).unwrap();
        self.child = serve(self.directory.path());
        self.listens().await;
    }

    /// The id that everything of this data directory carries.
    pub(crate) fn instance(&self) -> InstanceId {
        let text = std::fs::read_to_string(self.data().join("instance")).unwrap();
        InstanceId(text.trim().to_owned())
    }

    /// The OpenCode that the engine `local` runs now, once it does.
    pub(crate) async fn worker(&self) -> Worker {
        until("a worker is recorded", || async {
            Worker::recorded(&self.data().join("local"))
        })
        .await
    }

    /// Pids of every process that carries our mark.
    pub(crate) fn marked(&self) -> Vec<i32> {
        let mark = format!("CHARGEHAND_OWNER={}/", self.instance());
        processes(|process| {
            let environment = std::fs::read(process.join("environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|one| one.starts_with(mark.as_bytes()))
        })
    }

    /// Requests of the model that carried a script.
    pub(crate) fn model_calls(&self) -> usize {
        let requests = self.model.requests();
        requests
            .iter()
            .filter(|one| one.scenario == "inline")
            .count()
    }

    /// How many times the model has answered (or is answering) a request whose text contains `part`.
    pub(crate) fn model_calls_with(&self, part: &str) -> usize {
        let requests = self.model.requests();
        requests
            .iter()
            .filter(|one| one.scenario == "inline" && one.body.to_string().contains(part))
            .count()
    }

    /// Ends the server in order, and makes sure that nothing is left: no session of ours, no process.
    pub(crate) async fn stop(mut self) {
        if let Some(worker) = Worker::recorded(&self.data().join("local")) {
            let sessions = worker.get("/experimental/session?limit=1000").await;
            let ours = self.instance();
            let left: Vec<&Value> = sessions
                .iter()
                .flat_map(|all| all.as_array().into_iter().flatten())
                .filter(|session| session["metadata"]["chargehand"]["instance"] == ours.0.as_str())
                .collect();
            assert!(left.is_empty(), "sessions are left: {left:#?}");
        }
        let pid = i32::try_from(self.child.id()).unwrap();
        signal_to(pid, "-TERM");
        let end = Instant::now() + PATIENCE;
        let ended = loop {
            if let Some(ended) = self.child.try_wait().unwrap() {
                break ended;
            }
            assert!(Instant::now() < end, "chargehand does not stop");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(ended.success(), "chargehand ended with {ended}");
        assert_eq!(self.marked(), Vec::<i32>::new(), "processes are left");
    }

    /// The task has ended as `status`, everything agrees on it, and nothing of it is left. Gives the status.
    pub(crate) async fn ended(&self, task: &str, status: &str) -> Value {
        let seen = self.client.final_status(task).await;
        assert_eq!(seen["status"], status, "{task}: {seen:#}");
        self.audit(task, &seen).await;
        seen
    }

    /// As [`Self::ended`], with this last text.
    pub(crate) async fn ended_saying(&self, task: &str, status: &str, output: &str) -> Value {
        let seen = self.ended(task, status).await;
        if seen["output"] != output {
            self.tell(task).await;
        }
        assert_eq!(seen["output"], output, "{task}");
        seen
    }

    /// Prints what happened to a task and what the model was asked, for a person who reads a failed test.
    async fn tell(&self, task: &str) {
        for event in self.client.history(task).await {
            eprintln!(
                "{} {} {}",
                event["timestamp"], event["event"], event["message"]
            );
        }
        for request in self.model.requests() {
            let messages = request.body["messages"].as_array().unwrap();
            eprintln!(
                "request {} turn {} of {}: {:?}",
                request.number, request.turn, request.cwd, request.end
            );
            for message in messages
                .iter()
                .filter(|message| message["role"] != "system")
            {
                let text: String = message.to_string().chars().take(300).collect();
                eprintln!("    {text}");
            }
        }
    }

    /// What must hold of every task that has ended.
    async fn audit(&self, task: &str, seen: &Value) {
        if seen["attempt"] != 0 {
            self.client.until_event(task, "attempt_removed").await;
        }
        let events = self.client.history(task).await;
        let finals: Vec<&Value> = events
            .iter()
            .filter(|event| {
                let word = event["event"].as_str().unwrap_or_default();
                [
                    "task_completed",
                    "task_failed",
                    "task_timed_out",
                    "task_cancelled",
                ]
                .contains(&word)
            })
            .collect();
        assert_eq!(finals.len(), 1, "one final event: {events:#?}");
        self.client.cursor_reads_once(task, &events).await;
        if let Some(directory) = seen["directory"].as_str() {
            gone_from(directory).await;
        }
        if let (Some(session), Some(worker)) = (
            seen["session_id"].as_str(),
            Worker::recorded(&self.data().join("local")),
        ) {
            let found = worker.session(session).await;
            assert_eq!(found, None, "the session is still there");
        }
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let text = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines.iter().skip(lines.len().saturating_sub(40));
            eprintln!("end of chargehand's log:");
            tail.for_each(|line| eprintln!("{line}"));
        }
        let data = self.data();
        let Ok(instance) = std::fs::read_to_string(data.join("instance")) else {
            return;
        };
        let instance = InstanceId(instance.trim().to_owned());
        // A thread of its own: a test's runtime may be shutting down.
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
            eprintln!("the worker of the test could not be ended: {ended:?}");
        }
    }
}

fn serve(directory: &Path) -> Child {
    let log = File::create(directory.join("serve.log")).unwrap();
    Command::new(chargehand())
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
        .arg("--config")
        .arg(directory.join("chargehand.toml"))
        .arg("--data-dir")
        .arg(directory.join("data"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}
