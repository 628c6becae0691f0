//! The outward supervisors: workspace-sync, rooms and notifier. One projection each, one child actor per task.
//!
//! In: committed events, ends of children. Out: "there is something new" to the task's child ([`crate::lane`]).
//! Their failure never reaches a task. They are started only when their port is configured.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::board::{ActorKind, Slot};
use crate::event::CommittedEvent;
use crate::handle::{Handle, Inbox};
use crate::id::{EventNumber, TaskId};
use crate::jobs::{JobEnd, Jobs};
use crate::lane::{Lane, LaneArgs, LaneMsg};
use crate::ports::{JournalError, ListFilter};
use crate::supervision::{ChildEnd, Deaths, Decision, RestartPolicy, child_end};
use crate::wiring::Wires;

/// How long finding what is still to be told may take, and how soon it is tried again.
const LOOK_DEADLINE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// At most so many of the newest tasks are looked at, …
const LOOK_BACK_TASKS: u32 = 500;
/// … and of those that ended the ones that did so within a day, in milliseconds: nobody wants older news.
const LOOK_BACK_MS: u64 = 24 * 3_600_000;

/// Which projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Projection {
    Memory,
    Rooms,
    Notices,
}

impl Projection {
    const fn kind(self) -> ActorKind {
        match self {
            Self::Memory => ActorKind::WorkspaceSync,
            Self::Rooms => ActorKind::Rooms,
            Self::Notices => ActorKind::Notifier,
        }
    }

    /// What a child of it is.
    pub(crate) const fn child_kind(self) -> ActorKind {
        match self {
            Self::Memory => ActorKind::TaskMemory,
            Self::Rooms => ActorKind::Room,
            Self::Notices => ActorKind::Notice,
        }
    }

    /// Its name on the board and in its cursors.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Memory => "workspace-sync",
            Self::Rooms => "rooms",
            Self::Notices => "notifier",
        }
    }

    /// The name of a task's cursor.
    pub(crate) fn cursor(self, task: TaskId) -> String {
        format!("{}:{task}", self.label())
    }

    /// At most one call per task in this time, except after an end.
    pub(crate) const fn interval(self) -> Duration {
        match self {
            Self::Memory => Duration::from_secs(3),
            Self::Rooms => Duration::from_millis(1_500),
            Self::Notices => Duration::ZERO,
        }
    }

    /// Whether its port is configured.
    pub(crate) fn enabled(self, wires: &Wires) -> bool {
        match self {
            Self::Memory => wires.ports.memory.enabled(),
            Self::Rooms => wires.ports.rooms.enabled(),
            Self::Notices => wires.ports.notices.enabled(),
        }
    }

    fn handle(self, wires: &Wires) -> Handle<OutwardMsg> {
        match self {
            Self::Memory => wires.memory.clone(),
            Self::Rooms => wires.rooms.clone(),
            Self::Notices => wires.notifier.clone(),
        }
    }
}

/// A task, its newest event, and whether it is final.
type Newest = (TaskId, EventNumber, bool);

pub(crate) enum OutwardMsg {
    Committed(Arc<[CommittedEvent]>),
    /// A dead child's back-off is over.
    Restart(TaskId),
    /// Look again for what was not told before this start.
    LookBack,
    /// Tasks of which not everything was told.
    Behind(JobEnd<Result<Vec<Newest>, JournalError>>),
}

pub(crate) struct Outward(pub(crate) Projection);

pub(crate) struct OutwardArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
}

struct Child {
    handle: Handle<LaneMsg>,
    newest: EventNumber,
    is_final: bool,
    deaths: Deaths,
}

