//! The tree as its users see it: [`start`] brings it up, [`TreeHandle`] sends commands and reads, [`Tree::stop`] ends it.

use std::sync::Arc;
use std::time::Duration;

use crate::board::BoardSnapshot;
use crate::command::{
    AnswerRequest, Control, FilesQuery, HistoryQuery, Identity, ListQuery, ReadFileQuery,
    SendMessage, StatusQuery, Submit, TextQuery,
};
use crate::error::TreeError;
use crate::id::InstanceId;
use crate::ports::{
    Clock, Engine, FileContent, FileList, Ids, JournalStore, Memory, Notices, OutputStore, Rooms,
    StopHow, TextChunk, Workdirs,
};
use crate::view::{
    ControlOutcome, HealthReport, HistoryPage, ListPage, MessageReceipt, Submitted, TaskStatus,
};

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

/// A running tree.
pub struct Tree {
    handle: TreeHandle,
}

/// Why the tree did not start, or ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TreeFailure(pub String);

/// Loads the journal and brings the tree up. Returns when commands are accepted; engines come up behind it.
pub async fn start(_settings: TreeSettings, _ports: Ports) -> Result<Tree, TreeFailure> {
    Err(TreeFailure("not yet".to_owned()))
}

impl Tree {
    /// What the edge holds.
    pub fn handle(&self) -> TreeHandle {
        self.handle.clone()
    }

    /// Completes when the tree ended by itself (the journal cannot be written any more); says why.
    pub async fn failed(&self) -> TreeFailure {
        std::future::pending().await
    }

    /// Ends the tree in order: intake, tasks, outward actors, engines, journal, reaper.
    pub async fn stop(self, _how: StopHow) {}
}

/// The only way into the tree. Cheap to clone; every call has a deadline and none is longer than 45 s.
#[derive(Clone)]
pub struct TreeHandle {}

impl TreeHandle {
    /// Asks for a task. `Ok` = durable.
    pub async fn submit(&self, _submit: Submit) -> Result<Submitted, TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Reads one task, waiting if asked.
    pub async fn status(
        &self,
        _who: &Identity,
        _query: StatusQuery,
    ) -> Result<TaskStatus, TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Reads a page of a task's events.
    pub async fn history(
        &self,
        _who: &Identity,
        _query: HistoryQuery,
    ) -> Result<HistoryPage, TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Lists tasks.
    pub async fn list(&self, _who: &Identity, _query: ListQuery) -> Result<ListPage, TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Sends a message to the worker. `Ok` = durable.
    pub async fn message(
        &self,
        _who: &Identity,
        _message: SendMessage,
    ) -> Result<MessageReceipt, TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Cancels, pauses, resumes. `Ok` = took effect.
    pub async fn control(
        &self,
        _who: &Identity,
        _control: Control,
    ) -> Result<ControlOutcome, TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Answers a request of the worker. `Ok` = durable and on its way.
    pub async fn answer(&self, _who: &Identity, _answer: AnswerRequest) -> Result<(), TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Lists the files of a task's workdir.
    pub async fn files(&self, _who: &Identity, _query: FilesQuery) -> Result<FileList, TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Reads a file of a task's workdir.
    pub async fn read_file(
        &self,
        _who: &Identity,
        _query: ReadFileQuery,
    ) -> Result<FileContent, TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Reads a piece of the worker's output or of the patch.
    pub async fn text(&self, _who: &Identity, _query: TextQuery) -> Result<TextChunk, TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Health of every part, checked now.
    pub async fn health(&self) -> Result<HealthReport, TreeError> {
        Err(TreeError::Closed("starting"))
    }

    /// Every live actor. Sends no message.
    pub fn board(&self) -> BoardSnapshot {
        BoardSnapshot::default()
    }
}
