//! The admission actor: decides which tasks exist and which gets a slot next.
//!
//! In: submits, committed events, engines that are ready or not. Out: `TaskAccepted` to the journal, new task actors and
//! dispatches to the task supervisor. Its ledger is what is committed plus what it has asked the journal to commit.
//! While a disk is low nothing new is accepted and nothing that waits is dispatched.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::board::{ActorKind, Slot};
use crate::command::{Caller, Submit, TaskSpec};
use crate::crash::CrashPoint;
use crate::error::TreeError;
use crate::event::{CommittedEvent, Event, PauseKind, Phase};
use crate::handle::Inbox;
use crate::id::{BatchId, EngineName, TaskId, WallTime};
use crate::jobs::{JobEnd, Jobs};
use crate::journal::{JournalMsg, NewBatch};
use crate::machine::TaskState;
use crate::ports::KeyRow;
use crate::queue::{Ledger, NoRoom, QueueLimits, Waiting};
use crate::space::{KnownSpace, Look};
use crate::task_supervisor::TasksMsg;
use crate::view::Submitted;
use crate::wiring::Wires;

/// The queue as readers see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueueView {
    pub(crate) position: HashMap<TaskId, u32>,
    pub(crate) active: u32,
    pub(crate) queued: u32,
    pub(crate) accepting: bool,
    /// Engines that cannot be dispatched to, and why.
    pub(crate) blocked: BTreeMap<EngineName, String>,
    /// Why nothing new begins, when a disk is low.
    pub(crate) disk_low: Option<String>,
}

pub(crate) type SubmitReply = oneshot::Sender<Result<Submitted, TreeError>>;

pub(crate) enum AdmissionMsg {
    Submit {
        submit: Box<Submit>,
        reply: SubmitReply,
    },
    /// Whether a key is known; answered with its task when that is durable, or with why the key cannot be used.
    Known {
        key: (Caller, String),
        /// As in [`Submit::asked`].
        asked: String,
        reply: oneshot::Sender<Result<Option<Submitted>, TreeError>>,
    },
    /// A task's `TaskAccepted` is durable.
    Accepted(TaskId),
    Committed(Arc<[CommittedEvent]>),
    EngineReady(EngineName),
    EngineDown {
        engine: EngineName,
        why: String,
    },
    /// Whether a disk is low.
    Looked(JobEnd<Option<String>>),
    /// Something waits for room on a disk.
    LookAgain,
    /// A task's actor started again while its slot was on the way.
    TaskRestarted(TaskId),
    /// No new tasks from now on.
    Close,
}

/// How long waiting tasks wait for room on a disk before it is looked at again.
const AGAIN: Duration = Duration::from_secs(10);

/// A key in force.
struct Key {
    fingerprint: String,
    task: TaskId,
    at: WallTime,
}

/// A task whose acceptance is not durable yet.
struct Pending {
    state: Box<TaskState>,
    replies: Vec<(SubmitReply, bool)>,
}

pub(crate) struct Admission;

pub(crate) struct AdmissionArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) tasks: Vec<TaskState>,
    pub(crate) keys: Vec<KeyRow>,
}

pub(crate) struct AdmissionState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    ledger: Ledger,
    keys: HashMap<(Caller, String), Key>,
    pending: HashMap<TaskId, Pending>,
    jobs: Jobs<AdmissionMsg>,
    space: KnownSpace,
    /// Submits that wait for a look at the disks, in order.
    held: Vec<(Submit, SubmitReply)>,
    engines: BTreeMap<EngineName, Result<(), String>>,
    order: u64,
    closed: bool,
    keys_swept: WallTime,
    /// Something besides the ledger changed what readers see of the queue.
    changed: bool,
}

