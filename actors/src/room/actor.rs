//! The room actor: the only one that tells a task's room anything, and the only one that takes commands from it.
//!
//! In: "there is something new" of the journal and of the homeserver's stream. Out: one telling, one hearing at a time,
//! each from what is durable; one command at a time, a cancel at once. Ends when the room is closed.

mod steer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use crate::board::{ActorKind, Slot};
use crate::handle::{Handle, Inbox};
use crate::id::{EventNumber, JobId, TaskId};
use crate::jobs::{JobEnd, Jobs};
use crate::ports::{RoomError, RoomMemoryError, TakenCommand};
use crate::rooms::RoomsMsg;
use crate::wiring::Wires;

use super::act::Reply;
use super::tell::{Told, Turn, Uninvited, tell};

/// Many sends fit in; what is cut is repeated.
const DEADLINE: Duration = Duration::from_secs(120);
/// Between two notices about observations or output, where the homeserver does not limit us; else as many times longer as its pace.
const BATCH: Duration = Duration::from_secs(5);
/// Between two edits of the status for its times alone.
const REFRESH: Duration = Duration::from_secs(30);
/// Tries of telling the end of a task, which is then left for the next time that the homeserver comes back.
const TRIES: u32 = 8;
/// The longest back-off.
const LONGEST: Duration = Duration::from_secs(60);

pub(crate) enum RoomMsg {
    /// The task has events up to this one; an urgent one does not wait for the pace.
    New {
        newest: EventNumber,
        urgent: bool,
        is_final: bool,
    },
    /// Something was said; all of it stands before this place.
    News {
        upto: Option<String>,
    },
    /// Who is in the room, or what they may, was changed by the bot.
    People,
    /// The pace or a back-off is over.
    Due,
    /// Time for output, and for the times in the status.
    Tick,
    /// The homeserver is there again.
    Up,
    /// A back-off of hearing is over.
    Again,
    Told(JobEnd<Result<Told, RoomError>>),
    /// Whether somebody came or went.
    Heard(JobEnd<Result<bool, RoomError>>),
    /// Who watches was told to the task.
    Watched(JobEnd<Result<(), RoomError>>),
    /// A back-off of that is over.
    WatchAgain,
    Open(JobEnd<Result<Vec<TakenCommand>, RoomMemoryError>>),
    /// A back-off of looking commands up is over.
    LookAgain,
    /// A command was done; what is answered.
    CarriedOut(String, JobEnd<Result<Reply, RoomError>>),
    /// A command was answered.
    Answered(String, JobEnd<Result<(), RoomError>>),
    /// A command's own back-off is over.
    Retry(String),
}

/// A command that is being done or answered.
struct Doing {
    command: TakenCommand,
    /// Those after it wait until it is done.
    in_order: bool,
    /// In a row, of doing or of answering.
    failures: u32,
    /// It is done, and must not be done again; this is still to be answered.
    reply: Option<Arc<Reply>>,
}

pub(crate) struct Room;

pub(crate) struct RoomArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) handle: Handle<RoomMsg>,
    pub(crate) task: TaskId,
    pub(crate) is_final: bool,
    pub(crate) upto: Option<String>,
}

pub(crate) struct RoomState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<RoomMsg>,
    task: TaskId,
    is_final: bool,
    room: Option<String>,
    telling: bool,
    /// The pace or a back-off: nothing is told before this message comes. There is never a second one on its way, which
    /// would cut the next wait short.
    due: Option<JobId>,
    ticking: bool,
    /// Something is to be told, as far as this life of the actor knows.
    dirty: bool,
    failures: u32,
    batched: Option<Instant>,
    refreshed: Instant,
    uninvited: Uninvited,
    /// There is news, up to this place if it is known.
    news: Option<Option<String>>,
    hearing: bool,
    /// Hearing failed: nothing is read until the back-off is over.
    resting: bool,
    ear_failures: u32,
    /// The task is to be told who watches.
    watch: bool,
    /// That is being done, or backs off.
    watching: bool,
    watch_failures: u32,
    /// Open commands are to be looked up.
    look: bool,
    /// That is being done, or backs off.
    looking: bool,
    look_failures: u32,
    queue: VecDeque<(TakenCommand, bool)>,
    doing: BTreeMap<String, Doing>,
    /// Answered in this life: a look-up that began before may still show them as open.
    answered: BTreeSet<String>,
    /// Nobody can write any more; what was said before has been looked for once more.
    shut: bool,
    listened: bool,
    closed: bool,
}

