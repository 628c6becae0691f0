//! The environment variables of the system that this one replaces: honoured where they say the same, refused where they ask
//! for something that is not there, told where they have no meaning here. Never silently weakened.
//!
//! In: the environment. Out: values for our settings, below `CHARGEHAND_*` and above the file; problems and notes.
//! The table for users is in `docs/migration.md`.

use super::checked::Weight;
use super::letta;
use super::reader::Reader;

/// Most bytes that one call of `read_task_file` can give.
const READ_LIMIT: u64 = 1_000_000;

/// Variables of the chat rooms that are honoured, and the settings that they stand for.
const ROOMS: [(&str, &str); 4] = [
    ("MATRIX_HOMESERVER_URL", "matrix.homeserver_url"),
    ("MATRIX_ACCESS_TOKEN", "matrix.access_token"),
    ("MATRIX_USER_ID", "matrix.user_id"),
    ("MATRIX_DEFAULT_HUMAN_OBSERVERS", "matrix.observers"),
];

/// Variables of the chat rooms without a meaning here, and why.
const ROOMS_ELSEWHERE: [(&str, &str); 2] = [
    (
        "MATRIX_STORAGE_PATH",
        "is not used: the session and the store are in the directory matrix of data.dir",
    ),
    (
        "MATRIX_API_URL",
        "is not used: every task has a room of its own, also where its agent has one already",
    ),
];

/// Variables that ask for one container per task.
const CONTAINERS: [&str; 3] = ["RUNNER_IMAGE", "RUNNER_CPU_LIMIT", "RUNNER_MEMORY_LIMIT"];

/// Variables with another meaning, or none, and why.
const MEANINGLESS: [(&str, &str); 7] = [
    (
        "ENABLE_ASYNC_EXECUTE",
        "every task runs in the background; sync=true waits for it",
    ),
    (
        "ENFORCE_IDEMPOTENCY",
        "an idempotency_key always holds, for its caller",
    ),
    (
        "OPENCODE_SERVER_HEALTH_CHECK_INTERVAL_MS",
        "engines are watched by themselves",
    ),
    (
        "OPENCODE_SERVER_MAX_RETRIES",
        "a server that does not answer is tried until it does",
    ),
    (
        "OPENCODE_SERVER_RETRY_DELAY_MS",
        "a server that does not answer is tried until it does",
    ),
    ("DEBUG", "use log.level or --log debug"),
    ("NODE_ENV", "this is no Node program"),
];

/// Variables that are honoured.
const HONOURED: [&str; 13] = [
    "MCP_HOST",
    "MCP_PORT",
    "MAX_CONCURRENT_TASKS",
    "RUNNER_TIMEOUT_MS",
    "WORKSPACE_DIR",
    "MAX_TASK_FILE_SIZE",
    "OPENCODE_SERVER_ENABLED",
    "OPENCODE_SERVER_URL",
    "MATRIX_ENABLED",
    "LETTA_API_URL",
    "LETTA_API_TOKEN",
    "WORKSPACE_BLOCK_LIMIT",
    "WORKSPACE_MAX_EVENTS",
];

/// Whether the original read, or was said to read, this variable.
pub(super) fn knows(name: &str) -> bool {
    HONOURED.contains(&name)
        || ROOMS.iter().any(|(known, _)| *known == name)
        || ROOMS_ELSEWHERE.iter().any(|(known, _)| *known == name)
        || CONTAINERS.contains(&name)
        || MEANINGLESS.iter().any(|(known, _)| *known == name)
}

/// Takes over what the original's variables say.
pub(super) fn apply(reader: &mut Reader) {
    listen(reader);
    for (theirs, ours) in [
        ("MAX_CONCURRENT_TASKS", "tasks.max_running"),
        ("RUNNER_TIMEOUT_MS", "tasks.default_timeout_ms"),
        ("WORKSPACE_DIR", "data.workdirs"),
    ] {
        if let Some(value) = reader.variable(theirs) {
            reader.imply(ours, value, theirs);
        }
    }
    file_size(reader);
    engine(reader);
    letta::apply_original(reader);
    rooms(reader);
    for (name, why) in MEANINGLESS {
        if reader.variable(name).is_some() {
            reader.note(Weight::Remark, name, format!("is not used: {why}"));
        }
    }
}

