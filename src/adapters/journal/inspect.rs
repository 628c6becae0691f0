//! Looks for what is wrong with a journal: damage of the file, and records that contradict each other.
//!
//! In: a journal file, which may be in use. Out: a [`JournalReport`] of one moment: what is there, and every [`Finding`]. The
//! records of each task are folded with the code that decides about tasks, and compared with the row that readers see.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use chargehand_actors::event::{CommittedEvent, Event};
use chargehand_actors::id::TaskId;
use chargehand_actors::machine::TaskState;
use chargehand_actors::ports::JournalError;
use chargehand_actors::view::TaskView;
use futures_util::TryStreamExt;
use sqlx::Connection as _;

use super::dialect::{self, Connection};
use super::forget::last_number;
use super::maintenance::{close, newest_schema, open, schema};
use super::read::{EventRow, committed};

/// Where a finding is that concerns the whole file.
pub(super) const FILE: &str = "file";
/// Where a finding is that concerns records of no single task.
const RECORDS: &str = "records";
/// Findings that are kept; the others are only counted.
const KEPT: usize = 200;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Everything.
    Full,
    /// The file's structure, for at most this long.
    Structure(Duration),
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: [`FILE`], `records`, or the id of a task.
    pub place: String,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// What a look at a journal found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalReport {
    /// Version of the schema.
    pub schema: i64,
    /// Version of the schema that this program writes.
    pub newest_schema: i64,
    /// Tasks in it.
    pub tasks: u64,
    /// Events in it.
    pub events: u64,
    /// The newest event's number.
    pub last_event: i64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more: u64,
}

impl JournalReport {
    fn find(&mut self, place: impl fmt::Display, what: impl Into<String>) {
        if self.findings.len() < KEPT {
            self.findings.push(Finding {
                place: place.to_string(),
                what: what.into(),
            });
        } else {
            self.more += 1;
        }
    }
}

/// Looks at a journal as it is at one moment; whoever writes to it goes on.
///
/// # Errors
/// [`JournalError::Unusable`] when the file is not there, is no journal, or was written by a newer program;
/// [`JournalError::Read`] when the disk fails.
pub async fn inspect(journal: &Path, depth: Depth) -> Result<JournalReport, JournalError> {
    let mut connection = open(journal).await?;
    let mut report = JournalReport::default();
    let done = match depth {
        Depth::Full => everything(&mut connection, &mut report).await,
        Depth::Structure(limit) => structure(&mut connection, limit, &mut report).await,
    };
    close(connection).await;
    match done {
        Ok(()) => Ok(report),
        // What was found before stays told.
        Err(error) if dialect::trouble(&error) == dialect::Trouble::Damaged => {
            report.find(FILE, format!("cannot be read to its end: {error}"));
            Ok(report)
        }
        Err(error) => Err(JournalError::Read(format!(
            "{}: {error}",
            journal.display()
        ))),
    }
}

async fn structure(
    connection: &mut Connection,
    limit: Duration,
    report: &mut JournalReport,
) -> Result<(), sqlx::Error> {
    count(connection, report).await?;
    if let Some(damage) = dialect::damage(connection, limit).await? {
        report.find(FILE, damage);
    }
    Ok(())
}

async fn everything(
    connection: &mut Connection,
    report: &mut JournalReport,
) -> Result<(), sqlx::Error> {
    // One transaction, so that all is seen as of one moment.
    let mut moment = connection.begin().await?;
    count(&mut moment, report).await?;
    let lines: Vec<String> = sqlx::query_scalar(dialect::FULL_CHECK)
        .fetch_all(&mut *moment)
        .await?;
    for line in lines.into_iter().filter(|line| line != "ok") {
        report.find(FILE, line);
    }
    layout(&mut moment, report).await?;
    references(&mut moment, report).await?;
    numbers(&mut moment, report).await?;
    // Of a task whose deletion has begun some events are gone, and no reader finds it.
    let ids = if knows_retention(report) {
        "SELECT id FROM tasks WHERE forgotten = 0 ORDER BY created_at, id"
    } else {
        "SELECT id FROM tasks ORDER BY created_at, id"
    };
    let ids: Vec<String> = sqlx::query_scalar(ids).fetch_all(&mut *moment).await?;
    for id in ids {
        match TaskId::from_str(&id) {
            Ok(task) => look_at_task(&mut moment, task, report).await?,
            Err(_) => report.find(id, "its id is no UUID: no program can read it"),
        }
    }
    moment.rollback().await
}

