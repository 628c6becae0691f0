//! The retention actor: removes what ended long ago. First the files of a task, later all that is known of it.
//!
//! In: its own clock, an hour apart. Out: `FilesCleared` to the journal once the files are gone; tasks that the journal
//! and the registry forget. It works on one task at a time, and each step may be cut and repeated: files are removed
//! before the event says so, a task is forgotten after its files. Nothing is decided from memory; what is due stands in
//! the journal. It holds no truth, so its death costs nothing. See `docs/design/retention.md`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::board::{ActorKind, Slot};
use crate::event::Event;
use crate::handle::Inbox;
use crate::id::{BatchId, TaskId, WallTime};
use crate::jobs::{JobEnd, Jobs};
use crate::journal::{JournalMsg, NewBatch};
use crate::outward::marks;
use crate::ports::{EndedFilter, EndedTask, JournalError};
use crate::registry::RegistryMsg;
use crate::wiring::Wires;

/// A start has more urgent things to do.
const FIRST: Duration = Duration::from_secs(60);
/// Between two looks.
const EVERY: Duration = Duration::from_secs(3_600);
/// Tasks in one look at the journal.
const PAGE: u32 = 50;
const READ_DEADLINE: Duration = Duration::from_secs(60);
/// A workdir may be large and its disk slow; what is not done is gone on with an hour later.
const REMOVE_DEADLINE: Duration = Duration::from_secs(600);

pub(crate) enum RetentionMsg {
    /// Time to look.
    Sweep,
    Found(JobEnd<Result<Vec<EndedTask>, JournalError>>),
    FilesRemoved(Box<EndedTask>, JobEnd<Result<(), String>>),
    /// `FilesCleared` is durable.
    Cleared,
    Forgotten(TaskId, JobEnd<Result<(), JournalError>>),
    Tidied(JobEnd<Result<(), JournalError>>),
}

/// What a sweep is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Files,
    Tasks,
}

pub(crate) struct Retention;

pub(crate) struct RetentionArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
}

pub(crate) struct RetentionState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<RetentionMsg>,
    stage: Stage,
    /// Found and not yet worked on.
    due: VecDeque<EndedTask>,
    /// The last one found in this stage.
    after: Option<(WallTime, TaskId)>,
    cleared: u64,
    forgotten: u64,
}

impl Actor for Retention {
    type Msg = RetentionMsg;
    type State = RetentionState;
    type Arguments = RetentionArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RetentionMsg>,
        args: RetentionArgs,
    ) -> Result<RetentionState, ActorProcessingErr> {
        let handle = args.wires.retention.clone();
        handle.fill(myself);
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Retention,
            "retention",
            args.restarts,
            &handle,
        );
        slot.set_phase("ready");
        let mut jobs = Jobs::new(handle.clone());
        jobs.after(FIRST, RetentionMsg::Sweep);
        Ok(RetentionState {
            inbox: handle.inbox(),
            jobs,
            slot,
            stage: Stage::Files,
            due: VecDeque::new(),
            after: None,
            cleared: 0,
            forgotten: 0,
            wires: args.wires,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<RetentionMsg>,
        message: RetentionMsg,
        state: &mut RetentionState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        state.slot.clear_jobs();
        match message {
            RetentionMsg::Sweep => {
                state.slot.set_phase("sweeping");
                (state.cleared, state.forgotten) = (0, 0);
                state.enter(Stage::Files);
            }
            RetentionMsg::Found(end) => state.found(end),
            RetentionMsg::FilesRemoved(task, end) => state.files_removed(*task, end),
            RetentionMsg::Cleared => {
                state.cleared += 1;
                state.next();
            }
            RetentionMsg::Forgotten(task, end) => state.task_forgotten(task, end),
            RetentionMsg::Tidied(end) => state.tidied(end),
        }
        Ok(())
    }
}

impl RetentionState {
    /// What ended before this is due in this stage; `None` = it is kept for ever.
    fn due_before(&self, stage: Stage) -> Option<WallTime> {
        let settings = &self.wires.settings;
        let keep = match stage {
            Stage::Files => settings.keep_files,
            // A key in force is answered with its task, so the task is known as long.
            Stage::Tasks if settings.keep_tasks.is_zero() => Duration::ZERO,
            Stage::Tasks => settings.keep_tasks.max(settings.idempotency_keep),
        };
        (!keep.is_zero()).then(|| before(self.wires.now(), keep))
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.after = None;
        self.look();
    }

    /// Asks the journal for what is due.
    fn look(&mut self) {
        let Some(before) = self.due_before(self.stage) else {
            return self.stage_done();
        };
        let filter = EndedFilter {
            before,
            with_files: self.stage == Stage::Files,
            after: self.after,
            limit: PAGE,
        };
        let store = Arc::clone(&self.wires.ports.journal);
        let id = self.jobs.start(
            READ_DEADLINE,
            async move { store.ended(filter).await },
            |_, end| RetentionMsg::Found(end),
        );
        self.slot.job_started(id.0, "look");
    }

