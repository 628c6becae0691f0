//! Removes a tree that a worker left behind.
//!
//! In: a directory of ours. Out: nothing of it is left. No link is followed; depth does not matter, because every
//! directory found is first moved up beside its parents; directories without permissions are opened up first.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use cap_std::fs::Dir;
use chargehand_actors::ports::WorkdirError;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::blocking::Stop;
use super::confined::{file_type, open_directory, open_trusted};
use super::layout::disk;

/// How often a tree is gone through when something still writes into it.
const ROUNDS: u32 = 5;

/// Removes `path` with everything in it, to the end. Nothing there is fine.
pub(in crate::adapters) fn remove_all(path: &Path) -> Result<(), WorkdirError> {
    remove_tree(path, &Stop::default())
}

/// Removes `path` with everything in it. Nothing there is fine.
pub(super) fn remove_tree(path: &Path, stop: &Stop) -> Result<(), WorkdirError> {
    let fault =
        |error: std::io::Error| disk(&format!("{} could not be removed", path.display()), &error);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(fault(std::io::Error::other("it has no name")));
    };
    let parent = match open_trusted(parent) {
        Ok(parent) => parent,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(error)),
    };
    let name = CString::new(name.as_encoded_bytes()).map_err(|error| fault(error.into()))?;
    for _ in 0..ROUNDS {
        match unlink(parent.as_fd(), &name) {
            Ok(true) | Err(Errno::NOENT) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(fault(error.into())),
        }
        open_up(parent.as_fd(), &name);
        let top = open_directory(parent.as_fd(), &name).map_err(|error| fault(error.into()))?;
        let mut moved = 0;
        while flatten(&top, &mut moved, stop).map_err(|error| error.into_error(fault))? {}
    }
    match unlink(parent.as_fd(), &name) {
        Ok(true) | Err(Errno::NOENT) => Ok(()),
        _ => Err(WorkdirError::Fault(format!(
            "{} could not be removed: something still writes into it",
            path.display()
        ))),
    }
}

enum Halt {
    Unwanted(WorkdirError),
    Failed(Errno),
}

impl Halt {
    fn into_error(self, fault: impl Fn(std::io::Error) -> WorkdirError) -> WorkdirError {
        match self {
            Self::Unwanted(error) => error,
            Self::Failed(error) => fault(error.into()),
        }
    }
}

impl From<Errno> for Halt {
    fn from(error: Errno) -> Self {
        Self::Failed(error)
    }
}

/// One pass: removes what lies in `top`, moving the directories inside its directories up into it. True when some did.
fn flatten(top: &Dir, moved: &mut u64, stop: &Stop) -> Result<bool, Halt> {
    let mut more = false;
    for name in names(top)? {
        stop.check().map_err(Halt::Unwanted)?;
        if unlink(top.as_fd(), &name)? {
            continue;
        }
        open_up(top.as_fd(), &name);
        let dir = open_directory(top.as_fd(), &name)?;
        for inner in names(&dir)? {
            if unlink(dir.as_fd(), &inner)? {
                continue;
            }
            open_up(dir.as_fd(), &inner);
            more = true;
            move_up(&dir, &inner, top, moved)?;
        }
        drop(dir);
        more |= !unlink(top.as_fd(), &name)?;
    }
    Ok(more)
}

/// Gives a directory a fresh name in `top`.
fn move_up(dir: &Dir, inner: &CStr, top: &Dir, moved: &mut u64) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let fresh = format!(".chargehand-removing-{moved}");
        if rustix::fs::statat(top, &fresh, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            continue;
        }
        return rustix::fs::renameat(dir, inner, top, fresh);
    }
}

fn names(dir: &Dir) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Removes a file, link or empty directory; false when it is a directory with something in it.
fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(true),
        Err(error) => return Err(error),
    };
    let flags = if file_type(&stat) == FileType::Directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    match rustix::fs::unlinkat(dir, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives the owner all rights to a directory, by a handle, so that a link in its place is not followed.
pub(super) fn open_up(dir: BorrowedFd<'_>, name: &CStr) {
    let handle = OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    #[cfg(target_os = "linux")]
    let handle = handle | OFlags::PATH;
    let Ok(fd) = rustix::fs::openat(dir, name, handle, Mode::empty()) else {
        return;
    };
    // What could not be changed shows when it is opened.
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd as _;
        let through = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let _ = rustix::fs::chmod(through, Mode::RWXU);
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = rustix::fs::fchmod(&fd, Mode::RWXU);
    }
    drop(File::from(fd));
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Stop, remove_tree};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn very_deep_trees_links_and_closed_directories_go() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("closed/inner")).unwrap();
        symlink(&outside, tree.join("closed/inner/link")).unwrap();
        std::fs::set_permissions(tree.join("closed"), PermissionsExt::from_mode(0o000)).unwrap();
        // Deeper than a path may be long.
        let deep = "d".repeat(200);
        let mut at = rustix::fs::open(
            &tree,
            super::OFlags::RDONLY | super::OFlags::DIRECTORY,
            super::Mode::empty(),
        )
        .unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&at, &deep, super::Mode::RWXU).unwrap();
            at = rustix::fs::openat(
                &at,
                &deep,
                super::OFlags::RDONLY | super::OFlags::DIRECTORY,
                super::Mode::empty(),
            )
            .unwrap();
        }
        remove_tree(&tree, &Stop::default()).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("kept").exists());
        remove_tree(&tree, &Stop::default()).unwrap();
    }
}
