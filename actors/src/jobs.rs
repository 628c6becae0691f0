//! The only way for an actor to do I/O: a future with a deadline, its panic caught, exactly one result message.
//!
//! In: a port's future and a function that makes the result message. Out: that message, sent to the actor's own handle.
//! Jobs end with the actor, because the set is dropped with its state.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use ractor::Message;
use tokio::task::{AbortHandle, JoinSet};
use tracing::Instrument;

use crate::handle::Handle;
use crate::id::JobId;

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd<T> {
    /// With a result.
    Done(T),
    /// Not in time.
    Deadline(Duration),
    /// The port panicked.
    Panicked(String),
}

impl<T, E> JobEnd<Result<T, E>> {
    /// Folds a missed deadline and a panic into the port's own error.
    pub fn or_else(self, lost: impl FnOnce(String) -> E) -> Result<T, E> {
        match self {
            Self::Done(result) => result,
            Self::Deadline(after) => {
                Err(lost(format!("no answer within {} ms", after.as_millis())))
            }
            Self::Panicked(text) => Err(lost(format!("the adapter panicked: {text}"))),
        }
    }
}

/// The jobs of one actor.
pub struct Jobs<M> {
    owner: Handle<M>,
    set: JoinSet<()>,
    live: BTreeMap<JobId, AbortHandle>,
    next: u64,
}

impl<M> std::fmt::Debug for Jobs<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs")
            .field("running", &self.set.len())
            .finish()
    }
}

impl<M: Message> Jobs<M> {
    /// A set whose results go to `owner`.
    pub fn new(owner: Handle<M>) -> Self {
        Self {
            owner,
            set: JoinSet::new(),
            live: BTreeMap::new(),
            next: 0,
        }
    }

    /// Starts a job. The result message is sent exactly once, unless the job is dropped.
    pub fn start<T, F>(
        &mut self,
        deadline: Duration,
        future: F,
        message: impl FnOnce(JobId, JobEnd<T>) -> M + Send + 'static,
    ) -> JobId
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.reap();
        self.next += 1;
        let id = JobId(self.next);
        let owner = self.owner.clone();
        let job = async move {
            let caught = AssertUnwindSafe(future).catch_unwind();
            let end = match tokio::time::timeout(deadline, caught).await {
                Ok(Ok(result)) => JobEnd::Done(result),
                Ok(Err(panic)) => JobEnd::Panicked(panic_text(panic.as_ref())),
                Err(_) => JobEnd::Deadline(deadline),
            };
            owner.tell(message(id, end));
        };
        // What an adapter logs on the way carries the task of the actor that asked.
        let handle = self.set.spawn(job.in_current_span());
        self.live.insert(id, handle);
        id
    }

    /// Sends `message` to the actor after `wait`.
    pub fn after(&mut self, wait: Duration, message: M) -> JobId {
        self.reap();
        self.next += 1;
        let id = JobId(self.next);
        let owner = self.owner.clone();
        let handle = self.set.spawn(async move {
            tokio::time::sleep(wait).await;
            owner.tell(message);
        });
        self.live.insert(id, handle);
        id
    }

    /// Drops a job; its result message will not be sent.
    pub fn drop_job(&mut self, id: JobId) {
        if let Some(handle) = self.live.remove(&id) {
            handle.abort();
        }
    }

    /// Drops all jobs.
    pub fn drop_all(&mut self) {
        self.set.abort_all();
        self.live.clear();
    }

    /// Forgets jobs that ended.
    fn reap(&mut self) {
        while self.set.try_join_next().is_some() {}
        self.live.retain(|_, handle| !handle.is_finished());
    }
}

/// The text of a caught panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without text".to_owned())
}
