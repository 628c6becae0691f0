//! The containers of the attempts: made, found again, frozen, ended, removed. Whatever a call answered, how the container stands
//! afterwards decides.
//!
//! In: attempts and container names. Out: workers whose OpenCode answers, or why there is none. One at a time works on a container;
//! a call that makes one is never left half way, so that a removal that follows it finds what it made.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chargehand_actors::crash::CrashPoint;
use chargehand_actors::id::AttemptId;
use chargehand_actors::ports::{EngineError, EngineSignal, OpenSession, SessionSignal, SignalSink};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc};

use super::daemon::{Daemon, MAKING, Phase};
use super::memory::Memory;
use super::names;
use super::place;
use super::secrets;
use super::settings::{DockerSettings, Network};
use super::setup;
use super::spec::{self, Making};
use super::worker::{Worker, paused, ready, worker_id};

/// How long a stop waits for the removal of the network.
const LEAVING: Duration = Duration::from_secs(5);
/// How long the killing of a container may take at a stop, which has 15 s for all of it.
const HALTING: Duration = Duration::from_secs(8);
/// How long a record may keep a worker from being ended.
const RECORDING: Duration = Duration::from_secs(3);

/// The containers of one instance.
pub(super) struct Containers {
    pub(super) settings: DockerSettings,
    daemon: Mutex<Option<Daemon>>,
    /// Why no container can be made now, though those that there are go on.
    blocked: Mutex<Option<String>>,
    workers: Mutex<HashMap<String, Arc<Worker>>>,
    alone: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
    /// Why workers are to be ended, until that is recorded and they have ended.
    ending: Mutex<HashMap<String, String>>,
    /// Where new workers are told, while their streams are followed.
    watcher: Mutex<Option<mpsc::UnboundedSender<Arc<Worker>>>>,
    /// Where signals go, while somebody listens.
    sink: Mutex<Option<SignalSink>>,
    /// What the containers hold of the machine's memory.
    pub(super) memory: Memory,
}

impl Containers {
    pub(super) fn new(settings: DockerSettings) -> Self {
        Self {
            settings,
            daemon: Mutex::new(None),
            blocked: Mutex::new(None),
            workers: Mutex::default(),
            alone: Mutex::default(),
            ending: Mutex::default(),
            watcher: Mutex::new(None),
            sink: Mutex::new(None),
            memory: Memory::default(),
        }
    }

    pub(super) fn daemon(&self) -> Result<Daemon, EngineError> {
        lock(&self.daemon).clone().ok_or_else(|| {
            EngineError::Unreachable("the container daemon is not connected".to_owned())
        })
    }

    /// Connects to the daemon. What there is in it can be worked with from then on, whatever new containers lack.
    pub(super) async fn connect(&self) -> Result<Daemon, EngineError> {
        let daemon = Daemon::connect(&self.settings.endpoint).await?;
        *lock(&self.daemon) = Some(daemon.clone());
        Ok(daemon)
    }

    /// Makes sure of what a new container needs; gives what is missing, and what to do.
    pub(super) async fn missing(&self, daemon: &Daemon) -> Result<Option<String>, EngineError> {
        let missing = self.look_what_is_missing(daemon).await?;
        lock(&self.blocked).clone_from(&missing);
        Ok(missing)
    }

    /// Whether no container can be made now, as far as is known.
    pub(super) fn is_blocked(&self) -> bool {
        lock(&self.blocked).is_some()
    }

    async fn look_what_is_missing(&self, daemon: &Daemon) -> Result<Option<String>, EngineError> {
        let image = &self.settings.image;
        if !daemon.has_image(image).await? {
            return Ok(Some(format!(
                "the image {image} is not there; build it with `docker build --target worker -t {image} .` in Chargehand's \
                 source, or set engines.docker.image"
            )));
        }
        let settings = self.settings.clone();
        let ours = place::on_disk("the directory of the secrets cannot be used", move || {
            secrets::make_sure(&settings)
        });
        if let Err(error) = ours.await {
            return Ok(Some(error.to_string()));
        }
        if self.settings.network == Network::Internal {
            let (name, instance) = (self.network(), self.instance());
            if let Err(error) = daemon.internal_network(&name, &instance).await {
                return Ok(Some(error.to_string()));
            }
        }
        Ok(None)
    }

