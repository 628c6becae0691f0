//! Lists a workdir with marks against its baseline.
//!
//! In: a workdir, its baseline, a prefix and a page. Out: sorted entries, deleted files included. The whole tree is
//! walked, but only the files of the page are read, and only when size and mode do not already tell; what was read is
//! remembered by its stamp, so that looking again is cheap.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use cap_std::fs::Dir;
use chargehand_actors::event::FileMark;
use chargehand_actors::ports::{FileEntry, FileKind, FileList, WorkdirError};
use rustix::fs::Stat;

use super::blocking::Stop;
use super::confined::{Stamp, open_asked};
use super::layout::Place;
use super::manifest::{BlobId, Manifest, Mode, blob_id};
use super::names::{is_below_any, parse, show};
use super::settings::WorkdirLimits;
use super::walk::{Found, walk};

/// A file touched less than this before it was read may change again within the same clock tick.
const SETTLED_NANOS: i128 = 2_000_000_000;
/// The largest page.
const PAGE: u64 = 10_000;

/// What is remembered of a task's workdir between two listings.
#[derive(Debug)]
pub(super) struct Memory {
    /// Where and since when.
    pub(super) place: Place,
    /// The baseline; none when there was no git.
    pub(super) manifest: Option<Arc<Manifest>>,
    ids: Mutex<HashMap<Vec<u8>, (Stamp, BlobId)>>,
}

/// Which part of the tree is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Path components; empty for everything.
    pub(super) prefix: Vec<Vec<u8>>,
    /// Entries to pass by.
    pub(super) offset: u64,
    /// Entries to give.
    pub(super) limit: u64,
}

/// By shown path: the path's bytes and what is there.
type Things = BTreeMap<String, (Vec<u8>, Now)>;

/// What a walk saw.
struct Walked {
    things: Things,
    /// Directories not entered.
    closed: Vec<Vec<u8>>,
    /// It ended before it was through.
    cut: bool,
}

enum Now {
    File(Stat),
    Link(Stat, Vec<u8>),
    Special(Stat),
    Gone,
}

impl Memory {
    /// Nothing is remembered yet.
    pub(super) fn new(place: Place, manifest: Option<Arc<Manifest>>) -> Self {
        Self {
            place,
            manifest,
            ids: Mutex::new(HashMap::new()),
        }
    }

    /// Lists a page of the workdir.
    pub(super) fn list(
        &self,
        root: &Dir,
        limits: &WorkdirLimits,
        page: &Page,
        stop: &Stop,
    ) -> Result<FileList, WorkdirError> {
        let Walked {
            things: mut found,
            closed,
            cut,
        } = self.now(root, limits, page, stop)?;
        if !cut {
            self.add_deleted(&mut found, page, &closed);
        }
        let total = found.len() as u64;
        let start = usize::try_from(page.offset).unwrap_or(usize::MAX);
        let count = usize::try_from(page.limit.min(PAGE)).unwrap_or(usize::MAX);
        let mut files = Vec::new();
        for (shown, (path, now)) in found.into_iter().skip(start).take(count) {
            stop.check()?;
            files.push(self.entry(root, limits, shown, &path, &now));
        }
        Ok(FileList {
            files,
            total,
            offset: page.offset,
            cut: cut || !closed.is_empty(),
            note: None,
        })
    }

    /// What is there.
    fn now(
        &self,
        root: &Dir,
        limits: &WorkdirLimits,
        page: &Page,
        stop: &Stop,
    ) -> Result<Walked, WorkdirError> {
        let none = BTreeMap::new();
        let submodules = self.manifest.as_ref().map_or(&none, |m| &m.submodules);
        let mut found = BTreeMap::new();
        let mut closed = Vec::new();
        let end = walk(root, limits, submodules, |thing| {
            stop.check()?;
            let (path, now) = match thing {
                Found::File(spot, stat) => (spot.path, Now::File(stat)),
                Found::Symlink(spot, stat) => {
                    match rustix::fs::readlinkat(spot.dir, spot.name, Vec::new()) {
                        Ok(target) => (spot.path, Now::Link(stat, target.into_bytes())),
                        Err(_) => return Ok(()),
                    }
                }
                Found::Special(path, stat) => (path, Now::Special(stat)),
                Found::Closed(path, _) => {
                    closed.push(path.to_vec());
                    return Ok(());
                }
                Found::Submodule(..) | Found::Unfit(..) => return Ok(()),
            };
            if page.covers(path) {
                found.insert(show(path), (path.to_vec(), now));
            }
            Ok(())
        })?;
        Ok(Walked {
            things: found,
            closed,
            cut: end.cut.is_some(),
        })
    }

