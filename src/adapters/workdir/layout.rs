//! Where an attempt's things lie, and what is remembered of its preparation.
//!
//! In: the settings and an attempt. Out: paths, and `state.json`: written once, whole, when a preparation is finished,
//! so that a half-made one is recognised by its absence.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use cap_std::fs::Dir;
use chargehand_actors::crash::CrashPoint;
use chargehand_actors::id::{AttemptId, TaskId};
use chargehand_actors::ports::WorkdirError;
use serde::{Deserialize, Serialize};

use super::confined::{Stamp, open_below};
use super::names::components;
use super::remove::open_up;
use super::settings::WorkdirSettings;

const STATE: &str = "state.json";
const VERSION: u32 = 1;
/// Between the number and a nonce in the name of a directory that is being made.
const MAKING: &str = ".making-";

/// The paths of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which.
    pub(super) attempt: AttemptId,
    /// Above all workdirs; the operator's.
    root: PathBuf,
    /// Of the two directories below: the attempt's number, with a suffix while they are being made.
    name: String,
    /// `<root>/<task>/<attempt>`.
    pub(super) holder: PathBuf,
    /// The workdir.
    pub(super) workdir: PathBuf,
    /// `<store>/<task>/<attempt>`.
    pub(super) store: PathBuf,
    /// Our bare repository.
    pub(super) repository: PathBuf,
    /// The patch file.
    pub(super) patch: PathBuf,
}

/// A file that was there at the baseline but not recorded in it (too large, not readable).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unrecorded {
    /// As shown by `names::show`.
    pub(super) path: String,
    /// Bytes then.
    pub(super) size: u64,
    /// Nanoseconds since the epoch.
    pub(super) modified: String,
    /// Nanoseconds since the epoch.
    pub(super) changed: String,
}

impl Unrecorded {
    /// A file as it is now.
    pub(super) fn new(path: &[u8], stamp: &Stamp) -> Self {
        Self {
            path: super::names::show(path),
            size: stamp.size,
            modified: stamp.modified.to_string(),
            changed: stamp.changed.to_string(),
        }
    }
}

/// What the diff is taken against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Baseline {
    /// In the bare repository.
    pub(super) commit: String,
    /// Its tree.
    pub(super) tree: String,
    /// Files that the tree does not hold.
    pub(super) unrecorded: Vec<Unrecorded>,
    /// Why it does not hold everything that was there.
    pub(super) incomplete: Option<String>,
}

/// What is remembered of a finished preparation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// None when there was no git.
    pub(super) baseline: Option<Baseline>,
    /// Said to the task: why there is no diff, or only part of one.
    pub(super) note: Option<String>,
}

impl State {
    /// A state to save.
    pub(super) const fn new(baseline: Option<Baseline>, note: Option<String>) -> Self {
        Self {
            version: VERSION,
            baseline,
            note,
        }
    }
}

/// The paths of an attempt.
pub(super) fn place(settings: &WorkdirSettings, attempt: AttemptId) -> Place {
    named_place(settings, attempt, attempt.number.to_string())
}

/// A place of its own to prepare an attempt in: whatever an earlier, killed preparation left running does not know it.
pub(super) fn making_place(settings: &WorkdirSettings, attempt: AttemptId) -> Place {
    let nonce = uuid::Uuid::new_v4().simple();
    named_place(
        settings,
        attempt,
        format!("{}{MAKING}{nonce}", attempt.number),
    )
}

fn named_place(settings: &WorkdirSettings, attempt: AttemptId, name: String) -> Place {
    let below = |base: &Path| base.join(attempt.task.to_string()).join(&name);
    let holder = below(&settings.root);
    let store = below(&settings.store);
    Place {
        attempt,
        root: settings.root.clone(),
        workdir: holder.join("work"),
        holder,
        repository: store.join("repo.git"),
        patch: store.join("changes.patch"),
        store,
        name,
    }
}

/// The latest attempt of a task whose preparation is finished, with its state.
pub(super) fn latest(
    settings: &WorkdirSettings,
    task: TaskId,
) -> Result<Option<(Place, State)>, WorkdirError> {
    let dir = settings.store.join(task.to_string());
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk("the task's baselines could not be listed", &error)),
    };
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    for number in numbers.into_iter().rev() {
        let place = place(settings, AttemptId { task, number });
        if let Some(state) = place.load()? {
            return Ok(Some((place, state)));
        }
    }
    Ok(None)
}

