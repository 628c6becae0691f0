//! Puts the settings together: every setting is read here once, with its range and default, and rules across settings are checked.
//!
//! In: [`Sources`]. Out: [`Settings`], or [`Checked`] with all that was found out on the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chargehand_actors::ports::StopHow;
use toml::{Table, Value};

use super::reader::{Read, Reader};
use super::settings::{
    DataSettings, EngineSettings, EnginesSettings, LocalEngineSettings, LogFormat, LogSettings,
    RemoteEngineSettings, ServerSettings, Settings, TaskSettings,
};
use super::{
    Checked, ConfigError, Secret, SettingProblem, Sources, callers, docker, letta, matrix,
    original, upkeep,
};

impl Settings {
    /// Reads and checks everything.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        Self::check(sources).settings
    }

    /// As [`Self::load`], with where each value came from and what to know about it.
    pub fn check(sources: Sources) -> Checked {
        let Sources {
            file,
            path,
            env,
            flags,
        } = sources;
        let table: Table = match file.parse() {
            Ok(table) => table,
            Err(error) => {
                return Checked {
                    settings: Err(no_toml(&file, path.as_deref(), &error)),
                    file: path,
                    origins: BTreeMap::new(),
                    notes: Vec::new(),
                };
            }
        };
        let secrets = holds_secrets(&table);
        let mut reader = Reader::new(table, env, flags);
        let settings = read_all(&mut reader);
        rules(&settings, &mut reader);
        if let Some(path) = path.as_deref().filter(|_| secrets) {
            reader.note_rights(path);
        }
        let Read {
            problems,
            notes,
            origins,
        } = reader.finish();
        let settings = if problems.is_empty() {
            Ok(settings)
        } else {
            Err(ConfigError(problems))
        };
        Checked {
            settings,
            file: path,
            origins,
            notes,
        }
    }
}

/// Says where, and never shows the line: a secret may stand in it.
fn no_toml(text: &str, path: Option<&Path>, error: &toml::de::Error) -> ConfigError {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    let setting = path.map_or_else(
        || "the settings file".to_owned(),
        |path| path.display().to_string(),
    );
    ConfigError(vec![SettingProblem {
        setting,
        problem: format!("is no TOML: line {line}: {}", error.message()),
        allowed: "see config/chargehand.toml".to_owned(),
    }])
}

/// Whether a secret stands in the file itself, by the names of its entries.
fn holds_secrets(table: &Table) -> bool {
    table.iter().any(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let named = ["token", "password", "secret", "apikey", "api_key"]
            .iter()
            .any(|word| name.contains(word))
            || name.ends_with("_key");
        match value {
            Value::String(text) => named && !name.ends_with("_file") && !text.trim().is_empty(),
            Value::Table(inner) => holds_secrets(inner),
            Value::Array(items) => items
                .iter()
                .any(|item| item.as_table().is_some_and(holds_secrets)),
            _ => false,
        }
    })
}

fn read_all(reader: &mut Reader) -> Settings {
    original::apply(reader);
    let defaults = Settings::default();
    let default_engine = reader
        .text("engine.default")
        .unwrap_or(defaults.engine.default);
    original::limits(reader, &default_engine);
    // Where tasks are to run in containers, none gets out of them by naming another engine, unless the operator says so.
    let in_containers = default_engine == "docker";
    Settings {
        server: server(reader, defaults.server),
        auth: callers::auth(reader, &defaults.auth),
        data: data(reader, &defaults.data),
        tasks: tasks(reader, &defaults.tasks),
        watchdog: upkeep::watchdog(reader, defaults.watchdog),
        permissions: upkeep::permissions(reader),
        retention: upkeep::retention(reader, defaults.retention),
        engine: EngineSettings {
            default: default_engine,
            on_stop: reader.choice(
                "engine.on_stop",
                &[
                    ("leave_running", StopHow::LeaveRunning),
                    ("end_workers", StopHow::EndWorkers),
                ],
                defaults.engine.on_stop,
            ),
        },
        engines: EnginesSettings {
            local: local(reader, !in_containers),
            remote: remote(reader),
            docker: docker::docker(reader, in_containers),
        },
        setup: docker::setup(reader),
        log: LogSettings {
            format: reader.choice(
                "log.format",
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
                defaults.log.format,
            ),
            level: log_level(reader).unwrap_or(defaults.log.level),
        },
        letta: letta::read(reader),
        matrix: matrix::matrix(reader),
    }
}

