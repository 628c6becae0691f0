//! The engine `local`: one OpenCode of our own on loopback, adopted when it lives, started when it does not.
//!
//! In: the calls of the [`Engine`] port. Out: the driver's answers, for as long as the very process that is known still runs. A worker
//! outlives a killed Chargehand and is taken over by the next; what a dead one left is ended before another uses its data.
//! It is no sandbox: tasks run as the user that runs Chargehand.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex as StdMutex, PoisonError, RwLock};
use std::time::Duration;

use chargehand_actors::command::Answer;
use chargehand_actors::event::{Request, SessionRef};
use chargehand_actors::id::{AttemptId, EngineName, InstanceId, WorkerId};
use chargehand_actors::ports::{
    AnswerOutcome, Engine, EngineError, EngineHealth, EngineReady, OpenSession, OwnedAttempt,
    PauseAbility, PortFuture, SendPrompt, SessionReport, SignalSink, StopHow,
};
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use super::client::{Client, Credentials};
use super::driver::{Driver, DriverSettings};
use super::install::{InstallProgress, find_or_install};
use super::leftovers::{end_in, end_owned};
use super::orphans::{Process, boot_id};
use super::process::{
    Launch, USERNAME, cannot, drop_old_logs, launch, living, wait_for_port, wait_for_process,
};
use super::record::{Files, ProcessRecord, Record, private, read};
use super::recycle::Limits;
use super::settings::{OpencodeSettings, Secret};
use super::translate::Translator;
use super::version::Version;
use super::watching::watch;

/// How often the lease is touched.
const LEASE_EVERY: Duration = Duration::from_secs(20);

/// How long a living worker may take to answer its health before a start gives up for now.
const HEALTH_PATIENCE: Duration = Duration::from_secs(30);

/// After so many starts in a row without an answer, a living worker is taken for hung and replaced.
const HUNG_AFTER: u32 = 4;

/// How a worker is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSettings {
    /// The program that understands `guard`; none = this program.
    pub guard: Option<PathBuf>,
    /// How long a worker goes on without any sign of Chargehand.
    pub abandoned_after: Duration,
    /// A worker that has served more directories is replaced when nothing runs in it.
    pub recycle_directories: usize,
    /// A worker that holds more memory, in bytes, is replaced when nothing runs in it.
    pub recycle_memory: u64,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            guard: None,
            abandoned_after: Duration::from_secs(3600),
            recycle_directories: 20,
            recycle_memory: 1_500_000_000,
        }
    }
}

/// What the engine `local` needs.
#[derive(Clone)]
pub struct LocalSettings {
    /// Its name, normally `local`; also the name of its directory below `data_dir`.
    pub name: EngineName,
    /// Chargehand's data directory.
    pub data_dir: PathBuf,
    /// OpenCode; none = found in `PATH` or installed into the data directory.
    pub binary: Option<PathBuf>,
    /// How OpenCode is configured.
    pub opencode: OpencodeSettings,
    /// Stamped on the worker and on every session.
    pub instance: InstanceId,
    /// Told what an installation does.
    pub install_progress: InstallProgress,
    /// How the worker is kept.
    pub worker: WorkerSettings,
}

/// The worker that serves now.
#[derive(Clone)]
struct Running {
    driver: Driver,
    process: ProcessRecord,
    version: Version,
}

impl Running {
    fn is_alive(&self) -> bool {
        self.process.worker.is_alive()
    }
}

/// The engine `local`.
pub struct LocalEngine {
    settings: LocalSettings,
    files: Files,
    /// Held while starting or stopping.
    changing: Mutex<()>,
    /// Shared by prompts on their way, alone held while the worker is replaced.
    sending: tokio::sync::RwLock<()>,
    running: RwLock<Option<Running>>,
    translator: Mutex<Translator>,
    lease: StdMutex<Option<tokio::task::AbortHandle>>,
    silent_starts: AtomicU32,
}

impl LocalEngine {
    /// An engine that has not been started.
    pub fn new(settings: LocalSettings) -> Self {
        let directory = settings.data_dir.join(settings.name.as_str());
        Self {
            settings,
            files: Files { directory },
            changing: Mutex::new(()),
            sending: tokio::sync::RwLock::new(()),
            running: RwLock::new(None),
            translator: Mutex::new(Translator::default()),
            lease: StdMutex::new(None),
            silent_starts: AtomicU32::new(0),
        }
    }

