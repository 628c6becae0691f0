//! The reaper: removes from the engines what no live attempt owns any more.
//!
//! In: removals of committed releases, removals that a reconciliation declared stale, engines whose reconciliation is
//! committed. Out: `AttemptRemoved` to the journal once the engine says it is gone. Unarmed for an engine until then;
//! drained last at a stop.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::board::{ActorKind, Slot};
use crate::crash::CrashPoint;
use crate::event::{Event, SessionRef};
use crate::handle::Inbox;
use crate::id::{AttemptId, BatchId, EngineName, WallTime};
use crate::jobs::{JobEnd, Jobs};
use crate::journal::{JournalMsg, NewBatch};
use crate::ports::EngineError;
use crate::wiring::Wires;

const REMOVE_DEADLINE: Duration = Duration::from_secs(90);
/// After this long the slot is given back although the removal goes on.
const DELAYED_MS: u64 = 60_000;

/// Something to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) engine: EngineName,
    pub(crate) attempt: AttemptId,
    pub(crate) session: Option<SessionRef>,
    pub(crate) directory: Option<String>,
    /// Released by its task, which waits for its slot; otherwise a stale leftover.
    pub(crate) owned_by_task: bool,
}

type Key = (EngineName, AttemptId, Option<String>);

pub(crate) enum ReaperMsg {
    Remove(Removal),
    Armed(EngineName),
    Tried(Box<Key>, JobEnd<Result<(), EngineError>>),
    Retry(Box<Key>),
    /// Tell when nothing can be removed any more: the queue is empty, or the time is over.
    Drain(oneshot::Sender<()>),
}

struct Pending {
    removal: Removal,
    since: WallTime,
    tries: u32,
    delayed_said: bool,
    running: bool,
}

pub(crate) struct Reaper;

pub(crate) struct ReaperArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) removals: Vec<Removal>,
}

pub(crate) struct ReaperState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<ReaperMsg>,
    armed: HashSet<EngineName>,
    pending: HashMap<Key, Pending>,
    draining: Vec<oneshot::Sender<()>>,
}

impl Actor for Reaper {
    type Msg = ReaperMsg;
    type State = ReaperState;
    type Arguments = ReaperArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<ReaperMsg>,
        args: ReaperArgs,
    ) -> Result<ReaperState, ActorProcessingErr> {
        let handle = args.wires.reaper.clone();
        handle.fill(myself);
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Reaper,
            "reaper",
            args.restarts,
            &handle,
        );
        let mut state = ReaperState {
            inbox: handle.inbox(),
            jobs: Jobs::new(handle),
            slot,
            armed: HashSet::new(),
            pending: HashMap::new(),
            draining: Vec::new(),
            wires: args.wires,
        };
        for removal in args.removals {
            let key = state.take(removal);
            // Armed engines are tried when they say so; this is for those that no longer exist.
            state
                .jobs
                .after(Duration::from_secs(1), ReaperMsg::Retry(Box::new(key)));
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<ReaperMsg>,
        message: ReaperMsg,
        state: &mut ReaperState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            ReaperMsg::Remove(removal) => {
                let key = state.take(removal);
                state.try_remove(&key);
            }
            ReaperMsg::Armed(engine) => {
                state.armed.insert(engine.clone());
                let keys: Vec<Key> = state
                    .pending
                    .keys()
                    .filter(|key| key.0 == engine)
                    .cloned()
                    .collect();
                for key in keys {
                    state.try_remove(&key);
                }
            }
            ReaperMsg::Tried(key, end) => state.tried(&key, end),
            ReaperMsg::Retry(key) => state.try_remove(&key),
            ReaperMsg::Drain(reply) => state.draining.push(reply),
        }
        state.settle();
        Ok(())
    }
}

impl ReaperState {
    fn take(&mut self, removal: Removal) -> Key {
        let session = removal.session.as_ref().map(|session| session.id.clone());
        let key = (removal.engine.clone(), removal.attempt, session);
        let since = self.wires.now();
        let pending = self.pending.entry(key.clone()).or_insert(Pending {
            removal: removal.clone(),
            since,
            tries: 0,
            delayed_said: false,
            running: false,
        });
        pending.removal.owned_by_task |= removal.owned_by_task;
        key
    }

