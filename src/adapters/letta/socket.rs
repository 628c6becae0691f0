//! One WebSocket to an App Server: requests with their answers, everything else passed over.
//!
//! In: a request as JSON. Out: the answer that carries its id, or why there is none. A connection is opened for one piece of
//! work and closed after it, so that nothing has to be known of what the server thinks of an old one.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chargehand_actors::ports::PlannerError;
use futures_util::{SinkExt, StreamExt};
use reqwest::{StatusCode, Upgraded, header};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use url::Url;

use super::settings::Token;
use super::text::safe;
use crate::adapters::cause::innermost;

/// A single request; a turn is never waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// A listing of a conversation's messages is some megabytes.
const MESSAGE_LIMIT: usize = 32 * 1024 * 1024;
/// Of the WebSocket protocol: what the server's proof is made with.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Opens sockets to one server.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    url: Url,
    token: Option<Token>,
    http: reqwest::Client,
}

/// An open one.
pub(super) struct Socket {
    stream: WebSocketStream<Upgraded>,
    sent: u32,
}

impl Sockets {
    /// For a server by its http, https, ws or wss address; without a path it is `/ws`.
    pub(super) fn new(url: &Url, token: Option<Token>) -> Result<Self, PlannerError> {
        let unusable = |why: String| PlannerError::Refused(format!("letta.url: {why}"));
        let text = url.as_str();
        // The HTTP client knows only http's words for the same thing.
        let text = text
            .strip_prefix("ws")
            .map_or_else(|| text.to_owned(), |rest| format!("http{rest}"));
        let mut url = Url::parse(&text).map_err(|error| unusable(error.to_string()))?;
        if url.path() == "/" {
            url.set_path("/ws");
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            // An upgrade is only possible in the first HTTP.
            .http1_only()
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true);
        let host = url.host_str().unwrap_or_default();
        if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| unusable(format!("the HTTP client cannot be built: {error}")))?;
        Ok(Self { url, token, http })
    }

    /// For a person: where it is.
    pub(super) fn address(&self) -> &str {
        self.url.as_str()
    }

    pub(super) async fn open(&self) -> Result<Socket, PlannerError> {
        let opened = tokio::time::timeout(ANSWER_LIMIT, self.upgrade()).await;
        opened.unwrap_or_else(|_| Err(lost("no answer within the time limit")))
    }

    async fn upgrade(&self) -> Result<Socket, PlannerError> {
        let key = BASE64.encode(uuid::Uuid::new_v4().as_bytes());
        let mut request = self
            .http
            .get(self.url.clone())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let answer = request
            .send()
            .await
            .map_err(|error| lost(&innermost(&error)))?;
        let status = answer.status();
        match status {
            StatusCode::SWITCHING_PROTOCOLS => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(PlannerError::Refused(format!(
                    "Letta's App Server refuses the token ({status}); set letta.token or letta.token_file"
                )));
            }
            status if status.is_server_error() => return Err(lost(&status.to_string())),
            status => {
                return Err(PlannerError::Refused(format!(
                    "what answers at {} is no App Server ({status})",
                    self.address()
                )));
            }
        }
        let proof = BASE64.encode(Sha1::digest(format!("{key}{GUID}")));
        let accepted = answer.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accepted.map(header::HeaderValue::as_bytes) != Some(proof.as_bytes()) {
            return Err(lost("it does not speak WebSocket"));
        }
        let raw = answer
            .upgrade()
            .await
            .map_err(|error| lost(&innermost(&error)))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(MESSAGE_LIMIT));
        let stream = WebSocketStream::from_raw_socket(raw, Role::Client, Some(config)).await;
        Ok(Socket { stream, sent: 0 })
    }
}

impl Socket {
    /// Sends a request and gives the answer, whatever it says. Several answers with the same id (listings in pieces) come
    /// through `more`: it is called with each and says whether to go on.
    pub(super) async fn ask(
        &mut self,
        mut request: Value,
        answer: &str,
        mut more: impl FnMut(&Value) -> bool,
    ) -> Result<Value, PlannerError> {
        self.sent += 1;
        let id = format!("chargehand-{}", self.sent);
        request["request_id"] = json!(id);
        let text = Message::text(request.to_string());
        let exchange = async {
            self.stream
                .send(text)
                .await
                .map_err(|error| lost(&error.to_string()))?;
            while let Some(message) = self.stream.next().await {
                let message = message.map_err(|error| lost(&error.to_string()))?;
                let Message::Text(text) = message else {
                    continue;
                };
                let said: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
                if said["type"] == answer && said["request_id"] == id.as_str() && !more(&said) {
                    return Ok(said);
                }
            }
            Err(lost("it closed the connection"))
        };
        tokio::time::timeout(ANSWER_LIMIT, exchange)
            .await
            .unwrap_or_else(|_| Err(lost("no answer within the time limit")))
    }

    /// A request that must succeed.
    pub(super) async fn call(
        &mut self,
        what: &str,
        request: Value,
        answer: &str,
    ) -> Result<Value, PlannerError> {
        let said = self.ask(request, answer, |_| false).await?;
        if said["success"] == false {
            return Err(failed(what, &said));
        }
        Ok(said)
    }

    /// Passes on everything that is heard within `limit`, until `done` finds what it looks for; none when it does not.
    pub(super) async fn hear<T>(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Value) -> Option<T>,
    ) -> Result<Option<T>, PlannerError> {
        let hearing = async {
            while let Some(message) = self.stream.next().await {
                let message = message.map_err(|error| lost(&error.to_string()))?;
                let Message::Text(text) = message else {
                    continue;
                };
                let said: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
                if let Some(found) = done(&said) {
                    return Ok(Some(found));
                }
            }
            Err(lost("it closed the connection"))
        };
        tokio::time::timeout(limit, hearing)
            .await
            .unwrap_or(Ok(None))
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        // Whether the other side answers makes no difference.
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.stream.close(None)).await;
    }
}

/// What an answer without success means. The server has no codes, only words.
pub(super) fn failed(what: &str, said: &Value) -> PlannerError {
    let error = safe(said["error"].as_str().unwrap_or("it does not say why"), 300);
    let text = format!("Letta's App Server could not {what}: {error}");
    let lower = error.to_ascii_lowercase();
    if lower.contains("not found") || lower.contains("no such agent") {
        PlannerError::Gone(text)
    } else {
        PlannerError::Unavailable(text)
    }
}

fn lost(why: &str) -> PlannerError {
    PlannerError::Unavailable(format!("Letta's App Server cannot be reached: {why}"))
}
