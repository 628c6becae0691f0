//! The outward child actor: one task's memory, room or notice. The only one that writes it.
//!
//! In: "there is something new". Out: one call of the port at a time, from a durable cursor, with back-off.
//! It ends when the task is final and everything was told.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::board::Slot;
use crate::handle::{Handle, Inbox};
use crate::id::{EventNumber, TaskId};
use crate::jobs::{JobEnd, Jobs};
use crate::outward::Projection;
use crate::ports::{JournalError, OutwardError};
use crate::wiring::Wires;

const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Events of one post.
const PAGE: u64 = 100;
/// Tries of one call before it waits for the next event.
const TRIES: u32 = 8;

/// How far a call got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Everything that was in the journal when it began, the task's end included.
    End,
    /// Everything that was in the journal when it began.
    All,
    /// A page; there is more.
    Part,
}

pub(crate) enum LaneMsg {
    /// The task has events up to this one.
    New {
        newest: EventNumber,
        is_final: bool,
    },
    /// The interval or back-off is over.
    Due,
    Called(JobEnd<Result<Told, OutwardError>>),
}

pub(crate) struct Lane;

pub(crate) struct LaneArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) handle: Handle<LaneMsg>,
    pub(crate) projection: Projection,
    pub(crate) task: TaskId,
    pub(crate) newest: EventNumber,
    pub(crate) is_final: bool,
}

pub(crate) struct LaneState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<LaneMsg>,
    projection: Projection,
    task: TaskId,
    newest: EventNumber,
    /// Told up to here, as far as this life of the actor knows.
    done: Option<EventNumber>,
    /// The newest event when the call under way began.
    calling: EventNumber,
    is_final: bool,
    busy: bool,
    waiting: bool,
    tries: u32,
}

impl Actor for Lane {
    type Msg = LaneMsg;
    type State = LaneState;
    type Arguments = LaneArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<LaneMsg>,
        args: LaneArgs,
    ) -> Result<LaneState, ActorProcessingErr> {
        args.handle.fill(myself);
        let kind = args.projection.child_kind();
        let label = args.task.to_string();
        let slot = args
            .wires
            .slot(Some(args.parent), kind, &label, args.restarts, &args.handle);
        let mut state = LaneState {
            slot,
            inbox: args.handle.inbox(),
            jobs: Jobs::new(args.handle),
            projection: args.projection,
            task: args.task,
            newest: args.newest,
            done: None,
            calling: EventNumber::ZERO,
            is_final: args.is_final,
            busy: false,
            waiting: false,
            tries: 0,
            wires: args.wires,
        };
        state.work();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<LaneMsg>,
        message: LaneMsg,
        state: &mut LaneState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            LaneMsg::New { newest, is_final } => {
                state.newest = state.newest.max(newest);
                if is_final {
                    // The end does not wait for the interval.
                    state.is_final = true;
                    state.waiting = false;
                    state.tries = 0;
                }
            }
            LaneMsg::Due => state.waiting = false,
            LaneMsg::Called(end) => state.called(end),
        }
        state.work();
        if state.is_final && !state.busy && state.is_done() {
            myself.stop(Some("everything was told".to_owned()));
        }
        Ok(())
    }
}

impl LaneState {
    fn is_done(&self) -> bool {
        self.done.is_some_and(|done| done >= self.newest)
    }

    /// Starts the next call, if there is something to tell and nothing under way.
    fn work(&mut self) {
        if self.busy || self.waiting || self.is_done() {
            return;
        }
        self.busy = true;
        self.calling = self.newest;
        let call = call(Arc::clone(&self.wires), self.projection, self.task);
        let id = self
            .jobs
            .start(CALL_DEADLINE, call, |_, end| LaneMsg::Called(end));
        self.slot.job_started(id.0, "tell");
        self.slot.set_phase("telling");
    }

    fn called(&mut self, end: JobEnd<Result<Told, OutwardError>>) {
        self.slot.clear_jobs();
        self.busy = false;
        match end.or_else(OutwardError::Transient) {
            Ok(told) => {
                // Bookkeeping after the end starts an actor anew that was told of no end.
                self.is_final |= told == Told::End;
                if told != Told::Part {
                    self.done = Some(self.calling);
                    self.slot.set_last_event(self.calling);
                }
                self.tries = 0;
                self.slot.set_phase("ready");
                self.put_off(self.projection.interval());
            }
            Err(OutwardError::Transient(why)) if self.tries < TRIES => {
                self.tries += 1;
                self.slot.set_phase("backing off");
                tracing::debug!(task = %self.task, why, "{} will try again", self.projection.label());
                self.put_off(Duration::from_millis(500u64 << self.tries.min(7)));
            }
            Err(error) => {
                self.slot.set_phase("gave up");
                tracing::warn!(task = %self.task, %error, "{} gives up until the next event", self.projection.label());
                self.done = Some(self.newest);
            }
        }
    }

    fn put_off(&mut self, wait: Duration) {
        self.waiting = true;
        self.jobs.after(wait, LaneMsg::Due);
    }
}

/// One call for one task: from its durable cursor towards its newest event.
async fn call(wires: Wires, projection: Projection, task: TaskId) -> Result<Told, OutwardError> {
    let journal = &wires.ports.journal;
    let transient = |error: JournalError| OutwardError::Transient(error.to_string());
    let cursor_name = projection.cursor(task);
    let cursor = journal
        .cursor(cursor_name.clone())
        .await
        .map_err(transient)?;
    let view = journal.task(task).await.map_err(transient)?;
    let Some(view) = view else {
        return Err(OutwardError::Permanent("no such task".to_owned()));
    };
    // Bookkeeping after the end is in the record but not in the row: there may be nothing to tell.
    let newest = view.last_event;
    let all = if view.phase.is_final() {
        Told::End
    } else {
        Told::All
    };
    if cursor >= newest {
        return Ok(all);
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
    Ok(if reached >= newest { all } else { Told::Part })
}
