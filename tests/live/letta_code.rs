//! A real Letta Code App Server for a test, and its agents.
//!
//! In: `CHARGEHAND_TEST_LETTA_CODE`, the program. Out: a server on a home directory of its own with a scripted model, an agent that
//! has our MCP server, turns of it. Dropping it ends the server.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

use crate::letta_classic::{PATIENCE, free_port, tool};
use crate::letta_model::LettaModel;

/// The server with its model.
pub(crate) struct LettaCode {
    pub(crate) url: String,
    pub(crate) model: LettaModel,
    /// Its only agent.
    pub(crate) agent: Agent,
    child: Child,
    program: PathBuf,
    directory: TempDir,
}

/// An agent and its conversation.
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) conversation: String,
}

fn letta(program: &Path, home: &Path) -> Command {
    // Its agents call it by name.
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let own = program.parent().map(Path::to_owned);
    let path = own.into_iter().chain(std::env::split_paths(&usual));
    let mut command = Command::new(program);
    command
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("HOME", home)
        .env("LETTA_DISABLE_TELEMETRY", "1")
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {told} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    told
}

fn serve(program: &Path, home: &Path, url: &str) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(home.join("server.log"))
        .unwrap();
    letta(program, home)
        .args(["server", "--backend", "local", "--listen", url])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A new agent, with a conversation of one turn.
fn new_agent(program: &Path, home: &Path) -> Agent {
    let mut first = letta(program, home);
    first.args(["-p", "hello", "--new-agent", "--personality", "blank"]);
    first.args(["--model", "openai-compatible/gpt-4o-mini"]);
    first.args(["--output-format", "json"]);
    let told = first_json(&run(first));
    Agent {
        id: told["agent_id"].as_str().unwrap().to_owned(),
        conversation: told["conversation_id"].as_str().unwrap().to_owned(),
    }
}

