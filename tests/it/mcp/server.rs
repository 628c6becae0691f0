//! A whole server on a port of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand::adapters::outward::{NoMemory, NoNotices, NoRooms};
use chargehand::adapters::system::{DiskSpace, SystemClock, SystemIds};
use chargehand::adapters::workdir::{LocalWorkdirs, WorkdirLimits, WorkdirSettings};
use chargehand::config::{Secret, Settings, TokenRole, TokenSettings};
use chargehand::{Adapters, RunError, Tokens, run_with};
use chargehand_actors::fakes::World;
use chargehand_actors::id::InstanceId;
use chargehand_actors::tree::Ports;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::double_engine::{DoubleEngine, Port};
use super::double_workdirs::{DoubleOutput, DoubleWorkdirs};

/// A running server; its directory goes when it is dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) engine: Arc<DoubleEngine>,
    pub(crate) tokens: Tokens,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
    _directory: TempDir,
}

/// A token for [`Server::with`].
pub(crate) fn token(name: &str, token: &str, role: TokenRole) -> TokenSettings {
    TokenSettings {
        name: name.to_owned(),
        token: Secret::new(token.to_owned()),
        file: None,
        role,
        agents: Vec::new(),
        limits: Default::default(),
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A server with other settings than the default.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let journal = SqliteJournal::open(JournalSettings {
            path: directory.path().join("journal.sqlite"),
            reserve_bytes: 0,
        })
        .await
        .unwrap();
        let engine = Arc::new(DoubleEngine::default());
        let clock = Arc::new(SystemClock);
        let ports = Ports {
            clock: clock.clone(),
            ids: Arc::new(SystemIds::with_clock(clock)),
            journal: Arc::new(journal),
            output: Arc::new(DoubleOutput::default()),
            workdirs: Arc::new(DoubleWorkdirs),
            space: Arc::new(DiskSpace::new(Vec::new(), 0)),
            engines: vec![Arc::new(Port(engine.clone()))],
            memory: Arc::new(NoMemory),
            rooms: Arc::new(NoRooms),
            notices: Arc::new(NoNotices),
        };
        let mut settings = Settings::default();
        change(&mut settings);
        let server = Self::on(ports, settings, engine, directory).await;
        server.ready().await;
        server
    }

    /// A server on the fakes of the tree, which can be told to hang, and whose worker can ask.
    pub(crate) async fn on_fakes(world: &World) -> Self {
        Self::on_fakes_with(world, |_| {}).await
    }

    /// The same with other settings than the default.
    pub(crate) async fn on_fakes_with(world: &World, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Arc::new(DoubleEngine::default());
        let mut settings = Settings::default();
        change(&mut settings);
        let server = Self::on(world.ports(), settings, engine, directory).await;
        server.ready().await;
        server
    }

    /// A server whose workdirs lie on a real disk, in the given directory, with this git or the one in `PATH`.
    pub(crate) async fn on_disk(place: &Path, git: Option<PathBuf>) -> Self {
        let world = World::new(1);
        let engine = Arc::new(DoubleEngine::default());
        let clock = Arc::new(SystemClock);
        let directory = tempfile::tempdir().unwrap();
        let journal = JournalSettings {
            path: directory.path().join("journal.sqlite"),
            reserve_bytes: 0,
        };
        let ports = Ports {
            clock: clock.clone(),
            ids: Arc::new(SystemIds::with_clock(clock)),
            journal: Arc::new(SqliteJournal::open(journal).await.unwrap()),
            workdirs: Arc::new(LocalWorkdirs::new(WorkdirSettings {
                instance: InstanceId("edge-test".to_owned()),
                root: place.join("workdirs"),
                store: place.join("store"),
                git,
                limits: WorkdirLimits::default(),
            })),
            engines: vec![Arc::new(Port(engine.clone()))],
            ..world.ports()
        };
        let server = Self::on(ports, Settings::default(), engine, directory).await;
        server.ready().await;
        server
    }

    async fn on(
        ports: Ports,
        settings: Settings,
        engine: Arc<DoubleEngine>,
        directory: TempDir,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let adapters = Adapters {
            instance: InstanceId("edge-test".to_owned()),
            ports,
        };
        let asked = stop.clone();
        let tokens = Tokens::new(&settings.auth);
        let running = tokio::spawn(run_with(
            settings,
            tokens.clone(),
            adapters,
            listener,
            asked.cancelled_owned(),
        ));
        Self {
            url,
            engine,
            tokens,
            stop,
            running,
            _directory: directory,
        }
    }

    async fn ready(&self) {
        let http = reqwest::Client::new();
        for _ in 0..2_000 {
            let answer = http.get(format!("{}/health", self.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            assert!(!self.running.is_finished(), "the server ended by itself");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the server was not ready within 20 s");
    }

    /// A client without session that sends this token.
    pub(crate) fn as_token(&self, token: &str) -> Client {
        Client::stateless(&self.url).header("Authorization", format!("Bearer {token}"))
    }

    /// A client with a session, as older protocol versions have it.
    pub(crate) async fn client(&self) -> Client {
        Client::with_session(&self.url).await
    }

    /// Asks the server to stop, without waiting.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end after [`Self::ask_to_stop`].
    pub(crate) async fn ended(self) -> Result<(), RunError> {
        self.running.await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.ask_to_stop();
        self.ended().await.unwrap();
    }
}
