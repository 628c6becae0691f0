//! The statements of retention: what ended long ago, its deletion in pieces, the numbers that stay used.
//!
//! In: a time or a task. Out: tasks that are due; fewer rows. A task whose deletion has begun is marked first: no read
//! finds it, and an interrupted deletion is gone on with by [`unfinished`].

use chargehand_actors::id::{TaskId, WallTime};
use chargehand_actors::ports::{EndedFilter, EndedTask};
use sqlx::QueryBuilder;

use super::dialect::{self, Connection, Database, Pool};
use super::read::{TASK_COLUMNS, TaskRow, view};
use super::write::Fault;

/// Events deleted in one transaction: some milliseconds, in which no append can be made.
const PIECE: i64 = 500;

const EVENTS_OF_TASK: &str = "SELECT number FROM events WHERE task = $1 ORDER BY number LIMIT $2";

const EVENTS_OF_NONE: &str =
    "SELECT number FROM events WHERE task IS NULL AND at < $1 ORDER BY number LIMIT $2";

const UNFINISHED: &str = "SELECT id FROM tasks WHERE forgotten = 1 LIMIT 1";

/// The highest number ever given to an event.
pub(super) async fn last_number(connection: &mut Connection) -> Result<i64, sqlx::Error> {
    let (newest, deleted): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT COALESCE(MAX(number), 0) FROM events),
                (SELECT COALESCE(MAX(event), 0) FROM high_water)",
    )
    .fetch_one(connection)
    .await?;
    Ok(newest.max(deleted))
}

/// Remembers that this number was given, before or although no event carries it.
pub(super) async fn used(connection: &mut Connection, number: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE high_water SET event = $1 WHERE event < $1")
        .bind(number)
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether events of this task may still be recorded.
pub(super) async fn is_known(
    connection: &mut Connection,
    task: TaskId,
) -> Result<bool, sqlx::Error> {
    let known: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM tasks WHERE id = $1 AND forgotten = 0")
            .bind(task.to_string())
            .fetch_one(connection)
            .await?;
    Ok(known > 0)
}

/// Final tasks that are due.
pub(super) async fn ended(
    pool: &Pool,
    filter: &EndedFilter,
) -> Result<Vec<EndedTask>, sqlx::Error> {
    let rows: Vec<EndedRow> = ended_query(filter).build_query_as().fetch_all(pool).await?;
    let tasks = rows.into_iter().filter_map(|row| {
        let ended_at = WallTime(row.ended_at);
        let attempt_removed = row.removed >= row.attempts;
        let view = view(row.task)?;
        Some(EndedTask {
            view,
            ended_at,
            attempt_removed,
        })
    });
    Ok(tasks.collect())
}

#[derive(sqlx::FromRow)]
struct EndedRow {
    ended_at: i64,
    removed: i64,
    attempts: i64,
    #[sqlx(flatten)]
    task: TaskRow,
}

fn ended_query(filter: &EndedFilter) -> QueryBuilder<Database> {
    let mut query = QueryBuilder::new(format!(
        "SELECT t.ended_at, t.removed, t.attempt AS attempts, {TASK_COLUMNS} FROM tasks t"
    ));
    // The conditions are written as in the two indexes, so that they are used.
    query.push(if filter.with_files {
        dialect::by_index("tasks_files")
    } else {
        dialect::by_index("tasks_ended")
    });
    query.push(" WHERE t.final = 1 AND t.forgotten = 0");
    if filter.with_files {
        query.push(" AND t.attempt > 0 AND t.cleared_at IS NULL");
    }
    query.push(" AND t.ended_at < ").push_bind(filter.before.0);
    if let Some((at, id)) = filter.after {
        query
            .push(" AND (t.ended_at, t.id) > (")
            .push_bind(at.0)
            .push(", ")
            .push_bind(id.to_string())
            .push(")");
    }
    query
        .push(" ORDER BY t.ended_at, t.id LIMIT ")
        .push_bind(i64::from(filter.limit));
    query
}

/// Deletes a piece of a final task. `true` while there is more.
pub(super) async fn forget(
    connection: &mut Connection,
    task: &str,
    cursors: &[String],
) -> Result<bool, Fault> {
    let row: Option<(i64, i64)> =
        sqlx::query_as("SELECT final, forgotten FROM tasks WHERE id = $1")
            .bind(task)
            .fetch_optional(&mut *connection)
            .await?;
    match row {
        None => return Ok(false),
        Some((0, _)) => {
            return Err(Fault::Refused(format!(
                "task {task} has not ended and is not deleted"
            )));
        }
        Some((_, 0)) => {
            // With its removal on record a start does not look at it either.
            sqlx::query("UPDATE tasks SET forgotten = 1, removed = attempt WHERE id = $1")
                .bind(task)
                .execute(&mut *connection)
                .await?;
            for cursor in cursors {
                sqlx::query("DELETE FROM cursors WHERE name = $1")
                    .bind(cursor)
                    .execute(&mut *connection)
                    .await?;
            }
        }
        Some(_) => {}
    }
    let numbers: Vec<i64> = sqlx::query_scalar(EVENTS_OF_TASK)
        .bind(task)
        .bind(PIECE)
        .fetch_all(&mut *connection)
        .await?;
    if delete_events(connection, &numbers).await? {
        return Ok(true);
    }
    for statement in [
        "DELETE FROM task_labels WHERE task = $1",
        "DELETE FROM keys WHERE task = $1",
        "DELETE FROM room_archives WHERE task = $1",
        "DELETE FROM tasks WHERE id = $1",
    ] {
        sqlx::query(statement)
            .bind(task)
            .execute(&mut *connection)
            .await?;
    }
    Ok(false)
}

/// A task whose deletion was interrupted.
pub(super) async fn unfinished(pool: &Pool) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(UNFINISHED).fetch_optional(pool).await
}

