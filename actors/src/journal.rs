//! The journal actor: the only writer of events.
//!
//! In: batches of events from admission, tasks, reaper and engines. Out, once a batch is durable: each event to the
//! registry, admission and the outward actors, in one order; then the acknowledgement to where the batch came from.
//! While one commit is under way the next batches collect and go together (group commit).

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::admission::AdmissionMsg;
use crate::board::{ActorKind, Slot};
use crate::crash::CrashPoint;
use crate::event::{CommittedEvent, Event};
use crate::handle::Inbox;
use crate::id::{BatchId, EventNumber, TaskId, WallTime};
use crate::jobs::{JobEnd, Jobs};
use crate::lifelog;
use crate::outward::OutwardMsg;
use crate::ports::{Batch, JournalError};
use crate::registry::RegistryMsg;
use crate::rooms::RoomsMsg;
use crate::root::RootMsg;
use crate::view::TaskView;
use crate::wiring::Wires;

/// One commit may take this long before it is repeated once.
const APPEND_DEADLINE: Duration = Duration::from_secs(30);
/// At most this many batches in one commit.
const GROUP: usize = 256;

/// Called when a batch is durable, with the number of its last event.
pub(crate) type Ack = Box<dyn FnOnce(EventNumber) + Send>;

/// Events that belong together.
pub(crate) struct NewBatch {
    pub(crate) id: BatchId,
    pub(crate) task: Option<TaskId>,
    pub(crate) events: Vec<(WallTime, Event)>,
    /// The task's row after the events; its `last_event` is filled in here.
    pub(crate) row: Option<Box<TaskView>>,
    pub(crate) ack: Option<Ack>,
}

/// What the journal is told.
pub(crate) enum JournalMsg {
    /// Make these durable.
    Append(NewBatch),
    /// The commit under way ended.
    Appended(JobEnd<Result<(), JournalError>>),
    /// Tell when everything given so far is durable.
    Flush(oneshot::Sender<()>),
}

pub(crate) struct Journal;

pub(crate) struct JournalArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) last_event: EventNumber,
}

pub(crate) struct JournalState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<JournalMsg>,
    next: EventNumber,
    waiting: Vec<(Batch, Option<Ack>)>,
    in_flight: Vec<(Batch, Option<Ack>)>,
    repeated: bool,
    /// When the commit under way began.
    since: Instant,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Actor for Journal {
    type Msg = JournalMsg;
    type State = JournalState;
    type Arguments = JournalArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<JournalMsg>,
        args: JournalArgs,
    ) -> Result<JournalState, ActorProcessingErr> {
        let handle = args.wires.journal.clone();
        handle.fill(myself);
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Journal,
            "journal",
            args.restarts,
            &handle,
        );
        slot.set_last_event(args.last_event);
        Ok(JournalState {
            inbox: handle.inbox(),
            jobs: Jobs::new(handle),
            slot,
            next: args.last_event.next(),
            waiting: Vec::new(),
            in_flight: Vec::new(),
            repeated: false,
            since: Instant::now(),
            flushes: Vec::new(),
            wires: args.wires,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<JournalMsg>,
        message: JournalMsg,
        state: &mut JournalState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            JournalMsg::Append(batch) => state.number(batch),
            JournalMsg::Appended(end) => state.appended(end),
            JournalMsg::Flush(reply) => state.flushes.push(reply),
        }
        state.commit_next();
        if state.in_flight.is_empty() {
            for reply in state.flushes.drain(..) {
                let _ = reply.send(());
            }
        }
        Ok(())
    }
}

impl JournalState {
    /// Gives the events their numbers, in the order of arrival.
    fn number(&mut self, new: NewBatch) {
        let mut events = Vec::with_capacity(new.events.len());
        for (at, event) in new.events {
            events.push(CommittedEvent {
                number: self.next,
                at,
                task: new.task,
                event,
            });
            self.next = self.next.next();
        }
        let row = new.row.map(|mut row| {
            if let Some(last) = events.last() {
                row.last_event = last.number;
            }
            *row
        });
        self.waiting.push((
            Batch {
                id: new.id,
                events,
                row,
            },
            new.ack,
        ));
    }

    fn commit_next(&mut self) {
        if !self.in_flight.is_empty() || self.waiting.is_empty() {
            return;
        }
        let rest = self.waiting.split_off(self.waiting.len().min(GROUP));
        self.in_flight = std::mem::replace(&mut self.waiting, rest);
        self.repeated = false;
        self.append();
    }

    fn append(&mut self) {
        let batches: Vec<Batch> = self
            .in_flight
            .iter()
            .map(|(batch, _)| batch.clone())
            .collect();
        let store = Arc::clone(&self.wires.ports.journal);
        let id = self.jobs.start(
            APPEND_DEADLINE,
            async move {
                CrashPoint::BeforeAppend.pass();
                let appended = store.append(batches).await;
                CrashPoint::AfterAppend.pass();
                appended
            },
            |_, end| JournalMsg::Appended(end),
        );
        self.since = Instant::now();
        self.slot.job_started(id.0, "append");
        self.slot.set_phase("committing");
    }

    fn appended(&mut self, end: JobEnd<Result<(), JournalError>>) {
        self.slot.set_phase("ready");
        self.slot.clear_jobs();
        let missed = matches!(end, JobEnd::Deadline(_));
        let end = end.or_else(JournalError::Write);
        let events = self.in_flight.iter().map(|(batch, _)| batch.events.len());
        let (events, took) = (events.sum(), self.since.elapsed());
        self.wires.metrics.appended(events, took, end.is_ok());
        match end {
            Ok(()) => self.tell_committed(),
            // Whether it arrived is not known; the batch ids make a repeat harmless.
            Err(_) if missed && !self.repeated => {
                self.repeated = true;
                self.append();
            }
            Err(error) => {
                tracing::error!(%error, "nothing can be made durable any more; the tree stops");
                self.wires
                    .root
                    .tell(RootMsg::JournalFailed(error.to_string()));
            }
        }
    }

    fn tell_committed(&mut self) {
        for (batch, ack) in std::mem::take(&mut self.in_flight) {
            let Some(last) = batch.events.last().map(|event| event.number) else {
                continue;
            };
            let attempt = batch.row.as_ref().map(|row| row.attempt);
            let events: Arc<[CommittedEvent]> = batch.events.into();
            let wires = &self.wires;
            wires.metrics.committed(&events);
            lifelog::write(&events, attempt);
            // The registry first: whoever is acknowledged reads what it wrote.
            wires
                .registry
                .tell(RegistryMsg::Committed(Arc::clone(&events)));
            wires
                .admission
                .tell(AdmissionMsg::Committed(Arc::clone(&events)));
            for outward in [&wires.memory, &wires.notifier] {
                if outward.actor().is_some() {
                    outward.tell(OutwardMsg::Committed(Arc::clone(&events)));
                }
            }
            if wires.rooms.actor().is_some() {
                wires.rooms.tell(RoomsMsg::Committed(Arc::clone(&events)));
            }
            self.slot.set_last_event(last);
            if let Some(ack) = ack {
                ack(last);
            }
        }
    }
}
