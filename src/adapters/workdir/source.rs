//! What a repository source may look like.
//!
//! In: a URL and a reference from a caller. Out: a checked URL, its protocol, its credentials apart, and a form that can
//! be shown. Nothing here touches the network or the disk.

use std::fmt;

use chargehand_actors::ports::WorkdirError;
use percent_encoding::percent_decode_str;
use url::Url;

const LONGEST: usize = 2048;

/// How git reaches the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// `https://`
    Https,
    /// `ssh://` or `user@host:path`
    Ssh,
    /// `file:///`
    File,
}

impl Protocol {
    /// As git's allow-list calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Ssh => "ssh",
            Self::File => "file",
        }
    }
}

/// Name and password out of a URL. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    /// Name, or a token without a password.
    pub(super) user: String,
    /// May be empty.
    pub(super) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// A checked repository source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    /// What git is given: without credentials.
    pub(super) url: String,
    /// How it is reached.
    pub(super) protocol: Protocol,
    /// From the URL.
    pub(super) credentials: Option<Credentials>,
}

impl Repository {
    /// Checks a URL.
    pub(super) fn parse(text: &str) -> Result<Self, WorkdirError> {
        if text.is_empty() || text.len() > LONGEST || text.starts_with('-') {
            return Err(bad(text, "it is empty, too long, or begins with \"-\""));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad(text, "it contains spaces or control characters"));
        }
        if let Some(scp) = scp_form(text) {
            return scp;
        }
        if text.starts_with('/') || text.starts_with('.') || text.starts_with('~') {
            return Err(bad(
                text,
                "a path is not taken; write file:///absolute/path, or give it as a directory",
            ));
        }
        let url =
            Url::parse(text).map_err(|error| bad(text, &format!("it is no URL ({error})")))?;
        match url.scheme() {
            "https" => Self::https(text, url),
            "ssh" => Self::ssh(text, url),
            "file" => Self::file(text, &url),
            other => Err(bad(
                text,
                &format!(
                    "\"{other}\" is not allowed; allowed are https, ssh, git@host:path and file"
                ),
            )),
        }
    }

    /// Takes what is secret out of a text.
    pub(super) fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some((_, query)) = self.url.split_once('?')
            && !query.is_empty()
        {
            text = text.replace(query, "***");
        }
        let Some(credentials) = &self.credentials else {
            return text;
        };
        for secret in [&credentials.password, &credentials.user] {
            if secret.len() > 3 {
                text = text.replace(secret.as_str(), "***");
            }
        }
        text
    }

    /// The URL for people: without credentials, and without a query, which may hold a token.
    pub(super) fn shown(&self) -> String {
        self.url
            .split(['?', '#'])
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    fn https(text: &str, mut url: Url) -> Result<Self, WorkdirError> {
        let after_scheme = text.split_once("://").map_or("", |(_, rest)| rest);
        if after_scheme.starts_with(['/', '\\']) || url.host_str().is_none_or(str::is_empty) {
            return Err(bad(text, "it names no host"));
        }
        let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let credentials = Credentials {
            user: decoded(url.username()),
            password: decoded(url.password().unwrap_or_default()),
        };
        let given = !(credentials.user.is_empty() && credentials.password.is_empty());
        let broken = |part: &str| part.chars().any(char::is_control);
        if broken(&credentials.user) || broken(&credentials.password) {
            return Err(bad(text, "its credentials contain control characters"));
        }
        let stripped = url.set_username("").and_then(|()| url.set_password(None));
        stripped.map_err(|()| bad(text, "its credentials cannot be read"))?;
        Ok(Self {
            url: url.into(),
            protocol: Protocol::Https,
            credentials: given.then_some(credentials),
        })
    }

    fn ssh(text: &str, url: Url) -> Result<Self, WorkdirError> {
        if url.password().is_some() {
            return Err(bad(
                text,
                "ssh takes a key, not a password; leave the password out",
            ));
        }
        let host = url.host_str().unwrap_or_default();
        if host.is_empty() || host.starts_with('-') || url.username().starts_with('-') {
            return Err(bad(text, "its host or user name is not usable"));
        }
        if percent_decode_str(url.path()).any(|byte| byte < b' ') || url.path().starts_with("/-") {
            return Err(bad(text, "its path is not usable"));
        }
        Ok(Self {
            url: url.into(),
            protocol: Protocol::Ssh,
            credentials: None,
        })
    }

    fn file(text: &str, url: &Url) -> Result<Self, WorkdirError> {
        if url.host_str().is_some_and(|host| !host.is_empty()) || !text.starts_with("file:///") {
            return Err(bad(text, "write it as file:///absolute/path"));
        }
        Ok(Self {
            url: text.to_owned(),
            protocol: Protocol::File,
            credentials: None,
        })
    }
}

