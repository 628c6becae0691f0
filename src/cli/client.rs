//! The commands' way to a running server: tool calls, the operator's endpoints, task ids from their beginnings.
//!
//! In: tool names with arguments, paths. Out: JSON answers, and errors that say what to do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;

use super::answers::{TaskList, Text};
use super::args::GlobalArgs;
use super::error::{CliError, error_text};
use super::rpc::{Answers, Endpoint, Token, tool_call};

/// Where a server is looked for when nobody says otherwise.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:3500";
/// Who the tasks of the command line belong to.
pub(crate) const AGENT: &str = "cli";
/// How long an answer may take beyond what the call itself waits for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many pages of tasks are searched for the beginning of an id.
const ID_PAGES: usize = 20;

/// A way to a server.
pub(crate) struct Client {
    endpoint: Endpoint,
    next_id: AtomicU64,
}

impl Client {
    /// The server that the command line names. Connects to nobody yet.
    pub(crate) fn new(global: &GlobalArgs) -> Result<Self, CliError> {
        Ok(Self::at(endpoint(global)?))
    }

    /// The server at `endpoint`.
    pub(crate) fn at(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            next_id: AtomicU64::new(1),
        }
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        self.endpoint.url()
    }

    /// Whether it is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.endpoint.is_loopback()
    }

    /// Calls a tool; the answer is its structured content.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Result<Value, CliError> {
        self.call_waiting(tool, arguments, Duration::ZERO).await
    }

    /// Calls a tool whose answer may take `wait` on purpose.
    pub(crate) async fn call_waiting(
        &self,
        tool: &str,
        arguments: Value,
        wait: Duration,
    ) -> Result<Value, CliError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let message = tool_call(id, tool, &arguments);
        let request = self.endpoint.post(&message).timeout(wait + PATIENCE);
        let response = self.judge(request.send().await).await?;
        let mut answers = Answers::of(response);
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| self.not_understood(error.to_string()))?;
            // Anything without our id is news about the call (progress), not its answer.
            if answer["id"] == json!(id) {
                return self.tool_result(answer);
            }
        }
        Err(self.not_understood("the answer to the tool call is missing".to_owned()))
    }

    /// The same, decoded.
    pub(crate) async fn call_as<T: DeserializeOwned>(
        &self,
        tool: &str,
        arguments: Value,
    ) -> Result<T, CliError> {
        self.decode(self.call(tool, arguments).await?)
    }

    /// Reads one of the operator's endpoints. `path` begins with `/` and may carry a query.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CliError> {
        let request = self.endpoint.get(path).timeout(PATIENCE);
        let response = self.judge(request.send().await).await?;
        let body = response.bytes().await.map_err(|source| CliError::Broken {
            url: self.url(),
            source,
        })?;
        serde_json::from_slice(&body)
            .map_err(|_| self.not_understood(format!("GET {path} did not answer with JSON")))
    }

    /// The same, decoded.
    pub(crate) async fn get_as<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.decode(self.get(path).await?)
    }

    /// A piece of a task's stored text (`output` or `patch`), from byte `offset` on.
    pub(crate) async fn text(
        &self,
        task: &str,
        which: &str,
        offset: u64,
    ) -> Result<Text, CliError> {
        self.get_as(&format!(
            "/debug/tasks/{task}/{which}?offset={offset}&limit=65536"
        ))
        .await
    }

    /// Whether a Chargehand answers: its health, whatever state that is in.
    pub(crate) async fn probe(&self) -> Result<Value, CliError> {
        let request = self.endpoint.get("/health").timeout(Duration::from_secs(5));
        let response = request.send().await.map_err(|error| self.failed(error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.failed(error))?;
        let health: Option<Value> = serde_json::from_slice(&body).ok();
        match health {
            Some(health) if health.get("status").is_some() => Ok(health),
            _ => Err(self.not_understood(format!("GET /health answered HTTP {status}"))),
        }
    }

    /// The full id of the task whose id begins with `start`.
    pub(crate) async fn task_id(&self, start: &str) -> Result<String, CliError> {
        let start = start.trim().to_ascii_lowercase();
        if start
            .parse::<chargehand_actors::id::TaskId>()
            .is_ok_and(|id| id.to_string() == start)
        {
            return Ok(start);
        }
        let mut found: Vec<String> = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..ID_PAGES {
            let mut arguments = json!({ "limit": 100 });
            if let Some(cursor) = &cursor {
                arguments["cursor"] = json!(cursor);
            }
            let page: TaskList = self.call_as("list_tasks", arguments).await?;
            found.extend(
                page.tasks
                    .into_iter()
                    .map(|task| task.task_id)
                    .filter(|id| id.starts_with(&start)),
            );
            cursor = page.next_cursor.filter(|cursor| !cursor.is_empty());
            if cursor.is_none() {
                break;
            }
        }
        match found.as_slice() {
            [] => Err(CliError::Refused(format!(
                "no task id begins with \"{start}\"; `chargehand tasks` lists the tasks"
            ))),
            [id] => Ok(id.clone()),
            [first, second, ..] => Err(CliError::Refused(format!(
                "{} task ids begin with \"{start}\", such as {first} and {second}; give more of the id",
                found.len()
            ))),
        }
    }

    async fn judge(
        &self,
        sent: Result<reqwest::Response, reqwest::Error>,
    ) -> Result<reqwest::Response, CliError> {
        let response = sent.map_err(|error| self.failed(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if matches!(status.as_u16(), 401 | 403) {
            return Err(CliError::Unauthorized {
                url: self.url(),
                status: status.as_u16(),
            });
        }
        let body = response.text().await.unwrap_or_default();
        let said = error_text(&body);
        if said.is_empty() || said.starts_with('<') {
            return Err(self.not_understood(format!("it answered HTTP {status}")));
        }
        Err(CliError::Refused(said))
    }

    fn tool_result(&self, answer: Value) -> Result<Value, CliError> {
        if let Some(error) = answer.get("error") {
            return Err(CliError::Refused(error_text(&error.to_string())));
        }
        let result = &answer["result"];
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        if result["isError"].as_bool() == Some(true) {
            return Err(CliError::refused(text));
        }
        if result["structuredContent"].is_object() {
            return Ok(result["structuredContent"].clone());
        }
        serde_json::from_str(text)
            .map_err(|_| self.not_understood("the tool's answer is not JSON".to_owned()))
    }

    /// Decodes an answer of this server.
    pub(crate) fn decode<T: DeserializeOwned>(&self, value: Value) -> Result<T, CliError> {
        serde_json::from_value(value)
            .map_err(|error| self.not_understood(format!("unexpected answer: {error}")))
    }

    fn failed(&self, source: reqwest::Error) -> CliError {
        let url = self.url();
        if source.is_connect() {
            CliError::Unreachable { url, source }
        } else {
            CliError::Broken { url, source }
        }
    }

    fn not_understood(&self, what: String) -> CliError {
        CliError::NotChargehand {
            url: self.url(),
            what,
        }
    }
}

/// The endpoint that the command line names: `--server`, else the default address, with the token given.
pub(crate) fn endpoint(global: &GlobalArgs) -> Result<Endpoint, CliError> {
    let base = match &global.server {
        Some(url) => url.clone(),
        None => Url::parse(DEFAULT_SERVER)
            .map_err(|error| CliError::Usage(format!("{DEFAULT_SERVER}: {error}")))?,
    };
    if !matches!(base.scheme(), "http" | "https") {
        return Err(CliError::Usage(format!(
            "--server must be an http or https URL, not {base}"
        )));
    }
    let token = bearer(global)?.map(Token);
    Endpoint::new(base, token)
        .map_err(|error| CliError::Server(format!("cannot set up an HTTP client: {error}")))
}

/// The bearer token that the command line or the environment gives.
pub(crate) fn bearer(global: &GlobalArgs) -> Result<Option<String>, CliError> {
    let token = match (&global.token, &global.token_file) {
        (Some(token), _) => Some(token.trim().to_owned()),
        (None, Some(path)) => Some(
            std::fs::read_to_string(path)
                .map_err(|source| CliError::File {
                    what: "cannot read the token file",
                    path: path.clone(),
                    source,
                })?
                .trim()
                .to_owned(),
        ),
        (None, None) => None,
    };
    Ok(token.filter(|token| !token.is_empty()))
}
