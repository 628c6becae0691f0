//! The only way to send to an actor of ours: a refillable address with our own count of waiting messages.
//!
//! In: messages from anywhere. Out: casts to the actor that is live now. ractor has no mailbox length, so the count is
//! kept here: [`Handle::send`] adds one, the actor's [`Inbox::took`] takes one off for each message that it handles.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ractor::{ActorRef, Message};

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Nobody is there: starting, restarting or stopped.
    #[error("the actor is not running")]
    NotRunning,
    /// More messages wait than this sender is allowed to add to.
    #[error("the actor has too many messages waiting")]
    Full,
}

/// How many messages wait, and how many waited at most. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Backlog(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    now: AtomicU64,
    most: AtomicU64,
}

impl Backlog {
    /// Messages that wait.
    pub fn now(&self) -> u64 {
        self.0.now.load(Ordering::Relaxed)
    }

    /// The most that ever waited at once.
    pub fn most(&self) -> u64 {
        self.0.most.load(Ordering::Relaxed)
    }

    fn add(&self) {
        let now = self.0.now.fetch_add(1, Ordering::Relaxed) + 1;
        // A plain read is enough most of the time: the highest mark is seldom passed.
        if now > self.most() {
            self.0.most.fetch_max(now, Ordering::Relaxed);
        }
    }

    fn forget(&self) {
        self.0.now.store(0, Ordering::Relaxed);
    }

    /// A refill resets the count while old messages may still be handled: never below zero.
    fn take(&self) {
        let _ = self
            .0
            .now
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some(n.saturating_sub(1))
            });
    }
}

struct Shared<M> {
    target: RwLock<Option<ActorRef<M>>>,
    waiting: Backlog,
}

/// An address that outlives the actor behind it. Cheap to clone.
pub struct Handle<M>(Arc<Shared<M>>);

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> std::fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("waiting", &self.0.waiting.now())
            .finish()
    }
}

impl<M: Message> Default for Handle<M> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<M: Message> Handle<M> {
    /// An address with nobody behind it yet.
    pub fn empty() -> Self {
        Self(Arc::new(Shared {
            target: RwLock::new(None),
            waiting: Backlog::default(),
        }))
    }

    /// Puts an actor behind the address; what waited for an earlier one is forgotten with it.
    pub fn fill(&self, actor: ActorRef<M>) {
        self.0.waiting.forget();
        *self
            .0
            .target
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }

    /// Takes the actor away.
    pub fn clear(&self) {
        *self
            .0
            .target
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
        self.0.waiting.forget();
    }

    /// The actor behind it, if any.
    pub fn actor(&self) -> Option<ActorRef<M>> {
        self.0
            .target
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Messages sent and not yet handled.
    pub fn waiting(&self) -> u64 {
        self.0.waiting.now()
    }

    /// The counter itself, for the board.
    pub fn counter(&self) -> Backlog {
        self.0.waiting.clone()
    }

    /// What the actor takes its messages off the count with.
    pub fn inbox(&self) -> Inbox {
        Inbox(self.counter())
    }

    /// Sends. Never waits.
    ///
    /// # Errors
    /// [`SendError::NotRunning`] when nobody is there.
    pub fn send(&self, message: M) -> Result<(), SendError> {
        let target = self.0.target.read().unwrap_or_else(PoisonError::into_inner);
        let Some(actor) = target.as_ref() else {
            return Err(SendError::NotRunning);
        };
        self.0.waiting.add();
        actor.cast(message).map_err(|_| {
            self.0.waiting.take();
            SendError::NotRunning
        })
    }

    /// Sends unless `limit` messages wait already: for senders outside the tree and for streams.
    ///
    /// # Errors
    /// [`SendError::Full`] at the limit, [`SendError::NotRunning`] when nobody is there.
    pub fn send_gated(&self, message: M, limit: u64) -> Result<(), SendError> {
        if self.waiting() >= limit {
            return Err(SendError::Full);
        }
        self.send(message)
    }

    /// Sends where a lost message is made up for elsewhere (restart, reconciliation); says so at the call.
    pub fn tell(&self, message: M) {
        if let Err(error) = self.send(message) {
            tracing::debug!(%error, actor = std::any::type_name::<M>(), "message not delivered");
        }
    }
}

/// The receiving end of the count.
#[derive(Clone, Debug)]
pub struct Inbox(Backlog);

impl Inbox {
    /// One message was taken out of the mailbox.
    pub fn took(&self) {
        self.0.take();
    }
}