async fn count(connection: &mut Connection, report: &mut JournalReport) -> Result<(), sqlx::Error> {
    report.schema = schema(connection).await?.unwrap_or(0);
    report.newest_schema = newest_schema();
    let (tasks, events, last): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM tasks), (SELECT COUNT(*) FROM events),
                (SELECT COALESCE(MAX(number), 0) FROM events)",
    )
    .fetch_one(&mut *connection)
    .await?;
    report.tasks = tasks.cast_unsigned();
    report.events = events.cast_unsigned();
    report.last_event = last;
    if knows_retention(report) {
        // Those of deleted tasks were given, too.
        report.last_event = last_number(connection).await?;
    }
    Ok(())
}

/// Whether old tasks may have been deleted, or are being deleted.
const fn knows_retention(report: &JournalReport) -> bool {
    report.schema >= 2
}

/// Tables and indexes are those that this program makes. An older schema is brought up to date by the next start first.
async fn layout(
    connection: &mut Connection,
    report: &mut JournalReport,
) -> Result<(), sqlx::Error> {
    if report.schema != report.newest_schema {
        return Ok(());
    }
    let mut blank = dialect::blank().await?;
    let wanted: Vec<(String, String)> = sqlx::query_as(dialect::LAYOUT)
        .fetch_all(&mut blank)
        .await?;
    let found: Vec<(String, String)> = sqlx::query_as(dialect::LAYOUT)
        .fetch_all(connection)
        .await?;
    for (name, _) in wanted.iter().filter(|made| !found.contains(made)) {
        report.find(
            FILE,
            format!("{name} is missing or is not as this program makes it"),
        );
    }
    Ok(())
}

/// Keys, labels and events point to tasks that are there.
async fn references(
    connection: &mut Connection,
    report: &mut JournalReport,
) -> Result<(), sqlx::Error> {
    let lost: Vec<(String, Option<i64>, String)> = sqlx::query_as(dialect::REFERENCE_CHECK)
        .fetch_all(connection)
        .await?;
    for (table, row, parent) in lost {
        let row = row.map_or_else(String::new, |row| format!(" {row}"));
        report.find(
            RECORDS,
            format!("row{row} of {table} belongs to a row of {parent} that is not there"),
        );
    }
    Ok(())
}

/// Numbers begin at 1, and nobody has read further than what there is.
async fn numbers(
    connection: &mut Connection,
    report: &mut JournalReport,
) -> Result<(), sqlx::Error> {
    let first: i64 = sqlx::query_scalar("SELECT COALESCE(MIN(number), 1) FROM events")
        .fetch_one(&mut *connection)
        .await?;
    if first < 1 {
        report.find(
            RECORDS,
            format!("an event has the number {first}; the first is 1"),
        );
    }
    let ahead: Vec<(String, i64)> = sqlx::query_as("SELECT name, event FROM cursors")
        .fetch_all(connection)
        .await?;
    for (name, event) in ahead {
        if event > report.last_event && report.tasks > 0 {
            report.find(
                RECORDS,
                format!(
                    "the reader {name} has read up to event {event}, and the newest is {}: events are missing",
                    report.last_event
                ),
            );
        }
    }
    Ok(())
}

/// The columns of a row of `tasks` that are looked at.
#[derive(sqlx::FromRow)]
struct Row {
    phase: String,
    #[sqlx(rename = "final")]
    ended: i64,
    attempt: i64,
    removed: i64,
    created_at: i64,
    token: String,
    agent_id: String,
    last_event: i64,
    view: String,
}

/// What the events of a task say, in order.
#[derive(Default)]
struct Record {
    /// The fold up to the row's last event.
    state: Option<TaskState>,
    /// Events looked at.
    events: u64,
    /// Final ones among them.
    finals: u64,
    /// The newest attempt whose removal is recorded.
    removed: u32,
    /// Some could not be read, or came before the first: there is nothing to compare.
    broken: bool,
}

