//! What a start needs. The cost follows the number of live tasks, not the length of the history.
//!
//! In: the time from which idempotency keys count. Out: [`Loaded`]: the newest number, every task that is not final or
//! whose attempt may still own something, with all its events. What cannot be read names its task and harms no other.

use std::str::FromStr;

use chargehand_actors::event::Event;
use chargehand_actors::id::{EventNumber, TaskId, WallTime};
use chargehand_actors::ports::{KeyRow, Loaded, LoadedTask};
use futures_util::TryStreamExt;

use super::dialect::Connection;
use super::forget::last_number;
use super::read::{EventRow, committed};

/// The condition is written as in the index `tasks_live`, so that the index is used.
const LIVE: &str =
    "SELECT id FROM tasks WHERE final = 0 OR removed < attempt ORDER BY created_at, id";

const EVENTS: &str =
    "SELECT number, at, task, type, version, payload FROM events WHERE task = $1 ORDER BY number";

const KEYS: &str =
    "SELECT token, agent_id, key, fingerprint, task, at FROM keys WHERE at >= $1 ORDER BY at";

/// Reads everything. The caller holds the writer, so that nothing is appended meanwhile.
pub(super) async fn load(
    connection: &mut Connection,
    keys_since: WallTime,
) -> Result<Loaded, sqlx::Error> {
    let last = last_number(connection).await?;
    let mut loaded = Loaded {
        last_event: EventNumber(last.cast_unsigned()),
        ..Loaded::default()
    };
    let live: Vec<String> = sqlx::query_scalar(LIVE).fetch_all(&mut *connection).await?;
    for id in live {
        let Ok(task) = TaskId::from_str(&id) else {
            tracing::error!(
                id,
                "a task's row has an id that is no UUID: the task is left alone"
            );
            continue;
        };
        match events_of(connection, task).await? {
            Ok(events) => loaded.tasks.push(LoadedTask { id: task, events }),
            Err(reason) => loaded.unreadable.push((task, reason)),
        }
    }
    loaded.keys = keys(connection, keys_since).await?;
    Ok(loaded)
}

type Events = Vec<chargehand_actors::event::CommittedEvent>;

/// All events of a task, or why they are not a record.
pub(super) async fn events_of(
    connection: &mut Connection,
    task: TaskId,
) -> Result<Result<Events, String>, sqlx::Error> {
    let mut rows = sqlx::query_as::<_, EventRow>(EVENTS)
        .bind(task.to_string())
        .fetch(connection);
    let mut events = Events::new();
    let mut problem = None;
    while let Some(row) = rows.try_next().await? {
        match committed(row) {
            Ok(event) => events.push(event),
            Err(reason) => problem = problem.or(Some(reason)),
        }
    }
    let begins = matches!(
        events.first().map(|e| &e.event),
        Some(Event::TaskAccepted { .. })
    );
    Ok(match problem {
        Some(reason) => Err(reason),
        None if begins => Ok(events),
        None => Err("its first event is missing".to_owned()),
    })
}

async fn keys(connection: &mut Connection, since: WallTime) -> Result<Vec<KeyRow>, sqlx::Error> {
    // Keys out of force are no longer needed by anybody; that they stay when the disk is full does no harm.
    let dropped = sqlx::query("DELETE FROM keys WHERE at < $1")
        .bind(since.0)
        .execute(&mut *connection)
        .await;
    if let Err(error) = dropped {
        tracing::warn!(%error, "old idempotency keys could not be deleted");
    }
    let rows: Vec<(String, String, String, String, String, i64)> = sqlx::query_as(KEYS)
        .bind(since.0)
        .fetch_all(&mut *connection)
        .await?;
    let keys = rows.into_iter().filter_map(|row| {
        let (token, agent_id, key, fingerprint, task, at) = row;
        let task = TaskId::from_str(&task).ok()?;
        Some(KeyRow {
            token,
            agent_id,
            key,
            fingerprint,
            task,
            at: WallTime(at),
        })
    });
    Ok(keys.collect())
}

#[cfg(test)]
mod tests {
    use super::super::dialect;
    use super::*;

    #[tokio::test]
    async fn a_start_reads_live_tasks_by_index_and_never_the_whole_history() {
        let mut connection = dialect::scratch().await;
        for (statement, index) in [
            (LIVE, "USING INDEX tasks_live"),
            (EVENTS, "USING INDEX events_task (task=?)"),
            (KEYS, "USING INDEX keys_at (at>?)"),
        ] {
            let plan = dialect::explain(&mut connection, statement).await;
            assert!(plan.contains(index), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