impl Place {
    /// The state of a finished preparation.
    pub(super) fn load(&self) -> Result<Option<State>, WorkdirError> {
        let path = self.store.join(STATE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk("the state of a workdir could not be read", &error)),
        };
        let state: State = serde_json::from_slice(&text).map_err(|error| {
            WorkdirError::Fault(format!(
                "the state of a workdir in {} is not readable: {error}",
                path.display()
            ))
        })?;
        if state.version == VERSION {
            Ok(Some(state))
        } else {
            Err(WorkdirError::Fault(format!(
                "{} was written by another version of Chargehand (format {}, this one reads {VERSION})",
                path.display(),
                state.version
            )))
        }
    }

    /// Makes a preparation final. Durable when it returns.
    pub(super) fn save(&self, state: &State) -> Result<(), WorkdirError> {
        let text = serde_json::to_vec_pretty(state).map_err(|error| {
            WorkdirError::Fault(format!("the state of a workdir cannot be written: {error}"))
        })?;
        let write = || {
            let new = self.store.join("state.json.new");
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, self.store.join(STATE))?;
            File::open(&self.store)?.sync_all()
        };
        write().map_err(|error| disk("the state of a workdir could not be written", &error))
    }

    /// Makes the directories around a new workdir; only our own user can look into them.
    pub(super) fn make(&self) -> Result<(), WorkdirError> {
        let make = |path: &Path| {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|error| {
                    disk(
                        &format!("directory {} could not be made", path.display()),
                        &error,
                    )
                })
        };
        make(&self.holder)?;
        make(&self.store)?;
        std::fs::create_dir(&self.workdir)
            .map_err(|error| disk("the workdir could not be made", &error))
    }

    /// The components of a path that a caller asked for; the workdir's real path is taken as well as its name here.
    pub(super) fn components(&self, asked: &str) -> Result<Vec<Vec<u8>>, WorkdirError> {
        let parts = components(&self.workdir, asked);
        if parts.is_ok() || !asked.starts_with('/') {
            return parts;
        }
        match (
            std::fs::canonicalize(&self.root),
            self.workdir.strip_prefix(&self.root),
        ) {
            (Ok(real), Ok(below)) => components(&real.join(below), asked),
            _ => parts,
        }
    }

    /// Everything that preparations of this attempt have left in the two directories, finished or not.
    pub(super) fn remains(&self) -> Result<Vec<PathBuf>, WorkdirError> {
        // The store first: without its state file the rest counts as half-made.
        let mut remains = vec![self.store.clone(), self.holder.clone()];
        let unfinished = format!("{}{MAKING}", self.attempt.number);
        for dir in [self.store.parent(), self.holder.parent()]
            .into_iter()
            .flatten()
        {
            let entries = match std::fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(disk("a task's directories could not be listed", &error)),
            };
            remains.extend(entries.flatten().map(|entry| entry.path()).filter(|path| {
                let name = path.file_name().map(|name| name.to_string_lossy());
                name.is_some_and(|name| name.starts_with(&unfinished))
            }));
        }
        Ok(remains)
    }

    /// Gives what was made here its final place; the store last, as its state file makes it count. Durable.
    pub(super) fn settle(&self, last: &Self) -> Result<(), WorkdirError> {
        let settle = || {
            std::fs::rename(&self.holder, &last.holder)?;
            CrashPoint::WorkdirHalfSettled.pass();
            std::fs::rename(&self.store, &last.store)?;
            last.store
                .parent()
                .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        };
        settle().map_err(|error| disk("a prepared workdir could not be put in its place", &error))
    }

    /// Opens the workdir; a link in its place is refused.
    pub(super) fn open(&self) -> Result<Dir, WorkdirError> {
        let task = self.attempt.task;
        let open = || open_below(&self.root, &[&task.to_string(), &self.name, "work"]);
        let opened = open().or_else(|error| {
            if error.kind() != io::ErrorKind::PermissionDenied {
                return Err(error);
            }
            // A worker may have taken the rights away from itself and us.
            let holder = open_below(&self.root, &[&task.to_string(), &self.name])?;
            open_up(holder.as_fd(), c"work");
            open()
        });
        opened.map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                missing(task)
            } else {
                disk("the workdir could not be opened", &error)
            }
        })
    }

    /// The branch that holds the result in the bare repository.
    pub(super) fn branch(&self) -> String {
        let task = self.attempt.task.to_string();
        format!("chargehand/{}", task.get(..8).unwrap_or(&task))
    }
}

/// There is no workdir.
pub(super) fn missing(task: TaskId) -> WorkdirError {
    WorkdirError::NotFound(format!(
        "task {task} has no workdir: it has not started yet, is being prepared, or was removed"
    ))
}

/// A fault of the disk, with what it means.
pub(super) fn disk(what: &str, error: &io::Error) -> WorkdirError {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space on the disk of the workdirs and try again"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; the disk of the workdirs is read-only",
        io::ErrorKind::PermissionDenied => "; Chargehand's user has no right to it",
        _ => "",
    };
    WorkdirError::Fault(format!("{what}: {error}{hint}"))
}
