//! A whole world for one test: all fake ports, and trees that are started, crashed and stopped on them.
//!
//! In: a seed, settings, troubles. Out: trees; at the end of each, an empty board.

use std::sync::Arc;
use std::time::Duration;

use super::{
    FakeClock, FakeEngine, FakeOutput, FakeOutward, FakeRooms, FakeSpace, FakeWorkdirs,
    MemoryJournal, OutwardMode, SeededIds, Trouble,
};
use crate::command::{
    Caller, Identity, Notify, Origin, Priority, Source, StatusQuery, Submit, TaskSpec, WaitFor,
};
use crate::error::TreeError;
use crate::event::{CommittedEvent, Event, Phase};
use crate::id::{AttemptId, EngineName, TaskId};
use crate::ports::{Engine, PauseAbility, StopHow};
use crate::tree::{Ports, Tree, TreeFailure, TreeHandle, TreeSettings};
use crate::view::{Submitted, TaskView};

/// All fake ports of one test. Cheap to clone.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is the fake of that port")]
pub struct World {
    pub settings: TreeSettings,
    pub trouble: Trouble,
    pub clock: Arc<FakeClock>,
    pub ids: Arc<SeededIds>,
    pub journal: MemoryJournal,
    pub output: Arc<FakeOutput>,
    pub workdirs: Arc<FakeWorkdirs>,
    pub space: Arc<FakeSpace>,
    pub engine: FakeEngine,
    /// A second engine, `frozen`, that freezes instead of aborting.
    pub freezer: FakeEngine,
    pub memory: FakeOutward,
    pub rooms: FakeRooms,
    pub notices: FakeOutward,
}

impl World {
    /// A world without troubles and without outward ports.
    pub fn new(seed: u64) -> Self {
        let trouble = Trouble::new(seed);
        let clock = Arc::<FakeClock>::default();
        let outward = || FakeOutward::new(OutwardMode::Off, trouble.clone());
        Self {
            settings: TreeSettings::default(),
            clock: clock.clone(),
            ids: Arc::new(SeededIds::new(seed)),
            journal: MemoryJournal::new(trouble.clone()),
            output: Arc::new(FakeOutput::new(trouble.clone())),
            workdirs: Arc::new(FakeWorkdirs::new(trouble.clone())),
            space: Arc::new(FakeSpace::new(trouble.clone())),
            engine: FakeEngine::new("local", PauseAbility::AbortAndPrompt, seed, trouble.clone()),
            freezer: FakeEngine::new("frozen", PauseAbility::Freeze, seed, trouble.clone()),
            memory: outward(),
            rooms: FakeRooms::new(OutwardMode::Off, trouble.clone(), clock),
            notices: outward(),
            trouble,
        }
    }

    /// The ports, as a tree takes them.
    pub fn ports(&self) -> Ports {
        Ports {
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            journal: Arc::new(self.journal.clone()),
            output: self.output.clone(),
            workdirs: self.workdirs.clone(),
            space: self.space.clone(),
            engines: vec![
                Arc::new(self.engine.clone()) as Arc<dyn Engine>,
                Arc::new(self.freezer.clone()),
            ],
            memory: Arc::new(self.memory.clone()),
            rooms: Arc::new(self.rooms.clone()),
            notices: Arc::new(self.notices.clone()),
        }
    }

    /// Starts a tree.
    ///
    /// # Errors
    /// As [`crate::tree::start`].
    pub async fn start(&self) -> Result<Tree, TreeFailure> {
        crate::tree::start(self.settings.clone(), self.ports()).await
    }

