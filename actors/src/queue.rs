//! The ledger of admission: who waits, who holds a slot, who is next. Pure.
//!
//! In: accepted, held, released tasks. Out: the next task to be given a slot, and everybody's place in the queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use crate::command::{Caller, Priority};
use crate::id::{EngineName, TaskId};
use crate::tree::CallerLimits;

/// Callers whose turn is remembered although they wait for nothing.
const SERVED_KEPT: usize = 1_024;

/// A task that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) task: TaskId,
    pub(crate) engine: EngineName,
    pub(crate) priority: Priority,
    /// Order of acceptance.
    pub(crate) order: u64,
    /// Paused before its start: keeps its place, is not dispatched.
    pub(crate) on_hold: bool,
    /// How often it was put on hold.
    pub(crate) holds: u32,
}

/// A task that holds a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    caller: Caller,
    /// What to put back in the queue when the task was put on hold before it started.
    waiting: Waiting,
    started: bool,
}

/// The limits of the queue: of all tasks, of each caller's, and where single tokens differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    pub(crate) running: u32,
    pub(crate) running_per_caller: u32,
    pub(crate) queued: u32,
    pub(crate) queued_per_caller: u32,
    /// By the token's name: a limit counts for each caller of the token, as the two above do.
    pub(crate) tokens: BTreeMap<String, CallerLimits>,
}

impl QueueLimits {
    fn running_of(&self, caller: &Caller) -> u32 {
        let own = self.tokens.get(&caller.token).and_then(|own| own.running);
        own.unwrap_or(self.running_per_caller)
    }

    fn queued_of(&self, caller: &Caller) -> u32 {
        let own = self.tokens.get(&caller.token).and_then(|own| own.queued);
        own.unwrap_or(self.queued_per_caller)
    }
}

/// Why no further task may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Too many tasks wait.
    ForAll { queued: u32, limit: u32 },
    /// Too many tasks of this caller wait.
    ForCaller { queued: u32, limit: u32 },
}

/// Who waits and who holds a slot.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    limits: QueueLimits,
    waiting: BTreeMap<Caller, Vec<Waiting>>,
    slots: HashMap<TaskId, Slot>,
    served: HashMap<Caller, u64>,
    tick: u64,
    changed: bool,
}

