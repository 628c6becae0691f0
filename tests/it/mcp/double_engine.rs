//! An engine without OpenCode: what a session does stands in the text of its prompts.
//!
//! `HANG` keeps it busy, `ASK` asks for a permission and ends when it is answered, `FAIL` ends it with a model error,
//! everything else ends it at once with an answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chargehand_actors::command::Answer;
use chargehand_actors::event::{Request, RequestKind, SessionRef, Usage};
use chargehand_actors::id::{AttemptId, EngineName, RequestId, WorkerId};
use chargehand_actors::ports::{
    Activity, AnswerOutcome, Engine, EngineError, EngineHealth, EngineReady, EngineSignal,
    LastMessage, OpenSession, OwnedAttempt, PauseAbility, PortFuture, PromptState, SendPrompt,
    SessionReport, SessionSignal, Signal, SignalSink, StopHow,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Nothing,
    Hanging,
    Asking,
    Done,
    Failed,
    Aborted,
}

struct Session {
    attempt: AttemptId,
    place: SessionRef,
    prompts: Vec<(String, String)>,
    doing: Doing,
}

/// The engine.
#[derive(Default)]
pub(crate) struct DoubleEngine {
    sessions: Mutex<BTreeMap<String, Session>>,
    prompts: Mutex<Vec<String>>,
    sink: Mutex<Option<SignalSink>>,
}

impl DoubleEngine {
    /// Texts of all prompts that any session got.
    pub(crate) fn prompts(&self) -> Vec<String> {
        self.prompts.lock().unwrap().clone()
    }

    /// Until somebody listens: what is told before reaches nobody, and an output that nobody heard is in no record.
    async fn heard(&self) {
        while self.sink.lock().unwrap().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn tell(&self, session: &str, signal: Signal) {
        let sink = self.sink.lock().unwrap().clone();
        if let Some(sink) = sink {
            sink(EngineSignal::Session(SessionSignal {
                session: session.to_owned(),
                child: false,
                signal,
            }));
        }
    }

    fn report(session: &Session, asked: &[String]) -> SessionReport {
        let newest = session.prompts.last().map(|(id, _)| id.clone());
        let prompts = asked
            .iter()
            .map(|id| {
                let stored = session.prompts.iter().any(|(have, _)| have == id);
                PromptState {
                    message_id: id.clone(),
                    stored,
                    complete: stored,
                    taken_up: stored,
                    newest: newest.as_ref() == Some(id),
                }
            })
            .collect();
        let ended = |error: Option<(&str, &str)>| LastMessage::Assistant {
            completed: true,
            finish: error.is_none().then(|| "stop".to_owned()),
            error: error.map(|(name, text)| (name.to_owned(), text.to_owned())),
            rejected: false,
        };
        SessionReport {
            worker: WorkerId("double-1".to_owned()),
            activity: match session.doing {
                Doing::Hanging | Doing::Asking => Activity::Busy,
                Doing::Nothing | Doing::Done | Doing::Failed | Doing::Aborted => Activity::Idle,
            },
            prompts,
            last: match session.doing {
                Doing::Nothing => LastMessage::None,
                Doing::Hanging | Doing::Asking => LastMessage::Assistant {
                    completed: false,
                    finish: None,
                    error: None,
                    rejected: false,
                },
                Doing::Done => ended(None),
                Doing::Failed => ended(Some(("ProviderAuthError", "the key is not valid"))),
                Doing::Aborted => ended(Some(("MessageAbortedError", "aborted"))),
            },
            requests: (session.doing == Doing::Asking)
                .then(|| permission(&session.place))
                .into_iter()
                .collect(),
            usage: Usage {
                input: 100,
                output: 20,
                cost: 0.25,
                ..Usage::default()
            },
            steps: 1,
            unfinished_in_a_row: 0,
            text: "The answer is forty-two.".to_owned(),
            text_cut: false,
            running_tools: Vec::new(),
            newest_at: None,
            todos: Vec::new(),
        }
    }
}

/// What a worker with `ASK` in its prompt asks.
fn permission(place: &SessionRef) -> Request {
    Request {
        id: RequestId(format!("per_{}", place.id)),
        session: place.id.clone(),
        text: "bash: git push".to_owned(),
        kind: RequestKind::Permission {
            permission: "bash".to_owned(),
            patterns: vec!["git push".to_owned()],
            always: vec!["git push *".to_owned()],
        },
    }
}

/// The double as a port.
pub(crate) struct Port(pub(crate) Arc<DoubleEngine>);

impl Engine for Port {
    fn name(&self) -> EngineName {
        EngineName::new("local")
    }

    fn pause_ability(&self) -> PauseAbility {
        PauseAbility::AbortAndPrompt
    }

