//! The statements of an append, inside one transaction.
//!
//! In: batches in order. Out: events, the row and labels of each task, idempotency keys, batch ids. A batch that is
//! already there is skipped; an event that is not the next one is refused.

use chargehand_actors::event::{Event, PAYLOAD_VERSION};
use chargehand_actors::id::TaskId;
use chargehand_actors::ports::Batch;
use chargehand_actors::view::TaskView;

use super::dialect::Connection;
use super::forget::{is_known, used};
use super::payload::encode;
use super::write::Fault;

/// Batch ids kept to recognise a repeat, and never fewer than those of the newest append. A repeat comes right after
/// the first try, so few would do.
const BATCHES_KEPT: i64 = 1_000;

/// Appends all batches.
pub(super) async fn append(connection: &mut Connection, batches: &[Batch]) -> Result<(), Fault> {
    let (newest, deleted, mut batch_number): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT COALESCE(MAX(number), 0) FROM events),
                (SELECT COALESCE(MAX(event), 0) FROM high_water),
                (SELECT COALESCE(MAX(number), 0) FROM batches)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let mut last = newest.max(deleted);
    for batch in batches {
        if !remember(connection, batch, batch_number + 1).await? {
            continue;
        }
        batch_number += 1;
        let mut kept = true;
        match (&batch.row, after_the_end(batch)) {
            (Some(row), _) => write_row(connection, batch, row).await?,
            // Of a task that was deleted meanwhile nothing is kept; the numbers are used up.
            (None, Some(task)) => kept = is_known(connection, task).await?,
            (None, None) => {}
        }
        for committed in &batch.events {
            let number = committed.number.0.cast_signed();
            if number != last + 1 {
                return Err(Fault::Refused(format!(
                    "event {number} was to follow event {last}: another program has written to this journal, \
                     or an append was lost; nothing was written, start again"
                )));
            }
            last = number;
            if !kept {
                used(connection, number).await?;
                continue;
            }
            let stored = encode(&committed.event)?;
            sqlx::query(
                "INSERT INTO events (number, at, task, type, version, payload)
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(number)
            .bind(committed.at.0)
            .bind(committed.task.map(|task| task.to_string()))
            .bind(stored.kind)
            .bind(i64::from(PAYLOAD_VERSION))
            .bind(stored.payload)
            .execute(&mut *connection)
            .await?;
            if let Some(task) = committed.task {
                follow(connection, task, committed.at.0, &committed.event).await?;
            }
        }
    }
    let newest = i64::try_from(batches.len()).unwrap_or(i64::MAX);
    sqlx::query("DELETE FROM batches WHERE number <= $1")
        .bind(batch_number - BATCHES_KEPT.max(newest))
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// The task of a batch that only says what became of it after its end.
fn after_the_end(batch: &Batch) -> Option<TaskId> {
    let bookkeeping = |event: &Event| {
        matches!(
            event,
            Event::AttemptRemoved { .. }
                | Event::AttemptRemovalDelayed { .. }
                | Event::LateArrival { .. }
                | Event::FilesCleared
        )
    };
    let only = batch.events.iter().all(|of| bookkeeping(&of.event));
    batch.events.first().filter(|_| only)?.task
}

/// Writes the batch id down. `false` when it is already there.
async fn remember(
    connection: &mut Connection,
    batch: &Batch,
    number: i64,
) -> Result<bool, sqlx::Error> {
    let written =
        sqlx::query("INSERT INTO batches (number, id) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
            .bind(number)
            .bind(batch.id.0.to_string())
            .execute(connection)
            .await?;
    Ok(written.rows_affected() == 1)
}

async fn write_row(
    connection: &mut Connection,
    batch: &Batch,
    row: &TaskView,
) -> Result<(), Fault> {
    let id = row.id.to_string();
    let updated = batch.events.last().map_or(row.phase_since, |e| e.at);
    let is_final = row.phase.is_final();
    let ended = is_final.then(|| row.ended_at.unwrap_or(row.phase_since));
    sqlx::query(
        "INSERT INTO tasks (id, token, agent_id, phase, final, attempt, created_at, updated_at, ended_at,
                            description, last_event, view)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (id) DO UPDATE SET
             phase = excluded.phase, final = excluded.final, attempt = excluded.attempt,
             updated_at = excluded.updated_at, ended_at = excluded.ended_at, last_event = excluded.last_event, view = excluded.view",
    )
    .bind(&id)
    .bind(&row.caller.token)
    .bind(&row.caller.agent_id)
    .bind(row.phase.as_str())
    .bind(i64::from(is_final))
    .bind(i64::from(row.attempt))
    .bind(row.created_at.0)
    .bind(updated.0)
    .bind(ended.map(|at| at.0))
    .bind(&row.spec.description)
    .bind(row.last_event.0.cast_signed())
    .bind(serde_json::to_string(row)?)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// What some events mean beside their own record.
async fn follow(
    connection: &mut Connection,
    task: TaskId,
    at: i64,
    event: &Event,
) -> Result<(), Fault> {
    if let Event::FilesCleared = event {
        sqlx::query("UPDATE tasks SET cleared_at = $2 WHERE id = $1")
            .bind(task.to_string())
            .bind(at)
            .execute(&mut *connection)
            .await?;
    }
    if let Event::AttemptRemoved { attempt } = event {
        sqlx::query("UPDATE tasks SET removed = $2 WHERE id = $1 AND removed < $2")
            .bind(task.to_string())
            .bind(i64::from(*attempt))
            .execute(&mut *connection)
            .await?;
    }
    let Event::TaskAccepted {
        spec,
        caller,
        idempotency_key,
        fingerprint,
        ..
    } = event
    else {
        return Ok(());
    };
    for label in &spec.labels {
        sqlx::query(
            "INSERT INTO task_labels (label, created_at, task)
             SELECT $1, created_at, id FROM tasks WHERE id = $2
             ON CONFLICT (label, created_at, task) DO NOTHING",
        )
        .bind(label)
        .bind(task.to_string())
        .execute(&mut *connection)
        .await?;
    }
    if let Some(key) = idempotency_key {
        sqlx::query(
            "INSERT INTO keys (token, agent_id, key, fingerprint, task, at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (token, agent_id, key) DO UPDATE SET
                 fingerprint = excluded.fingerprint, task = excluded.task, at = excluded.at",
        )
        .bind(&caller.token)
        .bind(&caller.agent_id)
        .bind(key)
        .bind(fingerprint)
        .bind(task.to_string())
        .bind(at)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