fn server(reader: &mut Reader, defaults: ServerSettings) -> ServerSettings {
    ServerSettings {
        bind: reader
            .parsed::<SocketAddr>(
                "server.bind",
                "an address with port, such as 127.0.0.1:3500",
            )
            .unwrap_or(defaults.bind),
        allowed_hosts: reader.list("server.allowed_hosts"),
        allowed_origins: reader.list("server.allowed_origins"),
        max_body_bytes: size(reader.number(
            "server.max_body_bytes",
            65_536..=67_108_864,
            defaults.max_body_bytes as u64,
        )),
        max_sessions: size(reader.number(
            "server.max_sessions",
            1..=100_000,
            defaults.max_sessions as u64,
        )),
        session_idle: Duration::from_secs(reader.number(
            "server.session_idle_s",
            60..=604_800,
            defaults.session_idle.as_secs(),
        )),
        read_timeout: Duration::from_secs(reader.number(
            "server.read_timeout_s",
            1..=3_600,
            defaults.read_timeout.as_secs(),
        )),
        tool_prefix: letta::tool_prefix(reader),
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn data(reader: &mut Reader, defaults: &DataSettings) -> DataSettings {
    let dir = reader
        .path("data.dir")
        .or_else(|| {
            let base = reader.variable("XDG_DATA_HOME")?;
            Some(Path::new(&base).join("chargehand"))
        })
        .unwrap_or_else(|| reader.at_home(&defaults.dir.to_string_lossy()));
    let workdirs = reader
        .path("data.workdirs")
        .unwrap_or_else(|| dir.join("workdirs"));
    DataSettings { dir, workdirs }
}

fn tasks(reader: &mut Reader, defaults: &TaskSettings) -> TaskSettings {
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let max_running = reader.number("tasks.max_running", 1..=1_000, defaults.max_running.into());
    let per_caller = reader.number("tasks.max_running_per_caller", 1..=1_000, max_running);
    let seconds = |reader: &mut Reader, path, range, default: Duration| {
        Duration::from_secs(reader.number(path, range, default.as_secs()))
    };
    let max_queued = reader.number("tasks.max_queued", 1..=100_000, defaults.max_queued.into());
    let queued_per_caller = reader.number("tasks.max_queued_per_caller", 1..=100_000, max_queued);
    TaskSettings {
        max_running: small(max_running),
        max_running_per_caller: small(per_caller),
        max_queued: small(max_queued),
        max_queued_per_caller: small(queued_per_caller),
        default_timeout_ms: reader.number(
            "tasks.default_timeout_ms",
            1_000..=86_400_000,
            defaults.default_timeout_ms,
        ),
        max_timeout_ms: reader.number(
            "tasks.max_timeout_ms",
            1_000..=86_400_000,
            defaults.max_timeout_ms,
        ),
        idempotency_keep: Duration::from_secs(
            3_600
                * reader.number(
                    "tasks.idempotency_hours",
                    1..=720,
                    defaults.idempotency_keep.as_secs() / 3_600,
                ),
        ),
        start_timeout: seconds(
            reader,
            "tasks.start_timeout_s",
            5..=3_600,
            defaults.start_timeout,
        ),
        hard_deadline: seconds(
            reader,
            "tasks.hard_deadline_s",
            60..=604_800,
            defaults.hard_deadline,
        ),
        request_expiry: seconds(
            reader,
            "tasks.request_expiry_s",
            5..=86_400,
            defaults.request_expiry,
        ),
        max_resumes: small(reader.number("tasks.max_resumes", 0..=20, defaults.max_resumes.into())),
        stop_timeout: seconds(
            reader,
            "tasks.stop_timeout_s",
            1..=60,
            defaults.stop_timeout,
        ),
        allowed_sources: allowed_sources(reader),
        max_read_bytes: reader.number(
            "tasks.max_read_bytes",
            1_024..=1_000_000,
            defaults.max_read_bytes,
        ),
    }
}

fn allowed_sources(reader: &mut Reader) -> Option<Vec<PathBuf>> {
    const PATH: &str = "tasks.allowed_sources";
    let listed = reader.is_set(PATH);
    let directories: Vec<PathBuf> = reader
        .list(PATH)
        .iter()
        .map(|text| reader.at_home(text))
        .collect();
    for directory in directories.iter().filter(|path| !path.is_absolute()) {
        reader.problem(
            PATH,
            format!("contains \"{}\"", directory.display()),
            "absolute paths",
        );
    }
    listed.then_some(directories)
}

/// What is logged. Tried as it will be used, so that a check refuses what a start would.
fn log_level(reader: &mut Reader) -> Option<String> {
    const PATH: &str = "log.level";
    let level = reader.text(PATH)?;
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&level) {
        reader.problem(
            PATH,
            format!("\"{level}\" is no log filter ({error})"),
            "such as info, debug or info,chargehand=debug",
        );
    }
    Some(level)
}

fn local(reader: &mut Reader, unless_said: bool) -> Option<LocalEngineSettings> {
    let defaults = LocalEngineSettings::default();
    let enabled = reader.flag("engines.local.enabled", unless_said);
    let engine = LocalEngineSettings {
        opencode: reader.path("engines.local.opencode"),
        version: installed_version(reader).unwrap_or(defaults.version),
        model: model(reader, "engines.local.model"),
        small_model: model(reader, "engines.local.small_model"),
        opencode_config: opencode_config(reader, "engines.local.opencode_config"),
        env: worker_env(reader, "engines.local.env"),
        max_directories: u32::try_from(reader.number(
            "engines.local.max_directories",
            1..=10_000,
            defaults.max_directories.into(),
        ))
        .unwrap_or(defaults.max_directories),
        max_memory: docker::size(
            reader,
            "engines.local.max_memory",
            256 << 20,
            defaults.max_memory,
        ),
    };
    enabled.then_some(engine)
}

/// The version to install. It becomes a part of a path and of what npm is asked for, so it must be exact.
fn installed_version(reader: &mut Reader) -> Option<String> {
    const PATH: &str = "engines.local.version";
    let version = reader.text(PATH)?;
    let (numbers, suffix) = version.split_once('-').unwrap_or((&version, "x"));
    let numbers: Option<Vec<u32>> = numbers.split('.').map(|part| part.parse().ok()).collect();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let sound = numbers.is_some_and(|numbers| numbers.len() == 3 && numbers >= vec![1, 3, 0])
        && version.bytes().all(plain)
        && !suffix.is_empty();
    if !sound {
        reader.problem(
            PATH,
            format!("is \"{version}\""),
            "an exact version of OpenCode, 1.3.0 or newer, such as 1.18.33",
        );
    }
    Some(version)
}

pub(super) fn opencode_config(
    reader: &mut Reader,
    path: &'static str,
) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(reader.table(path)) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    }
}

