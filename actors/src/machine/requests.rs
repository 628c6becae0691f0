//! Requests of the worker: opened as the engine's record names them, answered by policy, by people or by their default.
//!
//! In: what a reading says is open, answers, the time. Out: events; the answer itself is an effect of
//! [`Machine::advance`]. A request is answered at most once, and closed exactly once.

use super::command::refuse;
use super::input::{Effect, Refusal, Reply, Step, Ticket};
use super::policy::{Ruling, rule_on};
use super::step::Machine;
use crate::command::{Answer, Author, Origin, PermissionRule};
use crate::event::{Event, Failure, FailureKind, Outcome, Phase, Request, RequestEnd, RequestKind};
use crate::id::{RequestId, WallTime};
use crate::ports::SessionReport;

/// What a worker is told whose request nobody answered.
const NOBODY: &str = "Nobody is there to answer. Do without it: choose the safest way that needs no permission, and say in your summary what you left out.";
/// Who answered, when the policy did.
const POLICY: &str = "policy";
/// Who answered, when nobody did.
const DEFAULT: &str = "default";

impl Machine {
    /// Opens what the worker asks and closes what it no longer asks.
    pub(super) fn sync_requests(&mut self, report: &SessionReport, now: WallTime, out: &mut Step) {
        let gone: Vec<RequestId> = self
            .state
            .requests
            .keys()
            .filter(|id| !self.live.answering.contains(*id))
            .filter(|id| !report.requests.iter().any(|asked| asked.id == **id))
            .cloned()
            .collect();
        for request in gone {
            let end = RequestEnd::Gone;
            self.emit(now, out, Event::RequestClosed { request, end });
        }
        if !matches!(self.state.phase, Phase::Running | Phase::InputRequired) {
            return;
        }
        for asked in &report.requests {
            let known = self.state.requests.contains_key(&asked.id);
            if !known && !self.live.just_closed.contains(&asked.id) {
                self.open_request(asked.clone(), now, out);
            }
        }
    }

    /// The policy answers at once; then whoever is attached, or nobody.
    fn open_request(&mut self, request: Request, now: WallTime, out: &mut Step) {
        let default = Answer::Deny {
            message: NOBODY.to_owned(),
        };
        let by_policy = self.by_policy(&request);
        let attended = self.state.attended();
        let expires_at = if attended && by_policy.is_none() {
            now.plus_ms(self.limits.request_expiry_ms)
        } else {
            now
        };
        let id = request.id.clone();
        self.emit(
            now,
            out,
            Event::RequestOpened {
                request,
                expires_at,
                default: default.clone(),
            },
        );
        match by_policy {
            Some(answer) => self.answer_inside(id, answer, POLICY, now, out),
            None if !attended => self.answer_inside(id, default, DEFAULT, now, out),
            None => {}
        }
    }

    fn by_policy(&self, request: &Request) -> Option<Answer> {
        let RequestKind::Permission {
            permission,
            patterns,
            ..
        } = &request.kind
        else {
            return None;
        };
        let rules = &self.state.spec.permissions;
        match rule_on(rules, &self.state.granted, permission, patterns) {
            Ruling::Allow => Some(Answer::Allow { always: false }),
            Ruling::Deny(rule) => Some(Answer::Deny {
                message: denial(&rule),
            }),
            Ruling::Ask => None,
        }
    }

    /// An answer of Chargehand's own.
    fn answer_inside(
        &mut self,
        request: RequestId,
        answer: Answer,
        by: &str,
        now: WallTime,
        out: &mut Step,
    ) {
        let event = Event::AnswerWanted {
            request,
            answer,
            by: by.to_owned(),
            from: Origin::default(),
        };
        self.emit(now, out, event);
    }

    /// The engine will not take this answer. Its default is given instead; when that is refused too, nobody can free the worker
    /// from its question, and a task that waits for ever helps nobody.
    pub(super) fn answer_refused(
        &mut self,
        request: RequestId,
        why: &str,
        by_default: bool,
        now: WallTime,
        out: &mut Step,
    ) {
        let Some(state) = self.state.requests.get(&request) else {
            return;
        };
        if by_default {
            let message = format!(
                "the worker waits for an answer that its engine does not take ({why}); look at the engine's log, then submit the task \
                 again"
            );
            let failure = Failure {
                kind: FailureKind::Engine,
                message,
            };
            self.run_ended(Outcome::Failed { failure }, now, out);
            return;
        }
        let default = state.open.default.clone();
        let message = format!(
            "the engine does not take the answer to the worker's request ({why}); its default is given"
        );
        self.emit(now, out, Event::Remark { message });
        self.answer_inside(request, default, DEFAULT, now, out);
    }

    pub(super) fn expire_requests(&mut self, now: WallTime, out: &mut Step) {
        let expired: Vec<(RequestId, Answer)> = self
            .state
            .requests
            .iter()
            .filter(|(_, request)| request.answer.is_none() && request.open.expires_at <= now)
            .map(|(id, request)| (id.clone(), request.open.default.clone()))
            .collect();
        for (request, answer) in expired {
            self.answer_inside(request, answer, DEFAULT, now, out);
        }
    }

    pub(super) fn close_requests(&mut self, now: WallTime, out: &mut Step) {
        let open: Vec<RequestId> = self.state.requests.keys().cloned().collect();
        for request in open {
            let end = RequestEnd::Superseded;
            self.emit(now, out, Event::RequestClosed { request, end });
        }
    }

    /// Holds for the requests that come from now on: what is open keeps its deadline.
    pub(super) fn attendance(
        &mut self,
        ticket: Ticket,
        people: Vec<String>,
        now: WallTime,
        out: &mut Step,
    ) {
        if self.state.attending != people {
            self.emit(now, out, Event::AttendanceChanged { people });
        }
        out.effects.push(Effect::Reply(ticket, Reply::Noted));
    }

    pub(super) fn answer(
        &mut self,
        ticket: Ticket,
        request: RequestId,
        answer: Answer,
        by: Author,
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
                by: by.by,
                from: by.from,
            },
        );
        out.effects.push(Effect::Reply(ticket, Reply::Answered));
    }
}

/// What the worker reads when a rule denies its request.
fn denial(rule: &PermissionRule) -> String {
    let what = match rule.pattern.as_str() {
        "*" => rule.permission.clone(),
        pattern => format!("{}:{pattern}", rule.permission),
    };
    format!(
        "The rules of this task do not allow it (rule \"{what}\": deny). Asking again changes nothing: go on without it, and say in your summary what you left out."
    )
}
