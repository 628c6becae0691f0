//! Puts the outside world together: from settings to the adapters that a run uses.
//!
//! In: [`Settings`]. Out: [`World`]: the locked data directory, the journal, and [`Adapters`] for [`crate::run`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chargehand_actors::command::ModelRef;
use chargehand_actors::id::{EngineName, InstanceId};
use chargehand_actors::ports::{Clock, Engine};
use chargehand_actors::tree::Ports;

use super::docker::{docker_settings, must_be_there};
use super::error::{CliError, chain};
use super::letta;
use crate::Adapters;
use crate::adapters::docker::DockerEngine;
use crate::adapters::journal::{JournalSettings, SqliteJournal};
use crate::adapters::opencode::{
    InstallProgress, LocalEngine, LocalSettings, OpencodeSettings, PathMapping, PermissionRule,
    RemoteEngine, RemoteSettings, Secret, WorkerSettings,
};
use crate::adapters::system::{DataDir, DiskSpace, SystemClock, SystemIds};
use crate::adapters::workdir::{LocalOutput, LocalWorkdirs, WorkdirLimits, WorkdirSettings};
use crate::config::{LocalEngineSettings, PermissionSettings, RemoteEngineSettings, Settings};

/// Bytes of a task's output that are kept.
const OUTPUT_CAP: u64 = 50 * 1024 * 1024;

/// What a run needs and what must outlive it.
pub(crate) struct World {
    /// For [`crate::run`].
    pub(crate) adapters: Adapters,
    journal: SqliteJournal,
    // The lock on the data directory lasts as long as this.
    _data: DataDir,
}

impl World {
    /// Locks the data directory, opens the journal, prepares the engines; starts none. `worker` says how long a worker
    /// outlives a Chargehand that was killed.
    pub(crate) async fn open(
        settings: &Settings,
        progress: InstallProgress,
        worker: WorkerSettings,
    ) -> Result<Self, CliError> {
        let data = DataDir::lock(&settings.data.dir).map_err(server)?;
        let directory = data.path().to_owned();
        let journal = SqliteJournal::open(JournalSettings::at(directory.join("journal.db")))
            .await
            .map_err(server)?;
        // A path mapping is proved with a file in it before there is any task.
        make_directory(&settings.data.workdirs)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let instance = data.instance().clone();
        let mut engines: Vec<Arc<dyn Engine>> = Vec::new();
        if let Some(local) = &settings.engines.local {
            engines.push(Arc::new(LocalEngine::new(LocalSettings {
                name: EngineName::new("local"),
                data_dir: directory.clone(),
                binary: local.opencode.clone(),
                version: local.version.clone(),
                opencode: opencode(local_opencode(local), &settings.permissions),
                instance: instance.clone(),
                install_progress: progress,
                worker: WorkerSettings {
                    recycle_directories: usize::try_from(local.max_directories)
                        .unwrap_or(usize::MAX),
                    recycle_memory: local.max_memory,
                    ..worker
                },
            })));
        }
        if let Some(remote) = &settings.engines.remote {
            let settings = RemoteSettings {
                path_map: path_map(remote),
                ..remote_settings(remote, instance.clone())
            };
            engines.push(Arc::new(RemoteEngine::new(settings).map_err(server)?));
        }
        if let Some(docker) = &settings.engines.docker {
            let is_default = settings.engine.default == "docker";
            let settings =
                docker_settings(docker, settings, &absolute(&directory)?, instance.clone());
            if is_default {
                must_be_there(&settings).await?;
            }
            engines.push(Arc::new(DockerEngine::new(settings)));
        }
        let planner = letta::planner(settings, &instance).map_err(server)?;
        let adapters = Adapters {
            instance: instance.clone(),
            ports: Ports {
                ids: Arc::new(SystemIds::with_clock(Arc::clone(&clock))),
                clock,
                journal: Arc::new(journal.clone()),
                output: Arc::new(LocalOutput::new(directory.join("output"), OUTPUT_CAP)),
                workdirs: Arc::new(LocalWorkdirs::new(WorkdirSettings {
                    root: absolute(&settings.data.workdirs)?,
                    store: absolute(&directory)?.join("baselines"),
                    git: None,
                    instance: instance.clone(),
                    limits: WorkdirLimits::default(),
                })),
                space: Arc::new(DiskSpace::new(
                    vec![directory.clone(), settings.data.workdirs.clone()],
                    settings.retention.min_free_bytes,
                )),
                engines,
                memory: planner.memory,
                rooms: super::matrix::rooms(settings, &journal, &directory, &instance),
                notices: planner.notices,
            },
        };
        Ok(Self {
            adapters,
            journal,
            _data: data,
        })
    }