pub(super) fn model(reader: &mut Reader, path: &'static str) -> Option<String> {
    let model = reader.text(path)?;
    let sound = model
        .split_once('/')
        .is_some_and(|(provider, model)| !provider.is_empty() && !model.is_empty());
    if !sound {
        reader.problem(path, format!("is \"{model}\""), "provider/model");
    }
    Some(model)
}

pub(super) fn worker_env(reader: &mut Reader, path: &'static str) -> BTreeMap<String, Secret> {
    let mut env = BTreeMap::new();
    for (name, value) in reader.table(path) {
        let at = format!("{path}.{name}");
        let file = value
            .as_table()
            .filter(|table| table.len() == 1)
            .and_then(|table| table.get("file"))
            .and_then(Value::as_str)
            .map(|file| reader.at_home(file));
        let secret = match (value, file) {
            (Value::String(text), _) => Some(Secret::new(text)),
            (_, Some(file)) => reader.secret_file(&at, &file),
            _ => {
                reader.problem(
                    at,
                    "is neither text nor file",
                    "\"value\" or { file = \"path\" }",
                );
                None
            }
        };
        if let Some(secret) = secret {
            env.insert(name, secret);
        }
    }
    env
}

fn remote(reader: &mut Reader) -> Option<RemoteEngineSettings> {
    let url = reader
        .parsed::<url::Url>(
            "engines.remote.url",
            "an http or https address, such as http://10.0.0.5:4096",
        )
        .filter(|url| {
            let web = matches!(url.scheme(), "http" | "https") && url.host().is_some();
            let bare = url.username().is_empty() && url.password().is_none();
            if !web {
                reader.problem(
                    "engines.remote.url",
                    "is no web address",
                    "http:// or https://",
                );
            } else if !bare {
                reader.problem(
                    "engines.remote.url",
                    "contains credentials",
                    "engines.remote.username and engines.remote.password",
                );
            }
            web && bare
        });
    let username = reader
        .text("engines.remote.username")
        .unwrap_or_else(|| "opencode".to_owned());
    let password = reader.secret("engines.remote.password", "engines.remote.password_file");
    let mut path_map = BTreeMap::new();
    for (ours, theirs) in reader.table("engines.remote.path_map") {
        match theirs.as_str() {
            Some(theirs) if ours.starts_with('/') && theirs.starts_with('/') => {
                path_map.insert(PathBuf::from(ours), PathBuf::from(theirs));
            }
            _ => reader.problem(
                format!("engines.remote.path_map.\"{ours}\""),
                "is no pair of absolute paths",
                "\"/our/path\" = \"/their/path\"",
            ),
        }
    }
    if path_map.len() > 1 {
        reader.problem(
            "engines.remote.path_map",
            "has more than one pair",
            "the one pair that holds data.workdirs",
        );
    }
    let directory = reader.text("engines.remote.directory");
    let absolute = directory
        .as_ref()
        .is_none_or(|directory| directory.starts_with('/'));
    if !absolute {
        reader.problem(
            "engines.remote.directory",
            "is no absolute path",
            "a directory on the OpenCode server, such as /srv/project",
        );
    } else if directory.is_some() && !path_map.is_empty() {
        reader.problem(
            "engines.remote.directory",
            "is set together with engines.remote.path_map",
            "only one of them: with path_map every task gets a workdir of its own",
        );
    }
    Some(RemoteEngineSettings {
        url: url?,
        username,
        password,
        path_map,
        directory,
    })
}