impl Actor for Room {
    type Msg = RoomMsg;
    type State = RoomState;
    type Arguments = RoomArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RoomMsg>,
        args: RoomArgs,
    ) -> Result<RoomState, ActorProcessingErr> {
        args.handle.fill(myself);
        let label = args.task.to_string();
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Room,
            &label,
            args.restarts,
            &args.handle,
        );
        let mut state = RoomState {
            slot,
            inbox: args.handle.inbox(),
            jobs: Jobs::new(args.handle),
            task: args.task,
            is_final: args.is_final,
            room: None,
            telling: false,
            due: None,
            ticking: false,
            dirty: true,
            failures: 0,
            batched: None,
            refreshed: Instant::now(),
            uninvited: Uninvited::default(),
            // What was said while nobody listened is looked for at every start.
            news: Some(args.upto),
            hearing: false,
            resting: false,
            ear_failures: 0,
            watch: true,
            watching: false,
            watch_failures: 0,
            look: true,
            looking: false,
            look_failures: 0,
            queue: VecDeque::new(),
            doing: BTreeMap::new(),
            answered: BTreeSet::new(),
            shut: false,
            listened: false,
            closed: false,
            wires: args.wires,
        };
        state.work();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<RoomMsg>,
        message: RoomMsg,
        state: &mut RoomState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            RoomMsg::New {
                newest,
                urgent,
                is_final,
            } => {
                tracing::trace!(task = %state.task, event = newest.0, "the room has something to tell");
                state.dirty = true;
                state.is_final |= is_final;
                if urgent && state.failures == 0 {
                    state.forget_due();
                }
            }
            RoomMsg::News { upto } => state.news = Some(upto),
            RoomMsg::People => state.watch = true,
            RoomMsg::Up => state.up(),
            RoomMsg::Due => state.forget_due(),
            RoomMsg::Tick => {
                state.ticking = false;
                state.dirty = true;
            }
            RoomMsg::Again => state.resting = false,
            RoomMsg::Told(end) => state.told(end),
            RoomMsg::Heard(end) => state.heard(end),
            RoomMsg::Watched(end) => state.watched(end),
            RoomMsg::WatchAgain => state.watching = false,
            RoomMsg::Open(end) => state.open(end),
            RoomMsg::LookAgain => state.looking = false,
            RoomMsg::CarriedOut(event, end) => state.carried_out(event, end),
            RoomMsg::Answered(event, end) => state.was_answered(event, end),
            RoomMsg::Retry(event) => state.go_on(event),
        }
        if state.closed {
            myself.stop(Some("the room is closed".to_owned()));
        } else {
            state.work();
        }
        Ok(())
    }
}

impl RoomState {
    fn work(&mut self) {
        self.listen();
        self.watch();
        self.act();
        self.speak();
    }

    /// Whatever backed off because the homeserver was away is tried at once.
    fn up(&mut self) {
        self.forget_due();
        self.dirty = true;
        self.uninvited.forget();
        self.resting = false;
        self.watch = true;
        self.news.get_or_insert(None);
    }

    // ---- telling ----

    fn speak(&mut self) {
        let answered = self.shut && self.listened && self.is_idle();
        if self.telling || self.due.is_some() || !(self.dirty || answered) {
            return;
        }
        self.telling = true;
        self.dirty = false;
        let pace = self.wires.ports.rooms.pace();
        let between = BATCH.max(pace.saturating_mul(6));
        let turn = Turn {
            batch: self.batched.is_none_or(|at| at.elapsed() >= between),
            refresh: self.refreshed.elapsed() >= REFRESH,
            answered,
        };
        let uninvited = self.uninvited.clone();
        let job = tell(Arc::clone(&self.wires), self.task, turn, uninvited);
        let id = self.jobs.start(DEADLINE, job, |_, end| RoomMsg::Told(end));
        self.slot.job_started(id.0, "tell");
        self.slot.set_phase("telling");
    }

