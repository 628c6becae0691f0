//! Starting a local worker through its guard, and knowing when it listens.
//!
//! In: the program, the settings, the engine's directory. Out: a running worker with the port that it printed. The worker's
//! environment is made from nothing, so that no key, proxy or configuration of Chargehand's reaches it by accident.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use chargehand_actors::ports::EngineError;
use tokio::time::Instant;

use super::environment::server_environment;
use super::orphans::{MARK, boot_id};
use super::record::{Files, ProcessRecord, Record, private, read};
use super::settings::OpencodeSettings;

/// How long a worker may take until it listens; the first start of a data directory migrates its database.
const START_LIMIT: Duration = Duration::from_secs(90);

/// What OpenCode prints when it listens. A request that arrives earlier is never answered.
const LISTENING: &str = "opencode server listening on http";

/// What is needed to start a worker.
pub(super) struct Launch<'a> {
    pub(super) program: &'a Path,
    pub(super) guard: &'a Path,
    pub(super) abandoned_after: Duration,
    pub(super) files: &'a Files,
    pub(super) record: &'a Record,
    pub(super) settings: &'a OpencodeSettings,
}

/// Spawns the guard, which spawns the worker. The record must be written already.
pub(super) fn launch(launch: &Launch<'_>) -> Result<tokio::process::Child, EngineError> {
    let files = launch.files;
    let home = files.directory.join("home");
    fs::create_dir_all(&home).map_err(|error| cannot("make", &home, &error))?;
    // Emptied first: the line of an earlier worker must not be taken for this one's.
    let log = private(&launch.record.log, true)
        .and_then(|_| private(&launch.record.log, false))
        .map_err(|error| cannot("write", &launch.record.log, &error))?;
    let log_too = log
        .try_clone()
        .map_err(|error| cannot("write", &launch.record.log, &error))?;
    let mut command = tokio::process::Command::new(launch.guard);
    command
        .arg("guard")
        .arg(files.process())
        .arg(files.lease())
        .arg(launch.abandoned_after.as_secs().to_string())
        .arg(launch.record.generation.to_string())
        .arg(launch.program)
        .args(["serve", "--hostname", "127.0.0.1", "--port", "0"])
        .env_clear()
        .envs(environment(launch, &home, |name| std::env::var_os(name)))
        .current_dir(&home)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too)
        .kill_on_drop(false);
    command.spawn().map_err(|error| {
        EngineError::Unusable(format!(
            "the guard {} cannot be started: {error}",
            launch.guard.display()
        ))
    })
}

/// The worker's whole environment.
fn environment(
    launch: &Launch<'_>,
    home: &Path,
    ours: impl Fn(&str) -> Option<OsString>,
) -> BTreeMap<String, OsString> {
    let data = &launch.files.directory;
    let path = |below: &str| data.join(below).into_os_string();
    let mut all: BTreeMap<String, OsString> = BTreeMap::new();
    for name in ["PATH", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        if let Some(value) = ours(name) {
            all.insert(name.to_owned(), value);
        }
    }
    let server = server_environment(launch.settings, &launch.record.password);
    all.extend(server.into_iter().map(|(name, value)| (name, value.into())));
    let mut set = |name: &str, value: OsString| {
        all.insert(name.to_owned(), value);
    };
    set("HOME", home.as_os_str().to_owned());
    // OpenCode believes PWD more than its real working directory.
    set("PWD", home.as_os_str().to_owned());
    set("XDG_DATA_HOME", path("xdg/data"));
    set("XDG_CONFIG_HOME", path("xdg/config"));
    set("XDG_CACHE_HOME", path("xdg/cache"));
    set("XDG_STATE_HOME", path("xdg/state"));
    // A guard has points of its own to die at.
    #[cfg(feature = "crash-points")]
    if let Some(order) = ours(chargehand_actors::crash::VARIABLE) {
        set(chargehand_actors::crash::VARIABLE, order);
    }
    set(MARK, launch.record.owner.clone().into());
    all
}