/// Rules that join several settings.
fn rules(settings: &Settings, reader: &mut Reader) {
    if settings.auth.tokens.is_empty() && !settings.server.bind.ip().is_loopback() {
        reader.problem(
            "server.bind",
            format!(
                "is {}, which others can reach, and no token is configured",
                settings.server.bind
            ),
            "127.0.0.1, or a token in auth.tokens (CHARGEHAND_AUTH_TOKEN or CHARGEHAND_AUTH_TOKEN_FILE for one token)",
        );
    }
    let engines = settings.engine_names();
    if !engines.contains(&settings.engine.default.as_str()) {
        reader.problem(
            "engine.default",
            format!(
                "is \"{}\", which is not configured",
                settings.engine.default
            ),
            format!("one of the configured engines: {}", engines.join(", ")),
        );
    }
    if settings.tasks.default_timeout_ms > settings.tasks.max_timeout_ms {
        reader.problem(
            "tasks.default_timeout_ms",
            format!("is {}", settings.tasks.default_timeout_ms),
            format!(
                "at most tasks.max_timeout_ms, {}",
                settings.tasks.max_timeout_ms
            ),
        );
    }
    for (index, token) in settings.auth.tokens.iter().enumerate() {
        if token.token.expose().len() < 16 {
            reader.problem(
                format!("token \"{}\"", token.name),
                "is shorter than 16 bytes",
                "a long random text, such as from `openssl rand -hex 32`",
            );
        }
        let sendable = token
            .token
            .expose()
            .bytes()
            .all(|byte| byte.is_ascii_graphic());
        if !sendable {
            reader.problem(
                format!("token \"{}\"", token.name),
                "contains a space, a line break or a character that is not ASCII: no client could send it",
                "letters, digits and signs, such as from `openssl rand -hex 32`",
            );
        }
        let twice = settings
            .auth
            .tokens
            .iter()
            .take(index)
            .any(|other| other.name == token.name || other.token == token.token);
        if twice {
            reader.problem(
                format!("token \"{}\"", token.name),
                "is there twice",
                "a name and a token of its own for each",
            );
        }
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