    fn try_remove(&mut self, key: &Key) {
        let Some(engine) = self.wires.engine(&key.0) else {
            self.no_engine(key);
            return;
        };
        if !self.armed.contains(&key.0) {
            self.no_reconciliation(key);
            return;
        }
        let Some(pending) = self.pending.get_mut(key).filter(|pending| !pending.running) else {
            return;
        };
        pending.running = true;
        pending.tries += 1;
        let Removal {
            attempt,
            session,
            directory,
            ..
        } = pending.removal.clone();
        let for_result = Box::new(key.clone());
        let span = tracing::info_span!("removal", task = %attempt.task, attempt = attempt.number);
        let _in_span = span.entered();
        let id = self.jobs.start(
            REMOVE_DEADLINE,
            async move {
                CrashPoint::BeforeRemove.pass();
                let removed = engine.remove(attempt, session, directory).await;
                CrashPoint::AfterRemove.pass();
                removed
            },
            move |_, end| ReaperMsg::Tried(for_result, end),
        );
        self.slot.job_started(id.0, &format!("remove {attempt}"));
    }

    fn tried(&mut self, key: &Key, end: JobEnd<Result<(), EngineError>>) {
        self.slot.clear_jobs();
        let Some(pending) = self.pending.get_mut(key) else {
            return;
        };
        pending.running = false;
        let attempt = pending.removal.attempt;
        match end.or_else(EngineError::Unreachable) {
            Ok(()) | Err(EngineError::SessionGone) => {
                let owned = pending.removal.owned_by_task;
                self.pending.remove(key);
                if owned {
                    self.append(
                        attempt,
                        Event::AttemptRemoved {
                            attempt: attempt.number,
                        },
                    );
                }
            }
            Err(error) => {
                let wait = Duration::from_millis((500u64 << pending.tries.min(7)).min(60_000));
                let late = self.wires.now().ms_since(pending.since) >= DELAYED_MS;
                self.jobs
                    .after(wait, ReaperMsg::Retry(Box::new(key.clone())));
                if late {
                    self.say_delayed(key, error.to_string());
                }
            }
        }
    }

    /// The engine is no longer configured: what is there stays there, the slot is free.
    fn no_engine(&mut self, key: &Key) {
        let reason = format!("engine \"{}\" is not configured any more", key.0);
        self.say_delayed(key, reason);
    }

    /// Nothing is removed from an engine that was not reconciled since the start. One that stays away for long must not
    /// keep the slot: other engines have work to do.
    fn no_reconciliation(&mut self, key: &Key) {
        let Some(pending) = self.pending.get(key).filter(|p| !p.delayed_said) else {
            return;
        };
        let waited = self.wires.now().ms_since(pending.since);
        if waited >= DELAYED_MS {
            let reason = format!("engine \"{}\" has not been there since the start", key.0);
            self.say_delayed(key, reason);
        } else {
            let wait = Duration::from_millis(DELAYED_MS - waited);
            self.jobs
                .after(wait, ReaperMsg::Retry(Box::new(key.clone())));
        }
    }

    /// The slot is given back although the removal is not done: said once for each attempt.
    fn say_delayed(&mut self, key: &Key, reason: String) {
        let Some(pending) = self
            .pending
            .get_mut(key)
            .filter(|pending| !pending.delayed_said && pending.removal.owned_by_task)
        else {
            return;
        };
        pending.delayed_said = true;
        let attempt = pending.removal.attempt;
        self.append(
            attempt,
            Event::AttemptRemovalDelayed {
                attempt: attempt.number,
                reason,
            },
        );
    }

    fn append(&self, attempt: AttemptId, event: Event) {
        self.wires.journal.tell(JournalMsg::Append(NewBatch {
            id: BatchId(self.wires.ports.ids.uuid()),
            task: Some(attempt.task),
            events: vec![(self.wires.now(), event)],
            row: None,
            ack: None,
        }));
    }

    fn settle(&mut self) {
        self.slot.set_phase(&match self.pending.len() {
            0 => "ready".to_owned(),
            n => format!("{n} to remove"),
        });
        let armed = &self.armed;
        let stuck = |(key, pending): (&Key, &Pending)| {
            !pending.running && (pending.tries > 1 || !armed.contains(&key.0))
        };
        if self.pending.iter().all(stuck) {
            for reply in self.draining.drain(..) {
                let _ = reply.send(());
            }
        }
    }
}
