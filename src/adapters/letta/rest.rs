//! The REST client of a classic Letta server.
//!
//! In: a method, a path, a body. Out: status and JSON, or what an answer without success means for the caller. Every call
//! has a time limit, every body a size limit; the token is in no error, log or `Debug`.

use std::fmt;
use std::time::Duration;

use chargehand_actors::ports::PlannerError;
use reqwest::Method;
use serde_json::Value;
use url::Url;

use super::settings::Token;
use crate::adapters::cause::innermost;

const CALL_LIMIT: Duration = Duration::from_secs(25);
/// The state of an agent with many tools is some megabytes.
const BODY_LIMIT: usize = 32 * 1024 * 1024;

/// Talks to one server.
#[derive(Clone)]
pub struct Rest {
    base: Url,
    token: Option<Token>,
    http: reqwest::Client,
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; null when it is none or no JSON.
    pub body: Value,
}

impl Rest {
    /// A client for a server; its address may end with `/v1` or not.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(url: &Url, token: Option<Token>) -> Result<Self, PlannerError> {
        // An App Server's address asks the same server over HTTP.
        let text = url.as_str();
        let http = text.strip_prefix("ws").map(|rest| format!("http{rest}"));
        let base = http.map_or_else(|| Ok(url.clone()), |http| Url::parse(&http));
        let mut base =
            base.map_err(|error| PlannerError::Refused(format!("letta.url: {error}")))?;
        let path = base.path().trim_end_matches('/');
        let path = path.strip_suffix("/v1").unwrap_or(path);
        base.set_path(&format!("{path}/"));
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(CALL_LIMIT)
            // Letta's redirects of collections without a slash lead to plain http addresses of its own.
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true);
        let host = base.host_str().unwrap_or_default();
        if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| {
            PlannerError::Refused(format!("the HTTP client cannot be built: {error}"))
        })?;
        Ok(Self { base, token, http })
    }

    /// For a person: where it is.
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// One request. `path` is below the address and without a leading slash.
    ///
    /// # Errors
    /// [`PlannerError::Unavailable`] when nothing sound came back at all.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, PlannerError> {
        let url = self
            .base
            .join(path)
            .map_err(|error| PlannerError::Refused(format!("no address: {error}")))?;
        let mut request = self.http.request(method, url).query(query);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| lost(&error))?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| lost(&error))? {
            if bytes.len() + piece.len() > BODY_LIMIT {
                return Err(PlannerError::Unavailable(format!(
                    "Letta's answer has more than {BODY_LIMIT} bytes"
                )));
            }
            bytes.extend_from_slice(&piece);
        }
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { status, body })
    }
}

fn lost(error: &reqwest::Error) -> PlannerError {
    if error.is_timeout() {
        return PlannerError::Unavailable("Letta does not answer within the time limit".to_owned());
    }
    PlannerError::Unavailable(format!("Letta cannot be reached: {}", innermost(error)))
}

impl Answer {
    /// Whether it was done.
    pub const fn is_ok(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// What the server says about it.
    pub fn detail(&self) -> String {
        let detail = match &self.body["detail"] {
            Value::String(text) => text.clone(),
            Value::Null => self.body["message"]
                .as_str()
                .unwrap_or("without an explanation")
                .to_owned(),
            other => other.to_string(),
        };
        super::text::safe(&detail, 300)
    }

    /// What an answer without success means.
    pub fn error(&self, what: &str) -> PlannerError {
        let status = self.status;
        let detail = self.detail();
        match status {
            401 | 403 => PlannerError::Refused(format!(
                "Letta refuses the token ({status}) when Chargehand wants to {what}; set letta.token or letta.token_file"
            )),
            409 => PlannerError::Conflict(format!("Letta could not {what}: {detail}")),
            408 | 425 | 429 | 500..=599 => {
                PlannerError::Unavailable(format!("Letta could not {what} ({status}): {detail}"))
            }
            300..=399 => PlannerError::Refused(format!(
                "Letta redirects ({status}) when Chargehand wants to {what}; letta.url must be the server's own address"
            )),
            _ => PlannerError::Refused(format!("Letta refuses to {what} ({status}): {detail}")),
        }
    }

    /// The body of an answer with success.
    ///
    /// # Errors
    /// As [`Self::error`].
    pub fn ok(self, what: &str) -> Result<Value, PlannerError> {
        if self.is_ok() {
            Ok(self.body)
        } else {
            Err(self.error(what))
        }
    }
}
