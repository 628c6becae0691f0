//! The guard: a small process of its own between Chargehand and a local worker (`chargehand guard …`, started by us only).
//!
//! It leaves Chargehand's terminal session, spawns the worker, writes down both processes, and stays as the parent to whom every
//! orphan below falls (child subreaper). When the worker ends, however it ends, everything that it left is ended. When the lease
//! file has not been touched for the given time, Chargehand is not coming back, and the worker is ended; so it is when the
//! guard is told to end. It holds no connection to Chargehand and no state. Why it exists: docs/design/local-engine.md.
//!
//! Arguments: process file, lease file, seconds, generation, program, arguments of the program.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime};

use chargehand_actors::crash::CrashPoint;
use rustix::process::{Signal, WaitOptions};
use tokio::signal::unix::{SignalKind, signal};

use super::orphans::{Process, below, boot_id, end_all};
use super::record::{ProcessRecord, replace};

/// Between two looks at the worker and the lease.
const EVERY: Duration = Duration::from_millis(200);

struct Orders {
    process_file: PathBuf,
    lease: PathBuf,
    abandoned_after: Duration,
    generation: u32,
    program: OsString,
    arguments: Vec<OsString>,
}

impl Orders {
    fn parse(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
        Some(Self {
            process_file: words.next()?.into(),
            lease: words.next()?.into(),
            abandoned_after: Duration::from_secs(words.next()?.to_str()?.parse().ok()?),
            generation: words.next()?.to_str()?.parse().ok()?,
            program: words.next()?,
            arguments: words.collect(),
        })
    }
}

/// The whole life of a guard. `words` are the arguments behind `guard`. What it has to say goes to its standard error, which
/// is the worker's log file.
pub fn guard_main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(orders) = Orders::parse(words) else {
        eprintln!("chargehand guard is started by Chargehand itself, not by hand");
        return ExitCode::from(2);
    };
    match guard(&orders) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("chargehand guard: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn guard(orders: &Orders) -> Result<(), String> {
    leave_session();
    let worker = spawn(orders)?;
    CrashPoint::AfterWorkerSpawn.pass();
    let own = i32::try_from(std::process::id()).map_err(|error| error.to_string())?;
    let written = Process::now(own)
        .zip(boot_id())
        .ok_or_else(|| "/proc is not readable".to_owned())
        .and_then(|(guard, boot_id)| {
            let record = ProcessRecord {
                generation: orders.generation,
                boot_id,
                worker,
                guard,
            };
            let text = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
            replace(&orders.process_file, &text).map_err(|error| error.to_string())
        });
    if written.is_ok() {
        CrashPoint::AfterProcessRecord.pass();
    }
    let waited = written.and_then(|()| wait_for_end(orders, worker));
    let ended = end_all(|| {
        reap();
        below(own)
    });
    match ended {
        Ok(0) => {}
        Ok(count) => eprintln!("chargehand guard: ended {count} processes that the worker left"),
        Err(left) => eprintln!("chargehand guard: could not end {left:?}"),
    }
    waited
}

/// Own session: neither the terminal nor a Ctrl-C of Chargehand reaches the worker. Orphans below become our children.
fn leave_session() {
    if let Err(error) = rustix::process::setsid() {
        eprintln!("chargehand guard: no session of its own: {error}");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        eprintln!("chargehand guard: orphans will not be adopted: {error}");
    }
}

fn spawn(orders: &Orders) -> Result<Process, String> {
    let child = Command::new(&orders.program)
        .args(&orders.arguments)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("{} cannot be started: {error}", orders.program.display()))?;
    let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
    Process::now(pid).ok_or_else(|| "the worker ended at once".to_owned())
}

/// Returns when the worker has ended, or was told to: because it is abandoned, or because the guard itself was told to end.
fn wait_for_end(orders: &Orders, worker: Process) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime for signals: {error}"))?;
    let _entered = runtime.enter();
    let mut told = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let why = runtime.block_on(async {
        tokio::select! {
            why = watch(orders, worker) => why,
            _ = told.recv() => Some("told to end".to_owned()),
        }
    });
    if let Some(why) = why {
        eprintln!("chargehand guard: {why}, the worker is ended");
        worker.signal(Signal::TERM);
    }
    Ok(())
}

/// None when the worker has ended, otherwise why it must.
async fn watch(orders: &Orders, worker: Process) -> Option<String> {
    let mut lease = Lease::new(lease_time(&orders.lease), Instant::now());
    while worker.is_alive() {
        reap();
        if lease.age(lease_time(&orders.lease), Instant::now()) > orders.abandoned_after {
            let seconds = orders.abandoned_after.as_secs();
            return Some(format!("no sign of Chargehand for {seconds} s"));
        }
        tokio::time::sleep(EVERY).await;
    }
    None
}

/// Waits for every child that has ended, also those adopted.
fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

fn lease_time(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// Measures how long the lease has stayed as it is, by our own clock: a suspended machine or a set clock ages no lease.
struct Lease {
    touched: Option<SystemTime>,
    since: Instant,
}

impl Lease {
    fn new(touched: Option<SystemTime>, now: Instant) -> Self {
        Self {
            touched,
            since: now,
        }
    }

    fn age(&mut self, touched: Option<SystemTime>, now: Instant) -> Duration {
        if touched != self.touched {
            self.touched = touched;
            self.since = now;
        }
        now.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ages_only_while_it_is_not_touched() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = Some(SystemTime::UNIX_EPOCH);
        let second = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(999_999));
        let mut lease = Lease::new(first, start);
        assert_eq!(lease.age(first, at(5)), Duration::from_secs(5));
        assert_eq!(lease.age(second, at(9)), Duration::ZERO);
        assert_eq!(lease.age(second, at(12)), Duration::from_secs(3));
        // A removed lease counts as touched once, then ages: the directory is gone.
        assert_eq!(lease.age(None, at(13)), Duration::ZERO);
        assert_eq!(lease.age(None, at(20)), Duration::from_secs(7));
    }

    #[test]
    fn orders_are_whole_or_none() {
        let words = |count: usize| {
            ["p.json", "lease", "60", "3", "opencode", "serve"]
                .iter()
                .take(count)
                .map(OsString::from)
                .collect::<Vec<_>>()
        };
        assert!(Orders::parse(words(4).into_iter()).is_none());
        let orders = Orders::parse(words(6).into_iter());
        assert!(orders.is_some_and(|orders| orders.generation == 3
            && orders.abandoned_after == Duration::from_secs(60)
            && orders.arguments == ["serve"]));
    }
}
