//! Copies a directory of this machine into a new workdir.
//!
//! In: an absolute path. Out: the same files, links and directories with their rights and times; links stay links and
//! are never followed. The original is only read. Special files, other file systems, and `.git` files that lead to a
//! repository elsewhere (work in the copy would change that one) are passed by and told.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use cap_std::fs::Dir;
use chargehand_actors::ports::WorkdirError;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timestamps};
use rustix::io::Errno;

use super::blocking::Stop;
use super::confined::{
    Stamp, device, file_type, open_directory, open_regular, open_trusted, special,
};
use super::import::in_words;
use super::names::show;
use super::settings::{WorkdirLimits, WorkdirSettings};

/// What was passed by is told up to here.
const TOLD: usize = 5;

struct Level {
    from: Dir,
    to: Dir,
    path: Vec<u8>,
}

/// A directory to copy; opened only when its turn comes, as there may be more of them than handles.
struct Pending {
    parent: Rc<Level>,
    name: CString,
    path: Vec<u8>,
}

struct Copy<'a> {
    limits: &'a WorkdirLimits,
    stop: &'a Stop,
    device: i128,
    entries: u64,
    bytes: u64,
    passed_by: Vec<String>,
    pending: Vec<Pending>,
}

/// Checks the path of a directory source; gives its real path.
pub(super) fn check_directory(
    settings: &WorkdirSettings,
    path: &str,
) -> Result<PathBuf, WorkdirError> {
    let bad = |why: &str| {
        let shown: String = show(path.as_bytes()).chars().take(300).collect();
        WorkdirError::BadSource(format!("directory \"{shown}\" cannot be used: {why}"))
    };
    if !path.starts_with('/') || path.contains('\0') {
        return Err(bad("give an absolute path"));
    }
    let real = std::fs::canonicalize(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => bad("it does not exist on Chargehand's machine"),
        _ => bad(&error.to_string()),
    })?;
    if !real.is_dir() {
        return Err(bad("it is not a directory"));
    }
    for ours in [&settings.root, &settings.store] {
        let ours = std::fs::canonicalize(ours).unwrap_or_else(|_| ours.clone());
        if ours.starts_with(&real) || real.starts_with(&ours) {
            return Err(bad(
                "it holds Chargehand's own data, or lies in it; give another directory",
            ));
        }
    }
    Ok(real)
}

/// Copies; gives what was passed by, for a person.
pub(super) fn copy_directory(
    from: &Path,
    to: &Path,
    limits: &WorkdirLimits,
    stop: &Stop,
) -> Result<Option<String>, WorkdirError> {
    let open = |path: &Path| open_trusted(path).map_err(|error| failed(b".", &error));
    let from = open(from)?;
    let stat = rustix::fs::fstat(&from).map_err(|error| failed(b".", &error.into()))?;
    let mut copy = Copy {
        limits,
        stop,
        device: device(&stat),
        entries: 0,
        bytes: 0,
        passed_by: Vec::new(),
        pending: Vec::new(),
    };
    copy.level(&Rc::new(Level {
        from,
        to: open(to)?,
        path: Vec::new(),
    }))?;
    while let Some(next) = copy.pending.pop() {
        let level = copy.enter(&next).map_err(|error| error.told(&next.path))?;
        if let Some(level) = level {
            copy.level(&Rc::new(level))?;
        }
    }
    if copy.passed_by.is_empty() {
        return Ok(None);
    }
    let more = copy.passed_by.len().saturating_sub(TOLD);
    let first: Vec<String> = copy.passed_by.into_iter().take(TOLD).collect();
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Ok(Some(format!("not copied: {}{more}", first.join(", "))))
}