fn listen(reader: &mut Reader) {
    let host = reader.variable("MCP_HOST");
    let port = reader.variable("MCP_PORT");
    if host.is_none() && port.is_none() {
        return;
    }
    let host = match host.as_deref() {
        None | Some("localhost") => "127.0.0.1".to_owned(),
        Some(address) if address.contains(':') && !address.starts_with('[') => {
            format!("[{address}]")
        }
        Some(address) => address.to_owned(),
    };
    let port = port.unwrap_or_else(|| "3500".to_owned());
    reader.imply(
        "server.bind",
        format!("{host}:{port}"),
        "MCP_HOST and MCP_PORT",
    );
}

/// A longer file is no longer refused but read in several calls, so a larger limit asks for nothing that is not there.
fn file_size(reader: &mut Reader) {
    const NAME: &str = "MAX_TASK_FILE_SIZE";
    let Some(value) = reader.variable(NAME) else {
        return;
    };
    let value = match value.parse::<u64>() {
        Ok(size) if size > READ_LIMIT => {
            reader.note(
                Weight::Remark,
                NAME,
                format!(
                    "is {size}: a call of read_task_file gives at most {READ_LIMIT} bytes, longer files are read in \
                     several calls"
                ),
            );
            READ_LIMIT.to_string()
        }
        Ok(_) | Err(_) => value,
    };
    reader.imply("tasks.max_read_bytes", value, NAME);
}

/// A variable that is true or false; anything else is a problem and counts as not set.
fn truth(reader: &mut Reader, name: &'static str) -> Option<bool> {
    let value = reader.variable(name)?;
    match value.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => {
            reader.problem(name, format!("is \"{value}\""), "true or false");
            None
        }
    }
}

fn engine(reader: &mut Reader) {
    let chosen = reader.is_set("engine.default");
    let enabled = truth(reader, "OPENCODE_SERVER_ENABLED");
    let url = reader.variable("OPENCODE_SERVER_URL");
    match (enabled, url) {
        (Some(false), Some(_)) => reader.note(
            Weight::Remark,
            "OPENCODE_SERVER_URL",
            "is not used: OPENCODE_SERVER_ENABLED is false",
        ),
        (Some(true) | None, Some(url)) => {
            reader.imply("engines.remote.url", url, "OPENCODE_SERVER_URL");
        }
        (Some(true), None) if !reader.is_set("engines.remote.url") => reader.problem(
            "OPENCODE_SERVER_ENABLED",
            "is true, but OPENCODE_SERVER_URL is not set",
            "OPENCODE_SERVER_URL=http://host:port of the OpenCode server",
        ),
        (_, None) => {}
    }
    for (theirs, ours) in [
        ("RUNNER_IMAGE", "engines.docker.image"),
        ("RUNNER_CPU_LIMIT", "engines.docker.cpus"),
        ("RUNNER_MEMORY_LIMIT", "engines.docker.memory"),
    ] {
        if let Some(value) = reader.variable(theirs) {
            reader.imply(ours, value, theirs);
        }
    }
    let remote = enabled == Some(true);
    if remote && !chosen {
        reader.imply(
            "engine.default",
            "remote".to_owned(),
            "OPENCODE_SERVER_ENABLED",
        );
    }
    let wanted: Vec<&str> = CONTAINERS
        .into_iter()
        .filter(|name| reader.variable(name).is_some())
        .collect();
    if remote || chosen {
        return;
    }
    let asked = match enabled {
        Some(false) => Some("OPENCODE_SERVER_ENABLED=false"),
        Some(true) | None => wanted.first().copied(),
    };
    if let Some(asked) = asked {
        reader.imply("engine.default", "docker".to_owned(), asked);
    }
}

/// Whoever limited what a task takes must know when nothing does.
pub(super) fn limits(reader: &mut Reader, engine: &str) {
    if engine == "docker" {
        return;
    }
    for name in CONTAINERS {
        if reader.variable(name).is_some() {
            reader.note(
                Weight::Warning,
                name,
                "is not used: no container is started, and nothing limits what a task takes; another engine is chosen",
            );
        }
    }
}

/// Rooms are where people see and stop tasks: whoever relies on them must not find them silent.
fn rooms(reader: &mut Reader) {
    if let Some(enabled) = truth(reader, "MATRIX_ENABLED") {
        reader.imply("matrix.enabled", enabled.to_string(), "MATRIX_ENABLED");
    }
    for (theirs, ours) in ROOMS {
        if let Some(value) = reader.variable(theirs) {
            reader.imply(ours, value, theirs);
        }
    }
    for (name, why) in ROOMS_ELSEWHERE {
        if reader.variable(name).is_some() {
            reader.note(Weight::Remark, name, why);
        }
    }
}