    fn told(&mut self, end: JobEnd<Result<Told, RoomError>>) {
        self.slot.clear_jobs();
        self.telling = false;
        match end.or_else(RoomError::Transient) {
            Ok(told) => {
                if told.behind.is_none() {
                    self.failures = 0;
                    self.slot.set_phase("ready");
                }
                self.slot.set_last_event(told.upto);
                self.know(told.room);
                let now = Instant::now();
                if told.batch {
                    self.batched = Some(now);
                }
                if self.refreshed.elapsed() >= REFRESH {
                    self.refreshed = now;
                }
                self.closed = told.closed;
                if told.shut && !self.shut {
                    self.shut = true;
                    self.news = Some(None);
                }
                self.dirty |= told.more;
                if let Some(error) = told.behind {
                    self.telling_failed(&error);
                } else if told.lives {
                    self.put_off(self.wires.ports.rooms.pace());
                }
                if told.lives {
                    self.tick();
                }
            }
            Err(error) => self.telling_failed(&error),
        }
    }

    fn telling_failed(&mut self, error: &RoomError) {
        self.dirty = true;
        // A homeserver that limits the bot says when to go on: that is no failure, however often it comes.
        if !matches!(error, RoomError::Later(_)) {
            self.failures += 1;
        }
        if self.is_final && self.failures > TRIES {
            // Whoever looks back when the homeserver is there again tells the rest.
            tracing::warn!(task = %self.task, %error, "the room of an ended task is left as it is until the homeserver is back");
            self.closed = true;
            return;
        }
        let again = !matches!(error, RoomError::Permanent(_));
        self.wires.metrics.outward_failed("rooms", again);
        let wait = self.wait_after(error, self.failures);
        self.slot.set_phase(match error {
            RoomError::Later(_) => "limited by the homeserver",
            RoomError::Transient(_) => "backing off",
            RoomError::Permanent(_) => "refused",
            RoomError::LoginLost(_) => "login lost",
        });
        match error {
            RoomError::Permanent(_) if self.failures.is_power_of_two() => {
                tracing::warn!(task = %self.task, %error, "the task's room cannot be told; trying again later");
            }
            _ => tracing::debug!(task = %self.task, %error, "the task's room will be told later"),
        }
        self.put_off(wait);
    }

    /// How long to wait after the `n`-th failure in a row.
    fn wait_after(&self, error: &RoomError, n: u32) -> Duration {
        let jitter = 0.75 + self.wires.ports.ids.jitter() / 2.0;
        match error {
            RoomError::Later(after) => (*after).max(Duration::from_millis(100)),
            RoomError::Transient(_) => {
                let base = Duration::from_millis(500u64 << n.min(7));
                base.min(LONGEST).mul_f64(jitter)
            }
            RoomError::Permanent(_) | RoomError::LoginLost(_) => LONGEST.mul_f64(jitter),
        }
    }

    fn put_off(&mut self, wait: Duration) {
        self.forget_due();
        self.due = Some(self.jobs.after(wait, RoomMsg::Due));
    }

    fn forget_due(&mut self) {
        if let Some(job) = self.due.take() {
            self.jobs.drop_job(job);
        }
    }

    /// Output is no event, and times pass without one.
    fn tick(&mut self) {
        if !self.ticking {
            self.ticking = true;
            let pace = self.wires.ports.rooms.pace();
            self.jobs
                .after(BATCH.max(pace.saturating_mul(6)), RoomMsg::Tick);
        }
    }

    /// The stream tells rooms by their ids: the supervisor must know this one.
    fn know(&mut self, room: Option<String>) {
        if let Some(room) = room
            && self.room.as_ref() != Some(&room)
        {
            self.room = Some(room.clone());
            self.wires.rooms.tell(RoomsMsg::Opened {
                task: self.task,
                room,
            });
            // What was said, and who came, before the supervisor knew it.
            self.watch = true;
            self.news.get_or_insert(None);
        }
    }
}
