//! A scripted Chargehand server and the real `chargehand` program, for the tests of the command line.
//!
//! In: answers a test prepares. Out: what the program printed and asked for.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

/// The task of most fixtures.
pub(crate) const TASK: &str = "3f2b8c1e-0000-4000-8000-00000000000a";

/// A request that the server saw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Seen {
    /// A header as text; empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    }
}

/// What the server answers, by tool or path; the last answer of a list is repeated.
type Answer = Arc<dyn Fn(&Seen) -> Response + Send + Sync>;
type Rules = Vec<(String, VecDeque<Answer>)>;

#[derive(Clone, Default)]
struct Shared {
    rules: Arc<Mutex<Rules>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// The server. Ends with the runtime of its test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Shared,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let shared = Shared::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let server = Self { address, shared };
        server.json("GET /health", json!({"status": "ok", "parts": []}));
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds an answer for `key`: a tool's name, a JSON-RPC method, or `METHOD /path`.
    pub(crate) fn answer(
        &self,
        key: &str,
        answer: impl Fn(&Seen) -> Response + Send + Sync + 'static,
    ) {
        let mut rules = self.shared.rules.lock().unwrap();
        let answer: Answer = Arc::new(answer);
        match rules.iter_mut().find(|(known, _)| known == key) {
            Some((_, answers)) => answers.push_back(answer),
            None => rules.push((key.to_owned(), VecDeque::from([answer]))),
        }
    }

    /// Adds a plain JSON answer.
    pub(crate) fn json(&self, key: &str, body: Value) {
        self.answer(key, move |_| axum::Json(body.clone()).into_response());
    }

    /// Adds a successful tool answer.
    pub(crate) fn tool(&self, tool: &str, content: Value) {
        self.answer(tool, move |seen| {
            let result = json!({
                "resultType": "complete",
                "content": [{"type": "text", "text": content.to_string()}],
                "structuredContent": content,
            });
            rpc(seen, "result", result)
        });
    }

    /// Adds a refusal of a tool.
    pub(crate) fn tool_error(&self, tool: &str, text: &str) {
        let text = json!({"error": text}).to_string();
        self.answer(tool, move |seen| {
            let result = json!({"isError": true, "content": [{"type": "text", "text": text}]});
            rpc(seen, "result", result)
        });
    }

    /// Everything that was asked.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The arguments of the calls of a tool.
    pub(crate) fn calls(&self, tool: &str) -> Vec<Value> {
        self.seen()
            .into_iter()
            .filter(|seen| seen.body["params"]["name"] == tool)
            .map(|seen| seen.body["params"]["arguments"].clone())
            .collect()
    }

    /// Runs `chargehand` against this server.
    pub(crate) async fn run(&self, args: &[&str]) -> Finished {
        let url = self.url();
        let mut all = vec!["--server", &url];
        all.extend_from_slice(args);
        chargehand(&all, "").await
    }
}

/// A JSON-RPC answer to the request that was seen.
pub(crate) fn rpc(seen: &Seen, key: &str, value: Value) -> Response {
    let answer = json!({"jsonrpc": "2.0", "id": seen.body["id"], key: value});
    axum::Json(answer).into_response()
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let seen = Seen {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: parts.headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    shared.seen.lock().unwrap().push(seen.clone());
    let mut keys = vec![
        format!("{} {}", seen.method, seen.path),
        format!("{} {}", seen.method, parts.uri.path()),
    ];
    for key in [&seen.body["params"]["name"], &seen.body["method"]] {
        keys.extend(key.as_str().map(str::to_owned));
    }
    let rule = {
        let mut rules = shared.rules.lock().unwrap();
        keys.iter().find_map(|key| {
            let (_, answers) = rules.iter_mut().find(|(known, _)| known == key)?;
            if answers.len() > 1 {
                answers.pop_front()
            } else {
                answers.front().cloned()
            }
        })
    };
    match rule {
        Some(rule) => rule(&seen),
        None => Response::builder()
            .status(StatusCode::NOT_FOUND)
            .body(Body::from(r#"{"error":"no such thing in this test"}"#))
            .unwrap(),
    }
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The program, with an environment that knows nothing of this machine's configuration.
pub(crate) fn command(args: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_chargehand"));
    command.args(args).kill_on_drop(true);
    for (name, _) in std::env::vars() {
        if name.starts_with("CHARGEHAND_") || name.starts_with("CLICOLOR") || name == "NO_COLOR" {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program with `input` on its standard input.
pub(crate) async fn chargehand(args: &[&str], input: &str) -> Finished {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait_with_output())
        .await
        .expect("the program did not end")
        .unwrap();
    Finished {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Now, `ago` milliseconds earlier, as the server writes it.
pub(crate) fn before(ago: i64) -> i64 {
    jiff::Timestamp::now().as_millisecond() - ago
}
