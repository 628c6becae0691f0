//! What is written down about a local worker, so that the next Chargehand finds it again.
//!
//! `record.json` is written before anything is spawned (generation, password, log file), `process.json` by the guard right after
//! it spawned the worker (pids with their start ticks and the boot id), and the port stands in the log file. Files are 0600
//! and replaced as a whole. A crash between any two steps leaves either a worker that can be adopted or processes that carry the
//! owner's mark and are ended.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::orphans::Process;
use super::settings::Secret;

/// The second place's directory, below the first's.
pub(super) const SECOND: &str = "second";

/// Written before a worker is spawned.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Record {
    /// 1 for the first worker of the data directory.
    pub(super) generation: u32,
    /// Value of the mark in the environment of the worker and of everything that it starts.
    pub(super) owner: String,
    /// Password of its server.
    pub(super) password: Secret,
    /// Where its output goes.
    pub(super) log: PathBuf,
}

/// Written by the guard when the worker runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessRecord {
    /// Of the record that it belongs to.
    pub(super) generation: u32,
    /// Pids and ticks mean something within one boot only.
    pub(super) boot_id: String,
    /// The worker.
    pub(super) worker: Process,
    /// Its guard.
    pub(super) guard: Process,
}

/// The directories that a worker has served: kept over a restart of Chargehand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Served {
    /// Of the record that it belongs to.
    pub(super) generation: u32,
    /// Paths of workdirs.
    pub(super) directories: BTreeSet<String>,
}

/// One of the two data directories of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Seat {
    /// The engine's own directory.
    First,
    /// `second` below it.
    Second,
}

impl Seat {
    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// Which place takes new sessions, and whether the other may still hold some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) current: Seat,
    /// The other place serves what it has until that is gone; then its worker is ended.
    pub(super) draining: bool,
}

impl Standing {
    /// Whether a place may hold sessions.
    pub(super) fn wants(self, seat: Seat) -> bool {
        seat == self.current || self.draining
    }

    /// What stands in the file. Without it: one place, unless the second was ever used; then both are looked at.
    pub(super) fn read(path: &Path, second_was_used: bool) -> Self {
        read(path).unwrap_or(Self {
            current: Seat::First,
            draining: second_was_used,
        })
    }

    /// Writes it down.
    pub(super) fn write(self, path: &Path) -> io::Result<()> {
        replace(path, &serde_json::to_vec(&self)?)
    }
}

/// Names of the files in the engine's directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) directory: PathBuf,
}

impl Files {
    pub(super) fn record(&self) -> PathBuf {
        self.directory.join("record.json")
    }

    pub(super) fn process(&self) -> PathBuf {
        self.directory.join("process.json")
    }

    pub(super) fn served(&self) -> PathBuf {
        self.directory.join("served.json")
    }

    /// In the directory of the first place only.
    pub(super) fn standing(&self) -> PathBuf {
        self.directory.join("standing.json")
    }

    /// The second place, below the first.
    pub(super) fn second(&self) -> Self {
        Self {
            directory: self.directory.join(SECOND),
        }
    }

    /// Its time of change is the last sign of life of Chargehand.
    pub(super) fn lease(&self) -> PathBuf {
        self.directory.join("lease")
    }

    pub(super) fn log(&self, generation: u32) -> PathBuf {
        self.directory
            .join("logs")
            .join(format!("worker-{generation}.log"))
    }
}

impl Record {
    /// Writes it for the next start.
    pub(super) fn write(&self, files: &Files) -> io::Result<()> {
        let value = serde_json::json!({
            "generation": self.generation,
            "owner": self.owner,
            "password": self.password.reveal(),
            "log": self.log,
        });
        replace(&files.record(), value.to_string().as_bytes())
    }
}

/// Reads a file of ours; none if it is not there or not whole.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Replaces a file as a whole, readable by its owner only.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = private(&beside, true)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // The new name must outlive a loss of power, too.
    path.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Opens a file for writing, readable by its owner only: emptied, or to append.
pub(super) fn private(path: &Path, empty: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true);
    if empty {
        options.write(true).truncate(true);
    } else {
        options.append(true);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

/// Removes a file; not being there is fine.
pub(super) fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a file that cannot be written must fail the test"
    )]

    use super::*;

    #[test]
    fn where_sessions_may_be_is_kept_and_in_doubt_it_is_both_places() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("standing.json");
        let fresh = Standing::read(&path, false);
        assert_eq!((fresh.current, fresh.draining), (Seat::First, false));
        assert!(fresh.wants(Seat::First) && !fresh.wants(Seat::Second));
        assert!(Standing::read(&path, true).wants(Seat::Second));
        let switched = Standing {
            current: Seat::Second,
            draining: true,
        };
        switched.write(&path).unwrap();
        assert_eq!(Standing::read(&path, true), switched);
    }

    #[test]
    fn a_record_is_private_and_comes_back() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let files = Files {
            directory: directory.path().to_owned(),
        };
        let record = Record {
            generation: 3,
            owner: "i/3".to_owned(),
            password: Secret::new("hunter2"),
            log: files.log(3),
        };
        record.write(&files).unwrap();
        let mode = fs::metadata(files.record()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let back: Record = read(&files.record()).unwrap();
        assert_eq!((back.generation, back.password.reveal()), (3, "hunter2"));
        assert!(!format!("{back:?}").contains("hunter2"));
        fs::write(files.record(), b"{\"generation\":3").unwrap();
        assert!(
            read::<Record>(&files.record()).is_none(),
            "half a record is none"
        );
        forget(&files.record()).unwrap();
        forget(&files.record()).unwrap();
    }
}
