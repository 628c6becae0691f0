//! The memory of one task: the only one that writes it.
//!
//! In: "there is something new", a place among the agent's memories, "give it up", results of its one job. Out: one call of
//! the memory port at a time: written at once when the task changes its state, else at most once an interval; the newest state
//! wins. After the end the memory stays for a grace period, then it is closed, and this actor ends. What must survive a
//! crash is four marks in the journal: [`crate::memory_calls::Mark`].

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use crate::board::Slot;
use crate::handle::{Handle, Inbox};
use crate::id::{EventNumber, JobId, TaskId};
use crate::jobs::{JobEnd, Jobs};
use crate::memory_calls::{self, Look, Wrote};
use crate::outward::{OutwardMsg, Projection};
use crate::outward_child::ChildArgs;
use crate::patience::Patience;
use crate::ports::{JournalError, MemoryPlace, PlannerError};
use crate::view::TaskView;
use crate::wiring::Wires;

/// How long looking up, writing or closing may take.
const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// A change of state waits so long for the next one, which often follows at once …
const SETTLE: Duration = Duration::from_millis(250);
/// … and is written at most so often.
const URGENT_INTERVAL: Duration = Duration::from_secs(1);
/// Another writer won, or somebody is in the way for a moment: tried again soon.
const CONFLICT_BASE: Duration = Duration::from_millis(100);
const CONFLICT_CAP: Duration = Duration::from_secs(2);
/// Tries of the archive.
const ARCHIVE_TRIES: u32 = 6;
/// Nobody answers: tried again with patience.
const PATIENCE_BASE: Duration = Duration::from_secs(1);
const PATIENCE_CAP: Duration = Duration::from_secs(60);
/// We are refused: a person has to do something.
const REFUSED_WAIT: Duration = Duration::from_secs(300);

pub(crate) enum MemoryMsg {
    /// The task has events up to this one.
    New {
        newest: EventNumber,
        is_final: bool,
        /// Its state changed.
        urgent: bool,
    },
    /// There is a place among the agent's memories.
    Placed,
    /// Another task needs the place, and this one has ended.
    GiveUp,
    /// A wait is over.
    Due,
    Looked(JobEnd<Result<Option<Look>, JournalError>>),
    Wrote(JobEnd<Result<Wrote, PlannerError>>),
    Archived(JobEnd<Result<(), PlannerError>>),
    Closed(JobEnd<Result<(), PlannerError>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is known yet.
    Looking,
    /// Every place of the agent is taken.
    Waiting,
    /// Is kept current.
    Live,
    /// The task has ended and the memory says so; it is archived where that is wanted, and then shown for a while.
    Ended,
    /// Shown until the grace period is over or another task needs the place.
    Shown,
    /// Is being closed.
    Closing,
    /// The task has none, and is not over yet.
    Without,
    /// Nothing is left to do.
    Over,
}

impl Stage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Looking => "looking",
            Self::Waiting => "waiting for a place",
            Self::Live => "current",
            Self::Ended => "ended",
            Self::Shown => "shown",
            Self::Closing => "closing",
            Self::Without => "without a memory",
            Self::Over => "over",
        }
    }
}

pub(crate) struct TaskMemory;

pub(crate) struct MemoryState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<MemoryMsg>,
    supervisor: Handle<OutwardMsg>,
    task: TaskId,
    stage: Stage,
    newest: EventNumber,
    /// Told up to here.
    done: EventNumber,
    /// The newest event when the write under way began.
    writing: EventNumber,
    is_final: bool,
    /// Since when a change of state is to be told.
    urgent: Option<Instant>,
    view: Option<TaskView>,
    place: Option<MemoryPlace>,
    /// There cannot be one outside: none was ever opened.
    fresh: bool,
    busy: bool,
    give_up: bool,
    /// The wait under way, and until when.
    due: Option<(JobId, Instant)>,
    /// Nothing is sent before.
    not_before: Instant,
    last_write: Option<Instant>,
    patience: Patience,
}

impl Actor for TaskMemory {
    type Msg = MemoryMsg;
    type State = MemoryState;
    type Arguments = ChildArgs<MemoryMsg>;

    async fn pre_start(
        &self,
        myself: ActorRef<MemoryMsg>,
        args: ChildArgs<MemoryMsg>,
    ) -> Result<MemoryState, ActorProcessingErr> {
        let slot = args.begin(myself, Projection::Memory);
        let mut state = MemoryState {
            slot,
            inbox: args.handle.inbox(),
            jobs: Jobs::new(args.handle),
            supervisor: args.wires.memory.clone(),
            task: args.task,
            stage: Stage::Looking,
            newest: args.newest,
            done: EventNumber::ZERO,
            writing: EventNumber::ZERO,
            is_final: args.is_final,
            urgent: Some(Instant::now()),
            view: None,
            place: None,
            fresh: false,
            busy: false,
            give_up: false,
            due: None,
            not_before: Instant::now(),
            last_write: None,
            patience: Patience::default(),
            wires: args.wires,
        };
        state.work();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<MemoryMsg>,
        message: MemoryMsg,
        state: &mut MemoryState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            MemoryMsg::New {
                newest,
                is_final,
                urgent,
            } => state.news(newest, is_final, urgent),
            MemoryMsg::Placed => state.placed(),
            MemoryMsg::GiveUp => state.give_up = true,
            MemoryMsg::Due => state.due = None,
            MemoryMsg::Looked(end) => state.looked(end),
            MemoryMsg::Wrote(end) => state.wrote(end),
            MemoryMsg::Archived(end) => state.archived(end),
            MemoryMsg::Closed(end) => state.closed(end),
        }
        state.work();
        state.slot.set_phase(state.stage.as_str());
        if state.stage == Stage::Over {
            myself.stop(Some("nothing is left to do".to_owned()));
        }
        Ok(())
    }
}

