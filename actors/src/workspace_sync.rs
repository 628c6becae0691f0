//! What the supervisor of memories does besides: who may have one, whether the other side works, what was left there.
//!
//! In: tasks that want a place or may leave theirs, results of its own jobs. Out: places granted and taken back, the health of
//! the part `memory`, removal of memories that no task has (a crash, a hand, a day without Chargehand left them).

use std::sync::Arc;
use std::time::Duration;

use crate::id::TaskId;
use crate::jobs::JobEnd;
use crate::outward::{OutwardMsg, OutwardState};
use crate::outward_child::ChildHandle;
use crate::places::{Moves, Places};
use crate::ports::{LeftMemory, PlannerError};
use crate::task_memory::MemoryMsg;
use crate::view::HealthState;
use crate::wiring::Wires;

/// How often it is looked whether the other side works, when it did not …
const TICK: Duration = Duration::from_secs(60);
/// … and when it did, and how often what was left there is removed: in ticks.
const PROBE_TICKS: u32 = 10;
const SWEEP_TICKS: u32 = 60;
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
const SWEEP_DEADLINE: Duration = Duration::from_secs(120);

/// State of the upkeep.
#[derive(Debug)]
pub(crate) struct Upkeep {
    places: Places,
    ticks: u32,
    begun: bool,
    swept: bool,
}

pub(crate) enum UpkeepMsg {
    Tick,
    Probed(JobEnd<Result<String, PlannerError>>),
    Left(JobEnd<Result<Vec<LeftMemory>, PlannerError>>),
    Removed(JobEnd<Result<(), PlannerError>>),
}

impl Upkeep {
    pub(crate) fn new(wires: &Wires) -> Self {
        Self {
            places: Places::new(wires.settings.memory.per_agent),
            ticks: 0,
            begun: false,
            swept: false,
        }
    }
}

impl OutwardState {
    pub(crate) fn wants_place(&mut self, task: TaskId, agent: &str) {
        let moves = self.upkeep.places.ask(task, agent);
        self.tell_moves(&moves);
    }

    pub(crate) fn may_leave(&mut self, task: TaskId) {
        let moves = self.upkeep.places.ended(task);
        self.tell_moves(&moves);
    }

    pub(crate) fn left(&mut self, task: TaskId) {
        let moves = self.upkeep.places.left(task);
        self.tell_moves(&moves);
    }

    fn tell_moves(&self, moves: &Moves) {
        let tell = |task: &TaskId, message: MemoryMsg| {
            if let Some(ChildHandle::Memory(handle)) =
                self.children.get(task).map(|child| &child.handle)
            {
                handle.tell(message);
            }
        };
        for task in &moves.granted {
            tell(task, MemoryMsg::Placed);
        }
        for task in &moves.evicted {
            tell(task, MemoryMsg::GiveUp);
        }
    }

    /// Begins once, when all children of an earlier life are there.
    pub(crate) fn begin_upkeep(&mut self) {
        if !self.upkeep.begun {
            self.upkeep.begun = true;
            self.keep_up(UpkeepMsg::Tick);
        }
    }

    pub(crate) fn keep_up(&mut self, message: UpkeepMsg) {
        match message {
            UpkeepMsg::Tick => self.tick(),
            UpkeepMsg::Probed(end) => self.probed(end),
            UpkeepMsg::Left(end) => self.found_left(end),
            UpkeepMsg::Removed(end) => {
                self.slot.clear_jobs();
                if let Err(error) = end.or_else(PlannerError::Unavailable) {
                    tracing::warn!(%error, "memories of tasks that are over could not be removed; trying again in an hour");
                }
            }
        }
    }

    fn tick(&mut self) {
        self.jobs.after(TICK, OutwardMsg::Upkeep(UpkeepMsg::Tick));
        let ticks = self.upkeep.ticks;
        self.upkeep.ticks = ticks.wrapping_add(1);
        if ticks.is_multiple_of(SWEEP_TICKS) {
            self.upkeep.swept = false;
        }
        let works = self.wires.parts.state("memory") == Some(HealthState::Ok);
        if !works || !self.upkeep.swept || ticks.is_multiple_of(PROBE_TICKS) {
            let memory = Arc::clone(&self.wires.ports.memory);
            let id = self.jobs.start(
                PROBE_DEADLINE,
                async move { memory.probe().await },
                |_, end| OutwardMsg::Upkeep(UpkeepMsg::Probed(end)),
            );
            self.slot.job_started(id.0, "probe");
        }
    }

    fn probed(&mut self, end: JobEnd<Result<String, PlannerError>>) {
        self.slot.clear_jobs();
        let now = self.wires.now();
        match end.or_else(PlannerError::Unavailable) {
            Ok(what) => {
                self.wires.parts.is("memory", what, now);
                if !self.upkeep.swept {
                    self.upkeep.swept = true;
                    self.sweep();
                }
            }
            Err(error) => self.wires.parts.fails("memory", error.to_string(), now),
        }
    }

    fn sweep(&mut self) {
        let memory = Arc::clone(&self.wires.ports.memory);
        let id = self.jobs.start(
            SWEEP_DEADLINE,
            async move { memory.left().await },
            |_, end| OutwardMsg::Upkeep(UpkeepMsg::Left(end)),
        );
        self.slot.job_started(id.0, "sweep");
    }

    /// What no child of ours answers for is nobody's. A memory is made only by a child, so none of these is new.
    fn found_left(&mut self, end: JobEnd<Result<Vec<LeftMemory>, PlannerError>>) {
        self.slot.clear_jobs();
        let mut left = match end.or_else(PlannerError::Unavailable) {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(%error, "memories of tasks that are over could not be listed; trying again in an hour");
                return;
            }
        };
        left.retain(|one| !self.children.contains_key(&one.task));
        if left.is_empty() {
            return;
        }
        tracing::info!(
            count = left.len(),
            "memories of tasks that are over are removed"
        );
        let memory = Arc::clone(&self.wires.ports.memory);
        let removing = async move {
            for one in left {
                memory.remove(one).await?;
            }
            Ok(())
        };
        let id = self.jobs.start(SWEEP_DEADLINE, removing, |_, end| {
            OutwardMsg::Upkeep(UpkeepMsg::Removed(end))
        });
        self.slot.job_started(id.0, "remove");
    }
}
