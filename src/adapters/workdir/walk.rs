//! The walk through a hostile tree.
//!
//! In: a directory handle, limits, the paths where submodules are pinned. Out: a call per file, link and oddity, in a
//! stable order. No link is followed, no other file system entered, no `.git` looked into, and nothing is read here.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::rc::Rc;

use cap_std::fs::Dir;
use chargehand_actors::ports::WorkdirError;
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::confined::{device, file_type, open_directory, special};
use super::settings::WorkdirLimits;

/// Paths where a commit pins a submodule, with the pinned commit.
pub(super) type Submodules = BTreeMap<Vec<u8>, String>;

/// Where something was found: open it by `dir` and `name`, speak of it by `path`.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    /// The directory that it lies in.
    pub(super) dir: BorrowedFd<'a>,
    /// Its name there.
    pub(super) name: &'a CStr,
    /// Its path below the root.
    pub(super) path: &'a [u8],
}

/// What the walk came across.
pub(super) enum Found<'a> {
    /// Probably a regular file: the open must check again.
    File(Spot<'a>, Stat),
    /// A symbolic link.
    Symlink(Spot<'a>, Stat),
    /// A pinned submodule whose directory is there.
    Submodule(&'a [u8], &'a str),
    /// Something that is no file: FIFO, socket, device.
    Special(&'a [u8], Stat),
    /// A directory that is not entered, with everything below it.
    Closed(&'a [u8], String),
    /// A name that git cannot keep; said and passed by.
    Unfit(&'a [u8], &'static str),
}

/// How the walk ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WalkEnd {
    /// Set when not everything was looked at: why.
    pub(super) cut: Option<String>,
}

struct Pending {
    parent: Rc<Dir>,
    name: CString,
    path: Vec<u8>,
    depth: usize,
}

struct Walk<'a, F> {
    limits: &'a WorkdirLimits,
    submodules: &'a Submodules,
    root_device: i128,
    entries: u64,
    pending: Vec<Pending>,
    visit: F,
}

/// Walks the tree below `root`. An error of `visit` ends the walk.
pub(super) fn walk<F>(
    root: &Dir,
    limits: &WorkdirLimits,
    submodules: &Submodules,
    visit: F,
) -> Result<WalkEnd, WorkdirError>
where
    F: FnMut(Found<'_>) -> Result<(), WorkdirError>,
{
    let fault = |error: std::io::Error| {
        WorkdirError::Fault(format!("the workdir could not be read: {error}"))
    };
    let root = root.try_clone().map_err(fault)?;
    let stat = rustix::fs::fstat(&root).map_err(|error| fault(error.into()))?;
    let mut walk = Walk {
        limits,
        submodules,
        root_device: device(&stat),
        entries: 0,
        pending: Vec::new(),
        visit,
    };
    walk.directory(&Rc::new(root), &[], 0)?;
    while let Some(next) = walk.pending.pop() {
        if walk.is_full() {
            break;
        }
        walk.enter(&next)?;
    }
    let cut = walk.is_full().then(|| {
        format!(
            "the workdir has more than {} files and directories; the rest was not looked at",
            limits.entries
        )
    });
    Ok(WalkEnd { cut })
}

impl<F> Walk<'_, F>
where
    F: FnMut(Found<'_>) -> Result<(), WorkdirError>,
{
    fn is_full(&self) -> bool {
        self.entries > self.limits.entries
    }

    /// Opens a directory found earlier and looks at what is in it.
    fn enter(&mut self, next: &Pending) -> Result<(), WorkdirError> {
        if next.depth > self.limits.depth {
            let why = format!("more than {} directories deep", self.limits.depth);
            return (self.visit)(Found::Closed(&next.path, why));
        }
        let opened = open_directory(next.parent.as_fd(), &next.name)
            .and_then(|dir| rustix::fs::fstat(&dir).map(|stat| (dir, stat)));
        match opened {
            Ok((dir, stat)) if device(&stat) == self.root_device => {
                self.directory(&Rc::new(dir), &next.path, next.depth)
            }
            Ok(_) => (self.visit)(Found::Closed(&next.path, "another file system".to_owned())),
            // Removed or replaced since it was listed.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => (self.visit)(Found::Closed(
                &next.path,
                format!("directory that cannot be read ({error})"),
            )),
        }
    }

    /// Visits the entries of one directory by name and remembers its directories, first name on top.
    fn directory(&mut self, dir: &Rc<Dir>, path: &[u8], depth: usize) -> Result<(), WorkdirError> {
        let names = match self.names(dir) {
            Ok(names) => names,
            Err(error) => {
                let why = format!("directory that cannot be read ({error})");
                return (self.visit)(Found::Closed(path, why));
            }
        };
        let below = self.pending.len();
        for name in names {
            let mut full = path.to_vec();
            if !full.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(name.to_bytes());
            self.entry(dir, name, full, depth)?;
        }
        self.pending[below..].reverse();
        Ok(())
    }

    fn names(&mut self, dir: &Dir) -> Result<Vec<CString>, Errno> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.is_full() {
                break;
            }
            names.push(entry.file_name().to_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn entry(
        &mut self,
        dir: &Rc<Dir>,
        name: CString,
        path: Vec<u8>,
        depth: usize,
    ) -> Result<(), WorkdirError> {
        if name.to_bytes().eq_ignore_ascii_case(b".git") {
            // The workdir's own repository is expected and no part of the result.
            return if depth == 0 && name.to_bytes() == b".git" {
                Ok(())
            } else {
                (self.visit)(Found::Unfit(
                    &path,
                    "nested repository: its files are included, its .git is not",
                ))
            };
        }
        let Ok(stat) = rustix::fs::statat(dir.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW) else {
            // Gone since it was listed.
            return Ok(());
        };
        let spot = Spot {
            dir: dir.as_fd(),
            name: &name,
            path: &path,
        };
        match file_type(&stat) {
            FileType::RegularFile if device(&stat) != self.root_device => {
                (self.visit)(Found::Unfit(&path, "another file system"))
            }
            FileType::RegularFile => (self.visit)(Found::File(spot, stat)),
            FileType::Symlink if name.to_bytes().eq_ignore_ascii_case(b".gitmodules") => (self
                .visit)(
                Found::Unfit(&path, "a symbolic link of this name is refused by git"),
            ),
            FileType::Symlink => (self.visit)(Found::Symlink(spot, stat)),
            FileType::Directory => match self.submodules.get(&path) {
                Some(commit) => (self.visit)(Found::Submodule(&path, commit)),
                None => {
                    self.pending.push(Pending {
                        parent: Rc::clone(dir),
                        name,
                        path,
                        depth: depth + 1,
                    });
                    Ok(())
                }
            },
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => (self.visit)(Found::Special(&path, stat)),
        }
    }
}

/// What a special thing is, for the list of what was left out.
pub(super) fn special_reason(stat: &Stat) -> String {
    format!("{} is no part of a result", special(file_type(stat)))
}