impl MemoryState {
    fn news(&mut self, newest: EventNumber, is_final: bool, urgent: bool) {
        self.newest = self.newest.max(newest);
        if urgent || is_final {
            self.urgent.get_or_insert_with(Instant::now);
        }
        if is_final && !self.is_final {
            self.is_final = true;
            self.patience = Patience::default();
            // The end does not wait for a back-off.
            self.not_before = Instant::now();
        }
        // What was planned may be too late now.
        self.forget_due();
    }

    fn placed(&mut self) {
        if self.stage == Stage::Waiting {
            self.stage = Stage::Live;
        }
    }

    fn is_told(&self) -> bool {
        self.view.is_some() && self.done >= self.newest
    }

    /// Does what is due next, unless something is under way.
    fn work(&mut self) {
        if self.busy {
            return;
        }
        match self.stage {
            Stage::Looking => {
                if self.is_due(self.not_before) {
                    let look = memory_calls::look(Arc::clone(&self.wires), self.task);
                    self.start("look", look, MemoryMsg::Looked);
                }
            }
            Stage::Live => {
                if !self.is_told() && self.is_due(self.when()) {
                    self.write();
                }
            }
            Stage::Ended => {
                if self.is_due(self.not_before) {
                    self.archive();
                }
            }
            Stage::Shown => {
                if self.give_up || self.is_due(self.grace_over()) {
                    self.stage = Stage::Closing;
                    self.work();
                }
            }
            Stage::Closing => {
                if self.is_due(self.not_before) {
                    self.close();
                }
            }
            Stage::Without if self.is_final => self.stage = Stage::Over,
            Stage::Waiting | Stage::Without | Stage::Over => {}
        }
    }

    /// When the next write may begin.
    fn when(&self) -> Instant {
        let earliest = |after: Duration| self.last_write.map(|last| last + after);
        let now = Instant::now();
        let wanted = if self.is_final {
            now
        } else if let Some(since) = self.urgent {
            // The first one is not kept waiting for what may follow: nothing is there yet.
            let settled = self.last_write.map_or(now, |_| since + SETTLE);
            earliest(URGENT_INTERVAL).map_or(now, |at| at.max(settled))
        } else {
            earliest(self.wires.settings.memory.interval).unwrap_or(now)
        };
        wanted.max(self.not_before)
    }

    fn grace_over(&self) -> Instant {
        let grace = self.wires.settings.memory.grace;
        let ended = self.view.as_ref().and_then(|view| view.ended_at);
        let since = ended.map_or(0, |at| self.wires.now().ms_since(at));
        Instant::now() + grace.saturating_sub(Duration::from_millis(since))
    }

    /// Whether that time has come; else it is waited for.
    fn is_due(&mut self, at: Instant) -> bool {
        let now = Instant::now();
        if at <= now {
            self.forget_due();
            return true;
        }
        if self.due.is_none() {
            let job = self.jobs.after(at - now, MemoryMsg::Due);
            self.due = Some((job, at));
        }
        false
    }

    fn forget_due(&mut self) {
        if let Some((job, _)) = self.due.take() {
            self.jobs.drop_job(job);
        }
    }