/// Deletes a piece of what belongs to no task: old events of the instance, keys out of force. `true` while there is more.
pub(super) async fn tidy(
    connection: &mut Connection,
    events_before: WallTime,
    keys_before: WallTime,
) -> Result<bool, Fault> {
    sqlx::query("DELETE FROM keys WHERE at < $1")
        .bind(keys_before.0)
        .execute(&mut *connection)
        .await?;
    let numbers: Vec<i64> = sqlx::query_scalar(EVENTS_OF_NONE)
        .bind(events_before.0)
        .bind(PIECE)
        .fetch_all(&mut *connection)
        .await?;
    Ok(delete_events(connection, &numbers).await?)
}

/// Deletes these events, in ascending order. `true` when there may be more.
async fn delete_events(connection: &mut Connection, numbers: &[i64]) -> Result<bool, sqlx::Error> {
    let Some(last) = numbers.last() else {
        return Ok(false);
    };
    used(connection, *last).await?;
    for number in numbers {
        sqlx::query("DELETE FROM events WHERE number = $1")
            .bind(number)
            .execute(&mut *connection)
            .await?;
    }
    Ok(numbers.len() as u64 == PIECE.cast_unsigned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use std::borrow::Cow;

    use sqlx::Connection as _;
    use sqlx::migrate::Migrator;

    use super::*;

    #[tokio::test]
    async fn what_is_due_is_found_by_index_in_order() {
        let mut connection = dialect::scratch().await;
        for with_files in [false, true] {
            for after in [None, Some((WallTime(1), TaskId::new(uuid::Uuid::nil())))] {
                let query = ended_query(&EndedFilter {
                    before: WallTime(9),
                    with_files,
                    after,
                    limit: 5,
                });
                let plan = dialect::explain(&mut connection, query.sql().as_str()).await;
                assert!(!plan.contains("TEMP B-TREE"), "{plan}");
            }
        }
        for (statement, index) in [
            (EVENTS_OF_TASK, "USING COVERING INDEX events_task (task=?"),
            (EVENTS_OF_NONE, "USING INDEX events_task (task=?"),
            (UNFINISHED, "USING COVERING INDEX tasks_forgotten"),
        ] {
            let plan = dialect::explain(&mut connection, statement).await;
            assert!(plan.contains(index), "{plan}");
        }
    }

    #[tokio::test]
    async fn a_journal_of_before_is_brought_up_to_date() {
        let mut connection = Connection::connect("sqlite::memory:").await.unwrap();
        let first = Migrator {
            migrations: Cow::Owned(dialect::MIGRATIONS.iter().take(1).cloned().collect()),
            ..Migrator::DEFAULT
        };
        first.run(&mut connection).await.unwrap();
        for statement in [
            "INSERT INTO tasks (id, token, agent_id, phase, final, attempt, created_at, updated_at, description, \
             last_event, view) VALUES ('a', 't', 'a', 'completed', 1, 1, 5, 9, '', 1, '{}')",
            "INSERT INTO tasks (id, token, agent_id, phase, final, attempt, created_at, updated_at, description, \
             last_event, view) VALUES ('b', 't', 'a', 'running', 0, 1, 5, 9, '', 2, '{}')",
        ] {
            sqlx::query(statement)
                .execute(&mut connection)
                .await
                .unwrap();
        }
        dialect::MIGRATIONS.run(&mut connection).await.unwrap();
        let rows: Vec<(String, Option<i64>, i64)> =
            sqlx::query_as("SELECT id, ended_at, forgotten FROM tasks ORDER BY id")
                .fetch_all(&mut connection)
                .await
                .unwrap();
        let expected = [("a".to_owned(), Some(9), 0), ("b".to_owned(), None, 0)];
        assert_eq!(rows, expected);
        assert_eq!(last_number(&mut connection).await.unwrap(), 0);
    }
}
