//! The engine `local`: an OpenCode of our own on loopback. Where sessions are, which worker takes new ones, when one has drained.
//!
//! In: the calls of the [`Engine`] port. Out: the driver's answers, from the place that has the session. Each of two places is a data
//! directory with a worker of its own (`place`); one takes new sessions, the other serves what it has until that is gone.
//! It is no sandbox: tasks run as the user that runs Chargehand. States and failures: docs/design/local-engine.md.

use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, RwLock};
use std::time::Duration;

use chargehand_actors::command::Answer;
use chargehand_actors::event::{Request, SessionRef};
use chargehand_actors::id::{AttemptId, EngineName, InstanceId, WorkerId};
use chargehand_actors::ports::{
    AnswerOutcome, Engine, EngineError, EngineHealth, EngineNumbers, EngineReady, OpenSession,
    OwnedAttempt, PauseAbility, PortFuture, SendPrompt, SessionReport, SignalSink, StopHow,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::install::InstallProgress;
use super::leftovers::end_in;
use super::orphans::Owner;
use super::place::{Place, Running, add_note, dead};
use super::record::{Files, Seat, Standing};
use super::settings::OpencodeSettings;

/// How long the old worker may take to tell what it has, and how long its end waits for openings on their way before it is put off.
pub(super) const OPENINGS_LIMIT: Duration = Duration::from_secs(5);

/// How long a start of the engine waits for the old worker.
const OTHER_LIMIT: Duration = Duration::from_secs(10);

/// How a worker is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSettings {
    /// The program that understands `guard`; none = this program.
    pub guard: Option<PathBuf>,
    /// How long a worker goes on without any sign of Chargehand.
    pub abandoned_after: Duration,
    /// One worker serves at most so many directories, as long as another can take more.
    pub recycle_directories: usize,
    /// A worker that holds more memory, in bytes, gets no new sessions, as long as another can take them.
    pub recycle_memory: u64,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            guard: None,
            abandoned_after: Duration::from_secs(3600),
            recycle_directories: 20,
            recycle_memory: 1_500 << 20,
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
    /// The version that is installed where none is found.
    pub version: String,
    /// How OpenCode is configured.
    pub opencode: OpencodeSettings,
    /// Stamped on the worker and on every session.
    pub instance: InstanceId,
    /// Told what an installation does.
    pub install_progress: InstallProgress,
    /// How the worker is kept.
    pub worker: WorkerSettings,
}

/// The engine `local`.
pub struct LocalEngine {
    settings: LocalSettings,
    files: Files,
    first: Arc<Place>,
    second: Arc<Place>,
    /// None before the first start.
    standing: RwLock<Option<Standing>>,
    /// Shared by openings, alone held while a drained worker is ended.
    pub(super) opening: tokio::sync::RwLock<()>,
    /// Held while places are started and while it is decided which takes a session.
    pub(super) choosing: Mutex<()>,
    /// No worker is added before; none = at any time.
    pub(super) not_before: StdMutex<Option<Instant>>,
    /// Another place is to be watched, or a session is gone.
    pub(super) changed: tokio::sync::watch::Sender<()>,
}

impl LocalEngine {
    /// An engine that has not been started.
    pub fn new(settings: LocalSettings) -> Self {
        let files = Files {
            directory: settings.data_dir.join(settings.name.as_str()),
        };
        let records = vec![files.record(), files.second().record()];
        let name = settings.name.as_str();
        let place = |files: Files, owner: Owner, server: String| {
            Arc::new(Place::new(
                settings.clone(),
                files,
                owner,
                server,
                records.clone(),
            ))
        };
        Self {
            first: place(
                files.clone(),
                Owner::first(&settings.instance),
                name.to_owned(),
            ),
            second: place(
                files.second(),
                Owner::second(&settings.instance),
                second_server(name),
            ),
            files,
            standing: RwLock::new(None),
            opening: tokio::sync::RwLock::new(()),
            choosing: Mutex::new(()),
            not_before: StdMutex::new(None),
            changed: tokio::sync::watch::Sender::new(()),
            settings,
        }
    }

    pub(super) fn place(&self, seat: Seat) -> &Arc<Place> {
        match seat {
            Seat::First => &self.first,
            Seat::Second => &self.second,
        }
    }

    pub(super) fn standing(&self) -> Result<Standing, EngineError> {
        let standing = *self.standing.read().unwrap_or_else(PoisonError::into_inner);
        standing
            .ok_or_else(|| EngineError::Unreachable("the local OpenCode is not started".to_owned()))
    }

    /// Durable before it holds.
    pub(super) fn stand(&self, standing: Standing) -> Result<(), EngineError> {
        let path = self.files.standing();
        standing.write(&path).map_err(|error| {
            EngineError::Fault(format!("cannot write {}: {error}", path.display()))
        })?;
        self.set_standing(standing);
        Ok(())
    }

    fn set_standing(&self, standing: Standing) {
        let mut held = self
            .standing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *held = Some(standing);
        drop(held);
        self.changed.send_replace(());
    }

    pub(super) fn current(&self) -> Result<Running, EngineError> {
        self.place(self.standing()?.current).running()
    }

