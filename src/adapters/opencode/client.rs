//! The REST client of one OpenCode server.
//!
//! In: typed calls of the driver. Out: typed answers, or an [`EngineError`] that says what the failure means. Every call has
//! a time limit, every body a size limit, and an answer that is not JSON is never taken for one: OpenCode answers unknown
//! paths with a web page and status 200. That something does not exist, or is refused, is believed only in OpenCode's words: a proxy
//! answers 404 or 405, too, while the server behind it is away. No redirect is followed. The password is in no error, log or `Debug`.

use std::fmt;
use std::time::Duration;

use chargehand_actors::ports::EngineError;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::wire::Health;
use crate::adapters::cause::innermost;

/// Time limit of an ordinary call. A server that starts several directories at once was seen to take 9 s for its health.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(20);

/// Largest body that is read.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// User and password of a server.
#[derive(Clone)]
pub(in crate::adapters) struct Credentials {
    pub(in crate::adapters) username: String,
    pub(in crate::adapters) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &"[redacted]")
            .finish()
    }
}

/// Talks to one server.
#[derive(Clone)]
pub(in crate::adapters) struct Client {
    base: Url,
    credentials: Option<Credentials>,
    http: reqwest::Client,
    /// Opens a new connection for each request: one that was opened while the server bound its port is never answered.
    fresh: reqwest::Client,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.address())
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

/// What an answer without success says, before it is known what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) status: u16,
    pub(super) message: String,
}

/// A body as it is.
pub(super) enum Bytes {
    /// The bytes, and whether they were sent as a web page.
    Whole { bytes: Vec<u8>, web_page: bool },
    /// No such thing, or the server could not give it.
    Missing,
    /// Longer than the limit: its size, where it was told.
    TooLong(Option<u64>),
}

/// An answer: the JSON, or why there is none although the server answered.
pub(super) enum Reply<T> {
    /// As asked.
    Json(T),
    /// No such thing.
    Missing,
    /// The route does not exist in this version: a web page came back.
    NoRoute,
}

impl Client {
    /// A client for `base` (scheme, host, port, perhaps a path in front of OpenCode's routes).
    pub(super) fn new(base: Url, credentials: Option<Credentials>) -> Result<Self, EngineError> {
        let direct = base.host_str().is_some_and(is_loopback);
        Self::build(base, credentials, direct)
    }

    /// The same for a server on this machine's own networks: never through a proxy.
    pub(in crate::adapters) fn near(
        base: Url,
        credentials: Option<Credentials>,
    ) -> Result<Self, EngineError> {
        Self::build(base, credentials, true)
    }

    fn build(
        base: Url,
        credentials: Option<Credentials>,
        direct: bool,
    ) -> Result<Self, EngineError> {
        let build = |pooled: bool| {
            let mut builder = reqwest::Client::builder()
                .connect_timeout(Duration::from_secs(5))
                // A worker is hostile: where its answer points to may be a service that trusts this machine.
                .redirect(reqwest::redirect::Policy::none())
                .tcp_nodelay(true);
            if direct {
                builder = builder.no_proxy();
            }
            if !pooled {
                builder = builder.pool_max_idle_per_host(0);
            }
            builder.build().map_err(|error| {
                EngineError::Unusable(format!("the HTTP client cannot be built: {error}"))
            })
        };
        Ok(Self {
            http: build(true)?,
            fresh: build(false)?,
            base,
            credentials,
        })
    }

    /// Scheme, host and port, for people.
    pub(super) fn address(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// `GET /global/health` on a connection of its own.
    pub(in crate::adapters) async fn health(&self, limit: Duration) -> Result<Health, EngineError> {
        let request = self.request(&self.fresh, Method::GET, "/global/health", &[])?;
        let response = send(request.timeout(limit)).await?;
        if response.status() != StatusCode::NOT_FOUND
            && let Reply::Json(health) = self.decode(response).await?
        {
            return Ok(health);
        }
        Err(EngineError::Unusable(format!(
            "{} is not an OpenCode server of version 1.3 or newer: it has no /global/health; check the URL, or install \
             opencode-ai 1.18.33",
            self.address()
        )))
    }

    /// `GET` of JSON.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Reply<T>, EngineError> {
        let request = self.request(&self.http, Method::GET, path, query)?;
        let response = send(request.timeout(CALL_LIMIT)).await?;
        self.decode(response).await.map_err(passing)
    }