    fn running(&self) -> Result<Running, EngineError> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        let running = running.clone().ok_or_else(|| {
            EngineError::Unreachable("the local OpenCode is not started".to_owned())
        })?;
        if running.is_alive() {
            Ok(running)
        } else {
            Err(dead())
        }
    }

    fn set_running(&self, running: Option<Running>) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = running;
    }

    fn owner_prefix(&self) -> String {
        format!("{}/", self.settings.instance)
    }

    async fn start_or_adopt(&self) -> Result<EngineReady, EngineError> {
        let _changing = self.changing.lock().await;
        if boot_id().is_none() {
            return Err(EngineError::Unusable(
                "the engine `local` needs Linux: without /proc it could not tell its worker from another process; use the engine \
                 `remote` or `docker`"
                    .to_owned(),
            ));
        }
        self.make_directories()?;
        self.keep_lease();
        if let Some((record, process)) = self.adoptable() {
            match self.attach(&record, process, true).await {
                Ok(ready) => {
                    self.silent_starts.store(0, Ordering::Relaxed);
                    return Ok(ready);
                }
                Err(error) if error.is_transient() && living(&self.files, &record).is_some() => {
                    let silent = self.silent_starts.fetch_add(1, Ordering::Relaxed) + 1;
                    if silent < HUNG_AFTER {
                        return Err(error);
                    }
                }
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        self.silent_starts.store(0, Ordering::Relaxed);
        self.set_running(None);
        self.spawn().await
    }

    fn adoptable(&self) -> Option<(Record, ProcessRecord)> {
        let record: Record = read(&self.files.record())?;
        let process = living(&self.files, &record)?;
        Some((record, process))
    }

    fn make_directories(&self) -> Result<(), EngineError> {
        let logs = self.files.directory.join("logs");
        std::fs::create_dir_all(&logs).map_err(|error| cannot("make", &logs, &error))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let directory = &self.files.directory;
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
                .map_err(|error| cannot("protect", directory, &error))?;
        }
        Ok(())
    }

    /// Ends what is in the way, then starts the next generation.
    async fn spawn(&self) -> Result<EngineReady, EngineError> {
        let ended = end_owned(&self.files, self.owner_prefix()).await?;
        let program = find_or_install(
            self.settings.binary.as_deref(),
            &self.settings.data_dir,
            &*self.settings.install_progress,
        )
        .await?;
        let before = read::<Record>(&self.files.record()).map_or(0, |record| record.generation);
        let generation = before + 1;
        let record = Record {
            generation,
            owner: format!("{}{generation}", self.owner_prefix()),
            password: Secret::new(Uuid::new_v4().simple().to_string()),
            log: self.files.log(generation),
        };
        record
            .write(&self.files)
            .map_err(|error| cannot("write", &self.files.record(), &error))?;
        drop_old_logs(&self.files, generation);
        let guard = self.guard_program()?;
        let mut child = launch(&Launch {
            program: &program,
            guard: &guard,
            abandoned_after: self.settings.worker.abandoned_after,
            files: &self.files,
            record: &record,
            settings: &self.settings.opencode,
        })?;
        // The guard is our child as long as we live: waiting for it leaves no zombie.
        tokio::spawn(async move { child.wait().await });
        let process = wait_for_process(&self.files, generation).await?;
        let mut ready = self.attach(&record, process, false).await?;
        if ended > 0 {
            let told = format!("{ended} processes of an earlier worker were ended first");
            ready.note = Some(
                ready
                    .note
                    .map_or(told.clone(), |note| format!("{note}; {told}")),
            );
        }
        Ok(ready)
    }

    fn guard_program(&self) -> Result<PathBuf, EngineError> {
        if let Some(program) = &self.settings.worker.guard {
            return Ok(program.clone());
        }
        match std::env::current_exe() {
            Ok(program) if program.is_file() => Ok(program),
            // Replaced by an update while it runs: the kernel still has it.
            Ok(_) if Path::new("/proc/self/exe").exists() => Ok(PathBuf::from("/proc/self/exe")),
            Ok(program) => Err(EngineError::Unusable(format!(
                "{} was moved or removed while it runs; start Chargehand again",
                program.display()
            ))),
            Err(error) => Err(EngineError::Unusable(format!(
                "Chargehand does not find its own program: {error}"
            ))),
        }
    }

    /// Makes a running worker ours: waits until it listens and answers, checks its version.
    async fn attach(
        &self,
        record: &Record,
        process: ProcessRecord,
        adopted: bool,
    ) -> Result<EngineReady, EngineError> {
        if let Ok(known) = self.running()
            && known.process == process
        {
            health(&known.driver.client, &known.process).await?;
            return Ok(ready(&known, None));
        }
        let port = wait_for_port(record, &process).await?;
        let url = Url::parse(&format!("http://127.0.0.1:{port}/"))
            .map_err(|error| EngineError::Fault(error.to_string()))?;
        let credentials = Credentials {
            username: USERNAME.to_owned(),
            password: record.password.reveal().to_owned(),
        };
        let client = Client::new(url, Some(credentials))?;
        let version = Version::accept(&health(&client, &process).await?)?;
        let running = Running {
            driver: Driver::new(DriverSettings {
                client,
                instance: self.settings.instance.clone(),
                worker: worker_id(process.worker),
                version,
                model: None,
                engine: self.settings.name.as_str().to_owned(),
                adopted,
            }),
            process,
            version,
        };
        let note = adopted.then(|| adoption_note(&running.process));
        let ready = ready(&running, note);
        self.set_running(Some(running));
        Ok(ready)
    }

    /// Touches the lease now and from time to time: the guard's sign that Chargehand lives.
    fn keep_lease(&self) {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if lease.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let path = self.files.lease();
        let every = LEASE_EVERY.min(self.settings.worker.abandoned_after / 4);
        let task = tokio::spawn(async move {
            loop {
                // A full disk must not end the engine; the guard's patience is far longer than one failure.
                drop(touch(&path));
                tokio::time::sleep(every).await;
            }
        });
        *lease = Some(task.abort_handle());
    }

    fn drop_lease(&self) {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = lease.take() {
            task.abort();
        }
    }

    /// Replaces a worn worker before a new directory is opened in it, if nothing runs in it and nothing is on its way.
    async fn recycle_if_worn(&self) -> Result<(), EngineError> {
        let running = self.running()?;
        let limits = Limits {
            directories: self.settings.worker.recycle_directories,
            memory: self.settings.worker.recycle_memory,
        };
        let memory = running.process.worker.memory().unwrap_or(0);
        if !limits.are_passed(running.driver.gate.count(), memory) {
            return Ok(());
        }
        // Somebody is sending: the next opening will do.
        let Ok(_alone) = self.sending.try_write() else {
            return Ok(());
        };
        if !running.driver.is_idle().await? {
            return Ok(());
        }
        let _changing = self.changing.lock().await;
        if self.running()?.process != running.process {
            return Ok(());
        }
        self.set_running(None);
        self.spawn().await.map(drop)
    }

    async fn end(&self, how: StopHow) -> Result<(), EngineError> {
        let _changing = self.changing.lock().await;
        self.drop_lease();
        self.set_running(None);
        match how {
            StopHow::LeaveRunning => Ok(()),
            StopHow::EndWorkers => {
                end_owned(&self.files, self.owner_prefix()).await?;
                Ok(())
            }
        }
    }
}

