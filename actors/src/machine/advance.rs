//! What has to be done next: the one place that asks for work.
//!
//! In: the state after an input. Out: effects for what the state wants and nobody does yet. Work is level-triggered: live progress and
//! recovery take the same path.

use super::decide::TAKE_UP_GRACE_MS;
use super::input::{Context, Effect, Reply, Step};
use super::prompt;
use super::state::PromptRecord;
use super::step::{Machine, POLL_MS};
use crate::command::ControlSignal;
use crate::event::{Event, PauseKind, Phase, Prompt, PromptKind};
use crate::id::WallTime;
use crate::view::ControlOutcome;

/// Until it is looked whether a prompt is stored, when another waits for it, in milliseconds.
const STORED_MS: u64 = 150;

impl Machine {
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
            Phase::Paused => self.advance_pause(cx.now, out, held_off),
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
            let text = self.first_prompt();
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
        self.freeze(false, held_off, out);
        self.read_if_due(cx.now, out);
        self.poll_later(cx.now);
    }

    /// Freezes or thaws: as a pause or resume wants it, and otherwise as the phase has it (`frozen`).
    fn freeze(&mut self, frozen: bool, held_off: bool, out: &mut Step) {
        let wanted = self.live.freeze.unwrap_or(frozen);
        let in_doubt = self.limits.can_freeze && !self.live.freeze_known;
        if (wanted == frozen && !in_doubt) || self.live.freezing || held_off {
            return;
        }
        if let Some(session) = self.state.session.clone() {
            self.live.freezing = true;
            out.effects.push(Effect::Freeze {
                session,
                frozen: wanted,
            });
        }
    }

    /// A run that was to be ended may begin late or escape: the session is watched until the resume.
    fn advance_pause(&mut self, now: WallTime, out: &mut Step, held_off: bool) {
        self.route(out);
        if self.live.engine_up && self.state.pause == Some(PauseKind::Frozen) {
            self.freeze(true, held_off, out);
        }
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
            self.live.reading_since = Some(now);
            self.live.stirred = false;
            self.live.told = false;
            self.live.just_closed.clear();
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

    pub(super) fn release(&mut self, out: &mut Step) {
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
}
