//! One MCP request over HTTP: the message, its headers, and the answer as JSON or as a stream of events.
//!
//! In: JSON-RPC messages. Out: JSON-RPC messages, as they come. Used by the commands and by the stdio bridge.
//!
//! A client of our own rather than rmcp's: the 2026-07-28 form of the protocol has no handshake and no session, so a
//! tool call is one POST and one answer, and the bridge has to pass messages on unread, which rmcp's typed client does
//! not do. This is smaller than the two features of rmcp and leaves one HTTP client in the program.

use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use url::Url;

/// What our own commands call themselves: tasks then say that they came from the command line.
const USER_AGENT: &str = concat!("chargehand-cli/", env!("CARGO_PKG_VERSION"));
/// What the stdio bridge calls itself; its requests are its client's.
const BRIDGE_USER_AGENT: &str = concat!("chargehand-mcp/", env!("CARGO_PKG_VERSION"));
/// The protocol revision that our own requests speak.
pub(crate) const PROTOCOL: &str = "2026-07-28";
/// `_meta` key that names the revision of a request.
pub(crate) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The largest message that is read, in bytes.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// A bearer token. Never shown.
#[derive(Clone)]
pub(crate) struct Token(pub(crate) String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A server: where it is and how to get in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    base: Url,
    token: Option<Token>,
    http: reqwest::Client,
    user_agent: &'static str,
}

impl Endpoint {
    /// Prepares the way to the server at `base`. Connects to nobody yet.
    pub(crate) fn new(base: Url, token: Option<Token>) -> Result<Self, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            // A token must not follow a redirect to somewhere else.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        Ok(Self {
            base,
            token,
            http: builder.build()?,
            user_agent: USER_AGENT,
        })
    }

    /// The same for the bridge, which speaks for somebody else.
    pub(crate) fn of_bridge(mut self) -> Self {
        self.user_agent = BRIDGE_USER_AGENT;
        self
    }

    /// The address as given, without a trailing slash.
    pub(crate) fn url(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// Whether the server is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.base)
    }

    /// A GET of `path` (with its query), not yet sent.
    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.authorized(self.http.get(format!("{}{path}", self.url())))
    }

    /// A POST of one JSON-RPC message to `/mcp`, not yet sent, with the headers that its revision asks for.
    pub(crate) fn post(&self, message: &Value) -> reqwest::RequestBuilder {
        let mut request = self
            .authorized(self.http.post(format!("{}/mcp", self.url())))
            .header("Accept", "application/json, text/event-stream")
            .json(message);
        if let Some(version) = stateless_version(message) {
            request = request.header("MCP-Protocol-Version", version);
            if let Some(method) = message["method"].as_str() {
                request = request.header("Mcp-Method", method);
            }
            let params = &message["params"];
            let name = ["name", "uri", "taskId"]
                .iter()
                .find_map(|key| params[key].as_str());
            if let Some(name) = name.and_then(header_value) {
                request = request.header("Mcp-Name", name);
            }
        }
        request
    }

    /// A DELETE of an MCP session, not yet sent.
    pub(crate) fn delete_session(&self, session: &str) -> reqwest::RequestBuilder {
        self.authorized(self.http.delete(format!("{}/mcp", self.url())))
            .header("Mcp-Session-Id", session)
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let request = request.header("User-Agent", self.user_agent);
        match &self.token {
            Some(token) => request.bearer_auth(&token.0),
            None => request,
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// The revision named in the message itself, which makes it a request without a session.
pub(crate) fn stateless_version(message: &Value) -> Option<&str> {
    message["params"]["_meta"][META_VERSION].as_str()
}

// A name that no header can carry is left out; the server then says what is wrong with it.
fn header_value(name: &str) -> Option<http::HeaderValue> {
    http::HeaderValue::from_str(name).ok()
}

/// A `tools/call` in the stateless form.
pub(crate) fn tool_call(id: u64, tool: &str, arguments: &Value) -> Value {
    json!({
        "jsonrpc": "2.0",
        "id": id,
        "method": "tools/call",
        "params": {
            "name": tool,
            "arguments": arguments,
            "_meta": {
                META_VERSION: PROTOCOL,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {
                    "name": "chargehand-cli",
                    "version": env!("CARGO_PKG_VERSION"),
                },
            },
        },
    })
}

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The connection broke.
    #[error("the connection broke before the answer was complete")]
    Broken(#[from] reqwest::Error),
    /// The answer is no JSON-RPC.
    #[error("the answer is not JSON-RPC: {0}")]
    Malformed(String),
    /// The answer is larger than anyone may make it.
    #[error("the answer is larger than {} MB", MAX_MESSAGE / 1_048_576)]
    TooLarge,
}

/// The messages of one answer, in order: one for a JSON body, any number for an event stream, none for 202.
pub(crate) struct Answers {
    body: Body,
}

enum Body {
    Whole(Option<reqwest::Response>),
    Events {
        stream: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
        parser: EventParser,
    },
}

impl Answers {
    /// Reads `response`, whose status was already judged.
    pub(crate) fn of(response: reqwest::Response) -> Self {
        let is_stream = response
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("text/event-stream"));
        let body = if is_stream {
            Body::Events {
                stream: response.bytes_stream().boxed(),
                parser: EventParser::default(),
            }
        } else {
            Body::Whole(Some(response))
        };
        Self { body }
    }

    /// The next message; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Value, AnswerError>> {
        match &mut self.body {
            Body::Whole(response) => {
                let response = response.take()?;
                match whole(response).await {
                    Ok(None) => None,
                    Ok(Some(message)) => Some(Ok(message)),
                    Err(error) => Some(Err(error)),
                }
            }
            Body::Events { stream, parser } => loop {
                if let Some(message) = parser.message() {
                    return Some(message);
                }
                match stream.next().await? {
                    Ok(chunk) => {
                        if let Err(error) = parser.feed(&chunk) {
                            return Some(Err(error));
                        }
                    }
                    Err(error) => return Some(Err(error.into())),
                }
            },
        }
    }
}

