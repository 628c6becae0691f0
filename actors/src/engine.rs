//! An engine actor: one engine's health, its one event stream, its reconciliation.
//!
//! In: results of its jobs, the stream's signals, routes of sessions. Out: signals to the tasks that own the sessions,
//! "up" to all tasks and "ready" to admission once the stream is open and what the engine holds is reconciled.
//!
//! starting -> (reconciling, first time) -> connecting -> ready or blocked -> (stream breaks) -> starting …

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::admission::AdmissionMsg;
use crate::board::{ActorKind, Slot};
use crate::crash::CrashPoint;
use crate::event::Event;
use crate::handle::{Handle, Inbox};
use crate::id::{AttemptId, BatchId, EngineName, WallTime, WorkerId};
use crate::jobs::{JobEnd, Jobs};
use crate::journal::{JournalMsg, NewBatch};
use crate::ports::{
    Engine, EngineError, EngineReady, EngineSignal, OwnedAttempt, SessionSignal, Signal, SignalSink,
};
use crate::reaper::{ReaperMsg, Removal};
use crate::registry::RegistryMsg;
use crate::task::TaskMsg;
use crate::task_supervisor::TasksMsg;
use crate::view::HealthState;
use crate::wiring::Wires;

/// Starting may install the engine first.
const START_DEADLINE: Duration = Duration::from_secs(1_800);
const OWNED_DEADLINE: Duration = Duration::from_secs(60);
/// A stream is meant to last; it is opened anew once a day at the latest.
const WATCH_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// How often leftovers are looked for while the engine is ready.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// The stream is cut when this many of its signals wait: the tasks then read the records instead.
const STREAM_GATE: u64 = 20_000;
/// A stream that breaks sooner than this, in milliseconds, is opened anew only after a back-off.
const STREAM_LASTED_MS: u64 = 5_000;
/// An output piece is dropped for a task with this many messages waiting.
const TEXT_GATE: u64 = 1_000;

pub(crate) enum EngineMsg {
    Started(JobEnd<Result<EngineReady, EngineError>>),
    Owned(JobEnd<Result<Vec<OwnedAttempt>, EngineError>>),
    Reconciled {
        adopted: Vec<AttemptId>,
        stale: Vec<OwnedAttempt>,
    },
    ReconcileCommitted {
        stale: Vec<OwnedAttempt>,
    },
    Signal(EngineSignal),
    WatchEnded(JobEnd<Result<(), EngineError>>),
    /// Back-off is over.
    Start,
    Sweep,
    Route {
        session: String,
        task: Handle<TaskMsg>,
    },
}

pub(crate) struct EngineActor;

pub(crate) struct EngineArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) handle: Handle<EngineMsg>,
    pub(crate) engine: Arc<dyn Engine>,
}

pub(crate) struct EngineState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    handle: Handle<EngineMsg>,
    engine: Arc<dyn Engine>,
    name: EngineName,
    jobs: Jobs<EngineMsg>,
    routes: HashMap<String, Handle<TaskMsg>>,
    ready: Option<EngineReady>,
    reconciled: bool,
    sweeping: bool,
    /// Since when the stream is open.
    open: Option<WallTime>,
    failures: u32,
    /// Why the last start failed; none when it did not.
    why: Option<String>,
    unknown: u64,
}

impl Actor for EngineActor {
    type Msg = EngineMsg;
    type State = EngineState;
    type Arguments = EngineArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<EngineMsg>,
        args: EngineArgs,
    ) -> Result<EngineState, ActorProcessingErr> {
        args.handle.fill(myself);
        let name = args.engine.name();
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Engine,
            name.as_str(),
            args.restarts,
            &args.handle,
        );
        let mut state = EngineState {
            slot,
            inbox: args.handle.inbox(),
            jobs: Jobs::new(args.handle.clone()),
            handle: args.handle,
            name,
            engine: args.engine,
            routes: HashMap::new(),
            ready: None,
            reconciled: false,
            sweeping: false,
            open: None,
            failures: 0,
            why: None,
            unknown: 0,
            wires: args.wires,
        };
        state.start();
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<EngineMsg>,
        message: EngineMsg,
        state: &mut EngineState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            EngineMsg::Start => state.start(),
            EngineMsg::Started(end) => state.started(end),
            EngineMsg::Owned(end) => state.owned(end),
            EngineMsg::Reconciled { adopted, stale } => state.commit_reconciliation(adopted, stale),
            EngineMsg::ReconcileCommitted { stale } => state.reconciliation_committed(stale),
            EngineMsg::Signal(signal) => state.signal(signal),
            EngineMsg::WatchEnded(end) => state.watch_ended(end),
            EngineMsg::Sweep => {
                state.sweeping = true;
                state.read_owned();
            }
            EngineMsg::Route { session, task } => {
                state.routes.retain(|_, task| task.actor().is_some());
                state.routes.insert(session, task);
            }
        }
        Ok(())
    }
}

