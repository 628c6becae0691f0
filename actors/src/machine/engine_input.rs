//! Results of jobs: workdir, session, prompts, aborts, answers, changes. Readings are in `reading`.
//!
//! In: what a port answered. Out: events. A port that does not answer never fails a task: the job is put off and repeated.

use super::input::{Context, Effect, Refusal, Reply, Step};
use super::step::Machine;
use crate::command::ControlSignal;
use crate::event::{
    Changes, Event, Failure, FailureKind, Outcome, PauseKind, Phase, RequestEnd, SessionRef,
    TaskResult,
};
use crate::id::{RequestId, WallTime, WorkerId};
use crate::ports::{AnswerOutcome, EngineError, Prepared, WorkdirError};

/// How often taking the changes is tried.
const COLLECT_TRIES: u32 = 3;

/// How often a freeze or thaw is tried before whoever asked for it is told that it does not work: a container whose processes come
/// and go fast is sometimes not frozen at the first try. Some eight seconds in all.
const FREEZE_TRIES: u32 = 5;
/// How often the changes are taken again after whoever took them died. A tree that kills Chargehand each time must not do so for ever.
const COLLECTS: u32 = 6;

impl Machine {
    pub(super) fn workdir_prepared(
        &mut self,
        result: Result<Prepared, WorkdirError>,
        now: WallTime,
        out: &mut Step,
    ) {
        self.live.preparing = false;
        if self.state.phase != Phase::Starting || self.state.directory.is_some() {
            return;
        }
        match result {
            Ok(Prepared { directory, note }) => {
                self.stage_worked();
                self.emit(now, out, Event::WorkdirPrepared { directory, note });
            }
            Err(WorkdirError::Fault(_)) if self.live.failures < 3 => self.back_off(now),
            Err(error) => {
                let message = format!("the workdir could not be made: {error}");
                self.fail(
                    Failure {
                        kind: FailureKind::Workdir,
                        message,
                    },
                    now,
                    out,
                );
            }
        }
    }

    pub(super) fn session_opened(
        &mut self,
        result: Result<(SessionRef, WorkerId), EngineError>,
        cx: &mut Context<'_>,
        out: &mut Step,
    ) {
        self.live.opening = false;
        let awaited = self.state.session_wanted && self.state.session.is_none();
        if self.state.phase != Phase::Starting || !awaited {
            return;
        }
        match result {
            Ok((session, worker)) => {
                self.stage_worked();
                self.emit(cx.now, out, Event::SessionOpened { session, worker });
            }
            Err(error) if error.is_transient() || error == EngineError::SessionGone => {
                self.back_off(cx.now);
            }
            Err(error) => {
                let message = format!("no session could be opened: {error}");
                self.fail(
                    Failure {
                        kind: FailureKind::Engine,
                        message,
                    },
                    cx.now,
                    out,
                );
            }
        }
    }

    pub(super) fn prompt_sent(
        &mut self,
        number: u32,
        result: Result<(), EngineError>,
        now: WallTime,
        out: &mut Step,
    ) {
        if self.live.sending == Some(number) {
            self.live.sending = None;
        }
        let record = self
            .state
            .prompts
            .iter()
            .find(|r| r.prompt.number == number);
        let Some(unaccepted) = record.map(|r| r.accepted_at.is_none()) else {
            return;
        };
        match result {
            Ok(()) => {
                self.stage_worked();
                self.live.hints.sent_at = Some(now);
                self.live.verdict = None;
                if !unaccepted {
                    self.live.repeated_at = Some(now);
                }
                // Also for a repeat: how often it was taken must survive this process.
                self.emit(now, out, Event::PromptAccepted { number });
                self.read_by(now.plus_ms(1_000));
            }
            Err(EngineError::Refused(why)) => self.prompt_refused(number, &why, now, out),
            // It may or may not have arrived: a reading says so before it is repeated.
            Err(_) => {
                self.want_reading();
                self.back_off(now);
            }
        }
    }

    fn prompt_refused(&mut self, number: u32, why: &str, now: WallTime, out: &mut Step) {
        let carries = self
            .state
            .prompts
            .iter()
            .find(|record| record.prompt.number == number)
            .and_then(|record| record.prompt.carries.clone());
        match carries {
            Some(message_id) => {
                let reason = format!("the engine refused it: {why}");
                self.emit(now, out, Event::MessageDropped { message_id, reason });
            }
            None => {
                let message = format!("the engine refused the prompt: {why}");
                let failure = Failure {
                    kind: FailureKind::Engine,
                    message,
                };
                self.run_ended(Outcome::Failed { failure }, now, out);
            }
        }
    }

    pub(super) fn aborted(&mut self, result: Result<(), EngineError>, now: WallTime) {
        self.live.aborting = false;
        if self.state.abort.is_none() {
            // A run that escaped its pause: did it end, and did it take a prompt up?
            if result.is_err() {
                self.back_off(now);
            }
            self.read_by(self.live.not_before.unwrap_or(now));
            return;
        }
        match result {
            Ok(()) | Err(EngineError::SessionGone) => {
                self.live.abort_done = true;
                self.read_by(now);
            }
            Err(_) => self.back_off(now),
        }
    }

