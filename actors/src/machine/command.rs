//! Commands of planners, observers and operators: messages and control signals (answers are in `requests`).
//!
//! In: the command with the ticket of who waits. Out: events, and a reply that waits for them to be durable.

use super::input::{Context, Effect, Refusal, Reply, Step, Ticket};
use super::prompt;
use super::state::TaskState;
use super::step::Machine;
use crate::command::{Author, ControlSignal, MessageType};
use crate::event::{AbortReason, Event, PauseKind, Phase, PromptKind};
use crate::id::WallTime;
use crate::view::{ControlOutcome, Delivery, MessageReceipt};

/// Type, text, metadata, sender.
type MessageParts = (
    MessageType,
    String,
    serde_json::Map<String, serde_json::Value>,
    Author,
);

impl Machine {
    pub(super) fn message(
        &mut self,
        ticket: Ticket,
        (message_type, text, metadata, by): MessageParts,
        cx: &mut Context<'_>,
        out: &mut Step,
    ) {
        if self.state.phase == Phase::Finishing {
            let why = "the worker is done and its result is being read; send a new task for what is missing";
            refuse(ticket, Refusal::Phase(why.to_owned()), out);
            return;
        }
        let message_id = format!("message-{}", (cx.mint)());
        let delivery = match self.state.phase {
            Phase::Running | Phase::InputRequired if !self.state.pausing() => Delivery::Sent,
            _ => Delivery::Kept,
        };
        let event = Event::MessageReceived {
            message_id: message_id.clone(),
            message_type,
            text,
            metadata,
            by: by.by,
            from: by.from,
        };
        self.emit(cx.now, out, event);
        let receipt = MessageReceipt {
            message_id,
            at: cx.now,
            delivery,
        };
        out.effects
            .push(Effect::Reply(ticket, Reply::Message(receipt)));
    }

    pub(super) fn control(
        &mut self,
        ticket: Ticket,
        signal: ControlSignal,
        reason: Option<String>,
        by: Author,
        cx: &mut Context<'_>,
        out: &mut Step,
    ) {
        if let Some(why) = self.state.refuses(signal) {
            refuse(ticket, Refusal::Phase(why.to_owned()), out);
            return;
        }
        if signal == ControlSignal::Pause && self.state.phase == Phase::Paused {
            if self.live.freeze == Some(false) {
                let why = "it is just being resumed; repeat the pause when it runs";
                refuse(ticket, Refusal::Phase(why.to_owned()), out);
                return;
            }
            let outcome = ControlOutcome {
                phase: self.state.phase,
                pause: self.state.pause,
                already: true,
            };
            out.effects
                .push(Effect::Reply(ticket, Reply::Control(outcome)));
            return;
        }
        self.live.controls.push((ticket, signal));
        let repeated = signal == ControlSignal::Pause
            && (self.state.pausing() || self.live.freeze == Some(true));
        if repeated {
            return;
        }
        self.flush(cx.now, out);
        let received = Event::ControlReceived {
            signal,
            reason: reason.clone(),
            by: by.by.clone(),
            from: by.from.clone(),
        };
        self.emit(cx.now, out, received);
        match signal {
            ControlSignal::Cancel => {
                let running_ms = self.state.running_at(cx.now);
                self.emit(
                    cx.now,
                    out,
                    Event::TaskCancelled {
                        reason,
                        by: by.by,
                        from: by.from,
                        running_ms,
                    },
                );
            }
            ControlSignal::Pause => self.pause(cx.now, out),
            ControlSignal::Resume => self.resume(cx, out),
        }
    }

    fn pause(&mut self, now: WallTime, out: &mut Step) {
        if self.state.phase == Phase::Queued {
            self.emit(
                now,
                out,
                Event::TaskPaused {
                    pause: PauseKind::Held,
                },
            );
            return;
        }
        if self.limits.can_freeze {
            self.live.freeze = Some(true);
            self.live.freeze_failures = 0;
            return;
        }
        self.close_requests(now, out);
        self.live.abort_done = false;
        let detail = "paused on request".to_owned();
        self.emit(
            now,
            out,
            Event::AbortWanted {
                reason: AbortReason::Pause,
                detail,
            },
        );
    }

