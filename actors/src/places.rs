//! Who of an agent's tasks may have a memory: each memory takes room in the agent's prompt, so only so many are there at once.
//!
//! In: tasks that ask, that end, that leave. Out: whose turn it is, and which ended task gives up its place for another. Pure.

use std::collections::{HashMap, VecDeque};

use crate::id::TaskId;

/// Places by agent.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    agents: HashMap<String, Agent>,
    tasks: HashMap<TaskId, String>,
}

#[derive(Debug, Default)]
struct Agent {
    /// Oldest first.
    holders: Vec<Holder>,
    waiting: VecDeque<TaskId>,
}

#[derive(Debug)]
struct Holder {
    task: TaskId,
    ended: bool,
    /// Was told to go.
    leaving: bool,
}

/// What follows from a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    /// These have a place now.
    pub(crate) granted: Vec<TaskId>,
    /// These must give theirs up.
    pub(crate) evicted: Vec<TaskId>,
}

impl Places {
    /// With so many places for each agent.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            agents: HashMap::new(),
            tasks: HashMap::new(),
        }
    }

    /// A task wants a place; a repeat (its actor was started again) changes nothing.
    pub(crate) fn ask(&mut self, task: TaskId, agent: &str) -> Moves {
        let known = self.tasks.insert(task, agent.to_owned()).is_some();
        let of = self.agents.entry(agent.to_owned()).or_default();
        if known && of.holders.iter().any(|holder| holder.task == task) {
            return Moves {
                granted: vec![task],
                evicted: Vec::new(),
            };
        }
        if !of.waiting.contains(&task) {
            of.waiting.push_back(task);
        }
        of.settle(self.most)
    }

    /// A task that holds a place has ended and shows its result: it may be asked to leave.
    pub(crate) fn ended(&mut self, task: TaskId) -> Moves {
        let most = self.most;
        let Some(agent) = self.tasks.get(&task) else {
            return Moves::default();
        };
        let Some(of) = self.agents.get_mut(agent) else {
            return Moves::default();
        };
        for holder in of.holders.iter_mut().filter(|holder| holder.task == task) {
            holder.ended = true;
        }
        of.settle(most)
    }

    /// A task needs no place any more.
    pub(crate) fn left(&mut self, task: TaskId) -> Moves {
        let Some(agent) = self.tasks.remove(&task) else {
            return Moves::default();
        };
        let Some(of) = self.agents.get_mut(&agent) else {
            return Moves::default();
        };
        of.holders.retain(|holder| holder.task != task);
        of.waiting.retain(|waiting| *waiting != task);
        let moves = of.settle(self.most);
        if of.holders.is_empty() && of.waiting.is_empty() {
            self.agents.remove(&agent);
        }
        moves
    }
}

impl Agent {
    /// Fills free places, and frees as many more as are waited for, the oldest ended tasks first.
    fn settle(&mut self, most: usize) -> Moves {
        let mut moves = Moves::default();
        while self.holders.len() < most {
            let Some(task) = self.waiting.pop_front() else {
                break;
            };
            self.holders.push(Holder {
                task,
                ended: false,
                leaving: false,
            });
            moves.granted.push(task);
        }
        let leaving = self.holders.iter().filter(|holder| holder.leaving).count();
        let wanted = self.waiting.len().saturating_sub(leaving);
        let idle = self
            .holders
            .iter_mut()
            .filter(|holder| holder.ended && !holder.leaving);
        for holder in idle.take(wanted) {
            holder.leaving = true;
            moves.evicted.push(holder.task);
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{Moves, Places};
    use crate::id::TaskId;

    fn task(number: u128) -> TaskId {
        TaskId::new(Uuid::from_u128(number))
    }

    fn granted(tasks: &[TaskId]) -> Moves {
        Moves {
            granted: tasks.to_vec(),
            evicted: Vec::new(),
        }
    }

    #[test]
    fn the_oldest_ended_task_gives_its_place_to_the_next_one() {
        let mut places = Places::new(2);
        let [a, b, c, d] = [1, 2, 3, 4].map(task);
        assert_eq!(places.ask(a, "agent"), granted(&[a]));
        assert_eq!(places.ask(b, "agent"), granted(&[b]));
        assert_eq!(places.ask(c, "agent"), Moves::default(), "both still run");
        assert_eq!(places.ask(task(9), "another"), granted(&[task(9)]));
        let moves = places.ended(b);
        assert_eq!(moves.evicted, [b]);
        assert_eq!(places.ended(a), Moves::default(), "one waits, one leaves");
        assert_eq!(places.ask(d, "agent").evicted, [a]);
        assert_eq!(places.left(b), granted(&[c]));
        assert_eq!(places.left(a), granted(&[d]));
        assert_eq!(places.left(c), Moves::default());
    }

    #[test]
    fn a_task_that_asks_again_keeps_what_it_has_and_one_that_left_waits_no_more() {
        let mut places = Places::new(1);
        let [a, b, c] = [1, 2, 3].map(task);
        assert_eq!(places.ask(a, "agent"), granted(&[a]));
        assert_eq!(places.ask(a, "agent"), granted(&[a]));
        assert_eq!(places.ask(b, "agent"), Moves::default());
        assert_eq!(places.ask(b, "agent"), Moves::default());
        assert_eq!(places.ask(c, "agent"), Moves::default());
        assert_eq!(places.left(b), Moves::default());
        assert_eq!(places.left(a), granted(&[c]));
    }
}
