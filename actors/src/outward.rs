//! The outward supervisors: workspace-sync and notifier. One projection each, one child actor per task.
//!
//! In: committed events, ends of children. Out: "there is something new" to the task's child ([`crate::outward_child`]).
//! What workspace-sync does besides (places, upkeep) is in [`crate::workspace_sync`].
//! Their failure never reaches a task. They are started only when their port is configured.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::board::{ActorKind, Slot};
use crate::event::{CommittedEvent, Event};
use crate::handle::{Handle, Inbox};
use crate::id::{EventNumber, TaskId};
use crate::jobs::{JobEnd, Jobs};
use crate::memory_calls::Mark;
use crate::notice;
use crate::outward_child::{ChildHandle, News, Start};
use crate::ports::{JournalError, ListFilter};
use crate::supervision::{ChildEnd, Deaths, Decision, RestartPolicy, child_end};
use crate::wiring::Wires;
use crate::workspace_sync::{Upkeep, UpkeepMsg};

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
    Notices,
}

impl Projection {
    const fn kind(self) -> ActorKind {
        match self {
            Self::Memory => ActorKind::WorkspaceSync,
            Self::Notices => ActorKind::Notifier,
        }
    }

    /// What a child of it is.
    pub(crate) const fn child_kind(self) -> ActorKind {
        match self {
            Self::Memory => ActorKind::TaskMemory,
            Self::Notices => ActorKind::Notice,
        }
    }

    /// Its name on the board and in its cursors.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Memory => "workspace-sync",
            Self::Notices => "notifier",
        }
    }

    /// The name of a task's cursor.
    pub(crate) fn cursor(self, task: TaskId) -> String {
        format!("{}:{task}", self.label())
    }

    /// Whether an event is anything to tell.
    const fn concerns(self, event: &Event) -> bool {
        match self {
            Self::Memory => !event.is_after_end(),
            Self::Notices => event.is_final() || matches!(event, Event::RequestOpened { .. }),
        }
    }

    /// Whether its port is configured.
    pub(crate) fn enabled(self, wires: &Wires) -> bool {
        match self {
            Self::Memory => wires.ports.memory.enabled(),
            Self::Notices => wires.ports.notices.enabled(),
        }
    }

    fn handle(self, wires: &Wires) -> Handle<OutwardMsg> {
        match self {
            Self::Memory => wires.memory.clone(),
            Self::Notices => wires.notifier.clone(),
        }
    }
}

/// All of them.
pub(crate) const PROJECTIONS: [Projection; 2] = [Projection::Memory, Projection::Notices];

/// Everything that the outward actors keep of a task in the journal.
pub(crate) fn marks(task: TaskId) -> Vec<String> {
    let cursors = PROJECTIONS.map(|projection| projection.cursor(task));
    let memory = Mark::ALL.map(|mark| mark.of(task));
    let mut marks: Vec<String> = cursors.into_iter().chain(memory).collect();
    marks.push(notice::intent(task));
    marks
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
    /// A task of this agent wants a memory.
    WantsPlace(TaskId, String),
    /// A task with a memory has ended, and the memory says so.
    MayLeave(TaskId),
    /// What workspace-sync does besides.
    Upkeep(UpkeepMsg),
}

pub(crate) struct Outward(pub(crate) Projection);

pub(crate) struct OutwardArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
}

pub(crate) struct Child {
    pub(crate) handle: ChildHandle,
    newest: EventNumber,
    is_final: bool,
    deaths: Deaths,
}

