//! The machine itself: dispatch of inputs, and the small deeds that several of them share.
//!
//! In: [`Input`]. Out: [`Step`]. After every input `advance` finds what has to be done next.

use std::collections::BTreeSet;

use super::decide::{Hints, Verdict};
use super::input::{Context, Effect, Input, Reply, Step, Ticket};
use super::observe::Observations;
use super::state::TaskState;
use super::watchdog::Hearing;
use crate::command::ControlSignal;
use crate::event::{Event, Failure, FailureKind, Outcome, Phase};
use crate::id::{RequestId, WallTime, WorkerId};

/// How often a running session is read although nothing was heard, in milliseconds.
pub(super) const POLL_MS: u64 = 15_000;

/// The limits of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From slot to accepted prompt, in milliseconds.
    pub start_timeout_ms: u64,
    /// From slot to end, in milliseconds.
    pub hard_deadline_ms: u64,
    /// How long a request stays open when somebody is attached, in milliseconds.
    pub request_expiry_ms: u64,
    /// How often a cut run is continued.
    pub max_resumes: u32,
    /// How many unfinished model steps in a row are an endless loop.
    pub max_unfinished: u32,
    /// When a silent run is warned about, in milliseconds. 0 = never, as for the next two.
    pub silence_warn_ms: u64,
    /// When a silent run is ended and the worker asked to go on, in milliseconds.
    pub silence_nudge_ms: u64,
    /// When a silent run is ended for good, in milliseconds.
    pub silence_fail_ms: u64,
    /// Model steps; 0 = any number. A task may set fewer.
    pub max_steps: u32,
    /// How often in a row the provider may make the worker wait; 0 = any number.
    pub max_provider_retries: u32,
    /// The engine freezes instead of aborting.
    pub can_freeze: bool,
    /// The engine is configured.
    pub engine_known: bool,
}

/// What is in flight and what is only known while this machine lives.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Volatile {
    pub(super) engine_up: bool,
    pub(super) preparing: bool,
    pub(super) opening: bool,
    pub(super) sending: Option<u32>,
    pub(super) reading: bool,
    /// When the reading in flight began.
    pub(super) reading_since: Option<WallTime>,
    /// The session did something since the reading in flight began.
    pub(super) stirred: bool,
    /// As before, of its child sessions too: the reading may be older than what was told.
    pub(super) told: bool,
    /// Readings in a row that could not be told from old ones.
    pub(super) doubted_readings: u32,
    pub(super) aborting: bool,
    pub(super) abort_done: bool,
    /// What a pause or resume wants of an engine that freezes.
    pub(super) freeze: Option<bool>,
    pub(super) freezing: bool,
    /// How often what is wanted was tried in vain.
    pub(super) freeze_failures: u32,
    /// The engine is known to be as the record says. Not so after a start: a freeze may have been under way.
    pub(super) freeze_known: bool,
    pub(super) collecting: bool,
    pub(super) collect_failures: u32,
    pub(super) answering: BTreeSet<RequestId>,
    /// Requests that ended since the reading in flight began: it may still show them.
    pub(super) just_closed: BTreeSet<RequestId>,
    /// No prompt is sent before a reading said how it stands.
    pub(super) must_read: bool,
    /// The reading in flight began before it was known that one must be made: it does not count as that one.
    pub(super) reading_is_old: bool,
    pub(super) routed: bool,
    pub(super) released: bool,
    pub(super) resend: Option<u32>,
    /// When a prompt was last repeated; none once the engine was seen to work on it.
    pub(super) repeated_at: Option<WallTime>,
    pub(super) read_at: Option<WallTime>,
    pub(super) not_before: Option<WallTime>,
    pub(super) failures: u32,
    /// What the last readings said, if the run cannot go on by them, and since when they do.
    pub(super) lost: Option<(Failure, WallTime)>,
    /// A signal told that the session was deleted.
    pub(super) deleted: bool,
    pub(super) hints: Hints,
    pub(super) verdict: Option<Verdict>,
    /// Since when readings are awaited that say how the run stands.
    pub(super) undecided_since: Option<WallTime>,
    pub(super) observed: Observations,
    pub(super) hearing: Hearing,
    /// The wait for the provider that was told last, while it lasts by the record.
    pub(super) told_retry: Option<(u32, String)>,
    pub(super) controls: Vec<(Ticket, ControlSignal)>,
}

