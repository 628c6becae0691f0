//! The settings in force, for a person: each as TOML, secrets replaced.
//!
//! In: [`Settings`]. Out: a value for each path of a setting. Every field is named here, so that a new one cannot be forgotten.

use std::collections::BTreeMap;
use std::path::Path;

use chargehand_actors::command::PermissionRule;
use chargehand_actors::ports::StopHow;
use toml::{Table, Value};

use super::settings::{
    AuthSettings, CallerLimitSettings, DataSettings, EngineSettings, EnginesSettings,
    LocalEngineSettings, LogFormat, LogSettings, PermissionSettings, RemoteEngineSettings,
    RetentionSettings, ServerSettings, Settings, TaskSettings, TokenRole, TokenSettings,
    WatchdogSettings,
};
use super::{docker, letta};

/// Stands for a secret.
pub const REDACTED: &str = "«redacted»";

/// Settings that give a secret which is shown as part of another one.
pub const SECRETS: [&str; 6] = [
    "auth.token",
    "auth.token_file",
    "engines.remote.password_file",
    "letta.token_file",
    "matrix.access_token_file",
    "matrix.password_file",
];

/// Values by path. What is not set and has no default is not there.
pub(super) type Values = BTreeMap<&'static str, Value>;

impl Settings {
    /// Every setting that has a value, by its path.
    pub fn shown(&self) -> BTreeMap<&'static str, Value> {
        let Self {
            server,
            auth,
            data,
            tasks,
            watchdog,
            permissions,
            retention,
            engine,
            engines,
            setup,
            log,
            letta,
            matrix,
        } = self;
        let mut values = Values::new();
        show_server(&mut values, server);
        show_auth(&mut values, auth);
        show_data(&mut values, data);
        show_tasks(&mut values, tasks);
        show_watchdog(&mut values, watchdog);
        show_permissions(&mut values, permissions);
        show_retention(&mut values, retention);
        show_engine(&mut values, engine);
        show_engines(&mut values, engines);
        let commands =
            |(source, commands): &(String, Vec<String>)| (source.clone(), list(commands));
        let rules: Table = setup.iter().map(commands).collect();
        values.insert("worker.setup", Value::Table(rules));
        show_log(&mut values, log);
        letta::show(&mut values, letta.as_ref());
        values.insert("matrix.enabled", Value::Boolean(matrix.is_some()));
        if let Some(matrix) = matrix {
            matrix.show(&mut values);
        }
        values
    }
}

pub(super) fn text(text: impl ToString) -> Value {
    Value::String(text.to_string())
}

fn path(path: &Path) -> Value {
    text(path.display())
}

pub(super) fn number(number: impl TryInto<i64>) -> Value {
    Value::Integer(number.try_into().unwrap_or(i64::MAX))
}

pub(super) fn list(items: &[String]) -> Value {
    Value::Array(items.iter().map(text).collect())
}

fn show_server(values: &mut Values, settings: &ServerSettings) {
    let ServerSettings {
        bind,
        allowed_hosts,
        allowed_origins,
        max_body_bytes,
        max_sessions,
        session_idle,
        read_timeout,
        tool_prefix,
    } = settings;
    values.extend([
        ("server.bind", text(bind)),
        ("server.allowed_hosts", list(allowed_hosts)),
        ("server.allowed_origins", list(allowed_origins)),
        ("server.max_body_bytes", number(*max_body_bytes)),
        ("server.max_sessions", number(*max_sessions)),
        ("server.session_idle_s", number(session_idle.as_secs())),
        ("server.read_timeout_s", number(read_timeout.as_secs())),
        ("server.tool_prefix", text(tool_prefix)),
    ]);
}

fn show_auth(values: &mut Values, settings: &AuthSettings) {
    let AuthSettings {
        tokens,
        calls_per_minute,
        max_sessions_per_token,
    } = settings;
    values.extend([
        (
            "auth.tokens",
            Value::Array(tokens.iter().map(token).collect()),
        ),
        ("auth.calls_per_minute", number(*calls_per_minute)),
        (
            "auth.max_sessions_per_token",
            number(*max_sessions_per_token),
        ),
    ]);
}

