//! Watchdogs: what ends or wakes a run that does not end by itself.
//!
//! In: readings of a session that works, and what was heard of it. Out: a warning, a nudge (the run is ended and the worker
//! asked to go on in the same session), or the end of the run with a reason. Only a reading that succeeded is judged: an
//! engine that does not answer says nothing about its tasks. What was reached is folded from events, so that a restart
//! of Chargehand begins no ladder anew.

use super::input::Step;
use super::prompt::duration;
use super::step::{Machine, POLL_MS};
use crate::event::{AbortReason, Event, Phase, Watchdog};
use crate::id::WallTime;
use crate::ports::{Activity, SessionReport};

/// How often one task is asked to go on.
const MAX_NUDGES: u32 = 2;
/// After a start of Chargehand or a gap in the readings, a run is listened to for so long before silence is acted on, in
/// milliseconds: a model that streams a long answer leaves nothing in the record while it does.
const LISTEN_MS: u64 = 30_000;
/// Readings this far apart are a gap in which nothing could be heard, in milliseconds. Without news they are 15 s apart.
const DEAF_MS: u64 = 60_000;
/// A stream that is open again after so long was away for too short a time to matter, in milliseconds.
const BLINK_MS: u64 = 5_000;
/// Text that flows is journaled as a sign of work this often, in milliseconds.
const PULSE_MS: u64 = 30_000;
/// A provider that wants to be left alone for so long, and longer than the task has, ends the run at once, in milliseconds.
/// A shorter wait is waited for: the task's own timeout says what happened.
const LONG_WAIT_MS: u64 = 60_000;
/// In how many answers in a row a provider may speak of a quota before it is believed to be used up: some call a limit per
/// minute a quota, too.
const QUOTA_REPEATS: u32 = 3;

/// What was heard of the run in this life of the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hearing {
    /// The newest sign of work.
    heard_at: Option<WallTime>,
    /// The newest reading that succeeded.
    read_at: Option<WallTime>,
    /// Readings have succeeded without a gap since, and the stream was open.
    listening_since: Option<WallTime>,
    /// The stream is broken since.
    lost_since: Option<WallTime>,
    /// From the reading before (or from a sign of work since) to the newest one, in milliseconds.
    since_last_ms: u64,
    /// The sign of work that `deaf_ms` counts from.
    base: Option<WallTime>,
    /// Time since the newest sign of work that is no silence: nothing could be heard, or nothing ran. In milliseconds.
    deaf_ms: u64,
}

impl Hearing {
    /// The run shows a sign of work.
    pub(super) fn heard(&mut self, now: WallTime) {
        self.heard_at = Some(now);
        self.deaf_ms = 0;
    }

    /// The stream broke: readings go on, but what leaves nothing in the record is not heard.
    pub(super) fn lost(&mut self, now: WallTime) {
        self.lost_since.get_or_insert(now);
    }

    /// The stream is open.
    pub(super) fn regained(&mut self, now: WallTime) {
        if self.is_deaf(now) {
            self.listening_since = None;
        }
        self.lost_since = None;
    }

    fn is_deaf(&self, now: WallTime) -> bool {
        self.lost_since
            .is_some_and(|since| now.ms_since(since) > BLINK_MS)
    }

    /// A reading succeeded; the record's newest sign of work is `worked_at`.
    pub(super) fn read(&mut self, worked_at: Option<WallTime>, now: WallTime) {
        let base = worked_at.max(self.heard_at);
        if base > self.base {
            self.base = base;
            self.deaf_ms = 0;
        }
        let before = self.read_at.replace(now);
        self.since_last_ms = before.max(base).map_or(0, |from| now.ms_since(from));
        let listened = self.listening_since.is_some() && !self.is_deaf(now);
        match before {
            Some(at) if listened && now.ms_since(at) <= DEAF_MS => return,
            Some(_) => self.discount(),
            // Time in which Chargehand was down counts.
            None => {}
        }
        self.listening_since = (!self.is_deaf(now)).then_some(now);
    }

    /// The time up to this reading is no silence, and no sign of work either.
    pub(super) fn discount(&mut self) {
        self.deaf_ms += std::mem::take(&mut self.since_last_ms);
    }
}

/// How sure a provider's words are that no money or quota is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quota {
    No,
    Perhaps,
    Surely,
}

