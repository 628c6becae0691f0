//! The bearer token check.
//!
//! In: the `Authorization` header. Out: [`Who`] in the request's extensions, or 401.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::json_errors::error;
use crate::config::{AuthSettings, TokenRole};
use crate::who::{Role, Who};

/// Lets through who may speak; `/health` and `/ready` answer everybody (without details).
pub(super) async fn check(
    State(auth): State<Arc<AuthSettings>>,
    mut request: Request,
    next: Next,
) -> Response {
    match who(&auth, request.headers()) {
        Some(who) => {
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        None if is_public(request.uri().path()) => next.run(request).await,
        None => {
            let mut response = error(
                StatusCode::UNAUTHORIZED,
                "this server needs a valid token: send the header \"Authorization: Bearer TOKEN\"",
            );
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"chargehand\""),
            );
            response
        }
    }
}

fn is_public(path: &str) -> bool {
    matches!(path, "/health" | "/ready")
}

/// Who the headers speak for; none when a token is needed and not there or not known.
fn who(auth: &AuthSettings, headers: &HeaderMap) -> Option<Who> {
    if auth.tokens.is_empty() {
        return Some(Who::local());
    }
    let given = bearer(headers)?;
    // Every token is compared in full, so that the time says nothing about which one was near.
    auth.tokens
        .iter()
        .fold(None, |found, token| {
            let matches = same(token.token.expose().as_bytes(), given.as_bytes());
            if matches { Some(token) } else { found }
        })
        .map(|token| Who {
            token: token.name.clone(),
            role: match token.role {
                TokenRole::Caller => Role::Caller,
                TokenRole::Operator => Role::Operator,
            },
        })
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

/// Equality whose time depends only on the length of what was given.
fn same(secret: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(secret.len() != given.len());
    for (index, byte) in given.iter().enumerate() {
        let expected = secret
            .get(index % secret.len().max(1))
            .copied()
            .unwrap_or_default();
        difference |= expected ^ byte;
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use http::{HeaderMap, header};

    use super::{same, who};
    use crate::config::{AuthSettings, Secret, TokenRole, TokenSettings};
    use crate::who::{Role, Who};

    fn auth() -> AuthSettings {
        let token = |name: &str, token: &str, role| TokenSettings {
            name: name.to_owned(),
            token: Secret::new(token.to_owned()),
            role,
        };
        AuthSettings {
            tokens: vec![
                token("letta", "0123456789abcdef", TokenRole::Caller),
                token("ann", "fedcba9876543210", TokenRole::Operator),
            ],
        }
    }

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn tokens() {
        let caller = Some(("letta", Role::Caller));
        for (value, expected) in [
            ("Bearer 0123456789abcdef", caller),
            ("bearer  0123456789abcdef", caller),
            ("Bearer fedcba9876543210", Some(("ann", Role::Operator))),
            ("Bearer 0123456789abcde", None),
            ("Bearer 0123456789abcdef0", None),
            ("Bearer 0123456789abcdef0123456789abcdef", None),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic 0123456789abcdef", None),
            ("0123456789abcdef", None),
        ] {
            let found = who(&auth(), &with(value));
            let found = found.as_ref().map(|who| (who.token.as_str(), who.role));
            assert_eq!(found, expected, "{value}");
        }
        assert_eq!(who(&auth(), &HeaderMap::new()), None);
        assert_eq!(
            who(&AuthSettings::default(), &HeaderMap::new()),
            Some(Who::local())
        );
    }

    #[test]
    fn equality() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abcabc"));
        assert!(!same(b"abc", b""));
        assert!(!same(b"", b"a"));
    }
}
