//! The only way into the tree: commands and reads, each sent to one actor and answered within a bound.
//!
//! In: plain commands and queries, with who asks. Out: plain answers, or a [`TreeError`] that says what it means.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::admission::AdmissionMsg;
use crate::board::BoardSnapshot;
use crate::command::{
    AnswerRequest, Attendance, Author, Caller, Control, ControlSignal, FilesQuery, HistoryQuery,
    Identity, ListQuery, ReadFileQuery, SendMessage, StatusQuery, Submit, TextQuery,
};
use crate::error::TreeError;
use crate::handle::Handle;
use crate::id::{EngineName, TaskId};
use crate::metrics::{self, TreeMetrics};
use crate::ports::{FileContent, FileList, TextChunk};
use crate::registry::RegistryMsg;
use crate::room::{self, RoomAnswer, RoomQuestion};
use crate::rooms::RoomsMsg;
use crate::task::TaskCommand;
use crate::task_supervisor::TasksMsg;
use crate::view::{
    ControlOutcome, HealthReport, HistoryPage, ListPage, MessageReceipt, Submitted, TaskStatus,
    TaskView,
};
use crate::wiring::Wires;

/// A command is answered within this time or called slow.
const COMMAND_DEADLINE: Duration = Duration::from_secs(40);
/// A read that does not wait is answered within this time.
const READ_DEADLINE: Duration = Duration::from_secs(25);
/// How much later than asked the answer of a wait may come.
const WAIT_SLACK: Duration = Duration::from_secs(2);
/// The longest wait of any call.
const LONGEST_WAIT_MS: u64 = 45_000;
/// Senders outside are turned away when this many messages wait.
const EDGE_GATE: u64 = 10_000;

/// The only way into the tree. Cheap to clone; every call has a deadline, and none waits longer than 45 s for a task.
#[derive(Clone)]
pub struct TreeHandle {
    pub(crate) wires: Wires,
}

impl std::fmt::Debug for TreeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeHandle").finish_non_exhaustive()
    }
}

impl TreeHandle {
    /// Asks for a task. `Ok` = durable.
    ///
    /// # Errors
    /// The queue is full, the key was used otherwise, no such engine, the tree is not there.
    pub async fn submit(&self, submit: Submit) -> Result<Submitted, TreeError> {
        within(COMMAND_DEADLINE, self.send_submit(submit)).await
    }

    async fn send_submit(&self, submit: Submit) -> Result<Submitted, TreeError> {
        let who = Identity::inside("admission");
        let submit = Box::new(submit);
        let make = |reply| AdmissionMsg::Submit { submit, reply };
        let submitted = ask(&self.wires.admission, COMMAND_DEADLINE, make).await?;
        self.as_it_stands(submitted, &who).await
    }

    /// The task that this key made before, if the same was asked for then. Comes before everything that a configuration may
    /// have changed meanwhile: a repeated call is answered with its task as long as the key is in force.
    ///
    /// # Errors
    /// The key was used with other arguments, the tree is not there.
    pub async fn known(
        &self,
        caller: Caller,
        key: String,
        asked: String,
    ) -> Result<Option<Submitted>, TreeError> {
        let look = async {
            let make = |reply| AdmissionMsg::Known {
                key: (caller, key),
                asked,
                reply,
            };
            match ask(&self.wires.admission, COMMAND_DEADLINE, make).await? {
                Some(submitted) => {
                    let who = Identity::inside("admission");
                    self.as_it_stands(submitted, &who).await.map(Some)
                }
                None => Ok(None),
            }
        };
        within(COMMAND_DEADLINE, look).await
    }

    /// With the phase that an earlier task has now.
    async fn as_it_stands(
        &self,
        mut submitted: Submitted,
        who: &Identity,
    ) -> Result<Submitted, TreeError> {
        if submitted.existing {
            let query = StatusQuery {
                task: submitted.task,
                since: None,
                events_limit: 0,
                wait_for: crate::command::WaitFor::Nothing,
                wait_ms: 0,
            };
            let status = self.status(who, query).await?;
            submitted.phase = status.view.phase;
            submitted.queue_position = status.queue_position;
        }
        Ok(submitted)
    }

