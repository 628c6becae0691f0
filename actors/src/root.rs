//! Root: starts the actors in order and decides what happens when one of them dies.
//!
//! In: ends of its children, a journal that cannot be written. Out: a rebuilt tree, or the failure of the whole.
//!
//! The journal, admission, registry, reaper, tasks and engines actors hold one truth between them: when one of them dies,
//! all are stopped and started again from the journal, through ordinary recovery (engines themselves are untouched).
//! Retention and the outward actors are started again one by one.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{oneshot, watch};

use crate::admission::{Admission, AdmissionArgs};
use crate::board::{ActorKind, Slot};
use crate::engines::{Engines, EnginesArgs};
use crate::event::CommittedEvent;
use crate::handle::Inbox;
use crate::id::{EventNumber, TaskId, WallTime};
use crate::jobs::{JobEnd, Jobs};
use crate::journal::{Journal, JournalArgs};
use crate::machine::TaskState;
use crate::outward::{Outward, OutwardArgs, PROJECTIONS};
use crate::ports::{JournalError, KeyRow, Loaded};
use crate::reaper::{Reaper, ReaperArgs, Removal};
use crate::registry::{Registry, RegistryArgs};
use crate::retention::{Retention, RetentionArgs};
use crate::room::nobody_watches;
use crate::rooms::{RoomsArgs, RoomsSupervisor};
use crate::supervision::{Deaths, Decision, RestartPolicy};
use crate::task_supervisor::{Tasks, TasksArgs};
use crate::wiring::Wires;

pub(crate) const LOAD_DEADLINE: Duration = Duration::from_secs(120);
/// The actors beside the core: the outward ones, rooms and retention behind them.
const BESIDE: usize = PROJECTIONS.len() + 2;

/// A task may be busy, or be started again meanwhile.
const UNWATCHED_DEADLINE: Duration = Duration::from_secs(600);

pub(crate) enum RootMsg {
    /// Nothing can be made durable any more.
    JournalFailed(String),
    /// An ordered stop has begun: nobody is started again. Told when that is so.
    Stopping(oneshot::Sender<()>),
    /// Back-off of a rebuild is over.
    Rebuild,
    Loaded(JobEnd<Result<Loaded, JournalError>>),
    RestartBeside(usize),
    /// Tasks that were attended in rooms know that there are none now.
    Unwatched,
}

/// What the journal said, folded.
#[derive(Default)]
pub(crate) struct Record {
    last_event: EventNumber,
    tasks: Vec<(TaskState, Vec<CommittedEvent>)>,
    unreadable: Vec<(TaskId, String)>,
    keys: Vec<KeyRow>,
}

impl Record {
    /// Folds what was loaded; a task whose fold panics is set apart, the others are not affected.
    pub(crate) fn fold(loaded: Loaded) -> Self {
        let mut record = Self {
            last_event: loaded.last_event,
            tasks: Vec::with_capacity(loaded.tasks.len()),
            unreadable: loaded.unreadable,
            keys: loaded.keys,
        };
        for task in loaded.tasks {
            match catch_unwind(AssertUnwindSafe(|| {
                TaskState::replay(task.id, &task.events)
            })) {
                Ok(Some(state)) => record.tasks.push((state, task.events)),
                Ok(None) => {
                    record
                        .unreadable
                        .push((task.id, "it does not begin with its acceptance".to_owned()));
                }
                Err(_) => record
                    .unreadable
                    .push((task.id, "folding it panics".to_owned())),
            }
        }
        record
    }
}

pub(crate) struct Root;

pub(crate) struct RootArgs {
    pub(crate) wires: Wires,
    pub(crate) record: Record,
    pub(crate) failed: watch::Sender<Option<String>>,
}

pub(crate) struct RootState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<RootMsg>,
    first: Option<Record>,
    failed: watch::Sender<Option<String>>,
    core: HashMap<ActorId, (&'static str, ActorCell)>,
    beside: HashMap<ActorId, usize>,
    core_deaths: Deaths,
    beside_deaths: [Deaths; BESIDE],
    stopping: bool,
}

