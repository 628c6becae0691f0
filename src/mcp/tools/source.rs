//! What a new task starts from: arguments `repository` and `directory`.
//!
//! In: checked arguments. Out: a [`Source`], or the refusal of a URL that could do something else than clone.

use chargehand_actors::command::Source;

use crate::mcp::args::{Arg, Args, BadArguments, Kind};

/// Fields of `repository`.
pub(crate) const REPOSITORY: [Arg; 2] = [
    Arg::required(
        "url",
        Kind::Text { min: 1, max: 2_000 },
        "https://, ssh:// or file:// URL, or git@host:path. Without password: credentials are set up on Chargehand's machine.",
    ),
    Arg::optional(
        "ref",
        Kind::Text { min: 1, max: 250 },
        "Branch, tag or commit; the default branch when left out.",
    ),
];

/// The source asked for; empty when neither argument is given.
pub(crate) fn decode(args: &Args) -> Result<Source, BadArguments> {
    match (args.fields("repository"), args.text("directory")) {
        (Some(_), Some(_)) => Err(BadArguments::one(
            "directory",
            "is given together with repository",
            "only one of the two",
        )),
        (Some(fields), None) => repository(&fields),
        (None, Some(path)) => directory(path.trim()),
        (None, None) => Ok(Source::Empty),
    }
}

fn repository(fields: &Args) -> Result<Source, BadArguments> {
    let url = fields.need_text("url")?.trim();
    if let Some(problem) = url_problem(url) {
        return Err(BadArguments::one(
            "repository.url",
            problem,
            "https://host/path, ssh://user@host/path, file:///path or git@host:path, without password",
        ));
    }
    let reference = fields.text("ref").map(str::trim);
    if reference.is_some_and(|r| {
        r.starts_with('-') || r.contains(|c: char| c.is_whitespace() || c.is_control())
    }) {
        return Err(BadArguments::one(
            "repository.ref",
            "starts with - or contains blanks",
            "a branch, tag or commit",
        ));
    }
    Ok(Source::Repository {
        url: url.to_owned(),
        reference: reference.map(str::to_owned),
    })
}

fn url_problem(url: &str) -> Option<&'static str> {
    if url.starts_with('-') || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some("starts with - or contains blanks");
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        let scp_like = url.split_once(':').is_some_and(|(host, path)| {
            host.split_once('@')
                .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
                && !path.is_empty()
                && !path.starts_with([':', '-'])
                && !host
                    .split_once('@')
                    .is_some_and(|(_, host)| host.starts_with('-'))
        });
        return (!scp_like).then_some("is no URL");
    };
    if !matches!(scheme, "https" | "ssh" | "file") {
        return Some("has a scheme that is not allowed");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.starts_with('-') || authority.starts_with('-') {
        return Some("has a host or user that would be taken for an option");
    }
    if scheme != "file" && rest.contains(['?', '#']) {
        return Some("contains a query, which may hold a token and would be kept in the journal");
    }
    // A password here would be kept in the journal and shown to every reader of the task.
    let password = authority
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.contains(':') || scheme == "https");
    password.then_some("contains credentials, which would be kept in the journal")
}

fn directory(path: &str) -> Result<Source, BadArguments> {
    if path.starts_with('/') && !path.chars().any(char::is_control) {
        Ok(Source::Directory {
            path: path.to_owned(),
        })
    } else {
        Err(BadArguments::one(
            "directory",
            "is no absolute path",
            "an absolute path on Chargehand's machine, such as /home/ann/project",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::url_problem;

    #[test]
    fn urls() {
        for good in [
            "https://example.org/a/b.git",
            "https://example.org:8443/a",
            "ssh://git@example.org/a",
            "ssh://example.org:22/a",
            "file:///srv/a.git",
            "git@example.org:a/b.git",
        ] {
            assert_eq!(url_problem(good), None, "{good}");
        }
        for bad in [
            "http://example.org/a",
            "git://example.org/a",
            "ext::sh -c id",
            "ext::sh",
            "--upload-pack=id",
            "-oProxyCommand=id",
            "https://user:pass@example.org/a",
            "https://token@example.org/a",
            "ssh://git:pw@example.org/a",
            "example.org/a",
            "git@example.org:",
            "git@x::y",
            "https://example.org/a?private_token=x",
            "git@-oProxyCommand=id:x",
            "git@x:-y",
            "ssh://-oProxyCommand=id/x",
            "ssh://git@-oProxyCommand=id/x",
            "https://a b",
        ] {
            assert!(url_problem(bad).is_some(), "{bad}");
        }
    }
}