async fn whole(response: reqwest::Response) -> Result<Option<Value>, AnswerError> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        body.extend_from_slice(&chunk?);
        if body.len() > MAX_MESSAGE {
            return Err(AnswerError::TooLarge);
        }
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    parse(&body).map(Some)
}

fn parse(body: &[u8]) -> Result<Value, AnswerError> {
    serde_json::from_slice(body).map_err(|error| AnswerError::Malformed(error.to_string()))
}

/// Cuts a byte stream into the data of server-sent events.
#[derive(Default)]
struct EventParser {
    line: Vec<u8>,
    data: Vec<u8>,
    ready: std::collections::VecDeque<Vec<u8>>,
}

impl EventParser {
    fn feed(&mut self, chunk: &[u8]) -> Result<(), AnswerError> {
        for &byte in chunk {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(byte);
            }
        }
        if self.line.len() + self.data.len() > MAX_MESSAGE {
            return Err(AnswerError::TooLarge);
        }
        Ok(())
    }

    fn end_line(&mut self) {
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        if self.line.is_empty() {
            // An event without data is a ping or a retry hint.
            if !self.data.is_empty() {
                self.ready.push_back(std::mem::take(&mut self.data));
            }
            return;
        }
        if let Some(data) = self.line.strip_prefix(b"data:") {
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data
                .extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
        }
        self.line.clear();
    }

    fn message(&mut self) -> Option<Result<Value, AnswerError>> {
        self.ready.pop_front().map(|data| parse(&data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_wherever_the_chunks_end() {
        let stream =
            b": ping\r\n\r\nid: 1\ndata: {\"a\":\ndata: 1}\n\nretry: 3\n\ndata:{\"b\":2}\n\n";
        for size in 1..stream.len() {
            let mut parser = EventParser::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(size) {
                assert!(parser.feed(chunk).is_ok());
                while let Some(message) = parser.message() {
                    seen.push(message.map_err(|error| error.to_string()));
                }
            }
            assert_eq!(
                seen,
                [Ok(json!({"a": 1})), Ok(json!({"b": 2}))],
                "chunks of {size}"
            );
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = EventParser::default();
        let chunk = vec![b'x'; MAX_MESSAGE + 1];
        assert!(matches!(parser.feed(&chunk), Err(AnswerError::TooLarge)));
    }

    #[test]
    fn a_token_is_not_shown() {
        let endpoint = Url::parse("http://127.0.0.1:1")
            .map(|url| Endpoint::new(url, Some(Token("hunter2".to_owned()))));
        assert!(!format!("{endpoint:?}").contains("hunter2"));
    }
}
