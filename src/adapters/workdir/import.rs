//! Takes a workdir into a tree of the bare repository, without git ever looking at the workdir.
//!
//! In: the workdir, limits, and the tree that it is measured against. Out: the id of a tree, what was left out and why.
//! A thread walks and reads; the bytes go through a short queue to `git fast-import`. What cannot be read now (too
//! large, no permission, beyond the limits) keeps the content that it has in the tree measured against, so that it never
//! looks deleted.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::Arc;

use chargehand_actors::event::LeftOut;
use chargehand_actors::ports::WorkdirError;
use rustix::fs::Stat;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::blocking::{Hold, Stop, blocking};
use super::confined::{Stamp, device, open_regular};
use super::git::{Git, start, word};
use super::layout::Place;
use super::manifest::{Manifest, Mode, blob_id, hex};
use super::names::{is_below_any, show};
use super::settings::WorkdirLimits;
use super::walk::{Found, Spot, special_reason, walk};

/// The temporary ref of an import.
pub(super) const IMPORT_REF: &str = "refs/chargehand/import";
/// What was left out is listed up to here, and counted beyond.
const LISTED: usize = 200;
/// Bytes that are collected before they go to git.
const PIECE: usize = 256 * 1024;

/// A workdir as a tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Imported {
    /// The tree's id in the bare repository.
    pub(super) tree: String,
    /// The first things left out.
    pub(super) left_out: Vec<LeftOut>,
    /// How many were left out in all.
    pub(super) left_out_total: u64,
    /// Files that are there and not in the tree as they are.
    pub(super) unread: Vec<(Vec<u8>, Stamp)>,
    /// Directories not entered.
    pub(super) closed: Vec<Vec<u8>>,
    /// Why not everything was looked at.
    pub(super) cut: Option<String>,
}

/// What an import works on.
pub(super) struct Import<'a> {
    /// The program.
    pub(super) git: &'a Git,
    /// The workdir and its bare repository.
    pub(super) place: &'a Place,
    /// How much is looked at.
    pub(super) limits: WorkdirLimits,
    /// Measured against.
    pub(super) against: Arc<Manifest>,
    /// The task's lock.
    pub(super) hold: Hold,
}

