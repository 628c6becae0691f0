//! Reads beside the writer: one task, pages of its events, lists of tasks, cursors. Each uses an index.
//!
//! In: a pool of readers and what is asked. Out: views and events. A stored text that cannot be read does not fail a
//! page: an event becomes a remark that says so, a row a view made from its columns.

use std::str::FromStr;

use chargehand_actors::command::{Caller, Identity, Notify, TaskSpec};
use chargehand_actors::event::{CommittedEvent, Event, Phase, Usage};
use chargehand_actors::id::{EngineName, EventNumber, TaskId, WallTime};
use chargehand_actors::ports::{EVENTS_AT_ONCE, ListFilter};
use chargehand_actors::view::TaskView;
use sqlx::QueryBuilder;

use super::dialect::{self, Database, Pool};
use super::payload::decode;

/// A row of `events`.
#[derive(sqlx::FromRow)]
pub(super) struct EventRow {
    number: i64,
    at: i64,
    task: Option<String>,
    #[sqlx(rename = "type")]
    kind: String,
    version: i64,
    payload: String,
}

/// The event in a row, or why it cannot be read.
pub(super) fn committed(row: EventRow) -> Result<CommittedEvent, String> {
    let (number, kind) = (row.number, &row.kind);
    let event = decode(row.version, &row.payload)
        .map_err(|reason| format!("event {number} ({kind}) cannot be read: {reason}"))?;
    let task = match &row.task {
        Some(id) => Some(
            TaskId::from_str(id)
                .map_err(|e| format!("event {number} ({kind}) has no readable task id: {e}"))?,
        ),
        None => None,
    };
    Ok(CommittedEvent {
        number: EventNumber(number.cast_unsigned()),
        at: WallTime(row.at),
        task,
        event,
    })
}

fn committed_or_remark(row: EventRow, task: TaskId) -> CommittedEvent {
    let (number, at) = (row.number, row.at);
    committed(row).unwrap_or_else(|message| CommittedEvent {
        number: EventNumber(number.cast_unsigned()),
        at: WallTime(at),
        task: Some(task),
        event: Event::Remark { message },
    })
}

/// A row of `tasks`, as far as reading needs it.
#[derive(sqlx::FromRow)]
pub(super) struct TaskRow {
    id: String,
    token: String,
    agent_id: String,
    phase: String,
    attempt: i64,
    created_at: i64,
    updated_at: i64,
    description: String,
    last_event: i64,
    cleared_at: Option<i64>,
    view: String,
}

pub(super) const TASK_COLUMNS: &str = "t.id, t.token, t.agent_id, t.phase, t.attempt, t.created_at, t.updated_at, \
     t.description, t.last_event, t.cleared_at, t.view";

/// The view in a row. `None` when not even the id and phase can be read.
pub(super) fn view(row: TaskRow) -> Option<TaskView> {
    // Not in the stored view: the event comes after the end, without a row.
    let files_cleared = row.cleared_at.map(WallTime);
    let problem = match serde_json::from_str::<TaskView>(&row.view) {
        Ok(view) => {
            return Some(TaskView {
                files_cleared,
                ..view
            });
        }
        Err(error) => error,
    };
    let id = TaskId::from_str(&row.id).ok()?;
    tracing::error!(task = %id, error = %problem, "the row of a task cannot be read: shown by its columns");
    let phase = *Phase::ALL.iter().find(|p| p.as_str() == row.phase)?;
    Some(TaskView {
        id,
        phase,
        phase_since: WallTime(row.updated_at),
        spec: TaskSpec {
            description: row.description,
            engine: EngineName::new("unknown"),
            model: None,
            agent: None,
            source: Default::default(),
            timeout_ms: 0,
            priority: Default::default(),
            labels: Vec::new(),
            observers: Vec::new(),
            attended: false,
            permissions: Vec::new(),
            max_steps: None,
            notify: Notify::default(),
            conversation: None,
        },
        caller: Caller {
            token: row.token,
            agent_id: row.agent_id,
        },
        idempotency_key: None,
        created_at: WallTime(row.created_at),
        started_at: None,
        ended_at: phase.is_final().then_some(WallTime(row.updated_at)),
        attempt: u32::try_from(row.attempt).unwrap_or(u32::MAX),
        running_ms: 0,
        running_since: None,
        doing: format!("the stored state of this task cannot be read in full: {problem}"),
        steps: 0,
        usage: Usage::default(),
        todos: Vec::new(),
        files_touched: Vec::new(),
        requests: Vec::new(),
        pause: None,
        directory: None,
        session: None,
        messages_waiting: 0,
        result: None,
        failure: None,
        files_cleared,
        last_event: EventNumber(row.last_event.cast_unsigned()),
        events_total: 0,
    })
}

