//! Looking at a journal file from outside, also while a server writes to it: opening it, copying it, reading all of it.
//!
//! In: the path of a journal or of a copy. Out: a read-only connection for [`super::inspect`], a checked copy, events in order.
//! Nothing here changes the journal.

use std::fs::File;
use std::path::{Path, PathBuf};

use chargehand_actors::id::TaskId;
use chargehand_actors::ports::JournalError;
use serde_json::Value;
use sqlx::{ConnectOptions, Connection as _};

use super::dialect::{self, Connection, MIGRATIONS, Trouble};
use super::inspect::{Depth, FILE, JournalReport, inspect};
use super::payload::decode;

/// Events read at once; between two pages no lock is held.
const PAGE: i64 = 500;

/// A stored event as it is exported: nothing is lost even when it cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Its number.
    pub number: i64,
    /// Milliseconds since 1970.
    pub at: i64,
    /// Its task, if it belongs to one.
    pub task: Option<String>,
    /// The word for what happened.
    pub kind: String,
    /// Version of the payload's meaning.
    pub version: i64,
    /// The event, or its stored text and why that cannot be read.
    pub event: Result<Value, (String, String)>,
}

/// Writes a consistent copy of the journal to a new file for its owner alone, looks through it, and makes it durable. What
/// the report says of single tasks is so in the journal too.
///
/// # Errors
/// [`JournalError::Write`] when the file exists or cannot be written, [`JournalError::Unusable`] when the journal or the copy is
/// damaged. No file is left then.
pub async fn backup(journal: &Path, copy: &Path) -> Result<JournalReport, JournalError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        JournalError::Write(format!(
            "{} {what} ({error}); nothing was copied",
            copy.display()
        ))
    };
    if copy.symlink_metadata().is_ok() {
        return Err(JournalError::Write(format!(
            "{} exists and is not overwritten; name a new file",
            copy.display()
        )));
    }
    let folder = match copy.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    // Beside its final place, under another name: a copy that is not whole never looks like one. Rights 0600.
    let unfinished = tempfile::Builder::new()
        .prefix(".chargehand-backup-")
        .tempfile_in(&folder)
        .map_err(|error| failed("cannot be made", &error))?;
    let place = unfinished
        .path()
        .to_str()
        .ok_or_else(|| failed("has a path that is no UTF-8 text", &"name another"))?;
    let mut connection = open(journal).await?;
    let copied = sqlx::query("VACUUM INTO $1")
        .bind(place)
        .execute(&mut connection)
        .await;
    close(connection).await;
    copied.map_err(|error| match dialect::trouble(&error) {
        Trouble::Damaged => damaged(journal, &error.to_string()),
        Trouble::Space
        | Trouble::ReadOnly
        | Trouble::Busy
        | Trouble::Interrupted
        | Trouble::Other => failed("cannot be written", &error),
    })?;
    let report = inspect(unfinished.path(), Depth::Full).await?;
    // A task whose record contradicts itself is copied as it is: all others must not go without a backup.
    if let Some(finding) = report.findings.iter().find(|found| found.place == FILE) {
        return Err(JournalError::Unusable(format!(
            "the copy is not sound ({}), so the journal is not either; it was not kept. \
             `chargehand journal check` says what is wrong",
            finding.what
        )));
    }
    unfinished
        .as_file()
        .sync_all()
        .map_err(|error| failed("cannot be made durable", &error))?;
    unfinished
        .persist_noclobber(copy)
        .map_err(|error| failed("cannot be named", &error.error))?;
    // The name is durable with its directory.
    File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| failed("is written, but its name may not be durable", &error))?;
    Ok(report)
}

/// Gives every event, or every event of one task, to `each`, in order. Damage ends it with the number up to which it went.
///
/// # Errors
/// [`JournalError::Read`] when the journal cannot be read, or what `each` says.
pub async fn export<E: From<JournalError>>(
    journal: &Path,
    task: Option<TaskId>,
    mut each: impl FnMut(StoredEvent) -> Result<(), E>,
) -> Result<u64, E> {
    let mut connection = open(journal).await?;
    let mut last = 0;
    let mut count = 0;
    loop {
        let page = page(&mut connection, task, last).await.map_err(|error| {
            JournalError::Read(format!(
                "{} cannot be read after event {last}: {error}",
                journal.display()
            ))
        })?;
        let whole = page.len() as i64 == PAGE;
        for event in page {
            last = event.number;
            count += 1;
            each(event)?;
        }
        if !whole {
            close(connection).await;
            return Ok(count);
        }
    }
}

