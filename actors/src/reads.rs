//! Reads that need the disk or a port: run as jobs of the registry, never inside a handler.
//!
//! In: the wiring, what memory knows of the task, who asks and what. Out: the answer.

use std::sync::Arc;
use std::time::Duration;

use crate::command::{
    FilesQuery, HistoryQuery, Identity, ListQuery, ReadFileQuery, StatusQuery, TextKind, TextQuery,
};
use crate::error::TreeError;
use crate::event::{CommittedEvent, Phase};
use crate::id::{EventNumber, TaskId, WallTime};
use crate::ports::{FileContent, FileList, JournalError, ListFilter, TextChunk, WorkdirError};
use crate::view::{
    HealthReport, HealthState, HistoryPage, ListPage, PartHealth, TaskStatus, TaskView,
};
use crate::wiring::Wires;

/// A part that does not answer a health check within this time is called down.
const PROBE_DEADLINE: Duration = Duration::from_secs(3);
/// The longest page of events.
const EVENTS_MAX: u64 = 10_000;

fn journal_error(error: &JournalError) -> TreeError {
    TreeError::Internal(error.to_string())
}

fn file_error(error: WorkdirError) -> TreeError {
    TreeError::File(error.to_string())
}

/// The newest row, if the asker may see it.
async fn visible(
    wires: &Wires,
    known: Option<TaskView>,
    who: &Identity,
    task: TaskId,
) -> Result<TaskView, TreeError> {
    let view = match known {
        Some(view) => Some(view),
        None => wires
            .ports
            .journal
            .task(task)
            .await
            .map_err(|error| journal_error(&error))?,
    };
    view.filter(|view| who.may_see(&view.caller))
        .ok_or(TreeError::TaskNotFound(task))
}

/// Adds what only the queue knows.
pub(crate) fn with_queue(
    wires: &Wires,
    view: TaskView,
    events: Vec<CommittedEvent>,
    more_events: bool,
) -> TaskStatus {
    let queue = wires.queue.borrow();
    let queue_position = queue.position.get(&view.id).copied();
    let waiting_for = match view.phase {
        Phase::Queued => Some(
            match (queue.blocked.get(&view.spec.engine), &queue.disk_low) {
                (Some(why), _) => format!("engine {}: {why}", view.spec.engine),
                (None, Some(why)) => format!("room on the disk: {why}"),
                (None, None) => format!(
                    "a free slot ({} of {} in use)",
                    queue.active, wires.settings.max_running
                ),
            },
        ),
        Phase::Paused => Some("a resume".to_owned()),
        Phase::InputRequired => Some("an answer to the worker's request".to_owned()),
        Phase::Starting
        | Phase::Running
        | Phase::Finishing
        | Phase::Completed
        | Phase::Failed
        | Phase::Timeout
        | Phase::Cancelled => None,
    };
    TaskStatus {
        view,
        events,
        more_events,
        queue_position,
        waiting_for,
    }
}

pub(crate) async fn status(
    wires: Wires,
    who: Identity,
    query: StatusQuery,
) -> Result<TaskStatus, TreeError> {
    let view = visible(&wires, None, &who, query.task).await?;
    status_with_old_events(wires, view, query).await
}

pub(crate) async fn status_with_old_events(
    wires: Wires,
    view: TaskView,
    query: StatusQuery,
) -> Result<TaskStatus, TreeError> {
    let journal = &wires.ports.journal;
    let limit = query.events_limit as u64;
    let read = match query.since {
        Some(since) => journal.events(query.task, since, 0, limit + 1).await,
        None => journal.newest_events(query.task, limit).await,
    };
    // The state is known from the row; that a record cannot be read must not hide how the task stands.
    let (mut events, unread) = match read {
        Ok(events) => (events, false),
        Err(error) => {
            tracing::warn!(task = %query.task, %error, "status is answered without events");
            (Vec::new(), true)
        }
    };
    let more = unread || events.len() > query.events_limit;
    events.truncate(query.events_limit);
    Ok(with_queue(&wires, view, events, more))
}

