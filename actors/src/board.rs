//! The observable state of every live actor, readable without sending a message.
//!
//! In: each actor holds a [`Slot`] in its state and writes to it. Out: [`BoardSnapshot`] for the debug endpoint.
//! A slot frees itself on every way an actor can end, because ractor drops the state in all of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::handle::Backlog;
use crate::id::{EventNumber, WallTime};
use crate::ports::Clock;

/// What an actor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "each is the actor of that name in the module doc of the crate"
)]
pub enum ActorKind {
    Root,
    Reaper,
    Journal,
    Admission,
    Registry,
    Retention,
    Engines,
    Engine,
    WorkspaceSync,
    TaskMemory,
    Rooms,
    RoomLink,
    Room,
    Notifier,
    Notice,
    Tasks,
    Task,
}

impl ActorKind {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Root,
        Self::Reaper,
        Self::Journal,
        Self::Admission,
        Self::Registry,
        Self::Engines,
        Self::Engine,
        Self::WorkspaceSync,
        Self::TaskMemory,
        Self::Retention,
        Self::Rooms,
        Self::RoomLink,
        Self::Room,
        Self::Notifier,
        Self::Notice,
        Self::Tasks,
        Self::Task,
    ];

    /// The word in the debug endpoint and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Reaper => "reaper",
            Self::Journal => "journal",
            Self::Admission => "admission",
            Self::Registry => "registry",
            Self::Engines => "engines",
            Self::Engine => "engine",
            Self::WorkspaceSync => "workspace_sync",
            Self::TaskMemory => "task_memory",
            Self::Retention => "retention",
            Self::Rooms => "rooms",
            Self::RoomLink => "room_link",
            Self::Room => "room",
            Self::Notifier => "notifier",
            Self::Notice => "notice",
            Self::Tasks => "tasks",
            Self::Task => "task",
        }
    }
}

/// One live actor as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorView {
    /// Number of the slot; not reused.
    pub id: u64,
    /// The slot of its supervisor; none for root.
    pub parent: Option<u64>,
    /// What it is.
    pub kind: ActorKind,
    /// For a person: a task id, an engine's name.
    pub label: String,
    /// What it is in: a task's phase, an engine's state, `ready`.
    pub phase: String,
    /// Since when.
    pub since: WallTime,
    /// How often it was restarted.
    pub restarts: u32,
    /// Why, the last time.
    pub last_restart: Option<String>,
    /// Messages sent to it and not yet handled.
    pub waiting: u64,
    /// The newest event that it has handled or made.
    pub last_event: EventNumber,
    /// Jobs in flight: name and since when.
    pub jobs: Vec<(String, WallTime)>,
}

/// All live actors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardSnapshot {
    /// By slot number: parents before children.
    pub actors: Vec<ActorView>,
}

struct Entry {
    parent: Option<u64>,
    kind: ActorKind,
    label: String,
    restarts: u32,
    last_restart: Option<String>,
    live: Mutex<Live>,
    waiting: Backlog,
    last_event: AtomicU64,
    since: AtomicI64,
}

struct Live {
    phase: String,
    jobs: BTreeMap<u64, (String, WallTime)>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    next: AtomicU64,
    entries: Mutex<BTreeMap<u64, Arc<Entry>>>,
    /// Most messages that waited at once, of actors that are gone.
    most_waiting: Mutex<BTreeMap<ActorKind, u64>>,
}

/// The board. Cheap to clone.
#[derive(Clone)]
pub struct Board(Arc<Inner>);

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board")
            .field("actors", &self.len())
            .finish()
    }
}

/// An actor's place on the board; leaves it when dropped.
pub struct Slot {
    board: Board,
    id: u64,
    entry: Arc<Entry>,
}

/// What a new slot says.
#[derive(Clone, Debug)]
pub struct SlotSpec {
    /// Supervisor's slot.
    pub parent: Option<u64>,
    /// Kind.
    pub kind: ActorKind,
    /// Label.
    pub label: String,
    /// Restarts so far and the last reason.
    pub restarts: (u32, Option<String>),
    /// Count of waiting messages, shared with the actor's handle.
    pub waiting: Backlog,
}