async fn page(
    connection: &mut Connection,
    task: Option<TaskId>,
    after: i64,
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    type Row = (i64, i64, Option<String>, String, i64, String);
    let rows: Vec<Row> = match task {
        Some(task) => {
            sqlx::query_as(
                "SELECT number, at, task, type, version, payload FROM events
                 WHERE task = $1 AND number > $2 ORDER BY number LIMIT $3",
            )
            .bind(task.to_string())
            .bind(after)
            .bind(PAGE)
            .fetch_all(connection)
            .await?
        }
        None => {
            sqlx::query_as(
                "SELECT number, at, task, type, version, payload FROM events
                 WHERE number > $1 ORDER BY number LIMIT $2",
            )
            .bind(after)
            .bind(PAGE)
            .fetch_all(connection)
            .await?
        }
    };
    let stored = |(number, at, task, kind, version, payload): Row| {
        let event = decode(version, &payload)
            .and_then(|_| serde_json::from_str(&payload).map_err(|error| error.to_string()))
            .map_err(|why| (payload, why));
        StoredEvent {
            number,
            at,
            task,
            kind,
            version,
            event,
        }
    };
    Ok(rows.into_iter().map(stored).collect())
}

/// The ids of tasks that begin with these characters, two at most.
///
/// # Errors
/// [`JournalError::Read`] when the journal cannot be read.
pub async fn tasks_like(journal: &Path, beginning: &str) -> Result<Vec<String>, JournalError> {
    let mut connection = open(journal).await?;
    // Above every id that begins so: ids are ASCII.
    let end = format!("{beginning}\u{7f}");
    let found = sqlx::query_scalar("SELECT id FROM tasks WHERE id >= $1 AND id < $2 LIMIT 2")
        .bind(beginning)
        .bind(end)
        .fetch_all(&mut connection)
        .await;
    close(connection).await;
    found.map_err(|error| JournalError::Read(format!("{}: {error}", journal.display())))
}

/// Opens a journal to read. A file that is none, or that a newer program wrote, is refused.
pub(super) async fn open(path: &Path) -> Result<Connection, JournalError> {
    if let Err(error) = File::open(path) {
        return Err(JournalError::Unusable(format!(
            "{} cannot be opened: {error}",
            path.display()
        )));
    }
    let mut connection = match dialect::reader(path).connect().await {
        Ok(connection) => connection,
        Err(error) => return Err(unusable(path, &error)),
    };
    match schema(&mut connection).await {
        Ok(Some(found)) if found > newest_schema() => Err(JournalError::Unusable(format!(
            "{} was written by a newer Chargehand (schema {found}, this program knows {}); use that program",
            path.display(),
            newest_schema()
        ))),
        Ok(Some(_)) => Ok(connection),
        Ok(None) => Err(JournalError::Unusable(format!(
            "{} is no Chargehand journal",
            path.display()
        ))),
        Err(error) => Err(unusable(path, &error)),
    }
}

/// The version of the schema; none when this is another program's database, or an empty one.
pub(super) async fn schema(connection: &mut Connection) -> Result<Option<i64>, sqlx::Error> {
    let known: i64 = sqlx::query_scalar(dialect::HAS_MIGRATIONS)
        .fetch_one(&mut *connection)
        .await?;
    if known == 0 {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations")
        .fetch_one(&mut *connection)
        .await
}

/// The newest schema that this program knows.
pub(super) fn newest_schema() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

pub(super) async fn close(connection: Connection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "a connection to the journal did not close cleanly");
    }
}

fn unusable(path: &Path, error: &sqlx::Error) -> JournalError {
    match dialect::trouble(error) {
        Trouble::Damaged => damaged(path, &error.to_string()),
        Trouble::Space
        | Trouble::ReadOnly
        | Trouble::Busy
        | Trouble::Interrupted
        | Trouble::Other => {
            JournalError::Unusable(format!("{} cannot be read: {error}", path.display()))
        }
    }
}

fn damaged(path: &Path, what: &str) -> JournalError {
    JournalError::Unusable(format!(
        "{} is damaged or is no Chargehand journal ({what}); keep a copy of it and of its -wal file, and put the last \
         good backup in its place",
        path.display()
    ))
}
