//! The child actors of the outward supervisors, as one: a task's memory, a task's notices.
//!
//! In: a projection. Out: a [`ChildHandle`] of its kind, to tell what is new and to start the actor behind it.

use ractor::{Actor, ActorCell, ActorId, ActorRef, SpawnErr};

use crate::board::Slot;
use crate::handle::Handle;
use crate::id::{EventNumber, TaskId};
use crate::notice::{NoticeMsg, TaskNotices};
use crate::outward::Projection;
use crate::task_memory::{MemoryMsg, TaskMemory};
use crate::wiring::Wires;

/// What a child needs.
pub(crate) struct ChildArgs<M> {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) handle: Handle<M>,
    pub(crate) task: TaskId,
    pub(crate) newest: EventNumber,
    pub(crate) is_final: bool,
}

impl<M: ractor::Message> ChildArgs<M> {
    /// The actor is there: its address is filled, and it has a place on the board.
    pub(crate) fn begin(&self, myself: ActorRef<M>, projection: Projection) -> Slot {
        self.handle.fill(myself);
        let (kind, label) = (projection.child_kind(), self.task.to_string());
        let restarts = self.restarts.clone();
        self.wires
            .slot(Some(self.parent), kind, &label, restarts, &self.handle)
    }
}

/// What is new of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News {
    pub(crate) newest: EventNumber,
    pub(crate) is_final: bool,
    /// Its state changed.
    pub(crate) urgent: bool,
}

/// The address of a child.
#[derive(Clone)]
pub(crate) enum ChildHandle {
    Memory(Handle<MemoryMsg>),
    Notices(Handle<NoticeMsg>),
}

/// Where and as what a child is started.
pub(crate) struct Start {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) task: TaskId,
    pub(crate) newest: EventNumber,
    pub(crate) is_final: bool,
}

impl ChildHandle {
    /// Of a child of this projection, with nobody behind it yet.
    pub(crate) fn empty(projection: Projection) -> Self {
        match projection {
            Projection::Memory => Self::Memory(Handle::empty()),
            Projection::Notices => Self::Notices(Handle::empty()),
        }
    }

    /// Tells what is new.
    pub(crate) fn tell(&self, news: News) {
        let News {
            newest,
            is_final,
            urgent,
        } = news;
        match self {
            Self::Memory(handle) => handle.tell(MemoryMsg::New {
                newest,
                is_final,
                urgent,
            }),
            Self::Notices(handle) => handle.tell(NoticeMsg::New { newest, is_final }),
        };
    }

    /// Nobody is behind it any more.
    pub(crate) fn clear(&self) {
        match self {
            Self::Memory(handle) => handle.clear(),
            Self::Notices(handle) => handle.clear(),
        }
    }

    /// Starts the actor behind it.
    pub(crate) async fn start(&self, start: Start, parent: ActorCell) -> Result<ActorId, SpawnErr> {
        match self {
            Self::Memory(handle) => {
                let args = start.of(handle);
                let (actor, _) = Actor::spawn_linked(None, TaskMemory, args, parent).await?;
                Ok(actor.get_id())
            }
            Self::Notices(handle) => {
                let args = start.of(handle);
                let (actor, _) = Actor::spawn_linked(None, TaskNotices, args, parent).await?;
                Ok(actor.get_id())
            }
        }
    }
}

impl Start {
    fn of<M>(self, handle: &Handle<M>) -> ChildArgs<M> {
        ChildArgs {
            wires: self.wires,
            parent: self.parent,
            restarts: self.restarts,
            handle: handle.clone(),
            task: self.task,
            newest: self.newest,
            is_final: self.is_final,
        }
    }
}
