//! The settings as types, and what follows from them.
//!
//! In: values read by [`super::load`]. Out: plain data for the edge, the adapters and the tree.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chargehand_actors::id::InstanceId;
use chargehand_actors::ports::StopHow;
use chargehand_actors::tree::TreeSettings;

use super::Secret;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[server]`
    pub server: ServerSettings,
    /// `[auth]`
    pub auth: AuthSettings,
    /// `[data]`
    pub data: DataSettings,
    /// `[tasks]`
    pub tasks: TaskSettings,
    /// `[engine]`
    pub engine: EngineSettings,
    /// `[engines.*]`
    pub engines: EnginesSettings,
    /// `[log]`
    pub log: LogSettings,
}

/// `[server]`: where and for whom Chargehand listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Address and port.
    pub bind: SocketAddr,
    /// Values of the `Host` header that are served, besides loopback with the port.
    pub allowed_hosts: Vec<String>,
    /// Values of the `Origin` header that are served, besides loopback with the port.
    pub allowed_origins: Vec<String>,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// MCP sessions at once.
    pub max_sessions: usize,
}

/// `[auth]`: who may speak.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthSettings {
    /// The tokens; without any, only loopback is served.
    pub tokens: Vec<TokenSettings>,
}

/// One bearer token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// Its name: owner of the tasks made with it.
    pub name: String,
    /// The token itself.
    pub token: Secret,
    /// What it may do.
    pub role: TokenRole,
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRole {
    /// Its own tasks.
    Caller,
    /// Every task and the debug endpoint.
    Operator,
}

/// `[data]`: where Chargehand keeps what it must not lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSettings {
    /// The instance's directory: journal, outputs, worker records.
    pub dir: PathBuf,
    /// Where tasks work.
    pub workdirs: PathBuf,
}

/// `[tasks]`: limits and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSettings {
    /// Tasks that run at once.
    pub max_running: u32,
    /// Tasks of one caller that run at once.
    pub max_running_per_caller: u32,
    /// Tasks that wait at once.
    pub max_queued: u32,
    /// Running time of a task that names none.
    pub default_timeout_ms: u64,
    /// Longest running time that a task may ask for.
    pub max_timeout_ms: u64,
    /// How long an idempotency key is kept.
    pub idempotency_keep: Duration,
    /// From slot to accepted prompt.
    pub start_timeout: Duration,
    /// Longest life after the start.
    pub hard_deadline: Duration,
    /// How long a question of the worker stays open.
    pub request_expiry: Duration,
    /// How often a lost run is continued.
    pub max_resumes: u32,
    /// Model steps without a proper end that are taken for an endless loop.
    pub max_unfinished: u32,
    /// How long each actor may take to stop.
    pub stop_timeout: Duration,
}

/// `[engine]`: which engine runs tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// The engine of tasks that name none.
    pub default: String,
    /// What happens to workers when Chargehand stops.
    pub on_stop: StopHow,
}

/// `[engines.*]`
#[derive(Clone, Debug, PartialEq)]
pub struct EnginesSettings {
    /// `[engines.local]`, when enabled.
    pub local: Option<LocalEngineSettings>,
    /// `[engines.remote]`, when it has a URL.
    pub remote: Option<RemoteEngineSettings>,
}

/// `[engines.local]`: an OpenCode of our own.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalEngineSettings {
    /// The program; none = searched in PATH, else installed.
    pub opencode: Option<PathBuf>,
    /// The version that is installed where none is found.
    pub version: String,
    /// Default model, provider/model.
    pub model: Option<String>,
    /// Model for titles and summaries, provider/model.
    pub small_model: Option<String>,
    /// OpenCode's own configuration, passed through as it is.
    pub opencode_config: serde_json::Map<String, serde_json::Value>,
    /// Environment variables of the worker; nothing else is inherited.
    pub env: BTreeMap<String, Secret>,
}

/// `[engines.remote]`: an OpenCode server of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEngineSettings {
    /// Its address.
    pub url: url::Url,
    /// For Basic auth.
    pub username: String,
    /// For Basic auth, if it asks for it.
    pub password: Option<Secret>,
    /// Our path -> the server's path of the same directory.
    pub path_map: BTreeMap<PathBuf, PathBuf>,
    /// Without `path_map`: the directory on the server that tasks work in; none = the one that the server works in.
    pub directory: Option<String>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// How lines look.
    pub format: LogFormat,
    /// What is logged: a level, or directives such as `info,chargehand=debug`.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Settings {
    /// The tree's part of the settings.
    pub fn tree(&self, instance: InstanceId) -> TreeSettings {
        TreeSettings {
            instance,
            max_running: self.tasks.max_running,
            max_running_per_caller: self.tasks.max_running_per_caller,
            max_queued: self.tasks.max_queued,
            idempotency_keep: self.tasks.idempotency_keep,
            start_timeout: self.tasks.start_timeout,
            hard_deadline: self.tasks.hard_deadline,
            request_expiry: self.tasks.request_expiry,
            max_resumes: self.tasks.max_resumes,
            max_unfinished: self.tasks.max_unfinished,
            stop_timeout: self.tasks.stop_timeout,
        }
    }

    /// Names of the engines that are configured.
    pub fn engine_names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.engines.local.is_some() {
            names.push("local");
        }
        if self.engines.remote.is_some() {
            names.push("remote");
        }
        names
    }
}

impl Default for Settings {
    /// What holds when nothing is set and there is no home directory.
    fn default() -> Self {
        let tree = TreeSettings::default();
        Self {
            server: ServerSettings {
                bind: SocketAddr::from(([127, 0, 0, 1], 3500)),
                allowed_hosts: Vec::new(),
                allowed_origins: Vec::new(),
                max_body_bytes: 4 * 1024 * 1024,
                max_sessions: 1_000,
            },
            auth: AuthSettings::default(),
            data: DataSettings {
                dir: PathBuf::from("~/.local/share/chargehand"),
                workdirs: PathBuf::from("~/.local/share/chargehand/workdirs"),
            },
            tasks: TaskSettings {
                max_running: tree.max_running,
                max_running_per_caller: tree.max_running_per_caller,
                max_queued: tree.max_queued,
                default_timeout_ms: 300_000,
                max_timeout_ms: 86_400_000,
                idempotency_keep: tree.idempotency_keep,
                start_timeout: tree.start_timeout,
                hard_deadline: tree.hard_deadline,
                request_expiry: tree.request_expiry,
                max_resumes: tree.max_resumes,
                max_unfinished: tree.max_unfinished,
                stop_timeout: tree.stop_timeout,
            },
            engine: EngineSettings {
                default: "local".to_owned(),
                on_stop: StopHow::LeaveRunning,
            },
            engines: EnginesSettings {
                local: Some(LocalEngineSettings::default()),
                remote: None,
            },
            log: LogSettings {
                format: LogFormat::Text,
                level: "info".to_owned(),
            },
        }
    }
}

impl Default for LocalEngineSettings {
    fn default() -> Self {
        Self {
            opencode: None,
            version: "1.18.33".to_owned(),
            model: None,
            small_model: None,
            opencode_config: serde_json::Map::new(),
            env: BTreeMap::new(),
        }
    }
}