    /// Removes the network of this instance when nothing is in it any more. What fails here is done by the next stop, or by `reap`.
    pub(super) async fn leave_network(&self) {
        if self.settings.network != Network::Internal {
            return;
        }
        let Ok(daemon) = self.daemon() else { return };
        let removed = async {
            if daemon.containers(Some(&self.instance())).await?.is_empty() {
                daemon.remove_network(&self.network()).await?;
            }
            Ok::<(), EngineError>(())
        };
        match tokio::time::timeout(LEAVING, removed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the network was not removed"),
            Err(_) => tracing::debug!("the network was not removed in time"),
        }
    }

    pub(super) fn instance(&self) -> String {
        self.settings.instance.to_string()
    }

    /// The network that its containers are in.
    pub(super) fn network(&self) -> String {
        self.settings.network_name()
    }

    /// The right to work on a container.
    async fn alone(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock_of = Arc::clone(lock(&self.alone).entry(name.to_owned()).or_default());
        lock_of.lock_owned().await
    }

    /// The worker in the container of that name as it runs now; started, where it has ended and may go on.
    pub(super) async fn worker(&self, name: &str) -> Result<Arc<Worker>, EngineError> {
        let daemon = self.daemon()?;
        if let Some(why) = self.ending(name) {
            return Err(EngineError::Ended(why));
        }
        if let Some(worker) = self.running(&daemon, name).await? {
            return Ok(worker);
        }
        // One waits for its answer, the others for that one.
        let _waits = self.alone(&answer_of(name)).await;
        if let Some(worker) = self.running(&daemon, name).await? {
            return Ok(worker);
        }
        let worker = ready(&daemon, &self.settings, name, || self.alone(name)).await?;
        let _alone = self.alone(name).await;
        // It may have been removed or ended meanwhile.
        let state = daemon.inspect(name, &self.network()).await?;
        match state {
            Some(state) if worker_id(&state) == worker.driver.worker => {
                Ok(self.keep(Arc::new(worker)))
            }
            Some(_) => Err(EngineError::Unreachable(
                "the container was started anew meanwhile".to_owned(),
            )),
            None => Err(EngineError::SessionGone),
        }
    }

    /// The worker, if the container runs in the same start that we know.
    async fn running(
        &self,
        daemon: &Daemon,
        name: &str,
    ) -> Result<Option<Arc<Worker>>, EngineError> {
        let found = daemon.inspect(name, &self.network()).await?;
        let state = found.ok_or(EngineError::SessionGone)?;
        match state.phase {
            Phase::Paused => Err(paused()),
            Phase::Running => {
                let known = lock(&self.workers).get(name).cloned();
                Ok(known.filter(|known| known.driver.worker == worker_id(&state)))
            }
            Phase::Created | Phase::Exited { .. } | Phase::Unsettled => Ok(None),
        }
    }

    /// Remembers a worker and has its stream followed.
    fn keep(&self, worker: Arc<Worker>) -> Arc<Worker> {
        let mut workers = lock(&self.workers);
        let before = workers.insert(worker.name.clone(), Arc::clone(&worker));
        if let Some(session) = before.and_then(|before| before.session()) {
            worker.serves(&session);
        }
        if let Some(watcher) = &*lock(&self.watcher) {
            // Nobody follows: the next watch finds it among the known ones.
            drop(watcher.send(Arc::clone(&worker)));
        }
        worker
    }

