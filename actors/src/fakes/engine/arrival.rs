//! What arrives at the records: a prompt at its session, an opening at its attempt.
//!
//! In: a stored prompt, a request to open. Out: why a run begins (the table of repeats), the one session of an attempt.

use super::records::{Message, Records, RunCause, Session};
use super::script::Script;
use crate::event::{Prompt, SessionRef};
use crate::id::AttemptId;
use crate::ports::OpenSession;

/// What a stored prompt makes of its session: the table of repeats. `None` = nothing happens.
pub(super) fn arrival(session: &mut Session, prompt: &Prompt) -> Option<RunCause> {
    let known = session
        .messages
        .iter()
        .position(|message| message.is_user(&prompt.message_id));
    let Some(at) = known else {
        // The same text twice, neither begun with, is one thing to do.
        let known = session.unanswered_texts().any(|text| text == prompt.text);
        if !known && let Some(script) = Script::of(&prompt.text) {
            session.program.extend(script.steps);
        }
        session.messages.push(Message::User {
            id: prompt.message_id.clone(),
            text: prompt.text.clone(),
        });
        return Some(RunCause::Fresh);
    };
    if session.run.is_some() {
        return None;
    }
    if session.newest_user() != Some(at) {
        let message = session.messages.remove(at);
        session.messages.push(message);
        return Some(RunCause::Older);
    }
    match session.messages.last() {
        Some(
            Message::Assistant { error: Some(_), .. } | Message::Assistant { rejected: true, .. },
        ) => Some(RunCause::Again),
        Some(Message::Assistant {
            completed: true,
            finish: Some(finish),
            ..
        }) if finish != "tool-calls" => None,
        Some(Message::Assistant { .. }) => Some(RunCause::Resumed),
        Some(Message::User { .. }) | None => Some(RunCause::Fresh),
    }
}

impl Records {
    pub(super) fn make(&mut self, owner: AttemptId, directory: &str) -> SessionRef {
        self.next_session += 1;
        let reference = SessionRef {
            id: format!("ses_{:04}", self.next_session),
            directory: directory.to_owned(),
            server: "1".to_owned(),
        };
        *self.tallies.sessions.entry(owner).or_default() += 1;
        let session = Session::new(reference.clone(), owner);
        self.sessions.insert(reference.id.clone(), session);
        reference
    }

    pub(super) fn find_or_make(&mut self, request: &OpenSession) -> SessionRef {
        let mut found: Vec<(bool, String)> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.owner == request.attempt)
            .map(|(id, session)| (session.messages.is_empty(), id.clone()))
            .collect();
        found.sort();
        let mut found = found.into_iter().map(|(_, id)| id);
        let Some(kept) = found.next() else {
            return self.make(request.attempt, &request.directory);
        };
        for other in found {
            self.sessions.remove(&other);
        }
        match self.sessions.get(&kept) {
            Some(session) => session.reference.clone(),
            None => self.make(request.attempt, &request.directory),
        }
    }
}
