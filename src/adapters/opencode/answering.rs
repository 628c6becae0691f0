//! Answers to what a worker asks: permissions and questions.
//!
//! In: a request and its answer. Out: whether the worker took it, or that it no longer asks. May be repeated.

use chargehand_actors::command::Answer;
use chargehand_actors::event::{Request, RequestKind, SessionRef};
use chargehand_actors::ports::{AnswerOutcome, EngineError};
use reqwest::Method;
use serde_json::{Value, json};

use super::driver::{Driver, json_list};
use super::wire::{Permission, Questions};

impl Driver {
    /// Gives an answer. OpenCode keeps no record of answers: a request that it does not know is answered or gone.
    pub(in crate::adapters) async fn answer(
        &self,
        session: &SessionRef,
        request: &Request,
        answer: &Answer,
    ) -> Result<AnswerOutcome, EngineError> {
        let (path, body) = answer_call(request, answer)?;
        let query = [("directory", session.directory.as_str())];
        if !self.version.refuses_gone_requests() && !self.is_open(request, &query).await? {
            return Ok(AnswerOutcome::Gone);
        }
        let taken = self.client.act(Method::POST, &path, &query, &body).await?;
        Ok(if taken {
            AnswerOutcome::Given
        } else {
            AnswerOutcome::Gone
        })
    }

    async fn is_open(
        &self,
        request: &Request,
        query: &[(&str, &str)],
    ) -> Result<bool, EngineError> {
        let id = &request.id.0;
        match &request.kind {
            RequestKind::Permission { .. } => {
                let open: Vec<Permission> =
                    json_list(self.client.get("/permission", query).await?)?;
                Ok(open.iter().any(|asked| asked.id == *id))
            }
            RequestKind::Question { .. } => {
                let open: Vec<Questions> = json_list(self.client.get("/question", query).await?)?;
                Ok(open.iter().any(|asked| asked.id == *id))
            }
        }
    }
}

/// Route and body of an answer. A bare reject would end the run, so a refusal always carries words; for a question they go
/// out as its answer, because rejecting a question always ends the run.
fn answer_call(request: &Request, answer: &Answer) -> Result<(String, Value), EngineError> {
    let id = &request.id;
    match (&request.kind, answer) {
        // Never "always": OpenCode then lets everything alike pass, against its own denials, for all sessions of the
        // directory. The machine remembers what was allowed for good and answers by itself.
        (RequestKind::Permission { .. }, Answer::Allow { .. }) => {
            Ok((format!("/permission/{id}/reply"), json!({"reply": "once"})))
        }
        (RequestKind::Permission { .. }, Answer::Deny { message }) => Ok((
            format!("/permission/{id}/reply"),
            json!({"reply": "reject", "message": words(message)}),
        )),
        (RequestKind::Question { .. }, Answer::Choices { choices }) => {
            Ok((format!("/question/{id}/reply"), json!({"answers": choices})))
        }
        (RequestKind::Question { questions }, Answer::Deny { message }) => {
            let refusals: Vec<[&str; 1]> = questions.iter().map(|_| [words(message)]).collect();
            Ok((
                format!("/question/{id}/reply"),
                json!({"answers": refusals}),
            ))
        }
        (RequestKind::Permission { .. }, Answer::Choices { .. }) => Err(EngineError::Refused(
            "a permission is allowed or denied, it offers no choices".to_owned(),
        )),
        (RequestKind::Question { .. }, Answer::Allow { .. }) => Err(EngineError::Refused(
            "a question needs choices or a text, it cannot be allowed".to_owned(),
        )),
    }
}

fn words(message: &str) -> &str {
    if message.trim().is_empty() {
        "Not allowed. Go on without it."
    } else {
        message
    }
}

#[cfg(test)]
#[path = "answering_tests.rs"]
mod tests;