impl EngineState {
    fn start(&mut self) {
        let detail = match &self.why {
            Some(why) => format!("is being started again; the last try failed: {why}"),
            None => "is being started".to_owned(),
        };
        self.say(HealthState::Starting, "starting", &detail);
        let engine = Arc::clone(&self.engine);
        let id = self.jobs.start(
            START_DEADLINE,
            async move { engine.start().await },
            |_, end| EngineMsg::Started(end),
        );
        self.slot.clear_jobs();
        self.slot.job_started(id.0, "start");
    }

    /// The same news on the board, in health and for admission.
    fn say(&self, state: HealthState, phase: &str, detail: &str) {
        self.slot.set_phase(phase);
        self.wires
            .engine_states
            .set(&self.name, state, detail, self.wires.now());
        let engine = self.name.clone();
        self.wires.admission.tell(match state {
            HealthState::Ok => AdmissionMsg::EngineReady(engine),
            HealthState::Starting
            | HealthState::Degraded
            | HealthState::Down
            | HealthState::Off => AdmissionMsg::EngineDown {
                engine,
                why: detail.to_owned(),
            },
        });
    }

    fn started(&mut self, end: JobEnd<Result<EngineReady, EngineError>>) {
        self.slot.clear_jobs();
        match end.or_else(EngineError::Unreachable) {
            Ok(ready) => {
                if let Some(note) = &ready.note {
                    tracing::info!(engine = %self.name, note, "engine started");
                }
                self.ready = Some(ready);
                if self.reconciled {
                    self.watch();
                } else {
                    self.read_owned();
                }
            }
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn failed(&mut self, why: &str) {
        self.say(HealthState::Down, "down", why);
        self.failures += 1;
        self.why = Some(why.to_owned());
        let ceiling = (250u64 << self.failures.min(7)).min(30_000);
        let wait =
            Duration::from_millis(ceiling).mul_f64(0.5 + self.wires.ports.ids.jitter() / 2.0);
        tracing::warn!(engine = %self.name, why, "engine is not there; trying again");
        self.jobs.after(wait, EngineMsg::Start);
    }

    fn read_owned(&mut self) {
        if !self.sweeping {
            self.slot.set_phase("reconciling");
        }
        let engine = Arc::clone(&self.engine);
        self.jobs.start(
            OWNED_DEADLINE,
            async move { engine.owned().await },
            |_, end| EngineMsg::Owned(end),
        );
    }

    fn owned(&mut self, end: JobEnd<Result<Vec<OwnedAttempt>, EngineError>>) {
        match end.or_else(EngineError::Unreachable) {
            Ok(owned) => {
                let handle = self.handle.clone();
                self.wires.registry.tell(RegistryMsg::Reconcile {
                    engine: self.name.clone(),
                    owned,
                    reply: Box::new(move |adopted, stale| {
                        handle.tell(EngineMsg::Reconciled { adopted, stale });
                    }),
                });
            }
            Err(_) if self.sweeping => self.sweep_later(),
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn commit_reconciliation(&mut self, adopted: Vec<AttemptId>, stale: Vec<OwnedAttempt>) {
        if self.sweeping && stale.is_empty() {
            self.sweep_later();
            return;
        }
        let handle = self.handle.clone();
        CrashPoint::BeforeReconciliation.pass();
        let event = Event::EngineReconciled {
            engine: self.name.clone(),
            adopted,
            stale: stale
                .iter()
                .map(|owned| owned.attempt.to_string())
                .collect(),
        };
        self.wires.journal.tell(JournalMsg::Append(NewBatch {
            id: BatchId(self.wires.ports.ids.uuid()),
            task: None,
            events: vec![(self.wires.now(), event)],
            row: None,
            ack: Some(Box::new(move |_| {
                handle.tell(EngineMsg::ReconcileCommitted { stale })
            })),
        }));
    }

    fn reconciliation_committed(&mut self, stale: Vec<OwnedAttempt>) {
        CrashPoint::AfterReconciliation.pass();
        for owned in stale {
            self.wires.reaper.tell(ReaperMsg::Remove(Removal {
                engine: self.name.clone(),
                attempt: owned.attempt,
                directory: owned
                    .session
                    .as_ref()
                    .map(|session| session.directory.clone()),
                session: owned.session,
                owned_by_task: false,
            }));
        }
        if self.sweeping {
            self.sweep_later();
            return;
        }
        self.reconciled = true;
        self.wires.reaper.tell(ReaperMsg::Armed(self.name.clone()));
        self.sweep_later();
        self.watch();
    }

    fn sweep_later(&mut self) {
        self.sweeping = false;
        self.jobs.after(SWEEP_EVERY, EngineMsg::Sweep);
    }

    fn watch(&mut self) {
        self.slot.set_phase("connecting");
        let engine = Arc::clone(&self.engine);
        let handle = self.handle.clone();
        let sink: SignalSink = Arc::new(move |signal| {
            handle
                .send_gated(EngineMsg::Signal(signal), STREAM_GATE)
                .is_ok()
        });
        self.jobs.start(
            WATCH_DEADLINE,
            async move { engine.watch(sink).await },
            |_, end| EngineMsg::WatchEnded(end),
        );
    }

    fn signal(&mut self, signal: EngineSignal) {
        match signal {
            EngineSignal::Open { worker } => self.opened(worker),
            EngineSignal::Session(signal) => self.route(signal),
            EngineSignal::Unknown(count) => {
                self.unknown += u64::from(count);
                tracing::debug!(engine = %self.name, total = self.unknown, "unknown event types ignored");
            }
        }
    }

    fn opened(&mut self, worker: WorkerId) {
        self.open = Some(self.wires.now());
        let ready = self.ready.as_ref();
        let version = ready.map(|ready| ready.version.clone()).unwrap_or_default();
        match ready.and_then(|ready| ready.blocked.clone()) {
            None => {
                self.say(HealthState::Ok, "ready", &format!("OpenCode {version}"));
                tracing::info!(engine = %self.name, version, "engine is ready");
            }
            // Admission sends nothing there; what is there is adopted, read, cancelled and removed.
            Some(why) => {
                self.say(HealthState::Degraded, "blocked", &why);
                tracing::warn!(engine = %self.name, version, why, "no new task can begin in the engine");
            }
        }
        self.wires.tasks.tell(TasksMsg::EngineUp {
            engine: self.name.clone(),
            worker,
        });
    }

    fn route(&mut self, signal: SessionSignal) {
        let Some(task) = self.routes.get(&signal.session) else {
            return;
        };
        let message = TaskMsg::Signal {
            child: signal.child,
            signal: signal.signal,
        };
        let sent = match &message {
            // Output may be lost under load; what decides about the task may not.
            TaskMsg::Signal {
                signal: Signal::Text { .. },
                ..
            } => task.send_gated(message, TEXT_GATE).is_ok() || task.actor().is_some(),
            _ => task.send(message).is_ok(),
        };
        if !sent {
            self.routes.remove(&signal.session);
        }
    }

    /// A broken stream says nothing about any task: make sure of the engine, open another, let the tasks read.
    fn watch_ended(&mut self, end: JobEnd<Result<(), EngineError>>) {
        let why = match end.or_else(EngineError::Unreachable) {
            Ok(()) => "its event stream ended".to_owned(),
            Err(error) => format!("its event stream broke: {error}"),
        };
        tracing::info!(engine = %self.name, why, "reconnecting");
        self.wires.tasks.tell(TasksMsg::StreamLost {
            engine: self.name.clone(),
        });
        let opened = self.open.take();
        let lasted = opened.is_some_and(|at| self.wires.now().ms_since(at) >= STREAM_LASTED_MS);
        if lasted {
            self.failures = 0;
            self.why = None;
            self.start();
        } else {
            self.failed(&why);
        }
    }
}
