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

struct Shared<M> {
    target: RwLock<Option<ActorRef<M>>>,
    waiting: Arc<AtomicU64>,
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
            .field("waiting", &self.0.waiting.load(Ordering::Relaxed))
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
            waiting: Arc::default(),
        }))
    }

    /// Puts an actor behind the address; what waited for an earlier one is forgotten with it.
    pub fn fill(&self, actor: ActorRef<M>) {
        self.0.waiting.store(0, Ordering::Relaxed);
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
        self.0.waiting.store(0, Ordering::Relaxed);
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
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// The counter itself, for the board.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.waiting)
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
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        actor.cast(message).map_err(|_| {
            self.0.waiting.fetch_sub(1, Ordering::Relaxed);
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
pub struct Inbox(Arc<AtomicU64>);

impl Inbox {
    /// One message was taken out of the mailbox.
    pub fn took(&self) {
        // A refill resets the count while old messages may still be handled: never below zero.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some(n.saturating_sub(1))
            });
    }
}