    /// `GET` of bytes of any type, at most `limit`.
    pub(super) async fn bytes(
        &self,
        path: &str,
        query: &[(&str, &str)],
        limit: usize,
    ) -> Result<Bytes, EngineError> {
        let request = self.request(&self.http, Method::GET, path, query)?;
        let response = send(request.timeout(CALL_LIMIT)).await?;
        // OpenCode answers 500 for a file that it does not give.
        if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
            return Ok(Bytes::Missing);
        }
        let Some(response) = self.existing(response).await? else {
            return Ok(Bytes::Missing);
        };
        let web_page = is_web_page(&response);
        let response = self.check(response).await.map_err(passing)?;
        let told = response.content_length();
        if told.is_some_and(|size| size > limit as u64) {
            return Ok(Bytes::TooLong(told));
        }
        Ok(match limited(response, limit).await {
            Ok(bytes) => Bytes::Whole { bytes, web_page },
            Err(EngineError::Fault(_)) => Bytes::TooLong(told),
            Err(error) => return Err(error),
        })
    }

    /// A call that changes something, with a JSON body.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Reply<T>, EngineError> {
        let request = self.request(&self.http, method, path, query)?.json(body);
        let response = send(request.timeout(CALL_LIMIT)).await?;
        self.decode(response).await.map_err(passing)
    }

    /// A call whose answer has no body worth reading. `false` = no such thing.
    pub(super) async fn act(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<bool, EngineError> {
        let request = self.request(&self.http, method, path, query)?.json(body);
        let response = send(request.timeout(CALL_LIMIT)).await?;
        let Some(response) = self.existing(response).await? else {
            return Ok(false);
        };
        let response = self.check(response).await.map_err(passing)?;
        let told = content_type(&response);
        if response.status() != StatusCode::NO_CONTENT && !told.starts_with("application/json") {
            return Err(EngineError::Unreachable(format!(
                "{} answered {path} with {told}, which OpenCode does not: a proxy in front of it, or another server",
                self.address()
            )));
        }
        Ok(true)
    }

    /// Opens `GET /global/event`; the caller reads the body.
    pub(super) async fn events(&self) -> Result<Response, EngineError> {
        let request = self
            .request(&self.fresh, Method::GET, "/global/event", &[])?
            .header(http::header::ACCEPT, "text/event-stream");
        let response = tokio::time::timeout(CALL_LIMIT, request.send())
            .await
            .map_err(|_| {
                EngineError::Unreachable("the event stream did not open in time".to_owned())
            })?
            .map_err(|error| unreachable(&error))?;
        let response = self.check(response).await?;
        if content_type(&response).starts_with("text/event-stream") {
            Ok(response)
        } else {
            Err(EngineError::Fault(format!(
                "the event stream is {}, not text/event-stream",
                content_type(&response)
            )))
        }
    }

    fn request(
        &self,
        http: &reqwest::Client,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<RequestBuilder, EngineError> {
        let joined = format!("{}{path}", self.base.as_str().trim_end_matches('/'));
        let url = Url::parse(&joined)
            .map_err(|error| EngineError::Refused(format!("not a usable address: {error}")))?;
        let request = http.request(method, url).query(query);
        Ok(match &self.credentials {
            Some(known) => request.basic_auth(&known.username, Some(&known.password)),
            None => request,
        })
    }

    async fn decode<T: DeserializeOwned>(
        &self,
        response: Response,
    ) -> Result<Reply<T>, EngineError> {
        let Some(response) = self.existing(response).await? else {
            return Ok(Reply::Missing);
        };
        let web_page = is_web_page(&response);
        let response = self.check(response).await?;
        if web_page {
            return Ok(Reply::NoRoute);
        }
        let body = limited(response, BODY_LIMIT).await?;
        serde_json::from_slice(&body)
            .map(Reply::Json)
            .map_err(|error| {
                EngineError::Fault(format!("an answer that is not the expected JSON: {error}"))
            })
    }

    /// Passes an answer on; none where OpenCode says that there is no such thing. A 404 in other words is somebody else's and
    /// says nothing: a proxy whose server is away, or another program at this address.
    async fn existing(&self, response: Response) -> Result<Option<Response>, EngineError> {
        if response.status() != StatusCode::NOT_FOUND {
            return Ok(Some(response));
        }
        let body = limited(response, 64 * 1024).await?;
        if is_in_its_words(&body) {
            return Ok(None);
        }
        Err(self.is_not_it(StatusCode::NOT_FOUND))
    }

    fn is_not_it(&self, status: StatusCode) -> EngineError {
        EngineError::Unreachable(format!(
            "{} answered {status}, but not as OpenCode does: a proxy in front of it, or another server",
            self.address()
        ))
    }

    /// Passes a success on, turns anything else into what it means.
    async fn check(&self, response: Response) -> Result<Response, EngineError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            return Err(EngineError::Unusable(format!(
                "{} answered with a redirect ({status}) to {}, and redirects are not followed; if that is meant, set the URL of the \
                 engine to where it leads",
                self.address(),
                leads_to(&response)
            )));
        }
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return Err(EngineError::Unusable(format!(
                "{} refused the user name and password ({status}); set the ones that the server was started with",
                self.address()
            )));
        }
        let body = limited(response, 64 * 1024).await.unwrap_or_default();
        let is_too_large = matches!(status.as_u16(), 413 | 414 | 431);
        if status.is_client_error() && !is_too_large && !is_in_its_words(&body) {
            return Err(self.is_not_it(status));
        }
        let rejection = Rejection {
            status: status.as_u16(),
            message: message_of(&body),
        };
        Err(rejection.into_error())
    }
}