pub(crate) async fn history(
    wires: Wires,
    known: Option<TaskView>,
    who: Identity,
    query: HistoryQuery,
) -> Result<HistoryPage, TreeError> {
    let view = visible(&wires, known, &who, query.task).await?;
    let limit = query.limit.unwrap_or(EVENTS_MAX).min(EVENTS_MAX);
    let events = wires
        .ports
        .journal
        .events(query.task, EventNumber::ZERO, query.offset, limit)
        .await
        .map_err(|error| journal_error(&error))?;
    // A task that was forgotten since it was looked up has no events.
    if events.is_empty() && query.offset < view.events_total {
        visible(&wires, None, &who, query.task).await?;
    }
    // Bookkeeping after the end is in the record but not in the row.
    let total = view.events_total.max(query.offset + events.len() as u64);
    Ok(HistoryPage {
        view,
        events,
        total,
        offset: query.offset,
    })
}

pub(crate) async fn list(
    wires: Wires,
    who: Identity,
    query: ListQuery,
) -> Result<ListPage, TreeError> {
    let limit = query.limit.clamp(1, 500);
    let before = match &query.cursor {
        Some(cursor) => Some(parse_cursor(cursor)?),
        None => None,
    };
    let filter = ListFilter {
        identity: match who {
            Identity::Operator { .. } => None,
            Identity::Caller { .. } => Some(who),
        },
        phases: phases(&query.states),
        agent_id: query.agent_id,
        label: query.label,
        created_after: query.created_after,
        created_before: query.created_before,
        limit: limit + 1,
        before,
    };
    let mut tasks = wires
        .ports
        .journal
        .list(filter)
        .await
        .map_err(|error| journal_error(&error))?;
    let more = tasks.len() > limit as usize;
    tasks.truncate(limit as usize);
    let next_cursor = tasks
        .last()
        .filter(|_| more)
        .map(|last| format!("{}.{}", last.created_at.0, last.id));
    Ok(ListPage { tasks, next_cursor })
}

/// The original's word `running` stands for several phases; every other word for itself.
fn phases(states: &[String]) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for state in states {
        let matching = Phase::ALL
            .into_iter()
            .filter(|phase| phase.as_str() == state || phase.status() == state);
        words.extend(matching.map(|phase| phase.as_str().to_owned()));
    }
    words.sort();
    words.dedup();
    words
}

fn parse_cursor(cursor: &str) -> Result<(WallTime, TaskId), TreeError> {
    cursor
        .split_once('.')
        .and_then(|(at, id)| Some((WallTime(at.parse().ok()?), id.parse().ok()?)))
        .ok_or_else(|| {
            TreeError::File(
                "cursor is not one of ours; pass the next_cursor of the page before, unchanged"
                    .to_owned(),
            )
        })
}

pub(crate) async fn files(
    wires: Wires,
    known: Option<TaskView>,
    who: Identity,
    query: FilesQuery,
) -> Result<FileList, TreeError> {
    let view = visible(&wires, known, &who, query.task).await?;
    has_workdir(&view)?;
    wires
        .workdirs(&view.spec.engine)
        .list(query.task, query.prefix, query.offset, query.limit)
        .await
        .map_err(file_error)
}

pub(crate) async fn read_file(
    wires: Wires,
    known: Option<TaskView>,
    who: Identity,
    query: ReadFileQuery,
) -> Result<FileContent, TreeError> {
    let view = visible(&wires, known, &who, query.task).await?;
    has_workdir(&view)?;
    wires
        .workdirs(&view.spec.engine)
        .read(query.task, query.path, query.offset, query.limit)
        .await
        .map_err(file_error)
}

/// What was cleared is not there, and the answer says so.
fn has_files(view: &TaskView) -> Result<(), TreeError> {
    let Some(cleared) = view.files_cleared else {
        return Ok(());
    };
    let kept_ms = view.ended_at.map_or(0, |ended| cleared.ms_since(ended));
    Err(TreeError::FilesCleared {
        task: view.id,
        days: kept_ms / 86_400_000,
    })
}

fn has_workdir(view: &TaskView) -> Result<(), TreeError> {
    has_files(view)?;
    if view.directory.is_some() {
        return Ok(());
    }
    let why = if view.phase.is_final() {
        "it ended before it had a workdir; there are no files"
    } else {
        "it has no workdir yet; ask again when it is running"
    };
    Err(TreeError::WrongPhase {
        task: view.id,
        phase: view.phase,
        why: why.to_owned(),
    })
}

