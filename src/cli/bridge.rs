//! `chargehand mcp`: MCP on standard input and output, passed on to the running server.
//!
//! In: JSON-RPC messages, one a line. Out: the server's messages, one a line.
//!
//! The tasks belong to the server, so they outlive the client that started this process and this process itself.
//! Messages are passed on as they are; only the transport differs: a client of the older revisions gets an HTTP session
//! (made again if the server was restarted), one of 2026-07-28 gets none. The server never asks its clients anything,
//! so no stream from it is kept open besides those of the requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::error::{CliError, error_text};
use super::rpc::{Answers, Endpoint, MAX_MESSAGE, stateless_version};

/// Requests passed on at once; more wait in the pipe.
const AT_ONCE: usize = 64;
/// How long replies are waited for after the client closed its end.
const LINGER: Duration = Duration::from_secs(50);
/// How long one request may take. No tool waits longer than 45 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// JSON-RPC code for "the other side cannot be reached"; from the range left to implementations.
const UNREACHABLE: i64 = -32_000;

/// Passes messages on until `input` ends and the replies are out.
pub(crate) async fn bridge<R, W>(endpoint: Endpoint, input: R, output: W) -> Result<(), CliError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (out, lines) = mpsc::channel(AT_ONCE);
    let mut writer = tokio::spawn(write_lines(output, lines));
    let bridge = Bridge {
        endpoint,
        out,
        session: Arc::default(),
        renewing: Arc::default(),
    };
    let read = tokio::select! {
        read = read_all(bridge.clone(), input) => read,
        // The client stopped reading: nobody is left to talk to.
        written = &mut writer => return written.unwrap_or(Ok(())),
    };
    bridge.close_session().await;
    drop(bridge);
    writer.await.unwrap_or(Ok(()))?;
    read
}

#[derive(Clone)]
struct Bridge {
    endpoint: Endpoint,
    out: mpsc::Sender<Value>,
    session: Arc<Mutex<Session>>,
    /// Held while the handshake is made again, so that parallel requests make one new session and not one each.
    renewing: Arc<tokio::sync::Mutex<()>>,
}

/// What an older client's handshake left behind.
#[derive(Clone, Default)]
struct Session {
    id: Option<String>,
    version: Option<String>,
    /// The client's own handshake, to make it again after the server was restarted.
    initialize: Option<Value>,
}

/// Why a message could not be sent.
enum Unsent {
    Network(reqwest::Error),
    /// The session is gone and the server gave no new one: its answer to the handshake.
    NoSession(Value),
}

impl From<reqwest::Error> for Unsent {
    fn from(error: reqwest::Error) -> Self {
        Self::Network(error)
    }
}

async fn read_all<R: AsyncBufRead + Unpin>(bridge: Bridge, mut input: R) -> Result<(), CliError> {
    let mut running = JoinSet::new();
    let mut requests: HashMap<String, AbortHandle> = HashMap::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut input).take(MAX_MESSAGE as u64 + 1);
        if limited.read_until(b'\n', &mut line).await? == 0 {
            break;
        }
        if line.len() > MAX_MESSAGE {
            return Err(CliError::Server(format!(
                "the client sent a message of more than {} MB",
                MAX_MESSAGE / 1_048_576
            )));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let message: Value = match serde_json::from_slice(&line) {
            Ok(message) => message,
            Err(error) => {
                bridge
                    .reply_error(&Value::Null, -32_700, &format!("not JSON: {error}"))
                    .await;
                continue;
            }
        };
        while running.try_join_next().is_some() {}
        if is_stateless_cancel(&message, &bridge) {
            // Without a session, dropping the request's connection is what cancels it.
            if let Some(request) = requests.remove(&message["params"]["requestId"].to_string()) {
                request.abort();
            }
            continue;
        }
        if message["method"] == "initialize" {
            // Nothing may overtake the handshake.
            bridge.initialize(message).await;
            continue;
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        let id = message.get("id").map(ToString::to_string);
        let bridge = bridge.clone();
        let task = running.spawn(async move {
            bridge.pass_on(message).await;
            drop(place);
        });
        requests.retain(|_, request| !request.is_finished());
        if let Some(id) = id {
            requests.insert(id, task);
        }
    }
    // What was asked is answered even when the client closed its end of the pipe at once.
    let all = async { while running.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LINGER, all).await;
    Ok(())
}

fn is_stateless_cancel(message: &Value, bridge: &Bridge) -> bool {
    message["method"] == "notifications/cancelled" && bridge.session().id.is_none()
}