impl Actor for Admission {
    type Msg = AdmissionMsg;
    type State = AdmissionState;
    type Arguments = AdmissionArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<AdmissionMsg>,
        args: AdmissionArgs,
    ) -> Result<AdmissionState, ActorProcessingErr> {
        let handle = args.wires.admission.clone();
        handle.fill(myself);
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Admission,
            "admission",
            args.restarts,
            &handle,
        );
        let settings = &args.wires.settings;
        let limits = QueueLimits {
            running: settings.max_running,
            running_per_caller: settings.max_running_per_caller,
            queued: settings.max_queued,
            queued_per_caller: settings.max_queued_per_caller,
            tokens: settings.caller_limits.clone(),
        };
        let engines = args
            .wires
            .ports
            .engines
            .iter()
            .map(|engine| (engine.name(), Err("it is being started".to_owned())))
            .collect();
        let mut state = AdmissionState {
            inbox: handle.inbox(),
            jobs: Jobs::new(handle),
            space: KnownSpace::default(),
            held: Vec::new(),
            slot,
            ledger: Ledger::new(limits),
            keys: HashMap::new(),
            pending: HashMap::new(),
            engines,
            order: 0,
            closed: false,
            changed: true,
            keys_swept: args.wires.now(),
            wires: args.wires,
        };
        state.restore(args.tasks, args.keys);
        state.publish();
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<AdmissionMsg>,
        message: AdmissionMsg,
        state: &mut AdmissionState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            AdmissionMsg::Submit { submit, reply } => state.submit(*submit, reply),
            AdmissionMsg::Known { key, asked, reply } => {
                let answer = match state.known(&key, &digest(&asked)) {
                    // One on its way to the journal is met again by the submit that follows.
                    Some(Ok(task)) if !state.pending.contains_key(&task) => {
                        Ok(Some(state.submitted(task, true)))
                    }
                    Some(Ok(_)) | None => Ok(None),
                    Some(Err(error)) => Err(error),
                };
                let _ = reply.send(answer);
            }
            AdmissionMsg::Accepted(task) => state.accepted(task),
            AdmissionMsg::Committed(events) => state.committed(&events),
            AdmissionMsg::EngineReady(engine) => {
                state.engines.insert(engine, Ok(()));
                state.changed = true;
            }
            AdmissionMsg::EngineDown { engine, why } => {
                state.engines.insert(engine, Err(why));
                state.changed = true;
            }
            AdmissionMsg::Looked(end) => state.looked(end),
            AdmissionMsg::LookAgain => state.space.waited(),
            AdmissionMsg::TaskRestarted(task) => {
                if let Some(holds) = state.ledger.dispatched(task) {
                    state.wires.tasks.tell(TasksMsg::Dispatch { task, holds });
                }
            }
            AdmissionMsg::Close => {
                state.closed = true;
                state.changed = true;
            }
        }
        state.dispatch();
        if state.ledger.take_changed() || state.changed {
            state.publish();
        }
        Ok(())
    }
}

impl AdmissionState {
    fn restore(&mut self, tasks: Vec<TaskState>, keys: Vec<KeyRow>) {
        for task in tasks {
            let waiting = self.waiting(&task);
            match task.phase {
                Phase::Queued => self.ledger.enqueue(task.caller.clone(), waiting),
                Phase::Paused if task.attempt == 0 => {
                    let held = Waiting {
                        on_hold: true,
                        ..waiting
                    };
                    self.ledger.enqueue(task.caller.clone(), held);
                }
                Phase::Starting
                | Phase::Running
                | Phase::Paused
                | Phase::InputRequired
                | Phase::Finishing => self.ledger.restore(task.caller.clone(), waiting),
                Phase::Completed | Phase::Failed | Phase::Timeout | Phase::Cancelled => {
                    if task.needs_removal() {
                        self.ledger.restore(task.caller.clone(), waiting);
                    }
                }
            }
        }
        for row in keys {
            let caller = Caller {
                token: row.token,
                agent_id: row.agent_id,
            };
            let key = Key {
                fingerprint: row.fingerprint,
                task: row.task,
                at: row.at,
            };
            self.keys.insert((caller, row.key), key);
        }
    }

    fn waiting(&mut self, task: &TaskState) -> Waiting {
        self.order += 1;
        Waiting {
            task: task.id,
            engine: task.spec.engine.clone(),
            priority: task.spec.priority,
            order: self.order,
            on_hold: false,
            holds: task.holds,
        }
    }

    fn submit(&mut self, submit: Submit, reply: SubmitReply) {
        let fingerprint = fingerprint(&submit);
        // The key comes before everything else: a repeat is answered even when the queue is full.
        if let Some(key) = submit.idempotency_key.clone() {
            let key = (submit.caller.clone(), key);
            if let Some(answer) = self.known(&key, &fingerprint) {
                self.repeat(answer, reply);
                return;
            }
        }
        if let Err(error) = self.may_accept(&submit) {
            let _ = reply.send(Err(error));
            return;
        }
        match self.room_on_disk() {
            Look::Fine => self.accept(submit, fingerprint, reply),
            Look::Low(why) => {
                let _ = reply.send(Err(TreeError::DiskLow(why)));
            }
            // Asked again, from its key on, when the answer is there.
            Look::Unknown => self.held.push((submit, reply)),
        }
    }