    /// The place that a session is in. References of older versions name the engine, or nothing: the first place.
    fn seat_of(&self, session: &SessionRef) -> Seat {
        if session.server == second_server(self.settings.name.as_str()) {
            Seat::Second
        } else {
            Seat::First
        }
    }

    /// The place of a session. A place that has drained holds none.
    fn place_of(&self, session: &SessionRef) -> Result<&Arc<Place>, EngineError> {
        let seat = self.seat_of(session);
        if self.standing()?.wants(seat) {
            Ok(self.place(seat))
        } else {
            Err(EngineError::SessionGone)
        }
    }

    fn of(&self, session: &SessionRef) -> Result<Running, EngineError> {
        self.place_of(session)?.running()
    }

    /// The places that may hold sessions, the one for new sessions first.
    pub(super) fn wanted(&self) -> Result<Vec<Seat>, EngineError> {
        let standing = self.standing()?;
        let seats = [standing.current, standing.current.other()];
        Ok(seats
            .into_iter()
            .filter(|seat| standing.wants(*seat))
            .collect())
    }

    async fn start_all(&self) -> Result<EngineReady, EngineError> {
        let _choosing = self.choosing.lock().await;
        let standing = self
            .standing()
            .unwrap_or_else(|_| Standing::read(&self.files.standing(), self.second.was_used()));
        let mut ready = self.place(standing.current).start_or_adopt().await?;
        let other = self.place(standing.current.other());
        if standing.draining {
            let told = match tokio::time::timeout(OTHER_LIMIT, other.start_or_adopt()).await {
                Ok(Ok(drains)) => drains.note,
                // The stream goes on trying; what runs in the current one must not wait for it.
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("it takes long to start".to_owned()),
            };
            let told = told.map_or_else(String::new, |told| format!(" ({told})"));
            add_note(
                &mut ready,
                format!("an older worker finishes its sessions{told}"),
            );
        } else if other.was_used()
            && let Err(error) = other.end(StopHow::EndWorkers).await
        {
            // Started by a Chargehand that was killed before anything was opened in it, or drained and not ended. What is left is ended
            // before the place is used again.
            tracing::warn!(%error, "what an older worker left cannot be ended now");
        }
        self.set_standing(standing);
        Ok(ready)
    }

    async fn open_session(
        &self,
        request: OpenSession,
    ) -> Result<(SessionRef, WorkerId), EngineError> {
        let _opening = self.opening.read().await;
        let standing = self.standing()?;
        if standing.draining {
            // Asked without the directory: a worker that is asked about one keeps it in memory.
            match self.opened_in_old(standing, request.attempt).await {
                Ok(Some(old)) => {
                    let session = old.driver.open(request).await?;
                    return Ok((session, old.driver.worker));
                }
                Ok(None) => {}
                // An opening that nobody heard of was given no prompt; what it left is removed with the attempt.
                Err(error) => tracing::warn!(%error, "the older worker does not tell its sessions"),
            }
        }
        let running = self.choose(&request.directory).await?;
        let session = running.driver.open(request).await?;
        Ok((session, running.driver.worker))
    }

    /// The old worker, if it has a session of the attempt.
    async fn opened_in_old(
        &self,
        standing: Standing,
        attempt: AttemptId,
    ) -> Result<Option<Running>, EngineError> {
        let old = self.place(standing.current.other()).running()?;
        let owned = tokio::time::timeout(OPENINGS_LIMIT, old.driver.owned()).await;
        let owned = owned.unwrap_or_else(|_| Err(slow()))?;
        let has_it = owned.iter().any(|owned| owned.attempt == attempt);
        Ok(has_it.then_some(old))
    }

    /// The worker that takes a session in this directory. Beyond the limits: a fresh one in place of an idle one; else one beside it; and
    /// while that is not possible because an older one still drains, the same, for a task that waits helps nobody.
    async fn choose(&self, directory: &str) -> Result<Running, EngineError> {
        let _choosing = self.choosing.lock().await;
        let standing = self.standing()?;
        let current = self.place(standing.current);
        let chosen = if current.is_worn_for(directory)?
            && !current.replace_if_idle().await?
            && !standing.draining
            && current.running()?.version.lists_all_sessions()
            && self.may_add()
        {
            self.next_generation(standing).await?
        } else {
            current
        };
        chosen.serve(directory)?;
        chosen.running()
    }

    async fn owned_by_all(&self) -> Result<Vec<OwnedAttempt>, EngineError> {
        let standing = self.standing()?;
        let mut all = self.current()?.driver.owned().await?;
        if standing.draining {
            let old = self.place(standing.current.other());
            let owned = async { old.running()?.driver.owned().await };
            match owned.await {
                Ok(owned) => all.extend(owned),
                // What is left in it without an owner is found by the next look.
                Err(error) => tracing::warn!(%error, "the older worker does not tell its sessions"),
            }
        }
        Ok(all)
    }

