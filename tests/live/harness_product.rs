//! The whole product: the program `chargehand serve` on a data directory of its own, spoken to by MCP over HTTP.
//!
//! In: a [`Setup`]. Out: a [`Product`] with the tools as calls, and ways to look from outside at what Chargehand says: OpenCode's own
//! records over HTTP, the processes of the machine, files. Dropping it ends every process that it started, also in a failed test.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chargehand::scripted_model::{ScriptedModel, opencode_provider_config};
use chargehand_actors::crash::CrashPoint;
use chargehand_actors::id::InstanceId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{chargehand, opencode};
pub(crate) use crate::harness_client::{Client, id_of, task, turns, wait_for};
pub(crate) use crate::harness_outside::{
    PATIENCE, Peak, Worker, alive, end_everything, gone_from, lines, marked, processes, signal_to,
    until, working_in,
};

/// What a product is started with.
pub(crate) struct Setup {
    /// Settings of `[tasks]`.
    pub(crate) tasks: Value,
    /// Laid over OpenCode's configuration.
    pub(crate) opencode_config: Value,
    /// Another OpenCode than the usual one.
    pub(crate) opencode: Option<PathBuf>,
    /// Programs that Chargehand finds before those of `PATH`.
    pub(crate) programs: Option<PathBuf>,
    /// `[engines.remote]`; the engine is then the default, and there is no local one. `{place}` is the product's directory.
    pub(crate) remote: Option<Value>,
    /// Laid over all settings.
    pub(crate) more: Value,
    /// More arguments of `chargehand serve`.
    pub(crate) arguments: &'static [&'static str],
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            tasks: json!({}),
            opencode_config: json!({}),
            opencode: None,
            programs: None,
            remote: None,
            more: json!({}),
            arguments: &["--set", "engine.on_stop=end_workers"],
        }
    }
}

/// A running Chargehand and the model behind its workers.
pub(crate) struct Product {
    pub(crate) model: ScriptedModel,
    pub(crate) directory: TempDir,
    pub(crate) client: Client,
    programs: Option<PathBuf>,
    child: Child,
    arguments: &'static [&'static str],
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
        let mut settings = json!({
            "tasks": setup.tasks, "engines": engines, "engine": {"default": default},
            "log": {"level": "info,chargehand_actors=debug"},
        });
        lay_over(&mut settings, &setup.more);
        let file = directory.path().join("chargehand.toml");
        std::fs::write(
            &file,
            toml::to_string(&settings)
                .unwrap()
                .replace("{place}", directory.path().to_str().unwrap()),
        )
        .unwrap();
        let child = serve(
            directory.path(),
            setup.programs.as_deref(),
            setup.arguments,
            None,
        );
        let mut product = Self {
            programs: setup.programs,
            model,
            directory,
            client: Client::new("", "planner"),
            child,
            arguments: setup.arguments,
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

    /// Where an MCP client finds the server.
    pub(crate) fn mcp_url(&self) -> String {
        self.client.mcp_url()
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join("serve.log")
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The settings of `[engines.local]` name another OpenCode from the next start on.
    pub(crate) fn use_opencode(&self, program: &Path) {
        let file = self.directory.path().join("chargehand.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let mut settings: toml::Table = text.parse().unwrap();
        settings["engines"]["local"]["opencode"] = program.to_str().unwrap().into();
        std::fs::write(&file, settings.to_string()).unwrap();
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// `kill -9` of the server.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends the server a signal, such as `-TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        signal_to(self.pid(), signal);
    }

    /// Sends the server a signal without a program in between, so that two come one right after the other.
    pub(crate) fn signal_at_once(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// Waits until the server has ended by itself; gives its exit code.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(ended) = self.child.try_wait().unwrap() {
                return ended.code();
            }
            assert!(Instant::now() < end, "chargehand does not stop");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether the server ends by itself within this time.
    pub(crate) async fn has_died_within(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Whether a message of the server's log contains `text`.
    pub(crate) fn has_logged(&self, text: &str) -> bool {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().any(|line| line.contains(text))
    }

    /// The journal is sound by the command that looks for damage and contradictions.
    pub(crate) fn check_journal(&self) {
        let checked = Command::new(chargehand())
            .args(["journal", "check"])
            .arg(self.data().join("journal.db"))
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "{}{}",
            String::from_utf8_lossy(&checked.stdout),
            String::from_utf8_lossy(&checked.stderr)
        );
    }

    /// The server again on the same data directory.
    pub(crate) async fn start_again(&mut self) {
        self.start_again_to_die(None).await;
    }

    /// The same, to die at a point when it comes there.
    pub(crate) async fn start_again_to_die(&mut self, point: Option<CrashPoint>) {
        self.spawn_again(point);
        self.listens().await;
    }

    /// The same, for a point that the start itself may come to.
    pub(crate) async fn start_to_die_at_once(&mut self, point: CrashPoint) {
        self.spawn_again(Some(point));
        let line = format!("chargehand: died at {}", point.name());
        until(&line, || async { self.has_logged(&line).then_some(()) }).await;
    }

    fn spawn_again(&mut self, point: Option<CrashPoint>) {
        let old = self
            .directory
            .path()
            .join(format!("serve-{}.log", self.child.id()));
        std::fs::rename(self.log(), old).unwrap();
        self.child = serve(
            self.directory.path(),
            self.programs.as_deref(),
            self.arguments,
            point,
        );
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
        marked(&self.instance())
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
        self.signal("-TERM");
        assert_eq!(self.exit_code().await, Some(0));
        assert_eq!(self.marked(), Vec::<i32>::new(), "processes are left");
        self.check_journal();
    }

    /// A client without an agent: it sees the tasks of all.
    pub(crate) fn everybody(&self) -> Client {
        self.client.of_agent("")
    }

    /// The task has ended as `status`, everything agrees on it, and nothing of it is left. Gives the status.
    pub(crate) async fn ended(&self, task: &str, status: &str) -> Value {
        let seen = self.everybody().final_status(task).await;
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
        for event in self.everybody().history(task).await {
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
            self.everybody().until_event(task, "attempt_removed").await;
        }
        let events = self.everybody().history(task).await;
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
        self.everybody().cursor_reads_once(task, &events).await;
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
        end_everything(data, instance);
    }
}

/// Sets in `under` what `over` names, at any depth.
fn lay_over(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                lay_over(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

fn serve(
    directory: &Path,
    programs: Option<&Path>,
    arguments: &[&str],
    point: Option<CrashPoint>,
) -> Child {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = std::env::split_paths(&path);
    let path = std::env::join_paths(programs.map(Path::to_owned).into_iter().chain(usual));
    let log = File::create(directory.join("serve.log")).unwrap();
    Command::new(chargehand())
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
        .arg("--config")
        .arg(directory.join("chargehand.toml"))
        .arg("--data-dir")
        .arg(directory.join("data"))
        .args(arguments)
        .env_clear()
        .env("PATH", path.unwrap())
        .env("HOME", directory)
        .envs(point.map(|point| ("CHARGEHAND_DIE_AT", point.name())))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}
