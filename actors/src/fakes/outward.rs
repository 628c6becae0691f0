//! One fake for memory and notices. In: a mode. Out: what was told to the memory and the agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::PortCall;
use super::trouble::{Trouble, lock};
use crate::id::TaskId;
use crate::ports::{
    Delivered, LeftMemory, Memory, MemoryPage, MemoryPlace, Notice, Notices, PlannerError,
    PortFuture, Written,
};
use crate::view::TaskView;

/// How the outside behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutwardMode {
    /// Not configured.
    Off,
    /// Works, with the world's troubles.
    Works,
    /// Every call fails and may be repeated.
    Fails,
    /// Every call is refused for good.
    Refuses,
    /// No call ever comes back.
    Hangs,
    /// Every call panics.
    Panics,
}

/// What was told.
#[derive(Debug, Default)]
struct Told {
    views: Vec<TaskView>,
    notices: Vec<Notice>,
    /// What stands in the memory now.
    memories: BTreeMap<TaskId, TaskView>,
    made: usize,
    most_memories: usize,
    archived: Vec<TaskId>,
}

/// Memory and notices in one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FakeOutward {
    mode: Arc<Mutex<OutwardMode>>,
    told: Arc<Mutex<Told>>,
    trouble: Trouble,
}

impl FakeOutward {
    /// An outside in this mode.
    pub fn new(mode: OutwardMode, trouble: Trouble) -> Self {
        Self {
            mode: Arc::new(Mutex::new(mode)),
            told: Arc::default(),
            trouble,
        }
    }

    /// Behaves otherwise from now on.
    pub fn set(&self, mode: OutwardMode) {
        *lock(&self.mode) = mode;
    }

    /// Views written to the memory, oldest first.
    pub fn views(&self) -> Vec<TaskView> {
        lock(&self.told).views.clone()
    }

    /// Notices given.
    pub fn notices(&self) -> Vec<Notice> {
        lock(&self.told).notices.clone()
    }

    /// What stands in the memory now.
    pub fn memories(&self) -> BTreeMap<TaskId, TaskView> {
        lock(&self.told).memories.clone()
    }

    /// How many memories were made.
    pub fn made(&self) -> usize {
        lock(&self.told).made
    }

    /// The most memories that one agent had at once.
    pub fn most_memories(&self) -> usize {
        lock(&self.told).most_memories
    }

    /// Tasks whose end was archived.
    pub fn archived(&self) -> Vec<TaskId> {
        lock(&self.told).archived.clone()
    }

    /// Somebody removes a task's memory by hand.
    pub fn remove_memory(&self, task: TaskId) {
        lock(&self.told).memories.remove(&task);
    }

    /// A memory that an earlier life left.
    pub fn leave_memory(&self, view: TaskView) {
        lock(&self.told).memories.insert(view.id, view);
    }

    async fn tell<T: Send>(
        &self,
        what: &'static str,
        about: &str,
        tell: impl FnOnce(&mut Told) -> T + Send,
    ) -> Result<T, PlannerError> {
        let mode = *lock(&self.mode);
        match mode {
            OutwardMode::Off | OutwardMode::Works => {}
            OutwardMode::Fails => {
                return Err(PlannerError::Unavailable("scripted: not now".to_owned()));
            }
            OutwardMode::Refuses => {
                return Err(PlannerError::Gone("scripted: never".to_owned()));
            }
            OutwardMode::Hangs => std::future::pending().await,
            OutwardMode::Panics => std::panic::panic_any(format!("scripted panic of {what}")),
        }
        self.trouble
            .call(what, about, |_| tell(&mut lock(&self.told)))
            .await
            .map_err(PlannerError::Unavailable)
    }

    fn is_on(&self) -> bool {
        *lock(&self.mode) != OutwardMode::Off
    }
}

impl Memory for FakeOutward {
    fn name(&self) -> String {
        "fake memory".to_owned()
    }

    fn enabled(&self) -> bool {
        self.is_on()
    }