/// Newest row of a task.
pub(super) async fn task(pool: &Pool, task: TaskId) -> Result<Option<TaskView>, sqlx::Error> {
    let mut query = QueryBuilder::<Database>::new("SELECT ");
    query
        .push(TASK_COLUMNS)
        .push(" FROM tasks t WHERE t.forgotten = 0 AND t.id = ")
        .push_bind(task.to_string());
    let row: Option<TaskRow> = query.build_query_as().fetch_optional(pool).await?;
    Ok(row.and_then(view))
}

/// Events of a task after a number, oldest first.
pub(super) async fn events(
    pool: &Pool,
    task: TaskId,
    after: EventNumber,
    offset: u64,
    limit: u64,
) -> Result<Vec<CommittedEvent>, sqlx::Error> {
    let rows: Vec<EventRow> = sqlx::query_as(
        "SELECT number, at, task, type, version, payload FROM events
         WHERE task = $1 AND number > $2
           AND EXISTS (SELECT 1 FROM tasks WHERE id = $1 AND forgotten = 0)
         ORDER BY number LIMIT $3 OFFSET $4",
    )
    .bind(task.to_string())
    .bind(small(after.0))
    .bind(small(limit.min(EVENTS_AT_ONCE)))
    .bind(small(offset))
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| committed_or_remark(row, task))
        .collect())
}

/// The newest events of a task, oldest first.
pub(super) async fn newest_events(
    pool: &Pool,
    task: TaskId,
    limit: u64,
) -> Result<Vec<CommittedEvent>, sqlx::Error> {
    let rows: Vec<EventRow> = sqlx::query_as(
        "SELECT number, at, task, type, version, payload FROM events
         WHERE task = $1 AND EXISTS (SELECT 1 FROM tasks WHERE id = $1 AND forgotten = 0)
         ORDER BY number DESC LIMIT $2",
    )
    .bind(task.to_string())
    .bind(small(limit.min(EVENTS_AT_ONCE)))
    .fetch_all(pool)
    .await?;
    let newest_first = rows.into_iter().map(|row| committed_or_remark(row, task));
    Ok(newest_first.rev().collect())
}

/// Tasks, newest first.
pub(super) async fn list(pool: &Pool, filter: &ListFilter) -> Result<Vec<TaskView>, sqlx::Error> {
    // One walk along an index for each phase; together they hold the page.
    let phases: Vec<Option<&str>> = match filter.phases.as_slice() {
        [] => vec![None],
        some => some.iter().map(|phase| Some(phase.as_str())).collect(),
    };
    let mut rows: Vec<TaskRow> = Vec::new();
    for phase in phases {
        let mut query = list_query(filter, phase);
        rows.extend(query.build_query_as().fetch_all(pool).await?);
    }
    if filter.phases.len() > 1 {
        rows.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        rows.dedup_by(|a, b| a.id == b.id);
        rows.truncate(usize::try_from(filter.limit).unwrap_or(usize::MAX));
    }
    Ok(rows.into_iter().filter_map(view).collect())
}

/// The statement for one phase, or for all.
fn list_query(filter: &ListFilter, phase: Option<&str>) -> QueryBuilder<Database> {
    let (token, agents) = owners(filter);
    let mut query = QueryBuilder::new(format!("SELECT {TASK_COLUMNS} FROM "));
    // Where the order comes from: the label's own index, or the index of tasks that fits.
    let (at, id) = match &filter.label {
        Some(label) => {
            query
                .push("task_labels l JOIN tasks t ON t.id = l.task WHERE t.forgotten = 0 AND l.label = ")
                .push_bind(label.clone());
            ("l.created_at", "l.task")
        }
        None => {
            let index = match (token, agents.is_empty(), phase) {
                (None, true, None) => "tasks_time",
                (None, true, Some(_)) => "tasks_phase",
                (None, false, None) => "tasks_agent",
                (None, false, Some(_)) => "tasks_agent_phase",
                (Some(_), true, None) => "tasks_token",
                (Some(_), true, Some(_)) => "tasks_token_phase",
                (Some(_), false, None) => "tasks_caller",
                (Some(_), false, Some(_)) => "tasks_caller_phase",
            };
            query
                .push("tasks t")
                .push(dialect::by_index(index))
                .push(" WHERE t.forgotten = 0");
            ("t.created_at", "t.id")
        }
    };
    let equalities = token
        .map(|token| ("token", token))
        .into_iter()
        .chain(agents.into_iter().map(|agent| ("agent_id", agent)))
        .chain(phase.map(|phase| ("phase", phase)));
    for (column, value) in equalities {
        query
            .push(format!(" AND t.{column} = "))
            .push_bind(value.to_owned());
    }
    bound_times(&mut query, filter, at, id);
    query
        .push(format!(" ORDER BY {at} DESC, {id} DESC LIMIT "))
        .push_bind(i64::from(filter.limit));
    query
}

