//! The task supervisor: one task actor per live task.
//!
//! In: tasks to run, slots, commands, engines that came up, ends of its children. Out: messages to the task actors.
//! A task actor that dies is started again on its record; one that dies too often has its task failed, nothing more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use crate::admission::AdmissionMsg;
use crate::board::{ActorKind, Slot};
use crate::error::TreeError;
use crate::event::{CommittedEvent, Event, Phase};
use crate::handle::{Handle, Inbox};
use crate::id::{AttemptId, BatchId, EngineName, TaskId, WorkerId};
use crate::jobs::{JobEnd, Jobs};
use crate::journal::{JournalMsg, NewBatch};
use crate::machine::{Input, TaskState};
use crate::ports::JournalError;
use crate::reaper::{ReaperMsg, Removal};
use crate::supervision::{ChildEnd, Deaths, Decision, RestartPolicy, child_end};
use crate::task::{Task, TaskArgs, TaskCommand, TaskMsg};
use crate::view::TaskView;
use crate::wiring::Wires;

const LOAD_DEADLINE: Duration = Duration::from_secs(30);
/// A task with this many messages waiting gets no more from outside.
const TASK_GATE: u64 = 1_000;

/// What is done with a task whose actor died, once its record is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// It goes on.
    Again,
    /// A new actor fails it in the ordinary way.
    GiveUp(String),
    /// That died too, or there is no record to fold: its row alone is rewritten.
    Quarantine(String),
}

/// All its events, or why they cannot be read; and its row.
type Record = (Result<Vec<CommittedEvent>, String>, Option<TaskView>);

pub(crate) enum TasksMsg {
    /// A new or loaded task needs an actor.
    Spawn(Box<TaskState>),
    /// Admission gave it a slot.
    Dispatch {
        task: TaskId,
        holds: u32,
    },
    Command(TaskId, TaskCommand),
    EngineUp {
        engine: EngineName,
        worker: WorkerId,
    },
    /// The engine's stream broke; until `EngineUp` only readings tell of its tasks.
    StreamLost {
        engine: EngineName,
    },
    /// A dead actor's task was read again.
    Reloaded {
        task: TaskId,
        how: Reload,
        record: Box<JobEnd<Result<Record, JournalError>>>,
    },
    /// Its back-off is over.
    Reload {
        task: TaskId,
        how: Reload,
    },
}

pub(crate) struct Tasks;

pub(crate) struct TasksArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) tasks: Vec<TaskState>,
    /// Tasks whose record cannot be read, and why.
    pub(crate) unreadable: Vec<(TaskId, String)>,
}

struct Child {
    handle: Handle<TaskMsg>,
    engine: Option<EngineName>,
    actor: Option<ActorId>,
    deaths: Deaths,
    gave_up: bool,
}

pub(crate) struct TasksState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<TasksMsg>,
    children: HashMap<TaskId, Child>,
    actors: HashMap<ActorId, TaskId>,
    engines: HashMap<EngineName, WorkerId>,
    /// Engines whose stream is broken.
    deaf: HashSet<EngineName>,
    first: Vec<TaskState>,
    unreadable: Vec<(TaskId, String)>,
}

