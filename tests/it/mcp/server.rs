//! A whole server on a port of its own.

use std::sync::Arc;

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand::adapters::outward::{NoMemory, NoNotices, NoRooms};
use chargehand::adapters::system::{SystemClock, SystemIds};
use chargehand::config::{Secret, Settings, TokenRole, TokenSettings};
use chargehand::{Adapters, RunError, run};
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
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
    _directory: TempDir,
}

/// A token for [`Server::with`].
pub(crate) fn token(name: &str, token: &str, role: TokenRole) -> TokenSettings {
    TokenSettings {
        name: name.to_owned(),
        token: Secret::new(token.to_owned()),
        role,
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

    /// A server on the fakes of the tree, which can be told to hang.
    pub(crate) async fn on_fakes(world: &World) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Arc::new(DoubleEngine::default());
        let server = Self::on(world.ports(), Settings::default(), engine, directory).await;
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
        let running = tokio::spawn(async move {
            run(settings, adapters, listener, asked.cancelled_owned()).await
        });
        Self {
            url,
            engine,
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
