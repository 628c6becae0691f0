//! A run of a session: takes the steps of its script one by one, as OpenCode's loop does.
//!
//! In: the session's script and place in it. Out: messages, effects, requests and signals. A run is a task of the runtime:
//! it goes on while the tree is down, and ends with the worker, the session or an abort.

use std::time::Duration;

use tokio::sync::oneshot;

use super::FakeEngine;
use super::records::{Message, RunCause, Session};
use super::script::ScriptStep;
use crate::command::Answer;
use crate::event::{Question, Request, RequestKind, ToolRun};
use crate::fakes::trouble::lock;
use crate::id::RequestId;
use crate::ports::Signal;

const TICK: Duration = Duration::from_millis(10);

impl FakeEngine {
    /// Begins a run; the records are locked by the caller.
    pub(super) fn begin_run(&self, session: &mut Session, message: &str, cause: RunCause) {
        let (engine, id) = (self.clone(), session.reference.id.clone());
        self.0.trouble.trace.note(format!(
            "engine: run of {message} in {id} begins ({cause:?})"
        ));
        let run = tokio::spawn(async move { engine.run(id).await });
        session.run = Some(run.abort_handle());
    }

    async fn run(self, id: String) {
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.signal(&id, Signal::Busy);
        loop {
            let Some(step) = self.next_step(&id) else {
                return;
            };
            self.signal(&id, Signal::AssistantStarted);
            if !self.take_step(&id, step).await {
                break;
            }
        }
        self.signal(&id, Signal::Idle);
    }

    /// Creates the step's assistant message; earlier prompts are taken up by it.
    fn next_step(&self, id: &str) -> Option<ScriptStep> {
        self.with(id, |session| {
            session.messages.push(Message::assistant());
            session
                .program
                .get(session.at)
                .cloned()
                .unwrap_or_else(|| ScriptStep::Finish("stop".to_owned()))
        })
    }

    /// Takes one step. Whether the loop goes on.
    async fn take_step(&self, id: &str, step: ScriptStep) -> bool {
        match step {
            ScriptStep::Work(ms) => self.work(id, ms).await,
            ScriptStep::Say(ms) => {
                self.pass(id, ms).await;
                let text = "talks on\n".to_owned();
                let reasoning = false;
                self.signal(id, Signal::Text { text, reasoning });
                self.close(id, "tool-calls", None, true)
            }
            ScriptStep::Ask(permission) => {
                let kind = RequestKind::Permission {
                    permission,
                    patterns: vec!["*".to_owned()],
                    always: Vec::new(),
                };
                self.ask(id, kind).await
            }
            ScriptStep::Question => {
                let questions = vec![Question {
                    text: "Which one?".to_owned(),
                    header: "Choice".to_owned(),
                    options: vec!["A".to_owned(), "B".to_owned()],
                }];
                self.ask(id, RequestKind::Question { questions }).await
            }
            ScriptStep::Retry(ms) => {
                self.with(id, |session| session.retrying = Some(1));
                let message = "scripted: try later".to_owned();
                self.signal(
                    id,
                    Signal::Retrying {
                        attempt: 1,
                        message,
                    },
                );
                self.pass(id, ms).await;
                self.with(id, |session| session.retrying = None);
                self.close(id, "tool-calls", None, true)
            }
            ScriptStep::Hang => std::future::pending().await,
            ScriptStep::Loop => {
                self.pass(id, 200).await;
                self.close(id, "unknown", None, false);
                true
            }
            ScriptStep::Error(name) => {
                self.pass(id, 20).await;
                let message = "scripted error".to_owned();
                self.signal(
                    id,
                    Signal::Error {
                        name: name.clone(),
                        message: message.clone(),
                    },
                );
                self.close(id, "", Some((name, message)), false);
                self.end(id);
                false
            }
            ScriptStep::Reject => {
                self.close(id, "tool-calls", None, false);
                self.with(id, |session| {
                    if let Some(Message::Assistant { rejected, .. }) = session.assistant_mut() {
                        *rejected = true;
                    }
                });
                self.end(id);
                false
            }
            ScriptStep::Die => {
                // What killed it does not come again in the resumed run.
                self.with(id, |session| session.at += 1);
                self.kill_worker();
                std::future::pending().await
            }
            ScriptStep::Finish(word) => self.finish(id, &word).await,
        }
    }

