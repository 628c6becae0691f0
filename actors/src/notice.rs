//! The notices of one task: the only one that sends them.
//!
//! In: "there is something new", results of its one job. Out: calls of the notices port, one at a time, in the order of the
//! events. The intent is durable before anything is sent; what may have arrived is looked for before it is sent again. It
//! ends when the task is final and its agent was told, or cannot be.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::board::Slot;
use crate::command::Notify;
use crate::crash::CrashPoint;
use crate::event::Event;
use crate::handle::Inbox;
use crate::id::{EventNumber, TaskId};
use crate::jobs::{JobEnd, Jobs};
use crate::outward::Projection;
use crate::outward_child::ChildArgs;
use crate::patience::Patience;
use crate::ports::{JournalError, Notice, NoticeAbout, PlannerError};
use crate::view::TaskView;
use crate::wiring::Wires;

const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Events read at once.
const PAGE: u64 = 200;
/// More events than a task can have after its end.
const AFTER_END: u64 = 64;
const BASE: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_secs(60);
/// Something is in the way for a moment, such as the agent's turn: tried again soon.
const CONFLICT_CAP: Duration = Duration::from_secs(2);

/// The mark of a notice that may have been sent.
pub(crate) fn intent(task: TaskId) -> String {
    format!("{}-intent:{task}", Projection::Notices.label())
}

/// What a call reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// There will be nothing more to tell: it has ended, or nobody wants to know.
    End,
    /// Everything so far.
    All,
}

pub(crate) enum NoticeMsg {
    /// The task has ended or its worker asks, up to this event.
    New {
        newest: EventNumber,
        is_final: bool,
    },
    /// A wait is over.
    Due,
    Called(JobEnd<Result<Told, PlannerError>>),
}

pub(crate) struct TaskNotices;

pub(crate) struct NoticeState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<NoticeMsg>,
    task: TaskId,
    newest: EventNumber,
    done: Option<EventNumber>,
    calling: EventNumber,
    is_final: bool,
    over: bool,
    busy: bool,
    waiting: bool,
    patience: Patience,
}

impl Actor for TaskNotices {
    type Msg = NoticeMsg;
    type State = NoticeState;
    type Arguments = ChildArgs<NoticeMsg>;

    async fn pre_start(
        &self,
        myself: ActorRef<NoticeMsg>,
        args: ChildArgs<NoticeMsg>,
    ) -> Result<NoticeState, ActorProcessingErr> {
        let slot = args.begin(myself, Projection::Notices);
        let mut state = NoticeState {
            slot,
            inbox: args.handle.inbox(),
            jobs: Jobs::new(args.handle),
            task: args.task,
            newest: args.newest,
            done: None,
            calling: EventNumber::ZERO,
            is_final: args.is_final,
            over: false,
            busy: false,
            waiting: false,
            patience: Patience::default(),
            wires: args.wires,
        };
        state.work();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<NoticeMsg>,
        message: NoticeMsg,
        state: &mut NoticeState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            NoticeMsg::New { newest, is_final } => {
                state.newest = state.newest.max(newest);
                if is_final && !state.is_final {
                    state.is_final = true;
                    state.waiting = false;
                    state.patience = Patience::default();
                }
            }
            NoticeMsg::Due => state.waiting = false,
            NoticeMsg::Called(end) => state.called(end),
        }
        state.work();
        if state.is_final && !state.busy && (state.over || state.is_done()) {
            myself.stop(Some("everything was told".to_owned()));
        }
        Ok(())
    }
}

impl NoticeState {
    fn is_done(&self) -> bool {
        self.done.is_some_and(|done| done >= self.newest)
    }

    fn work(&mut self) {
        if self.busy || self.waiting || self.over || self.is_done() {
            return;
        }
        self.busy = true;
        self.calling = self.newest;
        let call = tell(Arc::clone(&self.wires), self.task);
        let id = self
            .jobs
            .start(CALL_DEADLINE, call, |_, end| NoticeMsg::Called(end));
        self.slot.job_started(id.0, "tell");
        self.slot.set_phase("telling");
    }