impl Drop for LocalEngine {
    fn drop(&mut self) {
        self.drop_lease();
    }
}

impl Engine for LocalEngine {
    fn name(&self) -> EngineName {
        self.settings.name.clone()
    }

    fn pause_ability(&self) -> PauseAbility {
        PauseAbility::AbortAndPrompt
    }

    fn start(&self) -> PortFuture<'_, Result<EngineReady, EngineError>> {
        Box::pin(self.start_or_adopt())
    }

    fn watch(&self, sink: SignalSink) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let running = self.running()?;
            watch(&running.driver, &self.translator, &sink).await
        })
    }

    fn probe(&self) -> PortFuture<'_, Result<EngineHealth, EngineError>> {
        Box::pin(async move {
            let running = self.running()?;
            let health = running
                .driver
                .client
                .health(Duration::from_secs(10))
                .await?;
            let memory = running.process.worker.memory().unwrap_or(0) / 1_000_000;
            Ok(EngineHealth {
                detail: format!(
                    "OpenCode {} at {}, pid {}, {memory} MB, {} directories",
                    health.version,
                    running.driver.client.address(),
                    running.process.worker.pid,
                    running.driver.gate.count(),
                ),
            })
        })
    }

    fn owned(&self) -> PortFuture<'_, Result<Vec<OwnedAttempt>, EngineError>> {
        Box::pin(async move { self.running()?.driver.owned().await })
    }

    fn open(
        &self,
        request: OpenSession,
    ) -> PortFuture<'_, Result<(SessionRef, WorkerId), EngineError>> {
        Box::pin(async move {
            self.recycle_if_worn().await?;
            let running = self.running()?;
            let session = running.driver.open(request).await?;
            Ok((session, running.driver.worker))
        })
    }

    fn prompt(&self, request: SendPrompt) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let _sending = self.sending.read().await;
            self.running()?.driver.prompt(request).await
        })
    }

    fn read(
        &self,
        session: SessionRef,
        prompts: Vec<String>,
    ) -> PortFuture<'_, Result<SessionReport, EngineError>> {
        Box::pin(async move {
            let running = self.running()?;
            let report = running.driver.read(&session, &prompts).await?;
            // Had the port been taken by another process meanwhile, the reading would be its, not the worker's.
            if running.is_alive() {
                Ok(report)
            } else {
                Err(dead())
            }
        })
    }

    fn abort(&self, session: SessionRef) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move { self.running()?.driver.abort(&session).await })
    }

    fn freeze(
        &self,
        _session: SessionRef,
        _frozen: bool,
    ) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Err(cannot_freeze()) })
    }

    fn answer(
        &self,
        session: SessionRef,
        request: Request,
        answer: Answer,
    ) -> PortFuture<'_, Result<AnswerOutcome, EngineError>> {
        Box::pin(async move {
            self.running()?
                .driver
                .answer(&session, &request, &answer)
                .await
        })
    }

    fn remove(
        &self,
        attempt: AttemptId,
        session: Option<SessionRef>,
        directory: Option<String>,
    ) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let running = self.running()?;
            running
                .driver
                .remove(attempt, session, directory.clone())
                .await?;
            match directory {
                Some(directory) => end_in(directory, self.owner_prefix()).await,
                None => Ok(()),
            }
        })
    }

    fn stop(&self, how: StopHow) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(self.end(how))
    }
}