fn token(settings: &TokenSettings) -> Value {
    let TokenSettings {
        name,
        token: _,
        file,
        role,
        agents,
        limits,
    } = settings;
    let CallerLimitSettings {
        max_running,
        max_queued,
        calls_per_minute,
        max_sessions,
    } = limits;
    let role = match role {
        TokenRole::Caller => "caller",
        TokenRole::Operator => "operator",
    };
    let mut table = Table::new();
    table.insert("name".to_owned(), text(name));
    match file {
        Some(file) => table.insert("token_file".to_owned(), path(file)),
        None => table.insert("token".to_owned(), text(REDACTED)),
    };
    table.insert("role".to_owned(), text(role));
    if !agents.is_empty() {
        table.insert("agents".to_owned(), list(agents));
    }
    for (name, limit) in [
        ("max_running", max_running),
        ("max_queued", max_queued),
        ("calls_per_minute", calls_per_minute),
        ("max_sessions", max_sessions),
    ] {
        if let Some(limit) = limit {
            table.insert(name.to_owned(), number(*limit));
        }
    }
    Value::Table(table)
}

fn show_data(values: &mut Values, settings: &DataSettings) {
    let DataSettings { dir, workdirs } = settings;
    values.extend([("data.dir", path(dir)), ("data.workdirs", path(workdirs))]);
}

fn show_tasks(values: &mut Values, settings: &TaskSettings) {
    let TaskSettings {
        max_running,
        max_running_per_caller,
        max_queued,
        max_queued_per_caller,
        default_timeout_ms,
        max_timeout_ms,
        idempotency_keep,
        start_timeout,
        hard_deadline,
        request_expiry,
        max_resumes,
        stop_timeout,
        allowed_sources,
        max_read_bytes,
    } = settings;
    values.extend([
        ("tasks.max_running", number(*max_running)),
        (
            "tasks.max_running_per_caller",
            number(*max_running_per_caller),
        ),
        ("tasks.max_queued", number(*max_queued)),
        (
            "tasks.max_queued_per_caller",
            number(*max_queued_per_caller),
        ),
        ("tasks.default_timeout_ms", number(*default_timeout_ms)),
        ("tasks.max_timeout_ms", number(*max_timeout_ms)),
        (
            "tasks.idempotency_hours",
            number(idempotency_keep.as_secs() / 3_600),
        ),
        ("tasks.start_timeout_s", number(start_timeout.as_secs())),
        ("tasks.hard_deadline_s", number(hard_deadline.as_secs())),
        ("tasks.request_expiry_s", number(request_expiry.as_secs())),
        ("tasks.max_resumes", number(*max_resumes)),
        ("tasks.stop_timeout_s", number(stop_timeout.as_secs())),
        ("tasks.max_read_bytes", number(*max_read_bytes)),
    ]);
    if let Some(allowed) = allowed_sources {
        let directories = allowed.iter().map(|directory| path(directory)).collect();
        values.insert("tasks.allowed_sources", Value::Array(directories));
    }
}

fn show_watchdog(values: &mut Values, settings: &WatchdogSettings) {
    let WatchdogSettings {
        silence_warn,
        silence_nudge,
        silence_fail,
        max_steps,
        max_provider_retries,
        max_unfinished,
    } = settings;
    values.extend([
        ("watchdog.silence_warn_s", number(silence_warn.as_secs())),
        ("watchdog.silence_nudge_s", number(silence_nudge.as_secs())),
        ("watchdog.silence_fail_s", number(silence_fail.as_secs())),
        ("watchdog.max_steps", number(*max_steps)),
        (
            "watchdog.max_provider_retries",
            number(*max_provider_retries),
        ),
        ("watchdog.max_unfinished", number(*max_unfinished)),
    ]);
}