impl Actor for Tasks {
    type Msg = TasksMsg;
    type State = TasksState;
    type Arguments = TasksArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<TasksMsg>,
        args: TasksArgs,
    ) -> Result<TasksState, ActorProcessingErr> {
        let handle = args.wires.tasks.clone();
        handle.fill(myself);
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Tasks,
            "tasks",
            args.restarts,
            &handle,
        );
        Ok(TasksState {
            inbox: handle.inbox(),
            jobs: Jobs::new(handle),
            slot,
            children: HashMap::new(),
            actors: HashMap::new(),
            engines: HashMap::new(),
            deaf: HashSet::new(),
            first: args.tasks,
            unreadable: args.unreadable,
            wires: args.wires,
        })
    }

    async fn post_start(
        &self,
        myself: ActorRef<TasksMsg>,
        state: &mut TasksState,
    ) -> Result<(), ActorProcessingErr> {
        for task in std::mem::take(&mut state.first) {
            state.spawn(&myself, Box::new(task), None).await;
        }
        for (task, why) in std::mem::take(&mut state.unreadable) {
            state.load(
                task,
                Reload::Quarantine(format!("its record cannot be read ({why})")),
            );
        }
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<TasksMsg>,
        message: TasksMsg,
        state: &mut TasksState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            TasksMsg::Spawn(task) => state.spawn(&myself, task, None).await,
            TasksMsg::Dispatch { task, holds } => state.input(task, Input::Dispatched { holds }),
            TasksMsg::Command(task, command) => state.command(task, command),
            TasksMsg::EngineUp { engine, worker } => state.engine_up(&engine, worker),
            TasksMsg::StreamLost { engine } => {
                state.of_engine(&engine, &Input::StreamLost);
                state.deaf.insert(engine);
            }
            TasksMsg::Reload { task, how } => state.load(task, how),
            TasksMsg::Reloaded { task, how, record } => {
                state.reloaded(&myself, task, how, *record).await;
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<TasksMsg>,
        event: SupervisionEvent,
        state: &mut TasksState,
    ) -> Result<(), ActorProcessingErr> {
        match child_end(event) {
            Some((actor, ChildEnd::Died(reason))) => state.died(actor, &reason),
            Some((actor, ChildEnd::Stopped(_))) => state.ended(actor),
            None => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<TasksMsg>,
        state: &mut TasksState,
    ) -> Result<(), ActorProcessingErr> {
        myself
            .stop_children_and_wait(None, Some(state.wires.settings.stop_timeout))
            .await;
        Ok(())
    }
}

impl TasksState {
    async fn spawn(
        &mut self,
        myself: &ActorRef<TasksMsg>,
        task: Box<TaskState>,
        give_up: Option<String>,
    ) {
        let id = task.id;
        let engine = task.spec.engine.clone();
        let queued = task.phase == Phase::Queued;
        let child = self.children.entry(id).or_insert_with(|| Child {
            handle: Handle::empty(),
            engine: None,
            actor: None,
            deaths: Deaths::default(),
            gave_up: false,
        });
        child.engine = Some(engine.clone());
        let handle = child.handle.clone();
        let restarts = child.deaths.record();
        let restarted = restarts.0 > 0;
        let args = TaskArgs {
            wires: Arc::clone(&self.wires),
            parent: self.slot.id(),
            restarts,
            handle: handle.clone(),
            state: task,
            give_up,
        };
        match Actor::spawn_linked(None, Task, args, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.actors.insert(actor.get_id(), id);
                if let Some(child) = self.children.get_mut(&id) {
                    child.actor = Some(actor.get_id());
                }
                if let Some(worker) = self.engines.get(&engine).cloned() {
                    handle.tell(TaskMsg::Input(Box::new(Input::EngineUp { worker })));
                }
                if self.deaf.contains(&engine) {
                    handle.tell(TaskMsg::Input(Box::new(Input::StreamLost)));
                }
                if restarted && queued {
                    self.wires.admission.tell(AdmissionMsg::TaskRestarted(id));
                }
            }
            Err(error) => self.decide_death(id, &error.to_string()),
        }
    }

    fn input(&self, task: TaskId, input: Input) {
        if let Some(child) = self.children.get(&task) {
            child.handle.tell(TaskMsg::Input(Box::new(input)));
        }
    }

    fn command(&self, task: TaskId, command: TaskCommand) {
        let Some(child) = self.children.get(&task) else {
            refuse(command, TreeError::TaskNotFound(task));
            return;
        };
        if child.handle.actor().is_none() || child.handle.waiting() >= TASK_GATE {
            refuse(command, TreeError::Closed("restarting this task"));
            return;
        }
        // A send that fails drops the reply; the asker is told that nothing is known.
        child.handle.tell(TaskMsg::Command(command));
    }

    fn engine_up(&mut self, engine: &EngineName, worker: WorkerId) {
        self.engines.insert(engine.clone(), worker.clone());
        self.deaf.remove(engine);
        self.of_engine(engine, &Input::EngineUp { worker });
    }

    /// Tells all tasks of the engine.
    fn of_engine(&self, engine: &EngineName, input: &Input) {
        for child in self
            .children
            .values()
            .filter(|child| child.engine.as_ref() == Some(engine))
        {
            child.handle.tell(TaskMsg::Input(Box::new(input.clone())));
        }
    }

    fn ended(&mut self, actor: ActorId) {
        if let Some(task) = self.actors.remove(&actor) {
            self.children.remove(&task);
        }
    }

    fn died(&mut self, actor: ActorId, reason: &str) {
        let Some(task) = self.actors.remove(&actor) else {
            return;
        };
        if let Some(child) = self.children.get_mut(&task) {
            child.handle.clear();
            child.actor = None;
        }
        self.decide_death(task, reason);
    }

    fn decide_death(&mut self, task: TaskId, reason: &str) {
        let now = self.wires.now();
        let jitter = self.wires.ports.ids.jitter();
        let Some(child) = self.children.get_mut(&task) else {
            return;
        };
        match child
            .deaths
            .decide(&RestartPolicy::TASK, now, reason, jitter)
        {
            Decision::Restart { restarts, after } => {
                tracing::warn!(%task, reason, restarts, "task actor died; it is started again");
                self.jobs.after(
                    after,
                    TasksMsg::Reload {
                        task,
                        how: Reload::Again,
                    },
                );
            }
            Decision::GiveUp { restarts } => {
                tracing::error!(%task, reason, restarts, "task actor died too often; its task fails");
                let why = format!(
                    "its actor failed {} times, the last time with: {reason}",
                    restarts + 1
                );
                let how = if child.gave_up {
                    Reload::Quarantine(why)
                } else {
                    Reload::GiveUp(why)
                };
                child.gave_up = true;
                self.load(task, how);
            }
        }
    }

    /// Reads the task's record again.
    fn load(&mut self, task: TaskId, how: Reload) {
        let journal = Arc::clone(&self.wires.ports.journal);
        // What the dead actor gave to the journal must be in the record that its successor folds.
        let (reply, flushed) = oneshot::channel();
        self.wires.journal.tell(JournalMsg::Flush(reply));
        let read = async move {
            flushed.await.map_err(|_| {
                JournalError::Read("the journal ended before the record was complete".to_owned())
            })?;
            let row = journal.task(task).await?;
            // Not by pages for readers: a state folded from a part of the record, or around an event that cannot be read, is wrong.
            Ok((journal.record(task).await?, row))
        };
        let reloaded = move |_, record| TasksMsg::Reloaded {
            task,
            how,
            record: Box::new(record),
        };
        self.jobs.start(LOAD_DEADLINE, read, reloaded);
    }

    async fn reloaded(
        &mut self,
        myself: &ActorRef<TasksMsg>,
        task: TaskId,
        how: Reload,
        record: JobEnd<Result<Record, JournalError>>,
    ) {
        let (events, row) = match record.or_else(JournalError::Read) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(%task, %error, "the task's record could not be read; trying again");
                self.jobs
                    .after(Duration::from_secs(2), TasksMsg::Reload { task, how });
                return;
            }
        };
        let give_up = match how {
            Reload::Again => None,
            Reload::GiveUp(why) => Some(why),
            Reload::Quarantine(why) => return self.quarantine(task, row, &why),
        };
        let events = match events {
            Ok(events) => events,
            // An unreadable record still has its row, which is enough to end the task.
            Err(why) => {
                let why = format!("its record cannot be read ({why})");
                return self.quarantine(task, row, &why);
            }
        };
        match std::panic::catch_unwind(|| TaskState::replay(task, &events)) {
            Ok(Some(state)) => self.spawn(myself, Box::new(state), give_up).await,
            Ok(None) | Err(_) => self.quarantine(task, row, "its record cannot be folded"),
        }
    }

    /// Ends a task without folding its record: its row alone is rewritten.
    fn quarantine(&mut self, task: TaskId, row: Option<TaskView>, why: &str) {
        self.children.remove(&task);
        let Some(mut row) = row else {
            return;
        };
        let removal = removal_by_row(&row);
        let reaper = self.wires.reaper.clone();
        if row.phase.is_final() {
            // Its end is told; what its attempt may have left is not yet known to be gone.
            if let Some(removal) = removal {
                reaper.tell(ReaperMsg::Remove(removal));
            }
            return;
        }
        let now = self.wires.now();
        let failure = TaskState::quarantine(why);
        row.phase = Phase::Failed;
        row.phase_since = now;
        row.ended_at = Some(now);
        row.failure = Some(failure.clone());
        row.doing = "was given up on".to_owned();
        row.events_total += 1;
        let running_ms = row.running_ms;
        let event = Event::TaskFailed {
            failure,
            result: None,
            running_ms,
        };
        self.wires.journal.tell(JournalMsg::Append(NewBatch {
            id: BatchId(self.wires.ports.ids.uuid()),
            task: Some(task),
            events: vec![(now, event)],
            row: Some(Box::new(row)),
            ack: Some(Box::new(move |_| {
                if let Some(removal) = removal {
                    reaper.tell(ReaperMsg::Remove(removal));
                }
            })),
        }));
    }
}

/// What the attempt that a row names may have left.
fn removal_by_row(row: &TaskView) -> Option<Removal> {
    (row.attempt > 0).then(|| Removal {
        engine: row.spec.engine.clone(),
        attempt: AttemptId {
            task: row.id,
            number: row.attempt,
        },
        // The row has no whole session; the engine finds it by its owner.
        session: None,
        directory: row.directory.clone(),
        owned_by_task: true,
    })
}

fn refuse(command: TaskCommand, error: TreeError) {
    match command {
        TaskCommand::Message(_, _, reply) => {
            let _ = reply.send(Err(error));
        }
        TaskCommand::Control(_, _, reply) => {
            let _ = reply.send(Err(error));
        }
        TaskCommand::Answer(_, _, reply) | TaskCommand::Attendance(_, reply) => {
            let _ = reply.send(Err(error));
        }
    }
}