    fn start<T: Send + 'static>(
        &mut self,
        name: &str,
        call: impl Future<Output = T> + Send + 'static,
        message: fn(JobEnd<T>) -> MemoryMsg,
    ) {
        self.busy = true;
        let id = self
            .jobs
            .start(CALL_DEADLINE, call, move |_, end| message(end));
        self.slot.job_started(id.0, name);
    }

    fn ended(&mut self) {
        self.slot.clear_jobs();
        self.busy = false;
    }

    fn looked(&mut self, end: JobEnd<Result<Option<Look>, JournalError>>) {
        self.ended();
        let look = match end.or_else(JournalError::Read) {
            Ok(Some(look)) => look,
            Ok(None) => {
                self.stage = Stage::Over;
                return;
            }
            Err(error) => {
                self.put_off(PATIENCE_BASE);
                tracing::debug!(task = %self.task, %error, "the memory's marks cannot be read; trying again");
                return;
            }
        };
        let view = look.view;
        self.is_final |= view.phase.is_final();
        self.fresh = !look.opened;
        let age = view.ended_at.map(|ended| self.wires.now().ms_since(ended));
        let late =
            age.is_some_and(|ms| u128::from(ms) > self.wires.settings.memory.grace.as_millis());
        if look.closed || !self.wires.ports.memory.wants(&view) || (late && self.fresh) {
            // Of what ended long ago and never had a memory nobody is told any more.
            self.stage = Stage::Without;
            return;
        }
        let agent = view.caller.agent_id.clone();
        self.stage = Stage::Waiting;
        self.supervisor
            .tell(OutwardMsg::WantsPlace(self.task, agent));
    }

    fn write(&mut self) {
        self.writing = self.newest;
        self.urgent = None;
        let call = memory_calls::write(
            Arc::clone(&self.wires),
            self.task,
            self.place.clone(),
            self.fresh,
        );
        self.start("write", call, MemoryMsg::Wrote);
    }

    fn wrote(&mut self, end: JobEnd<Result<Wrote, PlannerError>>) {
        self.ended();
        // Whatever happened: from now on there may be one outside.
        self.fresh = false;
        match end.or_else(PlannerError::Unavailable) {
            Ok(wrote) => {
                self.worked();
                self.last_write = Some(Instant::now());
                self.done = self.writing;
                self.slot.set_last_event(self.done);
                self.place = Some(wrote.place);
                let is_final = wrote.view.phase.is_final();
                self.view = Some(wrote.view);
                if is_final {
                    self.is_final = true;
                    self.stage = Stage::Ended;
                    self.supervisor.tell(OutwardMsg::MayLeave(self.task));
                }
            }
            Err(error) => {
                self.urgent.get_or_insert_with(Instant::now);
                self.failed(error);
            }
        }
    }

    fn archive(&mut self) {
        let Some(view) = self
            .view
            .clone()
            .filter(|_| self.wires.ports.memory.archives())
        else {
            self.stage = Stage::Shown;
            self.work();
            return;
        };
        let call = memory_calls::archive(Arc::clone(&self.wires), view);
        self.start("archive", call, MemoryMsg::Archived);
    }

    fn archived(&mut self, end: JobEnd<Result<(), PlannerError>>) {
        self.ended();
        match end.or_else(PlannerError::Unavailable) {
            Ok(()) => {
                self.worked();
                self.stage = Stage::Shown;
            }
            // The archive is a nicety that needs an embedding model: a few tries are enough.
            Err(error) if self.patience.failures() < ARCHIVE_TRIES => self.failed(error),
            Err(error) => {
                tracing::warn!(task = %self.task, %error, "the end of a task could not be archived");
                self.patience = Patience::default();
                self.stage = Stage::Shown;
            }
        }
    }

    fn close(&mut self) {
        let Some(view) = self.view.clone() else {
            self.stage = Stage::Over;
            return;
        };
        let call = memory_calls::close(Arc::clone(&self.wires), view, self.place.clone());
        self.start("close", call, MemoryMsg::Closed);
    }

    fn closed(&mut self, end: JobEnd<Result<(), PlannerError>>) {
        self.ended();
        match end.or_else(PlannerError::Unavailable) {
            Ok(()) => {
                self.worked();
                self.stage = Stage::Over;
            }
            Err(error) => self.failed(error),
        }
    }

    fn worked(&mut self) {
        self.patience = Patience::default();
        self.wires.parts.works("memory", self.wires.now());
    }

    /// A call failed: when it is tried again, if at all.
    fn failed(&mut self, error: PlannerError) {
        self.patience.failed();
        let tries = self.patience.failures();
        let jitter = 0.5 + self.wires.ports.ids.jitter();
        let wait = match &error {
            PlannerError::Conflict(_) => self.patience.wait(CONFLICT_BASE, CONFLICT_CAP),
            PlannerError::Unavailable(_) => self.patience.wait(PATIENCE_BASE, PATIENCE_CAP),
            PlannerError::Refused(_) => REFUSED_WAIT,
            PlannerError::Gone(_) => Duration::ZERO,
        };
        let gone = matches!(error, PlannerError::Gone(_));
        // What is left then the hourly sweep takes.
        let over = gone || (self.is_final && self.patience.is_over());
        self.wires
            .metrics
            .outward_failed(Projection::Memory.label(), !over);
        if !gone && !matches!(error, PlannerError::Conflict(_)) {
            let now = self.wires.now();
            self.wires.parts.fails("memory", error.to_string(), now);
        }
        if over {
            tracing::warn!(task = %self.task, %error, "the task goes on without a memory");
            self.stage = Stage::Without;
            return;
        }
        if tries == 1 || matches!(error, PlannerError::Refused(_)) {
            tracing::info!(task = %self.task, %error, "the memory could not be written; trying again");
        }
        self.put_off(wait.mul_f64(jitter));
    }

    fn put_off(&mut self, wait: Duration) {
        self.not_before = Instant::now() + wait;
        self.forget_due();
    }
}
