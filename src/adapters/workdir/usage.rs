//! What a tree that a worker writes to takes on the disk.
//!
//! In: directories of ours, a limit. Out: bytes, counted until they are over the limit, or why they cannot be counted: a worker must not
//! hide what it wrote. No link is followed, no other file system entered. A directory is opened by handles and names, so that a path may be
//! longer than the kernel takes; one that its owner closed is opened up first.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use super::confined::{device, file_type, open_directory, open_trusted};
use super::remove::open_up;

/// How deep is counted: twice as deep as any path of one piece can lead.
const DEEPEST: usize = 4096;
/// Down to which depth the handle of every directory is kept, and further down only every so many levels: a tree that is deep and wide must
/// not use up those of the whole process.
const KEPT_TO: usize = 32;
const KEPT_EVERY: usize = 64;

const CLOSED: &str = "a directory that the worker made cannot be read";
const TOO_DEEP: &str = "the worker made directories more than 4096 deep";

/// What directories take on the disk.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::adapters) enum Usage {
    /// So many bytes, or more than the limit.
    Bytes(u64),
    /// Nobody knows: why.
    Hidden(&'static str),
}

enum Cut {
    Hidden(&'static str),
    Failed(Errno),
}

/// What an error means that is none of a directory that has gone meanwhile.
fn cut(error: Errno) -> Cut {
    match error {
        // Ours, not the worker's.
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR => Cut::Failed(error),
        _ => Cut::Hidden(CLOSED),
    }
}

/// Bytes on the disk below the directories; counted until they are over `limit`. A directory that is not there counts nothing.
///
/// # Errors
/// The count failed for a reason that says nothing about the directories.
pub(in crate::adapters) fn used(directories: &[PathBuf], limit: u64) -> io::Result<Usage> {
    used_down_to(DEEPEST, directories, limit)
}

fn used_down_to(deepest: usize, directories: &[PathBuf], limit: u64) -> io::Result<Usage> {
    let mut count = Count {
        deepest,
        limit,
        bytes: 0,
        device: 0,
        counted: HashSet::new(),
        pending: Vec::new(),
    };
    for root in directories {
        match count.tree(root) {
            Ok(()) => {}
            Err(Cut::Hidden(why)) => return Ok(Usage::Hidden(why)),
            Err(Cut::Failed(error)) => return Err(error.into()),
        }
    }
    Ok(Usage::Bytes(count.bytes))
}

/// Where a directory is: by these names below a handle.
struct Place {
    base: Rc<Dir>,
    below: Vec<CString>,
    depth: usize,
}

struct Count {
    deepest: usize,
    limit: u64,
    bytes: u64,
    device: i128,
    /// Files with several names: each is on the disk once.
    counted: HashSet<(i128, u64)>,
    /// Directories to be looked into: where they lie, and their names there.
    pending: Vec<(Rc<Place>, CString)>,
}

impl Count {
    const fn is_over(&self) -> bool {
        self.bytes > self.limit
    }

    fn tree(&mut self, root: &Path) -> Result<(), Cut> {
        let Some(top) = open_root(root)? else {
            return Ok(());
        };
        self.device = device(&rustix::fs::fstat(&top).map_err(cut)?);
        let base = Rc::new(top);
        let place = Place {
            base: Rc::clone(&base),
            below: Vec::new(),
            depth: 0,
        };
        self.directory(&base, &Rc::new(place))?;
        while !self.is_over()
            && let Some((parent, name)) = self.pending.pop()
        {
            self.enter(&parent, name)?;
        }
        Ok(())
    }

    /// Opens a directory found earlier and looks at what is in it.
    fn enter(&mut self, parent: &Place, name: CString) -> Result<(), Cut> {
        if parent.depth >= self.deepest {
            return Err(Cut::Hidden(TOO_DEEP));
        }
        let mut below = parent.below.clone();
        below.push(name);
        let mut opened = Rc::clone(&parent.base);
        for name in &below {
            match open(&opened, name)? {
                Some(next) => opened = Rc::new(next),
                // Removed or replaced since it was listed.
                None => return Ok(()),
            }
        }
        let stat = rustix::fs::fstat(&*opened).map_err(cut)?;
        if device(&stat) != self.device {
            return Ok(());
        }
        let is_kept = parent.depth < KEPT_TO || below.len() >= KEPT_EVERY;
        let place = Place {
            base: Rc::clone(if is_kept { &opened } else { &parent.base }),
            below: if is_kept { Vec::new() } else { below },
            depth: parent.depth + 1,
        };
        self.directory(&opened, &Rc::new(place))
    }

