//! What the actor of a task's memory asks of the journal and of the memory port, and the marks that make a repeat harmless.
//!
//! In: a task and where its memory is. Out: what was reached. Nothing here decides; each is the body of one job of
//! [`crate::task_memory`].

use crate::crash::CrashPoint;
use crate::id::{EventNumber, TaskId};
use crate::outward::Projection;
use crate::ports::{JournalError, MemoryPage, MemoryPlace, PlannerError};
use crate::view::TaskView;
use crate::wiring::Wires;

/// What is remembered of a task's memory in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// One may exist outside from here on.
    Opened,
    /// It says what is known up to this event.
    Told,
    /// The end may stand in the archive from here on.
    Archiving,
    /// It is closed; nothing more is to be done.
    Closed,
}

impl Mark {
    pub(crate) const ALL: [Self; 4] = [Self::Opened, Self::Told, Self::Archiving, Self::Closed];

    /// The name of a task's mark.
    pub(crate) fn of(self, task: TaskId) -> String {
        let label = Projection::Memory.label();
        match self {
            Self::Opened => format!("{label}-opened:{task}"),
            Self::Told => Projection::Memory.cursor(task),
            Self::Archiving => format!("{label}-archiving:{task}"),
            Self::Closed => format!("{label}-closed:{task}"),
        }
    }
}

/// What is known at the start.
pub(crate) struct Look {
    pub(crate) view: TaskView,
    pub(crate) opened: bool,
    pub(crate) closed: bool,
}

/// What a write reached.
pub(crate) struct Wrote {
    pub(crate) place: MemoryPlace,
    pub(crate) view: TaskView,
}

fn journal(error: JournalError) -> PlannerError {
    PlannerError::Unavailable(error.to_string())
}

/// Reads what an earlier life of the task's memory left in the journal; none when the task is forgotten.
pub(crate) async fn look(wires: Wires, task: TaskId) -> Result<Option<Look>, JournalError> {
    let journal = &wires.ports.journal;
    let Some(view) = journal.task(task).await? else {
        return Ok(None);
    };
    let opened = journal.cursor(Mark::Opened.of(task)).await? > EventNumber::ZERO;
    let closed = journal.cursor(Mark::Closed.of(task)).await? > EventNumber::ZERO;
    Ok(Some(Look {
        view,
        opened,
        closed,
    }))
}

/// Writes the newest state. That a memory may exist is durable before the first write, what it says after each.
pub(crate) async fn write(
    wires: Wires,
    task: TaskId,
    place: Option<MemoryPlace>,
    fresh: bool,
) -> Result<Wrote, PlannerError> {
    let (store, memory) = (&wires.ports.journal, &wires.ports.memory);
    let view = store.task(task).await.map_err(journal)?;
    let Some(view) = view else {
        return Err(PlannerError::Gone("the task was forgotten".to_owned()));
    };
    let events = store
        .newest_events(task, memory.events_wanted())
        .await
        .map_err(journal)?;
    if fresh {
        let at = view.last_event.max(EventNumber(1));
        let opened = store.set_cursor(Mark::Opened.of(task), at);
        opened.await.map_err(journal)?;
    }
    CrashPoint::BeforeMemory.pass();
    let page = MemoryPage {
        view: view.clone(),
        events,
    };
    let written = memory.write(page, place, fresh).await?;
    CrashPoint::AfterMemory.pass();
    if written.changed {
        let told = store.set_cursor(Mark::Told.of(task), view.last_event);
        told.await.map_err(journal)?;
    }
    Ok(Wrote {
        place: written.place,
        view,
    })
}

/// Puts the end into the archive, once: in doubt the other side looks whether it is there.
pub(crate) async fn archive(wires: Wires, view: TaskView) -> Result<(), PlannerError> {
    let store = &wires.ports.journal;
    let mark = Mark::Archiving.of(view.id);
    let in_doubt = store.cursor(mark.clone()).await.map_err(journal)? > EventNumber::ZERO;
    if !in_doubt {
        let begun = store.set_cursor(mark, view.last_event);
        begun.await.map_err(journal)?;
    }
    CrashPoint::BeforeArchive.pass();
    wires.ports.memory.archive(view, in_doubt).await?;
    CrashPoint::AfterArchive.pass();
    Ok(())
}

/// Closes the memory, then records that.
pub(crate) async fn close(
    wires: Wires,
    view: TaskView,
    place: Option<MemoryPlace>,
) -> Result<(), PlannerError> {
    let (task, last) = (view.id, view.last_event);
    CrashPoint::BeforeMemoryClose.pass();
    wires.ports.memory.close(view, place).await?;
    CrashPoint::AfterMemoryClose.pass();
    let closed = wires.ports.journal.set_cursor(Mark::Closed.of(task), last);
    closed.await.map_err(journal)
}
