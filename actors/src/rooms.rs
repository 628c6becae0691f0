//! The rooms supervisor: one room actor per task, and the link to the homeserver beside them.
//!
//! In: committed events, news of the stream, ends of children, time. Out: "there is something new" to the task's room
//! actor; rooms of tasks that ended long ago are left. Its failure never reaches a task.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::board::{ActorKind, Slot};
use crate::error::TreeError;
use crate::event::{CommittedEvent, Event};
use crate::handle::{Handle, Inbox};
use crate::id::TaskId;
use crate::jobs::{JobEnd, Jobs};
use crate::ports::{ListFilter, RoomError, RoomRow, RoomSignal};
use crate::room::{self, Room, RoomAnswer, RoomArgs, RoomMsg, RoomQuestion};
use crate::room_link::{RoomLink, RoomLinkArgs};
use crate::supervision::{ChildEnd, Deaths, Decision, RestartPolicy, child_end};
use crate::view::TaskView;
use crate::wiring::Wires;

const LOOK_DEADLINE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// At most so many of the newest tasks are looked at, …
const LOOK_BACK_TASKS: u32 = 500;
/// … and of those that ended and have no room the ones that did so within a day, in milliseconds: nobody wants older news.
const LOOK_BACK_MS: u64 = 24 * 3_600_000;
/// How often rooms are looked for that are not told everything, or kept no longer.
const ROUND: Duration = Duration::from_secs(3_600);
/// How long a question of a planner may take.
const ASK_DEADLINE: Duration = Duration::from_secs(35);
const LEAVE_DEADLINE: Duration = Duration::from_secs(600);

/// What a look back finds.
pub(crate) struct Found {
    /// Tasks whose rooms are not closed, and whether they have ended.
    tasks: Vec<(TaskId, bool)>,
    /// Rooms by their ids.
    rooms: Vec<(String, TaskId)>,
}

pub(crate) enum RoomsMsg {
    Committed(Arc<[CommittedEvent]>),
    /// A room actor knows its room now.
    Opened {
        task: TaskId,
        room: String,
    },
    Signal(RoomSignal),
    /// The homeserver does not accept the bot any more.
    LoginLost,
    /// A dead child's back-off is over; none = the link's.
    Restart(Option<TaskId>),
    LookBack,
    Found(JobEnd<Result<Found, RoomError>>),
    /// A planner asks about a task's room.
    Ask {
        view: Box<TaskView>,
        question: RoomQuestion,
        reply: oneshot::Sender<Result<RoomAnswer, TreeError>>,
    },
    /// It was answered; the room's people may be others now.
    Answered(TaskId, JobEnd<()>),
    /// Look for rooms that are not told everything, or kept no longer.
    Round,
    Left(JobEnd<Result<(), RoomError>>),
}

pub(crate) struct RoomsSupervisor;

pub(crate) struct RoomsArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
}

struct Child {
    handle: Handle<RoomMsg>,
    is_final: bool,
    upto: Option<String>,
    deaths: Deaths,
}

pub(crate) struct RoomsState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<RoomsMsg>,
    children: HashMap<TaskId, Child>,
    actors: HashMap<ActorId, Option<TaskId>>,
    by_room: HashMap<String, TaskId>,
    link_deaths: Deaths,
}

