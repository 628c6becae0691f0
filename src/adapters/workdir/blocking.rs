//! Work that blocks, off the async threads, and stopped when nobody waits for it any more.
//!
//! In: a closure that looks at [`Stop`] often. Out: its result. When the waiting future is dropped (a deadline), the
//! closure is told; it keeps the task's lock until it has really ended, so that a repetition never meets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chargehand_actors::ports::WorkdirError;
use tokio::sync::OwnedMutexGuard;

/// The lock of a task, shared with the threads that work under it.
pub(super) type Hold = Arc<OwnedMutexGuard<()>>;

/// Tells blocking work that nobody waits for it any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Fails when the work is not wanted any more.
    pub(super) fn check(&self) -> Result<(), WorkdirError> {
        if self.0.load(Ordering::Relaxed) {
            Err(WorkdirError::Fault(
                "the operation was given up before it was finished".to_owned(),
            ))
        } else {
            Ok(())
        }
    }
}

struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a thread for blocking work; `hold` is released only when it has ended.
pub(super) async fn blocking<T, F>(hold: Option<Hold>, work: F) -> Result<T, WorkdirError>
where
    T: Send + 'static,
    F: FnOnce(&Stop) -> Result<T, WorkdirError> + Send + 'static,
{
    let stop = Stop::default();
    let guard = StopOnDrop(stop.clone());
    let joined = tokio::task::spawn_blocking(move || {
        let result = work(&stop);
        drop(hold);
        result
    })
    .await;
    drop(guard);
    joined.map_err(|error| {
        WorkdirError::Fault(format!("work on the disk ended unexpectedly: {error}"))
    })?
}

#[cfg(test)]
mod tests {
    use super::blocking;
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    async fn dropped_work_is_told_to_stop() {
        let (told, seen) = mpsc::channel();
        let work = blocking(None, move |stop| {
            while stop.check().is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = told.send(());
            Ok(())
        });
        let waited = tokio::time::timeout(Duration::from_millis(20), work).await;
        assert!(waited.is_err());
        let heard = tokio::task::spawn_blocking(move || seen.recv_timeout(Duration::from_secs(10)));
        assert!(heard.await.is_ok_and(|heard| heard.is_ok()));
    }
}
