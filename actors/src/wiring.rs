//! Everything that an actor needs to reach others and the outside: made once per tree, refilled at restarts.
//!
//! In: settings and ports. Out: one shared [`Wiring`] in every actor's arguments.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::admission::{AdmissionMsg, QueueView};
use crate::board::{ActorKind, Board, Slot, SlotSpec};
use crate::engines::EnginesMsg;
use crate::handle::Handle;
use crate::id::{EngineName, WallTime};
use crate::journal::JournalMsg;
use crate::metrics::Metrics;
use crate::outward::OutwardMsg;
use crate::parts::Parts;
use crate::ports::{Engine, Workdirs};
use crate::reaper::ReaperMsg;
use crate::registry::RegistryMsg;
use crate::retention::RetentionMsg;
use crate::rooms::RoomsMsg;
use crate::root::RootMsg;
use crate::task_supervisor::TasksMsg;
use crate::tree::{Ports, TreeSettings};
use crate::view::{HealthState, PartHealth};

/// The addresses, ports and settings of one tree.
pub(crate) struct Wiring {
    pub(crate) settings: TreeSettings,
    pub(crate) ports: Ports,
    pub(crate) board: Board,
    pub(crate) root: Handle<RootMsg>,
    pub(crate) reaper: Handle<ReaperMsg>,
    pub(crate) journal: Handle<JournalMsg>,
    pub(crate) admission: Handle<AdmissionMsg>,
    pub(crate) registry: Handle<RegistryMsg>,
    pub(crate) engines: Handle<EnginesMsg>,
    pub(crate) tasks: Handle<TasksMsg>,
    pub(crate) retention: Handle<RetentionMsg>,
    pub(crate) memory: Handle<OutwardMsg>,
    pub(crate) rooms: Handle<RoomsMsg>,
    pub(crate) notifier: Handle<OutwardMsg>,
    /// What the queue looks like: written by admission, read by the registry without a message.
    pub(crate) queue: watch::Sender<QueueView>,
    /// What each engine is in: written by its actor, read by health without a message.
    pub(crate) engine_states: EngineStates,
    /// How memory and notices are: written by their actors, read by health without a message.
    pub(crate) parts: Parts,
    pub(crate) metrics: Metrics,
    pub(crate) started: WallTime,
}

/// What each engine is in.
#[derive(Debug, Default)]
pub(crate) struct EngineStates(Mutex<BTreeMap<EngineName, PartHealth>>);

impl EngineStates {
    pub(crate) fn set(&self, engine: &EngineName, state: HealthState, detail: &str, now: WallTime) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = states
            .get(engine)
            .filter(|old| old.state == state)
            .map_or(now, |old| old.since);
        let part = PartHealth {
            name: format!("engine {engine}"),
            state,
            since,
            detail: detail.to_owned(),
        };
        states.insert(engine.clone(), part);
    }

    pub(crate) fn get(&self, engine: &EngineName) -> PartHealth {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.get(engine).cloned().unwrap_or_else(|| PartHealth {
            name: format!("engine {engine}"),
            state: HealthState::Starting,
            since: WallTime::default(),
            detail: "is being started".to_owned(),
        })
    }
}

/// Shared by all actors of a tree.
pub(crate) type Wires = Arc<Wiring>;

impl Wiring {
    pub(crate) fn new(settings: TreeSettings, ports: Ports) -> Wires {
        let started = ports.clock.now();
        let board = Board::new(Arc::clone(&ports.clock));
        Arc::new(Self {
            settings,
            ports,
            board,
            root: Handle::empty(),
            reaper: Handle::empty(),
            journal: Handle::empty(),
            admission: Handle::empty(),
            registry: Handle::empty(),
            engines: Handle::empty(),
            tasks: Handle::empty(),
            retention: Handle::empty(),
            memory: Handle::empty(),
            rooms: Handle::empty(),
            notifier: Handle::empty(),
            queue: watch::Sender::new(QueueView::default()),
            engine_states: EngineStates::default(),
            parts: Parts::default(),
            metrics: Metrics::default(),
            started,
        })
    }

    pub(crate) fn now(&self) -> WallTime {
        self.ports.clock.now()
    }

    pub(crate) fn engine(&self, name: &EngineName) -> Option<Arc<dyn Engine>> {
        self.ports
            .engines
            .iter()
            .find(|engine| engine.name() == *name)
            .cloned()
    }

    /// The workdirs of an engine's tasks: its own when it keeps them itself, else those of Chargehand's machine.
    pub(crate) fn workdirs(&self, engine: &EngineName) -> Arc<dyn Workdirs> {
        self.engine(engine)
            .and_then(|engine| engine.workdirs())
            .unwrap_or_else(|| Arc::clone(&self.ports.workdirs))
    }

    /// A place on the board for an actor behind `handle`.
    pub(crate) fn slot<M: ractor::Message>(
        &self,
        parent: Option<u64>,
        kind: ActorKind,
        label: &str,
        restarts: (u32, Option<String>),
        handle: &Handle<M>,
    ) -> Slot {
        if restarts.0 > 0 {
            self.metrics.restarted(kind);
        }
        self.board.slot(SlotSpec {
            parent,
            kind,
            label: label.to_owned(),
            restarts,
            waiting: handle.counter(),
        })
    }
}
