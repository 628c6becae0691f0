//! The data directory: made, locked for this process, and given its instance id.
//!
//! In: a path. Out: a [`DataDir`] that holds the lock while it lives, or who holds it. Two programs on one directory
//! would both own its tasks; the lock is the kernel's, so that it ends with the process, however that ends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chargehand_actors::crash::CrashPoint;
use chargehand_actors::id::InstanceId;
use rustix::fs::FlockOperation;
use uuid::Uuid;

const LOCK: &str = "lock";
const INSTANCE: &str = "instance";
const INSTANCE_LENGTH: usize = 12;
/// How long the lock of a process that is dead is waited for: a program that it was just starting has it until it begins.
const DEAD_HOLDER: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The locked data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    instance: InstanceId,
    /// The lock lasts as long as this is open. Child processes do not inherit it.
    _lock: File,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "data directory {path} is in use by {holder}; stop that one first, or use another data directory",
        path = path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// For a person: the process by its number, when it is known.
        holder: String,
    },
    /// It cannot be made, read or written.
    #[error(
        "data directory {path}: {step}; nothing was started. Chargehand needs a directory that it can make and write to: \
         mend it, or name another with --data-dir (setting data.dir)",
        path = path.display()
    )]
    Io {
        /// The directory.
        path: PathBuf,
        /// What failed.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The instance file holds no instance id.
    #[error(
        "{path} does not hold 12 hexadecimal digits; put the right ones back (every container and session of this \
         directory carries them), or remove the file when nothing of it is left running",
        path = path.display()
    )]
    BadInstance {
        /// The file.
        path: PathBuf,
    },
}

impl DataDir {
    /// Makes the directory if it is missing (for its owner alone), locks it, and reads or makes its instance id.
    ///
    /// # Errors
    /// See [`DataDirError`]; the lock of a process that lives is never waited for.
    pub fn lock(path: impl Into<PathBuf>) -> Result<Self, DataDirError> {
        let path = path.into();
        let io = |step| {
            let path = path.clone();
            move |source| DataDirError::Io { path, step, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(io("it cannot be made"))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(io("its lock file cannot be opened"))?;
        let end = Instant::now() + DEAD_HOLDER;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let holder = holder(&mut lock);
                    if holder.is_none_or(lives) || Instant::now() > end {
                        let holder = holder
                            .map_or("another process".to_owned(), |pid| format!("process {pid}"));
                        return Err(DataDirError::InUse { path, holder });
                    }
                    std::thread::sleep(LOOK_AGAIN);
                }
                Err(error) => return Err(io("it cannot be locked")(error.into())),
            }
        }
        note_holder(&mut lock).map_err(io("its lock file cannot be written"))?;
        let instance = match read_instance(&path)? {
            Some(instance) => instance,
            None => make_instance(&path).map_err(io("its instance id cannot be written"))?,
        };
        Ok(Self {
            path,
            instance,
            _lock: lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its instance id: 12 hexadecimal digits, the same for ever.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }
}

/// Who wrote the lock file last: the holder, except for the moment between its lock and its note.
fn holder(lock: &mut File) -> Option<i32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Whether a process is there. One that cannot be asked about counts as alive.
fn lives(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else {
        return true;
    };
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

fn note_holder(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())?;
    lock.flush()
}

fn read_instance(directory: &Path) -> Result<Option<InstanceId>, DataDirError> {
    let path = directory.join(INSTANCE);
    // Reading a FIFO would wait for ever.
    if fs::metadata(&path).is_ok_and(|meta| !meta.is_file()) {
        return Err(DataDirError::BadInstance { path });
    }
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(DataDirError::Io {
                path,
                step: "it cannot be read",
                source,
            });
        }
    };
    let id = text.trim();
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if id.len() != INSTANCE_LENGTH || !id.bytes().all(digit) {
        return Err(DataDirError::BadInstance { path });
    }
    Ok(Some(InstanceId(id.to_owned())))
}

/// Written beside and renamed, so that a crash leaves either no id or a whole one.
fn make_instance(directory: &Path) -> io::Result<InstanceId> {
    let mut id = Uuid::new_v4().simple().to_string();
    id.truncate(INSTANCE_LENGTH);
    let draft = directory.join("instance.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    CrashPoint::BeforeInstance.pass();
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&draft, directory.join(INSTANCE))?;
    File::open(directory)?.sync_all()?;
    CrashPoint::AfterInstance.pass();
    Ok(InstanceId(id))
}
