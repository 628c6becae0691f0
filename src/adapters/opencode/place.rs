//! One data directory of the engine `local` and the worker on it: adopted when it lives, started when it does not.
//!
//! In: orders of the engine. Out: the running worker with its driver, for as long as the very process that is known still runs. A worker
//! outlives a killed Chargehand and is taken over by the next; what a dead one left is ended before another uses its data.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError, RwLock};
use std::time::Duration;

use chargehand_actors::crash::CrashPoint;
use chargehand_actors::id::WorkerId;
use chargehand_actors::ports::{EngineError, EngineReady, SignalSink, StopHow};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use super::client::{Client, Credentials};
use super::driver::{Driver, DriverSettings};
use super::environment::USERNAME;
use super::install::{Proof, find_or_install};
use super::leftovers::end_owned;
use super::local::LocalSettings;
use super::orphans::{Owner, Process, boot_id};
use super::process::{
    Launch, cannot, drop_old_logs, launch, living, wait_for_port, wait_for_process,
};
use super::record::{Files, ProcessRecord, Record, Served, private, read, replace};
use super::recycle::Limits;
use super::settings::Secret;
use super::translate::Translator;
use super::version::Version;
use super::watching::watch;

/// How often the lease is touched.
const LEASE_EVERY: Duration = Duration::from_secs(20);

/// How long a living worker may take to answer its health before a start gives up for now.
const HEALTH_PATIENCE: Duration = Duration::from_secs(30);

/// After so many starts in a row without an answer, a living worker is taken for hung and replaced.
const HUNG_AFTER: u32 = 4;

/// The worker that serves now.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) driver: Driver,
    pub(super) process: ProcessRecord,
    pub(super) version: Version,
}

impl Running {
    pub(super) fn is_alive(&self) -> bool {
        self.process.worker.is_alive()
    }
}

/// One data directory and its worker.
pub(super) struct Place {
    settings: LocalSettings,
    files: Files,
    /// The marks of its processes.
    owner: Owner,
    /// What session references name it by.
    server: String,
    /// The records of all places: generations are counted over all of them.
    records: Vec<PathBuf>,
    /// Held while starting or stopping.
    changing: Arc<Mutex<()>>,
    /// Shared by prompts on their way, alone held while the worker is replaced.
    pub(super) sending: tokio::sync::RwLock<()>,
    running: RwLock<Option<Running>>,
    translator: Mutex<Translator>,
    lease: StdMutex<Option<tokio::task::AbortHandle>>,
    silent_starts: AtomicU32,
    /// The last start of a worker failed: the next one runs OpenCode once before, to say what is wrong or to take another.
    doubted: AtomicBool,
}

impl Place {
    /// A place without a worker yet.
    pub(super) fn new(
        settings: LocalSettings,
        files: Files,
        owner: Owner,
        server: String,
        records: Vec<PathBuf>,
    ) -> Self {
        Self {
            settings,
            files,
            owner,
            server,
            records,
            changing: Arc::default(),
            sending: tokio::sync::RwLock::new(()),
            running: RwLock::new(None),
            translator: Mutex::new(Translator::default()),
            lease: StdMutex::new(None),
            silent_starts: AtomicU32::new(0),
            doubted: AtomicBool::new(false),
        }
    }

