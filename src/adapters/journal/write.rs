//! The only way to change anything: one connection, one write at a time, tried once more when the disk is full.
//!
//! In: a [`Write`]. Out: durable, or nothing has changed. A write that was started is finished even when its caller
//! stops waiting, so that a repeat finds either all of it or nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chargehand_actors::crash::CrashPoint;
use chargehand_actors::id::{EventNumber, WallTime};
use chargehand_actors::ports::{Batch, JournalError};
use sqlx::{ConnectOptions, Connection as _};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::append::append;
use super::dialect::{self, Connection, Trouble};
use super::forget::{forget, tidy};
use super::reserve::Reserve;
use super::rooms::{self, RoomWrite};

/// A change, as plain data, so that it can be tried again.
#[derive(Clone, Debug)]
pub(super) enum Write {
    /// Append these, all or none.
    Batches(Vec<Batch>),
    /// Move a reader's cursor.
    Cursor(String, EventNumber),
    /// Delete a piece of a final task, by its id, and these cursors.
    Forget(String, Vec<String>),
    /// Delete a piece of the instance's events, and the keys, from before these times.
    Tidy(WallTime, WallTime),
    /// What is remembered of rooms.
    Room(RoomWrite),
    /// Nothing but a counter: shows that writing works.
    Check,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The database said no.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// An event or row cannot be turned into text.
    #[error("an event cannot be stored: {0}")]
    Encode(#[from] serde_json::Error),
    /// It would damage the order of events.
    #[error("{0}")]
    Refused(String),
}

/// The writer.
pub(super) struct Writer {
    path: PathBuf,
    reserve: Reserve,
    /// A connection whose transaction failed is not trusted again: it is replaced, and absent when that failed too.
    connection: Arc<Mutex<Option<Connection>>>,
}

/// The connection, for as long as nothing else may write.
pub(super) type Held = OwnedMutexGuard<Option<Connection>>;

impl Writer {
    pub(super) fn new(path: &Path, reserve: Reserve, connection: Connection) -> Self {
        Self {
            path: path.to_owned(),
            reserve,
            connection: Arc::new(Mutex::new(Some(connection))),
        }
    }

    /// Does it; `true` = a piece of it, and there is more to do. A caller that leaves while it waits for its turn leaves nothing behind; from then on it is done to the
    /// end, whether or not anybody waits for it.
    pub(super) async fn run(self: &Arc<Self>, write: Write) -> Result<bool, JournalError> {
        let held = self.hold().await;
        let writer = Arc::clone(self);
        tokio::spawn(async move { writer.run_here(held, &write).await })
            .await
            .unwrap_or_else(|e| Err(JournalError::Write(format!("the write failed inside: {e}"))))
    }

    async fn run_here(&self, mut held: Held, write: &Write) -> Result<bool, JournalError> {
        let fault = match self.attempt(&mut held, write).await {
            Ok(more) => return Ok(more),
            Err(fault) => fault,
        };
        let full = matches!(&fault, Fault::Sql(e) if dialect::trouble(e) == Trouble::Space);
        // The reserve is for events; nothing else may eat it.
        let worth_it = match write {
            Write::Batches(_) => true,
            Write::Cursor(..)
            | Write::Forget(..)
            | Write::Tidy(..)
            | Write::Room(_)
            | Write::Check => false,
        };
        if !full || !worth_it || !self.blocking(Reserve::release).await {
            return Err(self.error(&fault).await);
        }
        tracing::error!(path = %self.path.display(), "the disk is full: the journal's reserve is given up");
        match self.attempt(&mut held, write).await {
            Ok(more) => Ok(more),
            Err(fault) => Err(self.error(&fault).await),
        }
    }

    async fn attempt(&self, held: &mut Held, write: &Write) -> Result<bool, Fault> {
        let connection = self.ready(held).await?;
        let done = apply(connection, write).await;
        if done.is_err() {
            self.renew(held).await;
        }
        done
    }