    fn start(&self) -> PortFuture<'_, Result<EngineReady, EngineError>> {
        Box::pin(async {
            Ok(EngineReady {
                version: "1.18.33".to_owned(),
                worker: WorkerId("double-1".to_owned()),
                note: None,
                blocked: None,
            })
        })
    }

    fn watch(&self, sink: SignalSink) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            sink(EngineSignal::Open {
                worker: WorkerId("double-1".to_owned()),
            });
            *self.0.sink.lock().unwrap() = Some(sink);
            std::future::pending().await
        })
    }

    fn probe(&self) -> PortFuture<'_, Result<EngineHealth, EngineError>> {
        Box::pin(async {
            Ok(EngineHealth {
                detail: "a double".to_owned(),
            })
        })
    }

    fn owned(&self) -> PortFuture<'_, Result<Vec<OwnedAttempt>, EngineError>> {
        Box::pin(async {
            let sessions = self.0.sessions.lock().unwrap();
            Ok(sessions
                .values()
                .map(|session| OwnedAttempt {
                    attempt: session.attempt,
                    session: Some(session.place.clone()),
                })
                .collect())
        })
    }

    fn open(
        &self,
        request: OpenSession,
    ) -> PortFuture<'_, Result<(SessionRef, WorkerId), EngineError>> {
        Box::pin(async move {
            let id = format!("ses_{}", request.attempt.task);
            let place = SessionRef {
                id: id.clone(),
                directory: request.directory,
                server: "double".to_owned(),
            };
            self.0.sessions.lock().unwrap().insert(
                id,
                Session {
                    attempt: request.attempt,
                    place: place.clone(),
                    prompts: Vec::new(),
                    doing: Doing::Nothing,
                },
            );
            Ok((place, WorkerId("double-1".to_owned())))
        })
    }

    fn prompt(&self, request: SendPrompt) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let id = request.session.id.clone();
            let doing = if request.prompt.text.contains("HANG") {
                Doing::Hanging
            } else if request.prompt.text.contains("ASK") {
                Doing::Asking
            } else if request.prompt.text.contains("FAIL") {
                Doing::Failed
            } else {
                Doing::Done
            };
            {
                let mut sessions = self.0.sessions.lock().unwrap();
                let session = sessions.get_mut(&id).ok_or(EngineError::SessionGone)?;
                let text = request.prompt.text;
                self.0.prompts.lock().unwrap().push(text.clone());
                session.prompts.push((request.prompt.message_id, text));
                session.doing = doing;
            }
            self.0.heard().await;
            self.0.tell(&id, Signal::Busy);
            self.0.tell(&id, Signal::AssistantStarted);
            self.0.tell(
                &id,
                Signal::Text {
                    text: "thinking aloud\n".to_owned(),
                    reasoning: false,
                },
            );
            match doing {
                Doing::Hanging => {}
                Doing::Asking => {
                    let place = request.session.clone();
                    self.0.tell(&id, Signal::RequestAsked(permission(&place)));
                }
                Doing::Nothing | Doing::Done | Doing::Failed | Doing::Aborted => {
                    self.0.tell(&id, Signal::Idle);
                }
            }
            Ok(())
        })
    }

    fn read(
        &self,
        session: SessionRef,
        prompts: Vec<String>,
    ) -> PortFuture<'_, Result<SessionReport, EngineError>> {
        Box::pin(async move {
            let sessions = self.0.sessions.lock().unwrap();
            let session = sessions.get(&session.id).ok_or(EngineError::SessionGone)?;
            Ok(DoubleEngine::report(session, &prompts))
        })
    }

    fn abort(&self, session: SessionRef) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            if let Some(session) = self.0.sessions.lock().unwrap().get_mut(&session.id)
                && matches!(session.doing, Doing::Hanging | Doing::Asking)
            {
                session.doing = Doing::Aborted;
            }
            self.0.tell(&session.id, Signal::Idle);
            Ok(())
        })
    }

    fn freeze(&self, _: SessionRef, _: bool) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Err(EngineError::Refused("it cannot freeze".to_owned())) })
    }

    fn answer(
        &self,
        session: SessionRef,
        _: Request,
        _: Answer,
    ) -> PortFuture<'_, Result<AnswerOutcome, EngineError>> {
        Box::pin(async move {
            {
                let mut sessions = self.0.sessions.lock().unwrap();
                match sessions.get_mut(&session.id) {
                    Some(asks) if asks.doing == Doing::Asking => asks.doing = Doing::Done,
                    _ => return Ok(AnswerOutcome::Gone),
                }
            }
            self.0.tell(&session.id, Signal::Idle);
            Ok(AnswerOutcome::Given)
        })
    }

    fn remove(
        &self,
        _: AttemptId,
        session: Option<SessionRef>,
        _: Option<String>,
    ) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            if let Some(session) = session {
                self.0.sessions.lock().unwrap().remove(&session.id);
            }
            Ok(())
        })
    }

    fn stop(&self, _: StopHow) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
}