pub(crate) struct OutwardState {
    pub(crate) wires: Wires,
    pub(crate) slot: Slot,
    inbox: Inbox,
    pub(crate) jobs: Jobs<OutwardMsg>,
    projection: Projection,
    pub(crate) children: HashMap<TaskId, Child>,
    pub(crate) upkeep: Upkeep,
    actors: HashMap<ActorId, TaskId>,
    /// Tasks that ended while a look back was under way: what it read of them may be from before.
    ended_meanwhile: HashSet<TaskId>,
    looking: bool,
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
            upkeep: Upkeep::new(&args.wires),
            actors: HashMap::new(),
            ended_meanwhile: HashSet::new(),
            looking: false,
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
                        let event = &committed.event;
                        state.slot.set_last_event(committed.number);
                        if !state.projection.concerns(event) {
                            continue;
                        }
                        if state.looking && event.is_final() {
                            state.ended_meanwhile.insert(task);
                        }
                        let news = News {
                            newest: committed.number,
                            // Whoever begins with what comes after an end must know that nothing more will come.
                            is_final: event.is_final() || event.is_after_end(),
                            urgent: changes_state(event),
                        };
                        state.wake(&myself, task, news).await;
                    }
                }
            }
            OutwardMsg::Restart(task) => state.spawn(&myself, task).await,
            OutwardMsg::LookBack => state.look_back(),
            OutwardMsg::Behind(end) => state.looked_back(&myself, end).await,
            OutwardMsg::WantsPlace(task, agent) => state.wants_place(task, &agent),
            OutwardMsg::MayLeave(task) => state.may_leave(task),
            OutwardMsg::Upkeep(message) => state.keep_up(message),
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
                    state.left(task);
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
        self.looking = true;
        let behind = behind(Arc::clone(&self.wires), self.projection);
        self.jobs
            .start(LOOK_DEADLINE, behind, |_, end| OutwardMsg::Behind(end));
    }

    async fn looked_back(
        &mut self,
        myself: &ActorRef<OutwardMsg>,
        end: JobEnd<Result<Vec<Newest>, JournalError>>,
    ) {
        self.looking = false;
        let ended = std::mem::take(&mut self.ended_meanwhile);
        match end.or_else(JournalError::Read) {
            Ok(behind) => {
                for (task, newest, is_final) in behind {
                    let news = News {
                        newest,
                        is_final: is_final || ended.contains(&task),
                        urgent: true,
                    };
                    self.wake(myself, task, news).await;
                }
                if self.projection == Projection::Memory {
                    // Not before every task that has a memory is known.
                    self.begin_upkeep();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "what is still to be told is not known; trying again");
                self.jobs.after(LOOK_AGAIN, OutwardMsg::LookBack);
            }
        }
    }

    async fn wake(&mut self, myself: &ActorRef<OutwardMsg>, task: TaskId, news: News) {
        if let Some(child) = self.children.get_mut(&task) {
            child.newest = child.newest.max(news.newest);
            child.is_final |= news.is_final;
            child.handle.tell(news);
            return;
        }
        let child = Child {
            handle: ChildHandle::empty(self.projection),
            newest: news.newest,
            is_final: news.is_final,
            deaths: Deaths::default(),
        };
        self.children.insert(task, child);
        self.spawn(myself, task).await;
    }

    async fn spawn(&mut self, myself: &ActorRef<OutwardMsg>, task: TaskId) {
        let Some(child) = self.children.get(&task) else {
            return;
        };
        let start = Start {
            wires: Arc::clone(&self.wires),
            parent: self.slot.id(),
            restarts: child.deaths.record(),
            task,
            newest: child.newest,
            is_final: child.is_final,
        };
        let handle = child.handle.clone();
        match handle.start(start, myself.get_cell()).await {
            Ok(actor) => {
                self.actors.insert(actor, task);
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

/// Whether a planner should know at once.
const fn changes_state(event: &Event) -> bool {
    matches!(
        event,
        Event::AttemptStarted { .. }
            | Event::TaskPaused { .. }
            | Event::TaskResumed { .. }
            | Event::RequestOpened { .. }
            | Event::RequestClosed { .. }
    ) || event.is_final()
}

/// Tasks that are not final or ended lately, and of which not everything was told.
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
        let mark = match projection {
            Projection::Memory if !wires.ports.memory.wants(&view) => continue,
            Projection::Notices if view.spec.notify.is_never() => continue,
            // A memory that says everything is not done with before it is closed.
            Projection::Memory if view.phase.is_final() => Mark::Closed.of(view.id),
            Projection::Memory | Projection::Notices => projection.cursor(view.id),
        };
        // Whatever its memory says, a task that goes on has somebody who answers for it: the sweep takes away what has nobody.
        let answers = projection == Projection::Memory && !view.phase.is_final();
        if answers || journal.cursor(mark).await? < view.last_event {
            behind.push((view.id, view.last_event, view.phase.is_final()));
        }
    }
    Ok(behind)
}