fn show_permissions(values: &mut Values, settings: &PermissionSettings) {
    let PermissionSettings { allow, ask, deny } = settings;
    let rules = |rules: &[PermissionRule]| Value::Array(rules.iter().map(rule).collect());
    values.extend([
        ("permissions.allow", rules(allow)),
        ("permissions.ask", rules(ask)),
        ("permissions.deny", rules(deny)),
    ]);
}

/// As it is written in the file.
fn rule(rule: &PermissionRule) -> Value {
    let PermissionRule {
        permission,
        pattern,
        action: _,
    } = rule;
    match pattern.as_str() {
        "*" => text(permission),
        pattern => text(format!("{permission}:{pattern}")),
    }
}

fn show_retention(values: &mut Values, settings: &RetentionSettings) {
    const DAY: u64 = 86_400;
    let RetentionSettings {
        tasks,
        files,
        min_free_bytes,
    } = settings;
    values.extend([
        ("retention.tasks_days", number(tasks.as_secs() / DAY)),
        ("retention.files_days", number(files.as_secs() / DAY)),
        ("retention.min_free_mb", number(min_free_bytes >> 20)),
    ]);
}

fn show_engine(values: &mut Values, settings: &EngineSettings) {
    let EngineSettings { default, on_stop } = settings;
    let on_stop = match on_stop {
        StopHow::LeaveRunning => "leave_running",
        StopHow::EndWorkers => "end_workers",
    };
    values.extend([
        ("engine.default", text(default)),
        ("engine.on_stop", text(on_stop)),
    ]);
}

fn show_engines(values: &mut Values, settings: &EnginesSettings) {
    let EnginesSettings {
        local,
        remote,
        docker,
    } = settings;
    values.insert("engines.local.enabled", Value::Boolean(local.is_some()));
    if let Some(local) = local {
        show_local(values, local);
    }
    if let Some(remote) = remote {
        show_remote(values, remote);
    }
    values.insert("engines.docker.enabled", Value::Boolean(docker.is_some()));
    if let Some(docker) = docker {
        super::docker::show(values, docker);
    }
}

fn show_local(values: &mut Values, settings: &LocalEngineSettings) {
    let LocalEngineSettings {
        opencode,
        version,
        model,
        small_model,
        opencode_config,
        env,
        max_directories,
        max_memory,
    } = settings;
    // Providers' keys may stand anywhere in OpenCode's configuration and in the worker's variables.
    let config = opencode_config
        .keys()
        .map(|name| (name.clone(), text(REDACTED)));
    let env = env.keys().map(|name| (name.clone(), text(REDACTED)));
    values.extend([
        ("engines.local.version", text(version)),
        (
            "engines.local.opencode_config",
            Value::Table(config.collect()),
        ),
        ("engines.local.env", Value::Table(env.collect())),
        (
            "engines.local.max_directories",
            Value::Integer(i64::from(*max_directories)),
        ),
        (
            "engines.local.max_memory",
            text(docker::written(*max_memory)),
        ),
    ]);
    let program = opencode.as_deref().map(path);
    for (name, value) in [
        ("engines.local.opencode", program),
        ("engines.local.model", model.as_ref().map(text)),
        ("engines.local.small_model", small_model.as_ref().map(text)),
    ] {
        if let Some(value) = value {
            values.insert(name, value);
        }
    }
}

fn show_remote(values: &mut Values, settings: &RemoteEngineSettings) {
    let RemoteEngineSettings {
        url,
        username,
        password,
        path_map,
        directory,
    } = settings;
    let pairs = path_map
        .iter()
        .map(|(ours, theirs)| (ours.display().to_string(), path(theirs)));
    values.extend([
        ("engines.remote.url", text(url)),
        ("engines.remote.username", text(username)),
        ("engines.remote.path_map", Value::Table(pairs.collect())),
    ]);
    if password.is_some() {
        values.insert("engines.remote.password", text(REDACTED));
    }
    if let Some(directory) = directory {
        values.insert("engines.remote.directory", text(directory));
    }
}

fn show_log(values: &mut Values, settings: &LogSettings) {
    let LogSettings { format, level } = settings;
    let format = match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    values.extend([("log.format", text(format)), ("log.level", text(level))]);
}
