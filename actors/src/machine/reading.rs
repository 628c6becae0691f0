//! Readings of the session's record: what a report changes, and when a verdict about the run is believed.
//!
//! In: [`SessionReport`]s. Out: events. An end is believed when two readings agree; a reading that fails says nothing.

use super::decide::{TAKE_UP_GRACE_MS, Verdict, decide};
use super::input::{Context, ReadResult, Step};
use super::prompt;
use super::step::Machine;
use crate::event::{
    AbortReason, Event, Failure, FailureKind, Outcome, PauseKind, Phase, PromptKind,
};
use crate::id::WallTime;
use crate::ports::{Activity, EngineError, LastMessage, SessionReport};

/// Between the two readings that must agree before a run is believed to be lost, in milliseconds.
const GONE_MS: u64 = 300;

/// The same for a session whose deletion no signal told: another server may answer at the address for a moment, or the same one on
/// other data, while the right one is started again.
const GONE_UNTOLD_MS: u64 = 10_000;

/// A lost run is looked for again so soon, in milliseconds.
const LOST_EVERY_MS: u64 = 1_000;

/// A reading that took longer than this, in milliseconds, may show what was long ago.
const FRESH_MS: u64 = 1_000;

/// So many readings in a row may be called old; on an engine that is always slow the next one counts.
const DOUBTED: u32 = 5;

impl Machine {
    pub(super) fn session_read(
        &mut self,
        result: ReadResult,
        cx: &mut Context<'_>,
        out: &mut Step,
    ) {
        self.live.reading = false;
        let is_old = std::mem::take(&mut self.live.reading_is_old);
        let is_doubted = self.is_doubted(cx.now);
        match result {
            Ok(report) => {
                self.live.lost = None;
                self.stage_worked();
                if is_doubted
                    && matches!(
                        self.live.verdict,
                        Some(Verdict::Resend(_) | Verdict::Resume(_))
                    )
                {
                    // What it says is there is there; nothing is repeated because of what it does not show.
                    self.live.verdict = None;
                }
                self.report(&report, cx, out);
                if !self.live.told {
                    self.catch_up(&report, cx.now);
                }
                let misses = is_doubted && self.misses_a_prompt(&report);
                self.live.must_read |= is_old || misses;
            }
            Err(EngineError::SessionGone) => {
                let message = "the session was deleted in the engine by somebody else, or its data was lost; submit the task again".to_owned();
                let kind = FailureKind::SessionGone;
                let patience = if self.live.deleted {
                    GONE_MS
                } else {
                    GONE_UNTOLD_MS
                };
                self.run_lost(Failure { kind, message }, patience, cx.now, out);
            }
            Err(EngineError::Ended(message)) => {
                let kind = FailureKind::WorkerLost;
                self.run_lost(Failure { kind, message }, GONE_MS, cx.now, out);
            }
            // Says nothing about the task: read again later.
            Err(_) => {
                self.live.lost = None;
                self.back_off(cx.now);
                let again = self.live.not_before.unwrap_or(cx.now);
                self.live.read_at = Some(again);
            }
        }
    }

    /// Whether the reading that ends now may be older than it looks: it took long, or the session did something meanwhile.
    fn is_doubted(&mut self, now: WallTime) -> bool {
        let since = self.live.reading_since.take();
        let is_late = since.is_some_and(|since| now.ms_since(since) > FRESH_MS);
        if (is_late || self.live.stirred) && self.live.doubted_readings < DOUBTED {
            self.live.doubted_readings += 1;
            return true;
        }
        self.live.doubted_readings = 0;
        false
    }

    /// Whether a prompt that may have arrived is not in this report.
    fn misses_a_prompt(&self, report: &SessionReport) -> bool {
        self.state.prompts.iter().any(|record| {
            let stored = report.prompts.iter().any(|seen| {
                seen.message_id == record.prompt.message_id && seen.stored && seen.complete
            });
            record.is_open() && record.accepted_at.is_none() && !stored
        })
    }

    /// The run cannot go on; believed when readings say the same for `patience` milliseconds, two at least.
    fn run_lost(&mut self, failure: Failure, patience: u64, now: WallTime, out: &mut Step) {
        let since = match &self.live.lost {
            Some((before, since)) if *before == failure => Some(*since),
            Some(_) | None => None,
        };
        let waited = since.map_or(0, |since| now.ms_since(since));
        if since.is_none() || waited < patience {
            self.live.lost = Some((failure.clone(), since.unwrap_or(now)));
            let again = now.plus_ms((patience - waited).min(LOST_EVERY_MS));
            self.live.not_before = Some(again);
            self.live.read_at = Some(again);
            return;
        }
        match self.state.phase {
            Phase::Starting | Phase::Running | Phase::InputRequired => {
                self.run_ended(Outcome::Failed { failure }, now, out);
            }
            // A resume will tell.
            Phase::Paused => self.live.must_read = false,
            Phase::Queued
            | Phase::Finishing
            | Phase::Completed
            | Phase::Failed
            | Phase::Timeout
            | Phase::Cancelled => {}
        }
    }