/// Whose tasks: of this token, of all these agents at once (two different ones have no task in common).
fn owners(filter: &ListFilter) -> (Option<&str>, Vec<&str>) {
    let (token, agent) = match &filter.identity {
        Some(Identity::Caller {
            token, agent_id, ..
        }) => (Some(token.as_str()), agent_id.as_deref()),
        Some(Identity::Operator { .. }) | None => (None, None),
    };
    let mut agents: Vec<&str> = agent
        .into_iter()
        .chain(filter.agent_id.as_deref())
        .collect();
    agents.dedup();
    (token, agents)
}

/// One bound on each side at most, because an index walk starts at one bound only: of the two upper ones the lower.
fn bound_times(query: &mut QueryBuilder<Database>, filter: &ListFilter, at: &str, id: &str) {
    if let Some(after) = filter.created_after {
        query.push(format!(" AND {at} >= ")).push_bind(after.0);
    }
    match (filter.before, filter.created_before) {
        (Some((time, task)), created) if created.is_none_or(|created| created > time) => {
            query
                .push(format!(" AND ({at}, {id}) < ("))
                .push_bind(time.0)
                .push(", ")
                .push_bind(task.to_string())
                .push(")");
        }
        (_, Some(created)) => {
            query.push(format!(" AND {at} < ")).push_bind(created.0);
        }
        (_, None) => {}
    }
}

/// A reader's cursor; before the first event when it is new.
pub(super) async fn cursor(pool: &Pool, name: &str) -> Result<EventNumber, sqlx::Error> {
    let at: Option<i64> = sqlx::query_scalar("SELECT event FROM cursors WHERE name = $1")
        .bind(name)
        .fetch_optional(pool)
        .await?;
    Ok(at.map_or(EventNumber::ZERO, |at| EventNumber(at.cast_unsigned())))
}

/// A number as the database takes it; beyond its range the largest.
fn small(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use chargehand_actors::command::Origin;

    use super::*;

    /// Every filter that decides which index is used.
    fn filters() -> Vec<ListFilter> {
        let caller = |agent: Option<&str>| {
            Some(Identity::Caller {
                token: "t".to_owned(),
                agent_id: agent.map(str::to_owned),
                from: Origin::default(),
            })
        };
        let mut filters = Vec::new();
        for identity in [None, caller(None), caller(Some("a"))] {
            for agent_id in [None, Some("a".to_owned())] {
                for label in [None, Some("l".to_owned())] {
                    for before in [None, Some((WallTime(9), TaskId::new(uuid::Uuid::nil())))] {
                        for created in [None, Some(WallTime(5))] {
                            filters.push(ListFilter {
                                identity: identity.clone(),
                                agent_id: agent_id.clone(),
                                label: label.clone(),
                                before,
                                created_after: created,
                                limit: 10,
                                ..ListFilter::default()
                            });
                        }
                    }
                }
            }
        }
        filters
    }

    #[tokio::test]
    async fn lists_walk_an_index_in_order_whatever_the_filter() {
        let mut connection = dialect::scratch().await;
        for filter in filters() {
            for phase in [None, Some("running")] {
                let query = list_query(&filter, phase);
                let plan = dialect::explain(&mut connection, query.sql().as_str()).await;
                assert!(!plan.contains("TEMP B-TREE"), "{plan} for {filter:?}");
                let fits = match (&filter.label, &filter.identity, &filter.agent_id, phase) {
                    (Some(_), ..) => "USING COVERING INDEX sqlite_autoindex_task_labels_1 (label=?",
                    (None, None, None, None) => "INDEX tasks_time",
                    (None, None, None, Some(_)) => "INDEX tasks_phase (phase=?",
                    (None, None, Some(_), None) => "INDEX tasks_agent (agent_id=?",
                    (None, None, Some(_), Some(_)) => {
                        "INDEX tasks_agent_phase (agent_id=? AND phase=?"
                    }
                    (None, Some(Identity::Caller { agent_id: None, .. }), None, None) => {
                        "INDEX tasks_token (token=?"
                    }
                    (None, Some(Identity::Caller { agent_id: None, .. }), None, Some(_)) => {
                        "INDEX tasks_token_phase (token=? AND phase=?"
                    }
                    (None, Some(_), _, None) => "INDEX tasks_caller (token=? AND agent_id=?",
                    (None, Some(_), _, Some(_)) => {
                        "INDEX tasks_caller_phase (token=? AND agent_id=? AND phase=?"
                    }
                };
                assert!(plan.contains(fits), "{plan} for {filter:?} {phase:?}");
            }
        }
    }
}