impl Board {
    /// An empty board.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            clock,
            next: AtomicU64::new(1),
            entries: Mutex::default(),
            most_waiting: Mutex::default(),
        }))
    }

    /// Takes a place.
    pub fn slot(&self, spec: SlotSpec) -> Slot {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry {
            parent: spec.parent,
            kind: spec.kind,
            label: spec.label,
            restarts: spec.restarts.0,
            last_restart: spec.restarts.1,
            live: Mutex::new(Live {
                phase: "ready".to_owned(),
                jobs: BTreeMap::new(),
            }),
            waiting: spec.waiting,
            last_event: AtomicU64::new(0),
            since: AtomicI64::new(self.0.clock.now().0),
        });
        lock(&self.0.entries).insert(id, Arc::clone(&entry));
        Slot {
            board: self.clone(),
            id,
            entry,
        }
    }

    /// How many actors are live.
    pub fn len(&self) -> usize {
        lock(&self.0.entries).len()
    }

    /// Whether no actor is live.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of everything. Takes no message and waits for nobody.
    pub fn snapshot(&self) -> BoardSnapshot {
        let entries: Vec<(u64, Arc<Entry>)> = lock(&self.0.entries)
            .iter()
            .map(|(id, entry)| (*id, Arc::clone(entry)))
            .collect();
        let actors = entries
            .into_iter()
            .map(|(id, entry)| {
                let live = lock(&entry.live);
                ActorView {
                    id,
                    parent: entry.parent,
                    kind: entry.kind,
                    label: entry.label.clone(),
                    phase: live.phase.clone(),
                    since: WallTime(entry.since.load(Ordering::Relaxed)),
                    restarts: entry.restarts,
                    last_restart: entry.last_restart.clone(),
                    waiting: entry.waiting.now(),
                    last_event: EventNumber(entry.last_event.load(Ordering::Relaxed)),
                    jobs: live.jobs.values().cloned().collect(),
                }
            })
            .collect();
        BoardSnapshot { actors }
    }

    /// Most messages that waited at once in a mailbox, by kind of actor.
    pub fn most_waiting(&self) -> BTreeMap<ActorKind, u64> {
        let mut most = lock(&self.0.most_waiting).clone();
        for entry in lock(&self.0.entries).values() {
            let known = most.entry(entry.kind).or_default();
            *known = entry.waiting.most().max(*known);
        }
        most
    }
}

impl Slot {
    /// Its number: the parent of its children's slots.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Says what the actor is in now.
    pub fn set_phase(&self, phase: &str) {
        let mut live = lock(&self.entry.live);
        if live.phase != phase {
            phase.clone_into(&mut live.phase);
            self.entry
                .since
                .store(self.board.0.clock.now().0, Ordering::Relaxed);
        }
    }

    /// Says which event was handled last.
    pub fn set_last_event(&self, number: EventNumber) {
        self.entry.last_event.fetch_max(number.0, Ordering::Relaxed);
    }

    /// The newest event handled.
    pub fn last_event(&self) -> EventNumber {
        EventNumber(self.entry.last_event.load(Ordering::Relaxed))
    }

    /// A job began.
    pub fn job_started(&self, id: u64, name: &str) {
        let now = self.board.0.clock.now();
        lock(&self.entry.live)
            .jobs
            .insert(id, (name.to_owned(), now));
    }

    /// No job is in flight.
    pub fn clear_jobs(&self) {
        lock(&self.entry.live).jobs.clear();
    }

    /// A job ended.
    pub fn job_ended(&self, id: u64) {
        lock(&self.entry.live).jobs.remove(&id);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut most = lock(&self.board.0.most_waiting);
        let known = most.entry(self.entry.kind).or_default();
        *known = self.entry.waiting.most().max(*known);
        drop(most);
        lock(&self.board.0.entries).remove(&self.id);
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("id", &self.id)
            .field("kind", &self.entry.kind)
            .finish()
    }
}

// A board lock is held only for copying; after a panic elsewhere its content is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
