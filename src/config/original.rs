//! The environment variables of the system that this one replaces: honoured where they say the same, refused where they ask
//! for something that is not there. Never silently weakened.
//!
//! In: the environment. Out: values for our settings, below `CHARGEHAND_*` and above the file.

use super::reader::Reader;

/// Takes over what the original's variables say.
pub(super) fn apply(reader: &mut Reader) {
    listen(reader);
    for (theirs, ours) in [
        ("MAX_CONCURRENT_TASKS", "tasks.max_running"),
        ("RUNNER_TIMEOUT_MS", "tasks.default_timeout_ms"),
    ] {
        if let Some(value) = reader.variable(theirs) {
            reader.imply(ours, value, theirs);
        }
    }
    engine(reader);
}

fn listen(reader: &mut Reader) {
    let host = reader.variable("MCP_HOST");
    let port = reader.variable("MCP_PORT");
    if host.is_none() && port.is_none() {
        return;
    }
    let host = match host.as_deref() {
        None | Some("localhost") => "127.0.0.1".to_owned(),
        Some(address) if address.contains(':') => format!("[{address}]"),
        Some(address) => address.to_owned(),
    };
    let port = port.unwrap_or_else(|| "3500".to_owned());
    reader.imply(
        "server.bind",
        format!("{host}:{port}"),
        "MCP_HOST and MCP_PORT",
    );
}

fn engine(reader: &mut Reader) {
    let chosen = reader.is_set("engine.default");
    let enabled = reader.variable("OPENCODE_SERVER_ENABLED");
    let url = reader.variable("OPENCODE_SERVER_URL");
    if enabled.as_deref() == Some("true") {
        match url {
            Some(url) => reader.imply("engines.remote.url", url, "OPENCODE_SERVER_URL"),
            None if !reader.is_set("engines.remote.url") => reader.problem(
                "OPENCODE_SERVER_ENABLED",
                "is true, but OPENCODE_SERVER_URL is not set",
                "OPENCODE_SERVER_URL=http://host:port of the OpenCode server",
            ),
            None => {}
        }
        if !chosen {
            reader.imply(
                "engine.default",
                "remote".to_owned(),
                "OPENCODE_SERVER_ENABLED",
            );
        }
    } else if !chosen {
        let docker = match enabled.as_deref() {
            Some("false") => Some("OPENCODE_SERVER_ENABLED=false"),
            _ => reader.variable("RUNNER_IMAGE").map(|_| "RUNNER_IMAGE"),
        };
        if let Some(asked) = docker {
            reader.problem(
                "engine.default",
                format!("is docker because {asked} asks for it, and this version has no docker engine"),
                "CHARGEHAND_ENGINE_DEFAULT=local to run tasks without containers, or remote with engines.remote.url",
            );
        }
    }
}