    /// Whether the disks have room, as of a moment ago; starts a look when that is not known.
    fn room_on_disk(&mut self) -> Look {
        let space = &self.wires.ports.space;
        if !space.watched() {
            return Look::Fine;
        }
        let known = self.space.known();
        if known == Look::Unknown && self.space.start() {
            let space = Arc::clone(space);
            let id = self.jobs.start(
                KnownSpace::DEADLINE,
                async move { space.low().await },
                |_, end| AdmissionMsg::Looked(end),
            );
            self.slot.job_started(id.0, "look at the disks");
        }
        known
    }

    fn looked(&mut self, end: JobEnd<Option<String>>) {
        self.slot.clear_jobs();
        // A disk that does not answer is not called full: if it fails, the journal says so.
        let low = match end {
            JobEnd::Done(low) => low,
            JobEnd::Deadline(_) | JobEnd::Panicked(_) => {
                tracing::warn!("how much room the disks have could not be found out in time");
                None
            }
        };
        self.space.set(low);
        for (submit, reply) in std::mem::take(&mut self.held) {
            self.submit(submit, reply);
        }
    }

    /// The task that a key in force belongs to, or that it was used with other arguments; none for a new key.
    fn known(
        &mut self,
        key: &(Caller, String),
        fingerprint: &str,
    ) -> Option<Result<TaskId, TreeError>> {
        self.sweep_keys();
        let oldest = self.keys_keep_from();
        let known = self.keys.get(key).filter(|known| known.at >= oldest)?;
        Some(if known.fingerprint == fingerprint {
            Ok(known.task)
        } else {
            Err(TreeError::KeyReused { task: known.task })
        })
    }