    pub(super) fn froze(
        &mut self,
        frozen: bool,
        result: Result<(), EngineError>,
        now: WallTime,
        out: &mut Step,
    ) {
        self.live.freezing = false;
        self.live.freeze_known = result.is_ok();
        let asked = self.live.freeze == Some(frozen);
        if let Err(error) = result {
            self.back_off(now);
            if asked {
                self.freeze_failed(frozen, &error, now, out);
            }
            return;
        }
        if asked {
            self.live.freeze = None;
            self.live.freeze_failures = 0;
            self.stage_worked();
        }
        let pause = PauseKind::Frozen;
        match (frozen, self.state.phase) {
            (true, Phase::Running | Phase::InputRequired) => {
                self.emit(now, out, Event::TaskPaused { pause });
            }
            (false, Phase::Paused) if self.state.pause == Some(pause) => {
                self.emit(now, out, Event::TaskResumed { pause });
            }
            _ => {}
        }
    }

    /// What was asked for did not work: it is tried again, or given up and whoever asked is told. It may be frozen or not then:
    /// `advance` sees to it that it is as the record says.
    fn freeze_failed(&mut self, frozen: bool, error: &EngineError, now: WallTime, out: &mut Step) {
        self.live.freeze_failures += 1;
        if error.is_transient() && self.live.freeze_failures < FREEZE_TRIES {
            return;
        }
        self.live.freeze = None;
        self.live.freeze_failures = 0;
        let (what, signal) = if frozen {
            ("freeze", ControlSignal::Pause)
        } else {
            ("thaw", ControlSignal::Resume)
        };
        let why = format!("the engine could not {what} it: {error}");
        self.live.controls.retain(|(ticket, asked)| {
            if *asked == signal {
                let refusal = Reply::Refused(Refusal::Engine(why.clone()));
                out.effects.push(Effect::Reply(*ticket, refusal));
            }
            *asked != signal
        });
        let message = format!("{why}; repeat the signal");
        self.emit(now, out, Event::Remark { message });
    }

    pub(super) fn answered(
        &mut self,
        request: RequestId,
        result: Result<AnswerOutcome, EngineError>,
        now: WallTime,
        out: &mut Step,
    ) {
        self.live.answering.remove(&request);
        let Some(state) = self.state.requests.get(&request) else {
            return;
        };
        // A person may be named like that, too.
        let by_default = state
            .answer
            .as_ref()
            .is_some_and(|(answer, by)| by == "default" && *answer == state.open.default);
        let end = match result {
            Ok(AnswerOutcome::Given) if by_default => RequestEnd::Defaulted,
            Ok(AnswerOutcome::Given) => RequestEnd::Answered,
            Ok(AnswerOutcome::Gone) | Err(EngineError::SessionGone) => RequestEnd::Gone,
            Err(EngineError::Refused(why)) => {
                self.answer_refused(request, &why, by_default, now, out);
                return;
            }
            Err(
                EngineError::Unreachable(_)
                | EngineError::Fault(_)
                | EngineError::Ended(_)
                | EngineError::Unusable(_),
            ) => {
                self.back_off(now);
                return;
            }
        };
        let _ = self.live.just_closed.insert(request.clone());
        self.emit(now, out, Event::RequestClosed { request, end });
        self.read_by(now.plus_ms(500));
    }

    pub(super) fn changes_taken(
        &mut self,
        result: Result<Changes, WorkdirError>,
        now: WallTime,
        out: &mut Step,
    ) {
        self.live.collecting = false;
        if self.state.phase != Phase::Finishing {
            return;
        }
        let changes = match result {
            Ok(changes) => changes,
            Err(error) => {
                self.live.collect_failures += 1;
                if self.live.collect_failures < COLLECT_TRIES {
                    self.back_off(now);
                    return;
                }
                let note =
                    format!("the changes could not be taken: {error}; the files are still there");
                Changes {
                    note: Some(note),
                    ..Changes::default()
                }
            }
        };
        self.end_with(changes, now, out);
    }

    /// The actor started again while the changes were being taken.
    pub(super) fn collect_again(&mut self, now: WallTime, out: &mut Step) {
        if self.state.collects < COLLECTS {
            let again = self.state.collects + 1;
            self.emit(now, out, Event::ChangesWanted { again });
            return;
        }
        let note = format!(
            "the changes could not be taken: Chargehand ended {COLLECTS} times while it took them; the files are still there"
        );
        let changes = Changes {
            note: Some(note),
            ..Changes::default()
        };
        self.end_with(changes, now, out);
    }

    fn end_with(&mut self, changes: Changes, now: WallTime, out: &mut Step) {
        let running_ms = self.state.running_at(now);
        let result = Box::new(TaskResult {
            text: self.state.run_text.clone(),
            text_cut: self.state.run_text_cut,
            changes,
            usage: self.state.usage,
        });
        let kept = self.state.kept.iter().map(|kept| kept.id.clone());
        let prompts = self.state.prompts.iter().filter(|record| record.is_open());
        let unread: Vec<String> = kept
            .chain(prompts.filter_map(|record| record.prompt.carries.clone()))
            .collect();
        for message_id in unread {
            let reason = "the worker was done before it could be delivered".to_owned();
            self.emit(now, out, Event::MessageDropped { message_id, reason });
        }
        match self.state.outcome.clone() {
            Some(Outcome::Failed { failure }) => {
                let result = Some(result);
                self.emit(
                    now,
                    out,
                    Event::TaskFailed {
                        failure,
                        result,
                        running_ms,
                    },
                );
            }
            Some(Outcome::Succeeded) | None => {
                self.emit(now, out, Event::TaskCompleted { result, running_ms });
            }
        }
    }
}