    /// Workers known now, and a channel for those to come.
    pub(super) fn followed(&self) -> (Vec<Arc<Worker>>, mpsc::UnboundedReceiver<Arc<Worker>>) {
        let (watcher, fresh) = mpsc::unbounded_channel();
        // Under the same lock as `keep`: a worker is either known now or told through the channel.
        let workers = lock(&self.workers);
        *lock(&self.watcher) = Some(watcher);
        (workers.values().cloned().collect(), fresh)
    }

    /// Where signals go from now on.
    pub(super) fn listens(&self, sink: &SignalSink) {
        *lock(&self.sink) = Some(Arc::clone(sink));
    }

    /// Runs what is left of the setup in a worker's container, once and to its end, whoever gives up waiting for it.
    pub(super) async fn set_up(
        self: Arc<Self>,
        name: String,
        session: String,
    ) -> Result<(), EngineError> {
        let running = tokio::spawn(async move {
            // A right of its own: a removal does not wait for the commands, it ends them.
            let _alone = self.alone(&setup_of(&name)).await;
            let tell = |signal| {
                let sink = lock(&self.sink).clone();
                if let Some(sink) = sink {
                    let (session, child) = (session.clone(), false);
                    // A signal is a hint: nobody may be there to hear it.
                    let _heard = sink(EngineSignal::Session(SessionSignal {
                        session,
                        child,
                        signal,
                    }));
                }
            };
            setup::run(&self, &name, tell).await
        });
        running
            .await
            .unwrap_or_else(|error| Err(EngineError::Fault(error.to_string())))
    }

    /// The worker known under that name.
    pub(super) fn known(&self, name: &str) -> Option<Arc<Worker>> {
        lock(&self.workers).get(name).cloned()
    }

    /// All known workers.
    pub(super) fn all_known(&self) -> Vec<Arc<Worker>> {
        lock(&self.workers).values().cloned().collect()
    }

    /// Makes the attempt's container, unless there is one.
    pub(super) async fn make(
        self: Arc<Self>,
        name: String,
        request: &OpenSession,
    ) -> Result<(), EngineError> {
        let (attempt, caller) = (request.attempt, request.caller.clone());
        let workdir = PathBuf::from(&request.directory);
        let commands = setup::commands_for(&self.settings.setup, &request.source);
        // To its end, whoever gives up waiting for it: what follows must know what there is.
        let made = tokio::spawn(async move {
            self.make_alone(&name, attempt, &caller, (workdir, commands))
                .await
        });
        made.await
            .unwrap_or_else(|error| Err(EngineError::Fault(error.to_string())))
    }

    async fn make_alone(
        &self,
        name: &str,
        attempt: AttemptId,
        caller: &str,
        (workdir, commands): (PathBuf, Vec<String>),
    ) -> Result<(), EngineError> {
        let daemon = self.daemon()?;
        let _alone = self.alone(name).await;
        let network = self.network();
        if daemon.inspect(name, &network).await?.is_some() {
            return Ok(());
        }
        if let Some(why) = lock(&self.blocked).clone() {
            return Err(EngineError::Unreachable(why));
        }
        CrashPoint::ContainerMissing.pass();
        let place = place::prepare(&self.settings, name, Some(workdir.clone())).await?;
        let at = place::of(&self.settings, name);
        let planned = move || setup::plan(&at, &commands);
        place::on_disk("the setup cannot be recorded", planned).await?;
        CrashPoint::ContainerPlaceMade.pass();
        let making = Making {
            attempt,
            caller,
            workdir: &workdir,
            data: &place.data,
            secrets: &place.secrets,
            flavor: daemon.flavor(),
        };
        let body = spec::body(&self.settings, &making);
        match daemon.create(name, body, MAKING).await {
            Ok(()) => Ok(()),
            // Made by an earlier call whose answer was lost, or really not.
            Err(error) => match daemon.inspect(name, &network).await? {
                Some(_) => Ok(()),
                None => Err(self.why_not_made(&daemon, error).await),
            },
        }
    }

