//! The tree as its users see it: [`start`] brings it up, [`TreeHandle`] sends commands and reads, [`Tree::stop`] ends it.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admission::AdmissionMsg;
use crate::board::BoardSnapshot;
use crate::command::{
    AnswerRequest, Control, ControlSignal, FilesQuery, HistoryQuery, Identity, ListQuery,
    ReadFileQuery, SendMessage, StatusQuery, Submit, TextQuery,
};
use crate::error::TreeError;
use crate::handle::Handle;
use crate::id::{EngineName, InstanceId, TaskId};
use crate::journal::JournalMsg;
use crate::ports::{
    Clock, Engine, FileContent, FileList, Ids, JournalStore, Memory, Notices, OutputStore, Rooms,
    StopHow, TextChunk, Workdirs,
};
use crate::reaper::ReaperMsg;
use crate::registry::RegistryMsg;
use crate::root::{LOAD_DEADLINE, Record, Root, RootArgs, RootMsg, keys_since};
use crate::task::TaskCommand;
use crate::task_supervisor::TasksMsg;
use crate::view::{
    ControlOutcome, HealthReport, HistoryPage, ListPage, MessageReceipt, Submitted, TaskStatus,
    TaskView,
};
use crate::wiring::{Wires, Wiring};

/// The outside world, as the tree uses it.
#[derive(Clone)]
#[expect(missing_docs, reason = "each field is the port of its type")]
pub struct Ports {
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub journal: Arc<dyn JournalStore>,
    pub output: Arc<dyn OutputStore>,
    pub workdirs: Arc<dyn Workdirs>,
    pub engines: Vec<Arc<dyn Engine>>,
    pub memory: Arc<dyn Memory>,
    pub rooms: Arc<dyn Rooms>,
    pub notices: Arc<dyn Notices>,
}

/// How the tree behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeSettings {
    /// Stamped on everything outside.
    pub instance: InstanceId,
    /// Tasks that hold a slot at once.
    pub max_running: u32,
    /// Tasks of one caller (token and agent) that hold a slot at once.
    pub max_running_per_caller: u32,
    /// Tasks that wait at once.
    pub max_queued: u32,
    /// How long an idempotency key is kept.
    pub idempotency_keep: Duration,
    /// How long the engine may take from slot to accepted prompt.
    pub start_timeout: Duration,
    /// The longest that a task may live after its start, whatever it waits for.
    pub hard_deadline: Duration,
    /// How long a request of the worker stays open when somebody is attached.
    pub request_expiry: Duration,
    /// How often a lost run is continued within one attempt.
    pub max_resumes: u32,
    /// How many model steps without a proper finish are taken for an endless loop.
    pub max_unfinished: u32,
    /// How long each actor may take to stop.
    pub stop_timeout: Duration,
}

impl Default for TreeSettings {
    fn default() -> Self {
        Self {
            instance: InstanceId("test".to_owned()),
            max_running: 3,
            max_running_per_caller: 3,
            max_queued: 100,
            idempotency_keep: Duration::from_secs(24 * 3600),
            start_timeout: Duration::from_secs(600),
            hard_deadline: Duration::from_secs(24 * 3600),
            request_expiry: Duration::from_secs(120),
            max_resumes: 2,
            max_unfinished: 5,
            stop_timeout: Duration::from_secs(5),
        }
    }
}

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

/// A running tree.
pub struct Tree {
    handle: TreeHandle,
    failed: watch::Receiver<Option<String>>,
    root: ActorCell,
    ended: JoinHandle<()>,
}

/// Why the tree did not start, or ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TreeFailure(pub String);

/// Loads the journal and brings the tree up. Returns when commands are accepted; engines come up behind it.
///
/// # Errors
/// When the journal cannot be read, or an actor cannot be started.
pub async fn start(settings: TreeSettings, ports: Ports) -> Result<Tree, TreeFailure> {
    let wires = Wiring::new(settings, ports);
    let load = wires.ports.journal.load(keys_since(&wires));
    let loaded = tokio::time::timeout(LOAD_DEADLINE, load)
        .await
        .map_err(|_| TreeFailure("the journal did not answer within two minutes".to_owned()))?
        .map_err(|error| TreeFailure(error.to_string()))?;
    let (failed_tx, failed) = watch::channel(None);
    let args = RootArgs {
        wires: Arc::clone(&wires),
        record: Record::fold(loaded),
        failed: failed_tx,
    };
    let (root, ended) = Actor::spawn(None, Root, args)
        .await
        .map_err(|error| TreeFailure(format!("root did not start: {error}")))?;
    let tree = Tree {
        handle: TreeHandle { wires },
        failed,
        root: root.get_cell(),
        ended,
    };
    tree.wait_until_built().await?;
    Ok(tree)
}

impl Tree {
    /// What the edge holds.
    pub fn handle(&self) -> TreeHandle {
        self.handle.clone()
    }

