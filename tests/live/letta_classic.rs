//! A real classic Letta server for a test, and its agents.
//!
//! In: which release (`CHARGEHAND_TEST_LETTA_OLD` = 0.16.6, started as it is; `CHARGEHAND_TEST_LETTA_CLASSIC` = 0.16.8, whose refusal
//! of MCP servers on loopback is switched off by the start script, and only there). Out: its REST API, agents with a scripted
//! model, turns of them. One server of each release serves all tests of a run, one after the other or at once: every test
//! has an agent of its own. Dropping it ends the server.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::letta_model::LettaModel;

/// A cold server takes half a minute; on a machine that does much else at once it was seen to take more than three.
const START: Duration = Duration::from_secs(600);
/// The longest that anything else may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Which release.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Release {
    /// 0.16.6: no check of addresses.
    Old,
    /// 0.16.8: the last one.
    Last,
}

/// The server with its model.
pub(crate) struct Classic {
    pub(crate) url: String,
    pub(crate) model: LettaModel,
    http: reqwest::Client,
    child: Child,
    directory: TempDir,
}

/// The environment's program or directory; none = the test is skipped, unless everything is required.
pub(crate) fn tool(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    let required = std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_some_and(|v| v == "1");
    assert!(path.is_some() || !required, "{variable} is required here");
    if path.is_none() {
        println!("SKIPPED, {variable} is not set");
    }
    path
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Says the password with each request.
fn client(password: Option<&str>) -> reqwest::Client {
    let mut builder = reqwest::Client::builder().no_proxy();
    if let Some(password) = password {
        let value = format!("Bearer {password}").parse().unwrap();
        builder = builder.default_headers(
            [(reqwest::header::AUTHORIZATION, value)]
                .into_iter()
                .collect(),
        );
    }
    builder.build().unwrap()
}

impl Classic {
    /// Starts one; none when it is not installed.
    pub(crate) async fn start(release: Release) -> Option<Self> {
        Self::start_with(release, None).await
    }

    /// One that asks for this password.
    pub(crate) async fn start_with(release: Release, password: Option<&str>) -> Option<Self> {
        let venv = tool(match release {
            Release::Old => "CHARGEHAND_TEST_LETTA_OLD",
            Release::Last => "CHARGEHAND_TEST_LETTA_CLASSIC",
        })?;
        let model = LettaModel::start().await;
        let directory = tempfile::Builder::new()
            .prefix("chargehand-letta-")
            .tempdir()
            .unwrap();
        let (pg, port) = (free_port(), free_port());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/letta/start");
        let mut command = Command::new(script);
        if let Some(password) = password {
            command
                .env("LETTA_SERVER_SECURE", "true")
                .env("LETTA_SERVER_PASSWORD", password);
        }
        let child = command
            .arg(venv)
            .arg(directory.path())
            .args([pg.to_string(), port.to_string(), model.url.clone()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut this = Self {
            url: format!("http://127.0.0.1:{port}"),
            model,
            http: client(password),
            child,
            directory,
        };
        this.until_ready().await;
        Some(this)
    }

    async fn until_ready(&mut self) {
        let end = Instant::now() + START;
        loop {
            let health = self.http.get(format!("{}/v1/health/", self.url)).send();
            if health
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "Letta ended: {ended:?}\n{}", self.log());
            assert!(
                Instant::now() < end,
                "Letta does not start:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The end of the server's log.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("letta.log"));
        let log = log.unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(200)..].join("\n")
    }

    /// A request as it is: status and body.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = self
            .http
            .request(method, format!("{}/v1/{path}", self.url))
            .timeout(PATIENCE);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = match request.try_clone().unwrap().send().await {
            // A connection that the server closed while it lay idle. What took too long may still be done: never twice.
            Err(error) if error.is_request() && !error.is_timeout() => {
                request.send().await.unwrap()
            }
            answer => answer.unwrap(),
        };
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(json!(text)))
    }

    /// A request that must succeed.
    pub(crate) async fn ok(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// A new agent with these tools; gives its id.
    pub(crate) async fn agent(&self, name: &str, tools: &[String]) -> String {
        let llm = &self.model.url;
        let agent = json!({
            "name": format!("{name}-{}", uuid::Uuid::new_v4().simple()),
            "agent_type": "letta_v1_agent",
            "llm_config": {"model": "gpt-4o-mini", "model_endpoint_type": "openai", "model_endpoint": llm, "context_window": 32_000},
            "embedding_config": {"embedding_model": "text-embedding-3-small", "embedding_endpoint_type": "openai",
                "embedding_endpoint": llm, "embedding_dim": 1_536, "embedding_chunk_size": 300},
            "include_base_tools": false,
            "memory_blocks": [{"label": "persona", "value": "I delegate."}],
            "tool_ids": tools,
        });
        let made = self.ok(Method::POST, "agents/", Some(agent)).await;
        made["id"].as_str().unwrap().to_owned()
    }

    /// Registers an MCP server; gives the ids of its tools.
    pub(crate) async fn register(&self, name: &str, url: &str) -> Vec<String> {
        let server = json!({"server_name": name,
            "config": {"mcp_server_type": "streamable_http", "server_url": url}});
        let made = self.ok(Method::POST, "mcp-servers/", Some(server)).await;
        let id = made["id"].as_str().unwrap();
        let tools = self
            .ok(Method::GET, &format!("mcp-servers/{id}/tools"), None)
            .await;
        let tools = tools.as_array().unwrap().iter();
        tools
            .map(|tool| tool["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// A turn of the agent: what it was told, and its messages.
    pub(crate) async fn turn(&self, agent: &str, text: &str) -> Value {
        let body = json!({"messages": [{"role": "user", "content": text}]});
        self.ok(
            Method::POST,
            &format!("agents/{agent}/messages"),
            Some(body),
        )
        .await
    }

    /// A turn in which the agent calls a tool; gives the tool's answer as it was told to the agent.
    pub(crate) async fn calls(&self, agent: &str, tool: &str, arguments: Value) -> Value {
        let turn = self
            .turn(agent, &format!("CALL {tool} {arguments} END"))
            .await;
        let messages = turn["messages"].as_array().unwrap();
        let returned = messages
            .iter()
            .find(|one| one["message_type"] == "tool_return_message");
        let returned = returned.unwrap_or_else(|| panic!("{tool} was not called: {turn:#}"));
        let text = returned["tool_return"].as_str().unwrap();
        // Letta tells its agent of a connection that broke with an empty text; what broke stands in its log only.
        assert!(!text.is_empty(), "{tool}: {returned:#}\n{}", self.log());
        serde_json::from_str(text).unwrap_or_else(|_| json!(text))
    }

    /// What the agent's next prompt holds as its system message, seen by its model in a turn made for that.
    pub(crate) async fn prompt(&self, agent: &str) -> String {
        let mark = uuid::Uuid::new_v4().to_string();
        self.turn(agent, &format!("look {mark}")).await;
        let prompts = self.model.prompts();
        let seen = prompts
            .iter()
            .rev()
            .find(|one| one.to_string().contains(&mark))
            .unwrap();
        let system = &seen["messages"][0];
        assert_eq!(system["role"], "system", "{seen:#}");
        match &system["content"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// From here on the server answers nobody, as one that hangs.
    pub(crate) fn freeze(&mut self) {
        self.signal("-STOP");
    }

    /// It goes on where it was.
    pub(crate) fn thaw(&mut self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.directory.path().join("letta.pid")).unwrap();
        let sent = Command::new("kill").args([signal, pid.trim()]).status();
        assert!(sent.unwrap().success());
    }

    /// Blocks that carry a tag.
    pub(crate) async fn tagged(&self, tag: &str) -> Vec<Value> {
        let found = self
            .ok(Method::GET, &format!("blocks/?tags={tag}&limit=100"), None)
            .await;
        found.as_array().unwrap().clone()
    }
}

impl Drop for Classic {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.directory.path().join("letta.pid"));
        if let Ok(pid) = pid {
            // A stopped process would not hear that it shall end.
            drop(Command::new("kill").args(["-CONT", pid.trim()]).status());
        }
        // The script ends both servers when its standard input is closed; it is waited for, or the database stays.
        drop(self.child.stdin.take());
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