    fn called(&mut self, end: JobEnd<Result<Told, PlannerError>>) {
        self.slot.clear_jobs();
        self.busy = false;
        match end.or_else(PlannerError::Unavailable) {
            Ok(told) => {
                self.over = told == Told::End;
                self.done = Some(self.calling);
                self.slot.set_last_event(self.calling);
                self.patience = Patience::default();
                self.slot.set_phase("ready");
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &PlannerError) {
        self.patience.failed();
        let gone = matches!(error, PlannerError::Gone(_));
        // The next start tries again within a day of the end.
        let over = gone || self.patience.is_over();
        self.wires
            .metrics
            .outward_failed(Projection::Notices.label(), !over);
        if !gone && !matches!(error, PlannerError::Conflict(_)) {
            let now = self.wires.now();
            self.wires.parts.fails("notices", error.to_string(), now);
        }
        if over {
            tracing::warn!(task = %self.task, %error, "the agent is not told of its task");
            self.slot.set_phase("gave up");
            self.over = gone;
            self.done = Some(self.calling);
            return;
        }
        if self.patience.failures() == 1 {
            tracing::info!(task = %self.task, %error, "a notice could not be sent; trying again");
        }
        self.slot.set_phase("backing off");
        self.waiting = true;
        let jitter = 0.5 + self.wires.ports.ids.jitter();
        let cap = match error {
            PlannerError::Conflict(_) => CONFLICT_CAP,
            PlannerError::Unavailable(_) | PlannerError::Refused(_) | PlannerError::Gone(_) => CAP,
        };
        let wait = self.patience.wait(BASE, cap).mul_f64(jitter);
        self.jobs.after(wait, NoticeMsg::Due);
    }
}

/// Tells everything that there is to tell, one notice after the other.
async fn tell(wires: Wires, task: TaskId) -> Result<Told, PlannerError> {
    let store = &wires.ports.journal;
    let Some(view) = store.task(task).await.map_err(journal)? else {
        return Ok(Told::End);
    };
    let all = if view.phase.is_final() {
        Told::End
    } else {
        Told::All
    };
    if view.spec.notify.is_never() || !wires.ports.notices.reaches(&view) {
        return Ok(Told::End);
    }
    let done = store.cursor(Projection::Notices.cursor(task));
    let done = done.await.map_err(journal)?;
    for notice in due(&wires, &view, done).await? {
        send(&wires, notice).await?;
    }
    wires.parts.works("notices", wires.now());
    Ok(all)
}

/// What the agent is to be told of and was not, oldest first.
async fn due(
    wires: &Wires,
    view: &TaskView,
    done: EventNumber,
) -> Result<Vec<Notice>, PlannerError> {
    let mut due = Vec::new();
    if view.phase.is_final() {
        // Questions of a task that has ended need no answer any more. The end is named by its own event: what arrives after it
        // moves the task's last event on, and must not make a second notice.
        let newest = wires.ports.journal.newest_events(view.id, AFTER_END);
        let newest = newest.await.map_err(journal)?;
        let end = newest.iter().find(|committed| committed.event.is_final());
        let event = end.map_or(view.last_event, |committed| committed.number);
        if done < event {
            due.push(Notice {
                view: view.clone(),
                about: NoticeAbout::End,
                event,
            });
        }
        return Ok(due);
    }
    if view.spec.notify != Notify::Questions || view.requests.is_empty() {
        return Ok(due);
    }
    let mut after = done;
    loop {
        let events = wires.ports.journal.events(view.id, after, 0, PAGE);
        let events = events.await.map_err(journal)?;
        let Some(last) = events.last() else {
            return Ok(due);
        };
        after = last.number;
        for committed in &events {
            let Event::RequestOpened { request, .. } = &committed.event else {
                continue;
            };
            let open = view
                .requests
                .iter()
                .find(|open| open.request.id == request.id && open.answered_by.is_none());
            if let Some(open) = open {
                due.push(Notice {
                    view: view.clone(),
                    about: NoticeAbout::Request(Box::new(open.clone())),
                    event: committed.number,
                });
            }
        }
    }
}

async fn send(wires: &Wires, notice: Notice) -> Result<(), PlannerError> {
    let store = &wires.ports.journal;
    let (task, event) = (notice.view.id, notice.event);
    let in_doubt = store.cursor(intent(task)).await.map_err(journal)? >= event;
    if !in_doubt {
        let wanted = store.set_cursor(intent(task), event);
        wanted.await.map_err(journal)?;
    }
    CrashPoint::BeforeNotice.pass();
    let delivered = wires.ports.notices.notify(notice, in_doubt).await?;
    CrashPoint::AfterNotice.pass();
    tracing::info!(%task, %event, ?delivered, "the agent was told");
    let done = store.set_cursor(Projection::Notices.cursor(task), event);
    done.await.map_err(journal)
}

fn journal(error: JournalError) -> PlannerError {
    PlannerError::Unavailable(error.to_string())
}
