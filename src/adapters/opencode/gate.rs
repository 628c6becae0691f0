//! At most two directories are started cold at once.
//!
//! OpenCode spends about 1.2 s of CPU on the first turn in a directory; twenty at once kept the first model call waiting for
//! 17 s. In: directories about to get a prompt. Out: a [`Permit`] for a cold one, held until its first turn has begun.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Cold directories at once.
const COLD_AT_ONCE: usize = 2;

/// Shared by all sessions of one worker.
#[derive(Clone, Debug)]
pub(super) struct ColdGate {
    permits: Arc<Semaphore>,
    warm: Arc<Mutex<HashSet<String>>>,
    /// Those that it was asked to serve, warm or not, also by an earlier Chargehand.
    served: Arc<Mutex<BTreeSet<String>>>,
}

/// The right to start one cold directory.
pub(super) struct Permit {
    _held: OwnedSemaphorePermit,
}

impl ColdGate {
    pub(super) fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(COLD_AT_ONCE)),
            warm: Arc::default(),
            served: Arc::default(),
        }
    }

    /// Waits for a place if the directory is cold; a warm one needs none.
    pub(super) async fn enter(&self, directory: &str) -> Option<Permit> {
        if self.is_warm(directory) {
            return None;
        }
        let held = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        Some(Permit { _held: held })
    }

    /// The worker is about to be asked for this directory; gives whether it is a new one.
    pub(super) fn serve(&self, directory: &str) -> bool {
        self.served().insert(directory.to_owned())
    }

    /// A turn has begun in the directory.
    pub(super) fn warmed(&self, directory: &str) {
        self.served().insert(directory.to_owned());
        self.lock().insert(directory.to_owned());
    }

    /// Whether a turn has begun in the directory in this worker's life, as far as is known here.
    pub(super) fn is_warm(&self, directory: &str) -> bool {
        self.lock().contains(directory)
    }

    /// Directories served so far.
    pub(super) fn count(&self) -> usize {
        self.served().len()
    }

    /// The directories served so far.
    pub(super) fn directories(&self) -> BTreeSet<String> {
        self.served().clone()
    }

    fn served(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