    fn found(&mut self, end: JobEnd<Result<Vec<EndedTask>, JournalError>>) {
        match end.or_else(JournalError::Read) {
            Ok(found) => {
                let last = found.last().map(|task| (task.ended_at, task.view.id));
                self.after = last.or(self.after);
                if found.is_empty() {
                    self.stage_done();
                } else {
                    self.due = found.into();
                    self.next();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "what is due to be removed is not known; looking again in an hour");
                self.sweep_done();
            }
        }
    }

    /// The next task, the next page, or the next stage.
    fn next(&mut self) {
        while let Some(task) = self.due.pop_front() {
            // What an engine may still hold is the reaper's. An engine that is no longer configured holds nothing that
            // could ever be reached; should it come back, its reconciliation removes what nobody knows.
            let engine = &task.view.spec.engine;
            if !task.attempt_removed && self.wires.engine(engine).is_some() {
                continue;
            }
            let kept_nothing = task.view.attempt == 0 || task.view.files_cleared.is_some();
            if self.stage == Stage::Tasks && kept_nothing {
                return self.forget(task.view.id);
            }
            return self.remove_files(task);
        }
        self.look();
    }

    fn remove_files(&mut self, task: EndedTask) {
        let id = task.view.id;
        // An engine may have kept its own files then and not now, or the other way round.
        let places = [
            self.wires.workdirs(&task.view.spec.engine),
            Arc::clone(&self.wires.ports.workdirs),
        ];
        let output = Arc::clone(&self.wires.ports.output);
        let remove = async move {
            for workdirs in places {
                workdirs.remove(id).await.map_err(|e| e.to_string())?;
            }
            output.remove(id).await.map_err(|e| e.to_string())
        };
        let task = Box::new(task);
        let job = self.jobs.start(REMOVE_DEADLINE, remove, move |_, end| {
            RetentionMsg::FilesRemoved(task, end)
        });
        self.slot
            .job_started(job.0, &format!("remove files of {id}"));
    }

    fn files_removed(&mut self, task: EndedTask, end: JobEnd<Result<(), String>>) {
        let id = task.view.id;
        if let Err(error) = end.or_else(|why| why) {
            tracing::warn!(task = %id, error, "the files of an ended task could not be removed; trying again in an hour");
            return self.next();
        }
        match self.stage {
            Stage::Files => self.say_cleared(id),
            Stage::Tasks => self.forget(id),
        }
    }

    fn say_cleared(&self, task: TaskId) {
        let origin = self.wires.retention.clone();
        self.wires.journal.tell(JournalMsg::Append(NewBatch {
            id: BatchId(self.wires.ports.ids.uuid()),
            task: Some(task),
            events: vec![(self.wires.now(), Event::FilesCleared)],
            row: None,
            ack: Some(Box::new(move |_| origin.tell(RetentionMsg::Cleared))),
        }));
    }

    fn forget(&mut self, task: TaskId) {
        // Readers first: what they do not remember they look up.
        self.wires.registry.tell(RegistryMsg::Forget(task));
        let mut cursors = marks(task);
        cursors.push(crate::room::cursor(task));
        let store = Arc::clone(&self.wires.ports.journal);
        let id = self.jobs.start(
            REMOVE_DEADLINE,
            async move { store.forget(task, cursors).await },
            move |_, end| RetentionMsg::Forgotten(task, end),
        );
        self.slot.job_started(id.0, &format!("forget {task}"));
    }

    fn task_forgotten(&mut self, task: TaskId, end: JobEnd<Result<(), JournalError>>) {
        match end.or_else(JournalError::Write) {
            Ok(()) => {
                self.forgotten += 1;
                self.wires.metrics.task_forgotten();
            }
            Err(error) => {
                tracing::warn!(%task, %error, "an old task could not be deleted; trying again in an hour");
            }
        }
        self.next();
    }

    fn stage_done(&mut self) {
        match self.stage {
            Stage::Files => self.enter(Stage::Tasks),
            Stage::Tasks => self.tidy(),
        }
    }

    fn tidy(&mut self) {
        let events_before = self.due_before(Stage::Tasks).unwrap_or(WallTime(i64::MIN));
        let keys_before = before(self.wires.now(), self.wires.settings.idempotency_keep);
        let store = Arc::clone(&self.wires.ports.journal);
        let id = self.jobs.start(
            REMOVE_DEADLINE,
            async move { store.tidy(events_before, keys_before).await },
            |_, end| RetentionMsg::Tidied(end),
        );
        self.slot.job_started(id.0, "tidy");
    }

    fn tidied(&mut self, end: JobEnd<Result<(), JournalError>>) {
        if let Err(error) = end.or_else(JournalError::Write) {
            tracing::warn!(%error, "old records could not be deleted; trying again in an hour");
        }
        self.sweep_done();
    }

    fn sweep_done(&mut self) {
        let (cleared, forgotten) = (self.cleared, self.forgotten);
        if cleared + forgotten > 0 {
            tracing::info!(
                cleared,
                forgotten,
                "old tasks were cleared up: files removed, records deleted"
            );
        }
        self.slot.set_phase("ready");
        self.jobs.after(EVERY, RetentionMsg::Sweep);
    }
}

/// `keep` before `now`.
fn before(now: WallTime, keep: Duration) -> WallTime {
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    WallTime(now.0.saturating_sub(keep))
}
