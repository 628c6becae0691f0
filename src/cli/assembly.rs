//! Puts the outside world together: from settings to the adapters that a run uses.
//!
//! In: [`Settings`]. Out: [`World`]: the locked data directory, the journal, and [`Adapters`] for [`crate::run`].

use std::path::PathBuf;
use std::sync::Arc;

use chargehand_actors::command::ModelRef;
use chargehand_actors::id::EngineName;
use chargehand_actors::ports::{Clock, Engine};
use chargehand_actors::tree::Ports;

use super::error::{CliError, chain};
use crate::Adapters;
use crate::adapters::journal::{JournalSettings, SqliteJournal};
use crate::adapters::opencode::{
    InstallProgress, LocalEngine, LocalSettings, OpencodeSettings, PathMapping, RemoteEngine,
    RemoteSettings, Secret, WorkerSettings,
};
use crate::adapters::outward::{NoMemory, NoNotices, NoRooms};
use crate::adapters::system::{DataDir, SystemClock, SystemIds};
use crate::adapters::workdir::{LocalOutput, LocalWorkdirs, WorkdirLimits, WorkdirSettings};
use crate::config::{LocalEngineSettings, RemoteEngineSettings, Settings};

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
                opencode: opencode(local),
                instance: instance.clone(),
                install_progress: progress,
                worker,
            })));
        }
        if let Some(remote) = &settings.engines.remote {
            let settings = RemoteSettings {
                name: EngineName::new("remote"),
                url: remote.url.to_string(),
                username: remote.username.clone(),
                password: remote.password.as_ref().map(|p| Secret::new(p.expose())),
                path_map: path_map(remote)?,
                directory: remote.directory.clone(),
                instance: instance.clone(),
                model: None,
            };
            engines.push(Arc::new(RemoteEngine::new(settings).map_err(server)?));
        }
        let adapters = Adapters {
            instance,
            ports: Ports {
                ids: Arc::new(SystemIds::with_clock(Arc::clone(&clock))),
                clock,
                journal: Arc::new(journal.clone()),
                output: Arc::new(LocalOutput::new(directory.join("output"), OUTPUT_CAP)),
                workdirs: Arc::new(LocalWorkdirs::new(WorkdirSettings {
                    root: absolute(&settings.data.workdirs)?,
                    store: absolute(&directory)?.join("baselines"),
                    git: None,
                    limits: WorkdirLimits::default(),
                })),
                engines,
                memory: Arc::new(NoMemory),
                rooms: Arc::new(NoRooms),
                notices: Arc::new(NoNotices),
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

fn opencode(local: &LocalEngineSettings) -> OpencodeSettings {
    let environment = local
        .env
        .iter()
        .map(|(name, value)| (name.clone(), Secret::new(value.expose())))
        .collect();
    let config = (!local.opencode_config.is_empty())
        .then(|| serde_json::Value::Object(local.opencode_config.clone()));
    OpencodeSettings {
        model: local.model.as_deref().and_then(model),
        small_model: local.small_model.as_deref().and_then(model),
        config,
        environment,
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

fn path_map(remote: &RemoteEngineSettings) -> Result<Option<PathMapping>, CliError> {
    let mut pairs = remote.path_map.iter().map(|(ours, theirs)| PathMapping {
        ours: ours.clone(),
        theirs: theirs.to_string_lossy().into_owned(),
    });
    let first = pairs.next();
    if pairs.next().is_some() {
        return Err(CliError::Usage(
            "engines.remote.path_map has more than one pair; name the one that holds data.workdirs"
                .to_owned(),
        ));
    }
    Ok(first)
}

/// For our own user only; an existing one keeps its rights.
fn make_directory(path: &std::path::Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| CliError::File {
            what: "cannot make",
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