impl Actor for RoomsSupervisor {
    type Msg = RoomsMsg;
    type State = RoomsState;
    type Arguments = RoomsArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RoomsMsg>,
        args: RoomsArgs,
    ) -> Result<RoomsState, ActorProcessingErr> {
        let handle = args.wires.rooms.clone();
        handle.fill(myself);
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Rooms,
            "rooms",
            args.restarts,
            &handle,
        );
        Ok(RoomsState {
            inbox: handle.inbox(),
            jobs: Jobs::new(handle),
            slot,
            children: HashMap::new(),
            actors: HashMap::new(),
            by_room: HashMap::new(),
            link_deaths: Deaths::default(),
            wires: args.wires,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<RoomsMsg>,
        state: &mut RoomsState,
    ) -> Result<(), ActorProcessingErr> {
        state.spawn_link(&myself).await;
        state.look_back();
        state.leave();
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<RoomsMsg>,
        message: RoomsMsg,
        state: &mut RoomsState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            RoomsMsg::Committed(events) => {
                for committed in events.iter() {
                    state.committed(&myself, committed).await;
                }
            }
            RoomsMsg::Opened { task, room } => {
                state.by_room.insert(room, task);
            }
            RoomsMsg::Signal(RoomSignal::Up) => {
                state.tell_all(|| RoomMsg::Up);
                // Who gave up while the homeserver was away begins again.
                state.look_back();
            }
            // Nobody can be seen any more.
            RoomsMsg::LoginLost => state.tell_all(|| RoomMsg::People),
            RoomsMsg::Signal(RoomSignal::News { room, upto }) => state.news(&room, upto),
            RoomsMsg::Restart(Some(task)) => state.spawn(&myself, task).await,
            RoomsMsg::Restart(None) => state.spawn_link(&myself).await,
            RoomsMsg::LookBack => state.look_back(),
            RoomsMsg::Found(end) => state.found(&myself, end).await,
            RoomsMsg::Round => {
                state.look_back();
                state.leave();
            }
            RoomsMsg::Ask {
                view,
                question,
                reply,
            } => state.ask(*view, question, reply),
            RoomsMsg::Answered(task, end) => {
                if let JobEnd::Panicked(why) = end {
                    tracing::error!(why, "a question about a room was not answered");
                }
                if let Some(child) = state.children.get(&task) {
                    child.handle.tell(RoomMsg::People);
                }
            }
            RoomsMsg::Left(end) => {
                if let Err(error) = end.or_else(RoomError::Transient) {
                    tracing::warn!(%error, "rooms of old tasks could not be left; trying again in an hour");
                }
                state.jobs.after(ROUND, RoomsMsg::Round);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<RoomsMsg>,
        event: SupervisionEvent,
        state: &mut RoomsState,
    ) -> Result<(), ActorProcessingErr> {
        match child_end(event) {
            Some((actor, ChildEnd::Died(reason))) => state.died(actor, &reason),
            Some((actor, ChildEnd::Stopped(_))) => {
                if let Some(Some(task)) = state.actors.remove(&actor) {
                    state.children.remove(&task);
                    state.by_room.retain(|_, of| *of != task);
                }
            }
            None => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<RoomsMsg>,
        state: &mut RoomsState,
    ) -> Result<(), ActorProcessingErr> {
        myself
            .stop_children_and_wait(None, Some(state.wires.settings.stop_timeout))
            .await;
        Ok(())
    }
}

impl RoomsState {
    async fn committed(&mut self, myself: &ActorRef<RoomsMsg>, committed: &CommittedEvent) {
        let Some(task) = committed.task else { return };
        let event = &committed.event;
        self.slot.set_last_event(committed.number);
        let is_final = event.is_final();
        if let Some(child) = self.children.get_mut(&task) {
            child.is_final |= is_final;
            child.handle.tell(RoomMsg::New {
                newest: committed.number,
                urgent: is_final || matches!(event, Event::RequestOpened { .. }),
                is_final,
            });
        } else if !event.is_after_end() {
            self.adopt(myself, task, is_final).await;
        }
    }

    fn news(&mut self, room: &str, upto: String) {
        let task = self.by_room.get(room);
        if let Some(child) = task.and_then(|task| self.children.get_mut(task)) {
            child.upto = Some(upto.clone());
            child.handle.tell(RoomMsg::News { upto: Some(upto) });
        }
    }

    fn tell_all(&self, message: impl Fn() -> RoomMsg) {
        for child in self.children.values() {
            child.handle.tell(message());
        }
    }

    async fn adopt(&mut self, myself: &ActorRef<RoomsMsg>, task: TaskId, is_final: bool) {
        if self.children.contains_key(&task) {
            return;
        }
        let child = Child {
            handle: Handle::empty(),
            is_final,
            upto: None,
            deaths: Deaths::default(),
        };
        self.children.insert(task, child);
        self.spawn(myself, task).await;
    }

    async fn spawn(&mut self, myself: &ActorRef<RoomsMsg>, task: TaskId) {
        let Some(child) = self.children.get(&task) else {
            return;
        };
        let args = RoomArgs {
            wires: Arc::clone(&self.wires),
            parent: self.slot.id(),
            restarts: child.deaths.record(),
            handle: child.handle.clone(),
            task,
            is_final: child.is_final,
            upto: child.upto.clone(),
        };
        match Actor::spawn_linked(None, Room, args, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.actors.insert(actor.get_id(), Some(task));
            }
            Err(error) => self.restart(Some(task), &error.to_string()),
        }
    }

    async fn spawn_link(&mut self, myself: &ActorRef<RoomsMsg>) {
        let args = RoomLinkArgs {
            wires: Arc::clone(&self.wires),
            parent: self.slot.id(),
            restarts: self.link_deaths.record(),
        };
        match Actor::spawn_linked(None, RoomLink, args, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.actors.insert(actor.get_id(), None);
            }
            Err(error) => self.restart(None, &error.to_string()),
        }
    }

    fn died(&mut self, actor: ActorId, reason: &str) {
        if let Some(task) = self.actors.remove(&actor) {
            if let Some(child) = task.and_then(|task| self.children.get(&task)) {
                child.handle.clear();
            }
            self.restart(task, reason);
        }
    }

    fn restart(&mut self, task: Option<TaskId>, reason: &str) {
        let (now, jitter) = (self.wires.now(), self.wires.ports.ids.jitter());
        let deaths = match task {
            Some(task) => match self.children.get_mut(&task) {
                Some(child) => &mut child.deaths,
                None => return,
            },
            None => &mut self.link_deaths,
        };
        let after = match deaths.decide(&RestartPolicy::PATIENT, now, reason, jitter) {
            Decision::Restart { after, .. } => after,
            Decision::GiveUp { .. } => RestartPolicy::PATIENT.cap,
        };
        match task {
            Some(task) => {
                tracing::warn!(%task, reason, "the room of a task died; it is started again")
            }
            None => tracing::warn!(
                reason,
                "the link to the homeserver died; it is started again"
            ),
        }
        self.jobs.after(after, RoomsMsg::Restart(task));
    }

    /// Tasks that are not final or ended lately and whose rooms are not closed.
    fn look_back(&mut self) {
        let find = find(Arc::clone(&self.wires));
        self.jobs
            .start(LOOK_DEADLINE, find, |_, end| RoomsMsg::Found(end));
    }

    async fn found(&mut self, myself: &ActorRef<RoomsMsg>, end: JobEnd<Result<Found, RoomError>>) {
        match end.or_else(RoomError::Transient) {
            Ok(found) => {
                self.by_room.extend(found.rooms);
                for (task, is_final) in found.tasks {
                    self.adopt(myself, task, is_final).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "which rooms there are is not known; trying again");
                self.jobs.after(LOOK_AGAIN, RoomsMsg::LookBack);
            }
        }
    }

    fn ask(
        &mut self,
        view: TaskView,
        question: RoomQuestion,
        reply: oneshot::Sender<Result<RoomAnswer, TreeError>>,
    ) {
        let task = view.id;
        let answer = room::answer(Arc::clone(&self.wires), view, question);
        let job = async move {
            // Who asked may have left.
            let _ = reply.send(answer.await);
        };
        self.jobs.start(ASK_DEADLINE, job, move |_, end| {
            RoomsMsg::Answered(task, end)
        });
    }

    fn leave(&mut self) {
        let job = leave(Arc::clone(&self.wires));
        self.jobs
            .start(LEAVE_DEADLINE, job, |_, end| RoomsMsg::Left(end));
    }
}

