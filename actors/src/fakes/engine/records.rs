//! The engine's own records: sessions, messages, requests, and the tallies that a checker compares the tree with.
//!
//! In: what the engine and its runs do. Out: reports as an adapter would make them of OpenCode's REST answers, and the truth.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::script::ScriptStep;
use crate::command::Answer;
use crate::event::{Prompt, Request, SessionRef, ToolRun, Usage};
use crate::id::{AttemptId, RequestId, WorkerId};
use crate::ports::{Activity, LastMessage, PromptState, SessionReport};

/// One message of a session.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    User {
        id: String,
        text: String,
    },
    Assistant {
        completed: bool,
        finish: Option<String>,
        error: Option<(String, String)>,
        rejected: bool,
        text: String,
        tool: Option<ToolRun>,
    },
}

impl Message {
    pub(super) const fn assistant() -> Self {
        Self::Assistant {
            completed: false,
            finish: None,
            error: None,
            rejected: false,
            text: String::new(),
            tool: None,
        }
    }

    fn last(&self) -> LastMessage {
        match self {
            Self::User { .. } => LastMessage::User,
            Self::Assistant {
                completed,
                finish,
                error,
                rejected,
                ..
            } => LastMessage::Assistant {
                completed: *completed,
                finish: finish.clone(),
                error: error.clone(),
                rejected: *rejected,
            },
        }
    }

    pub(super) fn is_user(&self, wanted: &str) -> bool {
        matches!(self, Self::User { id, .. } if id == wanted)
    }
}

/// Why a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RunCause {
    /// A prompt that the session did not know, or had not begun with.
    Fresh,
    /// A repeated prompt went on with an unfinished answer.
    Resumed,
    /// A repeated prompt ran again after an abort, an error or a rejection.
    Again,
    /// A prompt that was not the newest was repeated and ran again.
    Older,
    /// As the two before, but by a copy that was sent before the first one had ended.
    Copied,
}

pub(super) struct Session {
    pub(super) reference: SessionRef,
    pub(super) owner: AttemptId,
    pub(super) messages: Vec<Message>,
    pub(super) program: Vec<ScriptStep>,
    pub(super) at: usize,
    pub(super) run: Option<AbortHandle>,
    /// Prompts accepted and not yet stored.
    pub(super) lagging: Vec<(String, AbortHandle)>,
    pub(super) requests: BTreeMap<RequestId, (Request, oneshot::Sender<Answer>)>,
    pub(super) retrying: Option<u32>,
    pub(super) frozen: bool,
    pub(super) warm: bool,
    pub(super) steps: u32,
    pub(super) asked: u32,
}

impl Session {
    pub(super) const fn new(reference: SessionRef, owner: AttemptId) -> Self {
        Self {
            reference,
            owner,
            messages: Vec::new(),
            program: Vec::new(),
            at: 0,
            run: None,
            lagging: Vec::new(),
            requests: BTreeMap::new(),
            retrying: None,
            frozen: false,
            warm: false,
            steps: 0,
            asked: 0,
        }
    }

    pub(super) fn newest_user(&self) -> Option<usize> {
        self.messages
            .iter()
            .rposition(|message| matches!(message, Message::User { .. }))
    }

    pub(super) fn knows(&self, message: &str) -> bool {
        self.messages.iter().any(|known| known.is_user(message))
    }

    fn newest_assistant(&self) -> Option<usize> {
        self.messages
            .iter()
            .rposition(|message| matches!(message, Message::Assistant { .. }))
    }

    /// The assistant message that a run is writing, or wrote last.
    pub(super) fn assistant_mut(&mut self) -> Option<&mut Message> {
        self.messages
            .iter_mut()
            .rev()
            .find(|message| matches!(message, Message::Assistant { .. }))
    }

    /// Whether a user message is newer than the newest answer.
    pub(super) fn has_unanswered(&self) -> bool {
        self.newest_user() > self.newest_assistant()
    }

    /// Texts of user messages newer than the newest answer.
    pub(super) fn unanswered_texts(&self) -> impl Iterator<Item = &str> {
        let from = self.newest_assistant().map_or(0, |at| at + 1);
        self.messages
            .iter()
            .skip(from)
            .filter_map(|message| match message {
                Message::User { text, .. } => Some(text.as_str()),
                Message::Assistant { .. } => None,
            })
    }

    pub(super) fn last(&self) -> LastMessage {
        self.messages
            .last()
            .map_or(LastMessage::None, Message::last)
    }

    pub(super) fn succeeded(&self) -> bool {
        self.run.is_none()
            && !self.awaits_a_prompt()
            && matches!(
                self.last(),
                LastMessage::Assistant { completed: true, finish: Some(finish), error: None, rejected: false }
                    if finish == "stop"
            )
    }