    fn add_deleted(&self, found: &mut Things, page: &Page, closed: &[Vec<u8>]) {
        let recorded = self.manifest.iter().flat_map(|m| m.files.keys().cloned());
        let unrecorded = self.manifest.iter().flat_map(|m| m.unrecorded.keys());
        let unrecorded = unrecorded.map(|path| parse(path.as_str()));
        for path in recorded.chain(unrecorded) {
            if !page.covers(&path) || is_below_any(&path, closed) {
                continue;
            }
            found
                .entry(show(&path))
                .or_insert_with(|| (path, Now::Gone));
        }
    }

    fn entry(
        &self,
        root: &Dir,
        limits: &WorkdirLimits,
        shown: String,
        path: &[u8],
        now: &Now,
    ) -> FileEntry {
        let size = |stat: &Stat| Stamp::of(stat).size;
        let (kind, size) = match now {
            Now::File(stat) => (FileKind::File, size(stat)),
            Now::Link(stat, _) => (FileKind::Symlink, size(stat)),
            Now::Special(stat) => (FileKind::Other, size(stat)),
            Now::Gone => self.was(path),
        };
        FileEntry {
            mark: self.mark(root, limits, &shown, path, now),
            path: shown,
            kind,
            size: Some(size),
        }
    }

    /// Kind and size at the baseline.
    fn was(&self, path: &[u8]) -> (FileKind, u64) {
        match self.manifest.as_ref().and_then(|m| m.files.get(path)) {
            Some(kept) if kept.mode == Mode::Link => (FileKind::Symlink, kept.size),
            Some(kept) => (FileKind::File, kept.size),
            None => {
                let manifest = self.manifest.as_ref();
                let then = manifest.and_then(|m| m.unrecorded.get(&show(path)));
                (FileKind::File, then.map_or(0, |file| file.size))
            }
        }
    }

    fn mark(
        &self,
        root: &Dir,
        limits: &WorkdirLimits,
        shown: &str,
        path: &[u8],
        now: &Now,
    ) -> Option<FileMark> {
        let manifest = self.manifest.as_ref()?;
        let Some(kept) = manifest.files.get(path) else {
            if !manifest.unrecorded.contains_key(shown) {
                return Some(FileMark::Added);
            }
            return match now {
                Now::File(stat) if manifest.is_as_unrecorded(path, &Stamp::of(stat)) => None,
                Now::Gone => Some(FileMark::Deleted),
                Now::File(_) | Now::Link(..) | Now::Special(_) => Some(FileMark::Modified),
            };
        };
        let same = match now {
            Now::Gone => return Some(FileMark::Deleted),
            Now::Special(_) => false,
            Now::Link(_, target) => kept.mode == Mode::Link && blob_id(target) == kept.id,
            Now::File(stat) => {
                let stamp = Stamp::of(stat);
                manifest.is_as_unrecorded(path, &stamp)
                    || (kept.mode == Mode::of_file(stat)
                        && kept.size == stamp.size
                        && stamp.size <= limits.file_bytes
                        && self.id(root, path, shown, &stamp) == Some(kept.id))
            }
        };
        (!same).then_some(FileMark::Modified)
    }

    /// The content's id; none when the file cannot be read any more.
    fn id(&self, root: &Dir, path: &[u8], shown: &str, listed: &Stamp) -> Option<BlobId> {
        let remembered = self.remembered().get(path).copied();
        if let Some((_, id)) = remembered.filter(|(then, _)| then == listed) {
            return Some(id);
        }
        let parts: Vec<Vec<u8>> = path
            .split(|byte| *byte == b'/')
            .map(<[u8]>::to_vec)
            .collect();
        let (mut file, stat) = open_asked(root, &parts, shown).ok()?;
        let stamp = Stamp::of(&stat);
        let mut content = Vec::new();
        // One byte more than it had: a file that grows meanwhile cannot pass for the old one.
        file.by_ref()
            .take(stamp.size.saturating_add(1))
            .read_to_end(&mut content)
            .ok()?;
        let id = blob_id(&content);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(0));
        let unchanged = rustix::fs::fstat(file.as_fd()).is_ok_and(|stat| Stamp::of(&stat) == stamp);
        if unchanged && stamp.changed + SETTLED_NANOS < now {
            self.remembered().insert(path.to_vec(), (stamp, id));
        }
        Some(id)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, (Stamp, BlobId)>> {
        // Entries are whole whatever happened to another thread.
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Page {
    /// The path is the prefix or lies below it.
    fn covers(&self, path: &[u8]) -> bool {
        let mut parts = path.split(|byte| *byte == b'/');
        self.prefix
            .iter()
            .all(|wanted| parts.next() == Some(wanted.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::Page;

    #[test]
    fn a_prefix_is_whole_components() {
        let page = Page {
            prefix: vec![b"src".to_vec(), b"a".to_vec()],
            offset: 0,
            limit: 1,
        };
        assert!(page.covers(b"src/a"));
        assert!(page.covers(b"src/a/b"));
        assert!(!page.covers(b"src/ab"));
        assert!(!page.covers(b"src"));
    }
}