/// Asks for the health, on a new connection each time, until it comes, the worker is dead or the patience is at its end.
async fn health(client: &Client, process: &ProcessRecord) -> Result<String, EngineError> {
    let end = Instant::now() + HEALTH_PATIENCE;
    let mut limit = Duration::from_millis(500);
    loop {
        let problem = match client.health(limit).await {
            Ok(health) if health.healthy || !health.version.is_empty() => return Ok(health.version),
            Ok(_) => EngineError::Fault("OpenCode says that it is not healthy".to_owned()),
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error),
        };
        if !process.worker.is_alive() {
            return Err(dead());
        }
        if Instant::now() > end {
            return Err(problem);
        }
        // Short at first, because the first connection may be one that is never answered; then as slow as a loaded server.
        limit = (limit * 2).min(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn touch(path: &Path) -> std::io::Result<()> {
    let file = private(path, false)?;
    file.set_modified(std::time::SystemTime::now())
}

fn worker_id(process: Process) -> WorkerId {
    WorkerId(format!("{}:{}", process.pid, process.ticks))
}

fn ready(running: &Running, note: Option<String>) -> EngineReady {
    let version_note = running.version.note();
    let note = match (note, version_note) {
        (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        (one, other) => one.or(other),
    };
    EngineReady {
        version: running.version.to_string(),
        worker: running.driver.worker.clone(),
        note,
    }
}

fn adoption_note(process: &ProcessRecord) -> String {
    let note = "took over the worker of an earlier Chargehand";
    if process.guard.is_alive() {
        note.to_owned()
    } else {
        format!(
            "{note}; its guard is gone, so it does not end by itself if Chargehand is killed and stays away"
        )
    }
}

fn dead() -> EngineError {
    EngineError::Unreachable("the worker has ended; it is started again".to_owned())
}

pub(super) fn cannot_freeze() -> EngineError {
    EngineError::Refused(
        "this engine cannot freeze a session; it pauses by ending the run and going on with a new prompt".to_owned(),
    )
}
