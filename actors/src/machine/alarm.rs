//! Time: when the machine wants to be woken, and what has come due then.
//!
//! In: the state, the limits and the time. Out: the next alarm; expiries, flushes and deadlines when it goes off.

use super::input::Step;
use super::step::Machine;
use crate::event::{Event, Failure, FailureKind, Phase};
use crate::id::WallTime;

/// How long readings may take to say how a run stands before deadlines are judged without them, in milliseconds.
const UNDECIDED_MS: u64 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    Start,
    Running,
    Hard,
}

impl Machine {
    /// When [`Input::Tick`] is wanted next.
    pub fn next_alarm(&self, now: WallTime) -> Option<WallTime> {
        if self.state.phase.is_final() {
            return None;
        }
        let requests = self
            .state
            .requests
            .values()
            .filter(|request| request.answer.is_none())
            .map(|request| request.open.expires_at);
        [
            self.deadline().map(|(at, _)| at.max(self.judged_from())),
            self.live.not_before.filter(|at| *at > now),
            self.reading_alarm(now),
            self.live.observed.flush_at(),
        ]
        .into_iter()
        .flatten()
        .chain(requests)
        .min()
    }

    /// When a reading is due; none where [`Self::advance`] would not start it.
    fn reading_alarm(&self, now: WallTime) -> Option<WallTime> {
        let held_off = self.live.not_before.is_some_and(|at| at > now);
        let reads = match self.state.phase {
            Phase::Running | Phase::InputRequired => true,
            Phase::Starting => self.state.session.is_some() && !held_off,
            Phase::Paused => self.is_watched_pause(),
            Phase::Queued
            | Phase::Finishing
            | Phase::Completed
            | Phase::Failed
            | Phase::Timeout
            | Phase::Cancelled => false,
        };
        self.live
            .read_at
            .filter(|_| reads && self.live.engine_up && !self.live.reading)
    }

    /// Deadlines are judged only when it is known how the run stands, after a recovery and while the second of two
    /// readings is awaited: it may have ended in time.
    fn judged_from(&self) -> WallTime {
        self.live
            .undecided_since
            .map_or(WallTime(i64::MIN), |since| since.plus_ms(UNDECIDED_MS))
    }

    /// The nearest deadline and what it means.
    fn deadline(&self) -> Option<(WallTime, Deadline)> {
        let started = self.state.started_at?;
        let hard = (
            started.plus_ms(self.limits.hard_deadline_ms),
            Deadline::Hard,
        );
        let soft = match self.state.phase {
            Phase::Starting => Some((
                self.state.phase_since.plus_ms(self.limits.start_timeout_ms),
                Deadline::Start,
            )),
            Phase::Running => self.state.running_since.map(|since| {
                let left = self
                    .state
                    .spec
                    .timeout_ms
                    .saturating_sub(self.state.running_ms);
                (since.plus_ms(left), Deadline::Running)
            }),
            Phase::Queued | Phase::Paused | Phase::InputRequired => None,
            Phase::Finishing
            | Phase::Completed
            | Phase::Failed
            | Phase::Timeout
            | Phase::Cancelled => return None,
        };
        Some(soft.map_or(hard, |soft| if soft.0 <= hard.0 { soft } else { hard }))
    }

    /// How long the task may go on from now, in milliseconds.
    pub(super) fn time_left(&self, now: WallTime) -> u64 {
        self.deadline().map_or(u64::MAX, |(at, _)| at.ms_since(now))
    }

    pub(super) fn tick(&mut self, now: WallTime, out: &mut Step) {
        if self.live.not_before.is_some_and(|at| at <= now) {
            self.live.not_before = None;
        }
        self.expire_requests(now, out);
        if self.live.observed.flush_at().is_some_and(|at| at <= now) {
            self.flush(now, out);
        }
        if let Some((at, deadline)) = self.deadline()
            && at <= now
            && self.judged_from() <= now
        {
            self.deadline_passed(deadline, now, out);
        }
    }

    fn deadline_passed(&mut self, deadline: Deadline, now: WallTime, out: &mut Step) {
        self.flush(now, out);
        let running_ms = self.state.running_at(now);
        let message = match deadline {
            Deadline::Start => {
                let seconds = self.limits.start_timeout_ms / 1000;
                let failure = Failure {
                    kind: FailureKind::Engine,
                    message: format!(
                        "the task did not get started within {seconds} s (it {}); see health for the engine's state",
                        self.state.doing
                    ),
                };
                self.fail(failure, now, out);
                return;
            }
            Deadline::Running => format!(
                "it ran longer than the {} s allowed by timeout_ms; its files are kept, submit again with a longer timeout_ms or a smaller task",
                self.state.spec.timeout_ms / 1000
            ),
            Deadline::Hard => format!(
                "it was not done {} h after its start, pauses and open requests included",
                self.limits.hard_deadline_ms / 3_600_000
            ),
        };
        self.emit(
            now,
            out,
            Event::TaskTimedOut {
                message,
                running_ms,
            },
        );
    }
}