/// Waits until the guard has written down the worker; `over` says that the guard has ended.
pub(super) async fn wait_for_process(
    files: &Files,
    generation: u32,
    guard_runs: impl Fn() -> bool,
) -> Result<ProcessRecord, EngineError> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        // Asked before the file is read: what it wrote before it ended counts.
        let lost = !guard_runs();
        if let Some(found) = read::<ProcessRecord>(&files.process())
            && found.generation == generation
        {
            return Ok(found);
        }
        if lost || Instant::now() > end {
            return Err(EngineError::Fault(format!(
                "OpenCode did not start; its log says: {}",
                log_tail(&files.log(generation))
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the worker has printed that it listens, and gives its port.
pub(super) async fn wait_for_port(
    record: &Record,
    process: &ProcessRecord,
) -> Result<u16, EngineError> {
    let end = Instant::now() + START_LIMIT;
    loop {
        if let Some(port) = fs::read_to_string(&record.log)
            .ok()
            .as_deref()
            .and_then(port_in)
        {
            return Ok(port);
        }
        if !process.worker.is_alive() {
            return Err(EngineError::Fault(format!(
                "OpenCode ended before it listened; its log says: {}",
                log_tail(&record.log)
            )));
        }
        if Instant::now() > end {
            return Err(EngineError::Fault(format!(
                "OpenCode did not listen within {} s; its log says: {}",
                START_LIMIT.as_secs(),
                log_tail(&record.log)
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn port_in(log: &str) -> Option<u16> {
    let line = log.lines().rev().find(|line| line.contains(LISTENING))?;
    let (_, port) = line.trim_end().trim_end_matches('/').rsplit_once(':')?;
    port.parse().ok()
}

/// The process that the guard wrote down, if it is of this record, this boot, and alive.
pub(super) fn living(files: &Files, record: &Record) -> Option<ProcessRecord> {
    read::<ProcessRecord>(&files.process()).filter(|process| {
        process.generation == record.generation
            && Some(&process.boot_id) == boot_id().as_ref()
            && process.worker.is_alive()
    })
}

fn log_tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    let tail: Vec<&str> = lines.into_iter().rev().collect();
    if tail.is_empty() {
        "nothing".to_owned()
    } else {
        tail.join(" | ").chars().take(800).collect()
    }
}

/// Removes the logs of all but the last three generations.
pub(super) fn drop_old_logs(files: &Files, generation: u32) {
    // Generations are counted over both places: some have no log here.
    for old in (1..generation.saturating_sub(2)).rev().take(50) {
        let path: PathBuf = files.log(old);
        drop(fs::remove_file(path));
    }
}

pub(super) fn cannot(what: &str, path: &Path, error: &io::Error) -> EngineError {
    EngineError::Unusable(format!(
        "cannot {what} {}: {error}; the engine `local` needs a data directory that it can write to",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::opencode::settings::Secret;

    #[test]
    fn the_port_is_the_last_one_printed() {
        let log = "Warning: x\nopencode server listening on http://127.0.0.1:4096\nnoise\nopencode server listening on http://127.0.0.1:40961\n";
        assert_eq!(port_in(log), Some(40961));
        assert_eq!(port_in("opencode server"), None);
        assert_eq!(
            port_in("opencode server listening on http://127.0.0.1:"),
            None
        );
    }

    #[test]
    fn nothing_of_our_environment_gets_in_by_accident() {
        let files = Files {
            directory: PathBuf::from("/d"),
        };
        let record = Record {
            generation: 1,
            owner: "i/1".to_owned(),
            password: Secret::new("pw"),
            log: files.log(1),
        };
        let settings = OpencodeSettings {
            environment: BTreeMap::from([("ALLOWED".to_owned(), Secret::new("given"))]),
            ..OpencodeSettings::default()
        };
        let launch = Launch {
            program: Path::new("opencode"),
            guard: Path::new("chargehand"),
            abandoned_after: Duration::from_secs(1),
            files: &files,
            record: &record,
            settings: &settings,
        };
        let ours = |name: &str| match name {
            "PATH" | "ANTHROPIC_API_KEY" | "HTTP_PROXY" => Some("v".into()),
            _ => None,
        };
        let all = environment(&launch, Path::new("/d/home"), ours);
        assert!(all.contains_key("PATH"));
        assert_eq!(all.get("ALLOWED"), Some(&"given".into()));
        for name in ["ANTHROPIC_API_KEY", "HTTP_PROXY"] {
            assert!(!all.contains_key(name), "{name}");
        }
        assert_eq!(
            all.get("OPENCODE_DISABLE_PROJECT_CONFIG"),
            Some(&"1".into())
        );
        assert_eq!(all.get(MARK), Some(&"i/1".into()));
    }
}
