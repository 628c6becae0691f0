//! The check of who sends a request.
//!
//! In: the headers `Authorization`, `X-Agent-Id` and `User-Agent`, the peer's address. Out: [`Who`] in the request's
//! extensions and in [`CURRENT`] while it is answered; or 401 (no valid token), 400 (an agent id that cannot be one),
//! 403 (an agent that the token may not speak for). What a removed token still waits for ends with 401.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use chargehand_actors::command::Origin;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::Tokens;
use super::json_errors::error;
use crate::audit::{self, Failures};
use crate::who::{CURRENT, Who};

/// The header that names the agent.
const AGENT: &str = "x-agent-id";
/// The longest agent id, in characters.
const LONGEST_AGENT: usize = 200;
const TOKEN_NEEDED: &str =
    "this server needs a valid token: send the header \"Authorization: Bearer TOKEN\"";

/// What the check needs.
#[derive(Clone, Debug)]
pub(super) struct Auth(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tokens: Tokens,
    failures: Failures,
}

impl Auth {
    pub(super) fn new(tokens: Tokens) -> Self {
        Self(Arc::new(Inner {
            tokens,
            failures: Failures::default(),
        }))
    }
}

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Denied {
    /// No token, and one is needed.
    NoToken,
    /// A token that nobody has.
    WrongToken,
    /// The agent header cannot be read as one agent id.
    BadAgent,
    /// The token may not speak for the agent; what it may, for the answer.
    ForeignAgent(String),
}

/// Lets through who may speak; `/health` and `/ready` answer everybody (without details).
pub(super) async fn check(State(auth): State<Auth>, mut request: Request, next: Next) -> Response {
    auth.0.tokens.refresh().await;
    let peer = peer(&request);
    let path = request.uri().path().to_owned();
    let from = origin(request.headers(), &path, peer);
    match auth.0.who(request.headers(), from) {
        Ok(who) => {
            request.extensions_mut().insert(who.clone());
            let revoked = who.revoked.clone();
            tokio::select! {
                biased;
                () = revoked.cancelled() => unauthorized(),
                response = CURRENT.scope(who, next.run(request)) => response,
            }
        }
        Err(denied) => {
            // A probe of a load balancer has no token and needs none.
            let public = matches!(path.as_str(), "/health" | "/ready");
            let logged = matches!(denied, Denied::ForeignAgent(_));
            if !logged && (!public || denied != Denied::NoToken) {
                auth.0.failures.record(peer, &path, denied.word());
            }
            if public {
                next.run(request).await
            } else {
                denied.response()
            }
        }
    }
}

impl Inner {
    /// Who the headers speak for.
    fn who(&self, headers: &HeaderMap, from: Origin) -> Result<Who, Denied> {
        let given = bearer(headers);
        let agent = agent(headers);
        let known = self.tokens.who(given, agent.clone().ok().flatten(), from);
        let who = known.ok_or(match given {
            Some(_) => Denied::WrongToken,
            None => Denied::NoToken,
        })?;
        match agent?.filter(|agent| !who.may_name(agent)) {
            None => Ok(who),
            Some(foreign) => {
                audit::refused(&who, "", None, "AGENT_NOT_ALLOWED");
                let allowed = who.agents.join(", ");
                Err(Denied::ForeignAgent(format!(
                    "the token {} may not speak for the agent {foreign} of the header X-Agent-Id; it may for: {allowed}",
                    who.token
                )))
            }
        }
    }
}

impl Denied {
    const fn word(&self) -> &'static str {
        match self {
            Self::NoToken => "no token",
            Self::WrongToken => "unknown token",
            Self::BadAgent => "unusable X-Agent-Id",
            Self::ForeignAgent(_) => "agent not allowed for the token",
        }
    }

    fn response(self) -> Response {
        match self {
            Self::NoToken | Self::WrongToken => unauthorized(),
            Self::BadAgent => error(
                StatusCode::BAD_REQUEST,
                "the header X-Agent-Id must be one agent id: 1 to 200 characters without control characters, given once; leave it out to speak for the whole token",
            ),
            Self::ForeignAgent(text) => error(StatusCode::FORBIDDEN, &text),
        }
    }
}

fn unauthorized() -> Response {
    let mut response = error(StatusCode::UNAUTHORIZED, TOKEN_NEEDED);
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"chargehand\""),
    );
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
        .filter(|token| !token.is_empty())
}

/// The agent that the request narrows itself to. What cannot be read is refused, not ignored: ignoring it would show
/// more than was asked for.
fn agent(headers: &HeaderMap) -> Result<Option<String>, Denied> {
    let mut given = headers.get_all(AGENT).iter();
    let Some(value) = given.next() else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Denied::BadAgent)?;
    let text = text.trim();
    let sound = !text.is_empty()
        && text.chars().count() <= LONGEST_AGENT
        && !text.chars().any(char::is_control)
        && given.next().is_none();
    if sound {
        Ok(Some(text.to_owned()))
    } else {
        Err(Denied::BadAgent)
    }
}

fn peer(request: &Request) -> Option<IpAddr> {
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    info.map(|ConnectInfo(address)| address.ip().to_canonical())
}

