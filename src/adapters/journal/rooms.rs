//! What is remembered of rooms, in the journal's file: one row a room, one row a command, an event never twice.
//!
//! In: rows of room actors. Out: durable when a call returns.

use chargehand_actors::id::{EventNumber, TaskId, WallTime};
use chargehand_actors::ports::{
    JournalError, PortFuture, RoomMemory, RoomMemoryError, RoomRow, TakenCommand,
};
use sqlx::FromRow;

use super::dialect::{Connection, Pool};
use super::store::SqliteJournal;
use super::write::{Fault, Write};

/// A change of what is remembered of rooms.
#[derive(Clone, Debug)]
pub(super) enum RoomWrite {
    Save(TaskId, RoomRow, (String, EventNumber)),
    Take(TaskId, Vec<TakenCommand>, Option<String>),
    Begin(String),
    Done(String, String),
    Archive(TaskId, String),
    Forget(TaskId),
}

#[derive(FromRow)]
struct Row {
    task: String,
    room: Option<String>,
    closed: Option<i64>,
    heard: Option<String>,
    record: String,
}

#[derive(FromRow)]
struct CommandRow {
    event: String,
    sender: String,
    wish: String,
    state: i64,
}

impl From<Row> for RoomRow {
    fn from(row: Row) -> Self {
        Self {
            room: row.room,
            closed: row.closed.map(WallTime),
            heard: row.heard,
            record: row.record,
        }
    }
}

async fn all(pool: &Pool) -> Result<Vec<(TaskId, RoomRow)>, sqlx::Error> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT task, room, closed, heard, '' AS record FROM rooms")
            .fetch_all(pool)
            .await?;
    let known = |row: Row| Some((row.task.parse().ok()?, row.into()));
    Ok(rows.into_iter().filter_map(known).collect())
}

async fn row(pool: &Pool, task: TaskId) -> Result<RoomRow, sqlx::Error> {
    let row: Option<Row> =
        sqlx::query_as("SELECT task, room, closed, heard, record FROM rooms WHERE task = $1")
            .bind(task.to_string())
            .fetch_optional(pool)
            .await?;
    Ok(row.map(Into::into).unwrap_or_default())
}

async fn open(pool: &Pool, task: TaskId) -> Result<Vec<TakenCommand>, sqlx::Error> {
    let rows: Vec<CommandRow> = sqlx::query_as(
        "SELECT event, sender, wish, state FROM room_commands
         WHERE task = $1 AND state < 2 ORDER BY number",
    )
    .bind(task.to_string())
    .fetch_all(pool)
    .await?;
    let command = |row: CommandRow| TakenCommand {
        event: row.event,
        sender: row.sender,
        wish: row.wish,
        begun: row.state == 1,
    };
    Ok(rows.into_iter().map(command).collect())
}

/// Does one change within the writer's transaction.
pub(super) async fn apply(connection: &mut Connection, write: &RoomWrite) -> Result<(), Fault> {
    match write {
        RoomWrite::Save(task, row, cursor) => save(connection, *task, row, cursor).await,
        RoomWrite::Take(task, commands, heard) => {
            take(connection, *task, commands, heard.as_deref()).await
        }
        RoomWrite::Begin(event) => {
            sqlx::query("UPDATE room_commands SET state = 1 WHERE event = $1 AND state = 0")
                .bind(event)
                .execute(connection)
                .await?;
            Ok(())
        }
        RoomWrite::Done(event, outcome) => {
            sqlx::query("UPDATE room_commands SET state = 2, outcome = $2 WHERE event = $1")
                .bind(event)
                .bind(outcome)
                .execute(connection)
                .await?;
            Ok(())
        }
        RoomWrite::Archive(task, json) => {
            sqlx::query(
                "INSERT INTO room_archives (task, conversation) VALUES ($1, $2)
                 ON CONFLICT (task) DO UPDATE SET conversation = excluded.conversation",
            )
            .bind(task.to_string())
            .bind(json)
            .execute(connection)
            .await?;
            Ok(())
        }
        RoomWrite::Forget(task) => {
            for statement in [
                "DELETE FROM room_commands WHERE task = $1",
                "DELETE FROM rooms WHERE task = $1",
            ] {
                sqlx::query(statement)
                    .bind(task.to_string())
                    .execute(&mut *connection)
                    .await?;
            }
            Ok(())
        }
    }
}