fn quota(words: &str) -> Quota {
    const SURELY: [&str; 8] = [
        "insufficient_quota",
        "free usage exceeded",
        "insufficient credit",
        "insufficient balance",
        "insufficient funds",
        "credit balance is too low",
        "out of credits",
        "payment required",
    ];
    const PERHAPS: [&str; 5] = ["quota", "billing", "credit", "usage limit", "plan limit"];
    let words = words.to_lowercase();
    let has = |list: &[&str]| list.iter().any(|part| words.contains(part));
    if has(&SURELY) {
        Quota::Surely
    } else if has(&PERHAPS) {
        Quota::Perhaps
    } else {
        Quota::No
    }
}

impl Machine {
    /// Judges a run that works. Whether it was stopped.
    pub(super) fn watch(&mut self, report: &SessionReport, now: WallTime, out: &mut Step) -> bool {
        let end = self
            .endless_loop(report)
            .or_else(|| self.too_many_steps(report))
            .or_else(|| self.too_many_retries(report, now));
        match end {
            Some(detail) => {
                self.stop_run(AbortReason::Watchdog, detail, now, out);
                true
            }
            None => self.watch_silence(report, now, out),
        }
    }

    fn endless_loop(&self, report: &SessionReport) -> Option<String> {
        (report.unfinished_in_a_row >= self.limits.max_unfinished).then(|| {
            format!(
                "the model ended {} answers in a row without a finish reason; OpenCode repeats such a call for ever. Check the model provider",
                report.unfinished_in_a_row
            )
        })
    }

    /// The steps that the task may take; 0 = any number.
    pub(super) fn step_limit(&self) -> u32 {
        let own = self.state.spec.max_steps.unwrap_or(0);
        match (self.limits.max_steps, own) {
            (limit, 0) | (0, limit) => limit,
            (limit, own) => limit.min(own),
        }
    }

    fn too_many_steps(&self, report: &SessionReport) -> Option<String> {
        let limit = self.step_limit();
        let counted = self.live.observed.steps_with(self.state.steps);
        let steps = counted.max(report.steps);
        (limit > 0 && steps > limit).then(|| {
            format!(
                "it took more than the {limit} model steps allowed; its files are kept, submit again with a larger max_steps or a smaller task"
            )
        })
    }

    fn too_many_retries(&self, report: &SessionReport, now: WallTime) -> Option<String> {
        let Activity::Retrying {
            attempt,
            message,
            next,
        } = &report.activity
        else {
            return None;
        };
        let limit = self.limits.max_provider_retries;
        match quota(message) {
            Quota::Surely => return Some(quota_is_used_up(message)),
            Quota::Perhaps if *attempt >= QUOTA_REPEATS => return Some(quota_is_used_up(message)),
            Quota::Perhaps | Quota::No => {}
        }
        if limit > 0 && *attempt > limit {
            return Some(format!(
                "the model provider refused {attempt} times in a row, {limit} are allowed; its words: {message}. Submit again when it works"
            ));
        }
        let left = self.time_left(now);
        let wait = next.map_or(0, |next| next.ms_since(now));
        (wait > left && wait >= LONG_WAIT_MS).then(|| {
            format!(
                "the model provider wants to be asked again only in {}, and the task has only {} left; its words: {message}",
                duration(wait),
                duration(left)
            )
        })
    }

    /// Warns of, wakes or ends a run of which nothing is heard. Whether it was stopped.
    fn watch_silence(&mut self, report: &SessionReport, now: WallTime, out: &mut Step) -> bool {
        let waits = report.activity != Activity::Busy
            || self.state.phase != Phase::Running
            || !report.requests.is_empty()
            || !report.running_tools.is_empty();
        if waits {
            self.live.hearing.heard(now);
            return false;
        }
        let Some(since) = self.silent_since(report, now) else {
            return false;
        };
        let silence = now
            .ms_since(since)
            .saturating_sub(self.live.hearing.deaf_ms);
        let listened = self
            .live
            .hearing
            .listening_since
            .map_or(0, |at| now.ms_since(at));
        let listen = self.listen_ms();
        if listened < listen {
            self.read_by(now.plus_ms((listen - listened).min(POLL_MS)));
            return false;
        }
        self.act_on_silence(since, silence, now, out)
    }