    /// Closes the journal after the run has ended.
    pub(crate) async fn close(self) {
        self.journal.close().await;
    }
}

/// What the settings of an engine say about its OpenCode.
pub(crate) struct Opencode<'a> {
    pub(crate) model: Option<&'a str>,
    pub(crate) small_model: Option<&'a str>,
    pub(crate) config: &'a serde_json::Map<String, serde_json::Value>,
    pub(crate) env: &'a BTreeMap<String, crate::config::Secret>,
}

fn local_opencode(local: &LocalEngineSettings) -> Opencode<'_> {
    Opencode {
        model: local.model.as_deref(),
        small_model: local.small_model.as_deref(),
        config: &local.opencode_config,
        env: &local.env,
    }
}

pub(crate) fn opencode(engine: Opencode<'_>, rules: &PermissionSettings) -> OpencodeSettings {
    // In the worker's own configuration, too, because sub-agents obey only those. Grants are for the task itself.
    let permissions = rules.ask.iter().chain(&rules.deny);

    let environment = engine
        .env
        .iter()
        .map(|(name, value)| (name.clone(), Secret::new(value.expose())))
        .collect();
    let config =
        (!engine.config.is_empty()).then(|| serde_json::Value::Object(engine.config.clone()));
    OpencodeSettings {
        model: engine.model.and_then(model),
        small_model: engine.small_model.and_then(model),
        config,
        environment,
        permissions: permissions
            .map(|rule| PermissionRule {
                permission: rule.permission.clone(),
                pattern: (rule.pattern != "*").then(|| rule.pattern.clone()),
                action: rule.action.as_str().to_owned(),
            })
            .collect(),
        ..OpencodeSettings::default()
    }
}

fn model(text: &str) -> Option<ModelRef> {
    let (provider, model) = text.split_once('/')?;
    Some(ModelRef {
        provider: provider.to_owned(),
        model: model.to_owned(),
    })
}

/// The server of the engine `remote`, without a common disk.
pub(crate) fn remote_settings(
    remote: &RemoteEngineSettings,
    instance: InstanceId,
) -> RemoteSettings {
    RemoteSettings {
        name: EngineName::new("remote"),
        url: remote.url.to_string(),
        username: remote.username.clone(),
        password: remote.password.as_ref().map(|p| Secret::new(p.expose())),
        path_map: None,
        directory: remote.directory.clone(),
        instance,
        model: None,
    }
}

/// The one pair: the settings were refused if there were more.
fn path_map(remote: &RemoteEngineSettings) -> Option<PathMapping> {
    let pair = remote.path_map.iter().next();
    pair.map(|(ours, theirs)| PathMapping {
        ours: ours.clone(),
        theirs: theirs.to_string_lossy().into_owned(),
    })
}

/// For our own user only; an existing one keeps its rights.
fn make_directory(path: &std::path::Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| CliError::File {
            what: "the directory for workdirs (setting data.workdirs) cannot be made; nothing was started. It is",
            path: path.to_owned(),
            source,
        })
}

fn absolute(path: &std::path::Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|source| CliError::File {
        what: "cannot find",
        path: path.to_owned(),
        source,
    })
}

fn server(error: impl std::error::Error) -> CliError {
    CliError::Server(chain(&error))
}