    async fn wait_until_built(&self) -> Result<(), TreeFailure> {
        let deadline = tokio::time::Instant::now() + LOAD_DEADLINE;
        while self.handle.wires.engines.actor().is_none() {
            if self.ended.is_finished() || tokio::time::Instant::now() > deadline {
                return Err(TreeFailure(
                    "the tree could not be built; the log says why".to_owned(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Completes when the tree ended by itself (the journal cannot be written any more); says why.
    pub async fn failed(&self) -> TreeFailure {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => TreeFailure(why.clone().unwrap_or_default()),
            Err(_) => TreeFailure("root ended".to_owned()),
        }
    }

    /// Ends the tree in order: intake, tasks, outward actors, reaper, engines, journal, root. Bounded in time.
    pub async fn stop(self, how: StopHow) {
        let wires = Arc::clone(&self.handle.wires);
        let patience = wires.settings.stop_timeout;
        wires.admission.tell(AdmissionMsg::Close);
        if how == StopHow::EndWorkers {
            self.handle.cancel_started(patience).await;
        }
        let busy = self.handle.busy_engines().await;
        // Ends of children outrank messages: root must know of the stop before the first child ends.
        let (reply, told) = oneshot::channel();
        wires.root.tell(RootMsg::Stopping(reply));
        let _ = tokio::time::timeout(patience, told).await;
        end(&wires.tasks, patience).await;
        end(&wires.memory, patience).await;
        end(&wires.rooms, patience).await;
        end(&wires.notifier, patience).await;
        let (reply, drained) = oneshot::channel();
        wires.reaper.tell(ReaperMsg::Drain(reply));
        let _ = tokio::time::timeout(patience.saturating_mul(2), drained).await;
        end(&wires.engines, patience).await;
        for engine in &wires.ports.engines {
            // A worker is left for the next start only when something runs in it.
            let how = if busy.contains(&engine.name()) {
                how
            } else {
                StopHow::EndWorkers
            };
            let stopped = tokio::time::timeout(Duration::from_secs(15), engine.stop(how)).await;
            if let Ok(Err(error)) = stopped {
                tracing::warn!(engine = %engine.name(), %error, "engine did not stop cleanly");
            }
        }
        let (reply, flushed) = oneshot::channel();
        wires.journal.tell(JournalMsg::Flush(reply));
        let _ = tokio::time::timeout(patience, flushed).await;
        end(&wires.reaper, patience).await;
        end(&wires.admission, patience).await;
        end(&wires.registry, patience).await;
        end(&wires.journal, patience).await;
        self.root.stop(None);
        if tokio::time::timeout(patience, self.ended).await.is_err() {
            self.root.kill();
        }
    }

    /// Kills one of the actors below root by its name, as a bug in it would. For tests of the rebuild.
    #[cfg(feature = "fakes")]
    pub fn kill_core(&self, name: &str) {
        fn kill<M: ractor::Message>(handle: &Handle<M>) {
            if let Some(actor) = handle.actor() {
                actor.kill();
            }
        }
        let wires = &self.handle.wires;
        match name {
            "reaper" => kill(&wires.reaper),
            "journal" => kill(&wires.journal),
            "admission" => kill(&wires.admission),
            "registry" => kill(&wires.registry),
            "tasks" => kill(&wires.tasks),
            "engines" => kill(&wires.engines),
            _ => {}
        }
    }

    /// Ends everything at once, as a crash would: no handler runs on, nothing is flushed. For tests of recovery.
    #[cfg(feature = "fakes")]
    pub async fn crash(self) {
        self.root.kill();
        let _ = self.ended.await;
        while !self.handle.wires.board.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

/// Stops an actor, then kills it if it takes longer than `patience`.
async fn end<M: ractor::Message>(handle: &Handle<M>, patience: Duration) {
    if let Some(actor) = handle.actor() {
        actor.stop(Some("the tree is stopped".to_owned()));
        if actor.wait(Some(patience)).await.is_err() {
            actor.kill();
        }
        handle.clear();
    }
}

/// The only way into the tree. Cheap to clone; every call has a deadline and none is longer than 45 s.
#[derive(Clone)]
pub struct TreeHandle {
    wires: Wires,
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
        let who = Identity::Operator {
            name: "admission".to_owned(),
        };
        let submit = Box::new(submit);
        let make = |reply| AdmissionMsg::Submit { submit, reply };
        let mut submitted = ask(&self.wires.admission, COMMAND_DEADLINE, make).await?;
        if submitted.existing {
            let query = StatusQuery {
                task: submitted.task,
                since: None,
                events_limit: 0,
                wait_for: crate::command::WaitFor::Nothing,
                wait_ms: 0,
            };
            let status = self.status(&who, query).await?;
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

    /// Sends a command to a live task; `ended` is said when there is none because the task is final.
    async fn command<T: Send + 'static>(
        &self,
        who: &Identity,
        task: TaskId,
        ended: &str,
        make: impl FnOnce(String, oneshot::Sender<Result<T, TreeError>>) -> TaskCommand,
    ) -> Result<T, TreeError> {
        within(COMMAND_DEADLINE, self.send_command(who, task, ended, make)).await
    }

    async fn send_command<T: Send + 'static>(
        &self,
        who: &Identity,
        task: TaskId,
        ended: &str,
        make: impl FnOnce(String, oneshot::Sender<Result<T, TreeError>>) -> TaskCommand,
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
        let by = who.name();
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

    /// Every live actor. Sends no message.
    pub fn board(&self) -> BoardSnapshot {
        self.wires.board.snapshot()
    }

    /// Tasks that have started and not ended.
    async fn started(&self) -> Result<Vec<TaskView>, TreeError> {
        let who = Identity::Operator {
            name: "shutdown".to_owned(),
        };
        let query = ListQuery {
            states: vec!["running".to_owned(), "paused".to_owned()],
            limit: 500,
            ..ListQuery::default()
        };
        let mut tasks = self.list(&who, query).await?.tasks;
        tasks.retain(|view| view.attempt > 0);
        Ok(tasks)
    }

    /// Engines that something runs in; all of them when that cannot be told.
    async fn busy_engines(&self) -> Vec<EngineName> {
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
    async fn cancel_started(&self, patience: Duration) {
        let who = Identity::Operator {
            name: "shutdown".to_owned(),
        };
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
