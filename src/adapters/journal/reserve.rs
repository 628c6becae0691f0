//! Disk space kept for the last words: a file of real blocks that is given up when the disk is full, so that what ends
//! tasks can still be written.
//!
//! In: a path and a size. Out: whether the space is in place. All calls block; they are run off the async threads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The reserve of one journal.
#[derive(Clone, Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// The reserve beside the journal at `journal`; `bytes` 0 = none.
    pub(super) fn of(journal: &Path, bytes: u64) -> Self {
        let mut path = journal.as_os_str().to_owned();
        path.push(".reserve");
        Self {
            path: path.into(),
            bytes,
        }
    }

    /// Gives the space up. `false` when there was none.
    pub(super) fn release(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }

    /// Whether the disk says that it takes no writes at all, by trying one.
    pub(super) fn is_on_read_only_disk(&self) -> bool {
        let mut path = self.path.as_os_str().to_owned();
        path.push(".try");
        let tried = File::create(&path);
        match tried {
            Ok(_) => {
                // It is empty; one that stays takes no space and is overwritten by the next try.
                drop(fs::remove_file(&path));
                false
            }
            Err(error) => error.kind() == io::ErrorKind::ReadOnlyFilesystem,
        }
    }

    /// Makes sure that the space is in place, unless the disk would be left with less than as much again.
    /// `Ok(false)` when there is too little space.
    pub(super) fn restore(&self) -> io::Result<bool> {
        let have = fs::metadata(&self.path).map_or(0, |meta| meta.len());
        if have == self.bytes || self.bytes == 0 {
            return Ok(true);
        }
        let folder = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if free_bytes(folder)? < self.bytes.saturating_mul(2) {
            return Ok(false);
        }
        match self.fill() {
            Ok(()) => Ok(true),
            Err(error) => {
                self.release();
                Err(error)
            }
        }
    }

    /// Noise, because a compressing file system keeps no blocks for zeros.
    fn fill(&self) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path)?;
        let mut out = BufWriter::with_capacity(64 * 1024, file);
        let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
        let mut left = self.bytes;
        while left > 0 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            let word = noise.to_le_bytes();
            let part = usize::try_from(left).map_or(word.len(), |left| left.min(word.len()));
            out.write_all(&word[..part])?;
            left -= part as u64;
        }
        let file: File = out.into_inner()?;
        file.sync_all()
    }
}

fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