    /// A create that failed because the image has gone meanwhile is one that no repetition mends.
    async fn why_not_made(&self, daemon: &Daemon, error: EngineError) -> EngineError {
        let image = &self.settings.image;
        match daemon.has_image(image).await {
            Ok(false) => EngineError::Refused(format!(
                "the image {image} is no longer there; build it again with `docker build --target worker -t {image} .` in \
                 Chargehand's source, or set engines.docker.image"
            )),
            Ok(true) | Err(_) => error,
        }
    }

    /// Freezes or thaws.
    pub(super) async fn freeze(&self, name: &str, frozen: bool) -> Result<(), EngineError> {
        let daemon = self.daemon()?;
        let _alone = self.alone(name).await;
        if !frozen && self.ending(name).is_some() {
            // It must write no more: a reading tells why it does not go on.
            return Ok(());
        }
        let network = self.network();
        let wanted = |phase: &Phase| match phase {
            Phase::Paused => frozen,
            Phase::Running => !frozen,
            // Nothing runs in it: there is nothing to freeze, and nothing to thaw.
            Phase::Created | Phase::Exited { .. } => true,
            Phase::Unsettled => false,
        };
        let before = match daemon.inspect(name, &network).await? {
            Some(state) => state,
            // Nothing is frozen that is not there: a reading tells that it is gone.
            None if !frozen => return Ok(()),
            None => return Err(EngineError::SessionGone),
        };
        if wanted(&before.phase) {
            return Ok(());
        }
        let done = if frozen {
            daemon.pause(name).await
        } else {
            daemon.unpause(name).await
        };
        let after = daemon.inspect(name, &network).await?;
        match after {
            Some(state) if wanted(&state.phase) => Ok(()),
            None => Err(EngineError::SessionGone),
            Some(_) => done.and(Err(EngineError::Fault(format!(
                "container {name} is not {} although the daemon said so",
                if frozen { "paused" } else { "running" }
            )))),
        }
    }

    /// Ends what runs in a container and says why, so that it is not started again. Where that cannot be recorded (the worker may have
    /// filled the disk), it is frozen instead, to be ended by the next call.
    pub(super) async fn end(&self, name: &str, why: &str) -> Result<(), EngineError> {
        let daemon = self.daemon()?;
        let _alone = self.alone(name).await;
        if daemon.inspect(name, &self.network()).await?.is_none() {
            // Removed meanwhile, with all that it had: nothing is left that could be started again.
            lock(&self.ending).remove(name);
            return Ok(());
        }
        lock(&self.ending).insert(name.to_owned(), why.to_owned());
        if let Err(error) = recorded(place::end(&self.settings, name, why)).await {
            self.hold(&daemon, name).await?;
            return Err(error);
        }
        self.kill(&daemon, name).await?;
        lock(&self.ending).remove(name);
        Ok(())
    }

    /// Why the worker is to be ended, where that is not done yet.
    pub(super) fn ending(&self, name: &str) -> Option<String> {
        lock(&self.ending).get(name).cloned()
    }

    /// Freezes what must write no more; what cannot be frozen is killed, though no record tells a later Chargehand why.
    async fn hold(&self, daemon: &Daemon, name: &str) -> Result<(), EngineError> {
        let frozen = daemon.pause(name).await;
        let state = daemon.inspect(name, &self.network()).await?;
        if state.is_none_or(|state| state.phase != Phase::Running) {
            return Ok(());
        }
        if let Err(error) = frozen {
            tracing::warn!(container = %name, %error, "the worker could not be frozen; it is killed");
        }
        self.kill(daemon, name).await
    }

    /// Ends what runs in a container, which can go on later on its own data. Bounded in time.
    pub(super) async fn halt(&self, name: &str) -> Result<(), EngineError> {
        let daemon = self.daemon()?;
        let halted = async {
            let _alone = self.alone(name).await;
            self.kill(&daemon, name).await
        };
        let late = |_| {
            EngineError::Unreachable(format!(
                "container {name} was not killed within {} s",
                HALTING.as_secs()
            ))
        };
        tokio::time::timeout(HALTING, halted).await.map_err(late)?
    }

