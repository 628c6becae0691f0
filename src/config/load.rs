//! Puts the settings together: every setting is read here once, with its range and default, and rules across settings are checked.
//!
//! In: [`Sources`]. Out: [`Settings`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chargehand_actors::ports::StopHow;
use toml::{Table, Value};

use super::reader::Reader;
use super::settings::{
    AuthSettings, DataSettings, EngineSettings, EnginesSettings, LocalEngineSettings, LogFormat,
    LogSettings, RemoteEngineSettings, ServerSettings, Settings, TaskSettings, TokenRole,
    TokenSettings,
};
use super::{ConfigError, Secret, SettingProblem, original};

/// Where settings come from. Flags win over the environment, which wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file's content.
    pub file: String,
    /// Environment variables: `CHARGEHAND_<SECTION>_<NAME>` and the original's names.
    pub env: BTreeMap<String, String>,
    /// Flags: path of the setting -> value.
    pub flags: BTreeMap<String, String>,
}

impl Sources {
    /// The file (given, or `CHARGEHAND_CONFIG`, or `chargehand/chargehand.toml` in the user's configuration directory if it
    /// is there) and the environment of this process.
    pub fn of_process(
        file: Option<&Path>,
        flags: BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = file
            .map(Path::to_path_buf)
            .or_else(|| env.get("CHARGEHAND_CONFIG").map(PathBuf::from));
        let text = match named {
            Some(path) => read(&path)?,
            None => match usual_file(&env).filter(|path| path.exists()) {
                Some(path) => read(&path)?,
                None => String::new(),
            },
        };
        Ok(Self {
            file: text,
            env,
            flags,
        })
    }
}

fn usual_file(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let base = env
        .get("XDG_CONFIG_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| env.get("HOME").map(|home| Path::new(home).join(".config")))?;
    Some(base.join("chargehand/chargehand.toml"))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| {
        ConfigError(vec![SettingProblem {
            setting: path.display().to_string(),
            problem: format!("cannot be read ({error})"),
            allowed: "a readable TOML file".to_owned(),
        }])
    })
}

impl Settings {
    /// Reads and checks everything.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let file: Table = sources.file.parse().map_err(|error: toml::de::Error| {
            ConfigError(vec![SettingProblem {
                setting: "the settings file".to_owned(),
                problem: format!("is no TOML: {}", error.message()),
                allowed: "see config/chargehand.toml".to_owned(),
            }])
        })?;
        let mut reader = Reader::new(file, sources.env, sources.flags);
        let settings = read_all(&mut reader);
        rules(&settings, &mut reader);
        reader.finish()?;
        Ok(settings)
    }
}

fn read_all(reader: &mut Reader) -> Settings {
    original::apply(reader);
    let defaults = Settings::default();
    Settings {
        server: server(reader, defaults.server),
        auth: auth(reader),
        data: data(reader, &defaults.data),
        tasks: tasks(reader, &defaults.tasks),
        engine: EngineSettings {
            default: reader
                .text("engine.default")
                .unwrap_or(defaults.engine.default),
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
            local: local(reader),
            remote: remote(reader),
        },
        log: LogSettings {
            format: reader.choice(
                "log.format",
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
                defaults.log.format,
            ),
            level: reader.text("log.level").unwrap_or(defaults.log.level),
        },
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
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn auth(reader: &mut Reader) -> AuthSettings {
    let mut tokens: Vec<TokenSettings> = reader
        .tables("auth.tokens")
        .into_iter()
        .enumerate()
        .filter_map(|(index, table)| token(reader, index, table))
        .collect();
    if let Some(secret) = reader.secret("auth.token", "auth.token_file") {
        tokens.push(TokenSettings {
            name: "default".to_owned(),
            token: secret,
            role: TokenRole::Operator,
        });
    }
    AuthSettings { tokens }
}

fn token(reader: &mut Reader, index: usize, mut table: Table) -> Option<TokenSettings> {
    let at = |field: &str| format!("auth.tokens[{index}].{field}");
    let mut text = |field: &str| match table.remove(field) {
        Some(Value::String(text)) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        _ => None,
    };
    let (name, token, file, role) = (
        text("name"),
        text("token"),
        text("token_file"),
        text("role"),
    );
    let name = name.filter(|name| name.chars().count() <= 64 && !name.contains('/'));
    if name.is_none() {
        reader.problem(
            at("name"),
            "is missing",
            "a text of 1 to 64 characters without /",
        );
    }
    let token = match (token, file) {
        (Some(token), None) => Some(Secret::new(token)),
        (None, Some(file)) => reader.secret_file(&at("token_file"), Path::new(&file)),
        _ => {
            reader.problem(
                at("token"),
                "is missing, or given twice",
                "exactly one of token and token_file",
            );
            None
        }
    };
    let role = match role.as_deref() {
        None | Some("caller") => Some(TokenRole::Caller),
        Some("operator") => Some(TokenRole::Operator),
        Some(other) => {
            reader.problem(at("role"), format!("is \"{other}\""), "caller or operator");
            None
        }
    };
    for field in table.keys() {
        reader.problem(at(field), "is no setting", "name, token, token_file, role");
    }
    Some(TokenSettings {
        name: name?,
        token: token?,
        role: role?,
    })
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
    TaskSettings {
        max_running: small(max_running),
        max_running_per_caller: small(per_caller),
        max_queued: small(reader.number(
            "tasks.max_queued",
            1..=100_000,
            defaults.max_queued.into(),
        )),
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
        max_unfinished: small(reader.number(
            "tasks.max_unfinished",
            1..=100,
            defaults.max_unfinished.into(),
        )),
        stop_timeout: seconds(
            reader,
            "tasks.stop_timeout_s",
            1..=60,
            defaults.stop_timeout,
        ),
    }
}

fn local(reader: &mut Reader) -> Option<LocalEngineSettings> {
    let defaults = LocalEngineSettings::default();
    let enabled = reader.flag("engines.local.enabled", true);
    let engine = LocalEngineSettings {
        opencode: reader.path("engines.local.opencode"),
        version: reader
            .text("engines.local.version")
            .unwrap_or(defaults.version),
        model: model(reader, "engines.local.model"),
        small_model: model(reader, "engines.local.small_model"),
        opencode_config: match serde_json::to_value(reader.table("engines.local.opencode_config")) {
            Ok(serde_json::Value::Object(map)) => map,
            _ => defaults.opencode_config,
        },
        env: worker_env(reader),
    };
    enabled.then_some(engine)
}

fn model(reader: &mut Reader, path: &'static str) -> Option<String> {
    let model = reader.text(path)?;
    let sound = model
        .split_once('/')
        .is_some_and(|(provider, model)| !provider.is_empty() && !model.is_empty());
    if !sound {
        reader.problem(path, format!("is \"{model}\""), "provider/model");
    }
    Some(model)
}

fn worker_env(reader: &mut Reader) -> BTreeMap<String, Secret> {
    let mut env = BTreeMap::new();
    for (name, value) in reader.table("engines.local.env") {
        let at = format!("engines.local.env.{name}");
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