/// The way in and the peer's address. Our own command line says that it is one; nothing else of a request is taken over.
fn origin(headers: &HeaderMap, path: &str, peer: Option<IpAddr>) -> Origin {
    let ours = headers
        .get(header::USER_AGENT)
        .is_some_and(|agent| agent.as_bytes().starts_with(b"chargehand-cli/"));
    let way = match (ours, path) {
        (true, _) => "cli",
        (false, "/mcp") => "mcp",
        (false, _) => "http",
    };
    Origin(match peer {
        Some(peer) => format!("{way} {peer}"),
        None => way.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use chargehand_actors::command::Origin;
    use http::{HeaderMap, HeaderValue, header};

    use super::{Auth, Denied, agent, origin};
    use crate::config::{AuthSettings, CallerLimitSettings, Secret, TokenRole, TokenSettings};
    use crate::http::Tokens;
    use crate::who::Role;

    fn auth() -> Auth {
        let token = |name: &str, token: &str, role, agents: &[&str]| TokenSettings {
            name: name.to_owned(),
            token: Secret::new(token.to_owned()),
            file: None,
            role,
            agents: agents.iter().map(|agent| (*agent).to_owned()).collect(),
            limits: CallerLimitSettings::default(),
        };
        Auth::new(Tokens::new(&AuthSettings {
            tokens: vec![
                token("letta", "0123456789abcdef", TokenRole::Caller, &[]),
                token("ann", "fedcba9876543210", TokenRole::Operator, &[]),
                token(
                    "pair",
                    "pair-pair-pair-pair",
                    TokenRole::Caller,
                    &["a", "b"],
                ),
            ],
            ..AuthSettings::default()
        }))
    }

    fn with(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn tokens() {
        let caller = Ok(("letta".to_owned(), Role::Caller));
        let operator = Ok(("ann".to_owned(), Role::Operator));
        for (value, expected) in [
            ("Bearer 0123456789abcdef", caller.clone()),
            ("bearer  0123456789abcdef", caller),
            ("Bearer fedcba9876543210", operator),
            ("Bearer 0123456789abcde", Err(Denied::WrongToken)),
            ("Bearer 0123456789abcdef0", Err(Denied::WrongToken)),
            (
                "Bearer 0123456789abcdef0123456789abcdef",
                Err(Denied::WrongToken),
            ),
            ("Bearer ", Err(Denied::NoToken)),
            ("Bearer", Err(Denied::NoToken)),
            ("Basic 0123456789abcdef", Err(Denied::NoToken)),
            ("0123456789abcdef", Err(Denied::NoToken)),
        ] {
            let found = auth()
                .0
                .who(&with(header::AUTHORIZATION, value), Origin::default());
            let found = found.map(|who| (who.token, who.role));
            assert_eq!(found, expected, "{value}");
        }
        let nobody = auth().0.who(&HeaderMap::new(), Origin::default());
        assert_eq!(nobody.err(), Some(Denied::NoToken));
        let open = Auth::new(Tokens::new(&AuthSettings::default()));
        let local = open.0.who(&HeaderMap::new(), Origin::default()).unwrap();
        assert_eq!((local.token.as_str(), local.role), ("local", Role::Local));
    }

    #[test]
    fn a_token_speaks_for_its_agents_only() {
        for (agent, fine) in [(Some("a"), true), (Some("c"), false), (None, true)] {
            let mut headers = with(header::AUTHORIZATION, "Bearer pair-pair-pair-pair");
            if let Some(agent) = agent {
                headers.insert(super::AGENT, agent.parse().unwrap());
            }
            let found = auth().0.who(&headers, Origin::default());
            assert_eq!(found.is_ok(), fine, "{agent:?}");
            if let Err(denied) = found {
                assert!(matches!(denied, Denied::ForeignAgent(text) if text.contains("a, b")));
            }
        }
    }

    #[test]
    fn an_agent_header_is_one_agent_or_refused() {
        let long = "x".repeat(201);
        for (value, expected) in [
            (b"agent-1".as_slice(), Ok(Some("agent-1"))),
            (b"  agent-1 ", Ok(Some("agent-1"))),
            ("Jürgen".as_bytes(), Ok(Some("Jürgen"))),
            (b"", Err(Denied::BadAgent)),
            (b"\xff\xfe", Err(Denied::BadAgent)),
            (b"a\tb", Err(Denied::BadAgent)),
            (long.as_bytes(), Err(Denied::BadAgent)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(super::AGENT, HeaderValue::from_bytes(value).unwrap());
            let expected = expected.map(|agent| agent.map(str::to_owned));
            assert_eq!(agent(&headers), expected, "{value:?}");
        }
        let mut twice = HeaderMap::new();
        twice.append(super::AGENT, HeaderValue::from_static("a"));
        twice.append(super::AGENT, HeaderValue::from_static("b"));
        assert_eq!(agent(&twice), Err(Denied::BadAgent));
        assert_eq!(agent(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn where_a_request_came_from() {
        let cli = with(header::USER_AGENT, "chargehand-cli/1.0");
        let other = with(header::USER_AGENT, "evil\u{20}<b>");
        let v4 = Some("10.0.0.7".parse().unwrap());
        for (headers, path, peer, expected) in [
            (&cli, "/mcp", v4, "cli 10.0.0.7"),
            (&other, "/mcp", v4, "mcp 10.0.0.7"),
            (&other, "/debug/tree", v4, "http 10.0.0.7"),
            (&other, "/mcp", None, "mcp"),
        ] {
            assert_eq!(origin(headers, path, peer).0, expected);
        }
    }
}