impl Actor for Root {
    type Msg = RootMsg;
    type State = RootState;
    type Arguments = RootArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RootMsg>,
        args: RootArgs,
    ) -> Result<RootState, ActorProcessingErr> {
        let handle = args.wires.root.clone();
        handle.fill(myself);
        let slot = args
            .wires
            .slot(None, ActorKind::Root, "root", (0, None), &handle);
        Ok(RootState {
            inbox: handle.inbox(),
            jobs: Jobs::new(handle),
            slot,
            wires: args.wires,
            first: Some(args.record),
            failed: args.failed,
            core: HashMap::new(),
            beside: HashMap::new(),
            core_deaths: Deaths::default(),
            beside_deaths: Default::default(),
            stopping: false,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<RootMsg>,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(record) = state.first.take() {
            state.build(&myself, record).await?;
        }
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<RootMsg>,
        message: RootMsg,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            RootMsg::JournalFailed(why) => state.fail(&why),
            RootMsg::Stopping(reply) => {
                state.stopping = true;
                state.slot.set_phase("stopping");
                let _ = reply.send(());
            }
            RootMsg::Rebuild => state.load(),
            RootMsg::Loaded(end) => match end.or_else(JournalError::Read) {
                Ok(loaded) => state.build(&myself, Record::fold(loaded)).await?,
                Err(error) => state.fail(&error.to_string()),
            },
            RootMsg::RestartBeside(index) => {
                // A core that was built since then has them all, and one that is being built will.
                if !state.core.is_empty() && !state.beside.values().any(|i| *i == index) {
                    state.spawn_beside(&myself, index).await?;
                }
            }
            RootMsg::Unwatched => {}
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, reason) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor, error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => (
                actor,
                reason.unwrap_or_else(|| "ended without a reason".to_owned()),
            ),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {
                return Ok(());
            }
        };
        if state.stopping {
            return Ok(());
        }
        if let Some((name, _)) = state.core.remove(&actor.get_id()) {
            state.core_died(name, &reason);
        } else if let Some(index) = state.beside.remove(&actor.get_id()) {
            state.beside_died(index, &reason);
        }
        Ok(())
    }
}

impl RootState {
    fn fail(&self, why: &str) {
        self.slot.set_phase("failed");
        self.failed.send_replace(Some(why.to_owned()));
    }

    /// Starts everything below root from what the journal says.
    async fn build(
        &mut self,
        myself: &ActorRef<RootMsg>,
        record: Record,
    ) -> Result<(), ActorProcessingErr> {
        self.slot.set_phase("building");
        let supervisor = myself.get_cell();
        let parent = self.slot.id();
        let restarts = self.core_deaths.record();
        let states: Vec<TaskState> = record
            .tasks
            .iter()
            .map(|(state, _)| state.clone())
            .collect();
        self.wires.metrics.restored(states.iter());
        let live: Vec<TaskState> = states
            .iter()
            .filter(|state| state.needs_actor())
            .cloned()
            .collect();
        let attended = live.iter().filter(|state| !state.attending.is_empty());
        let attended: Vec<TaskId> = attended.map(|state| state.id).collect();
        let removals = states
            .iter()
            .filter(|state| state.needs_removal())
            .map(removal)
            .collect();
        let wires = || Arc::clone(&self.wires);

        let args = ReaperArgs {
            wires: wires(),
            parent,
            restarts: restarts.clone(),
            removals,
        };
        let (reaper, _) = Actor::spawn_linked(None, Reaper, args, supervisor.clone()).await?;
        let last_event = record.last_event;
        let args = JournalArgs {
            wires: wires(),
            parent,
            restarts: restarts.clone(),
            last_event,
        };
        let (journal, _) = Actor::spawn_linked(None, Journal, args, supervisor.clone()).await?;
        let (tasks, keys) = (states, record.keys);
        let args = AdmissionArgs {
            wires: wires(),
            parent,
            restarts: restarts.clone(),
            tasks,
            keys,
        };
        let (admission, _) = Actor::spawn_linked(None, Admission, args, supervisor.clone()).await?;
        let tasks = record.tasks;
        let args = RegistryArgs {
            wires: wires(),
            parent,
            restarts: restarts.clone(),
            tasks,
        };
        let (registry, _) = Actor::spawn_linked(None, Registry, args, supervisor.clone()).await?;
        let (tasks, unreadable) = (live, record.unreadable);
        let args = TasksArgs {
            wires: wires(),
            parent,
            restarts: restarts.clone(),
            tasks,
            unreadable,
        };
        let (tasks, _) = Actor::spawn_linked(None, Tasks, args, supervisor.clone()).await?;
        let args = EnginesArgs {
            wires: wires(),
            parent,
            restarts,
        };
        let (engines, _) = Actor::spawn_linked(None, Engines, args, supervisor).await?;

        for (name, cell) in [
            ("reaper", reaper.get_cell()),
            ("journal", journal.get_cell()),
            ("admission", admission.get_cell()),
            ("registry", registry.get_cell()),
            ("tasks", tasks.get_cell()),
            ("engines", engines.get_cell()),
        ] {
            self.core.insert(cell.get_id(), (name, cell));
        }
        for index in 0..BESIDE {
            self.spawn_beside(myself, index).await?;
        }
        if !self.wires.ports.rooms.enabled() && !attended.is_empty() {
            let job = nobody_watches(Arc::clone(&self.wires), attended);
            self.jobs
                .start(UNWATCHED_DEADLINE, job, |_, _| RootMsg::Unwatched);
        }
        self.slot.set_phase("ready");
        Ok(())
    }

