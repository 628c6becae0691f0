//! Processes of a worker: who they are, whether they live, how they are ended.
//!
//! Shells of OpenCode are in sessions of their own and outlive it, so no process group and no parent leads to them: the mark in
//! their environment does, and below a living guard their parentage. A process is its pid and its start time together; a pid alone may
//! be anyone's. Reads `/proc`, therefore Linux only; elsewhere nothing is found and the engine refuses to start.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use chargehand_actors::id::InstanceId;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// The variable that marks a worker and everything that it starts: `<instance>/<generation>`.
pub(super) const MARK: &str = "CHARGEHAND_OWNER";

/// How long processes get to end by themselves.
const PATIENCE: Duration = Duration::from_secs(2);

/// When to give up ending them.
const LIMIT: Duration = Duration::from_secs(15);

/// One process in one life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Start time in clock ticks since boot.
    pub(super) ticks: u64,
}

/// What `/proc/<pid>/stat` says.
struct Stat {
    zombie: bool,
    parent: i32,
    ticks: u64,
}

impl Process {
    /// The process with this pid now, if it runs.
    pub(super) fn now(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (!stat.zombie).then_some(Self {
            pid,
            ticks: stat.ticks,
        })
    }

    /// Whether this very process still runs (a dead one that nobody has waited for does not).
    pub(super) fn is_alive(self) -> bool {
        Self::now(self.pid) == Some(self)
    }

    /// Sends a signal to this very process; nothing happens if it has ended.
    pub(super) fn signal(self, signal: Signal) {
        if !self.is_alive() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It may have ended since, or be another user's: the next scan tells.
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether its working directory is this one or below it.
    pub(super) fn works_in(self, directory: &Path) -> bool {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).is_ok_and(|cwd| cwd.starts_with(directory))
    }

    /// Resident memory in bytes.
    pub(super) fn memory(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kilobytes * 1024)
    }
}

/// Which processes of an instance belong together: `<instance>/<generation>`, in the second place `<instance>/b<generation>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    begins: String,
    /// Marks that begin like this are another place's.
    except: Option<String>,
}

impl Owner {
    /// Everything of an instance.
    pub(super) fn instance(instance: &InstanceId) -> Self {
        Self {
            begins: format!("{instance}/"),
            except: None,
        }
    }

    /// What belongs to the first place.
    pub(super) fn first(instance: &InstanceId) -> Self {
        Self {
            begins: format!("{instance}/"),
            except: Some(format!("{instance}/b")),
        }
    }

    /// What belongs to the second place.
    pub(super) fn second(instance: &InstanceId) -> Self {
        Self {
            begins: format!("{instance}/b"),
            except: None,
        }
    }

    /// The mark of a generation.
    pub(super) fn mark(&self, generation: u32) -> String {
        format!("{}{generation}", self.begins)
    }

    fn fits(&self, mark: &str) -> bool {
        mark.starts_with(&self.begins)
            && self
                .except
                .as_ref()
                .is_none_or(|except| !mark.starts_with(except))
    }

    /// Every process that carries one of its marks, this one excepted.
    pub(super) fn processes(&self) -> Vec<Process> {
        let fits = |process: &Process| mark_of(process.pid).is_some_and(|mark| self.fits(&mark));
        marked(&self.begins).into_iter().filter(fits).collect()
    }
}

/// This boot of the machine; none where there is no `/proc`.
pub(super) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in the second field may hold anything, also `)` and spaces: the fields are counted from its last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        ticks: fields.get(19)?.parse().ok()?,
    })
}

/// All processes.
pub(super) fn pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Every process that carries a mark beginning with `owner` (`<instance>/` for all generations), this one excepted.
pub(super) fn marked(owner: &str) -> Vec<Process> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    pids()
        .into_iter()
        .filter(|pid| *pid != own && carries(*pid, owner))
        .filter_map(Process::now)
        .collect()
}

fn carries(pid: i32, owner: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| has_mark(&environ, owner))
}

/// The mark that a process carries.
pub(super) fn mark_of(pid: i32) -> Option<String> {
    variable_of(pid, MARK)
}

/// A variable of a process's environment, if that can be read.
pub(super) fn variable_of(pid: i32, name: &str) -> Option<String> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environ.split(|byte| *byte == 0).find_map(|variable| {
        let rest = variable.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn has_mark(environ: &[u8], owner: &str) -> bool {
    environ.split(|byte| *byte == 0).any(|variable| {
        variable
            .strip_prefix(MARK.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            .is_some_and(|value| value.starts_with(owner.as_bytes()))
    })
}

/// Every process below `top`, at any depth.
pub(super) fn below(top: i32) -> Vec<Process> {
    let all: Vec<(i32, Stat)> = pids()
        .into_iter()
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect();
    let mut family = vec![top];
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        at += 1;
        for (pid, stat) in &all {
            if stat.parent == parent && !family.contains(pid) {
                family.push(*pid);
                if !stat.zombie {
                    found.push(Process {
                        pid: *pid,
                        ticks: stat.ticks,
                    });
                }
            }
        }
    }
    found
}

/// Ends what `scan` finds: asks, waits, kills, until two scans in a row find nothing. Blocks. Gives the number of processes
/// found at first, or those that could not be ended.
pub(super) fn end_all(scan: impl Fn() -> Vec<Process>) -> Result<usize, Vec<Process>> {
    let began = Instant::now();
    let first = scan();
    for process in &first {
        process.signal(Signal::TERM);
    }
    let mut empty = 0;
    loop {
        let left = scan();
        if left.is_empty() {
            empty += 1;
            if empty == 2 {
                return Ok(first.len());
            }
        } else {
            empty = 0;
        }
        if began.elapsed() > LIMIT {
            return Err(left);
        }
        if began.elapsed() > PATIENCE {
            for process in &left {
                process.signal(Signal::KILL);
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_hostile_name() {
        let text = "42 (a) Z 1 (b) S 7 42 42 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 9 0 123456 99 88";
        let stat = parse_stat(text);
        assert!(stat.is_some_and(|stat| !stat.zombie && stat.parent == 7 && stat.ticks == 123_456));
        assert!(parse_stat("nonsense").is_none());
    }

    #[test]
    fn each_place_has_marks_of_its_own() {
        let id = InstanceId("i1".to_owned());
        let (first, second) = (Owner::first(&id), Owner::second(&id));
        let table = [
            (first.mark(7), true, false),
            (second.mark(7), false, true),
            ("i12/7".to_owned(), false, false),
        ];
        for (mark, of_first, of_second) in table {
            let fits = (first.fits(&mark), second.fits(&mark));
            assert_eq!(fits, (of_first, of_second), "{mark}");
            assert_eq!(Owner::instance(&id).fits(&mark), of_first || of_second);
        }
    }

    #[test]
    fn a_mark_is_a_whole_variable_of_our_instance() {
        let table: [(&[u8], bool); 5] = [
            (b"PATH=/bin\0CHARGEHAND_OWNER=i1/7\0", true),
            (b"CHARGEHAND_OWNER=i1/7", true),
            (b"CHARGEHAND_OWNER=i12/7\0", false),
            (b"X=CHARGEHAND_OWNER=i1/7\0", false),
            (b"", false),
        ];
        for (environ, found) in table {
            assert_eq!(has_mark(environ, "i1/"), found, "{environ:?}");
        }
    }
}