    fn repeat(&mut self, answer: Result<TaskId, TreeError>, reply: SubmitReply) {
        match answer {
            Ok(task) => match self.pending.get_mut(&task) {
                // Not durable yet: told together with the first asker.
                Some(pending) => pending.replies.push((reply, true)),
                None => {
                    let _ = reply.send(Ok(self.submitted(task, true)));
                }
            },
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    fn may_accept(&self, submit: &Submit) -> Result<(), TreeError> {
        if self.closed {
            return Err(TreeError::Closed("stopping"));
        }
        if !self.engines.contains_key(&submit.spec.engine) {
            let names: Vec<&str> = self.engines.keys().map(EngineName::as_str).collect();
            return Err(TreeError::NoSuchEngine {
                engine: submit.spec.engine.to_string(),
                configured: names.join(", "),
            });
        }
        let caller = &submit.caller;
        let own = self.pending.values().filter(|p| p.state.caller == *caller);
        let own = u32::try_from(own.count()).unwrap_or(u32::MAX);
        self.ledger
            .room_for(caller, self.pending(), own)
            .map_err(|no_room| match no_room {
                NoRoom::ForAll { queued, limit } => TreeError::QueueFull { queued, limit },
                NoRoom::ForCaller { queued, limit } => TreeError::CallerLimit {
                    held: queued,
                    limit,
                },
            })
    }

    /// Tasks whose acceptance is not durable yet.
    fn pending(&self) -> u32 {
        u32::try_from(self.pending.len()).unwrap_or(u32::MAX)
    }

    fn accept(&mut self, submit: Submit, fingerprint: String, reply: SubmitReply) {
        let now = self.wires.now();
        let task = TaskId::new(self.wires.ports.ids.uuid());
        let event = Event::TaskAccepted {
            spec: Box::new(submit.spec),
            caller: submit.caller.clone(),
            idempotency_key: submit.idempotency_key.clone(),
            fingerprint: fingerprint.clone(),
            from: submit.from,
        };
        let Some(state) = TaskState::accepted(task, now, &event) else {
            let _ = reply.send(Err(TreeError::Internal(
                "no state for a new task".to_owned(),
            )));
            return;
        };
        if let Some(key) = submit.idempotency_key {
            self.keys.insert(
                (submit.caller, key),
                Key {
                    fingerprint,
                    task,
                    at: now,
                },
            );
        }
        let row = Some(Box::new(state.view()));
        self.pending.insert(
            task,
            Pending {
                state: Box::new(state),
                replies: vec![(reply, false)],
            },
        );
        let origin = self.wires.admission.clone();
        CrashPoint::BeforeAccept.pass();
        self.wires.journal.tell(JournalMsg::Append(NewBatch {
            id: BatchId(self.wires.ports.ids.uuid()),
            task: Some(task),
            events: vec![(now, event)],
            row,
            ack: Some(Box::new(move |_| origin.tell(AdmissionMsg::Accepted(task)))),
        }));
    }

    fn accepted(&mut self, task: TaskId) {
        let Some(pending) = self.pending.remove(&task) else {
            return;
        };
        CrashPoint::AfterAccept.pass();
        let waiting = self.waiting(&pending.state);
        self.ledger.enqueue(pending.state.caller.clone(), waiting);
        self.wires.tasks.tell(TasksMsg::Spawn(pending.state));
        self.dispatch();
        self.publish();
        for (reply, existing) in pending.replies {
            let _ = reply.send(Ok(self.submitted(task, existing)));
        }
    }

    fn submitted(&self, task: TaskId, existing: bool) -> Submitted {
        let queue_position = self.wires.queue.borrow().position.get(&task).copied();
        Submitted {
            task,
            phase: Phase::Queued,
            existing,
            queue_position,
        }
    }

    fn committed(&mut self, events: &[CommittedEvent]) {
        for committed in events {
            let Some(task) = committed.task else { continue };
            self.slot.set_last_event(committed.number);
            match &committed.event {
                Event::AttemptStarted { .. } => self.ledger.started(task),
                Event::TaskPaused {
                    pause: PauseKind::Held,
                } => self.ledger.hold(task, true),
                Event::TaskResumed {
                    pause: PauseKind::Held,
                } => self.ledger.hold(task, false),
                Event::AttemptRemoved { .. } | Event::AttemptRemovalDelayed { .. } => {
                    self.ledger.release(task);
                }
                event if event.is_final() => self.ledger.ended(task),
                _ => {}
            }
        }
    }

    fn dispatch(&mut self) {
        if self.closed {
            return;
        }
        loop {
            let ready = |engine: &EngineName| self.engines.get(engine).is_some_and(Result::is_ok);
            // The disks are looked at only when somebody would begin to write to them.
            if !self.ledger.can_dispatch(ready) {
                self.changed |= self.space.hold_back(None);
                return;
            }
            match self.room_on_disk() {
                Look::Fine => self.changed |= self.space.hold_back(None),
                Look::Low(why) => {
                    self.changed |= self.space.hold_back(Some(why));
                    return self.look_again();
                }
                Look::Unknown => return,
            }
            let engines = &self.engines;
            let ready = |engine: &EngineName| engines.get(engine).is_some_and(Result::is_ok);
            if let Some(task) = self.ledger.dispatch(ready) {
                let holds = self.ledger.dispatched(task).unwrap_or_default();
                self.wires.tasks.tell(TasksMsg::Dispatch { task, holds });
            }
        }
    }

    /// Something waits for room: this is looked at again and again, and only while it is so.
    fn look_again(&mut self) {
        if self.space.wait() {
            self.jobs.after(AGAIN, AdmissionMsg::LookAgain);
        }
    }

    fn publish(&mut self) {
        self.changed = false;
        self.ledger.take_changed();
        let view = QueueView {
            position: self.ledger.order().into_iter().zip(1..).collect(),
            active: self.ledger.active(),
            queued: self.ledger.queued(),
            accepting: !self.closed && self.ledger.has_room(self.pending()),
            blocked: self
                .engines
                .iter()
                .filter_map(|(name, state)| Some((name.clone(), state.as_ref().err()?.clone())))
                .collect(),
            disk_low: self.space.holds_back(),
        };
        self.slot
            .set_phase(if self.closed { "closed" } else { "ready" });
        self.wires.queue.send_replace(view);
    }

    fn sweep_keys(&mut self) {
        let now = self.wires.now();
        if now.ms_since(self.keys_swept) < 60_000 {
            return;
        }
        self.keys_swept = now;
        let oldest = self.keys_keep_from();
        self.keys.retain(|_, key| key.at >= oldest);
    }

    fn keys_keep_from(&self) -> WallTime {
        let keep =
            i64::try_from(self.wires.settings.idempotency_keep.as_millis()).unwrap_or(i64::MAX);
        WallTime(self.wires.now().0.saturating_sub(keep))
    }
}

/// Digest of the arguments, stable across restarts, versions and settings.
fn fingerprint(submit: &Submit) -> String {
    if !submit.asked.is_empty() {
        return digest(&submit.asked);
    }
    // A repeat of the call may come from another conversation of the same agent.
    let spec = TaskSpec {
        conversation: None,
        ..submit.spec.clone()
    };
    digest(&serde_json::to_string(&spec).unwrap_or_default())
}

/// FNV-1a, 128 bit.
fn digest(text: &str) -> String {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in text.bytes() {
        hash ^= u128::from(byte);
        hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    format!("{hash:032x}")
}