/// A task's machine: the folded state and what is in flight.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    pub(super) state: TaskState,
    pub(super) limits: Limits,
    pub(super) live: Volatile,
}

impl Machine {
    /// A machine on a folded record. Its first input is [`Input::Recovered`], also for a new task.
    pub fn new(state: TaskState, limits: Limits) -> Self {
        Self {
            state,
            limits,
            live: Volatile::default(),
        }
    }

    /// The folded state.
    pub const fn state(&self) -> &TaskState {
        &self.state
    }

    /// Decides about one input.
    pub fn handle(&mut self, input: Input, cx: &mut Context<'_>) -> Step {
        let mut out = Step::default();
        if self.state.phase.is_final() {
            self.after_end(input, cx, &mut out);
            return out;
        }
        match input {
            Input::Recovered => self.recovered(cx.now, &mut out),
            Input::Dispatched { holds } => self.dispatched(holds, cx.now, &mut out),
            Input::EngineUp { worker } => self.engine_is_up(&worker, cx.now),
            Input::StreamLost => self.live.hearing.lost(cx.now),
            Input::WorkdirPrepared(result) => self.workdir_prepared(result, cx.now, &mut out),
            Input::SessionOpened(result) => self.session_opened(result, cx, &mut out),
            Input::PromptSent { number, result } => {
                self.prompt_sent(number, result, cx.now, &mut out);
            }
            Input::SessionRead(result) => self.session_read(result, cx, &mut out),
            Input::Aborted(result) => self.aborted(result, cx.now),
            Input::Froze { frozen, result } => self.froze(frozen, result, cx.now, &mut out),
            Input::Answered { request, result } => {
                self.answered(request, result, cx.now, &mut out);
            }
            Input::ChangesTaken(result) => self.changes_taken(result, cx.now, &mut out),
            Input::Signal { child, signal } => self.signal(child, signal, cx.now, &mut out),
            Input::Message {
                ticket,
                message_type,
                text,
                metadata,
                by,
            } => {
                self.message(ticket, (message_type, text, metadata, by), cx, &mut out);
            }
            Input::Control {
                ticket,
                signal,
                reason,
                by,
            } => {
                self.control(ticket, signal, reason, by, cx, &mut out);
            }
            Input::Answer {
                ticket,
                request,
                answer,
                by,
            } => {
                self.answer(ticket, request, answer, by, cx.now, &mut out);
            }
            Input::Attendance { ticket, people } => {
                self.attendance(ticket, people, cx.now, &mut out);
            }
            Input::Tick => self.tick(cx.now, &mut out),
            Input::GaveUp { reason } => {
                let failure = TaskState::quarantine(&reason);
                self.fail(failure, cx.now, &mut out);
            }
        }
        self.advance(cx, &mut out);
        out
    }

    /// Folds and records an event.
    pub(super) fn emit(&mut self, now: WallTime, out: &mut Step, event: Event) {
        let before = self.state.phase;
        self.state.fold(now, &event);
        out.events.push(event);
        if self.state.phase != before {
            self.phase_changed(now);
        }
    }

    fn recovered(&mut self, now: WallTime, out: &mut Step) {
        if !self.limits.engine_known && self.state.phase != Phase::Finishing {
            let message = format!(
                "engine \"{}\" is no longer configured; configure it again before the next start, or submit the task to another engine",
                self.state.spec.engine
            );
            let failure = Failure {
                kind: FailureKind::Engine,
                message,
            };
            self.fail(failure, now, out);
            return;
        }
        if self.state.phase == Phase::Finishing {
            self.collect_again(now, out);
        }
        self.live.must_read = true;
        self.live.repeated_at = self.state.resumed_at;
        if self.state.session.is_some() {
            self.live.undecided_since = Some(now);
        }
    }