impl Rejection {
    /// Faults of the server may pass, refusals of the request do not.
    fn into_error(self) -> EngineError {
        let text = format!("{} {}", self.status, self.message);
        match self.status {
            408 | 425 | 429 => EngineError::Fault(text),
            400..=499 => EngineError::Refused(text),
            502..=504 => EngineError::Unreachable(text),
            _ => EngineError::Fault(text),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn content_type(response: &Response) -> String {
    response
        .headers()
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("without a type")
        .to_owned()
}

/// Where a redirect points to, for people: whoever sent it may have written anything.
fn leads_to(response: &Response) -> String {
    let told = response.headers().get(http::header::LOCATION);
    let text = told.map_or_else(String::new, |told| {
        String::from_utf8_lossy(told.as_bytes()).into_owned()
    });
    let shown: String = text
        .chars()
        .filter(|letter| !letter.is_control())
        .take(200)
        .collect();
    if shown.is_empty() {
        "nowhere".to_owned()
    } else {
        shown
    }
}

fn is_web_page(response: &Response) -> bool {
    content_type(response).starts_with("text/html")
}

/// Whether an error body is OpenCode's: a JSON object with the error's name, of either generation of its API
/// (`{"name":"NotFoundError","data":{…}}`, `{"_tag":"PermissionNotFoundError",…}`), or what 1.3 says to a bad request
/// (`{"data":…,"error":[…],"success":false}`). Measured on 1.3.0, 1.17.0 and 1.18.33.
fn is_in_its_words(body: &[u8]) -> bool {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let named = |key| parsed.get(key).is_some_and(Value::is_string);
    named("name") || named("_tag") || parsed.get("success") == Some(&Value::Bool(false))
}

/// What speaks against the server as a whole says nothing about one call: it may be another one that answers for a moment. Its
/// health is judged where it is asked for.
fn passing(error: EngineError) -> EngineError {
    match error {
        EngineError::Unusable(text) => EngineError::Unreachable(text),
        other @ (EngineError::Unreachable(_)
        | EngineError::Fault(_)
        | EngineError::Refused(_)
        | EngineError::SessionGone
        | EngineError::Ended(_)) => other,
    }
}

/// The words of an error body: `{"data":{"message"}}`, `{"message"}`, or nothing.
fn message_of(body: &[u8]) -> String {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = parsed
        .pointer("/data/message")
        .or_else(|| parsed.get("message"))
        .and_then(Value::as_str)
        .unwrap_or("without an explanation");
    text.chars().take(500).collect()
}

async fn send(request: RequestBuilder) -> Result<Response, EngineError> {
    request.send().await.map_err(|error| unreachable(&error))
}

async fn limited(mut response: Response, limit: usize) -> Result<Vec<u8>, EngineError> {
    let mut body = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| unreachable(&error))?
    {
        if body.len() + piece.len() > limit {
            return Err(EngineError::Fault(format!(
                "an answer of more than {limit} bytes"
            )));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// Nobody there, no answer in time, or none that can be read.
pub(super) fn unreachable(error: &reqwest::Error) -> EngineError {
    if error.is_timeout() {
        return EngineError::Unreachable("no answer within the time limit".to_owned());
    }
    EngineError::Unreachable(innermost(error))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
