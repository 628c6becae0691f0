//! A container whose OpenCode answers: its address, its password, a driver.
//!
//! In: a container's name. Out: a [`Worker`], or why there is none. One start of one container is one worker; the answer of an
//! earlier one is never taken for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chargehand_actors::crash::CrashPoint;
use chargehand_actors::id::WorkerId;
use chargehand_actors::ports::EngineError;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;
use url::Url;

use super::daemon::{Daemon, Flavor, Phase, State};
use super::place;
use super::secrets;
use super::settings::DockerSettings;
use super::spec::PORT;
use crate::adapters::opencode::client::{Client, Credentials};
use crate::adapters::opencode::driver::{Driver, DriverSettings};
use crate::adapters::opencode::environment::USERNAME;
use crate::adapters::opencode::translate::Translator;
use crate::adapters::opencode::version::Version;

/// From start to the first healthy answer.
const START_LIMIT: Duration = Duration::from_secs(50);
/// How long the first health call may take; each one after it twice as long as the one before, up to the longest. A worker that has
/// much to do answers late.
const HEALTH_LIMIT: Duration = Duration::from_millis(300);
const LONGEST_HEALTH_LIMIT: Duration = Duration::from_secs(5);
/// How long the log is read before it is tried whether OpenCode answers.
const LOG_LIMIT: Duration = Duration::from_secs(5);
/// What OpenCode prints when it listens. A request that comes earlier is never answered.
const LISTENING: &str = "opencode server listening";
/// How often a container that ends by itself is started in one go.
const STARTS: u32 = 3;
/// Lines of a log that are told.
const LINES: u32 = 8;
/// How often a worker on Podman may be killed.
const KILLS: usize = 2;
/// The exit code of a process killed by the kernel.
const KILLED: i64 = 137;
/// The exit code of a program that is not there, or cannot be run.
const NOT_THERE: [i64; 2] = [126, 127];

/// One start of one container.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) driver: Driver,
    pub(super) translator: AsyncMutex<Translator>,
    /// The session in it, once known.
    session: Mutex<Option<String>>,
}