    /// Reads one task, waiting if asked.
    ///
    /// # Errors
    /// Not found, or not visible to `who`.
    pub async fn status(
        &self,
        who: &Identity,
        mut query: StatusQuery,
    ) -> Result<TaskStatus, TreeError> {
        query.wait_ms = query.wait_ms.min(LONGEST_WAIT_MS);
        let deadline = READ_DEADLINE.max(Duration::from_millis(query.wait_ms) + WAIT_SLACK);
        let make = |reply| RegistryMsg::Status {
            who: who.clone(),
            query,
            reply,
        };
        ask(&self.wires.registry, deadline, make).await
    }

    /// Reads a page of a task's events.
    ///
    /// # Errors
    /// Not found, or not visible to `who`.
    pub async fn history(
        &self,
        who: &Identity,
        query: HistoryQuery,
    ) -> Result<HistoryPage, TreeError> {
        let make = |reply| RegistryMsg::History {
            who: who.clone(),
            query,
            reply,
        };
        ask(&self.wires.registry, READ_DEADLINE, make).await
    }

    /// Lists tasks.
    ///
    /// # Errors
    /// A cursor that is not ours.
    pub async fn list(&self, who: &Identity, query: ListQuery) -> Result<ListPage, TreeError> {
        let make = |reply| RegistryMsg::List {
            who: who.clone(),
            query,
            reply,
        };
        ask(&self.wires.registry, READ_DEADLINE, make).await
    }

    /// Sends a message to the worker. `Ok` = durable.
    ///
    /// # Errors
    /// Not found, or too late.
    pub async fn message(
        &self,
        who: &Identity,
        message: SendMessage,
    ) -> Result<MessageReceipt, TreeError> {
        let task = message.task;
        let why = "it has ended; nothing reaches the worker any more. Submit a new task for what is missing";
        self.command(who, task, why, |by, reply| {
            TaskCommand::Message(message, by, reply)
        })
        .await
    }

    /// Cancels, pauses, resumes. `Ok` = took effect.
    ///
    /// # Errors
    /// Not found, or refused in this phase.
    pub async fn control(
        &self,
        who: &Identity,
        control: Control,
    ) -> Result<ControlOutcome, TreeError> {
        let task = control.task;
        let signal = control.signal;
        let why = match signal {
            ControlSignal::Cancel => "it has ended; there is nothing left to cancel",
            ControlSignal::Pause => "it has ended and cannot be paused",
            ControlSignal::Resume => {
                "it has ended and cannot be resumed; submit a new task to go on"
            }
        };
        let make = |by, reply| TaskCommand::Control(control, by, reply);
        match self.command(who, task, why, make).await {
            Err(TreeError::WrongPhase {
                phase: crate::event::Phase::Cancelled,
                ..
            }) if signal == ControlSignal::Cancel => {
                let phase = crate::event::Phase::Cancelled;
                Ok(ControlOutcome {
                    phase,
                    pause: None,
                    already: true,
                })
            }
            other => other,
        }
    }

    /// Answers a request of the worker. `Ok` = durable and on its way.
    ///
    /// # Errors
    /// Not found, not open, or an answer that does not fit.
    pub async fn answer(&self, who: &Identity, answer: AnswerRequest) -> Result<(), TreeError> {
        let task = answer.task;
        let why = "it has ended; its requests are closed";
        self.command(who, task, why, |by, reply| {
            TaskCommand::Answer(answer, by, reply)
        })
        .await
    }

    /// Says who watches a task where it can be steered. `Ok` = durable.
    ///
    /// # Errors
    /// Not found, or it has ended.
    pub async fn attendance(
        &self,
        who: &Identity,
        attendance: Attendance,
    ) -> Result<(), TreeError> {
        let task = attendance.task;
        let why = "it has ended; it asks nothing any more";
        self.command(who, task, why, |_, reply| {
            TaskCommand::Attendance(attendance, reply)
        })
        .await
    }