    fn wants(&self, view: &TaskView) -> bool {
        view.caller.agent_id.starts_with("agent")
    }

    fn events_wanted(&self) -> u64 {
        5
    }

    fn probe(&self) -> PortFuture<'_, Result<String, PlannerError>> {
        Box::pin(async {
            self.tell("memory.probe", "", |_| {}).await?;
            Ok("fake memory 1".to_owned())
        })
    }

    fn write(
        &self,
        page: MemoryPage,
        at: Option<MemoryPlace>,
        fresh: bool,
    ) -> PortFuture<'_, Result<Written, PlannerError>> {
        let view = page.view;
        let task = view.id;
        self.trouble.watch.saw(PortCall::Memory(&view));
        Box::pin(async move {
            let write = |told: &mut Told| {
                let known = told.memories.get(&task).cloned();
                assert!(!fresh || known.is_none(), "a memory is said not to exist");
                let remade = at.map_or(0, |at| at.remade);
                if known.is_none() {
                    told.made += 1;
                }
                told.memories.insert(task, view.clone());
                let agent = &view.caller.agent_id;
                let memories = told.memories.values();
                let there = memories.filter(|one| one.caller.agent_id == *agent).count();
                told.most_memories = told.most_memories.max(there);
                told.views.push(view);
                remade
            };
            let remade = self.tell("memory.write", &task.to_string(), write).await?;
            Ok(Written {
                place: MemoryPlace {
                    id: format!("memory-{task}"),
                    label: "fake".to_owned(),
                    digest: 0,
                    remade,
                    only: fresh,
                },
                changed: true,
            })
        })
    }

    fn archives(&self) -> bool {
        true
    }

    fn archive(&self, view: TaskView, in_doubt: bool) -> PortFuture<'_, Result<(), PlannerError>> {
        Box::pin(async move {
            let task = view.id;
            let archive = |told: &mut Told| {
                if !in_doubt || !told.archived.contains(&task) {
                    told.archived.push(task);
                }
            };
            self.tell("memory.archive", &task.to_string(), archive)
                .await
        })
    }

    fn close(
        &self,
        view: TaskView,
        _at: Option<MemoryPlace>,
    ) -> PortFuture<'_, Result<(), PlannerError>> {
        Box::pin(async move {
            let close = |told: &mut Told| {
                told.memories.remove(&view.id);
            };
            self.tell("memory.close", &view.id.to_string(), close).await
        })
    }

    fn left(&self) -> PortFuture<'_, Result<Vec<LeftMemory>, PlannerError>> {
        Box::pin(self.tell("memory.left", "", |told| {
            let memories = told.memories.values();
            memories
                .map(|view| LeftMemory {
                    task: view.id,
                    id: format!("memory-{}", view.id),
                    label: "fake".to_owned(),
                    agent: view.caller.agent_id.clone(),
                })
                .collect()
        }))
    }

    fn remove(&self, left: LeftMemory) -> PortFuture<'_, Result<(), PlannerError>> {
        Box::pin(async move {
            let remove = |told: &mut Told| {
                told.memories.remove(&left.task);
            };
            self.tell("memory.remove", &left.task.to_string(), remove)
                .await
        })
    }
}

impl Notices for FakeOutward {
    fn name(&self) -> String {
        "fake notices".to_owned()
    }

    fn enabled(&self) -> bool {
        self.is_on()
    }

    fn reaches(&self, view: &TaskView) -> bool {
        view.caller.agent_id.starts_with("agent")
    }

    fn notify(
        &self,
        notice: Notice,
        in_doubt: bool,
    ) -> PortFuture<'_, Result<Delivered, PlannerError>> {
        self.trouble.watch.saw(PortCall::Notice(&notice.view));
        Box::pin(async move {
            let about = notice.view.id.to_string();
            let notify = |told: &mut Told| {
                if in_doubt && told.notices.iter().any(|had| had.key() == notice.key()) {
                    return Delivered::Before;
                }
                told.notices.push(notice);
                Delivered::Now
            };
            self.tell("notices.notify", &about, notify).await
        })
    }
}