async fn look_at_task(
    connection: &mut Connection,
    task: TaskId,
    report: &mut JournalReport,
) -> Result<(), sqlx::Error> {
    let row: Row = sqlx::query_as(
        "SELECT phase, final, attempt, removed, created_at, token, agent_id, last_event, view
         FROM tasks WHERE id = $1",
    )
    .bind(task.to_string())
    .fetch_one(&mut *connection)
    .await?;
    let record = read_record(connection, task, row.last_event, report).await?;
    if record.events == 0 {
        report.find(task, "has a row, but no events");
        return Ok(());
    }
    if record.finals > 1 {
        report.find(
            task,
            format!("has ended {} times; an end is final", record.finals),
        );
    }
    let view: TaskView = match serde_json::from_str(&row.view) {
        Ok(view) => view,
        Err(error) => {
            report.find(task, format!("its row cannot be read: {error}"));
            return Ok(());
        }
    };
    for what in row_differs(&row, &view, &record) {
        report.find(task, format!("its row contradicts itself: {what}"));
    }
    if let Some(state) = record.state.filter(|_| !record.broken) {
        let differ = differences(&view, &state.view());
        if !differ.is_empty() {
            report.find(
                task,
                format!("its row and its events differ in {}", differ.join(", ")),
            );
        }
    }
    Ok(())
}

async fn read_record(
    connection: &mut Connection,
    task: TaskId,
    up_to: i64,
    report: &mut JournalReport,
) -> Result<Record, sqlx::Error> {
    let mut record = Record::default();
    let mut rows = sqlx::query_as::<_, EventRow>(
        "SELECT number, at, task, type, version, payload FROM events WHERE task = $1 ORDER BY number",
    )
    .bind(task.to_string())
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        record.events += 1;
        match committed(row) {
            Ok(event) => record.take(task, &event, up_to, report),
            Err(why) => {
                report.find(task, why);
                record.broken = true;
            }
        }
    }
    Ok(record)
}

impl Record {
    fn take(
        &mut self,
        task: TaskId,
        committed: &CommittedEvent,
        up_to: i64,
        report: &mut JournalReport,
    ) {
        let (number, event) = (committed.number, &committed.event);
        if event.is_final() {
            self.finals += 1;
        }
        if let Event::AttemptRemoved { attempt } = event {
            self.removed = self.removed.max(*attempt);
        }
        match (&mut self.state, event) {
            (Some(_), Event::TaskAccepted { .. }) => {
                report.find(task, format!("is accepted a second time by event {number}"));
                self.broken = true;
            }
            // Later ones are written without the row.
            (Some(state), _) if number.0.cast_signed() <= up_to => state.fold_committed(committed),
            (Some(_), _) => {}
            (None, event) => {
                self.state = TaskState::accepted(task, committed.at, event);
                match &mut self.state {
                    Some(state) => state.last_event = number,
                    None if !self.broken => {
                        report.find(
                            task,
                            format!("begins with event {number}, not with its acceptance"),
                        );
                        self.broken = true;
                    }
                    None => {}
                }
            }
        }
    }
}

/// Columns that repeat what the view or the events say.
fn row_differs(row: &Row, view: &TaskView, record: &Record) -> Vec<&'static str> {
    [
        ("phase", row.phase == view.phase.as_str()),
        ("final", (row.ended != 0) == view.phase.is_final()),
        ("attempt", row.attempt == i64::from(view.attempt)),
        ("created_at", row.created_at == view.created_at.0),
        (
            "owner",
            row.token == view.caller.token && row.agent_id == view.caller.agent_id,
        ),
        (
            "last_event",
            row.last_event == view.last_event.0.cast_signed(),
        ),
        (
            "removed",
            record.broken || row.removed == i64::from(record.removed),
        ),
    ]
    .into_iter()
    .filter_map(|(name, agrees)| (!agrees).then_some(name))
    .collect()
}

/// What readers rely on. Words for people (such as what it is doing) may have changed with the program.
fn differences(row: &TaskView, folded: &TaskView) -> Vec<&'static str> {
    [
        ("phase", row.phase == folded.phase),
        ("what was asked for", row.spec == folded.spec),
        ("owner", row.caller == folded.caller),
        (
            "idempotency key",
            row.idempotency_key == folded.idempotency_key,
        ),
        ("acceptance", row.created_at == folded.created_at),
        ("start", row.started_at == folded.started_at),
        ("end", row.ended_at == folded.ended_at),
        ("attempt", row.attempt == folded.attempt),
        ("session", row.session == folded.session),
        ("workdir", row.directory == folded.directory),
        ("result", row.result == folded.result),
        ("failure", row.failure == folded.failure),
        ("newest event", row.last_event == folded.last_event),
        ("number of events", row.events_total == folded.events_total),
    ]
    .into_iter()
    .filter_map(|(name, same)| (!same).then_some(name))
    .collect()
}