    /// Its worker, if that is known and lives.
    pub(super) fn running(&self) -> Result<Running, EngineError> {
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

    /// Whether this place ever had a worker.
    pub(super) fn was_used(&self) -> bool {
        self.files.record().exists()
    }

    /// Delivers what its worker's event stream says, until that breaks.
    pub(super) async fn watch(&self, sink: &SignalSink) -> Result<(), EngineError> {
        let running = self.running()?;
        watch(&running.driver, &self.translator, sink).await
    }

    /// Takes over the recorded worker if it lives, else starts one. Repeatable.
    pub(super) async fn start_or_adopt(&self) -> Result<EngineReady, EngineError> {
        let changing = Arc::clone(&self.changing).lock_owned().await;
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
        self.spawn(changing).await
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
    async fn spawn(&self, changing: OwnedMutexGuard<()>) -> Result<EngineReady, EngineError> {
        // A start that is cut does not get to the end of this: then nothing is known, and nothing is taken on trust.
        let proof = if self.doubted.swap(true, Ordering::Relaxed) {
            Proof::Run
        } else {
            Proof::Package
        };
        let started = self.spawn_proven(proof, changing).await;
        self.doubted.store(started.is_err(), Ordering::Relaxed);
        started
    }

    async fn spawn_proven(
        &self,
        proof: Proof,
        changing: OwnedMutexGuard<()>,
    ) -> Result<EngineReady, EngineError> {
        // Looking for the program takes as long as ending what is left: a start that is cut again and again must come through.
        // Both to their end: what ends processes must not go on beside the next start.
        let (ended, program) = futures_util::future::join(
            end_owned(&self.files, self.owner.clone(), changing),
            find_or_install(
                self.settings.binary.as_deref(),
                &self.settings.version,
                &self.settings.data_dir,
                proof,
                &*self.settings.install_progress,
            ),
        )
        .await;
        let ((ended, _changing), program) = (ended?, program?);
        let records = self.records.iter();
        let before = records.filter_map(|path| read::<Record>(path));
        let generation = before.map(|record| record.generation).max().unwrap_or(0) + 1;
        let record = Record {
            generation,
            owner: self.owner.mark(generation),
            password: Secret::new(Uuid::new_v4().simple().to_string()),
            log: self.files.log(generation),
        };
        CrashPoint::BeforeWorkerRecord.pass();
        record
            .write(&self.files)
            .map_err(|error| cannot("write", &self.files.record(), &error))?;
        CrashPoint::AfterWorkerRecord.pass();
        drop_old_logs(&self.files, generation);
        let guard_program = self.guard_program()?;
        let mut child = launch(&Launch {
            program: &program,
            guard: &guard_program,
            abandoned_after: self.settings.worker.abandoned_after,
            files: &self.files,
            record: &record,
            settings: &self.settings.opencode,
        })?;
        CrashPoint::AfterGuardSpawn.pass();
        // The guard is our child as long as we live: waiting for it leaves no zombie.
        let guard = tokio::spawn(async move { child.wait().await });
        let guard_runs = || !guard.is_finished();
        let process = wait_for_process(&self.files, generation, guard_runs).await?;
        CrashPoint::AfterWorkerKnown.pass();
        let mut ready = self.attach(&record, process, false).await?;
        if ended > 0 {
            add_note(
                &mut ready,
                format!("{ended} processes of an earlier worker were ended first"),
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
        CrashPoint::AfterWorkerListens.pass();
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
                engine: self.server.clone(),
                adopted,
            }),
            process,
            version,
        };
        if adopted {
            self.remember_served(&running);
        }
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

    /// Whether its worker is beyond a limit, or would be with this directory.
    pub(super) fn is_worn_for(&self, directory: &str) -> Result<bool, EngineError> {
        let running = self.running()?;
        let limits = Limits {
            directories: self.settings.worker.recycle_directories,
            memory: self.settings.worker.recycle_memory,
        };
        let memory = running.process.worker.memory().unwrap_or(0);
        let served = running.driver.gate.directories();
        let with_it = served.len() + usize::from(!served.contains(directory));
        Ok(limits.are_passed(with_it, memory))
    }

    /// Replaces the worker if nothing runs in it and nothing is on its way; gives whether it did. Sessions are on disk and go on.
    pub(super) async fn replace_if_idle(&self) -> Result<bool, EngineError> {
        let running = self.running()?;
        // Somebody is sending.
        let Ok(_alone) = self.sending.try_write() else {
            return Ok(false);
        };
        if !running.driver.is_idle().await? {
            return Ok(false);
        }
        let changing = Arc::clone(&self.changing).lock_owned().await;
        if self.running()?.process != running.process {
            return Ok(false);
        }
        self.set_running(None);
        self.spawn(changing).await.map(|_ready| true)
    }

    /// A session is about to be opened in this directory: it counts from now on, also for the next Chargehand.
    pub(super) fn serve(&self, directory: &str) -> Result<(), EngineError> {
        let running = self.running()?;
        if running.driver.gate.serve(directory) {
            let served = Served {
                generation: running.process.generation,
                directories: running.driver.gate.directories(),
            };
            let path = self.files.served();
            let written = serde_json::to_vec(&served)
                .map_err(std::io::Error::from)
                .and_then(|text| replace(&path, &text));
            // It bounds memory and decides about no task: a full disk must not stop an opening.
            if let Err(error) = written {
                tracing::warn!(file = %path.display(), %error, "the directories of the worker are not counted on after a restart");
            }
        }
        Ok(())
    }

    fn remember_served(&self, running: &Running) {
        let served = read::<Served>(&self.files.served())
            .filter(|served| served.generation == running.process.generation);
        for directory in served.into_iter().flat_map(|served| served.directories) {
            running.driver.gate.serve(&directory);
        }
    }

    /// Leaves the worker alive for the next Chargehand, or ends it and everything that it started.
    pub(super) async fn end(&self, how: StopHow) -> Result<(), EngineError> {
        let changing = Arc::clone(&self.changing).lock_owned().await;
        self.drop_lease();
        self.set_running(None);
        match how {
            StopHow::LeaveRunning => Ok(()),
            StopHow::EndWorkers => {
                end_owned(&self.files, self.owner.clone(), changing).await?;
                Ok(())
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.drop_lease();
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
    let mut ready = EngineReady {
        version: running.version.to_string(),
        worker: running.driver.worker.clone(),
        note,
        blocked: None,
    };
    if let Some(note) = running.version.note() {
        add_note(&mut ready, note);
    }
    ready
}

/// Something more to tell an operator.
pub(super) fn add_note(ready: &mut EngineReady, told: String) {
    ready.note = Some(match ready.note.take() {
        Some(note) => format!("{note}; {told}"),
        None => told,
    });
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

pub(super) fn dead() -> EngineError {
    EngineError::Unreachable("the worker has ended; it is started again".to_owned())
}