pub(crate) async fn text(
    wires: Wires,
    known: Option<TaskView>,
    who: Identity,
    query: TextQuery,
) -> Result<TextChunk, TreeError> {
    let view = visible(&wires, known, &who, query.task).await?;
    has_files(&view)?;
    match query.text {
        TextKind::Output => wires
            .ports
            .output
            .read(query.task, query.offset, query.limit)
            .await
            .map_err(|error| TreeError::File(error.to_string())),
        TextKind::Patch => wires
            .workdirs(&view.spec.engine)
            .patch(query.task, query.offset, query.limit)
            .await
            .map_err(file_error),
    }
}

pub(crate) async fn health(
    wires: Wires,
    last_event: EventNumber,
) -> Result<HealthReport, TreeError> {
    let disks = disk_health(&wires).await;
    let room = disks.state != HealthState::Degraded;
    let mut parts = vec![journal_health(&wires).await, disks];
    for engine in &wires.ports.engines {
        let mut part = wires.engine_states.get(&engine.name());
        if part.state == HealthState::Ok {
            match tokio::time::timeout(PROBE_DEADLINE, engine.probe()).await {
                Ok(Ok(health)) => part.detail = health.detail,
                Ok(Err(error)) => {
                    part.state = HealthState::Degraded;
                    part.detail = error.to_string();
                }
                Err(_) => {
                    part.state = HealthState::Degraded;
                    part.detail =
                        "does not answer within 3 s; tasks go on, it may be busy".to_owned();
                }
            }
        }
        parts.push(part);
    }
    let memory = &wires.ports.memory;
    parts.push(if memory.enabled() {
        wires.parts.health("memory", memory.name(), wires.started)
    } else {
        off("memory", memory.name(), &wires)
    });
    parts.push(rooms_health(&wires));
    let notices = &wires.ports.notices;
    let state = if notices.enabled() {
        HealthState::Ok
    } else {
        HealthState::Off
    };
    parts.push(PartHealth {
        name: "notices".to_owned(),
        state,
        since: wires.started,
        detail: notices.name(),
    });
    let queue = wires.queue.borrow().clone();
    Ok(HealthReport {
        parts,
        active: queue.active,
        queued: queue.queued,
        limit: wires.settings.max_running,
        queue_limit: wires.settings.max_queued,
        accepting: queue.accepting && room,
        last_event,
    })
}

fn off(name: &str, detail: String, wires: &Wires) -> PartHealth {
    PartHealth {
        name: name.to_owned(),
        state: HealthState::Off,
        since: wires.started,
        detail,
    }
}

fn rooms_health(wires: &Wires) -> PartHealth {
    let rooms = &wires.ports.rooms;
    let (state, detail) = if rooms.enabled() {
        rooms.health()
    } else {
        (HealthState::Off, rooms.name())
    };
    PartHealth {
        name: "rooms".to_owned(),
        state,
        since: wires.started,
        detail,
    }
}

async fn disk_health(wires: &Wires) -> PartHealth {
    let space = Arc::clone(&wires.ports.space);
    let (state, detail) = if space.watched() {
        match tokio::time::timeout(PROBE_DEADLINE, space.low()).await {
            Ok(None) => (HealthState::Ok, "has room".to_owned()),
            Ok(Some(low)) => (
                HealthState::Degraded,
                format!("{low}; no new task is accepted or started, running ones go on"),
            ),
            Err(_) => (
                HealthState::Down,
                "does not say within 3 s how much room it has".to_owned(),
            ),
        }
    } else {
        (HealthState::Off, "is not watched".to_owned())
    };
    PartHealth {
        name: "disk".to_owned(),
        state,
        since: wires.started,
        detail,
    }
}

async fn journal_health(wires: &Wires) -> PartHealth {
    let journal = Arc::clone(&wires.ports.journal);
    let (state, detail) = match tokio::time::timeout(PROBE_DEADLINE, journal.check()).await {
        Ok(Ok(detail)) => (HealthState::Ok, detail),
        Ok(Err(error)) => (HealthState::Down, error.to_string()),
        Err(_) => (
            HealthState::Degraded,
            "does not answer within 3 s".to_owned(),
        ),
    };
    PartHealth {
        name: "journal".to_owned(),
        state,
        since: wires.started,
        detail,
    }
}
