//! The whole product: the program `chargehand serve` on a data directory of its own, spoken to by MCP over HTTP.
//!
//! In: a [`Setup`]. Out: a [`Product`] with the tools as calls, and ways to look from outside at what Chargehand says: OpenCode's own
//! records over HTTP, the processes of the machine, files. Dropping it ends every process that it started, also in a failed test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chargehand::adapters::opencode::end_leftovers;
use chargehand::scripted_model::{ScriptedModel, opencode_provider_config};
use chargehand_actors::id::{EngineName, InstanceId};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::harness::{chargehand, opencode};

/// How long anything that should happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Revisions of the protocol that the clients speak.
const NEWEST: &str = "2026-07-28";
const OLDER: &str = "2025-06-18";

/// The phases after which nothing changes.
const FINAL: [&str; 4] = ["completed", "failed", "timeout", "cancelled"];

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

/// An MCP client: one agent's way to one server.
#[derive(Clone)]
pub(crate) struct Client {
    url: String,
    agent: String,
    /// Of the older protocol.
    session: Option<String>,
    http: reqwest::Client,
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

impl Client {
    pub(crate) fn new(url: &str, agent: &str) -> Self {
        Self {
            url: url.to_owned(),
            agent: agent.to_owned(),
            session: None,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(60))
                .build()
                .unwrap(),
        }
    }

    /// Another agent with connections of its own.
    pub(crate) fn of_agent(&self, agent: &str) -> Self {
        Self::new(&self.url, agent)
    }

    /// From here on with a session, as clients of the protocol's older revisions have one.
    pub(crate) async fn initialize(&mut self) {
        let params = json!({"protocolVersion": OLDER, "capabilities": {},
                            "clientInfo": {"name": "live-tests", "version": "1"}});
        self.session = Some(String::new());
        let (_, session) = self.post("initialize", None, Some(0), params).await;
        self.session = session;
        assert!(self.session.is_some(), "no session was given");
        self.post("notifications/initialized", None, None, json!({}))
            .await;
    }

    /// One message to the server; gives the body and the session of the answer.
    async fn post(
        &self,
        method: &str,
        name: Option<&str>,
        id: Option<u32>,
        mut params: Value,
    ) -> (String, Option<String>) {
        let mut request = self
            .http
            .post(format!("{}/mcp", self.url))
            .header("Accept", "application/json, text/event-stream")
            .header("X-Agent-Id", &self.agent);
        match &self.session {
            Some(session) if session.is_empty() => {}
            Some(session) => {
                request = request
                    .header("MCP-Protocol-Version", OLDER)
                    .header("Mcp-Session-Id", session);
            }
            None => {
                params["_meta"] = json!({
                    "io.modelcontextprotocol/protocolVersion": NEWEST,
                    "io.modelcontextprotocol/clientCapabilities": {},
                    "io.modelcontextprotocol/clientInfo": {"name": "live-tests", "version": "1"}});
                request = request
                    .header("MCP-Protocol-Version", NEWEST)
                    .header("Mcp-Method", method);
                if let Some(name) = name {
                    request = request.header("Mcp-Name", name);
                }
            }
        }
        let mut message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        if let Some(id) = id {
            message["id"] = json!(id);
        }
        let response = request.json(&message).send().await.unwrap();
        let status = response.status();
        let session = response
            .headers()
            .get("mcp-session-id")
            .map(|id| id.to_str().unwrap().to_owned());
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{method}: {status} {text}");
        (text, session)
    }