    fn prompt_state(&self, id: &str) -> PromptState {
        let at = self.messages.iter().position(|message| message.is_user(id));
        PromptState {
            message_id: id.to_owned(),
            stored: at.is_some(),
            complete: at.is_some(),
            taken_up: at.is_some_and(|at| self.newest_assistant() > Some(at)),
            newest: at.is_some() && at == self.newest_user(),
        }
    }

    pub(super) fn report(&self, worker: WorkerId, prompts: &[String]) -> SessionReport {
        let activity = match (&self.run, self.retrying) {
            (Some(_), Some(attempt)) => Activity::Retrying {
                attempt,
                message: "scripted: try later".to_owned(),
                next: None,
            },
            (Some(_), None) => Activity::Busy,
            (None, _) => Activity::Idle,
        };
        let unfinished = self
            .messages
            .iter()
            .rev()
            // The answer being written says nothing yet.
            .skip_while(|message| {
                matches!(
                    message,
                    Message::Assistant {
                        completed: false,
                        ..
                    }
                )
            })
            .take_while(|message| {
                matches!(message, Message::Assistant { completed: true, finish: Some(finish), .. }
                    if finish == "unknown")
            })
            .count();
        let (text, tool) = match self.messages.last() {
            Some(Message::Assistant { text, tool, .. }) => (text.clone(), tool.clone()),
            Some(Message::User { .. }) | None => (String::new(), None),
        };
        SessionReport {
            worker,
            activity,
            prompts: prompts.iter().map(|id| self.prompt_state(id)).collect(),
            last: self.last(),
            requests: self
                .requests
                .values()
                .map(|(request, _)| request.clone())
                .collect(),
            usage: self.usage(),
            steps: self.steps,
            unfinished_in_a_row: u32::try_from(unfinished).unwrap_or(u32::MAX),
            text,
            text_cut: false,
            running_tools: tool.into_iter().collect(),
            newest_at: None,
            todos: Vec::new(),
        }
    }

    /// Every step costs ten tokens in and one out.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            input: u64::from(self.steps) * 10,
            output: u64::from(self.steps),
            ..Usage::default()
        }
    }

    /// Whether a prompt is on its way that is not stored: a copy of a stored one changes nothing any more.
    fn awaits_a_prompt(&self) -> bool {
        self.lagging.iter().any(|(message, _)| !self.knows(message))
    }

    /// Takes the run and everything on its way down, as a dying worker or a deletion does.
    pub(super) fn cut(&mut self) {
        if let Some(run) = self.run.take() {
            run.abort();
        }
        for (_, lagging) in self.lagging.drain(..) {
            lagging.abort();
        }
        self.requests.clear();
        self.retrying = None;
    }
}

/// How a session stood when it was removed, or stands now.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// Its owner.
    pub attempt: AttemptId,
    /// It had or has a run, or a prompt on its way to one.
    pub working: bool,
    /// Its last answer is complete and without error, and nothing is unanswered.
    pub succeeded: bool,
    /// Every step of its script was done.
    pub done: bool,
    /// It is frozen.
    pub frozen: bool,
    /// Its last message.
    pub last: LastMessage,
}

/// What happened in the engine, for checkers.
#[derive(Clone, Debug, Default)]
pub struct Tallies {
    /// Runs begun, by message id and cause.
    pub runs: BTreeMap<(String, RunCause), u32>,
    /// Effects of tools, by session and step.
    pub effects: BTreeMap<(String, usize), u32>,
    /// Removals of an attempt that found something.
    pub removals: BTreeMap<AttemptId, u32>,
    /// Sessions made, by attempt.
    pub sessions: BTreeMap<AttemptId, u32>,
    /// How sessions stood when they were removed.
    pub removed: Vec<Truth>,
    /// How often the worker died.
    pub deaths: u32,
    /// Aborts that ended a run.
    pub aborts: u32,
    /// Prompts taken, by session, in order.
    pub prompts: BTreeMap<String, Vec<Prompt>>,
}

#[derive(Default)]
pub(super) struct Records {
    pub(super) generation: u32,
    pub(super) alive: bool,
    pub(super) stream: Option<super::stream::Stream>,
    pub(super) streams: u64,
    pub(super) sessions: BTreeMap<String, Session>,
    pub(super) next_session: u32,
    pub(super) tallies: Tallies,
}

impl Records {
    pub(super) fn worker(&self) -> WorkerId {
        WorkerId(format!("worker-{}", self.generation))
    }

    pub(super) fn truth_of(session: &Session) -> Truth {
        Truth {
            attempt: session.owner,
            working: session.run.is_some() || session.awaits_a_prompt(),
            succeeded: session.succeeded(),
            done: session.at >= session.program.len(),
            frozen: session.frozen,
            last: session.last(),
        }
    }

    /// Deletes a session and whatever runs in it.
    pub(super) fn delete(&mut self, id: &str) -> bool {
        let Some(mut session) = self.sessions.remove(id) else {
            return false;
        };
        self.tallies.removed.push(Self::truth_of(&session));
        session.cut();
        true
    }
}