/// The JSON object that a command in the background writes.
async fn written(file: &Path) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let start = text.find('{').map(|start| &text[start..]);
        let mut values = serde_json::Deserializer::from_str(start.unwrap_or_default()).into_iter();
        if let Some(Ok(found)) = values.next() {
            return found;
        }
        assert!(Instant::now() < end, "the command does not end: {text}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The first JSON object of a text.
fn first_json(text: &str) -> Value {
    let start = text.find('{').unwrap_or_else(|| panic!("{text}"));
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter();
    let first = values.next().unwrap();
    first.unwrap_or_else(|error| panic!("{error}: {text}"))
}

impl LettaCode {
    /// Starts one; none when it is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let program = tool("CHARGEHAND_TEST_LETTA_CODE")?;
        let model = LettaModel::start().await;
        let directory = tempfile::Builder::new()
            .prefix("chargehand-letta-code-")
            .tempdir()
            .unwrap();
        let home = directory.path();
        let mut backend = letta(&program, home);
        backend.args(["backend", "local"]);
        run(backend);
        let mut connect = letta(&program, home);
        connect.args(["connect", "openai-compatible", "--base-url", &model.url]);
        connect.args(["--api-key", "none"]);
        run(connect);
        // Before the server: it does not see agents that others make while it runs.
        let agent = new_agent(&program, home);
        let url = format!("ws://127.0.0.1:{}", free_port());
        let child = serve(&program, home, &url);
        let mut this = Self {
            url,
            model,
            agent,
            child,
            program,
            directory,
        };
        this.until_ready().await;
        Some(this)
    }

    /// Ends the server and starts it again where it was.
    async fn restart(&mut self) {
        self.end();
        self.child = serve(&self.program, self.directory.path(), &self.url);
        self.until_ready().await;
    }

    fn end(&mut self) {
        let pid = self.child.id().to_string();
        drop(Command::new("kill").args(["-TERM", &pid]).status());
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }

    async fn until_ready(&mut self) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let health = format!("{}/readyz", self.url.replace("ws:", "http:"));
        let end = Instant::now() + PATIENCE;
        loop {
            let ready = http.get(&health).send().await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            let log = || std::fs::read_to_string(self.directory.path().join("server.log"));
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the App Server ended: {:?}", log());
            assert!(Instant::now() < end, "it does not start: {:?}", log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Puts our MCP server into the agent's settings, and starts the server again: it keeps the settings it has read, and
    /// writes them over what others wrote meanwhile.
    pub(crate) async fn use_mcp(&mut self, mcp: &str) {
        let file = self.directory.path().join(".letta/settings.json");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|_| "{}".to_owned());
        let mut settings: Value = serde_json::from_str(&text).unwrap();
        let server = json!([{"name": "oc", "transport": "http", "url": mcp,
            "headers": {"X-Agent-Id": "${AGENT_ID}", "X-Conversation-Id": "${CONVERSATION_ID}"}}]);
        // Settings of an agent of the local backend carry the backend's directory.
        let backend = self.directory.path().join(".letta/lc-local-backend");
        let backend = format!("local:{}", backend.display());
        let mut agents = settings["agents"].as_array().cloned().unwrap_or_default();
        agents.retain(|one| one["baseUrl"] != backend.as_str());
        agents.push(json!({"agentId": self.agent.id, "baseUrl": backend, "mcpServers": server}));
        settings["agents"] = json!(agents);
        std::fs::write(&file, settings.to_string()).unwrap();
        self.restart().await;
    }

    /// A turn of the agent, to its end.
    pub(crate) async fn turn(&self, text: &str) {
        let (mut socket, _) = tokio_tungstenite::connect_async(format!("{}/ws", self.url))
            .await
            .unwrap();
        let agent = &self.agent;
        let id = uuid::Uuid::new_v4().to_string();
        let scope = json!({"agent_id": agent.id, "conversation_id": agent.conversation});
        let start = json!({"type": "runtime_start", "request_id": "1", "agent_id": agent.id,
            "conversation_id": agent.conversation, "mode": "unrestricted"});
        let input = json!({"type": "input", "request_id": "2", "runtime": scope,
            "payload": {"kind": "create_message", "messages": [
                {"role": "user", "content": text, "client_message_id": id}]}});
        let mut seen = Vec::new();
        // Behind another turn, whose end is not this one's.
        let mut waits = false;
        // The end of an earlier turn is told again to whoever comes; only one after the acceptance is this turn's.
        let steps = [
            (Some(start), "runtime_start_response"),
            (Some(input), "input_accepted"),
            (None, "turn_finished"),
        ];
        for (request, until) in steps {
            if let Some(request) = request {
                let text = Message::text(request.to_string());
                socket.send(text).await.unwrap();
            }
            loop {
                let next = tokio::time::timeout(PATIENCE, socket.next()).await;
                let next = next.unwrap_or_else(|_| panic!("no {until}: {seen:#?}"));
                let message = next.unwrap().unwrap();
                if !message.is_text() {
                    // The server asks whether we are there; the library answers.
                    continue;
                }
                let said: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
                if said["type"] == "input_accepted" {
                    waits = said["disposition"] == "queued";
                } else if said["type"] == "update_queue" {
                    waits = said["queue"].to_string().contains(&id);
                }
                let done = said["type"] == until && (until != "turn_finished" || !waits);
                seen.push(said);
                if done {
                    break;
                }
            }
        }
        let end = seen.last().unwrap();
        assert!(
            end["stop_reason"] != "error" && end["error"].is_null(),
            "{seen:#?}"
        );
        socket.close(None).await.unwrap();
    }

    /// A turn in which the agent calls a tool of ours with Letta's own MCP client; gives the answer as the agent's model
    /// was told it.
    pub(crate) async fn calls(&self, tool: &str, arguments: Value) -> Value {
        let file = self.directory.path().join("arguments.json");
        std::fs::write(&file, arguments.to_string()).unwrap();
        let command = format!(
            "letta mcp call mcp__oc__{tool} --args \"$(cat '{}')\"",
            file.display()
        );
        let order = json!({"command": command, "description": "delegate"});
        self.turn(&format!("CALL Bash {order} END")).await;
        let prompt = self.model.last_prompt();
        let told = prompt["messages"].as_array().unwrap().last().unwrap();
        assert_eq!(told["role"], "tool", "{told:#}");
        let text = match &told["content"] {
            Value::String(text) => text.clone(),
            parts => parts[0]["text"].as_str().unwrap_or_default().to_owned(),
        };
        // What takes longer than ten seconds goes on in the background of its shell.
        let answer = match text.split_once("Output file: ") {
            Some((_, rest)) if text.contains("still running") => {
                written(Path::new(rest.lines().next().unwrap())).await
            }
            _ => first_json(&text),
        };
        let answer = answer["structuredContent"].clone();
        assert!(answer.is_object(), "{tool}: {text}");
        answer
    }

    /// What the agent's next prompt holds, seen by its model in a turn made for that.
    pub(crate) async fn prompt(&self) -> String {
        let mark = uuid::Uuid::new_v4().to_string();
        self.turn(&format!("look {mark}")).await;
        let prompts = self.model.prompts();
        let with = |one: &&Value| one.to_string().contains(&mark);
        let seen = prompts.iter().rev().find(with).unwrap();
        seen["messages"][0]["content"].to_string()
    }
}

impl Drop for LettaCode {
    fn drop(&mut self) {
        self.end();
    }
}
