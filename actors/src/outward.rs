//! The outward actors: workspace-sync, rooms and notifier. One projection each, with one lane per task.
//!
//! In: committed events. Out: calls of the memory, rooms or notices port, from a durable cursor, with back-off.
//! Their failure never reaches a task. They are started only when their port is configured.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::board::{ActorKind, Slot};
use crate::event::CommittedEvent;
use crate::handle::{Handle, Inbox};
use crate::id::{EventNumber, TaskId};
use crate::jobs::{JobEnd, Jobs};
use crate::ports::OutwardError;
use crate::wiring::Wires;

const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Events of one post.
const PAGE: u64 = 100;
/// Tries of one call before it waits for the next event.
const TRIES: u32 = 8;

/// Which projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Projection {
    Memory,
    Rooms,
    Notices,
}

impl Projection {
    pub(crate) const fn kind(self) -> ActorKind {
        match self {
            Self::Memory => ActorKind::WorkspaceSync,
            Self::Rooms => ActorKind::Rooms,
            Self::Notices => ActorKind::Notifier,
        }
    }

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Memory => "workspace-sync",
            Self::Rooms => "rooms",
            Self::Notices => "notifier",
        }
    }

    /// At most one call per task in this time, except after an end.
    const fn interval(self) -> Duration {
        match self {
            Self::Memory => Duration::from_secs(3),
            Self::Rooms => Duration::from_millis(1_500),
            Self::Notices => Duration::ZERO,
        }
    }

    pub(crate) fn enabled(self, wires: &Wires) -> bool {
        match self {
            Self::Memory => wires.ports.memory.enabled(),
            Self::Rooms => wires.ports.rooms.enabled(),
            Self::Notices => wires.ports.notices.enabled(),
        }
    }

    pub(crate) fn handle(self, wires: &Wires) -> Handle<OutwardMsg> {
        match self {
            Self::Memory => wires.memory.clone(),
            Self::Rooms => wires.rooms.clone(),
            Self::Notices => wires.notifier.clone(),
        }
    }
}

pub(crate) enum OutwardMsg {
    Committed(Arc<[CommittedEvent]>),
    /// A lane may work again.
    Due(TaskId),
    Called(TaskId, JobEnd<Result<EventNumber, OutwardError>>),
}

pub(crate) struct Outward(pub(crate) Projection);

pub(crate) struct OutwardArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    /// Tasks whose cursor has to be looked at, with their newest event.
    pub(crate) tasks: Vec<(TaskId, EventNumber)>,
}

struct Lane {
    newest: EventNumber,
    done: Option<EventNumber>,
    is_final: bool,
    busy: bool,
    waiting: bool,
    tries: u32,
}

pub(crate) struct OutwardState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<OutwardMsg>,
    projection: Projection,
    lanes: HashMap<TaskId, Lane>,
}

impl Actor for Outward {
    type Msg = OutwardMsg;
    type State = OutwardState;
    type Arguments = OutwardArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<OutwardMsg>,
        args: OutwardArgs,
    ) -> Result<OutwardState, ActorProcessingErr> {
        let handle = self.0.handle(&args.wires);
        handle.fill(myself);
        let slot = args.wires.slot(
            Some(args.parent),
            self.0.kind(),
            self.0.label(),
            args.restarts,
            &handle,
        );
        let mut state = OutwardState {
            inbox: handle.inbox(),
            jobs: Jobs::new(handle),
            slot,
            projection: self.0,
            lanes: HashMap::new(),
            wires: args.wires,
        };
        for (task, newest) in args.tasks {
            state.wake(task, newest, false);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<OutwardMsg>,
        message: OutwardMsg,
        state: &mut OutwardState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            OutwardMsg::Committed(events) => {
                for committed in events.iter() {
                    if let Some(task) = committed.task {
                        state.slot.set_last_event(committed.number);
                        state.wake(task, committed.number, committed.event.is_final());
                    }
                }
            }
            OutwardMsg::Due(task) => {
                if let Some(lane) = state.lanes.get_mut(&task) {
                    lane.waiting = false;
                }
                state.work(task);
            }
            OutwardMsg::Called(task, end) => state.called(task, end),
        }
        Ok(())
    }
}