impl Worker {
    /// The session that lives in it.
    pub(super) fn session(&self) -> Option<String> {
        self.session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Tells it which session lives in it.
    pub(super) fn serves(&self, session: &str) {
        let mut known = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != Some(session) {
            *known = Some(session.to_owned());
        }
    }
}

/// Which worker a state is of.
pub(super) fn worker_id(state: &State) -> WorkerId {
    let id = state.id.get(..12).unwrap_or(&state.id);
    WorkerId(format!("{id}@{}", state.started_at))
}

/// Waits until the container's OpenCode answers; starts the container where it has ended and may go on. For that alone it takes the
/// right to work on it: a freeze, an end or a removal does not wait for an OpenCode that does not answer.
pub(super) async fn ready<R, Right>(
    daemon: &Daemon,
    settings: &DockerSettings,
    name: &str,
    right: R,
) -> Result<Worker, EngineError>
where
    R: Fn() -> Right + Sync,
    Right: Future<Output = OwnedMutexGuard<()>> + Send,
{
    let end = Instant::now() + START_LIMIT;
    let mut starts = 0;
    while Instant::now() < end {
        if let Some(why) = place::ended(settings, name) {
            return Err(EngineError::Ended(why));
        }
        let mut state = stands(daemon, settings, name).await?;
        let mut held = None;
        if matches!(state.phase, Phase::Created | Phase::Exited { .. }) {
            held = Some(right().await);
            state = stands(daemon, settings, name).await?;
        }
        match &state.phase {
            Phase::Created => drop(start(daemon, settings, name, &state).await?),
            Phase::Exited {
                code,
                out_of_memory,
            } => {
                let end = (*code, *out_of_memory);
                may_go_on(daemon, settings, name, &state.started_at, end, starts).await?;
                if start(daemon, settings, name, &state).await? {
                    starts += 1;
                }
            }
            Phase::Paused => return Err(paused()),
            Phase::Unsettled => tokio::time::sleep(Duration::from_millis(100)).await,
            Phase::Running => {
                drop(held);
                if let Some(worker) = answering(daemon, settings, name, &state, end).await? {
                    return Ok(worker);
                }
            }
        }
    }
    Err(EngineError::Fault(format!(
        "OpenCode in container {name} did not answer within {} s; its log says: {}",
        START_LIMIT.as_secs(),
        last_lines(daemon, settings, name).await
    )))
}

async fn stands(
    daemon: &Daemon,
    settings: &DockerSettings,
    name: &str,
) -> Result<State, EngineError> {
    let state = daemon.inspect(name, &settings.network_name()).await?;
    state.ok_or(EngineError::SessionGone)
}

/// Starts the container, which stood as `before`, with the secrets that it reads then. True when it was really started, by this call or
/// by an earlier one. What the daemon refuses to start is none of the worker's ends: the daemon's error says why.
async fn start(
    daemon: &Daemon,
    settings: &DockerSettings,
    name: &str,
    before: &State,
) -> Result<bool, EngineError> {
    place::prepare(settings, name, None).await?;
    CrashPoint::ContainerMade.pass();
    let started = daemon.start(name).await;
    CrashPoint::ContainerStarted.pass();
    // Started by an earlier call, or really not: how it stands decides.
    let now = daemon.inspect(name, &settings.network_name()).await?;
    let now = now.ok_or(EngineError::SessionGone)?;
    match now.phase {
        _ if now.started_at != before.started_at => Ok(true),
        Phase::Created | Phase::Exited { .. } => started.and(Err(EngineError::Fault(format!(
            "container {name} does not run although the daemon said that it was started"
        )))),
        Phase::Running | Phase::Paused | Phase::Unsettled => Ok(false),
    }
}

/// The worker in a running container, once it listens; none when the container has ended meanwhile.
async fn answering(
    daemon: &Daemon,
    settings: &DockerSettings,
    name: &str,
    state: &State,
    end: Instant,
) -> Result<Option<Worker>, EngineError> {
    let Some(password) = secrets::password(settings, name) else {
        // Nobody can speak to it any more: started again, it reads a new one.
        tracing::warn!(container = %name, "the password of the worker is lost; it is started again with another");
        place::kill_is_ours(settings, name, &state.started_at).await?;
        daemon.kill(name).await?;
        return Ok(None);
    };
    let address = address(name, state)?;
    let client = client(address, password.reveal().to_owned())?;
    // In one that has run for long the line may be gone from the log, and reading to it may take long.
    if !has_run_long(state) {
        let since = started_second(state);
        while Instant::now() < end {
            match daemon.has_said(name, LISTENING, since, LOG_LIMIT).await? {
                Some(true) => break,
                Some(false) => return Ok(None),
                // The log may hang although it listens.
                None if client.health(HEALTH_LIMIT).await.is_ok() => break,
                None => {}
            }
        }
    }
    CrashPoint::ContainerListens.pass();
    let mut limit = HEALTH_LIMIT;
    while Instant::now() < end {
        if let Ok(health) = client.health(limit).await {
            return worker(settings, name, state, client, &health.version).map(Some);
        }
        limit = (limit * 2).min(LONGEST_HEALTH_LIMIT);
        let now = daemon.inspect(name, &settings.network_name()).await?;
        if now.is_none_or(|now| now.phase != Phase::Running) {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(None)
}

/// When the container was started, in seconds of the epoch by the daemon's clock; from the beginning where it does not say.
fn started_second(state: &State) -> i32 {
    started(state)
        .and_then(|at| i32::try_from(at.as_second()).ok())
        .unwrap_or(0)
}

/// Whether it runs for longer than a start may take. One whose start is not known does not.
fn has_run_long(state: &State) -> bool {
    let limit = i64::try_from(START_LIMIT.as_secs()).unwrap_or(i64::MAX);
    started(state).is_some_and(|at| jiff::Timestamp::now().as_second() - at.as_second() > limit)
}

fn started(state: &State) -> Option<jiff::Timestamp> {
    state.started_at.parse().ok()
}

/// Whether a container that ended may be started again on its own data. `started_at` says which of its starts ended.
async fn may_go_on(
    daemon: &Daemon,
    settings: &DockerSettings,
    name: &str,
    started_at: &str,
    (code, out_of_memory): (i64, bool),
    starts: u32,
) -> Result<(), EngineError> {
    if code == KILLED && !place::is_kill_ours(settings, name, started_at) {
        let killed = why_killed(daemon, settings, name, started_at, out_of_memory);
        if let Some(why) = killed.await? {
            place::end(settings, name, &why).await?;
            return Err(EngineError::Ended(why));
        }
    }
    let log = last_lines(daemon, settings, name).await;
    if NOT_THERE.contains(&code) {
        return Err(EngineError::Refused(format!(
            "the image {} cannot run a task: {log}; any image with opencode, git and sh in it will do (engines.docker.image)",
            settings.image
        )));
    }
    if starts >= STARTS {
        return Err(EngineError::Ended(format!(
            "OpenCode in the container ends by itself as soon as it is started (exit code {code}); its log says: {log}"
        )));
    }
    Ok(())
}

/// Why a worker that somebody else than Chargehand killed must not go on; none when it may.
async fn why_killed(
    daemon: &Daemon,
    settings: &DockerSettings,
    name: &str,
    started_at: &str,
    out_of_memory: bool,
) -> Result<Option<String>, EngineError> {
    let limit = settings.limits.memory >> 20;
    if out_of_memory {
        return Ok(Some(format!(
            "the worker ran out of memory: its limit is {limit} MB (engines.docker.memory); raise it, or give the worker less to do \
             at once"
        )));
    }
    if daemon.flavor() == Flavor::Docker {
        return Ok(None);
    }
    // Podman never says that it was for memory. Once may be anything; what repeats is not bad luck.
    let kills = place::count_kill(settings, name, started_at).await?;
    Ok((kills >= KILLS).then(|| {
        format!(
            "the worker was killed {kills} times, most likely for memory: its limit is {limit} MB (engines.docker.memory); raise \
             it, or give the worker less to do at once"
        )
    }))
}

/// For a reading a paused container is one that does not answer.
pub(super) fn paused() -> EngineError {
    EngineError::Unreachable("the container is paused".to_owned())
}

fn address(name: &str, state: &State) -> Result<SocketAddr, EngineError> {
    match (state.port, state.address) {
        (Some(port), _) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        (None, Some(address)) => Ok(SocketAddr::from((address, PORT))),
        (None, None) => Err(EngineError::Unreachable(format!(
            "container {name} has no address yet"
        ))),
    }
}

fn client(address: SocketAddr, password: String) -> Result<Client, EngineError> {
    let url = Url::parse(&format!("http://{address}/"))
        .map_err(|error| EngineError::Fault(error.to_string()))?;
    let credentials = Credentials {
        username: USERNAME.to_owned(),
        password,
    };
    // The containers' networks are on this machine: no proxy stands between.
    Client::near(url, Some(credentials))
}

fn worker(
    settings: &DockerSettings,
    name: &str,
    state: &State,
    client: Client,
    version: &str,
) -> Result<Worker, EngineError> {
    let driver = Driver::new(DriverSettings {
        client,
        instance: settings.instance.clone(),
        worker: worker_id(state),
        version: Version::accept(version)?,
        model: None,
        engine: name.to_owned(),
        adopted: true,
    });
    Ok(Worker {
        name: name.to_owned(),
        driver,
        translator: AsyncMutex::new(Translator::default()),
        session: Mutex::new(None),
    })
}

/// The container's last words as one line, for a message. They hold nothing that is secret.
async fn last_lines(daemon: &Daemon, settings: &DockerSettings, name: &str) -> String {
    let log = daemon.log(name, LINES).await.unwrap_or_default();
    one_line(&secrets::hidden(settings, name, &log))
}

/// A log's last lines as one.
fn one_line(log: &str) -> String {
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        "nothing".to_owned()
    } else {
        lines.join(" | ").chars().take(800).collect()
    }
}
