//! A planner that does not give up: every call is repeated until a living server has answered it.
//!
//! In: where the server listens now (it changes with every start). Out: answers and refusals. A call whose answer was lost is made
//! again, as a real planner does it; what that may mean is known to the jobs that call.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The revision of the protocol that needs no session.
const PROTOCOL: &str = "2026-07-28";
/// How long the server may be away or refuse for the moment.
const PATIENCE: Duration = Duration::from_secs(150);
/// Refusals that say "not now".
const NOT_NOW: [&str; 3] = ["CLOSED", "SLOW", "UNAVAILABLE"];

/// An MCP client of whatever server lives.
#[derive(Clone)]
pub(crate) struct Planner {
    address: Arc<RwLock<String>>,
    agent: Arc<RwLock<String>>,
    http: reqwest::Client,
}

impl Planner {
    pub(crate) fn new() -> Self {
        let http = reqwest::Client::builder().no_proxy();
        // A connection to a killed server must not be used again for the next one.
        let http = http
            .timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(0);
        Self {
            address: Arc::default(),
            agent: Arc::new(RwLock::new("planner".to_owned())),
            http: http.build().unwrap(),
        }
    }

    /// The server listens here now.
    pub(crate) fn listens_at(&self, address: &str) {
        address.clone_into(&mut self.address.write().unwrap());
    }

    /// Calls are this agent's from here on.
    pub(crate) fn speaks_for(&self, agent: &str) {
        agent.clone_into(&mut self.agent.write().unwrap());
    }

    /// One try. None = no answer.
    async fn try_call(&self, tool: &str, arguments: &Value) -> Option<Result<Value, Value>> {
        let address = self.address.read().unwrap().clone();
        let agent = self.agent.read().unwrap().clone();
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": tool, "arguments": arguments, "_meta": {
                "io.modelcontextprotocol/protocolVersion": PROTOCOL,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "kills", "version": "1"}}}});
        let request = self
            .http
            .post(format!("http://{address}/mcp"))
            .header("Accept", "application/json, text/event-stream")
            .header("X-Agent-Id", agent)
            .header("MCP-Protocol-Version", PROTOCOL)
            .header("Mcp-Method", "tools/call")
            .header("Mcp-Name", tool);
        let response = request.json(&body).send().await.ok()?;
        let text = response.text().await.ok()?;
        let answer: Value = serde_json::from_str(&text).ok()?;
        let result = answer.get("result")?;
        let told: Value = serde_json::from_str(result["content"][0]["text"].as_str()?).ok()?;
        Some(if result["isError"] == true {
            Err(told)
        } else {
            Ok(told)
        })
    }

    /// Repeats until there is an answer that is not "not now".
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Result<Value, Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.try_call(tool, &arguments).await {
                Some(Err(refusal)) if NOT_NOW.iter().any(|code| refusal["code"] == *code) => {}
                Some(answer) => return answer,
                None => {}
            }
            assert!(
                Instant::now() < end,
                "{tool} was never answered: {arguments}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// As [`Self::call`]; a refusal is a failed test.
    pub(crate) async fn ok(&self, tool: &str, arguments: Value) -> Value {
        match self.call(tool, arguments).await {
            Ok(answer) => answer,
            Err(refusal) => panic!("{tool} was refused: {refusal:#}"),
        }
    }

    pub(crate) async fn status(&self, task: &str) -> Value {
        self.ok("get_task_status", json!({"task_id": task})).await
    }

    pub(crate) async fn control(&self, task: &str, control: &str) -> Result<Value, Value> {
        self.call(
            "send_task_control",
            json!({"task_id": task, "control": control, "reason": "the test"}),
        )
        .await
    }

    /// Every event of a task.
    pub(crate) async fn history(&self, task: &str) -> Vec<Value> {
        let asked = json!({"task_id": task, "events_limit": -1});
        let page = self.ok("get_task_history", asked).await;
        page["events"].as_array().unwrap().clone()
    }

    /// Ids of all tasks that the server knows.
    pub(crate) async fn listed(&self) -> Vec<String> {
        let (mut all, mut cursor) = (Vec::new(), Value::Null);
        loop {
            let mut asked = json!({"limit": 100});
            if cursor.is_string() {
                asked["cursor"] = cursor;
            }
            let page = self.ok("list_tasks", asked).await;
            let tasks = page["tasks"].as_array().unwrap().iter();
            all.extend(tasks.map(|task| task["task_id"].as_str().unwrap().to_owned()));
            cursor = page["next_cursor"].clone();
            if cursor.is_null() {
                return all;
            }
        }
    }
}
