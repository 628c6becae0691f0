//! What a tree of the store holds, path by path, and the ids that git gives to content.
//!
//! In: a tree of the bare repository; bytes of a file. Out: mode, id and size per path; the id of a blob.

use std::collections::BTreeMap;
use std::path::Path;

use chargehand_actors::ports::WorkdirError;
use rustix::fs::Stat;
use sha1::{Digest as _, Sha1};

use super::confined::Stamp;
use super::git::{Git, succeed};
use super::layout::{Baseline, Unrecorded};
use super::names::show;
use super::walk::Submodules;

/// The largest listing of a tree that is read (a hundred thousand long paths).
const LISTING: u64 = 512 * 1024 * 1024;

/// How git keeps a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Ordinary.
    Plain,
    /// May be executed by its owner.
    Executable,
    /// A link, kept as its text.
    Link,
}

impl Mode {
    /// As git writes it.
    pub(super) const fn digits(self) -> &'static str {
        match self {
            Self::Plain => "100644",
            Self::Executable => "100755",
            Self::Link => "120000",
        }
    }

    /// Of a regular file with these rights.
    pub(super) fn of_file(stat: &Stat) -> Self {
        if rustix::fs::Mode::from_raw_mode(stat.st_mode).contains(rustix::fs::Mode::XUSR) {
            Self::Executable
        } else {
            Self::Plain
        }
    }
}

/// A blob's id.
pub(super) type BlobId = [u8; 20];

/// One file of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// How.
    pub(super) mode: Mode,
    /// Its content.
    pub(super) id: BlobId,
    /// Bytes.
    pub(super) size: u64,
}

/// The files of a tree, and the submodules that it pins.
#[derive(Clone, Debug, Default)]
pub(super) struct Manifest {
    /// By path.
    pub(super) files: BTreeMap<Vec<u8>, Kept>,
    /// By path.
    pub(super) submodules: Submodules,
    /// Files that were there and that the tree does not hold, by shown path.
    pub(super) unrecorded: BTreeMap<String, Unrecorded>,
}

impl Manifest {
    /// Reads a baseline.
    pub(super) async fn of(
        git: &Git,
        repository: &Path,
        baseline: &Baseline,
    ) -> Result<Self, WorkdirError> {
        let mut manifest = Self::read(git, repository, &baseline.tree).await?;
        let unrecorded = baseline.unrecorded.iter();
        manifest.unrecorded = unrecorded
            .map(|file| (file.path.clone(), file.clone()))
            .collect();
        Ok(manifest)
    }

    /// The file is one that the baseline does not hold, and was not touched since.
    pub(super) fn is_as_unrecorded(&self, path: &[u8], stamp: &Stamp) -> bool {
        // Most baselines hold everything: nothing is to be made then.
        !self.unrecorded.is_empty()
            && self
                .unrecorded
                .get(&show(path))
                .is_some_and(|then| *then == Unrecorded::new(path, stamp))
    }

    /// Reads a tree or commit of the store.
    pub(super) async fn read(
        git: &Git,
        repository: &Path,
        tree: &str,
    ) -> Result<Self, WorkdirError> {
        let mut command = git.bare(repository);
        command.args(["ls-tree", "-r", "-z", "--long", "--full-tree", tree]);
        let listing = succeed(command, LISTING, "list the baseline").await?;
        let mut manifest = Self::default();
        for record in listing.split(|byte| *byte == 0).filter(|r| !r.is_empty()) {
            manifest.add(record).ok_or_else(|| {
                WorkdirError::Fault("git listed the baseline in an unknown form".to_owned())
            })?;
        }
        Ok(manifest)
    }

    /// `<mode> <type> <id> <size>\t<path>`
    fn add(&mut self, record: &[u8]) -> Option<()> {
        let tab = record.iter().position(|byte| *byte == b'\t')?;
        let (head, path) = (&record[..tab], &record[tab + 1..]);
        let mut words = std::str::from_utf8(head).ok()?.split_ascii_whitespace();
        let (mode, _kind, id, size) = (words.next()?, words.next()?, words.next()?, words.next()?);
        if mode == "160000" {
            self.submodules.insert(path.to_vec(), id.to_owned());
            return Some(());
        }
        let mode = match mode {
            "120000" => Mode::Link,
            "100755" => Mode::Executable,
            _ => Mode::Plain,
        };
        let kept = Kept {
            mode,
            id: parse_id(id)?,
            size: size.parse().ok()?,
        };
        self.files.insert(path.to_vec(), kept);
        Some(())
    }
}

/// The id that git gives to a blob with this content.
pub(super) fn blob_id(content: &[u8]) -> BlobId {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", content.len()).as_bytes());
    hash.update(content);
    hash.finalize().into()
}

/// An id in hex.
pub(super) fn hex(id: &BlobId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_id(text: &str) -> Option<BlobId> {
    let mut id = [0; 20];
    if text.len() != 40 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::{blob_id, hex, parse_id};

    #[test]
    fn blob_ids_are_those_of_git() {
        assert_eq!(
            hex(&blob_id(b"hello\n")),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
        let id = blob_id(b"");
        assert_eq!(parse_id(&hex(&id)), Some(id));
        assert_eq!(parse_id("e69de29b"), None);
    }
}
