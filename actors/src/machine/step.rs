//! The machine itself: dispatch of inputs, alarms, and the one function that finds what has to be done next.
//!
//! In: [`Input`]. Out: [`Step`]. Work is level-triggered: after every input [`Machine::advance`] looks at the state and
//! asks for what is missing, so that live progress and recovery take the same path.

use std::collections::BTreeSet;

use super::decide::{Hints, TAKE_UP_GRACE_MS, Verdict};
use super::input::{Context, Effect, Input, Reply, Step, Ticket};
use super::observe::Observations;
use super::prompt;
use super::state::{PromptRecord, TaskState};
use crate::command::ControlSignal;
use crate::event::{Event, Failure, FailureKind, Outcome, PauseKind, Phase, Prompt, PromptKind};
use crate::id::{RequestId, WallTime, WorkerId};
use crate::view::ControlOutcome;

/// How often a running session is read although nothing was heard, in milliseconds.
const POLL_MS: u64 = 15_000;
/// Until it is looked whether a prompt is stored, when another waits for it, in milliseconds.
const STORED_MS: u64 = 150;

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
    pub(super) aborting: bool,
    pub(super) abort_done: bool,
    pub(super) freezing: bool,
    pub(super) collecting: bool,
    pub(super) collect_failures: u32,
    pub(super) answering: BTreeSet<RequestId>,
    /// No prompt is sent before a reading said how it stands.
    pub(super) must_read: bool,
    pub(super) routed: bool,
    pub(super) released: bool,
    pub(super) resend: Option<u32>,
    /// When a prompt was last repeated; none once the engine was seen to work on it.
    pub(super) repeated_at: Option<WallTime>,
    pub(super) read_at: Option<WallTime>,
    pub(super) not_before: Option<WallTime>,
    pub(super) failures: u32,
    pub(super) gone_readings: u32,
    pub(super) hints: Hints,
    pub(super) verdict: Option<Verdict>,
    /// Since when readings are awaited that say how the run stands.
    pub(super) undecided_since: Option<WallTime>,
    pub(super) observed: Observations,
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
            Input::Dispatched => self.dispatched(cx.now, &mut out),
            Input::EngineUp { worker } => self.engine_is_up(&worker, cx.now),
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
        self.state.fold(now, &event);
        out.events.push(event);
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
        self.live.must_read = true;
        self.live.repeated_at = self.state.resumed_at;
        if self.state.session.is_some() {
            self.live.undecided_since = Some(now);
        }
    }

    fn dispatched(&mut self, now: WallTime, out: &mut Step) {
        // A hold that overtook the slot wins; admission sees `TaskPaused` and takes the slot back.
        if self.state.phase == Phase::Queued {
            let engine = self.state.spec.engine.clone();
            self.emit(now, out, Event::AttemptStarted { attempt: 1, engine });
        }
    }

    fn engine_is_up(&mut self, worker: &WorkerId, now: WallTime) {
        self.live.engine_up = true;
        self.live.must_read = true;
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

    /// Asks for a reading at `at`, or earlier if one is due earlier.
    pub(super) fn read_by(&mut self, at: WallTime) {
        self.live.read_at = Some(self.live.read_at.map_or(at, |due| due.min(at)));
    }

    /// Asks for everything that the state wants and nobody does yet.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>, out: &mut Step) {
        self.answer_controls(out);
        let held_off = self.live.not_before.is_some_and(|at| at > cx.now);
        match self.state.phase {
            Phase::Queued => {}
            Phase::Starting => {
                if !held_off {
                    self.advance_start(cx, out);
                }
            }
            Phase::Running | Phase::InputRequired => self.advance_run(cx, out, held_off),
            Phase::Paused => self.advance_pause(cx.now, out),
            Phase::Finishing => {
                if !self.live.collecting && !held_off {
                    self.live.collecting = true;
                    out.effects.push(Effect::TakeChanges);
                }
            }
            Phase::Completed | Phase::Failed | Phase::Timeout | Phase::Cancelled => {
                self.release(out);
            }
        }
    }

    fn advance_start(&mut self, cx: &mut Context<'_>, out: &mut Step) {
        let Some(directory) = self.state.directory.clone() else {
            if !self.live.preparing {
                self.live.preparing = true;
                out.effects.push(Effect::PrepareWorkdir);
            }
            return;
        };
        if !self.live.engine_up {
            return;
        }
        if self.state.session.is_none() {
            if !self.live.opening {
                if !self.state.session_wanted {
                    self.emit(cx.now, out, Event::SessionWanted);
                }
                self.live.opening = true;
                out.effects.push(Effect::OpenSession { directory });
            }
            return;
        }
        self.route(out);
        if self.state.prompts.is_empty() {
            let text = prompt::first(&self.state.spec);
            self.want_prompt(PromptKind::First, text, None, cx, out);
            // A session without a prompt of ours proves that nothing ran: no reading is needed before the first.
            self.live.must_read = false;
        }
        self.read_if_due(cx.now, out);
        self.send_next(cx.now, out);
    }

    fn advance_run(&mut self, cx: &mut Context<'_>, out: &mut Step, held_off: bool) {
        if !self.live.engine_up {
            return;
        }
        self.route(out);
        if self.state.abort.is_some() {
            let wanted = !self.live.aborting && !self.live.abort_done && !held_off;
            if wanted && let Some(session) = self.state.session.clone() {
                self.live.aborting = true;
                out.effects.push(Effect::Abort { session });
            }
        } else {
            self.send_kept_messages(cx, out);
            if !held_off {
                self.give_answers(out);
                self.send_next(cx.now, out);
            }
        }
        self.read_if_due(cx.now, out);
        self.poll_later(cx.now);
    }

    /// A run that was to be ended may begin late or escape: the session is watched until the resume.
    fn advance_pause(&mut self, now: WallTime, out: &mut Step) {
        self.route(out);
        if self.live.engine_up && self.is_watched_pause() {
            self.read_if_due(now, out);
            self.poll_later(now);
        }
    }

    /// Whether the pause is one that a late run can break.
    pub(super) fn is_watched_pause(&self) -> bool {
        self.state.phase == Phase::Paused && self.state.pause == Some(PauseKind::Aborted)
    }

    fn poll_later(&mut self, now: WallTime) {
        if self.live.read_at.is_none() && !self.live.reading {
            self.live.read_at = Some(now.plus_ms(POLL_MS));
        }
    }

    fn route(&mut self, out: &mut Step) {
        if self.live.routed {
            return;
        }
        if let Some(session) = self.state.session.clone() {
            self.live.routed = true;
            out.effects.push(Effect::Route { session });
        }
    }

    fn read_if_due(&mut self, now: WallTime, out: &mut Step) {
        // A reading that failed waits for its back-off, however much it is wanted.
        let held_off = self.live.not_before.is_some_and(|at| at > now);
        let wanted = self.live.must_read && !held_off;
        let due = wanted || self.live.read_at.is_some_and(|at| at <= now);
        if !due || self.live.reading {
            return;
        }
        if let Some(session) = self.state.session.clone() {
            self.live.reading = true;
            self.live.read_at = None;
            let prompts = self
                .state
                .prompts
                .iter()
                .filter(|record| record.is_open())
                .map(|record| record.prompt.message_id.clone())
                .collect();
            out.effects.push(Effect::ReadSession { session, prompts });
        }
    }

    /// Records a prompt; [`Self::send_next`] sends it.
    pub(super) fn want_prompt(
        &mut self,
        kind: PromptKind,
        text: String,
        carries: Option<String>,
        cx: &mut Context<'_>,
        out: &mut Step,
    ) {
        let tail = (cx.mint)();
        let number = u32::try_from(self.state.prompts.len() + 1).unwrap_or(u32::MAX);
        let prompt = Prompt {
            number,
            kind,
            message_id: format!("msg_{tail}"),
            part_id: format!("prt_{tail}"),
            text,
            carries,
        };
        self.emit(cx.now, out, Event::PromptWanted { prompt });
    }

    fn send_kept_messages(&mut self, cx: &mut Context<'_>, out: &mut Step) {
        for kept in self.state.kept.clone() {
            let text = prompt::message(kept.message_type, &kept.text);
            self.want_prompt(PromptKind::Message, text, Some(kept.id), cx, out);
        }
    }

    /// Sends the oldest prompt that the engine has not taken, one at a time, or the one to be repeated.
    ///
    /// Taken is not stored: in a directory that is just being opened, OpenCode stores two prompts that follow each other
    /// closely in any order, and a correction would be read before what it corrects. So the next one waits for the one before.
    fn send_next(&mut self, now: WallTime, out: &mut Step) {
        // An abort under way would end the run that a prompt begins.
        if self.live.sending.is_some() || self.live.must_read || self.live.aborting {
            return;
        }
        let Some(session) = self.state.session.clone() else {
            return;
        };
        let next = match self.live.resend.take() {
            Some(number) => self
                .state
                .prompts
                .iter()
                .find(|r| r.prompt.number == number),
            None => self.next_unsent(now),
        };
        if let Some(prompt) = next.map(|record| record.prompt.clone()) {
            self.live.sending = Some(prompt.number);
            self.live.hints.last_error = None;
            out.effects.push(Effect::SendPrompt { session, prompt });
        } else if self
            .state
            .prompts
            .iter()
            .any(|r| r.accepted_at.is_none() && r.is_open())
        {
            // It waits for the one before: look soon whether that is stored.
            self.read_by(now.plus_ms(STORED_MS));
        }
    }

    /// The oldest prompt not yet taken. Only when those before it are stored: a cold server stores what it took within
    /// seconds, in no certain order, and a message must not come before the task.
    fn next_unsent(&self, now: WallTime) -> Option<&PromptRecord> {
        let open = || self.state.prompts.iter().filter(|r| r.is_open());
        let repeated = self
            .live
            .repeated_at
            .is_some_and(|at| now.ms_since(at) < TAKE_UP_GRACE_MS);
        let on_its_way = repeated || open().any(|r| r.accepted_at.is_some() && !r.seen);
        open().find(|r| r.accepted_at.is_none() && !on_its_way)
    }

    fn give_answers(&mut self, out: &mut Step) {
        let Some(session) = self.state.session.clone() else {
            return;
        };
        for (id, request) in &self.state.requests {
            if let Some((answer, _)) = &request.answer
                && self.live.answering.insert(id.clone())
            {
                out.effects.push(Effect::GiveAnswer {
                    session: session.clone(),
                    request: request.open.request.clone(),
                    answer: answer.clone(),
                });
            }
        }
    }

    fn release(&mut self, out: &mut Step) {
        if self.live.released {
            return;
        }
        self.live.released = true;
        out.effects.push(Effect::DropJobs);
        out.effects.push(if self.state.attempt > 0 {
            Effect::Release {
                session: self.state.session.clone(),
            }
        } else {
            Effect::Finish
        });
    }

    /// Answers the control signals whose effect is reached.
    pub(super) fn answer_controls(&mut self, out: &mut Step) {
        let phase = self.state.phase;
        let pause = self.state.pause;
        self.live.controls.retain(|(ticket, signal)| {
            let reached = phase.is_final()
                || match signal {
                    ControlSignal::Cancel => false,
                    // A run that ended well before the abort keeps its success: the pause came too late.
                    ControlSignal::Pause => matches!(phase, Phase::Paused | Phase::Finishing),
                    ControlSignal::Resume => phase != Phase::Paused,
                };
            if reached {
                let outcome = ControlOutcome {
                    phase,
                    pause,
                    already: false,
                };
                out.effects
                    .push(Effect::Reply(*ticket, Reply::Control(outcome)));
            }
            !reached
        });
    }

    /// After the end nothing changes; what may matter to a reader is recorded as late, a few times.
    fn after_end(&mut self, input: Input, cx: &mut Context<'_>, out: &mut Step) {
        let phase = self.state.phase;
        match input {
            Input::Message { ticket, .. } | Input::Answer { ticket, .. } => {
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