/// `user@host:path`, as ssh knows it; none when the text has another form.
fn scp_form(text: &str) -> Option<Result<Repository, WorkdirError>> {
    if text.contains("://") {
        return None;
    }
    let (user, rest) = text.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    if !plain(user) || !plain(host) || path.is_empty() || path.starts_with(['-', ':']) {
        return Some(Err(bad(text, "write it as git@host:path")));
    }
    Some(Ok(Repository {
        url: text.to_owned(),
        protocol: Protocol::Ssh,
        credentials: None,
    }))
}

/// Checks the name of a branch, tag or commit.
pub(super) fn check_reference(name: &str) -> Result<(), WorkdirError> {
    let forbidden = |c: char| {
        c.is_control() || c.is_whitespace() || matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\')
    };
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    if name.is_empty()
        || name.len() > 255
        || name.starts_with('-')
        || name.ends_with('.')
        || name.contains("..")
        || name.contains("@{")
        || name == "@"
        || name.contains(forbidden)
        || name.split('/').any(bad_part)
    {
        let shown: String = super::names::show(name.as_bytes())
            .chars()
            .take(300)
            .collect();
        return Err(WorkdirError::BadSource(format!(
            "reference \"{shown}\" is refused: give the name of a branch or tag, or a commit id"
        )));
    }
    Ok(())
}

/// A refusal that shows the URL without what may be secret in it.
fn bad(text: &str, why: &str) -> WorkdirError {
    let without_query = text.split(['?', '#']).next().unwrap_or_default();
    let shown = match (without_query.find("://"), without_query.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!(
            "{}***{}",
            &without_query[..scheme + 3],
            &without_query[at..]
        ),
        _ => without_query.to_owned(),
    };
    let shown: String = super::names::show(shown.as_bytes())
        .chars()
        .take(300)
        .collect();
    WorkdirError::BadSource(format!("repository \"{shown}\" is refused: {why}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Protocol, Repository, check_reference};

    #[test]
    fn usable_urls() {
        for (text, protocol) in [
            ("https://example.org/a/b.git", Protocol::Https),
            ("ssh://git@example.org:2222/a/b", Protocol::Ssh),
            ("git@example.org:a/b.git", Protocol::Ssh),
            ("file:///srv/git/a", Protocol::File),
        ] {
            let parsed = Repository::parse(text).unwrap();
            assert_eq!((parsed.protocol, parsed.url.as_str()), (protocol, text));
        }
    }

    #[test]
    fn unusable_urls_are_refused_with_what_is_allowed() {
        for text in [
            "",
            "--upload-pack=touch /tmp/x",
            "-oProxyCommand=x@h:p",
            "/srv/git/a",
            "../a",
            "http://example.org/a",
            "git://example.org/a",
            "ext::sh -c id",
            "ext::sh",
            "file://host/a",
            "file:relative",
            "ssh://-oProxyCommand=x/a",
            "ssh://user:secret@host/a",
            "user@-oProxyCommand:x",
            "git@host:-x",
            "https:///x",
            "https://example.org/a\nb",
        ] {
            let error = Repository::parse(text).unwrap_err().to_string();
            assert!(error.contains("is refused"), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn credentials_are_taken_out_and_never_shown() {
        let parsed = Repository::parse("https://bob:p%40ssword@example.org/a?token=abc").unwrap();
        assert_eq!(parsed.url, "https://example.org/a?token=abc");
        assert_eq!(parsed.shown(), "https://example.org/a");
        assert_eq!(parsed.credentials.as_ref().unwrap().password, "p@ssword");
        assert!(!format!("{parsed:?}").contains("ssword"));
        assert_eq!(parsed.hide("fatal: p@ssword"), "fatal: ***");
        assert_eq!(parsed.hide("no /a?token=abc/"), "no /a?***/");
    }

    #[test]
    fn references() {
        for good in ["main", "feature/x-1", "v1.0", "refs/tags/v1", "0a1b2c3d"] {
            check_reference(good).unwrap();
        }
        for bad in [
            "",
            "-x",
            "--upload-pack=x",
            "a..b",
            "a b",
            "a:b",
            "a^",
            "x.lock",
            "/a",
            "a//b",
            "@{u}",
            "a\n",
            "..",
            "x/.y",
        ] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
    }
}
