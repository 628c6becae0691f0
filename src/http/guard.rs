//! The `Host` and `Origin` check: a page in a browser must not reach a server on loopback under a name of its own.
//!
//! In: the request's headers. Out: the request, or 403. Names are compared exactly; loopback with the port always is served.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, StatusCode, Uri, header};

use super::json_errors::error;
use crate::config::ServerSettings;

/// What is served.
#[derive(Debug)]
pub(super) struct Served {
    hosts: BTreeSet<String>,
    origins: BTreeSet<String>,
}

impl Served {
    /// From the settings and the address that the listener really has.
    pub(super) fn new(settings: &ServerSettings, address: SocketAddr) -> Self {
        let port = address.port();
        let mut hosts: BTreeSet<String> = settings
            .allowed_hosts
            .iter()
            .map(|host| host.to_ascii_lowercase())
            .collect();
        let mut origins: BTreeSet<String> = settings
            .allowed_origins
            .iter()
            .map(|origin| origin.trim_end_matches('/').to_ascii_lowercase())
            .collect();
        let mut names = vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "[::1]".to_owned(),
        ];
        if !address.ip().is_unspecified() {
            names.push(match address {
                SocketAddr::V4(v4) => v4.ip().to_string(),
                SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
            });
        }
        for name in names {
            if port == 80 {
                hosts.insert(name.clone());
                origins.insert(format!("http://{name}"));
            }
            hosts.insert(format!("{name}:{port}"));
            origins.insert(format!("http://{name}:{port}"));
        }
        Self { hosts, origins }
    }

    /// What is wrong with a request's target and headers.
    fn problem(&self, target: &Uri, headers: &HeaderMap) -> Option<&'static str> {
        let served = |host: &str| self.hosts.contains(&host.to_ascii_lowercase());
        // A whole URL as the target names a host too, and the header may be there twice: each must be ours.
        let mut hosts = headers.get_all(header::HOST).iter();
        let one = hosts
            .next()
            .is_some_and(|host| host.to_str().is_ok_and(served));
        let target = target.authority().is_none_or(|host| served(host.as_str()));
        if !one || hosts.next().is_some() || !target {
            return Some(
                "the Host header is not served; an operator can add it to server.allowed_hosts",
            );
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let served = origins.all(|origin| {
            origin
                .to_str()
                .is_ok_and(|origin| self.origins.contains(&origin.to_ascii_lowercase()))
        });
        (!served).then_some(
            "the Origin header is not served; an operator can add it to server.allowed_origins",
        )
    }
}

/// Lets through what is served.
pub(super) async fn check(
    State(served): State<Arc<Served>>,
    request: Request,
    next: Next,
) -> Response {
    match served.problem(request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(problem) => error(StatusCode::FORBIDDEN, problem),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use http::{HeaderMap, Uri, header};

    use super::Served;
    use crate::config::Settings;

    fn headers(host: Option<&str>, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().unwrap());
        }
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn names_are_exact() {
        let mut settings = Settings::default().server;
        settings.allowed_hosts = vec!["Tasks.example.org".to_owned()];
        settings.allowed_origins = vec!["https://planner.example.org/".to_owned()];
        let served = Served::new(&settings, "127.0.0.1:3500".parse().unwrap());
        let here = Some("127.0.0.1:3500");
        for (host, origin, fine) in [
            (here, None, true),
            (Some("localhost:3500"), None, true),
            (Some("LOCALHOST:3500"), None, true),
            (Some("[::1]:3500"), None, true),
            (Some("tasks.example.org"), None, true),
            (Some("tasks.example.org:3500"), None, false),
            (Some("localhost"), None, false),
            (Some("localhost:3501"), None, false),
            (Some("localhost.evil.example:3500"), None, false),
            (Some("evil.example"), None, false),
            (None, None, false),
            (here, Some("http://localhost:3500"), true),
            (here, Some("https://planner.example.org"), true),
            (here, Some("http://planner.example.org"), false),
            (here, Some("http://localhost.evil.example"), false),
            (here, Some("http://localhost"), false),
            (here, Some("http://localhost:35000"), false),
            (here, Some("null"), false),
        ] {
            let problem = served.problem(&Uri::from_static("/mcp"), &headers(host, origin));
            assert_eq!(problem.is_none(), fine, "{host:?} {origin:?}: {problem:?}");
        }
    }

    #[test]
    fn every_name_that_a_request_gives_is_checked() {
        let served = Served::new(
            &Settings::default().server,
            "127.0.0.1:3500".parse().unwrap(),
        );
        let host = headers(Some("127.0.0.1:3500"), None);
        for (target, fine) in [
            ("/mcp", true),
            ("http://localhost:3500/mcp", true),
            ("http://evil.example/mcp", false),
            ("http://localhost:3500@evil.example/mcp", false),
            ("evil.example:443", false),
        ] {
            let problem = served.problem(&target.parse().unwrap(), &host);
            assert_eq!(problem.is_none(), fine, "{target}: {problem:?}");
        }
        let mut twice = host.clone();
        twice.append(header::HOST, "evil.example".parse().unwrap());
        assert!(served.problem(&Uri::from_static("/mcp"), &twice).is_some());
        let mut origins = host.clone();
        for origin in ["http://localhost:3500", "http://evil.example"] {
            origins.append(header::ORIGIN, origin.parse().unwrap());
        }
        assert!(
            served
                .problem(&Uri::from_static("/mcp"), &origins)
                .is_some()
        );
    }

    #[test]
    fn a_wildcard_address_is_no_name() {
        let served = Served::new(&Settings::default().server, "0.0.0.0:80".parse().unwrap());
        assert!(
            served
                .problem(
                    &Uri::from_static("/mcp"),
                    &headers(Some("0.0.0.0:80"), None)
                )
                .is_some()
        );
        assert!(
            served
                .problem(&Uri::from_static("/mcp"), &headers(Some("localhost"), None))
                .is_none()
        );
    }
}