    async fn work(&self, id: &str, ms: u64) -> bool {
        let tool = ToolRun {
            tool: "bash".to_owned(),
            title: format!("work {ms}"),
            failed: false,
            ms,
        };
        self.with(id, |session| {
            if let Some(Message::Assistant { tool: running, .. }) = session.assistant_mut() {
                *running = Some(tool.clone());
            }
        });
        self.signal(id, Signal::ToolStarted(tool.clone()));
        self.pass(id, ms).await;
        {
            let mut records = lock(&self.0.records);
            if let Some(at) = records.sessions.get(id).map(|session| session.at) {
                let key = (id.to_owned(), at);
                *records.tallies.effects.entry(key).or_default() += 1;
            }
        }
        self.signal(id, Signal::ToolFinished(tool));
        self.close(id, "tool-calls", None, true)
    }

    async fn ask(&self, id: &str, kind: RequestKind) -> bool {
        let (answer, answered) = oneshot::channel();
        let request = self.with(id, |session| {
            session.asked += 1;
            let request = Request {
                id: RequestId(format!("per_{}_{}", session.reference.id, session.asked)),
                session: session.reference.id.clone(),
                text: "May I?".to_owned(),
                kind,
            };
            session
                .requests
                .insert(request.id.clone(), (request.clone(), answer));
            request
        });
        let Some(request) = request else {
            return false;
        };
        self.signal(id, Signal::RequestAsked(request.clone()));
        let answer = answered.await;
        self.signal(id, Signal::RequestClosed(request.id));
        // A denial with a message does not end the run; the model reads it and goes on.
        matches!(
            answer,
            Ok(Answer::Allow { .. } | Answer::Deny { .. } | Answer::Choices { .. })
        ) && self.close(id, "tool-calls", None, true)
    }

    async fn finish(&self, id: &str, word: &str) -> bool {
        let text = "all done\n".to_owned();
        let reasoning = false;
        self.signal(id, Signal::Text { text, reasoning });
        self.pass(id, 15).await;
        self.close(id, word, None, false);
        // A prompt that came during the last answer is answered in the same busy time.
        let more = self.with(id, |session| {
            let written = session.program.get(session.at);
            session.at += usize::from(matches!(written, Some(ScriptStep::Finish(_))));
            if session.has_unanswered() {
                return true;
            }
            session.run = None;
            false
        });
        more == Some(true)
    }

    /// Time passes, unless the session is frozen.
    async fn pass(&self, id: &str, ms: u64) {
        let until = tokio::time::Instant::now() + Duration::from_millis(ms);
        tokio::time::sleep_until(until).await;
        while self.with(id, |session| session.frozen) == Some(true) {
            tokio::time::sleep(TICK).await;
        }
    }

    /// Closes the assistant message of this step. `next`: the script goes on with the next step.
    fn close(&self, id: &str, word: &str, ended: Option<(String, String)>, next: bool) -> bool {
        let usage = self.with(id, |session| {
            session.steps += 1;
            session.at += usize::from(next);
            if let Some(Message::Assistant {
                completed,
                finish,
                error,
                text,
                tool,
                ..
            }) = session.assistant_mut()
            {
                *completed = true;
                *finish = (!word.is_empty()).then(|| word.to_owned());
                *error = ended;
                *tool = None;
                "all done".clone_into(text);
            }
            crate::event::Usage {
                input: 10,
                output: 1,
                ..crate::event::Usage::default()
            }
        });
        let reason = word.to_owned();
        if let Some(usage) = usage {
            self.signal(id, Signal::StepFinished { usage, reason });
        }
        usage.is_some()
    }

    fn end(&self, id: &str) {
        self.with(id, |session| session.run = None);
    }

    /// Changes a session; none when it is gone.
    pub(super) fn with<T>(&self, id: &str, change: impl FnOnce(&mut Session) -> T) -> Option<T> {
        lock(&self.0.records).sessions.get_mut(id).map(change)
    }
}