    fn dispatched(&mut self, holds: u32, now: WallTime, out: &mut Step) {
        // A hold that overtook the slot wins, also when it is over again: admission sees `TaskPaused`, takes the slot
        // back and gives another one.
        if self.state.phase == Phase::Queued && self.state.holds == holds {
            let engine = self.state.spec.engine.clone();
            self.emit(now, out, Event::AttemptStarted { attempt: 1, engine });
        }
    }

    fn engine_is_up(&mut self, worker: &WorkerId, now: WallTime) {
        self.live.engine_up = true;
        self.live.hearing.regained(now);
        self.want_reading();
        self.live.not_before = None;
        // What was heard before the gap proves nothing now, and what was sent to another worker may be lost.
        self.live.verdict = None;
        if self.state.worker.as_ref() != Some(worker) {
            self.live.hints.sent_at = None;
        }
        self.live.routed = false;
        self.live.read_at = Some(now);
    }

    /// Ends the task as failed without a result.
    pub(super) fn fail(&mut self, failure: Failure, now: WallTime, out: &mut Step) {
        let running_ms = self.state.running_at(now);
        self.emit(
            now,
            out,
            Event::TaskFailed {
                failure,
                result: None,
                running_ms,
            },
        );
    }

    /// The run is over: the result is read next.
    pub(super) fn run_ended(&mut self, outcome: Outcome, now: WallTime, out: &mut Step) {
        self.flush(now, out);
        let text = std::mem::take(&mut self.state.run_text);
        let text_cut = self.state.run_text_cut;
        let usage = self.state.usage;
        self.emit(
            now,
            out,
            Event::RunEnded {
                outcome,
                text,
                text_cut,
                usage,
            },
        );
    }

    /// Puts the next try of the current stage off: 0.5 s, 1 s, … at most 15 s.
    pub(super) fn back_off(&mut self, now: WallTime) {
        let wait = 500u64 << self.live.failures.min(5);
        self.live.failures += 1;
        self.live.not_before = Some(now.plus_ms(wait.min(15_000)));
    }

    pub(super) fn stage_worked(&mut self) {
        self.live.failures = 0;
        self.live.not_before = None;
    }

    /// Nothing is sent before a reading that begins after this moment.
    pub(super) const fn want_reading(&mut self) {
        self.live.must_read = true;
        self.live.reading_is_old = self.live.reading;
    }

    /// Asks for a reading at `at`, or earlier if one is due earlier.
    pub(super) fn read_by(&mut self, at: WallTime) {
        self.live.read_at = Some(self.live.read_at.map_or(at, |due| due.min(at)));
    }

    /// After the end nothing changes; what may matter to a reader is recorded as late, a few times.
    fn after_end(&mut self, input: Input, cx: &mut Context<'_>, out: &mut Step) {
        let phase = self.state.phase;
        match input {
            Input::Message { ticket, .. }
            | Input::Answer { ticket, .. }
            | Input::Attendance { ticket, .. } => {
                let why = "it has ended; nothing reaches the worker any more".to_owned();
                out.effects.push(Effect::Reply(
                    ticket,
                    Reply::Refused(super::Refusal::Phase(why)),
                ));
            }
            Input::Control { ticket, signal, .. } => self.control_after_end(ticket, signal, out),
            Input::SessionRead(Ok(report)) if self.state.late < 3 => {
                let what = format!(
                    "the engine reported {:?} after the task was {}",
                    report.last,
                    phase.as_str()
                );
                self.emit(cx.now, out, Event::LateArrival { what });
            }
            _ => {}
        }
        self.release(out);
    }
}