    /// Replaces the connection at once, because readers need a writer that keeps the side files alive.
    async fn renew(&self, held: &mut Held) {
        if let Some(broken) = held.take()
            && let Err(error) = broken.close().await
        {
            tracing::debug!(%error, "the connection of a failed write did not close cleanly");
        }
        if let Err(error) = self.ready(held).await {
            tracing::warn!(%error, "the journal cannot be opened again after a failed write");
        }
    }

    /// Waits until no write is under way, and holds the next ones back.
    pub(super) async fn hold(&self) -> Held {
        Arc::clone(&self.connection).lock_owned().await
    }

    /// The connection, made again when there is none.
    pub(super) async fn ready<'h>(
        &self,
        held: &'h mut Held,
    ) -> Result<&'h mut Connection, sqlx::Error> {
        let connection = match held.take() {
            Some(connection) => connection,
            None => dialect::writer(&self.path).connect().await?,
        };
        Ok(held.insert(connection))
    }

    /// Makes sure that the reserve is in place. `false` when the disk has too little space for it.
    pub(super) async fn restore_reserve(&self) -> bool {
        self.blocking(|reserve| match reserve.restore() {
            Ok(in_place) => in_place,
            Err(error) => {
                tracing::warn!(%error, "the journal's reserve cannot be written");
                false
            }
        })
        .await
    }

    async fn blocking(&self, work: impl FnOnce(&Reserve) -> bool + Send + 'static) -> bool {
        let reserve = self.reserve.clone();
        tokio::task::spawn_blocking(move || work(&reserve))
            .await
            .unwrap_or(false)
    }

    /// A file system that has become read-only refuses a write to an open file with the same code as a full one.
    async fn trouble(&self, error: &sqlx::Error) -> Trouble {
        match dialect::trouble(error) {
            Trouble::Space if self.blocking(Reserve::is_on_read_only_disk).await => {
                Trouble::ReadOnly
            }
            known => known,
        }
    }

    async fn error(&self, fault: &Fault) -> JournalError {
        let path = self.path.display();
        let text = match fault {
            Fault::Sql(error) => match self.trouble(error).await {
                Trouble::Space => format!(
                    "no space left for {path} ({error}); nothing more is recorded until space is freed"
                ),
                Trouble::ReadOnly => format!(
                    "{path} can only be read ({error}): the file is write-protected, or its disk has become read-only, as the \
                     system does after errors of the disk; nothing more is recorded until it is writable. The kernel's log \
                     says more"
                ),
                Trouble::Damaged => format!(
                    "{path} is damaged ({error}); stop, keep a copy of it, and put the last good backup in its place"
                ),
                Trouble::Busy => format!("another program holds {path} locked ({error})"),
                Trouble::Interrupted | Trouble::Other => format!("{path}: {error}"),
            },
            Fault::Encode(_) | Fault::Refused(_) => fault.to_string(),
        };
        JournalError::Write(text)
    }
}

async fn apply(connection: &mut Connection, write: &Write) -> Result<bool, Fault> {
    let mut change = connection.begin_with(dialect::BEGIN_WRITE).await?;
    let mut more = false;
    match write {
        Write::Batches(batches) => append(&mut change, batches).await?,
        Write::Cursor(name, at) => {
            sqlx::query(
                "INSERT INTO cursors (name, event) VALUES ($1, $2)
                 ON CONFLICT (name) DO UPDATE SET event = excluded.event",
            )
            .bind(name)
            .bind(at.0.cast_signed())
            .execute(&mut *change)
            .await?;
        }
        Write::Forget(task, cursors) => more = forget(&mut change, task, cursors).await?,
        Write::Tidy(events, keys) => more = tidy(&mut change, *events, *keys).await?,
        Write::Room(write) => rooms::apply(&mut change, write).await?,
        Write::Check => {
            sqlx::query(
                "INSERT INTO health (id, checks) VALUES (1, 1)
                 ON CONFLICT (id) DO UPDATE SET checks = health.checks + 1",
            )
            .execute(&mut *change)
            .await?;
        }
    }
    if matches!(write, Write::Batches(_)) {
        CrashPoint::BeforeCommit.pass();
    }
    change.commit().await?;
    Ok(more)
}
