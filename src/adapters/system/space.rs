//! How much room the disks have, by the file system's own count.
//!
//! In: directories and how many bytes must stay free on the disk of each. Out: the port `Space`.

use std::io;
use std::path::{Path, PathBuf};

use chargehand_actors::ports::{PortFuture, Space};
use futures_util::FutureExt as _;

/// Watches the disks of some directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    directories: Vec<PathBuf>,
    min_free: u64,
}

impl DiskSpace {
    /// On the disk of each of these directories, `min_free` bytes must be free; 0 = no disk is watched.
    pub fn new(directories: Vec<PathBuf>, min_free: u64) -> Self {
        Self {
            directories,
            min_free,
        }
    }
}

impl Space for DiskSpace {
    fn watched(&self) -> bool {
        self.min_free > 0
    }

    fn low(&self) -> PortFuture<'_, Option<String>> {
        if !self.watched() {
            return async { None }.boxed();
        }
        let this = self.clone();
        // A network disk may take its time.
        let look = tokio::task::spawn_blocking(move || this.look());
        look.map(Result::unwrap_or_default).boxed()
    }
}

impl DiskSpace {
    fn look(&self) -> Option<String> {
        self.directories.iter().find_map(|directory| {
            let free = match free_bytes(directory) {
                Ok(free) => free,
                Err(error) => {
                    let path = directory.display();
                    tracing::warn!(%path, %error, "how much room the disk has cannot be found out");
                    return None;
                }
            };
            (free < self.min_free).then(|| {
                format!(
                    "{} MB are free on the disk of {}, {} MB must be (retention.min_free_mb)",
                    free >> 20,
                    directory.display(),
                    self.min_free.div_ceil(1 << 20),
                )
            })
        })
    }
}

/// What this account may still write to the disk of a directory, or of the nearest one above it that is there.
fn free_bytes(directory: &Path) -> io::Result<u64> {
    let mut at = directory;
    loop {
        match rustix::fs::statvfs(at) {
            Ok(stat) => return Ok(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(rustix::io::Errno::NOENT) => {
                at = at.parent().ok_or(rustix::io::Errno::NOENT)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