impl Copy<'_> {
    fn level(&mut self, level: &Rc<Level>) -> Result<(), WorkdirError> {
        let error = |error: Errno| failed(&level.path, &error.into());
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&level.from).map_err(error)? {
            let entry = entry.map_err(error)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                self.entries += 1;
                self.check()?;
                names.push(entry.file_name().to_owned());
            }
        }
        for name in names {
            self.check()?;
            let mut path = level.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            self.entry(level, &name, &path)
                .map_err(|error| error.told(&path))?;
        }
        Ok(())
    }

    fn entry(&mut self, level: &Rc<Level>, name: &CString, path: &[u8]) -> Result<(), Halt> {
        let stat = rustix::fs::statat(level.from.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = file_type(&stat);
        if name.to_bytes() == b".git"
            && kind != FileType::Directory
            && !self.inner_link(level, name)
        {
            self.pass_by(path, "leads to a repository elsewhere");
            return Ok(());
        }
        match kind {
            FileType::RegularFile => self.file(level, name, path),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(level.from.as_fd(), name, Vec::new())?;
                rustix::fs::symlinkat(target, &level.to, name)?;
                Ok(())
            }
            FileType::Directory => {
                self.pending.push(Pending {
                    parent: Rc::clone(level),
                    name: name.clone(),
                    path: path.to_vec(),
                });
                Ok(())
            }
            other => {
                self.pass_by(path, special(other));
                Ok(())
            }
        }
    }

    /// A `.git` file as submodules have it, which leads to a place inside of the copied directory.
    fn inner_link(&self, level: &Level, name: &CStr) -> bool {
        let Ok(Some((file, stat))) = open_regular(level.from.as_fd(), name) else {
            return false;
        };
        if Stamp::of(&stat).size > 4096 {
            return false;
        }
        let Ok(text) = std::io::read_to_string(file) else {
            return false;
        };
        let Some(target) = text.trim().strip_prefix("gitdir: ") else {
            return false;
        };
        let mut depth = level
            .path
            .split(|byte| *byte == b'/')
            .filter(|p| !p.is_empty())
            .count();
        for part in target.split('/') {
            match part {
                "" if target.starts_with('/') => return false,
                "" | "." => {}
                ".." if depth == 0 => return false,
                ".." => depth -= 1,
                _ => depth += 1,
            }
        }
        true
    }

    fn file(&mut self, level: &Level, name: &CStr, path: &[u8]) -> Result<(), Halt> {
        let Some((mut from, stat)) = open_regular(level.from.as_fd(), name)? else {
            self.pass_by(path, "replaced while it was copied");
            return Ok(());
        };
        self.bytes = self.bytes.saturating_add(Stamp::of(&stat).size);
        self.check().map_err(Halt::Told)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let to = rustix::fs::openat(
            &level.to,
            name,
            flags | OFlags::CLOEXEC,
            rights(&stat, Mode::RUSR | Mode::WUSR),
        )?;
        let mut to = File::from(to);
        std::io::copy(&mut from, &mut to)?;
        rustix::fs::fchmod(&to, rights(&stat, Mode::RUSR | Mode::WUSR))?;
        rustix::fs::futimens(&to, &times(&stat))?;
        Ok(())
    }

    /// Makes the copy of a directory; none when it is passed by.
    fn enter(&mut self, next: &Pending) -> Result<Option<Level>, Halt> {
        let path = &next.path;
        let from = open_directory(next.parent.from.as_fd(), &next.name)?;
        let stat = rustix::fs::fstat(&from)?;
        if device(&stat) != self.device {
            self.pass_by(path, "another file system");
            return Ok(None);
        }
        if path.iter().filter(|byte| **byte == b'/').count() >= self.limits.depth {
            return Err(Halt::Told(WorkdirError::TooLarge(format!(
                "the directory is more than {} directories deep at \"{}\"",
                self.limits.depth,
                show(path)
            ))));
        }
        let to = &next.parent.to;
        rustix::fs::mkdirat(to, &next.name, rights(&stat, Mode::RWXU))?;
        Ok(Some(Level {
            from,
            to: open_directory(to.as_fd(), &next.name)?,
            path: path.clone(),
        }))
    }

    fn check(&self) -> Result<(), WorkdirError> {
        self.stop.check()?;
        if self.entries > self.limits.source_entries {
            return Err(WorkdirError::TooLarge(format!(
                "the directory has more than {} files and directories, which is the most that is copied",
                self.limits.source_entries
            )));
        }
        if self.bytes > self.limits.source_bytes {
            return Err(WorkdirError::TooLarge(format!(
                "the directory is larger than {}, which is the most that is copied",
                in_words(self.limits.source_bytes)
            )));
        }
        Ok(())
    }

    fn pass_by(&mut self, path: &[u8], why: &str) {
        self.passed_by.push(format!("{} ({why})", show(path)));
    }
}

impl Halt {
    fn told(self, path: &[u8]) -> WorkdirError {
        match self {
            Self::Told(error) => error,
            Self::Failed(error) => failed(path, &error),
        }
    }
}

enum Halt {
    Told(WorkdirError),
    Failed(std::io::Error),
}

impl From<Errno> for Halt {
    fn from(error: Errno) -> Self {
        Self::Failed(error.into())
    }
}

impl From<std::io::Error> for Halt {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error)
    }
}

/// The rights of the original, without set-id bits, and with what the owner needs.
fn rights(stat: &Stat, owner: Mode) -> Mode {
    let ordinary = Mode::RWXU | Mode::RWXG | Mode::RWXO;
    (Mode::from_raw_mode(stat.st_mode) & ordinary) | owner
}

fn times(stat: &Stat) -> Timestamps {
    // The kernel's types differ between systems.
    let time = |seconds: i128, nanos: i128| rustix::fs::Timespec {
        tv_sec: seconds.try_into().unwrap_or(0),
        tv_nsec: nanos.try_into().unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime.into(), stat.st_atime_nsec.into()),
        last_modification: time(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
    }
}

fn failed(path: &[u8], error: &std::io::Error) -> WorkdirError {
    let text = format!("\"{}\" could not be copied: {error}", show(path));
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => WorkdirError::BadSource(format!(
            "{text}; Chargehand's user must be able to read the whole directory"
        )),
        _ => WorkdirError::Fault(text),
    }
}
