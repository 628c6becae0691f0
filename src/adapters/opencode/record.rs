//! What is written down about a local worker, so that the next Chargehand finds it again.
//!
//! `record.json` is written before anything is spawned (generation, password, log file), `process.json` by the guard right after
//! it spawned the worker (pids with their start ticks and the boot id), and the port stands in the log file. Files are 0600
//! and replaced as a whole. A crash between any two steps leaves either a worker that can be adopted or processes that carry the
//! owner's mark and are ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::orphans::Process;
use super::settings::Secret;

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
    fs::rename(&beside, path)
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