    async fn spawn_beside(
        &mut self,
        myself: &ActorRef<RootMsg>,
        index: usize,
    ) -> Result<(), ActorProcessingErr> {
        let deaths = self.beside_deaths.get(index);
        let restarts = deaths.map(Deaths::record).unwrap_or_default();
        let (wires, parent) = (Arc::clone(&self.wires), self.slot.id());
        let supervisor = myself.get_cell();
        let actor = match PROJECTIONS.get(index).copied() {
            Some(projection) if !projection.enabled(&wires) => return Ok(()),
            Some(projection) => {
                let args = OutwardArgs {
                    wires,
                    parent,
                    restarts,
                };
                let outward = Outward(projection);
                let (actor, _) = Actor::spawn_linked(None, outward, args, supervisor).await?;
                actor.get_id()
            }
            None if index == PROJECTIONS.len() => {
                if !wires.ports.rooms.enabled() {
                    return Ok(());
                }
                let args = RoomsArgs {
                    wires,
                    parent,
                    restarts,
                };
                let rooms = Actor::spawn_linked(None, RoomsSupervisor, args, supervisor);
                rooms.await?.0.get_id()
            }
            None => {
                let args = RetentionArgs {
                    wires,
                    parent,
                    restarts,
                };
                let (actor, _) = Actor::spawn_linked(None, Retention, args, supervisor).await?;
                actor.get_id()
            }
        };
        self.beside.insert(actor, index);
        Ok(())
    }

    fn core_died(&mut self, name: &str, reason: &str) {
        tracing::error!(actor = name, reason, "the tree is rebuilt from the journal");
        self.slot.set_phase("rebuilding");
        let reason = format!("{name}: {reason}");
        for (_, (_, cell)) in self.core.drain() {
            cell.kill();
        }
        for id in self.beside.drain().map(|(id, _)| id).collect::<Vec<_>>() {
            tracing::debug!(actor = %id, "an actor beside the core ends with it");
        }
        let wires = &self.wires;
        for outward in [&wires.memory, &wires.notifier] {
            if let Some(actor) = outward.actor() {
                actor.kill();
            }
            outward.clear();
        }
        if let Some(actor) = wires.rooms.actor() {
            actor.kill();
        }
        wires.rooms.clear();
        if let Some(actor) = wires.retention.actor() {
            actor.kill();
        }
        wires.retention.clear();
        wires.reaper.clear();
        wires.journal.clear();
        wires.admission.clear();
        wires.registry.clear();
        wires.tasks.clear();
        wires.engines.clear();
        let (now, jitter) = (wires.now(), wires.ports.ids.jitter());
        match self
            .core_deaths
            .decide(&RestartPolicy::CORE, now, &reason, jitter)
        {
            Decision::Restart { after, .. } => {
                // Children of the killed end with them; give their jobs time to be dropped.
                self.jobs
                    .after(after.max(Duration::from_millis(50)), RootMsg::Rebuild);
            }
            Decision::GiveUp { restarts } => {
                self.fail(&format!(
                    "rebuilt {restarts} times and it still fails: {reason}"
                ));
            }
        }
    }

    fn load(&mut self) {
        let since = keys_since(&self.wires);
        let store = Arc::clone(&self.wires.ports.journal);
        self.jobs.start(
            LOAD_DEADLINE,
            async move { store.load(since).await },
            |_, end| RootMsg::Loaded(end),
        );
    }

    fn beside_died(&mut self, index: usize, reason: &str) {
        let (now, jitter) = (self.wires.now(), self.wires.ports.ids.jitter());
        let Some(deaths) = self.beside_deaths.get_mut(index) else {
            return;
        };
        let after = match deaths.decide(&RestartPolicy::PATIENT, now, reason, jitter) {
            Decision::Restart { after, .. } => after,
            Decision::GiveUp { .. } => RestartPolicy::PATIENT.cap,
        };
        tracing::warn!(
            index,
            reason,
            "an actor beside the core died; it is started again"
        );
        self.jobs.after(after, RootMsg::RestartBeside(index));
    }
}

/// Keys older than this are no longer in force.
pub(crate) fn keys_since(wires: &Wires) -> WallTime {
    let keep = i64::try_from(wires.settings.idempotency_keep.as_millis()).unwrap_or(i64::MAX);
    WallTime(wires.now().0.saturating_sub(keep))
}

fn removal(state: &TaskState) -> Removal {
    Removal {
        engine: state.spec.engine.clone(),
        attempt: state.attempt_id(),
        session: state.session.clone(),
        directory: state.directory.clone(),
        owned_by_task: true,
    }
}
