//! An MCP client over HTTP, of the newest protocol or with a session of an older one, and the tools as calls.
//!
//! In: the server's address and the agent. Out: answers as JSON, each checked to be the same as text and as structure; histories
//! checked to be complete and in order.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness_outside::{PATIENCE, until};

/// Revisions of the protocol that the clients speak.
const NEWEST: &str = "2026-07-28";
const OLDER: &str = "2025-06-18";

/// The phases after which nothing changes.
const FINAL: [&str; 4] = ["completed", "failed", "timeout", "cancelled"];

/// An MCP client: one agent's way to one server.
#[derive(Clone)]
pub(crate) struct Client {
    url: String,
    agent: String,
    /// Of the older protocol.
    session: Option<String>,
    http: reqwest::Client,
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

    /// Where an MCP client finds the server.
    pub(crate) fn mcp_url(&self) -> String {
        format!("{}/mcp", self.url)
    }

    /// Another agent with connections of its own; an empty one sees the tasks of all agents.
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
            .header("Accept", "application/json, text/event-stream");
        if !self.agent.is_empty() {
            request = request.header("X-Agent-Id", &self.agent);
        }
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
        // A client with a session is answered by a stream of events, whose last one is the answer.
        let answer = text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("data: {"));
        let answer = answer.map_or_else(|| text.clone(), |rest| format!("{{{rest}"));
        let message: Value = serde_json::from_str(&answer).unwrap();
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
    pub(crate) async fn cursor_reads_once(&self, task: &str, events: &[Value]) {
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

/// A shell command that waits for a file.
pub(crate) fn wait_for(gate: &Path) -> String {
    format!("until [ -e '{}' ]; do sleep 0.05; done", gate.display())
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
