//! Ending a run so that its end is seen, and removing sessions so that they are provably gone.
//!
//! An abort that answers 200 is not an abort: one that comes before the run has begun is lost, and in a cold directory a run
//! begins up to 17 s after its prompt was taken. So an abort is repeated until the records say that nothing runs and nothing
//! can begin any more. [`judge`] decides that and is pure; the rest asks and waits.

use std::time::Duration;

use chargehand_actors::crash::CrashPoint;
use chargehand_actors::event::SessionRef;
use chargehand_actors::id::AttemptId;
use chargehand_actors::ports::EngineError;
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use super::driver::{Driver, json_one};
use super::wire::{Message, StatusMap};

/// Between two aborts.
const EVERY: Duration = Duration::from_millis(100);
/// A run in a cold directory may begin this long after its prompt.
const COLD_LAG: Duration = Duration::from_secs(20);
/// A run in a warm directory begins within milliseconds of its prompt.
const WARM_LAG: Duration = Duration::from_secs(1);
/// How long an answer without end must stay as it is to be called cut off by the death of its worker.
const CUT_OFF: Duration = Duration::from_millis(1500);
/// How many messages are looked at.
const NEWEST: u32 = 30;
const WINDOW: usize = NEWEST as usize;
/// When to give up.
const LIMIT: Duration = Duration::from_secs(60);

/// What one look at a session shows.
#[derive(Debug)]
struct Look<'a> {
    busy: bool,
    /// The newest messages, oldest first.
    messages: &'a [Message],
    /// The last prompt that we sent: its message id, and how long ago.
    sent: Option<(&'a str, Duration)>,
    /// The session was seen working since the first abort.
    worked: bool,
    /// How long the session has looked like this.
    unchanged: Duration,
    /// How long a prompt may wait before its run begins.
    lag: Duration,
    /// An earlier Chargehand may have sent a prompt that is still on its way.
    doubt: bool,
}

/// Whether the run has provably ended and none can begin.
fn judge(look: &Look<'_>) -> bool {
    if look.busy {
        return false;
    }
    let on_its_way = look.sent.is_some_and(|(id, ago)| {
        let known = look.messages.iter().any(|message| message.info.id == id);
        let taken_up = look.worked || has_answer(look.messages, id);
        let older_than_shown = !known && look.messages.len() >= WINDOW;
        !taken_up && !older_than_shown && ago < look.lag
    });
    match look.messages.last() {
        Some(last) if last.info.is_assistant() => {
            !on_its_way && (last.info.is_ended() || look.unchanged >= CUT_OFF)
        }
        // A prompt that nobody has answered: queued behind the run that was ended (it is dropped), or not yet begun.
        Some(_) | None if look.worked => look.unchanged >= WARM_LAG,
        Some(_) | None => !on_its_way && !look.doubt,
    }
}

/// Whether the prompt has an answer that ended. One without end may be the remains of a dead worker, which the prompt,
/// sent again, is about to continue.
pub(super) fn has_answer(messages: &[Message], id: &str) -> bool {
    messages
        .iter()
        .skip_while(|message| message.info.id != id)
        .any(|message| message.info.is_assistant() && message.info.is_ended())
}

impl Driver {
    /// Ends the session's run; `Ok` when its end was seen, or the session is gone.
    pub(in crate::adapters) async fn abort(&self, session: &SessionRef) -> Result<(), EngineError> {
        let lag = if self.gate.is_warm(&session.directory) {
            WARM_LAG
        } else {
            COLD_LAG
        };
        self.abort_within(&session.id, &session.directory, lag, self.doubt_until)
            .await
    }

