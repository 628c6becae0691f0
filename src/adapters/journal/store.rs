//! The journal as the tree sees it: opens the file, and implements the port.
//!
//! In: where the file is. Out: [`SqliteJournal`]; a file that cannot be trusted is refused here, with what to do.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chargehand_actors::event::CommittedEvent;
use chargehand_actors::id::{EventNumber, TaskId, WallTime};
use chargehand_actors::ports::{Batch, JournalError, JournalStore, ListFilter, Loaded, PortFuture};
use chargehand_actors::view::TaskView;
use sqlx::migrate::MigrateError;
use sqlx::{ConnectOptions, Connection as _};

use super::dialect::{self, Connection, MIGRATIONS, Pool, Trouble};
use super::reserve::Reserve;
use super::write::{Write, Writer};
use super::{load, read};

/// How long an open may look for damage. About 1 GB is looked through in that time.
const CHECK_LIMIT: Duration = Duration::from_secs(3);

/// Where the journal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// The database file; it is made when missing, its directory is not.
    pub path: PathBuf,
    /// Disk space kept for the end of tasks when the disk is full, in bytes; 0 = none.
    pub reserve_bytes: u64,
}

impl JournalSettings {
    /// A journal at `path` with the usual reserve of 8 MiB.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            reserve_bytes: 8 * 1024 * 1024,
        }
    }
}

/// The journal in a SQLite file. Cheap to clone; all clones are the same journal.
#[derive(Clone)]
pub struct SqliteJournal {
    path: Arc<Path>,
    writer: Arc<Writer>,
    readers: Pool,
}

impl SqliteJournal {
    /// Opens the journal, or makes it, and brings its schema up to date.
    ///
    /// The caller holds the lock of the data directory: two programs never open the same journal.
    ///
    /// # Errors
    /// [`JournalError::Unusable`] when the file was written by a newer program, is damaged or is no journal;
    /// [`JournalError::Write`] when it cannot be written.
    pub async fn open(settings: JournalSettings) -> Result<Self, JournalError> {
        let path = settings.path.as_path();
        make_private(path)?;
        let reserve = Reserve::of(path, settings.reserve_bytes);
        let mut writer = connect(path, &reserve)
            .await
            .map_err(|e| opening(path, &e))?;
        check_version(&mut writer, path).await?;
        let damage = dialect::damage(&mut writer, CHECK_LIMIT).await;
        if let Some(damage) = damage.map_err(|e| opening(path, &e))? {
            return Err(damaged(path, &damage));
        }
        MIGRATIONS
            .run(&mut writer)
            .await
            .map_err(|e| migrating(path, e))?;
        let journal = Self {
            path: Arc::from(path),
            writer: Arc::new(Writer::new(path, reserve, writer)),
            readers: dialect::readers(path),
        };
        if !journal.writer.restore_reserve().await {
            tracing::warn!(
                path = %path.display(),
                "the disk has too little space for the journal's reserve of {} bytes",
                settings.reserve_bytes
            );
        }
        Ok(journal)
    }

    /// Waits for the write under way and closes the file; later calls open it again.
    pub async fn close(&self) {
        self.readers.close().await;
        if let Some(connection) = self.writer.hold().await.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the journal did not close cleanly");
        }
    }

    fn reading(&self, error: &sqlx::Error) -> JournalError {
        JournalError::Read(format!("{}: {error}", self.path.display()))
    }

    async fn load_all(&self, keys_since: WallTime) -> Result<Loaded, JournalError> {
        // Holding the writer waits for an append whose caller has given up.
        let mut held = self.writer.hold().await;
        let connection = self.writer.ready(&mut held).await;
        let loaded = match connection {
            Ok(connection) => load::load(connection, keys_since).await,
            Err(error) => Err(error),
        };
        loaded.map_err(|e| self.reading(&e))
    }

    async fn check_all(&self) -> Result<String, JournalError> {
        self.writer.run(Write::Check).await?;
        let version: String = sqlx::query_scalar(dialect::ENGINE_VERSION)
            .fetch_one(&self.readers)
            .await
            .map_err(|e| self.reading(&e))?;
        if self.writer.restore_reserve().await {
            return Ok(version);
        }
        Err(JournalError::Write(format!(
            "the disk of {} is nearly full and the journal's reserve is not in place; free some space, \
             or tasks will stop when nothing more can be recorded",
            self.path.display()
        )))
    }
}