    fn report(&mut self, report: &SessionReport, cx: &mut Context<'_>, out: &mut Step) {
        let now = cx.now;
        self.live.hearing.read(self.state.worked_at, now);
        match self.state.phase {
            Phase::Starting | Phase::Running | Phase::InputRequired => {}
            Phase::Paused if self.is_watched_pause() => {}
            Phase::Queued
            | Phase::Paused
            | Phase::Finishing
            | Phase::Completed
            | Phase::Failed
            | Phase::Timeout
            | Phase::Cancelled => return,
        }
        self.live.must_read = false;
        if self.state.worker.as_ref() != Some(&report.worker) {
            self.emit(
                now,
                out,
                Event::WorkerChanged {
                    worker: report.worker.clone(),
                },
            );
        }
        self.sync_prompts(report, now, out);
        if self.state.phase == Phase::Paused {
            self.live.undecided_since = None;
            if report.activity != Activity::Idle {
                self.end_escaped_run(out);
            }
            return;
        }
        if self.state.abort.is_some() {
            self.live.undecided_since = None;
            if self.live.abort_done {
                self.abort_reading(report, cx, out);
            }
            return;
        }
        self.sync_requests(report, now, out);
        self.judge(report, now, out);
    }

    /// Records how far the prompts got.
    fn sync_prompts(&mut self, report: &SessionReport, now: WallTime, out: &mut Step) {
        for seen in &report.prompts {
            let Some(record) = self
                .state
                .prompts
                .iter()
                .find(|r| r.prompt.message_id == seen.message_id)
            else {
                continue;
            };
            let number = record.prompt.number;
            let carries = record.prompt.carries.clone();
            let (accepted, was_seen, open) =
                (record.accepted_at.is_some(), record.seen, record.is_open());
            if seen.stored && seen.complete && !accepted {
                self.emit(now, out, Event::PromptAccepted { number });
                self.live.hints.sent_at = None;
            }
            if seen.taken_up && open {
                self.emit(now, out, Event::PromptTakenUp { number });
                if let Some(message_id) = carries {
                    self.emit(now, out, Event::MessageTakenUp { message_id });
                }
            } else if seen.stored && seen.complete && !was_seen {
                self.emit(now, out, Event::PromptSeen { number });
            }
        }
    }

    fn judge(&mut self, report: &SessionReport, now: WallTime, out: &mut Step) {
        if report.activity == Activity::Idle {
            // A session that does nothing is judged by its record, not by its silence.
            self.live.hearing.discount();
        } else if self.watch(report, now, out) {
            return;
        }
        let verdict = decide(
            &self.state,
            report,
            &self.live.hints,
            self.limits.max_resumes,
            now,
        );
        match &verdict {
            Verdict::Working => {
                self.live.repeated_at = None;
                self.live.verdict = None;
                self.live.undecided_since = None;
                return;
            }
            Verdict::Wait => {
                self.live.verdict = None;
                self.live.undecided_since = None;
                self.read_by(now.plus_ms(500));
                return;
            }
            // What is on its way may be what is missed: it is repeated by a reading that began when nothing was.
            Verdict::Resend(_) | Verdict::Resume(_) if !self.may_repeat(now) => {
                self.live.verdict = None;
                self.live.undecided_since = None;
                self.read_by(now.plus_ms(500));
                return;
            }
            Verdict::Resend(_) | Verdict::Resume(_) | Verdict::Ended(_) => {}
        }
        if self.live.verdict.as_ref() != Some(&verdict) {
            // Seen once: believed when a second reading says the same.
            let settle = settle_ms(&verdict);
            self.live.verdict = Some(verdict);
            self.live.undecided_since.get_or_insert(now);
            self.live.read_at = Some(now.plus_ms(settle));
            return;
        }
        self.live.verdict = None;
        self.live.undecided_since = None;
        self.act(verdict, report, now, out);
    }

    /// Whether a prompt that is to be repeated would be sent at once: a wish that stays while things go on repeats too much.
    fn may_repeat(&self, now: WallTime) -> bool {
        let held_off = self.live.not_before.is_some_and(|at| at > now);
        self.live.engine_up && self.live.sending.is_none() && !held_off
    }