    /// The next rung of the ladder that is due, and no more than one.
    fn act_on_silence(
        &mut self,
        since: WallTime,
        silence: u64,
        now: WallTime,
        out: &mut Step,
    ) -> bool {
        let limits = self.limits;
        let (warn, nudge, fail) = (
            limits.silence_warn_ms,
            limits.silence_nudge_ms,
            limits.silence_fail_ms,
        );
        let in_this_silence = |at: Option<WallTime>| at.filter(|at| *at >= since);
        let nudged = in_this_silence(self.state.nudged_at);
        let may_nudge = nudge > 0
            && (fail == 0 || nudge < fail)
            && nudged.is_none()
            && self.state.nudges < MAX_NUDGES;
        // After a nudge the worker has the time that the ladder gives it, however late the nudge came.
        let given_time = nudged.is_none_or(|at| now.ms_since(at) >= fail.saturating_sub(nudge));
        if may_nudge && silence >= nudge {
            let message = format!(
                "nothing was heard from the worker for {} although it says that it works: the hung call is stopped and the worker asked to go on (time {} of {MAX_NUDGES})",
                duration(silence),
                self.state.nudges + 1
            );
            self.warn(message.clone(), now, out);
            self.stop_run(AbortReason::Nudge, message, now, out);
            return true;
        }
        if fail > 0 && silence >= fail && !may_nudge && given_time {
            let asked = match self.state.nudges {
                0 => "",
                _ => ", also after it was asked to go on",
            };
            let message = format!(
                "nothing was heard from the worker for {} although it said that it works{asked}; its files are kept. The model provider hangs, or silence_fail_s is too short for it",
                duration(silence)
            );
            self.stop_run(AbortReason::Watchdog, message, now, out);
            return true;
        }
        if warn > 0 && silence >= warn && in_this_silence(self.state.warned_at).is_none() {
            let next = match (may_nudge, fail) {
                (true, _) => format!(
                    "; after {} it is stopped and asked to go on",
                    duration(nudge)
                ),
                (false, 0) => String::new(),
                (false, fail) => format!("; after {} the task fails", duration(fail)),
            };
            let message = format!(
                "nothing was heard from the worker for {} although it says that it works{next}",
                duration(silence)
            );
            self.warn(message, now, out);
        }
        let rungs = [warn, if may_nudge { nudge } else { 0 }, fail];
        // Not later than the next look that is due anyway: only a run that is looked at is listened to.
        if let Some(next) = rungs.into_iter().filter(|rung| *rung > silence).min() {
            self.read_by(now.plus_ms((next - silence).min(POLL_MS)));
        }
        false
    }

    /// Since when nothing is heard; none before anything could be.
    fn silent_since(&mut self, report: &SessionReport, now: WallTime) -> Option<WallTime> {
        let recorded = report.newest_at.map(|at| at.min(now));
        let known = self.state.worked_at.max(self.live.hearing.heard_at);
        if recorded > known {
            // Done while nobody listened, or told by the record before the stream told it.
            self.live.hearing.heard_at = recorded;
            self.live.hearing.deaf_ms = 0;
        }
        known.max(recorded)
    }

    fn listen_ms(&self) -> u64 {
        let limits = &self.limits;
        let rungs = [
            limits.silence_warn_ms,
            limits.silence_nudge_ms,
            limits.silence_fail_ms,
        ];
        rungs
            .into_iter()
            .filter(|rung| *rung > 0)
            .min()
            .map_or(LISTEN_MS, |first| first.min(LISTEN_MS))
    }

    fn warn(&mut self, message: String, now: WallTime, out: &mut Step) {
        let watchdog = Watchdog::Silence;
        self.emit(now, out, Event::WatchdogWarned { watchdog, message });
    }

    /// Ends the run from our side; what comes after depends on the reason.
    fn stop_run(&mut self, reason: AbortReason, detail: String, now: WallTime, out: &mut Step) {
        self.flush(now, out);
        self.close_requests(now, out);
        self.live.abort_done = false;
        self.emit(now, out, Event::AbortWanted { reason, detail });
    }

    /// Whether text that flows is to be journaled as a sign of work.
    pub(super) fn pulse_is_due(&self, now: WallTime) -> bool {
        self.state
            .worked_at
            .is_none_or(|at| now.ms_since(at) >= PULSE_MS)
    }
}

fn quota_is_used_up(words: &str) -> String {
    format!(
        "the model provider says that a quota or credit is used up; its words: {words}. Waiting does not help: check the provider's account, or submit again with another model"
    )
}