impl JournalStore for SqliteJournal {
    fn load(&self, keys_since: WallTime) -> PortFuture<'_, Result<Loaded, JournalError>> {
        Box::pin(self.load_all(keys_since))
    }

    fn append(&self, batches: Vec<Batch>) -> PortFuture<'_, Result<(), JournalError>> {
        Box::pin(self.writer.run(Write::Batches(batches)))
    }

    fn task(&self, task: TaskId) -> PortFuture<'_, Result<Option<TaskView>, JournalError>> {
        Box::pin(async move {
            let found = read::task(&self.readers, task).await;
            found.map_err(|e| self.reading(&e))
        })
    }

    fn events(
        &self,
        task: TaskId,
        after: EventNumber,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<Vec<CommittedEvent>, JournalError>> {
        Box::pin(async move {
            let found = read::events(&self.readers, task, after, offset, limit).await;
            found.map_err(|e| self.reading(&e))
        })
    }

    fn newest_events(
        &self,
        task: TaskId,
        limit: u64,
    ) -> PortFuture<'_, Result<Vec<CommittedEvent>, JournalError>> {
        Box::pin(async move {
            let found = read::newest_events(&self.readers, task, limit).await;
            found.map_err(|e| self.reading(&e))
        })
    }

    fn list(&self, filter: ListFilter) -> PortFuture<'_, Result<Vec<TaskView>, JournalError>> {
        Box::pin(async move {
            let found = read::list(&self.readers, &filter).await;
            found.map_err(|e| self.reading(&e))
        })
    }

    fn cursor(&self, name: String) -> PortFuture<'_, Result<EventNumber, JournalError>> {
        Box::pin(async move {
            let found = read::cursor(&self.readers, &name).await;
            found.map_err(|e| self.reading(&e))
        })
    }

    fn set_cursor(
        &self,
        name: String,
        at: EventNumber,
    ) -> PortFuture<'_, Result<(), JournalError>> {
        Box::pin(self.writer.run(Write::Cursor(name, at)))
    }

    fn check(&self) -> PortFuture<'_, Result<String, JournalError>> {
        Box::pin(self.check_all())
    }
}

/// Opens the file; when the side files do not fit on a full disk, the reserve makes room for them.
async fn connect(path: &Path, reserve: &Reserve) -> Result<Connection, sqlx::Error> {
    let options = dialect::writer(path);
    match options.connect().await {
        Err(error) if dialect::trouble(&error) == Trouble::Space && reserve.release() => {
            tracing::error!(path = %path.display(), "the disk is full: the journal's reserve is given up to open it");
            options.connect().await
        }
        opened => opened,
    }
}

/// Makes the file readable by its owner alone; SQLite's side files take over its mode.
fn make_private(path: &Path) -> Result<(), JournalError> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(JournalError::Write(format!(
            "{} cannot be made: {error}; check that its directory exists, is writable and has space",
            path.display()
        ))),
    }
}

/// Refuses a database that a newer program has changed. A new one has no version yet.
async fn check_version(connection: &mut Connection, path: &Path) -> Result<(), JournalError> {
    let error = |e: sqlx::Error| opening(path, &e);
    let known: i64 = sqlx::query_scalar(dialect::HAS_MIGRATIONS)
        .fetch_one(&mut *connection)
        .await
        .map_err(error)?;
    if known == 0 {
        return Ok(());
    }
    let found: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations")
        .fetch_one(&mut *connection)
        .await
        .map_err(error)?;
    let newest = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    if found > newest {
        return Err(JournalError::Unusable(format!(
            "{} was written by a newer Chargehand (schema {found}, this program knows {newest}); \
             start the newer program, or use another data directory",
            path.display()
        )));
    }
    Ok(())
}

fn damaged(path: &Path, what: &str) -> JournalError {
    JournalError::Unusable(format!(
        "{} is damaged or is no Chargehand journal ({what}); keep a copy of it and of its -wal file, then restore the \
         last good copy or use another data directory",
        path.display()
    ))
}

fn opening(path: &Path, error: &sqlx::Error) -> JournalError {
    let path_text = path.display();
    match dialect::trouble(error) {
        Trouble::Damaged => damaged(path, &error.to_string()),
        Trouble::Space => JournalError::Write(format!(
            "no space left for {path_text} ({error}); free some space and start again"
        )),
        Trouble::Busy => JournalError::Unusable(format!(
            "another program holds {path_text} locked ({error}); stop it and start again"
        )),
        Trouble::Interrupted | Trouble::Other => {
            JournalError::Unusable(format!("{path_text} cannot be opened: {error}"))
        }
    }
}

fn migrating(path: &Path, error: MigrateError) -> JournalError {
    let path_text = path.display();
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            opening(path, &error)
        }
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
            JournalError::Unusable(format!(
                "{path_text} has a schema {version} that this program does not know: it was written by another build; \
                 start that one, or use another data directory"
            ))
        }
        other => JournalError::Unusable(format!(
            "the schema of {path_text} cannot be brought up to date: {other}"
        )),
    }
}