    async fn kill(&self, daemon: &Daemon, name: &str) -> Result<(), EngineError> {
        let network = self.network();
        let Some(state) = daemon.inspect(name, &network).await? else {
            return Ok(());
        };
        if state.phase == Phase::Paused {
            // Podman kills nothing that is frozen. Whether it worked is seen by what follows.
            drop(daemon.unpause(name).await);
        }
        if matches!(state.phase, Phase::Running | Phase::Paused) {
            let noted = place::kill_is_ours(&self.settings, name, &state.started_at);
            if let Err(error) = recorded(noted).await {
                // A worker that goes on is worse than a kill that may be taken for the kernel's later.
                tracing::warn!(container = %name, %error, "that Chargehand kills the worker is not recorded; it is killed all the same");
            }
        }
        let killed = daemon.kill(name).await;
        match daemon.inspect(name, &network).await? {
            Some(state) if matches!(state.phase, Phase::Running | Phase::Paused) => killed,
            Some(_) | None => Ok(()),
        }
    }

    /// Removes everything that the attempt owns.
    pub(super) async fn remove(&self, attempt: AttemptId) -> Result<(), EngineError> {
        let daemon = self.daemon()?;
        let name = names::name(&self.settings.instance, attempt);
        lock(&self.workers).remove(&name);
        let alone = self.alone(&name).await;
        let network = self.network();
        if let Some(state) = daemon.inspect(&name, &network).await? {
            if state.phase == Phase::Paused {
                // Podman kills nothing that is frozen. Whether it worked is seen by the removal.
                drop(daemon.unpause(&name).await);
            }
            let removed = daemon.remove(&name).await;
            if daemon.inspect(&name, &network).await?.is_some() {
                return removed.and(Err(EngineError::Fault(format!(
                    "container {name} is still there"
                ))));
            }
        }
        lock(&self.ending).remove(&name);
        CrashPoint::ContainerGone.pass();
        place::remove(&self.settings, &name).await?;
        drop(alone);
        let mut rights = lock(&self.alone);
        rights.remove(&name);
        rights.remove(&setup_of(&name));
        rights.remove(&answer_of(&name));
        Ok(())
    }

    /// The directories that the worker in a running container writes to.
    pub(super) async fn directories(&self, name: &str) -> Option<Vec<PathBuf>> {
        // A daemon that does not answer now is asked again soon.
        let found = self.daemon().ok()?.inspect(name, &self.network()).await;
        let state = found.ok()??;
        if state.phase != Phase::Running {
            return None;
        }
        let data = place::data(&self.settings, name);
        Some(state.workdir.into_iter().chain([data]).collect())
    }

    /// Every attempt that has a container of this instance, or something on disk.
    pub(super) async fn owned(&self) -> Result<HashSet<AttemptId>, EngineError> {
        let instance = &self.settings.instance;
        let found = self.daemon()?.containers(Some(&self.instance())).await?;
        let labelled = found
            .iter()
            .filter_map(|(_, labels)| names::owner(instance, labels));
        let left = place::names(&self.settings).await?;
        let on_disk = left.iter().filter_map(|name| names::named(instance, name));
        Ok(labelled.chain(on_disk).collect())
    }
}

/// A record, which a disk that hangs does not keep open.
async fn recorded(
    record: impl Future<Output = Result<(), EngineError>>,
) -> Result<(), EngineError> {
    tokio::time::timeout(RECORDING, record)
        .await
        .unwrap_or_else(|_| {
            Err(EngineError::Fault(
                "the worker's end cannot be recorded: the disk does not answer".to_owned(),
            ))
        })
}

/// What the right to run a container's setup is kept under; no container has such a name.
fn setup_of(name: &str) -> String {
    format!("{name}/setup")
}

/// What the right to wait for the answer of a container's OpenCode is kept under.
fn answer_of(name: &str) -> String {
    format!("{name}/answer")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