impl Bridge {
    fn session(&self) -> std::sync::MutexGuard<'_, Session> {
        // Held only for copying; after a panic elsewhere its content is still whole.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn initialize(&self, message: Value) {
        let answer = match self.handshake(&message).await {
            Ok((session, answer)) => {
                *self.session() = session;
                answer
            }
            Err(answer) => answer,
        };
        let _ = self.out.send(answer).await;
    }

    /// Does the handshake: the session that it gave with the answer for the client, else the error for the client.
    async fn handshake(&self, message: &Value) -> Result<(Session, Value), Value> {
        let id = &message["id"];
        let response = match self.endpoint.post(message).timeout(PATIENCE).send().await {
            Ok(response) => response,
            Err(error) => return Err(self.unreachable(id, &error)),
        };
        if !response.status().is_success() {
            return Err(refusal(id, response).await);
        }
        let session = response
            .headers()
            .get("mcp-session-id")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let mut answers = Answers::of(response);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) if answer["id"] == *id && answer.get("error").is_some() => {
                    return Err(answer);
                }
                Ok(answer) if answer["id"] == *id => {
                    let version = answer["result"]["protocolVersion"].as_str();
                    let made = Session {
                        id: session,
                        version: version.map(str::to_owned),
                        initialize: Some(message.clone()),
                    };
                    return Ok((made, answer));
                }
                Ok(_) => {}
                Err(error) => return Err(error_message(id, UNREACHABLE, &error.to_string())),
            }
        }
        Err(error_message(
            id,
            UNREACHABLE,
            "the server did not answer the handshake",
        ))
    }

    async fn pass_on(&self, message: Value) {
        let id = message.get("id").cloned();
        let response = match self.send(&message).await {
            Ok(response) => response,
            Err(failed) => {
                if let Some(id) = id {
                    let answer = match failed {
                        Unsent::Network(error) => self.unreachable(&id, &error),
                        Unsent::NoSession(mut answer) => {
                            answer["id"] = id;
                            answer
                        }
                    };
                    let _ = self.out.send(answer).await;
                }
                return;
            }
        };
        if !response.status().is_success() {
            if let Some(id) = id {
                let _ = self.out.send(refusal(&id, response).await).await;
            }
            return;
        }
        let mut answers = Answers::of(response);
        let mut answered = false;
        while let Some(answer) = answers.next().await {
            let Ok(answer) = answer else { break };
            answered |= answer.get("id") == id.as_ref();
            if self.out.send(answer).await.is_err() {
                return;
            }
        }
        if let (false, Some(id)) = (answered, id) {
            let text = "the connection to the server ended before the answer; \
                        the command may have taken effect, read get_task_status or list_tasks";
            let _ = self.out.send(error_message(&id, UNREACHABLE, text)).await;
        }
    }

    /// Sends a message; with a session that the server no longer knows, makes a new one and sends it once more.
    async fn send(&self, message: &Value) -> Result<reqwest::Response, Unsent> {
        let used = self.session().clone();
        let response = self.request(message, &used).send().await?;
        let with_session = stateless_version(message).is_none() && used.initialize.is_some();
        if response.status() != 404 || !with_session {
            return Ok(response);
        }
        let session = self.renew(used).await?;
        Ok(self.request(message, &session).send().await?)
    }

    /// The session after the one that was `used`: what another request made meanwhile, else a new one. The old one stays until
    /// there is a new one: the server may only be starting.
    async fn renew(&self, used: Session) -> Result<Session, Unsent> {
        let _one_at_a_time = self.renewing.lock().await;
        let now = self.session().clone();
        let Some(initialize) = used.initialize.filter(|_| now.id == used.id) else {
            return Ok(now);
        };
        let (session, _) = self
            .handshake(&initialize)
            .await
            .map_err(Unsent::NoSession)?;
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.request(&initialized, &session).send().await?;
        *self.session() = session.clone();
        Ok(session)
    }

    fn request(&self, message: &Value, session: &Session) -> reqwest::RequestBuilder {
        let mut request = self.endpoint.post(message).timeout(PATIENCE);
        if stateless_version(message).is_none() {
            if let Some(id) = &session.id {
                request = request.header("Mcp-Session-Id", id);
            }
            if let Some(version) = &session.version {
                request = request.header("MCP-Protocol-Version", version);
            }
        }
        request
    }

    async fn close_session(&self) {
        let id = self.session().id.take();
        if let Some(id) = id {
            let request = self.endpoint.delete_session(&id);
            // Best effort: the server ends idle sessions by itself.
            let _ = request.timeout(Duration::from_secs(2)).send().await;
        }
    }

    fn unreachable(&self, id: &Value, error: &reqwest::Error) -> Value {
        let text = if error.is_connect() {
            format!(
                "no Chargehand server answers at {}; nothing was done. Start it with `chargehand serve` and try again",
                self.endpoint.url()
            )
        } else {
            format!(
                "the server at {} did not answer ({error}); the command may have taken effect, read list_tasks before repeating it",
                self.endpoint.url()
            )
        };
        error_message(id, UNREACHABLE, &text)
    }

    async fn reply_error(&self, id: &Value, code: i64, text: &str) {
        let _ = self.out.send(error_message(id, code, text)).await;
    }
}

fn error_message(id: &Value, code: i64, text: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}})
}

/// The server's refusal as a JSON-RPC error: its own if it sent one, else its HTTP status in words.
async fn refusal(id: &Value, response: reqwest::Response) -> Value {
    let status = response.status();
    let body = response.text().await.unwrap_or_default();
    if let Ok(mut answer) = serde_json::from_str::<Value>(&body)
        && answer["error"]["code"].is_i64()
    {
        answer["id"] = id.clone();
        return answer;
    }
    let text = match status.as_u16() {
        401 | 403 => format!(
            "the server refused (HTTP {status}): {}. Set CHARGEHAND_TOKEN or CHARGEHAND_TOKEN_FILE for this program",
            error_text(&body)
        ),
        _ => format!("the server answered HTTP {status}: {}", error_text(&body)),
    };
    error_message(id, UNREACHABLE, &text)
}

async fn write_lines<W: AsyncWrite + Unpin>(
    mut output: W,
    mut lines: mpsc::Receiver<Value>,
) -> Result<(), CliError> {
    while let Some(message) = lines.recv().await {
        let mut line = message.to_string();
        line.push('\n');
        output.write_all(line.as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}
