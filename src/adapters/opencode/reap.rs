//! What instances left behind on this machine and on a remote server, whoever they are: for `chargehand reap`.
//!
//! In: `/proc`, the settings of the remote engine. Out: processes and sessions with the instance that they carry; the end
//! of those of one instance. What carries no mark is never mentioned.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chargehand_actors::id::{AttemptId, InstanceId};
use chargehand_actors::ports::{Engine as _, EngineError};
use rustix::process::Signal;

use super::orphans::{Process, end_all, mark_of, marked, pids, variable_of};
use super::record::SECOND;
use super::remote::{RemoteEngine, RemoteSettings};

/// How long a guard may take to end what is below it.
const GUARD_LIMIT: Duration = Duration::from_secs(20);

/// A process that carries an instance's mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedProcess {
    /// Whose.
    pub instance: InstanceId,
    /// Its process id.
    pub pid: i32,
    /// Its command line, for a person.
    pub command: String,
    /// The data directory of its instance, as far as its environment tells.
    pub data_dir: Option<PathBuf>,
}

/// A session on a remote server that carries an instance's mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedSession {
    /// Whose.
    pub instance: InstanceId,
    /// Of which attempt.
    pub attempt: AttemptId,
    /// OpenCode's id.
    pub session: String,
}

/// All processes of this account that carry a mark.
pub fn marked_processes() -> Vec<MarkedProcess> {
    let described = |process: Process| {
        let mark = mark_of(process.pid)?;
        let (instance, _generation) = mark.split_once('/')?;
        Some(MarkedProcess {
            instance: InstanceId(instance.to_owned()),
            pid: process.pid,
            command: command_of(process.pid),
            data_dir: data_dir_of(process.pid),
        })
    };
    marked("").into_iter().filter_map(described).collect()
}

fn command_of(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words)
        .trim_end_matches('\0')
        .replace('\0', " ")
}

/// A worker keeps its data in `<data>/<engine>/xdg/data`, or in `<data>/<engine>/second/xdg/data`.
fn data_dir_of(pid: i32) -> Option<PathBuf> {
    let data = PathBuf::from(variable_of(pid, "XDG_DATA_HOME")?);
    let engine = data
        .parent()
        .filter(|_| data.ends_with("xdg/data"))?
        .parent()?;
    let engine = if engine.ends_with(SECOND) {
        engine.parent()?
    } else {
        engine
    };
    Some(engine.parent()?.to_owned())
}

/// A Chargehand that still works for this instance: the process that holds the lock file of its data directory, wherever
/// that was moved to, or one of `lost`, which are not there any more.
pub fn running_for(instance: &InstanceId, lost: &[PathBuf]) -> Option<i32> {
    let is_lock = |file: &Path| {
        let text = file.to_string_lossy();
        match text.strip_suffix("/lock (deleted)") {
            Some(directory) => lost.iter().any(|lost| lost == Path::new(directory)),
            None => file
                .parent()
                .filter(|_| file.ends_with("lock"))
                .is_some_and(|directory| is_data_dir_of(directory, instance)),
        }
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let holds = |pid: &i32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter();
        open.flatten()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|file| is_lock(&file)))
    };
    let mut others = pids().into_iter().filter(|pid| *pid != own);
    others.find(holds)
}

/// Whether this directory is the data directory of the instance.
pub fn is_data_dir_of(directory: &Path, instance: &InstanceId) -> bool {
    fs::read_to_string(directory.join("instance")).is_ok_and(|id| id.trim() == instance.0)
}

/// Ends every process that carries this instance's mark; its guards first, because they also end what has hidden its
/// mark. Gives how many were found.
///
/// # Errors
/// `Fault` names the processes that could not be ended.
pub async fn end_processes_of(instance: &InstanceId) -> Result<usize, EngineError> {
    let owner = format!("{}/", instance.0);
    let ended = tokio::task::spawn_blocking(move || {
        let found = marked(&owner).len();
        end_guards(&owner);
        end_all(|| marked(&owner)).map(|_| found)
    })
    .await
    .map_err(|error| EngineError::Fault(format!("ending the processes failed: {error}")))?;
    ended.map_err(|left| {
        let pids: Vec<String> = left.iter().map(|one| one.pid.to_string()).collect();
        let pids = pids.join(", ");
        EngineError::Fault(format!("these processes cannot be ended: {pids}"))
    })
}

fn end_guards(owner: &str) {
    let is_guard = |process: &Process| {
        let words = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(b"guard")
    };
    let guards: Vec<Process> = marked(owner).into_iter().filter(is_guard).collect();
    for guard in &guards {
        guard.signal(Signal::TERM);
    }
    let began = Instant::now();
    while guards.iter().any(|guard| guard.is_alive()) && began.elapsed() < GUARD_LIMIT {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All sessions on the server that carry a mark, of whatever instance.
///
/// # Errors
/// As [`chargehand_actors::ports::Engine::start`].
pub async fn marked_sessions(settings: RemoteSettings) -> Result<Vec<MarkedSession>, EngineError> {
    let engine = RemoteEngine::new(settings)?;
    engine.start().await?;
    let sessions = engine.driver()?.all_sessions().await?;
    let marked = sessions.into_iter().filter_map(|session| {
        let owner = session.owner().filter(|_| session.parent_id.is_none())?;
        Some(MarkedSession {
            instance: InstanceId(owner.instance),
            attempt: AttemptId {
                task: owner.task.parse().ok()?,
                number: owner.attempt,
            },
            session: session.id,
        })
    });
    Ok(marked.collect())
}

/// Ends and deletes the sessions on the server that carry the instance of `settings`. Gives how many there were.
///
/// # Errors
/// The first that could not be removed.
pub async fn remove_sessions_of(settings: RemoteSettings) -> Result<usize, EngineError> {
    let engine = RemoteEngine::new(settings)?;
    engine.start().await?;
    let owned = engine.owned().await?;
    let count = owned.len();
    for attempt in owned {
        let directory = attempt.session.as_ref().map(|s| s.directory.clone());
        engine
            .remove(attempt.attempt, attempt.session, directory)
            .await?;
    }
    Ok(count)
}