async fn find(wires: Wires) -> Result<Found, RoomError> {
    let filter = ListFilter {
        limit: LOOK_BACK_TASKS,
        ..ListFilter::default()
    };
    let now = wires.now();
    let rows = wires.ports.rooms.memory().all().await?;
    let mut rows: HashMap<_, _> = rows.into_iter().collect();
    let mut tasks = Vec::new();
    for view in wires.ports.journal.list(filter).await? {
        let lately = |ended| now.ms_since(ended) < LOOK_BACK_MS;
        // A room that there is gets its end, however late.
        let wanted = match rows.get(&view.id) {
            Some(row) if row.closed.is_some() => false,
            Some(row) if row.room.is_some() => true,
            Some(_) | None => view.ended_at.is_none_or(lately),
        };
        if wanted {
            tasks.push((view.id, view.phase.is_final()));
        }
    }
    rows.retain(|_, row| row.closed.is_none() && row.room.is_some());
    for task in rows.keys() {
        let known = tasks.iter().any(|(known, _)| known == task);
        if !known && let Some(view) = wires.ports.journal.task(*task).await? {
            tasks.push((*task, view.phase.is_final()));
        }
    }
    let rooms = rows
        .into_iter()
        .filter_map(|(task, row)| Some((row.room?, task)))
        .collect();
    Ok(Found { tasks, rooms })
}

/// Leaves the rooms whose time is over, and forgets them. One that cannot be left holds up no other.
async fn leave(wires: Wires) -> Result<(), RoomError> {
    if wires.settings.rooms.keep.is_zero() {
        return Ok(());
    }
    let memory = wires.ports.rooms.memory();
    let mut failed = Ok(());
    for (task, row) in memory.all().await? {
        if !is_over(&wires, task, &row).await? {
            continue;
        }
        let left = match row.room {
            Some(room) => wires.ports.rooms.leave(room).await,
            None => Ok(()),
        };
        match left {
            Ok(()) => memory.forget(task).await?,
            Err(RoomError::Permanent(why)) => {
                tracing::info!(%task, why, "the room of an old task cannot be left; it is forgotten");
                memory.forget(task).await?;
            }
            Err(error @ RoomError::LoginLost(_)) => return Err(error),
            Err(error @ (RoomError::Later(_) | RoomError::Transient(_))) => {
                tracing::debug!(%task, %error, "the room of an old task is left later");
                failed = Err(error);
            }
        }
    }
    failed
}

/// Whether a room was closed longer ago than rooms are kept; or, where it could not be closed, its task ended a day before
/// that, or is not known any more.
async fn is_over(wires: &Wires, task: TaskId, row: &RoomRow) -> Result<bool, RoomError> {
    let (now, keep) = (wires.now(), wires.settings.rooms.keep.as_millis());
    if let Some(closed) = row.closed {
        return Ok(u128::from(now.ms_since(closed)) >= keep);
    }
    let late = keep + u128::from(LOOK_BACK_MS);
    Ok(match wires.ports.journal.task(task).await? {
        Some(view) => view
            .ended_at
            .is_some_and(|ended| u128::from(now.ms_since(ended)) >= late),
        None => true,
    })
}
