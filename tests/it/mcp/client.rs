//! A small MCP client that shows what is on the wire: with a session (2025-06-18) or without (2026-07-28).

use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

/// Both answers that streamable HTTP may give.
pub(crate) const ACCEPT: &str = "application/json, text/event-stream";

/// A client.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    session: Option<String>,
    headers: Vec<(&'static str, String)>,
    next: AtomicU64,
}

/// A tool's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) refused: bool,
    /// The JSON of `content[0].text`.
    pub(crate) body: Value,
    pub(crate) structured: Option<Value>,
}

impl Client {
    fn new(url: &str) -> Self {
        Self {
            http: reqwest::Client::new(),
            url: format!("{url}/mcp"),
            session: None,
            headers: Vec::new(),
            next: AtomicU64::new(1),
        }
    }

    /// Without session, protocol 2026-07-28.
    pub(crate) fn stateless(url: &str) -> Self {
        Self::new(url)
    }

    /// With a header on every request.
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Opens a session.
    pub(crate) async fn with_session(url: &str) -> Self {
        Self::new(url).open("2025-06-18").await.0
    }

    /// Opens a session with this protocol version; also answers what the server said.
    pub(crate) async fn open(mut self, version: &str) -> (Self, Value) {
        let response = self.try_open(version).await;
        assert_eq!(response.status(), StatusCode::OK);
        self.session = response
            .headers()
            .get("mcp-session-id")
            .map(|id| id.to_str().unwrap().to_owned());
        assert!(self.session.is_some(), "no session id");
        let said = message(response).await;
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let accepted = self.post(&initialized).send().await.unwrap();
        assert_eq!(accepted.status(), StatusCode::ACCEPTED);
        (self, said)
    }

    /// The bare answer to `initialize`.
    pub(crate) async fn try_open(&self, version: &str) -> Response {
        let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": version, "capabilities": {},
            "clientInfo": {"name": "test", "version": "0"}}});
        self.post(&initialize).send().await.unwrap()
    }

    pub(crate) fn session(&self) -> &str {
        self.session.as_deref().unwrap()
    }

    /// A POST of `message`, not yet sent.
    pub(crate) fn post(&self, message: &Value) -> RequestBuilder {
        let mut request = self
            .http
            .post(&self.url)
            .header("Accept", ACCEPT)
            .json(message);
        if let Some(session) = &self.session {
            request = request.header("Mcp-Session-Id", session);
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request
    }

    /// Ends the session.
    pub(crate) async fn close(&self) -> StatusCode {
        let request = self.http.delete(&self.url);
        let request = request.header("Mcp-Session-Id", self.session());
        request.send().await.unwrap().status()
    }

    /// A request, not yet sent.
    pub(crate) fn request(&self, method: &str, mut params: Value) -> RequestBuilder {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let stateless = self.session.is_none();
        if stateless {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {}});
        }
        let name = params["name"].as_str().map(str::to_owned);
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let mut request = self.post(&message);
        if stateless {
            request = request
                .header("MCP-Protocol-Version", "2026-07-28")
                .header("Mcp-Method", method);
            if let Some(name) = name {
                request = request.header("Mcp-Name", name);
            }
        }
        request
    }

    /// The whole JSON-RPC answer.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        message(self.request(method, params).send().await.unwrap()).await
    }

    /// Calls a tool.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Answer {
        let said = self
            .ask("tools/call", json!({"name": tool, "arguments": arguments}))
            .await;
        Answer::of(&said)
    }

    /// Calls a tool that must not refuse.
    pub(crate) async fn ok(&self, tool: &str, arguments: Value) -> Value {
        let answer = self.call(tool, arguments).await;
        assert!(!answer.refused, "{tool} refused: {}", answer.body);
        assert_eq!(
            answer.structured.as_ref(),
            Some(&answer.body),
            "text and structured content say the same"
        );
        answer.body
    }

    /// Calls a tool that must refuse.
    pub(crate) async fn refused(&self, tool: &str, arguments: Value) -> Value {
        let answer = self.call(tool, arguments).await;
        assert!(answer.refused, "{tool} did not refuse: {}", answer.body);
        assert_eq!(answer.structured, None, "a refusal has text only");
        answer.body
    }

    /// Delegates a task and waits until it is in `phase`.
    pub(crate) async fn task_in(&self, description: &str, phase: &str) -> String {
        let arguments = json!({"agent_id": "agent-1", "task_description": description});
        let accepted = self.ok("opencode_execute_task", arguments).await;
        let task = accepted["task_id"].as_str().unwrap().to_owned();
        self.until(&task, phase).await;
        task
    }

    /// Waits until a task is in `phase`; answers its status.
    pub(crate) async fn until(&self, task: &str, phase: &str) -> Value {
        for _ in 0..1_000 {
            let status = self.ok("get_task_status", json!({"task_id": task})).await;
            if status["phase"] == phase {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let status = self.ok("get_task_status", json!({"task_id": task})).await;
        panic!("{task} is not {phase}: {status:#}");
    }

    /// A wait for the task, of a client with a session: its answer is a stream that has begun, so the session is busy from
    /// now on, until the task's phase changes.
    pub(crate) async fn waiting_for(&self, task: &str) -> Response {
        assert!(
            self.session.is_some(),
            "only a session's answer begins early"
        );
        let wait =
            json!({"name": "get_task_status", "arguments": {"task_id": task, "wait_seconds": 45}});
        let response = self.request("tools/call", wait).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response
    }

    /// Ends a task, and so the waits for it.
    pub(crate) async fn cancel(&self, task: &str) {
        let cancel = json!({"task_id": task, "control": "cancel"});
        self.ok("send_task_control", cancel).await;
    }

    /// The history with the task's artifacts, once this one is among them: the worker's output is written to its file on
    /// the side, and may be there a moment after the task has ended.
    pub(crate) async fn artifacts_with(&self, task: &str, name: &str) -> Value {
        let arguments = json!({"task_id": task, "include_artifacts": true, "events_limit": 0});
        for _ in 0..500 {
            let history = self.ok("get_task_history", arguments.clone()).await;
            let mut artifacts = history["artifacts"].as_array().unwrap().iter();
            if artifacts.any(|artifact| artifact["name"] == name) {
                return history;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{task} never had an artifact {name}");
    }
}

impl Answer {
    fn of(said: &Value) -> Self {
        let result = said
            .get("result")
            .unwrap_or_else(|| panic!("no result: {said}"));
        let text = result["content"][0]["text"].as_str().unwrap();
        assert_eq!(result["content"].as_array().unwrap().len(), 1);
        Self {
            refused: result["isError"] == true,
            body: serde_json::from_str(text).unwrap(),
            structured: result.get("structuredContent").cloned(),
        }
    }
}

/// The one JSON-RPC message of a response, JSON or event stream.
pub(crate) async fn message(response: Response) -> Value {
    let is_stream = response
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let text = response.text().await.unwrap();
    if !is_stream {
        return serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    }
    text.lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .find(|data| data.trim_start().starts_with('{'))
        .map_or_else(
            || panic!("no message in the stream: {text:?}"),
            |data| serde_json::from_str(data).unwrap(),
        )
}
