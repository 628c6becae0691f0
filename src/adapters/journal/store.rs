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
use chargehand_actors::ports::{
    Batch, EndedFilter, EndedTask, JournalError, JournalStore, ListFilter, Loaded, PortFuture,
};
use chargehand_actors::view::TaskView;
use sqlx::migrate::MigrateError;
use sqlx::{ConnectOptions, Connection as _};

use super::dialect::{self, Connection, MIGRATIONS, Pool, Trouble};
use super::reserve::Reserve;
use super::write::{Write, Writer};
use super::{forget, load, read};

/// How long an open may look for damage, so that a start does not take longer with every task of the past. Some 50 MB are
/// looked through in that time; `chargehand journal check` looks at everything.
const CHECK_LIMIT: Duration = Duration::from_millis(300);

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
        refuse_emptied(path)?;
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

    /// Connections for reading.
    pub(super) const fn readers(&self) -> &Pool {
        &self.readers
    }

    /// Writes what is done in one piece.
    pub(super) async fn write(&self, write: Write) -> Result<(), JournalError> {
        self.writer.run(write).await.map(drop)
    }

    /// Writes piece by piece, letting other writes between them.
    async fn write_all(&self, write: Write) -> Result<(), JournalError> {
        while self.writer.run(write.clone()).await? {}
        Ok(())
    }

    async fn tidy_all(
        &self,
        events_before: WallTime,
        keys_before: WallTime,
    ) -> Result<(), JournalError> {
        loop {
            let unfinished = forget::unfinished(&self.readers).await;
            match unfinished.map_err(|e| self.reading(&e))? {
                Some(task) => self.write_all(Write::Forget(task, Vec::new())).await?,
                None => break,
            }
        }
        self.write_all(Write::Tidy(events_before, keys_before))
            .await
    }

    async fn check_all(&self) -> Result<String, JournalError> {
        self.write(Write::Check).await?;
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
        Box::pin(self.write(Write::Batches(batches)))
    }

    fn task(&self, task: TaskId) -> PortFuture<'_, Result<Option<TaskView>, JournalError>> {
        Box::pin(async move {
            let found = read::task(&self.readers, task).await;
            found.map_err(|e| self.reading(&e))
        })
    }

    fn record(
        &self,
        task: TaskId,
    ) -> PortFuture<'_, Result<Result<Vec<CommittedEvent>, String>, JournalError>> {
        Box::pin(async move {
            let record = async {
                let mut connection = self.readers.acquire().await?;
                load::events_of(&mut connection, task).await
            };
            record.await.map_err(|e| self.reading(&e))
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
        Box::pin(self.write(Write::Cursor(name, at)))
    }

    fn ended(&self, filter: EndedFilter) -> PortFuture<'_, Result<Vec<EndedTask>, JournalError>> {
        Box::pin(async move {
            let found = forget::ended(&self.readers, &filter).await;
            found.map_err(|e| self.reading(&e))
        })
    }

    fn forget(
        &self,
        task: TaskId,
        cursors: Vec<String>,
    ) -> PortFuture<'_, Result<(), JournalError>> {
        Box::pin(self.write_all(Write::Forget(task.to_string(), cursors)))
    }

    fn tidy(
        &self,
        events_before: WallTime,
        keys_before: WallTime,
    ) -> PortFuture<'_, Result<(), JournalError>> {
        Box::pin(self.tidy_all(events_before, keys_before))
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

/// Refuses to begin anew where a journal has been: its side files are there, and its content is gone.
fn refuse_emptied(path: &Path) -> Result<(), JournalError> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let content = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let traces = [beside("-wal"), beside(".reserve")];
    let Some(trace) = traces.iter().find(|trace| content(trace) > 0) else {
        return Ok(());
    };
    if content(path) > 0 {
        return Ok(());
    }
    Err(JournalError::Unusable(format!(
        "{} has lost its content: it is empty or gone, but {} shows that there was a journal; put the last good backup in \
         its place (`chargehand journal backup` writes them), or remove {} to begin without the tasks of before",
        path.display(),
        trace.display(),
        trace.display()
    )))
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
        "{} is damaged or is no Chargehand journal ({what}); keep a copy of it and of its -wal file, then put the last \
         good backup in its place, or use another data directory. `chargehand journal check` says what is wrong, \
         `chargehand journal export` prints what can be read",
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
        Trouble::ReadOnly => JournalError::Unusable(format!(
            "{path_text} can only be read ({error}): the file is write-protected, or its disk is mounted read-only, as the \
             system does after errors of the disk. Make it writable and start again, or use another data directory"
        )),
        Trouble::Busy => JournalError::Unusable(format!(
            "another program holds {path_text} locked ({error}); stop it and start again"
        )),
        Trouble::Interrupted | Trouble::Other => JournalError::Unusable(format!(
            "{path_text} cannot be opened ({error}); look whether it is a file that this user may read and write on a disk \
                 that works, or use another data directory"
        )),
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
