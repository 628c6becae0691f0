//! The engines supervisor: one supervised child per configured engine.
//!
//! In: routes of the tasks' sessions, ends of its children. Out: the same routes to the right engine actor.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::admission::AdmissionMsg;
use crate::board::{ActorKind, Slot};
use crate::engine::{EngineActor, EngineArgs, EngineMsg};
use crate::handle::{Handle, Inbox};
use crate::id::EngineName;
use crate::jobs::Jobs;
use crate::supervision::{ChildEnd, Deaths, Decision, RestartPolicy, child_end};
use crate::task::TaskMsg;
use crate::view::HealthState;
use crate::wiring::Wires;

pub(crate) enum EnginesMsg {
    /// Signals of this session go to this task from now on.
    Route {
        engine: EngineName,
        session: String,
        task: Handle<TaskMsg>,
    },
    /// A child's back-off is over.
    Restart(EngineName),
}

pub(crate) struct Engines;

pub(crate) struct EnginesArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
}

struct Child {
    handle: Handle<EngineMsg>,
    deaths: Deaths,
}

pub(crate) struct EnginesState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<EnginesMsg>,
    children: HashMap<EngineName, Child>,
    actors: HashMap<ActorId, EngineName>,
}

impl Actor for Engines {
    type Msg = EnginesMsg;
    type State = EnginesState;
    type Arguments = EnginesArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<EnginesMsg>,
        args: EnginesArgs,
    ) -> Result<EnginesState, ActorProcessingErr> {
        let handle = args.wires.engines.clone();
        handle.fill(myself);
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Engines,
            "engines",
            args.restarts,
            &handle,
        );
        Ok(EnginesState {
            inbox: handle.inbox(),
            jobs: Jobs::new(handle),
            slot,
            children: HashMap::new(),
            actors: HashMap::new(),
            wires: args.wires,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<EnginesMsg>,
        state: &mut EnginesState,
    ) -> Result<(), ActorProcessingErr> {
        let names: Vec<EngineName> = state
            .wires
            .ports
            .engines
            .iter()
            .map(|engine| engine.name())
            .collect();
        for name in names {
            state.spawn(&myself, &name).await;
        }
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<EnginesMsg>,
        message: EnginesMsg,
        state: &mut EnginesState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            EnginesMsg::Route {
                engine,
                session,
                task,
            } => {
                if let Some(child) = state.children.get(&engine) {
                    child.handle.tell(EngineMsg::Route { session, task });
                }
            }
            EnginesMsg::Restart(name) => state.spawn(&myself, &name).await,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<EnginesMsg>,
        event: SupervisionEvent,
        state: &mut EnginesState,
    ) -> Result<(), ActorProcessingErr> {
        match child_end(event) {
            Some((actor, ChildEnd::Died(reason))) => state.died(actor, &reason),
            // An engine actor has no reason to end: it is started again like a dead one.
            Some((actor, ChildEnd::Stopped(reason))) => {
                state.died(actor, reason.as_deref().unwrap_or("stopped"));
            }
            None => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<EnginesMsg>,
        state: &mut EnginesState,
    ) -> Result<(), ActorProcessingErr> {
        myself
            .stop_children_and_wait(None, Some(state.wires.settings.stop_timeout))
            .await;
        Ok(())
    }
}

impl EnginesState {
    async fn spawn(&mut self, myself: &ActorRef<EnginesMsg>, name: &EngineName) {
        let Some(engine) = self.wires.engine(name) else {
            return;
        };
        let child = self.children.entry(name.clone()).or_insert_with(|| Child {
            handle: Handle::empty(),
            deaths: Deaths::default(),
        });
        let args = EngineArgs {
            wires: Arc::clone(&self.wires),
            parent: self.slot.id(),
            restarts: child.deaths.record(),
            handle: child.handle.clone(),
            engine,
        };
        match Actor::spawn_linked(None, EngineActor, args, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.actors.insert(actor.get_id(), name.clone());
            }
            Err(error) => self.restart(name, &error.to_string()),
        }
    }

    fn died(&mut self, actor: ActorId, reason: &str) {
        if let Some(name) = self.actors.remove(&actor) {
            if let Some(child) = self.children.get(&name) {
                child.handle.clear();
            }
            self.restart(&name, reason);
        }
    }

    fn restart(&mut self, name: &EngineName, reason: &str) {
        let now = self.wires.now();
        let why = format!("its actor failed: {reason}");
        self.wires
            .engine_states
            .set(name, HealthState::Degraded, &why, now);
        self.wires.admission.tell(AdmissionMsg::EngineDown {
            engine: name.clone(),
            why,
        });
        let jitter = self.wires.ports.ids.jitter();
        let Some(child) = self.children.get_mut(name) else {
            return;
        };
        let after = match child
            .deaths
            .decide(&RestartPolicy::PATIENT, now, reason, jitter)
        {
            Decision::Restart { after, .. } => after,
            Decision::GiveUp { .. } => RestartPolicy::PATIENT.cap,
        };
        tracing::warn!(engine = %name, reason, "engine actor died; it is started again");
        self.jobs.after(after, EnginesMsg::Restart(name.clone()));
    }
}
