//! The life of a tree: [`start`] brings it up, [`Tree::stop`] ends it in order.
//!
//! In: settings and ports. Out: a [`TreeHandle`], through which everything else goes, and why the tree failed if it did.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admission::AdmissionMsg;
use crate::handle::Handle;
use crate::id::InstanceId;
use crate::journal::JournalMsg;
use crate::ports::{
    Clock, Engine, Ids, JournalStore, Memory, Notices, OutputStore, Rooms, Space, StopHow, Workdirs,
};
use crate::reaper::ReaperMsg;
pub use crate::room::{RoomAnswer, RoomQuestion, RoomSettings};
use crate::root::{LOAD_DEADLINE, Record, Root, RootArgs, RootMsg, keys_since};
pub use crate::tree_handle::TreeHandle;
use crate::wiring::Wiring;

/// The outside world, as the tree uses it.
#[derive(Clone)]
#[expect(missing_docs, reason = "each field is the port of its type")]
pub struct Ports {
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub journal: Arc<dyn JournalStore>,
    pub output: Arc<dyn OutputStore>,
    pub workdirs: Arc<dyn Workdirs>,
    pub space: Arc<dyn Space>,
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
    /// Tasks of one caller that wait at once.
    pub max_queued_per_caller: u32,
    /// Limits of single tokens (by name), where they differ from the two above.
    pub caller_limits: BTreeMap<String, CallerLimits>,
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
    /// When a silent run, in which no tool runs and no request is open, is warned about. Zero = never.
    pub silence_warn: Duration,
    /// When a silent run is asked to go on. Zero = never.
    pub silence_nudge: Duration,
    /// When a silent run is ended. Zero = never.
    pub silence_fail: Duration,
    /// Model steps of one task. Zero = no limit.
    pub max_steps: u32,
    /// How often in a row the provider may make the worker wait. Zero = no limit.
    pub max_provider_retries: u32,
    /// How long a final task is remembered. Zero = for ever.
    pub keep_tasks: Duration,
    /// How long the workdir and the output of a final task are kept. Zero = as long as the task.
    pub keep_files: Duration,
    /// The planner's memory.
    pub memory: MemorySettings,
    /// How long each actor may take to stop.
    pub stop_timeout: Duration,
    /// Who may do what in rooms.
    pub rooms: RoomSettings,
}

/// How the planner's memory is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySettings {
    /// A running task's memory is written at most once in this time, changes of its state apart.
    pub interval: Duration,
    /// How long the memory of an ended task stays before the agent's eyes.
    pub grace: Duration,
    /// Memories that an agent has before its eyes at once.
    pub per_agent: usize,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            grace: Duration::from_secs(600),
            per_agent: 5,
        }
    }
}

/// How many tasks the callers of one token may have, each; `None` = as for everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallerLimits {
    /// That hold a slot at once.
    pub running: Option<u32>,
    /// That wait at once.
    pub queued: Option<u32>,
}

impl Default for TreeSettings {
    fn default() -> Self {
        Self {
            instance: InstanceId("test".to_owned()),
            max_running: 3,
            max_running_per_caller: 3,
            max_queued: 100,
            max_queued_per_caller: 100,
            caller_limits: BTreeMap::new(),
            idempotency_keep: Duration::from_secs(24 * 3600),
            start_timeout: Duration::from_secs(600),
            hard_deadline: Duration::from_secs(24 * 3600),
            request_expiry: Duration::from_secs(120),
            max_resumes: 2,
            max_unfinished: 5,
            silence_warn: Duration::from_secs(120),
            silence_nudge: Duration::from_secs(240),
            silence_fail: Duration::from_secs(600),
            max_steps: 0,
            max_provider_retries: 10,
            keep_tasks: Duration::from_secs(30 * 86_400),
            keep_files: Duration::from_secs(7 * 86_400),
            memory: MemorySettings::default(),
            stop_timeout: Duration::from_secs(5),
            rooms: RoomSettings::default(),
        }
    }
}

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
        end(&wires.retention, patience).await;
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
            "retention" => kill(&wires.retention),
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