    fn act(&mut self, verdict: Verdict, report: &SessionReport, now: WallTime, out: &mut Step) {
        match verdict {
            Verdict::Working | Verdict::Wait => {}
            Verdict::Resend(number) => {
                self.live.hints.sent_at = Some(now);
                self.live.repeated_at = Some(now);
                self.live.resend = Some(number);
            }
            Verdict::Resume(reason) => {
                let newest = self
                    .state
                    .prompts
                    .iter()
                    .rev()
                    .find(|record| !record.superseded);
                self.live.resend = newest.map(|record| record.prompt.number);
                self.live.hints.sent_at = Some(now);
                self.live.repeated_at = Some(now);
                let resume = self.state.resumes + 1;
                self.emit(now, out, Event::ResumeWanted { resume, reason });
            }
            Verdict::Ended(outcome) => {
                self.take_record(report, now, out);
                self.close_requests(now, out);
                self.run_ended(outcome, now, out);
            }
        }
    }

    /// The engine's totals replace what was counted from the stream.
    fn take_record(&mut self, report: &SessionReport, now: WallTime, out: &mut Step) {
        self.flush(now, out);
        self.state.run_text.clone_from(&report.text);
        self.state.run_text_cut = report.text_cut;
        self.state.usage = report.usage;
        // Steps that nobody heard: they ended while Chargehand was dead or the stream was broken.
        if report.steps > self.state.steps {
            let (steps, usage) = (report.steps, report.usage);
            self.emit(now, out, Event::StepFinished { steps, usage });
        }
        if report.todos != self.state.todos {
            let todos = report.todos.clone();
            self.emit(now, out, Event::TodosChanged { todos });
        }
    }

    /// Whether a prompt was sent that the engine may still store.
    fn prompt_on_its_way(&self, now: WallTime) -> bool {
        self.live.sending.is_some()
            || self.state.prompts.iter().any(|record| {
                let sent = record.accepted_at.unwrap_or(record.wanted_at);
                record.is_open() && !record.seen && now.ms_since(sent) < TAKE_UP_GRACE_MS
            })
    }

    /// After an abort: did the run end by it, or had it ended well before?
    fn abort_reading(&mut self, report: &SessionReport, cx: &mut Context<'_>, out: &mut Step) {
        let now = cx.now;
        if report.activity != Activity::Idle {
            self.live.abort_done = false;
            return;
        }
        if self.prompt_on_its_way(now) {
            // Nothing runs yet: what was sent would begin after the abort. Ended when it is stored, or lost for sure.
            self.live.abort_done = false;
            self.live.not_before = Some(now.plus_ms(GONE_MS));
            return;
        }
        let Some(reason) = self.state.abort else {
            return;
        };
        let detail = self.state.abort_detail.clone();
        self.emit(now, out, Event::AbortSeen);
        self.live.abort_done = false;
        let all_taken_up = !self
            .state
            .prompts
            .iter()
            .any(super::state::PromptRecord::is_open);
        let ended_well = ended_well(&report.last);
        let done = match reason {
            AbortReason::Pause => all_taken_up,
            AbortReason::Nudge => all_taken_up && self.state.kept.is_empty(),
            // Nothing new may begin: a message that never reached the session is dropped, not the work.
            AbortReason::Watchdog => true,
        };
        if ended_well && done {
            // Done before the abort came: a success stays a success.
            self.take_record(report, now, out);
            self.run_ended(Outcome::Succeeded, now, out);
            return;
        }
        match reason {
            AbortReason::Pause => {
                self.flush(now, out);
                let pause = PauseKind::Aborted;
                self.emit(now, out, Event::TaskPaused { pause });
            }
            // Nothing hangs any more; what was not delivered is sent now.
            AbortReason::Nudge if ended_well => self.read_by(now.plus_ms(1_000)),
            AbortReason::Nudge => {
                self.flush(now, out);
                self.want_prompt(PromptKind::Nudge, prompt::nudge(), None, cx, out);
                self.live.verdict = None;
                self.read_by(now.plus_ms(1_000));
            }
            AbortReason::Watchdog => {
                self.take_record(report, now, out);
                let failure = Failure {
                    kind: FailureKind::Watchdog,
                    message: detail,
                };
                self.run_ended(Outcome::Failed { failure }, now, out);
            }
        }
    }
}

/// Between the two readings that must agree before a verdict is believed, in milliseconds. An end may be late in the record
/// by a few; what would repeat work waits longer.
const fn settle_ms(verdict: &Verdict) -> u64 {
    match verdict {
        Verdict::Working | Verdict::Wait | Verdict::Ended(_) => 100,
        Verdict::Resend(_) => 500,
        Verdict::Resume(_) => 1_000,
    }
}

fn ended_well(last: &LastMessage) -> bool {
    matches!(
        last,
        LastMessage::Assistant { completed: true, finish: Some(finish), error: None, rejected: false }
            if finish == "stop"
    )
}