    async fn remove_all(
        &self,
        attempt: AttemptId,
        session: Option<SessionRef>,
        directory: Option<String>,
    ) -> Result<(), EngineError> {
        let standing = self.standing()?;
        let place = session.as_ref().map(|session| self.seat_of(session));
        for seat in self.wanted()? {
            let driver = match self.place(seat).running() {
                Ok(running) => running.driver,
                // A second session that it may have is found when it is there again.
                Err(_) if place.is_some_and(|place| place != seat) => continue,
                Err(error) => return Err(error),
            };
            let known = session.clone().filter(|known| self.seat_of(known) == seat);
            if known.is_some() || !standing.draining {
                driver.remove(attempt, known, directory.clone()).await?;
                continue;
            }
            // Asked without the directory, as when a session is opened.
            let owned = tokio::time::timeout(OPENINGS_LIMIT, driver.owned()).await;
            let owned = match owned.unwrap_or_else(|_| Err(slow())) {
                Ok(owned) => owned,
                Err(_) if place.is_some_and(|place| place != seat) => continue,
                Err(error) => return Err(error),
            };
            for owned in owned {
                if owned.attempt == attempt {
                    driver.remove(attempt, owned.session, None).await?;
                }
            }
        }
        self.changed.send_replace(());
        match directory {
            Some(directory) => end_in(directory, Owner::instance(&self.settings.instance)).await,
            None => Ok(()),
        }
    }

    fn living(&self) -> Vec<Running> {
        let seats = self.wanted().unwrap_or_default().into_iter();
        seats
            .filter_map(|seat| self.place(seat).running().ok())
            .collect()
    }
}

pub(super) fn slow() -> EngineError {
    EngineError::Unreachable("it did not answer in time".to_owned())
}

fn described(running: &Running) -> String {
    format!(
        "pid {}, {} MB, {} directories",
        running.process.worker.pid,
        running.process.worker.memory().unwrap_or(0) / 1_000_000,
        running.driver.gate.count(),
    )
}

fn second_server(engine: &str) -> String {
    format!("{engine}-2")
}

impl Engine for LocalEngine {
    fn name(&self) -> EngineName {
        self.settings.name.clone()
    }

    fn pause_ability(&self) -> PauseAbility {
        PauseAbility::AbortAndPrompt
    }

    fn start(&self) -> PortFuture<'_, Result<EngineReady, EngineError>> {
        Box::pin(self.start_all())
    }

    fn watch(&self, sink: SignalSink) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(self.watch_all(sink))
    }

    fn probe(&self) -> PortFuture<'_, Result<EngineHealth, EngineError>> {
        Box::pin(async move {
            let current = self.current()?;
            let client = &current.driver.client;
            let health = client.health(Duration::from_secs(10)).await?;
            let address = client.address();
            let workers: Vec<String> = self.living().iter().map(described).collect();
            let workers = workers.join("; an older one finishes its sessions: ");
            let detail = format!("OpenCode {} at {address}, {workers}", health.version);
            Ok(EngineHealth { detail })
        })
    }

    fn numbers(&self) -> EngineNumbers {
        let Ok(current) = self.current() else {
            return EngineNumbers::default();
        };
        let living = self.living();
        let memory = living.iter().filter_map(|one| one.process.worker.memory());
        let directories: usize = living.iter().map(|one| one.driver.gate.count()).sum();
        EngineNumbers {
            generation: Some(u64::from(current.process.generation)),
            memory_bytes: Some(memory.sum()),
            directories: u64::try_from(directories).ok(),
        }
    }

    fn owned(&self) -> PortFuture<'_, Result<Vec<OwnedAttempt>, EngineError>> {
        Box::pin(self.owned_by_all())
    }

    fn open(
        &self,
        request: OpenSession,
    ) -> PortFuture<'_, Result<(SessionRef, WorkerId), EngineError>> {
        Box::pin(self.open_session(request))
    }

    fn prompt(&self, request: SendPrompt) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let place = self.place_of(&request.session)?;
            let _sending = place.sending.read().await;
            place.running()?.driver.prompt(request).await
        })
    }

    fn read(
        &self,
        session: SessionRef,
        prompts: Vec<String>,
    ) -> PortFuture<'_, Result<SessionReport, EngineError>> {
        Box::pin(async move {
            let running = self.of(&session)?;
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
        Box::pin(async move {
            match self.of(&session) {
                Ok(running) => running.driver.abort(&session).await,
                Err(EngineError::SessionGone) => Ok(()),
                Err(error) => Err(error),
            }
        })
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
            let driver = self.of(&session)?.driver;
            driver.answer(&session, &request, &answer).await
        })
    }

    fn remove(
        &self,
        attempt: AttemptId,
        session: Option<SessionRef>,
        directory: Option<String>,
    ) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(self.remove_all(attempt, session, directory))
    }

    fn stop(&self, how: StopHow) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let second = async {
                // One that never had a worker has nothing to end.
                if self.second.was_used() {
                    self.second.end(how).await
                } else {
                    Ok(())
                }
            };
            let (second, first) = futures_util::future::join(second, self.first.end(how)).await;
            first.and(second)
        })
    }
}

pub(super) fn cannot_freeze() -> EngineError {
    EngineError::Refused(
        "this engine cannot freeze a session; it pauses by ending the run and going on with a new prompt".to_owned(),
    )
}
