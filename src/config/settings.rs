//! The settings as types, and what follows from them.
//!
//! In: values read by [`super::load`]. Out: plain data for the edge, the adapters and the tree.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chargehand_actors::command::PermissionRule;
use chargehand_actors::id::InstanceId;
use chargehand_actors::ports::StopHow;
use chargehand_actors::tree::{CallerLimits, RoomSettings, TreeSettings};

use super::{DockerEngineSettings, LettaSettings, MatrixSettings, Secret};

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
    /// `[watchdog]`
    pub watchdog: WatchdogSettings,
    /// `[permissions]`
    pub permissions: PermissionSettings,
    /// `[retention]`
    pub retention: RetentionSettings,
    /// `[engine]`
    pub engine: EngineSettings,
    /// `[engines.*]`
    pub engines: EnginesSettings,
    /// `[worker]`: pattern of a source -> commands run before the first prompt, in containers.
    pub setup: Vec<(String, Vec<String>)>,
    /// `[log]`
    pub log: LogSettings,
    /// `[letta]`, when it has a URL.
    pub letta: Option<LettaSettings>,
    /// `[matrix]`, when it is enabled.
    pub matrix: Option<MatrixSettings>,
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
    /// A session that was silent for this long is closed.
    pub session_idle: Duration,
    /// How long a client may take to send a request's head, and its body.
    pub read_timeout: Duration,
    /// What the names of the tools begin with.
    pub tool_prefix: String,
}

/// `[auth]`: who may speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSettings {
    /// The tokens; without any, only loopback is served.
    pub tokens: Vec<TokenSettings>,
    /// Tool calls a minute of one token; 0 = no limit.
    pub calls_per_minute: u32,
    /// MCP sessions of one token at once.
    pub max_sessions_per_token: u32,
}

/// One bearer token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// Its name: owner of the tasks made with it.
    pub name: String,
    /// The token itself.
    pub token: Secret,
    /// The file that it was read from, which is read again when it changes.
    pub file: Option<PathBuf>,
    /// What it may do.
    pub role: TokenRole,
    /// The only agents that may speak through it (agent_id and X-Agent-Id); empty = any.
    pub agents: Vec<String>,
    /// Its limits, where they differ from everybody's.
    pub limits: CallerLimitSettings,
}

/// Limits of one token, where they differ from `[tasks]` and `[auth]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallerLimitSettings {
    /// Tasks of each of its callers that run at once.
    pub max_running: Option<u32>,
    /// Tasks of each of its callers that wait at once.
    pub max_queued: Option<u32>,
    /// Tool calls a minute.
    pub calls_per_minute: Option<u32>,
    /// MCP sessions at once.
    pub max_sessions: Option<u32>,
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
    /// Tasks of one caller that wait at once.
    pub max_queued_per_caller: u32,
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
    /// How long each actor may take to stop.
    pub stop_timeout: Duration,
    /// Directories on this machine that a task may be a copy of or clone from (they and what is below); `None` = any where
    /// only this machine's own user can call, none where others can.
    pub allowed_sources: Option<Vec<PathBuf>>,
    /// Bytes of a file that one call may read.
    pub max_read_bytes: u64,
}

/// `[watchdog]`: what ends a run that does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchdogSettings {
    /// A silent run is warned about after this; zero = never.
    pub silence_warn: Duration,
    /// A silent run is asked to go on after this; zero = never.
    pub silence_nudge: Duration,
    /// A silent run is ended after this; zero = never.
    pub silence_fail: Duration,
    /// Model steps of a task; 0 = no limit.
    pub max_steps: u32,
    /// How often in a row the provider may make the worker wait; 0 = no limit.
    pub max_provider_retries: u32,
    /// Model steps without a proper end that are taken for an endless loop.
    pub max_unfinished: u32,
}

/// `[permissions]`: rules as `permission` or `permission:pattern`. A denial wins over a question, that over a grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermissionSettings {
    /// Granted without asking.
    pub allow: Vec<PermissionRule>,
    /// Asked of whoever is attached.
    pub ask: Vec<PermissionRule>,
    /// Refused.
    pub deny: Vec<PermissionRule>,
}

/// `[retention]`: how long what has ended is kept, and how full the disk may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// The record of a task; zero = for ever.
    pub tasks: Duration,
    /// Its workdir, baseline, patch and output; zero = as long as its record.
    pub files: Duration,
    /// Free bytes below which no new task is accepted, on each disk that is used.
    pub min_free_bytes: u64,
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
    /// `[engines.docker]`, when enabled.
    pub docker: Option<DockerEngineSettings>,
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
    /// Directories that one worker serves; the next one goes to a new worker.
    pub max_directories: u32,
    /// Bytes of memory of a worker from which on new tasks go to a new one.
    pub max_memory: u64,
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
            max_queued_per_caller: self.tasks.max_queued_per_caller,
            caller_limits: self.caller_limits(),
            max_unfinished: self.watchdog.max_unfinished,
            silence_warn: self.watchdog.silence_warn,
            silence_nudge: self.watchdog.silence_nudge,
            silence_fail: self.watchdog.silence_fail,
            max_steps: self.watchdog.max_steps,
            max_provider_retries: self.watchdog.max_provider_retries,
            keep_tasks: self.retention.tasks,
            keep_files: self.retention.files,
            memory: self
                .letta
                .as_ref()
                .map(|letta| letta.pace)
                .unwrap_or_default(),
            stop_timeout: self.tasks.stop_timeout,
            rooms: self
                .matrix
                .as_ref()
                .map_or_else(RoomSettings::default, |matrix| matrix.rooms.clone()),
        }
    }

    fn caller_limits(&self) -> BTreeMap<String, CallerLimits> {
        let differs = |token: &&TokenSettings| {
            token.limits.max_running.is_some() || token.limits.max_queued.is_some()
        };
        let limits = |token: &TokenSettings| CallerLimits {
            running: token.limits.max_running,
            queued: token.limits.max_queued,
        };
        let tokens = self.auth.tokens.iter().filter(differs);
        tokens
            .map(|token| (token.name.clone(), limits(token)))
            .collect()
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
        if self.engines.docker.is_some() {
            names.push("docker");
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
                session_idle: Duration::from_secs(7_200),
                read_timeout: Duration::from_secs(30),
                tool_prefix: String::new(),
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
                max_queued_per_caller: tree.max_queued_per_caller,
                stop_timeout: tree.stop_timeout,
                allowed_sources: None,
                max_read_bytes: 1_000_000,
            },
            watchdog: WatchdogSettings {
                silence_warn: tree.silence_warn,
                silence_nudge: tree.silence_nudge,
                silence_fail: tree.silence_fail,
                max_steps: tree.max_steps,
                max_provider_retries: tree.max_provider_retries,
                max_unfinished: tree.max_unfinished,
            },
            permissions: PermissionSettings::default(),
            retention: RetentionSettings {
                tasks: tree.keep_tasks,
                files: tree.keep_files,
                min_free_bytes: 512 << 20,
            },
            engine: EngineSettings {
                default: "local".to_owned(),
                on_stop: StopHow::LeaveRunning,
            },
            engines: EnginesSettings {
                local: Some(LocalEngineSettings::default()),
                remote: None,
                docker: None,
            },
            setup: Vec::new(),
            log: LogSettings {
                format: LogFormat::Text,
                level: "info".to_owned(),
            },
            letta: None,
            matrix: None,
        }
    }
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            calls_per_minute: 0,
            max_sessions_per_token: 200,
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
            max_directories: 20,
            max_memory: 1_500 << 20,
        }
    }
}