    /// A tool call: the answer, or the refusal.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Result<Value, Value> {
        let params = json!({"name": tool, "arguments": arguments});
        let (text, _) = self.post("tools/call", Some(tool), Some(1), params).await;
        let message: Value = serde_json::from_str(&text).unwrap();
        let result = &message["result"];
        let told = result["content"][0]["text"].as_str();
        let told: Value = told.map_or_else(
            || panic!("{tool}: {text}"),
            |t| serde_json::from_str(t).unwrap(),
        );
        if result["isError"] == true {
            return Err(told);
        }
        assert_eq!(
            told, result["structuredContent"],
            "text and structure are the same"
        );
        Ok(told)
    }

    /// A tool call that must not be refused.
    pub(crate) async fn ok(&self, tool: &str, arguments: Value) -> Value {
        match self.call(tool, arguments).await {
            Ok(answer) => answer,
            Err(refusal) => panic!("{tool} was refused: {refusal:#}"),
        }
    }

    /// A tool call that must be refused.
    pub(crate) async fn refused(&self, tool: &str, arguments: Value) -> Value {
        match self.call(tool, arguments).await {
            Ok(answer) => panic!("{tool} was not refused: {answer:#}"),
            Err(refusal) => refusal,
        }
    }

    /// Delegates a task that the model does by `script` (an object with `turns`); gives its id.
    pub(crate) async fn submit(&self, script: Value, more: Value) -> String {
        let answer = self.ok("opencode_execute_task", task(script, more)).await;
        id_of(&answer)
    }

    pub(crate) async fn status(&self, task: &str) -> Value {
        self.ok("get_task_status", json!({"task_id": task})).await
    }

    pub(crate) async fn control(&self, task: &str, control: &str) -> Value {
        self.ok(
            "send_task_control",
            json!({"task_id": task, "control": control, "reason": "the test"}),
        )
        .await
    }

    pub(crate) async fn message(&self, task: &str, text: &str) -> Value {
        self.ok(
            "send_task_message",
            json!({"task_id": task, "message": text, "message_type": "correction"}),
        )
        .await
    }

    /// Long-polls to the end.
    pub(crate) async fn final_status(&self, task: &str) -> Value {
        let end = Instant::now() + 2 * PATIENCE;
        loop {
            let seen = self
                .ok(
                    "get_task_status",
                    json!({"task_id": task, "wait_seconds": 20}),
                )
                .await;
            if FINAL.iter().any(|word| seen["status"] == *word) {
                return seen;
            }
            assert!(Instant::now() < end, "{task} does not end: {seen:#}");
        }
    }

    /// Polls until the status fits.
    pub(crate) async fn until(
        &self,
        task: &str,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = self.status(task).await;
            if fits(&seen) {
                return seen;
            }
            let ended = FINAL.iter().any(|word| seen["status"] == *word);
            assert!(!ended, "{task} ended before {what}: {seen:#}");
            assert!(
                Instant::now() < end,
                "{task}: waited in vain until {what}: {seen:#}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for a phase.
    pub(crate) async fn until_phase(&self, task: &str, phase: &str) -> Value {
        self.until(task, phase, |seen| seen["phase"] == phase).await
    }

    /// Waits for an event, also after the end.
    pub(crate) async fn until_event(&self, task: &str, event: &str) -> Value {
        let what = format!("event {event} of {task}");
        until(&what, || async {
            let events = self.history(task).await;
            events.into_iter().find(|one| one["event"] == event)
        })
        .await
    }

    /// All events, checked to be in order and complete.
    pub(crate) async fn history(&self, task: &str) -> Vec<Value> {
        let page = self
            .ok(
                "get_task_history",
                json!({"task_id": task, "events_limit": -1}),
            )
            .await;
        let events = page["events"].as_array().unwrap().clone();
        assert_eq!(page["events_total"], events.len());
        let numbers = numbers(&events);
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert_eq!(events[0]["event"], "task_accepted");
        events
    }

    /// Whether an event has been recorded.
    pub(crate) async fn has_event(&self, task: &str, event: &str) -> bool {
        self.history(task)
            .await
            .iter()
            .any(|one| one["event"] == event)
    }

    /// Artifacts by name.
    pub(crate) async fn artifact(&self, task: &str, name: &str) -> Option<String> {
        let asked = json!({"task_id": task, "artifact": name, "artifact_limit": 200_000});
        let page = self.ok("get_task_history", asked).await;
        let found = page["artifacts"].as_array().unwrap().first()?;
        Some(found["content"].as_str().unwrap().to_owned())
    }

    /// Pages of `since_event` give every event once, in the same order.
    async fn cursor_reads_once(&self, task: &str, events: &[Value]) {
        let (mut read, mut cursor) = (Vec::new(), json!(0));
        loop {
            let page = self
                .ok(
                    "get_task_status",
                    json!({"task_id": task, "since_event": cursor}),
                )
                .await;
            read.extend(numbers(page["recent_events"].as_array().unwrap()));
            cursor = page["next_event"].clone();
            if page["more_events"] == false {
                break;
            }
        }
        read.truncate(events.len());
        assert_eq!(
            read,
            numbers(events),
            "the cursor read something else than the history"
        );
    }

    /// Content of a file as `read_task_file` gives it.
    pub(crate) async fn file(&self, task: &str, path: &str) -> Value {
        self.ok(
            "read_task_file",
            json!({"task_id": task, "file_path": path}),
        )
        .await
    }
}

/// Arguments of `opencode_execute_task` for a script.
pub(crate) fn task(script: Value, more: Value) -> Value {
    let mut arguments = json!({"task_description": format!("Do this. <script>{script}</script>")});
    for (key, value) in more.as_object().into_iter().flatten() {
        arguments[key] = value.clone();
    }
    arguments
}

/// Turns without anything else.
pub(crate) fn turns(turns: Value) -> Value {
    json!({"turns": turns})
}

/// The id in an answer of `opencode_execute_task`.
pub(crate) fn id_of(answer: &Value) -> String {
    answer["task_id"].as_str().unwrap().to_owned()
}

fn numbers(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .map(|event| event["number"].as_u64().unwrap())
        .collect()
}

/// An OpenCode server, spoken to past Chargehand.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) pid: i32,
    pub(crate) url: String,
    pub(crate) password: String,
}