    /// Sends a command to a live task; `ended` is said when there is none because the task is final.
    async fn command<T: Send + 'static>(
        &self,
        who: &Identity,
        task: TaskId,
        ended: &str,
        make: impl FnOnce(Author, oneshot::Sender<Result<T, TreeError>>) -> TaskCommand,
    ) -> Result<T, TreeError> {
        within(COMMAND_DEADLINE, self.send_command(who, task, ended, make)).await
    }

    async fn send_command<T: Send + 'static>(
        &self,
        who: &Identity,
        task: TaskId,
        ended: &str,
        make: impl FnOnce(Author, oneshot::Sender<Result<T, TreeError>>) -> TaskCommand,
    ) -> Result<T, TreeError> {
        let query = StatusQuery {
            task,
            since: None,
            events_limit: 0,
            wait_for: crate::command::WaitFor::Nothing,
            wait_ms: 0,
        };
        // The registry says whether it may be seen at all; what is final there is final for good.
        let phase = self.status(who, query.clone()).await?.view.phase;
        let ended = |phase| TreeError::WrongPhase {
            task,
            phase,
            why: ended.to_owned(),
        };
        if phase.is_final() {
            return Err(ended(phase));
        }
        let by = who.author();
        let sent = ask(&self.wires.tasks, COMMAND_DEADLINE, |reply| {
            TasksMsg::Command(task, make(by, reply))
        })
        .await;
        match sent {
            // It ended between the reading and the command.
            Err(TreeError::TaskNotFound(_) | TreeError::Internal(_)) => {
                match self.status(who, query).await?.view.phase {
                    phase if phase.is_final() => Err(ended(phase)),
                    _ => Err(TreeError::Closed("restarting this task")),
                }
            }
            other => other,
        }
    }

    /// Lists the files of a task's workdir.
    ///
    /// # Errors
    /// Not found, no workdir, or the disk failed.
    pub async fn files(&self, who: &Identity, query: FilesQuery) -> Result<FileList, TreeError> {
        let make = |reply| RegistryMsg::Files {
            who: who.clone(),
            query,
            reply,
        };
        ask(&self.wires.registry, READ_DEADLINE, make).await
    }

    /// Reads a file of a task's workdir.
    ///
    /// # Errors
    /// Not found, refused, or the disk failed.
    pub async fn read_file(
        &self,
        who: &Identity,
        query: ReadFileQuery,
    ) -> Result<FileContent, TreeError> {
        let make = |reply| RegistryMsg::ReadFile {
            who: who.clone(),
            query,
            reply,
        };
        ask(&self.wires.registry, READ_DEADLINE, make).await
    }

    /// Reads a piece of the worker's output or of the patch.
    ///
    /// # Errors
    /// Not found, or the disk failed.
    pub async fn text(&self, who: &Identity, query: TextQuery) -> Result<TextChunk, TreeError> {
        let make = |reply| RegistryMsg::Text {
            who: who.clone(),
            query,
            reply,
        };
        ask(&self.wires.registry, READ_DEADLINE, make).await
    }

    /// Asks about a task's room: who watches, whom to add or remove, the conversation as a file.
    ///
    /// # Errors
    /// Not found, no rooms, a task that has not ended where an archive is asked for, or the homeserver did not do it.
    pub async fn room(
        &self,
        who: &Identity,
        task: TaskId,
        question: RoomQuestion,
    ) -> Result<RoomAnswer, TreeError> {
        let view = self.view_of(who, task).await?;
        if !self.wires.ports.rooms.enabled() {
            return Err(TreeError::Room(
                "Task coordination is not enabled for this deployment: no homeserver is configured ([matrix]). Nothing \
                 was done"
                    .to_owned(),
            ));
        }
        let ends = matches!(question, RoomQuestion::Archive { .. });
        if ends && !view.phase.is_final() {
            return Err(TreeError::WrongPhase {
                task,
                phase: view.phase,
                why: "its conversation goes on; archive it when it has ended".to_owned(),
            });
        }
        let view = Box::new(view);
        ask(&self.wires.rooms, COMMAND_DEADLINE, |reply| RoomsMsg::Ask {
            view,
            question,
            reply,
        })
        .await
    }

    /// The archived conversation of a task's room, as JSON and for people; none when it was never archived.
    ///
    /// # Errors
    /// Not found, or the record cannot be read.
    pub async fn conversation(
        &self,
        who: &Identity,
        task: TaskId,
    ) -> Result<Option<(String, String)>, TreeError> {
        self.view_of(who, task).await?;
        if !self.wires.ports.rooms.enabled() {
            return Ok(None);
        }
        let memory = self.wires.ports.rooms.memory();
        let kept = within(READ_DEADLINE, async {
            let kept = memory.archive(task).await;
            kept.map_err(|error| TreeError::Room(error.to_string()))
        });
        Ok(kept.await?.map(|json| {
            let text = room::as_text(&json);
            (json, text)
        }))
    }

    async fn view_of(&self, who: &Identity, task: TaskId) -> Result<TaskView, TreeError> {
        let query = StatusQuery {
            task,
            since: None,
            events_limit: 0,
            wait_for: crate::command::WaitFor::Nothing,
            wait_ms: 0,
        };
        Ok(self.status(who, query).await?.view)
    }

    /// Health of every part, checked now.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn health(&self) -> Result<HealthReport, TreeError> {
        ask(&self.wires.registry, READ_DEADLINE, |reply| {
            RegistryMsg::Health { reply }
        })
        .await
    }

    /// How many slots are held and how many tasks wait, as admission said last. Sends no message.
    pub fn load(&self) -> (u32, u32) {
        let queue = self.wires.queue.borrow();
        (queue.active, queue.queued)
    }

    /// Every live actor. Sends no message.
    pub fn board(&self) -> BoardSnapshot {
        self.wires.board.snapshot()
    }

    /// Everything that can be told in numbers. Sends no message.
    pub fn metrics(&self) -> TreeMetrics {
        metrics::collect(&self.wires)
    }

    /// Tasks that have started and not ended, however many pages they fill.
    async fn started(&self) -> Result<Vec<TaskView>, TreeError> {
        let who = Identity::inside("shutdown");
        let mut query = ListQuery {
            states: vec!["running".to_owned(), "paused".to_owned()],
            limit: 500,
            ..ListQuery::default()
        };
        let mut started = Vec::new();
        loop {
            let page = self.list(&who, query.clone()).await?;
            started.extend(page.tasks.into_iter().filter(|view| view.attempt > 0));
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(started),
            }
        }
    }

    /// Engines that something runs in; all of them when that cannot be told.
    pub(crate) async fn busy_engines(&self) -> Vec<EngineName> {
        match self.started().await {
            Ok(tasks) => tasks.into_iter().map(|view| view.spec.engine).collect(),
            Err(_) => self
                .wires
                .ports
                .engines
                .iter()
                .map(|engine| engine.name())
                .collect(),
        }
    }

    /// Cancels every task that has started, for a stop that ends the workers.
    pub(crate) async fn cancel_started(&self, patience: Duration) {
        let who = Identity::inside("shutdown");
        for view in self.started().await.unwrap_or_default() {
            let control = Control {
                task: view.id,
                signal: ControlSignal::Cancel,
                reason: Some("Chargehand was stopped together with its tasks".to_owned()),
            };
            let _ = tokio::time::timeout(patience, self.control(&who, control)).await;
        }
    }
}

/// The whole of a call that asks more than one actor, never longer than `deadline`.
async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, TreeError>>,
) -> Result<T, TreeError> {
    let seconds = deadline.as_secs();
    tokio::time::timeout(deadline, call)
        .await
        .unwrap_or(Err(TreeError::Slow { seconds }))
}

/// Sends a message that carries a reply and waits for it, never longer than `deadline`.
async fn ask<M: ractor::Message, T>(
    to: &Handle<M>,
    deadline: Duration,
    make: impl FnOnce(oneshot::Sender<Result<T, TreeError>>) -> M,
) -> Result<T, TreeError> {
    let (reply, answer) = oneshot::channel();
    to.send_gated(make(reply), EDGE_GATE)
        .map_err(|error| match error {
            crate::handle::SendError::NotRunning => TreeError::Closed("starting or stopping"),
            crate::handle::SendError::Full => TreeError::Closed("overloaded"),
        })?;
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(TreeError::Internal(
            "the answer was lost; read the task's status".to_owned(),
        )),
        Err(_) => Err(TreeError::Slow {
            seconds: deadline.as_secs(),
        }),
    }
}