impl OutwardState {
    fn wake(&mut self, task: TaskId, newest: EventNumber, is_final: bool) {
        let lane = self.lanes.entry(task).or_insert(Lane {
            newest,
            done: None,
            is_final: false,
            busy: false,
            waiting: false,
            tries: 0,
        });
        lane.newest = lane.newest.max(newest);
        if is_final {
            lane.is_final = true;
            lane.waiting = false;
            lane.tries = 0;
        }
        self.work(task);
    }

    /// Starts the lane's next call, if it has something to do and nothing under way.
    fn work(&mut self, task: TaskId) {
        let Some(lane) = self.lanes.get_mut(&task) else {
            return;
        };
        if lane.busy || lane.waiting || lane.done.is_some_and(|done| done >= lane.newest) {
            return;
        }
        lane.busy = true;
        let call = call(Arc::clone(&self.wires), self.projection, task);
        let id = self.jobs.start(CALL_DEADLINE, call, move |_, end| {
            OutwardMsg::Called(task, end)
        });
        self.slot
            .job_started(id.0, &format!("{} {task}", self.projection.label()));
    }

    fn called(&mut self, task: TaskId, end: JobEnd<Result<EventNumber, OutwardError>>) {
        self.slot.clear_jobs();
        let Some(lane) = self.lanes.get_mut(&task) else {
            return;
        };
        lane.busy = false;
        match end.or_else(OutwardError::Transient) {
            Ok(done) => {
                lane.done = Some(done);
                lane.tries = 0;
                if lane.is_final && done >= lane.newest {
                    self.lanes.remove(&task);
                    return;
                }
                self.put_off(task, self.projection.interval());
            }
            Err(OutwardError::Transient(why)) if lane.tries < TRIES => {
                lane.tries += 1;
                let wait = Duration::from_millis(500u64 << lane.tries.min(7));
                tracing::debug!(%task, why, "{} will try again", self.projection.label());
                self.put_off(task, wait);
            }
            Err(error) => {
                tracing::warn!(%task, %error, "{} gives up until the next event", self.projection.label());
                lane.done = Some(lane.newest);
            }
        }
    }

    fn put_off(&mut self, task: TaskId, wait: Duration) {
        if let Some(lane) = self.lanes.get_mut(&task) {
            lane.waiting = true;
            self.jobs.after(wait, OutwardMsg::Due(task));
        }
    }
}

/// One call for one task: from its durable cursor to its newest event.
async fn call(
    wires: Wires,
    projection: Projection,
    task: TaskId,
) -> Result<EventNumber, OutwardError> {
    let journal = &wires.ports.journal;
    let transient = |error: crate::ports::JournalError| OutwardError::Transient(error.to_string());
    let cursor_name = format!("{}:{task}", projection.label());
    let cursor = journal
        .cursor(cursor_name.clone())
        .await
        .map_err(transient)?;
    let view = journal.task(task).await.map_err(transient)?;
    let Some(view) = view else {
        return Err(OutwardError::Permanent("no such task".to_owned()));
    };
    let newest = view.last_event;
    if cursor >= newest {
        return Ok(cursor);
    }
    let reached = match projection {
        Projection::Memory => {
            wires.ports.memory.write(view).await?;
            newest
        }
        Projection::Rooms => {
            let events = journal
                .events(task, cursor, 0, PAGE)
                .await
                .map_err(transient)?;
            let reached = events.last().map_or(newest, |event| event.number);
            wires
                .ports
                .rooms
                .post(task, format!("{task}:{reached}"), events)
                .await?;
            reached
        }
        Projection::Notices => {
            if view.phase.is_final() {
                wires
                    .ports
                    .notices
                    .notify(view, format!("{task}:final"))
                    .await?;
            }
            newest
        }
    };
    journal
        .set_cursor(cursor_name, reached)
        .await
        .map_err(transient)?;
    Ok(reached)
}