    fn resume(&mut self, cx: &mut Context<'_>, out: &mut Step) {
        match self.state.pause {
            Some(PauseKind::Frozen) => {
                self.live.freeze = Some(false);
                self.live.freeze_failures = 0;
            }
            Some(PauseKind::Held) | None => {
                self.emit(
                    cx.now,
                    out,
                    Event::TaskResumed {
                        pause: PauseKind::Held,
                    },
                );
            }
            Some(PauseKind::Aborted) => {
                self.emit(
                    cx.now,
                    out,
                    Event::TaskResumed {
                        pause: PauseKind::Aborted,
                    },
                );
                self.prompts_after_pause(cx, out);
            }
        }
    }

    /// The run goes on with a new prompt; what is not in the session is sent again under new ids.
    fn prompts_after_pause(&mut self, cx: &mut Context<'_>, out: &mut Step) {
        let unread: Vec<(String, Option<String>)> = self
            .state
            .prompts
            .iter()
            .filter(|record| record.is_open() && !record.seen)
            .map(|record| (record.prompt.text.clone(), record.prompt.carries.clone()))
            .collect();
        let first_unread = self
            .state
            .prompts
            .iter()
            .find(|record| {
                record.prompt.kind == PromptKind::First && record.is_open() && !record.seen
            })
            .map(|record| record.prompt.text.clone());
        match first_unread {
            Some(text) => self.want_prompt(PromptKind::First, text, None, cx, out),
            None => self.want_prompt(PromptKind::Resume, prompt::after_pause(), None, cx, out),
        }
        for (text, carries) in unread.into_iter().filter(|(_, carries)| carries.is_some()) {
            self.want_prompt(PromptKind::Message, text, carries, cx, out);
        }
        self.live.verdict = None;
        self.live.must_read = false;
        self.read_by(cx.now.plus_ms(1_000));
    }

    pub(super) fn control_after_end(
        &mut self,
        ticket: Ticket,
        signal: ControlSignal,
        out: &mut Step,
    ) {
        let phase = self.state.phase;
        let reply = match self.state.refuses(signal) {
            None if phase == Phase::Cancelled => Reply::Control(ControlOutcome {
                phase,
                pause: None,
                already: true,
            }),
            why => {
                let why = why.unwrap_or("it has ended; there is nothing left to cancel");
                Reply::Refused(Refusal::Phase(why.to_owned()))
            }
        };
        out.effects.push(Effect::Reply(ticket, reply));
    }
}

pub(super) fn refuse(ticket: Ticket, refusal: Refusal, out: &mut Step) {
    out.effects
        .push(Effect::Reply(ticket, Reply::Refused(refusal)));
}

impl TaskState {
    /// Why `signal` is refused in this phase, if it is.
    pub fn refuses(&self, signal: ControlSignal) -> Option<&'static str> {
        let phase = self.phase;
        match signal {
            ControlSignal::Cancel => None,
            ControlSignal::Pause => match phase {
                Phase::Starting => Some(
                    "it is just starting and cannot be paused yet; repeat the pause when it is running, or cancel",
                ),
                Phase::Finishing => Some(
                    "the worker is done and the result is being read; there is nothing left to pause",
                ),
                Phase::Queued | Phase::Running | Phase::Paused | Phase::InputRequired => None,
                Phase::Completed | Phase::Failed | Phase::Timeout | Phase::Cancelled => {
                    Some("it has ended and cannot be paused")
                }
            },
            ControlSignal::Resume => match phase {
                Phase::Paused => None,
                Phase::Queued
                | Phase::Starting
                | Phase::Running
                | Phase::InputRequired
                | Phase::Finishing => Some("it is not paused; only a paused task can be resumed"),
                Phase::Completed | Phase::Failed | Phase::Timeout | Phase::Cancelled => {
                    Some("it has ended and cannot be resumed; submit a new task to go on")
                }
            },
        }
    }
}