impl Ledger {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            waiting: BTreeMap::new(),
            slots: HashMap::new(),
            served: HashMap::new(),
            tick: 0,
            changed: true,
        }
    }

    /// Whether anything changed since the last time this was asked.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Tasks that wait, those on hold included.
    pub(crate) fn queued(&self) -> u32 {
        count(self.waiting.values().map(Vec::len).sum())
    }

    /// Tasks that hold a slot.
    pub(crate) fn active(&self) -> u32 {
        count(self.slots.len())
    }

    /// Whether another task may be accepted while `pending` accepted ones are not yet durable. Slots that are free
    /// count as places: who finds them free does not wait.
    pub(crate) fn has_room(&self, pending: u32) -> bool {
        self.queued() + pending < self.limits.queued.saturating_add(self.free())
    }

    /// Whether another task of this caller may be accepted while `pending` accepted ones, of which `own` are the
    /// caller's, are not yet durable.
    pub(crate) fn room_for(&self, caller: &Caller, pending: u32, own: u32) -> Result<(), NoRoom> {
        if !self.has_room(pending) {
            return Err(NoRoom::ForAll {
                queued: self.queued() + pending,
                limit: self.limits.queued,
            });
        }
        let queued = count(self.waiting.get(caller).map_or(0, Vec::len)) + own;
        let held = count(self.slots.values().filter(|s| s.caller == *caller).count());
        let free = self.limits.running_of(caller).saturating_sub(held);
        let limit = self.limits.queued_of(caller);
        if queued < limit.saturating_add(free.min(self.free())) {
            Ok(())
        } else {
            Err(NoRoom::ForCaller { queued, limit })
        }
    }

    /// Slots that nobody holds.
    fn free(&self) -> u32 {
        self.limits.running.saturating_sub(self.active())
    }

    /// Whether a task could be given a slot now, if its engine allows.
    pub(crate) fn can_dispatch(&self, ready: impl Fn(&EngineName) -> bool) -> bool {
        self.next(ready).is_some()
    }

    pub(crate) fn enqueue(&mut self, caller: Caller, waiting: Waiting) {
        let line = self.waiting.entry(caller).or_default();
        let key = |w: &Waiting| (Reverse(w.priority), w.order);
        let at = line.partition_point(|other| key(other) < key(&waiting));
        line.insert(at, waiting);
        self.changed = true;
    }

    /// A slot that survived a restart.
    pub(crate) fn restore(&mut self, caller: Caller, waiting: Waiting) {
        self.slots.insert(
            waiting.task,
            Slot {
                caller,
                waiting,
                started: true,
            },
        );
        self.changed = true;
    }

    /// Takes the next task out of the queue and gives it a slot.
    pub(crate) fn dispatch(&mut self, ready: impl Fn(&EngineName) -> bool) -> Option<TaskId> {
        let (caller, index) = self.next(ready)?;
        let waiting = self.take_at(&caller, index)?;
        self.tick += 1;
        self.served.insert(caller.clone(), self.tick);
        if self.served.len() > SERVED_KEPT {
            let waiting = &self.waiting;
            self.served.retain(|caller, _| waiting.contains_key(caller));
        }
        let task = waiting.task;
        self.slots.insert(
            task,
            Slot {
                caller,
                waiting,
                started: false,
            },
        );
        Some(task)
    }

    /// Whose turn it is, and which of that caller's tasks.
    fn next(&self, ready: impl Fn(&EngineName) -> bool) -> Option<(Caller, usize)> {
        if self.free() == 0 || self.waiting.is_empty() {
            return None;
        }
        let held = self.held_per_caller();
        self.waiting
            .iter()
            .filter_map(|(caller, line)| {
                let holds = held.get(caller).copied().unwrap_or(0);
                if holds >= self.limits.running_of(caller) {
                    return None;
                }
                let index = line.iter().position(|w| !w.on_hold && ready(&w.engine))?;
                let served = self.served.get(caller).copied().unwrap_or(0);
                Some((holds, served, line.get(index)?.order, caller.clone(), index))
            })
            .min()
            .map(|(_, _, _, caller, index)| (caller, index))
    }

    /// The task made use of its slot.
    pub(crate) fn started(&mut self, task: TaskId) {
        if let Some(slot) = self.slots.get_mut(&task) {
            slot.started = true;
        } else if let Some((caller, waiting)) = self.take(task) {
            self.slots.insert(
                task,
                Slot {
                    caller,
                    waiting,
                    started: true,
                },
            );
        }
    }

    /// The task was put on hold, or released from it. A slot given meanwhile and not used goes back.
    pub(crate) fn hold(&mut self, task: TaskId, on_hold: bool) {
        if let Some(slot) = self.slots.get(&task)
            && !slot.started
            && let Some(slot) = self.slots.remove(&task)
        {
            self.enqueue(slot.caller, slot.waiting);
        }
        for line in self.waiting.values_mut() {
            if let Some(waiting) = line.iter_mut().find(|w| w.task == task) {
                waiting.on_hold = on_hold;
                waiting.holds += u32::from(on_hold);
                self.changed = true;
            }
        }
    }

    /// The task ended. A slot that it used stays taken until [`Self::release`].
    pub(crate) fn ended(&mut self, task: TaskId) {
        self.take(task);
        if self.dispatched(task).is_some() {
            self.slots.remove(&task);
            self.changed = true;
        }
    }

    /// What the task's attempt owned is gone: the slot is free.
    pub(crate) fn release(&mut self, task: TaskId) {
        self.changed |= self.slots.remove(&task).is_some();
    }

    /// Of a task that was given a slot and has not used it yet: the holds that were known then.
    pub(crate) fn dispatched(&self, task: TaskId) -> Option<u32> {
        let slot = self.slots.get(&task).filter(|slot| !slot.started)?;
        Some(slot.waiting.holds)
    }

    /// Waiting tasks in the order in which they would be served if all engines were ready.
    pub(crate) fn order(&self) -> Vec<TaskId> {
        let held = self.held_per_caller();
        let lines: Vec<&[Waiting]> = self.waiting.values().map(Vec::as_slice).collect();
        let mut turns = BinaryHeap::with_capacity(lines.len());
        for (index, (caller, line)) in self.waiting.iter().enumerate() {
            if let Some(first) = line.first() {
                let holds = held.get(caller).copied().unwrap_or(0);
                let served = self.served.get(caller).copied().unwrap_or(0);
                turns.push(Reverse((holds, served, first.order, index, 0_usize)));
            }
        }
        let mut tick = self.tick;
        let mut order = Vec::with_capacity(lines.iter().map(|line| line.len()).sum());
        while let Some(Reverse((holds, _, _, index, place))) = turns.pop() {
            let Some(line) = lines.get(index) else {
                continue;
            };
            order.extend(line.get(place).map(|waiting| waiting.task));
            tick += 1;
            if let Some(next) = line.get(place + 1) {
                turns.push(Reverse((holds + 1, tick, next.order, index, place + 1)));
            }
        }
        order
    }

    fn held_per_caller(&self) -> HashMap<Caller, u32> {
        let mut held = HashMap::new();
        for slot in self.slots.values() {
            *held.entry(slot.caller.clone()).or_default() += 1;
        }
        held
    }

    fn take(&mut self, task: TaskId) -> Option<(Caller, Waiting)> {
        let (caller, index) = self.waiting.iter().find_map(|(caller, line)| {
            line.iter()
                .position(|w| w.task == task)
                .map(|index| (caller.clone(), index))
        })?;
        let waiting = self.take_at(&caller, index)?;
        Some((caller, waiting))
    }

    fn take_at(&mut self, caller: &Caller, index: usize) -> Option<Waiting> {
        let line = self.waiting.get_mut(caller)?;
        let waiting = (index < line.len()).then(|| line.remove(index))?;
        self.changed = true;
        if line.is_empty() {
            self.waiting.remove(caller);
        }
        Some(waiting)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn caller(name: &str) -> Caller {
        Caller {
            token: name.to_owned(),
            agent_id: String::new(),
        }
    }

    fn task(n: u64) -> TaskId {
        TaskId::new(Uuid::from_u128(u128::from(n)))
    }

    fn limits(running: u32, per_caller: u32, queued: u32) -> QueueLimits {
        QueueLimits {
            running,
            running_per_caller: per_caller,
            queued,
            queued_per_caller: queued,
            tokens: BTreeMap::new(),
        }
    }

    fn ledger(
        running: u32,
        per_caller: u32,
        queued: u32,
        tasks: &[(&str, u64, Priority)],
    ) -> Ledger {
        let mut ledger = Ledger::new(limits(running, per_caller, queued));
        for (name, n, priority) in tasks {
            let waiting = Waiting {
                task: task(*n),
                engine: EngineName::new("local"),
                priority: *priority,
                order: *n,
                on_hold: false,
                holds: 0,
            };
            ledger.enqueue(caller(name), waiting);
        }
        ledger
    }

    fn drain(ledger: &mut Ledger) -> Vec<u64> {
        let mut served = Vec::new();
        while let Some(id) = ledger.dispatch(|_| true) {
            served.push(id.uuid().as_u128() as u64);
            ledger.release(id);
        }
        served
    }

    use Priority::{High, Low, Normal};

    #[test]
    fn callers_take_turns_and_priority_orders_within_a_caller() {
        let mut queue = ledger(
            1,
            9,
            99,
            &[
                ("a", 1, Normal),
                ("a", 2, Normal),
                ("a", 3, High),
                ("a", 4, Low),
                ("b", 5, Normal),
                ("b", 6, Normal),
            ],
        );
        let promised: Vec<u64> = queue
            .order()
            .iter()
            .map(|id| id.uuid().as_u128() as u64)
            .collect();
        assert_eq!(promised, [3, 5, 1, 6, 2, 4]);
        assert_eq!(drain(&mut queue), [3, 5, 1, 6, 2, 4]);
    }

    #[test]
    fn limits_hold_for_all_and_for_each_caller() {
        let mut queue = ledger(
            3,
            2,
            99,
            &[
                ("a", 1, Normal),
                ("a", 2, Normal),
                ("a", 3, Normal),
                ("b", 4, Normal),
                ("b", 5, Normal),
            ],
        );
        let mut got = Vec::new();
        while let Some(id) = queue.dispatch(|_| true) {
            got.push(id.uuid().as_u128() as u64);
        }
        assert_eq!(got, [1, 4, 2]);
        queue.release(task(4));
        assert_eq!(
            queue.dispatch(|_| true),
            Some(task(5)),
            "a already holds two"
        );
        assert_eq!(queue.dispatch(|_| true), None);
    }

    #[test]
    fn a_hold_gives_an_unused_slot_back_and_keeps_the_place() {
        let mut queue = ledger(1, 1, 99, &[("a", 1, Normal), ("a", 2, Normal)]);
        assert_eq!(queue.dispatch(|_| true), Some(task(1)));
        queue.hold(task(1), true);
        assert_eq!(queue.active(), 0);
        assert_eq!(queue.dispatch(|_| true), Some(task(2)));
        queue.release(task(2));
        assert_eq!(queue.dispatch(|_| true), None);
        queue.hold(task(1), false);
        assert_eq!(queue.dispatch(|_| true), Some(task(1)));
    }

    #[test]
    fn an_engine_that_is_not_ready_blocks_only_its_own_tasks() {
        let mut queue = ledger(2, 2, 99, &[("a", 1, Normal)]);
        let other = Waiting {
            task: task(2),
            engine: EngineName::new("remote"),
            priority: Normal,
            order: 2,
            on_hold: false,
            holds: 0,
        };
        queue.enqueue(caller("a"), other);
        assert_eq!(
            queue.dispatch(|engine| engine.as_str() == "remote"),
            Some(task(2))
        );
        assert_eq!(queue.dispatch(|engine| engine.as_str() == "remote"), None);
    }

    #[test]
    fn room_counts_free_slots_and_what_is_not_yet_durable() {
        let mut queue = ledger(2, 2, 1, &[]);
        assert!(queue.has_room(2), "two slots and one place are free");
        assert!(!queue.has_room(3));
        let tasks = ledger(
            2,
            2,
            1,
            &[("a", 1, Normal), ("a", 2, Normal), ("a", 3, Normal)],
        );
        queue = tasks;
        queue.dispatch(|_| true);
        queue.dispatch(|_| true);
        assert!(!queue.has_room(0));
    }

    #[test]
    fn a_caller_has_places_of_its_own_and_a_token_may_have_others() {
        let own = CallerLimits {
            running: Some(1),
            queued: Some(3),
        };
        let mut queue = Ledger::new(QueueLimits {
            queued_per_caller: 1,
            tokens: BTreeMap::from([("b".to_owned(), own)]),
            ..limits(2, 2, 99)
        });
        assert_eq!(
            queue.room_for(&caller("a"), 2, 2),
            Ok(()),
            "two slots and a place"
        );
        let (queued, limit) = (3, 1);
        assert_eq!(
            queue.room_for(&caller("a"), 3, 3),
            Err(NoRoom::ForCaller { queued, limit })
        );
        assert_eq!(
            queue.room_for(&caller("b"), 3, 3),
            Ok(()),
            "a slot and three places"
        );
        let (queued, limit) = (4, 3);
        assert_eq!(
            queue.room_for(&caller("b"), 4, 4),
            Err(NoRoom::ForCaller { queued, limit })
        );
        for n in 1..=2 {
            let waiting = Waiting {
                task: task(n),
                engine: EngineName::new("local"),
                priority: Normal,
                order: n,
                on_hold: false,
                holds: 0,
            };
            queue.enqueue(caller("b"), waiting);
        }
        assert_eq!(queue.dispatch(|_| true), Some(task(1)));
        assert_eq!(queue.dispatch(|_| true), None, "b may run one at a time");
        assert!(queue.room_for(&caller("b"), 1, 1).is_ok());
        assert!(queue.room_for(&caller("b"), 2, 2).is_err());
    }
}
