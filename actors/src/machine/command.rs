//! Commands of planners, observers and operators: messages, control signals, answers.
//!
//! In: the command with the ticket of who waits. Out: events, and a reply that waits for them to be durable.

use super::input::{Context, Effect, Refusal, Reply, Step, Ticket};
use super::prompt;
use super::step::Machine;
use crate::command::{Answer, ControlSignal, MessageType};
use crate::event::{AbortReason, Event, PauseKind, Phase, PromptKind, RequestKind};
use crate::id::{RequestId, WallTime};
use crate::view::{ControlOutcome, Delivery, MessageReceipt};

/// Type, text, metadata, sender.
type MessageParts = (
    MessageType,
    String,
    serde_json::Map<String, serde_json::Value>,
    String,
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
            by,
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
        by: String,
        cx: &mut Context<'_>,
        out: &mut Step,
    ) {
        if let Some(why) = self.state.refuses(signal) {
            refuse(ticket, Refusal::Phase(why.to_owned()), out);
            return;
        }
        if signal == ControlSignal::Pause && self.state.phase == Phase::Paused {
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
        let repeated =
            signal == ControlSignal::Pause && (self.state.pausing() || self.live.freezing);
        if repeated {
            return;
        }
        self.flush(cx.now, out);
        let received = Event::ControlReceived {
            signal,
            reason: reason.clone(),
            by: by.clone(),
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
                        by,
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
            if let Some(session) = self.state.session.clone() {
                self.live.freezing = true;
                out.effects.push(Effect::Freeze {
                    session,
                    frozen: true,
                });
            }
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
                if let Some(session) = self.state.session.clone() {
                    self.live.freezing = true;
                    out.effects.push(Effect::Freeze {
                        session,
                        frozen: false,
                    });
                }
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

    pub(super) fn close_requests(&mut self, now: WallTime, out: &mut Step) {
        let open: Vec<RequestId> = self.state.requests.keys().cloned().collect();
        for request in open {
            let end = crate::event::RequestEnd::Superseded;
            self.emit(now, out, Event::RequestClosed { request, end });
        }
    }

    pub(super) fn answer(
        &mut self,
        ticket: Ticket,
        request: RequestId,
        answer: Answer,
        by: String,
        now: WallTime,
        out: &mut Step,
    ) {
        let Some(open) = self
            .state
            .requests
            .get(&request)
            .filter(|r| r.answer.is_none())
        else {
            refuse(ticket, Refusal::NoRequest(request), out);
            return;
        };
        let fits = match (&open.open.request.kind, &answer) {
            (_, Answer::Deny { message }) => !message.trim().is_empty(),
            (RequestKind::Permission { .. }, Answer::Allow { .. }) => true,
            (RequestKind::Question { questions }, Answer::Choices { choices }) => {
                choices.len() == questions.len()
            }
            (RequestKind::Permission { .. }, Answer::Choices { .. })
            | (RequestKind::Question { .. }, Answer::Allow { .. }) => false,
        };
        if !fits {
            let why = "the answer does not fit: a permission takes allow or deny, a question takes one list of choices for each of its questions; a denial needs a message for the worker";
            refuse(ticket, Refusal::BadAnswer(why.to_owned()), out);
            return;
        }
        self.emit(
            now,
            out,
            Event::AnswerWanted {
                request,
                answer,
                by,
            },
        );
        out.effects.push(Effect::Reply(ticket, Reply::Answered));
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

fn refuse(ticket: Ticket, refusal: Refusal, out: &mut Step) {
    out.effects
        .push(Effect::Reply(ticket, Reply::Refused(refusal)));
}