pub(crate) struct OutwardState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<OutwardMsg>,
    projection: Projection,
    children: HashMap<TaskId, Child>,
    actors: HashMap<ActorId, TaskId>,
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
        let (kind, label) = (self.0.kind(), self.0.label());
        let slot = args
            .wires
            .slot(Some(args.parent), kind, label, args.restarts, &handle);
        Ok(OutwardState {
            inbox: handle.inbox(),
            jobs: Jobs::new(handle),
            slot,
            projection: self.0,
            children: HashMap::new(),
            actors: HashMap::new(),
            wires: args.wires,
        })
    }

    async fn post_start(
        &self,
        _myself: ActorRef<OutwardMsg>,
        state: &mut OutwardState,
    ) -> Result<(), ActorProcessingErr> {
        state.look_back();
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<OutwardMsg>,
        message: OutwardMsg,
        state: &mut OutwardState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            OutwardMsg::Committed(events) => {
                for committed in events.iter() {
                    if let Some(task) = committed.task {
                        let is_final = committed.event.is_final();
                        state.slot.set_last_event(committed.number);
                        state.wake(&myself, task, committed.number, is_final).await;
                    }
                }
            }
            OutwardMsg::Restart(task) => state.spawn(&myself, task).await,
            OutwardMsg::LookBack => state.look_back(),
            OutwardMsg::Behind(end) => match end.or_else(JournalError::Read) {
                Ok(behind) => {
                    for (task, newest, is_final) in behind {
                        state.wake(&myself, task, newest, is_final).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "what is still to be told is not known; trying again");
                    state.jobs.after(LOOK_AGAIN, OutwardMsg::LookBack);
                }
            },
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<OutwardMsg>,
        event: SupervisionEvent,
        state: &mut OutwardState,
    ) -> Result<(), ActorProcessingErr> {
        match child_end(event) {
            Some((actor, ChildEnd::Died(reason))) => state.died(actor, &reason),
            Some((actor, ChildEnd::Stopped(_))) => {
                if let Some(task) = state.actors.remove(&actor) {
                    state.children.remove(&task);
                }
            }
            None => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<OutwardMsg>,
        state: &mut OutwardState,
    ) -> Result<(), ActorProcessingErr> {
        myself
            .stop_children_and_wait(None, Some(state.wires.settings.stop_timeout))
            .await;
        Ok(())
    }
}

impl OutwardState {
    /// What an earlier life did not tell: of ended tasks too, for a task does not wait for being told of.
    fn look_back(&mut self) {
        let behind = behind(Arc::clone(&self.wires), self.projection);
        self.jobs
            .start(LOOK_DEADLINE, behind, |_, end| OutwardMsg::Behind(end));
    }

    async fn wake(
        &mut self,
        myself: &ActorRef<OutwardMsg>,
        task: TaskId,
        newest: EventNumber,
        is_final: bool,
    ) {
        if let Some(child) = self.children.get_mut(&task) {
            child.newest = child.newest.max(newest);
            child.is_final |= is_final;
            child.handle.tell(LaneMsg::New { newest, is_final });
            return;
        }
        let child = Child {
            handle: Handle::empty(),
            newest,
            is_final,
            deaths: Deaths::default(),
        };
        self.children.insert(task, child);
        self.spawn(myself, task).await;
    }

    async fn spawn(&mut self, myself: &ActorRef<OutwardMsg>, task: TaskId) {
        let Some(child) = self.children.get(&task) else {
            return;
        };
        let args = LaneArgs {
            wires: Arc::clone(&self.wires),
            parent: self.slot.id(),
            restarts: child.deaths.record(),
            handle: child.handle.clone(),
            projection: self.projection,
            task,
            newest: child.newest,
            is_final: child.is_final,
        };
        match Actor::spawn_linked(None, Lane, args, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.actors.insert(actor.get_id(), task);
            }
            Err(error) => self.restart(task, &error.to_string()),
        }
    }

    fn died(&mut self, actor: ActorId, reason: &str) {
        if let Some(task) = self.actors.remove(&actor) {
            if let Some(child) = self.children.get(&task) {
                child.handle.clear();
            }
            self.restart(task, reason);
        }
    }

    fn restart(&mut self, task: TaskId, reason: &str) {
        let (now, jitter) = (self.wires.now(), self.wires.ports.ids.jitter());
        let Some(child) = self.children.get_mut(&task) else {
            return;
        };
        let after = match child
            .deaths
            .decide(&RestartPolicy::PATIENT, now, reason, jitter)
        {
            Decision::Restart { after, .. } => after,
            Decision::GiveUp { .. } => RestartPolicy::PATIENT.cap,
        };
        tracing::warn!(%task, reason, "{} of a task died; it is started again", self.projection.label());
        self.jobs.after(after, OutwardMsg::Restart(task));
    }
}

/// Tasks that are not final or ended lately, and whose durable cursor is behind their newest event.
async fn behind(wires: Wires, projection: Projection) -> Result<Vec<Newest>, JournalError> {
    let journal = &wires.ports.journal;
    let filter = ListFilter {
        limit: LOOK_BACK_TASKS,
        ..ListFilter::default()
    };
    let now = wires.now();
    let mut behind = Vec::new();
    for view in journal.list(filter).await? {
        let lately = |ended| now.ms_since(ended) < LOOK_BACK_MS;
        if view.ended_at.is_some_and(|ended| !lately(ended)) {
            continue;
        }
        let cursor = journal.cursor(projection.cursor(view.id)).await?;
        if cursor < view.last_event {
            behind.push((view.id, view.last_event, view.phase.is_final()));
        }
    }
    Ok(behind)
}