    async fn abort_within(
        &self,
        id: &str,
        directory: &str,
        lag: Duration,
        doubt_until: Instant,
    ) -> Result<(), EngineError> {
        let began = Instant::now();
        let mut worked = false;
        let mut shape = String::new();
        let mut since = began;
        loop {
            let problem = match self.abort_once(id, directory).await {
                Ok(Some((busy, messages))) => {
                    worked |= busy;
                    let now = Instant::now();
                    let looks = format!(
                        "{busy} {:?}",
                        messages.last().map(|m| (&m.info.id, m.parts.len()))
                    );
                    if looks != shape {
                        shape = looks;
                        since = now;
                    }
                    let sent = self.last_sent(id);
                    let look = Look {
                        busy,
                        messages: &messages,
                        sent: sent
                            .as_ref()
                            .map(|sent| (sent.message.as_str(), now - sent.at)),
                        worked,
                        unchanged: now - since,
                        lag,
                        doubt: now < doubt_until,
                    };
                    if judge(&look) {
                        return Ok(());
                    }
                    EngineError::Fault(
                        "the session still works although it was told to stop for a minute"
                            .to_owned(),
                    )
                }
                Ok(None) | Err(EngineError::SessionGone) => return Ok(()),
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            if began.elapsed() > LIMIT {
                return Err(problem);
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// One abort and one look. None = the session does not exist.
    async fn abort_once(
        &self,
        id: &str,
        directory: &str,
    ) -> Result<Option<(bool, Vec<Message>)>, EngineError> {
        let query = [("directory", directory)];
        let path = format!("/session/{id}/abort");
        if !self
            .client
            .act(Method::POST, &path, &query, &json!({}))
            .await?
        {
            return Ok(None);
        }
        let statuses = self.client.get("/session/status", &query).await?;
        let statuses: StatusMap = json_one(statuses, "GET /session/status")?;
        let busy = statuses.get(id).is_some_and(|status| status.kind != "idle");
        let messages = self.messages(id, directory, Some(NEWEST)).await?;
        Ok(Some((busy, messages)))
    }

    /// Removes what the attempt owns: the known session and every other that carries the attempt.
    pub(super) async fn remove(
        &self,
        attempt: AttemptId,
        session: Option<SessionRef>,
        directory: Option<String>,
    ) -> Result<(), EngineError> {
        let owner = self.owner(attempt);
        let mut places: Vec<(String, String)> = Vec::new();
        if let Some(session) = &session {
            places.push((session.id.clone(), session.directory.clone()));
        }
        let where_to_look = session.map(|session| session.directory).or(directory);
        let carrying = match where_to_look {
            Some(directory) => self.find(&directory, &owner).await?,
            None => {
                let mut all = self.all_sessions().await?;
                all.retain(|session| session.owner().as_ref() == Some(&owner));
                all
            }
        };
        for found in carrying {
            if !places.iter().any(|(id, _)| *id == found.id) {
                places.push((found.id, found.directory));
            }
        }
        for (id, directory) in places {
            self.end_and_delete(&id, &directory).await?;
        }
        Ok(())
    }

    /// Ends and deletes one session of ours; `Ok` when it does not exist any more.
    pub(super) async fn end_and_delete(
        &self,
        id: &str,
        directory: &str,
    ) -> Result<(), EngineError> {
        let Some(session) = self.session(id, directory).await? else {
            self.forget(id);
            return Ok(());
        };
        if session
            .owner()
            .is_none_or(|owner| owner.instance != self.instance.0)
        {
            return Err(EngineError::Refused(format!(
                "session {id} does not carry this instance of Chargehand; it was left alone"
            )));
        }
        // Deleting is the backstop for a run that has not begun, so there is no long wait for it.
        self.abort_within(id, directory, WARM_LAG, Instant::now())
            .await?;
        CrashPoint::SessionEnded.pass();
        let query = [("directory", directory)];
        let path = format!("/session/{id}");
        self.client
            .act(Method::DELETE, &path, &query, &json!({}))
            .await?;
        if self.session(id, directory).await?.is_some() {
            return Err(EngineError::Fault(format!(
                "session {id} is still there after it was deleted"
            )));
        }
        CrashPoint::SessionDeleted.pass();
        self.forget(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a fixture that does not parse must fail the test"
    )]

    use serde_json::Value;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn user(id: &str) -> Value {
        json!({"info":{"id":id,"role":"user"},"parts":[{"type":"text"}]})
    }

    fn assistant(ended: bool) -> Value {
        let time = if ended {
            json!({"created":1,"completed":2})
        } else {
            json!({"created":1})
        };
        json!({"info":{"id":"msg_a","role":"assistant","time":time}})
    }

    #[test]
    fn a_run_has_ended_only_when_none_can_begin() {
        let sec = Duration::from_secs;
        // name, busy, messages, sent (id, ago), worked, unchanged, lag, doubt -> ended
        let table = [
            (
                "works",
                true,
                vec![user("u"), assistant(false)],
                None,
                true,
                sec(9),
                WARM_LAG,
                false,
                false,
            ),
            (
                "nothing was ever sent",
                false,
                vec![],
                None,
                false,
                NOW,
                COLD_LAG,
                false,
                true,
            ),
            (
                "sent, not stored yet",
                false,
                vec![],
                Some(("u", sec(3))),
                false,
                sec(3),
                COLD_LAG,
                false,
                false,
            ),
            (
                "sent, never stored",
                false,
                vec![],
                Some(("u", sec(21))),
                false,
                sec(21),
                COLD_LAG,
                false,
                true,
            ),
            (
                "stored, run not begun, cold",
                false,
                vec![user("u")],
                Some(("u", sec(3))),
                false,
                sec(3),
                COLD_LAG,
                false,
                false,
            ),
            (
                "stored, run not begun, warm",
                false,
                vec![user("u")],
                Some(("u", sec(2))),
                false,
                sec(2),
                WARM_LAG,
                false,
                true,
            ),
            (
                "aborted",
                false,
                vec![user("u"), assistant(true)],
                Some(("u", sec(1))),
                true,
                NOW,
                COLD_LAG,
                false,
                true,
            ),
            (
                "answer without end, just now",
                false,
                vec![user("u"), assistant(false)],
                None,
                true,
                NOW,
                COLD_LAG,
                false,
                false,
            ),
            (
                "answer cut off by a dead worker",
                false,
                vec![user("u"), assistant(false)],
                None,
                false,
                sec(2),
                COLD_LAG,
                false,
                true,
            ),
            (
                "sent again after the worker died, run not begun",
                false,
                vec![user("u"), assistant(false)],
                Some(("u", sec(3))),
                false,
                sec(3),
                COLD_LAG,
                false,
                false,
            ),
            (
                "second prompt not stored yet, cold",
                false,
                vec![user("u"), assistant(true)],
                Some(("v", sec(5))),
                false,
                sec(5),
                COLD_LAG,
                false,
                false,
            ),
            (
                "queued behind the aborted run",
                false,
                vec![user("u"), assistant(true), user("v")],
                Some(("v", sec(2))),
                true,
                sec(1),
                COLD_LAG,
                false,
                true,
            ),
            (
                "second prompt not stored yet",
                false,
                vec![user("u"), assistant(true)],
                Some(("v", NOW)),
                false,
                NOW,
                WARM_LAG,
                false,
                false,
            ),
            (
                "perhaps sent by an earlier Chargehand",
                false,
                vec![user("u")],
                None,
                false,
                NOW,
                COLD_LAG,
                true,
                false,
            ),
        ];
        for (name, busy, messages, sent, worked, unchanged, lag, doubt, ended) in table {
            let messages: Vec<Message> = messages
                .into_iter()
                .map(|message| serde_json::from_value(message).unwrap())
                .collect();
            let look = Look {
                busy,
                messages: &messages,
                sent,
                worked,
                unchanged,
                lag,
                doubt,
            };
            assert_eq!(judge(&look), ended, "{name}");
        }
    }
}