    /// Stops a tree and gives what is left on its board: must be nothing.
    pub async fn stop(&self, tree: Tree, how: StopHow) -> Vec<String> {
        let handle = tree.handle();
        tree.stop(how).await;
        for _ in 0..1000 {
            if handle.board().actors.is_empty() {
                return Vec::new();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let left = handle.board().actors;
        left.into_iter().map(|actor| format!("{actor:?}")).collect()
    }

    /// A caller of the default token.
    pub fn caller(agent: &str) -> Caller {
        Caller {
            token: "local".to_owned(),
            agent_id: agent.to_owned(),
        }
    }

    /// Somebody who may see everything.
    pub fn operator() -> Identity {
        Identity::inside("test")
    }

    /// A task for the engine `local` whose worker follows `script` (see [`super::engine`]).
    pub fn task(script: &str) -> Submit {
        Submit {
            caller: Self::caller("agent"),
            spec: TaskSpec {
                description: format!("A task.\nscript: {script}"),
                engine: EngineName::new("local"),
                model: None,
                agent: None,
                source: Source::Empty,
                timeout_ms: 300_000,
                priority: Priority::Normal,
                labels: Vec::new(),
                observers: Vec::new(),
                attended: false,
                permissions: Vec::new(),
                max_steps: None,
                notify: Notify::End,
                conversation: None,
            },
            idempotency_key: None,
            asked: String::new(),
            from: Origin::default(),
        }
    }

    /// Submits a task that follows `script`.
    ///
    /// # Errors
    /// As [`TreeHandle::submit`].
    pub async fn submit(tree: &TreeHandle, script: &str) -> Result<Submitted, TreeError> {
        tree.submit(Self::task(script)).await
    }

    /// The task's view now.
    ///
    /// # Errors
    /// As [`TreeHandle::status`].
    pub async fn view(tree: &TreeHandle, task: TaskId) -> Result<TaskView, TreeError> {
        let query = StatusQuery {
            task,
            since: None,
            events_limit: 0,
            wait_for: WaitFor::Nothing,
            wait_ms: 0,
        };
        Ok(tree.status(&Self::operator(), query).await?.view)
    }

    /// Waits until the task is in `phase`, or final, for at most `within`.
    ///
    /// # Errors
    /// As [`TreeHandle::status`].
    pub async fn reach(
        tree: &TreeHandle,
        task: TaskId,
        phase: Phase,
        within: Duration,
    ) -> Result<TaskView, TreeError> {
        let until = tokio::time::Instant::now() + within;
        loop {
            let view = Self::view(tree, task).await?;
            let over = tokio::time::Instant::now() >= until;
            if view.phase == phase || view.phase.is_final() || over {
                return Ok(view);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the task is final, for at most `within`.
    ///
    /// # Errors
    /// As [`TreeHandle::status`].
    pub async fn finish(
        tree: &TreeHandle,
        task: TaskId,
        within: Duration,
    ) -> Result<TaskView, TreeError> {
        Self::reach(tree, task, Phase::Completed, within).await
    }

    /// The only attempt of a task.
    pub const fn attempt(task: TaskId) -> AttemptId {
        AttemptId { task, number: 1 }
    }

    /// The names of a task's durable events, in order.
    pub fn event_names(&self, task: TaskId) -> Vec<String> {
        self.journal.of(task).iter().map(name).collect()
    }

    /// The same without observations: the task's life.
    pub fn life(&self, task: TaskId) -> Vec<String> {
        let events = self.journal.of(task);
        events
            .iter()
            .filter(|committed| committed.event.is_lifecycle())
            .map(name)
            .collect()
    }

    /// How often an event of this name is in the task's record.
    pub fn count(&self, task: TaskId, event: &str) -> usize {
        let names = self.event_names(task);
        names.iter().filter(|name| *name == event).count()
    }

    /// The final events of a task.
    pub fn finals(&self, task: TaskId) -> Vec<Event> {
        let events = self.journal.of(task).into_iter().map(|e| e.event);
        events.filter(Event::is_final).collect()
    }
}

/// The word that an event has in the journal.
fn name(committed: &CommittedEvent) -> String {
    serde_json::to_value(&committed.event)
        .ok()
        .and_then(|value| Some(value.get("type")?.as_str()?.to_owned()))
        .unwrap_or_default()
}
