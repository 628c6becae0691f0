//! Opening things inside a workdir without ever leaving it.
//!
//! In: a directory handle and names. Out: handles to directories and regular files. No link is followed in any
//! component, opening never waits (FIFO) and never takes a terminal; what is not a regular file is refused after the
//! open, on the handle itself, so that swapping the name in between gains nothing.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use chargehand_actors::ports::WorkdirError;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::names::{refused, show};

/// Flags of every open in a hostile tree.
const CAREFUL: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY);

/// When a file was last touched, and which one it is: equal stamps mean equal content, except within one clock tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Bytes.
    pub(super) size: u64,
    /// Nanoseconds since the epoch.
    pub(super) modified: i128,
    /// Nanoseconds since the epoch; cannot be set by a worker.
    pub(super) changed: i128,
    /// Inode.
    pub(super) inode: u64,
}

impl Stamp {
    /// From what the kernel says.
    pub(super) fn of(stat: &Stat) -> Self {
        let nanos = |seconds: i128, nanos: i128| seconds * 1_000_000_000 + nanos;
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: nanos(i128::from(stat.st_mtime), i128::from(stat.st_mtime_nsec)),
            changed: nanos(i128::from(stat.st_ctime), i128::from(stat.st_ctime_nsec)),
            inode: stat.st_ino,
        }
    }
}

/// The file system that a thing lies on.
pub(super) fn device(stat: &Stat) -> i128 {
    i128::from(stat.st_dev)
}

/// What kind of thing it is.
pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The kind of a thing that is neither file, directory nor link, in words.
pub(super) fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::RegularFile | FileType::Unknown => "a special file",
    }
}

/// Opens a directory that no worker can replace: links in its path are the operator's own.
pub(super) fn open_trusted(path: &Path) -> io::Result<Dir> {
    let handle = Dir::open_ambient_dir(path, ambient_authority())?;
    // That handle may be one that cannot be read from.
    Ok(open_directory(handle.as_fd(), c".")?)
}

/// Opens a directory below a trusted one; none of the components between may be a link, as a worker may have put it there.
pub(super) fn open_below(trusted: &Path, parts: &[&str]) -> io::Result<Dir> {
    let mut dir = open_trusted(trusted)?;
    for part in parts {
        dir = open_directory(dir.as_fd(), &CString::new(*part)?)?;
    }
    Ok(dir)
}

/// Opens a directory below `dir`; a link is refused by the kernel.
pub(super) fn open_directory(dir: BorrowedFd<'_>, name: &CStr) -> Result<Dir, Errno> {
    let fd = rustix::fs::openat(dir, name, CAREFUL | OFlags::DIRECTORY, Mode::empty())?;
    Ok(Dir::from_std_file(File::from(fd)))
}

/// Opens a regular file below `dir` and says what it is; none when it is something else by now.
pub(super) fn open_regular(
    dir: BorrowedFd<'_>,
    name: &CStr,
) -> Result<Option<(File, Stat)>, Errno> {
    let fd = match rustix::fs::openat(dir, name, CAREFUL, Mode::empty()) {
        Ok(fd) => fd,
        // A link, or a socket.
        Err(Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = rustix::fs::fstat(&fd)?;
    if file_type(&stat) != FileType::RegularFile {
        return Ok(None);
    }
    Ok(Some((File::from(fd), stat)))
}

/// Opens a regular file by the path that a caller asked for; the refusal names the path and the reason.
pub(super) fn open_asked(
    root: &Dir,
    parts: &[Vec<u8>],
    asked: &str,
) -> Result<(File, Stat), WorkdirError> {
    let Some((name, parents)) = parts.split_last() else {
        return Err(refused(asked, "it is the workdir itself, not a file"));
    };
    let mut current = root.try_clone().map_err(|error| fault(asked, &error))?;
    for part in parents {
        let opened = open_part(&current, part, OFlags::DIRECTORY)
            .map_err(|error| why_not(&current, part, asked, &error))?;
        current = Dir::from_std_file(opened);
    }
    let file = open_part(&current, name, OFlags::empty())
        .map_err(|error| why_not(&current, name, asked, &error))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| fault(asked, &error.into()))?;
    match file_type(&stat) {
        FileType::RegularFile => Ok((file, stat)),
        FileType::Directory => Err(refused(
            asked,
            "it is a directory; get_task_files lists what is in it",
        )),
        other => Err(refused(
            asked,
            &format!(
                "it is {}, which is never opened for reading",
                special(other)
            ),
        )),
    }
}

fn open_part(dir: &Dir, part: &[u8], more: OFlags) -> io::Result<File> {
    let flags = i32::try_from((CAREFUL | more).bits()).map_err(io::Error::other)?;
    dir.open_with(
        OsStr::from_bytes(part),
        OpenOptions::new().read(true).custom_flags(flags),
    )
    .map(cap_std::fs::File::into_std)
}

/// Why a component could not be opened, judged by what lies there now.
fn why_not(dir: &Dir, part: &[u8], asked: &str, error: &io::Error) -> WorkdirError {
    let stat = rustix::fs::statat(
        dir.as_fd(),
        OsStr::from_bytes(part),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    );
    let shown = show(part);
    match stat.map(|stat| file_type(&stat)) {
        Err(Errno::NOENT) => WorkdirError::NotFound(format!(
            "there is no file \"{}\" in the workdir; get_task_files lists what is there",
            show(asked.as_bytes())
        )),
        Err(_) => fault(asked, error),
        Ok(FileType::Symlink) => refused(
            asked,
            &format!("\"{shown}\" is a symbolic link, and links are never followed"),
        ),
        Ok(FileType::RegularFile) if error.kind() == io::ErrorKind::NotADirectory => {
            refused(asked, &format!("\"{shown}\" is a file, not a directory"))
        }
        Ok(FileType::RegularFile | FileType::Directory) => fault(asked, error),
        Ok(other) => refused(
            asked,
            &format!("\"{shown}\" is {}, which is never opened", special(other)),
        ),
    }
}

fn fault(asked: &str, error: &io::Error) -> WorkdirError {
    WorkdirError::Fault(format!(
        "\"{}\" could not be opened: {error}",
        show(asked.as_bytes())
    ))
}