/// Imports the workdir.
pub(super) async fn import(job: Import<'_>) -> Result<Imported, WorkdirError> {
    let mut command = job.git.bare(&job.place.repository);
    command
        .args([
            "fast-import",
            "--quiet",
            "--done",
            "--force",
            "--date-format=raw",
        ])
        .stdin(Stdio::piped());
    let mut running = start(command)?;
    let stdin = running.take_stdin();
    let (to_git, mut pieces) = mpsc::channel::<Vec<u8>>(4);
    let (place, limits, against) = (job.place.clone(), job.limits, job.against);
    let producer = blocking(Some(job.hold), move |stop| {
        Producer::new(to_git, limits, against).all(&place, stop)
    });
    let feeder = async move {
        let Some(mut stdin) = stdin else { return };
        while let Some(piece) = pieces.recv().await {
            // When git has ended early, its own words say why; the queue closes and the walk ends.
            if stdin.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    let mut printed = Vec::new();
    let (produced, (), finished) =
        tokio::join!(producer, feeder, running.finish(&mut printed, 1024));
    let finished = finished?;
    let mut imported = match produced {
        Err(WorkdirError::Fault(text)) if text == GIT_ENDED => {
            return Err(finished.fault("import the workdir"));
        }
        other => other?,
    };
    if !finished.success {
        return Err(finished.fault("import the workdir"));
    }
    let commit = String::from_utf8_lossy(&printed).trim().to_owned();
    let mut command = job.git.bare(&job.place.repository);
    command.args(["rev-parse", "--verify", &format!("{commit}^{{tree}}")]);
    imported.tree = word(command, "name the imported tree").await?;
    Ok(imported)
}

const GIT_ENDED: &str = "git ended before the workdir was imported";

struct Producer {
    to_git: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
    limits: WorkdirLimits,
    against: Arc<Manifest>,
    total: u64,
    seen: BTreeSet<Vec<u8>>,
    result: Imported,
}

impl Producer {
    fn new(to_git: mpsc::Sender<Vec<u8>>, limits: WorkdirLimits, against: Arc<Manifest>) -> Self {
        Self {
            to_git,
            piece: Vec::with_capacity(PIECE),
            limits,
            against,
            total: 0,
            seen: BTreeSet::new(),
            result: Imported::default(),
        }
    }

    /// Walks the whole workdir and leaves a finished stream behind.
    fn all(mut self, place: &Place, stop: &Stop) -> Result<Imported, WorkdirError> {
        let root = place.open()?;
        self.put(
            format!(
                "commit {IMPORT_REF}\nmark :1\ncommitter Chargehand <chargehand@localhost> 0 +0000\ndata 0\ndeleteall\n"
            )
            .as_bytes(),
        )?;
        let (limits, against) = (self.limits, Arc::clone(&self.against));
        let end = walk(&root, &limits, &against.submodules, |found| {
            stop.check()?;
            self.found(found)
        })?;
        self.result.cut = end.cut;
        self.keep_what_was_not_read()?;
        self.put(b"\nget-mark :1\ndone\n")?;
        self.flush()?;
        Ok(self.result)
    }

    fn found(&mut self, found: Found<'_>) -> Result<(), WorkdirError> {
        match found {
            Found::File(spot, stat) => self.file(spot, &stat),
            Found::Symlink(spot, _) => self.link(spot),
            Found::Submodule(path, commit) => {
                self.seen.insert(path.to_vec());
                self.left_out(path, "submodule: its content is no part of the result");
                self.change("160000", commit, path)
            }
            Found::Special(path, stat) => {
                self.left_out(path, &special_reason(&stat));
                Ok(())
            }
            Found::Closed(path, why) => {
                self.left_out(path, &why);
                self.result.closed.push(path.to_vec());
                Ok(())
            }
            Found::Unfit(path, why) => {
                self.left_out(path, why);
                Ok(())
            }
        }
    }

    fn file(&mut self, spot: Spot<'_>, listed: &Stat) -> Result<(), WorkdirError> {
        let (file, stat) = match open_regular(spot.dir, spot.name) {
            Ok(Some(opened)) if device(&opened.1) == device(listed) => opened,
            Ok(_) => {
                self.left_out(spot.path, "it was replaced while it was read");
                return Ok(());
            }
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => {
                self.unread(spot, listed, &format!("file that cannot be read ({error})"));
                return Ok(());
            }
        };
        let size = Stamp::of(&stat).size;
        if size > self.limits.file_bytes {
            let why = format!("larger than {}", in_words(self.limits.file_bytes));
            self.unread(spot, &stat, &why);
            return Ok(());
        }
        if self.against.is_as_unrecorded(spot.path, &Stamp::of(&stat)) {
            self.unread(spot, &stat, "not in the baseline, and not touched since");
            return Ok(());
        }
        let mut content = Vec::new();
        match file
            .take(self.limits.file_bytes + 1)
            .read_to_end(&mut content)
        {
            Ok(_) if content.len() as u64 <= self.limits.file_bytes => {}
            Ok(_) => {
                self.unread(spot, &stat, "it grew beyond the limit while it was read");
                return Ok(());
            }
            Err(error) => {
                self.unread(spot, &stat, &format!("file that cannot be read ({error})"));
                return Ok(());
            }
        }
        let mode = Mode::of_file(&stat);
        let known = self.against.files.get(spot.path).copied();
        if let Some(known) = known.filter(|known| known.size == content.len() as u64)
            && known.id == blob_id(&content)
        {
            // What is as it was needs no place, and is never beyond the limit.
            self.seen.insert(spot.path.to_vec());
            return self.change(mode.digits(), &hex(&known.id), spot.path);
        }
        if self.total.saturating_add(content.len() as u64) > self.limits.total_bytes {
            let why = format!(
                "the new content before it is {} together, which is the most that is kept",
                in_words(self.limits.total_bytes)
            );
            self.unread(spot, &stat, &why);
            return Ok(());
        }
        self.total += content.len() as u64;
        self.content(mode, spot.path, &content)
    }

    fn link(&mut self, spot: Spot<'_>) -> Result<(), WorkdirError> {
        match rustix::fs::readlinkat(spot.dir, spot.name, Vec::new()) {
            Ok(target) => self.content(Mode::Link, spot.path, target.to_bytes()),
            // Gone, or no link any more.
            Err(_) => Ok(()),
        }
    }

    fn content(&mut self, mode: Mode, path: &[u8], content: &[u8]) -> Result<(), WorkdirError> {
        self.seen.insert(path.to_vec());
        self.change(mode.digits(), "inline", path)?;
        self.put(format!("data {}\n", content.len()).as_bytes())?;
        self.put(content)?;
        self.put(b"\n")
    }

    fn change(&mut self, mode: &str, what: &str, path: &[u8]) -> Result<(), WorkdirError> {
        let mut line = format!("M {mode} {what} ").into_bytes();
        quote(path, &mut line);
        line.push(b'\n');
        self.put(&line)
    }

    /// A file that is there but cannot be taken as it is.
    fn unread(&mut self, spot: Spot<'_>, stat: &Stat, why: &str) {
        self.left_out(spot.path, why);
        self.result
            .unread
            .push((spot.path.to_vec(), Stamp::of(stat)));
    }

    fn left_out(&mut self, path: &[u8], reason: &str) {
        self.result.left_out_total += 1;
        if self.result.left_out.len() < LISTED {
            self.result.left_out.push(LeftOut {
                path: show(path),
                reason: reason.to_owned(),
            });
        }
    }

    /// What exists but was not read keeps the content that it has in the tree measured against.
    fn keep_what_was_not_read(&mut self) -> Result<(), WorkdirError> {
        let against = Arc::clone(&self.against);
        let mut keep: BTreeSet<&[u8]> = BTreeSet::new();
        for (path, _) in &self.result.unread {
            if let Some((path, _)) = against.files.get_key_value(path) {
                keep.insert(path);
            }
        }
        for closed in &self.result.closed {
            let mut below = closed.clone();
            below.push(b'/');
            let inside = against.files.range(below.clone()..);
            keep.extend(
                inside
                    .map(|(path, _)| path.as_slice())
                    .take_while(|path| path.starts_with(&below)),
            );
        }
        if self.result.cut.is_some() {
            let directories = directories_of(&self.seen);
            keep.extend(against.files.keys().map(Vec::as_slice).filter(|path| {
                !self.seen.contains(*path)
                    && !directories.contains(*path)
                    && !ancestors(path).any(|directory| self.seen.contains(directory))
            }));
        }
        let pinned: Vec<(&Vec<u8>, &String)> = against
            .submodules
            .iter()
            .filter(|(path, _)| {
                let hidden = self.result.cut.is_some() || is_below_any(path, &self.result.closed);
                hidden && !self.seen.contains(*path)
            })
            .collect();
        for (path, commit) in pinned {
            self.change("160000", commit, path)?;
        }
        for path in keep {
            if let Some(kept) = against.files.get(path) {
                self.change(kept.mode.digits(), &hex(&kept.id), path)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WorkdirError> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WorkdirError> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.to_git
            .blocking_send(piece)
            .map_err(|_| WorkdirError::Fault(GIT_ENDED.to_owned()))
    }
}

/// The directories above a path, nearest first.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| &path[..at])
}

fn directories_of(paths: &BTreeSet<Vec<u8>>) -> BTreeSet<&[u8]> {
    paths.iter().flat_map(|path| ancestors(path)).collect()
}

/// A path as fast-import reads it: quoted, everything unusual in octal.
fn quote(path: &[u8], line: &mut Vec<u8>) {
    line.push(b'"');
    for byte in path {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => line.push(*byte),
            other => line.extend_from_slice(format!("\\{other:03o}").as_bytes()),
        }
    }
    line.push(b'"');
}

/// A size for people.
pub(super) fn in_words(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    for (unit, name) in UNITS {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} bytes")
}
