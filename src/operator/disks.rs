//! How much room is left on the disks in use.
//!
//! In: named directories. Out: free and whole bytes of their file systems. A file system that does not answer (a dead
//! network mount) costs one thread, not one for each question: it is left out until it answers again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a disk may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A directory whose disk is watched.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    name: &'static str,
    path: PathBuf,
    busy: Arc<AtomicBool>,
}

/// Room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Which directory was asked about.
    pub(super) name: &'static str,
    /// Bytes that our user may still write.
    pub(super) free: u64,
    /// All bytes.
    pub(super) size: u64,
}

impl Disk {
    pub(super) fn new(name: &'static str, path: PathBuf) -> Self {
        Self {
            name,
            path,
            busy: Arc::default(),
        }
    }

    /// None when the disk does not answer, or the directory is not there.
    pub(super) async fn room(&self) -> Option<Room> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (path, busy) = (self.path.clone(), Arc::clone(&self.busy));
        let asked = tokio::task::spawn_blocking(move || {
            let answer = rustix::fs::statvfs(&path);
            busy.store(false, Ordering::Release);
            answer
        });
        let answer = tokio::time::timeout(PATIENCE, asked)
            .await
            .ok()?
            .ok()?
            .ok()?;
        Some(Room {
            name: self.name,
            free: answer.f_bavail.saturating_mul(answer.f_frsize),
            size: answer.f_blocks.saturating_mul(answer.f_frsize),
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_has_room_and_a_missing_directory_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::new("data", directory.path().to_owned());
        for _ in 0..2 {
            let room = disk.room().await.unwrap();
            assert!(room.free > 0 && room.free <= room.size, "{room:?}");
        }
        let missing = Disk::new("data", directory.path().join("missing"));
        assert_eq!(missing.room().await, None);
        // One that still is asked is not asked again.
        disk.busy.store(true, Ordering::Release);
        assert_eq!(disk.room().await, None);
    }
}