    /// Counts the entries of one directory and remembers its directories.
    fn directory(&mut self, dir: &Dir, place: &Rc<Place>) -> Result<(), Cut> {
        let entries = with_rights(dir, || rustix::fs::Dir::read_from(dir)).map_err(cut)?;
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                // It was removed meanwhile.
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(cut(error)),
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let look = || rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
            match with_rights(dir, look) {
                Ok(stat) => self.entry(&stat, name, place),
                // Gone since it was listed.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(cut(error)),
            }
            if self.is_over() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn entry(&mut self, stat: &Stat, name: &CStr, place: &Rc<Place>) {
        let is_directory = file_type(stat) == FileType::Directory;
        let key = (device(stat), stat.st_ino);
        let is_named_again = !is_directory && stat.st_nlink > 1 && !self.counted.insert(key);
        if device(stat) != self.device || is_named_again {
            return;
        }
        self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if is_directory {
            self.pending.push((Rc::clone(place), name.to_owned()));
        }
    }
}

/// Opens a directory that no worker can replace, but close; none where there is none.
fn open_root(root: &Path) -> Result<Option<Dir>, Cut> {
    let mut opened = open_trusted(root);
    if opened.as_ref().is_err_and(is_denied)
        && let (Some(parent), Some(name)) = (root.parent(), root.file_name())
        && let (Ok(parent), Ok(name)) =
            (open_trusted(parent), CString::new(name.as_encoded_bytes()))
    {
        open_up(parent.as_fd(), &name);
        opened = open_trusted(root);
    }
    match opened {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Errno::from_io_error(&error).map_or(Cut::Hidden(CLOSED), cut)),
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Opens a directory of the worker's; none when there is none of that name any more.
fn open(from: &Dir, name: &CStr) -> Result<Option<Dir>, Cut> {
    let mut opened = open_directory(from.as_fd(), name);
    // It may be closed, or the one that it lies in.
    for is_outer_closed in [false, true] {
        if !matches!(opened, Err(Errno::ACCESS)) {
            break;
        }
        if is_outer_closed {
            give_rights(from);
        }
        open_up(from.as_fd(), name);
        opened = open_directory(from.as_fd(), name);
    }
    match opened {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(cut(error)),
    }
}

/// Does it; once more with all rights where it lacked some.
fn with_rights<T>(dir: &Dir, work: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match work() {
        Err(Errno::ACCESS) => {
            give_rights(dir);
            work()
        }
        done => done,
    }
}

/// Gives the owner all rights to an open directory.
fn give_rights(dir: &Dir) {
    // What could not be changed shows when it is used.
    let _ = rustix::fs::fchmod(dir, Mode::RWXU);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::adapters::workdir::remove_all;

    const BIG: usize = 1 << 20;

    fn bytes(root: &Path) -> u64 {
        match used(&[root.to_owned()], u64::MAX).unwrap() {
            Usage::Bytes(bytes) => bytes,
            Usage::Hidden(why) => panic!("{why}"),
        }
    }

    /// Makes so many directories one in the other, each with another one beside it; gives the innermost.
    fn deep(root: &Path, name: &str, levels: usize) -> Dir {
        let mut dir = open_trusted(root).unwrap();
        for _ in 0..levels {
            rustix::fs::mkdirat(&dir, name, Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&dir, "beside", Mode::RWXU).unwrap();
            dir = open_directory(dir.as_fd(), &CString::new(name).unwrap()).unwrap();
        }
        dir
    }

    #[test]
    fn what_is_on_the_disk_is_counted_and_nothing_behind_links() {
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("in/deep"), place.path().join("out"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("big"), vec![1; BIG]).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let root = place.path().join("in");
        let before = bytes(&root);
        assert!(before < 1 << 19, "{before}");
        std::fs::write(inside.join("some"), vec![1; 1 << 19]).unwrap();
        // A hole takes no place.
        std::fs::File::create(inside.join("hole"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        std::fs::hard_link(inside.join("some"), inside.join("same")).unwrap();
        let after = bytes(&root) - before;
        assert!(((1 << 19)..(1 << 20)).contains(&after), "{after}");
        let cut = used(&[root], 10).unwrap();
        assert!(matches!(cut, Usage::Bytes(bytes) if bytes > 10), "{cut:?}");
        let nowhere = place.path().join("nowhere");
        assert_eq!(used(&[nowhere], 10).unwrap(), Usage::Bytes(0));
    }

    #[test]
    fn what_lies_in_closed_directories_is_counted() {
        for mode in [0o000, 0o300, 0o600] {
            let place = tempfile::tempdir().unwrap();
            let root = place.path().join("root");
            let inner = root.join("closed/inner");
            std::fs::create_dir_all(&inner).unwrap();
            std::fs::write(inner.join("big"), vec![1; BIG]).unwrap();
            for closed in [inner, root.join("closed"), root.clone()] {
                std::fs::set_permissions(closed, PermissionsExt::from_mode(mode)).unwrap();
            }
            assert!(bytes(&root) >= BIG as u64, "{mode:o}");
            remove_all(&root).unwrap();
        }
    }

    #[test]
    fn what_lies_deeper_than_a_path_can_lead_is_counted() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let innermost = deep(&root, &"d".repeat(100), 2 * (KEPT_TO + KEPT_EVERY));
        innermost.write("big", vec![1; BIG]).unwrap();
        drop(innermost);
        let found = bytes(&root);
        remove_all(&root).unwrap();
        assert!(found >= BIG as u64, "{found}");
    }

    #[test]
    fn what_lies_too_deep_to_be_counted_is_said() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        std::fs::create_dir(&root).unwrap();
        drop(deep(&root, "d", 9));
        let at = std::slice::from_ref(&root);
        let too_deep = used_down_to(8, at, u64::MAX).unwrap();
        assert_eq!(too_deep, Usage::Hidden(TOO_DEEP));
        let counted = used_down_to(9, at, u64::MAX).unwrap();
        assert!(matches!(counted, Usage::Bytes(_)), "{counted:?}");
    }
}
