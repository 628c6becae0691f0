//! One fake for the three outward ports. In: a mode. Out: what was told to the memory, the rooms, the agent.

use std::sync::{Arc, Mutex};

use super::trouble::{Trouble, lock};
use crate::event::CommittedEvent;
use crate::id::TaskId;
use crate::ports::{Memory, Notices, OutwardError, PortFuture, Rooms};
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
    posts: Vec<(TaskId, String, Vec<CommittedEvent>)>,
    notices: Vec<(TaskView, String)>,
}

/// Memory, rooms and notices in one. Cheap to clone.
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

    /// Events posted to the task's room, in order, repeats with the same key left out.
    pub fn posted(&self, task: TaskId) -> Vec<CommittedEvent> {
        let told = lock(&self.told);
        let mut keys = std::collections::HashSet::new();
        told.posts
            .iter()
            .filter(|(of, key, _)| *of == task && keys.insert(key))
            .flat_map(|(_, _, events)| events.clone())
            .collect()
    }

    /// Notices given, with their keys.
    pub fn notices(&self) -> Vec<(TaskView, String)> {
        lock(&self.told).notices.clone()
    }

    async fn tell(
        &self,
        what: &'static str,
        about: TaskId,
        tell: impl FnOnce(&mut Told) + Send,
    ) -> Result<(), OutwardError> {
        let mode = *lock(&self.mode);
        match mode {
            OutwardMode::Off | OutwardMode::Works => {}
            OutwardMode::Fails => {
                return Err(OutwardError::Transient("scripted: not now".to_owned()));
            }
            OutwardMode::Refuses => {
                return Err(OutwardError::Permanent("scripted: never".to_owned()));
            }
            OutwardMode::Hangs => std::future::pending().await,
            OutwardMode::Panics => std::panic::panic_any(format!("scripted panic of {what}")),
        }
        self.trouble
            .call(what, &about.to_string(), |_| tell(&mut lock(&self.told)))
            .await
            .map_err(OutwardError::Transient)
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

    fn write(&self, view: TaskView) -> PortFuture<'_, Result<(), OutwardError>> {
        let task = view.id;
        Box::pin(self.tell("memory.write", task, |told| told.views.push(view)))
    }
}

impl Rooms for FakeOutward {
    fn name(&self) -> String {
        "fake rooms".to_owned()
    }

    fn enabled(&self) -> bool {
        self.is_on()
    }

    fn post(
        &self,
        task: TaskId,
        key: String,
        events: Vec<CommittedEvent>,
    ) -> PortFuture<'_, Result<(), OutwardError>> {
        Box::pin(self.tell("rooms.post", task, move |told| {
            told.posts.push((task, key, events));
        }))
    }
}

impl Notices for FakeOutward {
    fn name(&self) -> String {
        "fake notices".to_owned()
    }

    fn enabled(&self) -> bool {
        self.is_on()
    }

    fn notify(&self, view: TaskView, key: String) -> PortFuture<'_, Result<(), OutwardError>> {
        let task = view.id;
        Box::pin(self.tell("notices.notify", task, |told| {
            told.notices.push((view, key));
        }))
    }
}
