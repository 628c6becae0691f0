//! Everything that is special to SQLite: connections, the check of the file, the meaning of error codes.
//!
//! In: a path, an error of the driver. Out: connect options, [`Trouble`]. A store in PostgreSQL replaces this file.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Sqlite, SqliteConnection, SqlitePool};

pub(super) type Database = Sqlite;
pub(super) type Connection = SqliteConnection;
pub(super) type Pool = SqlitePool;

/// All versions of the schema.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("src/adapters/journal/migrations");

/// Takes the write lock at once, so that a transaction never fails half-way because somebody else writes.
pub(super) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

/// Version of the engine below.
pub(super) const ENGINE_VERSION: &str = "SELECT 'SQLite ' || sqlite_version()";

/// Whether the table of applied migrations exists.
pub(super) const HAS_MIGRATIONS: &str =
    "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'";

/// Follows a table's name: the index to walk. Without statistics SQLite's planner takes a shorter one when times are
/// bounded, and would then look at every task of an agent to find its few running ones.
pub(super) fn by_index(name: &str) -> String {
    format!(" INDEXED BY {name}")
}

/// Longer than any transaction of ours; only another program makes it wait.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Reads are short; more readers than this would only wait for the disk.
const READERS: u32 = 3;
/// The write-ahead log is cut back to this size after a checkpoint.
const WAL_LIMIT: &str = "16777216";
/// Instructions of the virtual machine between two looks at the clock: about a millisecond.
const PROGRESS_STEP: i32 = 50_000;

/// What an error means for the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No space on the disk, or a write error that a quota may have caused.
    Space,
    /// The file, or the file system that it lies on, may only be read.
    ReadOnly,
    /// The file is not a database, or is damaged.
    Damaged,
    /// Another connection holds the lock.
    Busy,
    /// It took longer than allowed and was interrupted.
    Interrupted,
    /// Anything else.
    Other,
}

/// Reads the meaning of an error from SQLite's result code.
pub(super) fn trouble(error: &sqlx::Error) -> Trouble {
    const IOERR_WRITE: u32 = 778;
    const IOERR_SHMSIZE: u32 = 4874;
    let code = error
        .as_database_error()
        .and_then(|e| e.code())
        .and_then(|code| code.parse::<u32>().ok());
    match code {
        Some(IOERR_WRITE | IOERR_SHMSIZE) => Trouble::Space,
        // The low byte is the primary code.
        Some(code) => match code & 0xff {
            5 | 6 => Trouble::Busy,
            8 => Trouble::ReadOnly,
            9 => Trouble::Interrupted,
            11 | 26 => Trouble::Damaged,
            13 => Trouble::Space,
            _ => Trouble::Other,
        },
        None => Trouble::Other,
    }
}

/// How the one writer connects. A commit is on the disk when it returns.
pub(super) fn writer(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("journal_size_limit", WAL_LIMIT)
        .disable_statement_logging()
}

/// The readers; connections are made when they are first needed.
pub(super) fn readers(path: &Path) -> Pool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging();
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(BUSY_TIMEOUT)
        .connect_lazy_with(options)
}

/// A reader from outside, which never changes anything; a server may be writing.
pub(super) fn reader(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
}

/// Everything that the engine finds wrong with the file, at most a hundred lines.
pub(super) const FULL_CHECK: &str = "PRAGMA integrity_check(100)";

/// Rows that point to a row that is not there: table, row, the table pointed to.
pub(super) const REFERENCE_CHECK: &str =
    "SELECT \"table\", rowid, parent FROM pragma_foreign_key_check LIMIT 100";

/// Tables and indexes, each with the statement that made it.
pub(super) const LAYOUT: &str =
    "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name";

/// An empty journal in memory: what the newest schema looks like.
pub(super) async fn blank() -> Result<Connection, sqlx::Error> {
    use sqlx::Connection as _;

    let mut connection = Connection::connect("sqlite::memory:").await?;
    MIGRATIONS
        .run(&mut connection)
        .await
        .map_err(|error| sqlx::Error::Migrate(Box::new(error)))?;
    Ok(connection)
}

/// Looks for damage, for at most `limit`; a file too large for that is taken as sound. `Some` says what is wrong.
pub(super) async fn damage(
    connection: &mut Connection,
    limit: Duration,
) -> Result<Option<String>, sqlx::Error> {
    let end = Instant::now() + limit;
    connection
        .lock_handle()
        .await?
        .set_progress_handler(PROGRESS_STEP, move || Instant::now() < end);
    let found = sqlx::query_scalar::<_, String>("PRAGMA quick_check(1)")
        .fetch_one(&mut *connection)
        .await;
    connection.lock_handle().await?.remove_progress_handler();
    match found {
        Ok(word) if word == "ok" => Ok(None),
        Ok(damage) => Ok(Some(damage)),
        Err(error) => match trouble(&error) {
            Trouble::Interrupted => Ok(None),
            Trouble::Damaged => Ok(Some(error.to_string())),
            Trouble::Space | Trouble::ReadOnly | Trouble::Busy | Trouble::Other => Err(error),
        },
    }
}

/// A new database in memory, for tests of statements.
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
pub(super) async fn scratch() -> Connection {
    blank().await.unwrap()
}

/// How a statement is going to be answered, in SQLite's words.
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
pub(super) async fn explain(connection: &mut Connection, sql: &str) -> String {
    let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows: Vec<(i64, i64, i64, String)> = sqlx::query_as(explained)
        .fetch_all(connection)
        .await
        .unwrap();
    let steps: Vec<_> = rows.into_iter().map(|row| row.3).collect();
    steps.join("; ")
}