impl Worker {
    /// From the records of the engine `local`; none while it is not up.
    fn recorded(directory: &Path) -> Option<Self> {
        let json = |name: &str| -> Option<Value> {
            serde_json::from_slice(&std::fs::read(directory.join(name)).ok()?).ok()
        };
        let (record, process) = (json("record.json")?, json("process.json")?);
        let log = std::fs::read_to_string(record["log"].as_str()?).ok()?;
        let (_, port) = log
            .lines()
            .find(|line| line.contains("listening on"))?
            .rsplit_once(':')?;
        let pid = i32::try_from(process["worker"]["pid"].as_i64()?).ok()?;
        alive(pid).then(|| Self {
            pid,
            url: format!("http://127.0.0.1:{}", port.trim()),
            password: record["password"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// A GET; none = not found.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http
            .get(format!("{}{path}", self.url))
            .basic_auth("opencode", Some(&self.password));
        let response = request
            .timeout(Duration::from_secs(30))
            .send()
            .await
            .unwrap();
        if response.status() == 404 {
            return None;
        }
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.status()
        );
        response.json().await.ok()
    }

    /// A POST with a JSON body and answer.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http
            .post(format!("{}{path}", self.url))
            .basic_auth("opencode", Some(&self.password));
        let response = request
            .json(&body)
            .timeout(Duration::from_secs(30))
            .send()
            .await
            .unwrap();
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.status()
        );
        response.json().await.unwrap()
    }

    /// A session by its id.
    pub(crate) async fn session(&self, id: &str) -> Option<Value> {
        self.get(&format!("/session/{id}")).await
    }

    /// Sends it a signal by the program `kill`.
    pub(crate) fn signal(&self, signal: &str) {
        signal_to(self.pid, signal);
    }
}

/// Sends a signal by the program `kill`.
pub(crate) fn signal_to(pid: i32, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Whether a process runs (a zombie does not).
pub(crate) fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn processes(fits: impl Fn(&Path) -> bool) -> Vec<i32> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .parse::<i32>()
            .ok()
            .filter(|pid| name != own && alive(*pid));
        if let Some(pid) = pid
            && fits(&entry.path())
        {
            found.push(pid);
        }
    }
    found
}

/// Processes that work in a directory.
pub(crate) fn working_in(directory: &str) -> Vec<i32> {
    processes(|process| {
        std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
    })
}

/// Waits until no process works in the directory any more.
pub(crate) async fn gone_from(directory: &str) {
    let what = format!("no process works in {directory}");
    until(&what, || async {
        working_in(directory).is_empty().then_some(())
    })
    .await;
}

/// Repeats until there is something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts the lines of a file; 0 when it is not there.
pub(crate) fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// The largest number of entries that held at the same time, by samples that a test takes.
#[derive(Default)]
pub(crate) struct Peak(Mutex<Map<String, Value>>);

impl Peak {
    pub(crate) fn note(&self, name: &str, value: usize) {
        let mut peaks = self.0.lock().unwrap();
        let known = peaks.get(name).and_then(Value::as_u64).unwrap_or(0);
        peaks.insert(name.to_owned(), json!(known.max(value as u64)));
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0
            .lock()
            .unwrap()
            .get(name)
            .and_then(Value::as_u64)
            .unwrap_or(0)
    }
}
