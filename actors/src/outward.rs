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
use crate::jobs::Jobs;
use crate::lane::{Lane, LaneArgs, LaneMsg};
use crate::supervision::{Deaths, Decision, RestartPolicy};
use crate::wiring::Wires;

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

pub(crate) enum OutwardMsg {
    Committed(Arc<[CommittedEvent]>),
    /// A dead child's back-off is over.
    Restart(TaskId),
}

pub(crate) struct Outward(pub(crate) Projection);

pub(crate) struct OutwardArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    /// Tasks whose cursor has to be looked at, with their newest event and whether they are final.
    pub(crate) tasks: Vec<(TaskId, EventNumber, bool)>,
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
    first: Vec<(TaskId, EventNumber, bool)>,
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
            first: args.tasks,
            wires: args.wires,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<OutwardMsg>,
        state: &mut OutwardState,
    ) -> Result<(), ActorProcessingErr> {
        for (task, newest, is_final) in std::mem::take(&mut state.first) {
            state.wake(&myself, task, newest, is_final).await;
        }
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
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<OutwardMsg>,
        event: SupervisionEvent,
        state: &mut OutwardState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(actor, error) => {
                state.died(actor.get_id(), &error.to_string());
            }
            SupervisionEvent::ActorTerminated(actor, left, reason) => {
                if left.is_some() {
                    if let Some(task) = state.actors.remove(&actor.get_id()) {
                        state.children.remove(&task);
                    }
                } else {
                    state.died(
                        actor.get_id(),
                        reason.as_deref().unwrap_or("ended without a reason"),
                    );
                }
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
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