async fn save(
    connection: &mut Connection,
    task: TaskId,
    row: &RoomRow,
    (cursor, told): &(String, EventNumber),
) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO rooms (task, room, closed, record) VALUES ($1, $2, $3, $4)
         ON CONFLICT (task) DO UPDATE
         SET room = excluded.room, closed = excluded.closed, record = excluded.record",
    )
    .bind(task.to_string())
    .bind(row.room.as_deref())
    .bind(row.closed.map(|closed| closed.0))
    .bind(&row.record)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO cursors (name, event) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET event = excluded.event",
    )
    .bind(cursor)
    .bind(told.0.cast_signed())
    .execute(connection)
    .await?;
    Ok(())
}

async fn take(
    connection: &mut Connection,
    task: TaskId,
    commands: &[TakenCommand],
    heard: Option<&str>,
) -> Result<(), Fault> {
    for command in commands {
        sqlx::query(
            "INSERT INTO room_commands (event, task, sender, wish) VALUES ($1, $2, $3, $4)
             ON CONFLICT (event) DO NOTHING",
        )
        .bind(&command.event)
        .bind(task.to_string())
        .bind(&command.sender)
        .bind(&command.wish)
        .execute(&mut *connection)
        .await?;
    }
    if let Some(heard) = heard {
        sqlx::query(
            "INSERT INTO rooms (task, heard) VALUES ($1, $2)
             ON CONFLICT (task) DO UPDATE SET heard = excluded.heard",
        )
        .bind(task.to_string())
        .bind(heard)
        .execute(connection)
        .await?;
    }
    Ok(())
}

fn lost(error: impl std::fmt::Display) -> RoomMemoryError {
    RoomMemoryError(error.to_string())
}

impl SqliteJournal {
    async fn write_room(&self, write: RoomWrite) -> Result<(), RoomMemoryError> {
        let written: Result<(), JournalError> = self.write(Write::Room(write)).await;
        written.map_err(lost)
    }
}

impl RoomMemory for SqliteJournal {
    fn all(&self) -> PortFuture<'_, Result<Vec<(TaskId, RoomRow)>, RoomMemoryError>> {
        Box::pin(async move { all(self.readers()).await.map_err(lost) })
    }

    fn row(&self, task: TaskId) -> PortFuture<'_, Result<RoomRow, RoomMemoryError>> {
        Box::pin(async move { row(self.readers(), task).await.map_err(lost) })
    }

    fn save(
        &self,
        task: TaskId,
        row: RoomRow,
        cursor: (String, EventNumber),
    ) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(self.write_room(RoomWrite::Save(task, row, cursor)))
    }

    fn take(
        &self,
        task: TaskId,
        commands: Vec<TakenCommand>,
        heard: Option<String>,
    ) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(self.write_room(RoomWrite::Take(task, commands, heard)))
    }

    fn open(&self, task: TaskId) -> PortFuture<'_, Result<Vec<TakenCommand>, RoomMemoryError>> {
        Box::pin(async move { open(self.readers(), task).await.map_err(lost) })
    }

    fn begin(&self, event: String) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(self.write_room(RoomWrite::Begin(event)))
    }

    fn done(&self, event: String, outcome: String) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(self.write_room(RoomWrite::Done(event, outcome)))
    }

    fn keep_archive(
        &self,
        task: TaskId,
        json: String,
    ) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(self.write_room(RoomWrite::Archive(task, json)))
    }

    fn archive(&self, task: TaskId) -> PortFuture<'_, Result<Option<String>, RoomMemoryError>> {
        Box::pin(async move {
            sqlx::query_scalar("SELECT conversation FROM room_archives WHERE task = $1")
                .bind(task.to_string())
                .fetch_optional(self.readers())
                .await
                .map_err(lost)
        })
    }

    fn forget(&self, task: TaskId) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        Box::pin(self.write_room(RoomWrite::Forget(task)))
    }
}
