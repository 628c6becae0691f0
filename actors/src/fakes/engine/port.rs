//! The port itself. In: calls of the tree, each with its fate. Out: effects on the records, answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::arrival::arrival;
use super::records::{Message, Records, RunCause, Session, Tallies, Truth};
use super::script::Script;
use super::stream::{SignalRates, Stream};
use crate::command::Answer;
use crate::event::{Prompt, Request, SessionRef};
use crate::fakes::trouble::{Trouble, lock};
use crate::fakes::{PortCall, Random};
use crate::id::{AttemptId, EngineName, WorkerId};
use crate::ports::{
    AnswerOutcome, Engine, EngineError, EngineHealth, EngineReady, EngineSignal, OpenSession,
    OwnedAttempt, PauseAbility, PortFuture, SendPrompt, SessionReport, Signal, SignalSink, StopHow,
};

/// How long an accepted prompt takes to be stored, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagRange {
    /// In a session that already had a prompt.
    pub warm: (u64, u64),
    /// In a new session.
    pub cold: (u64, u64),
}

impl Default for LagRange {
    fn default() -> Self {
        Self {
            warm: (2, 8),
            cold: (240, 640),
        }
    }
}

pub(super) struct Shared {
    pub(super) name: EngineName,
    pub(super) pause: PauseAbility,
    pub(super) seed: u64,
    pub(super) trouble: Trouble,
    pub(super) records: Mutex<Records>,
    pub(super) signals: Mutex<SignalRates>,
    lag: Mutex<LagRange>,
    dead: AtomicBool,
}

/// The engine. Cheap to clone; outlives the trees that use it.
#[derive(Clone)]
pub struct FakeEngine(pub(super) Arc<Shared>);

impl std::fmt::Debug for FakeEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeEngine")
            .field("name", &self.0.name)
            .finish_non_exhaustive()
    }
}

impl FakeEngine {
    /// An engine that nobody has started.
    pub fn new(name: &str, pause: PauseAbility, seed: u64, trouble: Trouble) -> Self {
        Self(Arc::new(Shared {
            name: EngineName::new(name),
            pause,
            seed,
            trouble,
            records: Mutex::default(),
            signals: Mutex::default(),
            lag: Mutex::default(),
            dead: AtomicBool::new(false),
        }))
    }

    /// Signals go wrong at these rates from now on.
    pub fn set_signals(&self, rates: SignalRates) {
        *lock(&self.0.signals) = rates;
    }

    /// Accepted prompts are stored after this long from now on.
    pub fn set_lag(&self, lag: LagRange) {
        *lock(&self.0.lag) = lag;
    }

    /// Kills the worker process: runs stop where they are, prompts on their way are lost, the stream breaks.
    pub fn kill_worker(&self) {
        {
            let mut records = lock(&self.0.records);
            if !records.alive {
                return;
            }
            records.alive = false;
            records.tallies.deaths += 1;
            for session in records.sessions.values_mut() {
                session.cut();
                session.warm = false;
            }
        }
        self.0.trouble.trace.note("engine: the worker died");
        self.break_stream();
    }

    /// Kills the worker, and lets no other start until it is told otherwise.
    pub fn set_dead(&self, dead: bool) {
        self.0.dead.store(dead, Ordering::Relaxed);
        if dead {
            self.kill_worker();
        }
    }

    /// Whether it is told to be dead.
    pub fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::Relaxed)
    }

    /// Ends a session's run as somebody else would: a person at OpenCode's own interface.
    pub fn abort_as_stranger(&self, attempt: AttemptId) {
        let sessions: Vec<String> = self.sessions_of(attempt);
        for id in sessions {
            self.end_run(&id);
        }
    }

    /// Deletes an attempt's sessions as somebody else would.
    pub fn delete_as_stranger(&self, attempt: AttemptId) {
        for id in self.sessions_of(attempt) {
            self.signal(&id, Signal::Deleted);
            lock(&self.0.records).delete(&id);
        }
    }

    /// Makes a session that carries this owner, as a crashed or a foreign instance left it.
    pub fn leave_session(&self, owner: AttemptId) -> SessionRef {
        lock(&self.0.records).make(owner, "/fake/left")
    }

    /// What really happened.
    pub fn tallies(&self) -> Tallies {
        lock(&self.0.records).tallies.clone()
    }

    /// How every live session stands.
    pub fn truths(&self) -> Vec<Truth> {
        let records = lock(&self.0.records);
        records.sessions.values().map(Records::truth_of).collect()
    }

    /// How the attempt's session stands, or stood when it was removed.
    pub fn truth(&self, attempt: AttemptId) -> Option<Truth> {
        let live = self.truths().into_iter().rev();
        let removed = self.tallies().removed.into_iter().rev();
        live.chain(removed).find(|truth| truth.attempt == attempt)
    }

    fn sessions_of(&self, attempt: AttemptId) -> Vec<String> {
        let records = lock(&self.0.records);
        records
            .sessions
            .iter()
            .filter(|(_, session)| session.owner == attempt)
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn saw(&self, call: PortCall<'_>) {
        self.0.trouble.watch.saw(call);
    }

    /// A call that needs the worker.
    async fn call<T>(
        &self,
        what: &'static str,
        about: &str,
        effect: impl FnOnce(&mut Records, &mut Random) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let alive = |records: &Records| {
            if records.alive {
                return Ok(());
            }
            let why = "scripted: connection refused".to_owned();
            Err(EngineError::Unreachable(why))
        };
        self.0
            .trouble
            .call(what, about, |random| {
                let mut records = lock(&self.0.records);
                alive(&records)?;
                effect(&mut records, random)
            })
            .await
            .map_err(EngineError::Unreachable)?
    }

    /// Stores a prompt that was accepted before, and begins a run as the session's state has it.
    fn arrive(&self, id: &str, prompt: &Prompt, copied: bool) {
        let mut records = lock(&self.0.records);
        let Records {
            sessions, tallies, ..
        } = &mut *records;
        let Some(session) = sessions.get_mut(id) else {
            return;
        };
        let message = &prompt.message_id;
        // Copies of it stay on their way.
        let own = tokio::task::try_id();
        session
            .lagging
            .retain(|(_, lagging)| Some(lagging.id()) != own);
        session.warm = true;
        let Some(cause) = arrival(session, prompt) else {
            return;
        };
        if session.run.is_some() {
            return;
        }
        let cause = match cause {
            RunCause::Again | RunCause::Older if copied => RunCause::Copied,
            cause => cause,
        };
        *tallies.runs.entry((message.clone(), cause)).or_default() += 1;
        self.begin_run(session, message, cause);
    }

    fn end_run(&self, id: &str) {
        let mut records = lock(&self.0.records);
        let Some(session) = records.sessions.get_mut(id) else {
            return;
        };
        let Some(run) = session.run.take() else {
            return;
        };
        run.abort();
        session.requests.clear();
        session.retrying = None;
        let unanswered = session.has_unanswered();
        // An abort before the first answer leaves the prompt alone, as if nothing had begun.
        if !unanswered
            && let Some(Message::Assistant {
                completed,
                error,
                finish,
                tool,
                ..
            }) = session.assistant_mut()
        {
            *completed = true;
            *tool = None;
            *finish = None;
            *error = Some(("MessageAbortedError".to_owned(), "Aborted".to_owned()));
        }
        records.tallies.aborts += 1;
        drop(records);
        let name = "MessageAbortedError".to_owned();
        let message = "Aborted".to_owned();
        self.signal(id, Signal::Error { name, message });
        self.signal(id, Signal::Idle);
    }
}

impl Engine for FakeEngine {
    fn name(&self) -> EngineName {
        self.0.name.clone()
    }

    fn pause_ability(&self) -> PauseAbility {
        self.0.pause
    }

    fn start(&self) -> PortFuture<'_, Result<EngineReady, EngineError>> {
        Box::pin(async move {
            if self.0.dead.load(Ordering::Relaxed) {
                self.0.trouble.trace.note("engine: it is dead");
                let why = "scripted: this engine is dead".to_owned();
                return Err(EngineError::Unreachable(why));
            }
            let start = |_: &mut Random| {
                let mut records = lock(&self.0.records);
                if !records.alive {
                    records.alive = true;
                    records.generation += 1;
                    self.0.trouble.trace.note("engine: a worker starts");
                }
                EngineReady {
                    version: "1.18.33".to_owned(),
                    worker: records.worker(),
                    note: None,
                    blocked: None,
                }
            };
            self.0
                .trouble
                .call("engine.start", "", start)
                .await
                .map_err(EngineError::Unreachable)
        })
    }

    fn watch(&self, sink: SignalSink) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let (cut, ended) = oneshot::channel();
            let open_with = sink.clone();
            let worker = self
                .call("engine.watch", "", move |records, _| {
                    records.streams += 1;
                    let number = records.streams;
                    records.stream = Some(Stream { number, sink, cut });
                    Ok(records.worker())
                })
                .await?;
            open_with(EngineSignal::Open { worker });
            ended.await.unwrap_or(Ok(()))
        })
    }

    fn probe(&self) -> PortFuture<'_, Result<EngineHealth, EngineError>> {
        Box::pin(self.call("engine.probe", "", |_, _| {
            Ok(EngineHealth {
                detail: "fake 1.18.33".to_owned(),
            })
        }))
    }

    fn owned(&self) -> PortFuture<'_, Result<Vec<OwnedAttempt>, EngineError>> {
        Box::pin(self.call("engine.owned", "", |records, _| {
            Ok(records
                .sessions
                .values()
                .map(|session| OwnedAttempt {
                    attempt: session.owner,
                    session: Some(session.reference.clone()),
                })
                .collect())
        }))
    }

    fn open(
        &self,
        request: OpenSession,
    ) -> PortFuture<'_, Result<(SessionRef, WorkerId), EngineError>> {
        Box::pin(async move {
            self.saw(PortCall::Open(&self.0.name, &request));
            let about = request.attempt.to_string();
            self.call("engine.open", &about, move |records, _| {
                Ok((records.find_or_make(&request), records.worker()))
            })
            .await
        })
    }

    fn prompt(&self, request: SendPrompt) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            self.saw(PortCall::Prompt(
                &self.0.name,
                &request.session.id,
                &request.prompt,
            ));
            let about = request.session.id.clone();
            let script = Script::of(&request.prompt.text).unwrap_or_default();
            let lag = *lock(&self.0.lag);
            // A copy of one that has not ended when this one is on its way.
            let id = request.prompt.message_id.clone();
            let is_copy = move |session: &Session| session.run.is_some() || !session.knows(&id);
            let sent_as_copy = lock(&self.0.records)
                .sessions
                .get(&request.session.id)
                .is_some_and(&is_copy);
            self.call("engine.prompt", &about, move |records, random| {
                let id = request.session.id.clone();
                let prompts = records.tallies.prompts.entry(id.clone()).or_default();
                prompts.push(request.prompt.clone());
                let Some(session) = records.sessions.get_mut(&id) else {
                    return Err(EngineError::SessionGone);
                };
                if script.refuse {
                    return Err(EngineError::Refused("scripted refusal".to_owned()));
                }
                if script.lost {
                    return Ok(());
                }
                let (from, to) = if session.warm { lag.warm } else { lag.cold };
                let wait = script.cold_ms.unwrap_or_else(|| random.between(from, to));
                let engine = self.clone();
                let prompt = request.prompt.clone();
                let message = prompt.message_id.clone();
                let copied = sent_as_copy || is_copy(session);
                let arriving = tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                    engine.arrive(&id, &prompt, copied);
                });
                session.lagging.push((message, arriving.abort_handle()));
                Ok(())
            })
            .await
        })
    }

    fn read(
        &self,
        session: SessionRef,
        prompts: Vec<String>,
    ) -> PortFuture<'_, Result<SessionReport, EngineError>> {
        Box::pin(async move {
            self.saw(PortCall::Read(&self.0.name, &session.id));
            let torn = lock(&self.0.signals).torn;
            let report = |records: &Records| {
                let worker = records.worker();
                records
                    .sessions
                    .get(&session.id)
                    .map(|found| found.report(worker, &prompts))
                    .ok_or(EngineError::SessionGone)
            };
            let (first, wait) = self
                .call("engine.read", &session.id, |records, random| {
                    let torn = random.chance(torn).then(|| random.between(1, 3_000));
                    Ok((report(records)?, torn))
                })
                .await?;
            let Some(wait) = wait else {
                return Ok(first);
            };
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let rest = report(&lock(&self.0.records))?;
            if rest.worker != first.worker || !lock(&self.0.records).alive {
                let why = "scripted: the worker went away in the middle of a reading".to_owned();
                return Err(EngineError::Unreachable(why));
            }
            Ok(SessionReport {
                worker: first.worker,
                activity: first.activity,
                ..rest
            })
        })
    }

    fn abort(&self, session: SessionRef) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            self.saw(PortCall::Abort(&self.0.name, &session.id));
            self.call("engine.abort", &session.id, |records, _| {
                match records.sessions.contains_key(&session.id) {
                    true => Ok(()),
                    false => Err(EngineError::SessionGone),
                }
            })
            .await?;
            tokio::time::sleep(Duration::from_millis(80)).await;
            self.end_run(&session.id);
            Ok(())
        })
    }

    fn freeze(&self, session: SessionRef, frozen: bool) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            self.saw(PortCall::Freeze(&self.0.name, &session.id));
            self.call("engine.freeze", &session.id, |records, _| {
                let found = records.sessions.get_mut(&session.id);
                let session = found.ok_or(EngineError::SessionGone)?;
                session.frozen = frozen;
                Ok(())
            })
            .await
        })
    }

    fn answer(
        &self,
        session: SessionRef,
        request: Request,
        answer: Answer,
    ) -> PortFuture<'_, Result<AnswerOutcome, EngineError>> {
        Box::pin(async move {
            self.saw(PortCall::Answer(
                &self.0.name,
                &session.id,
                &request.id,
                &answer,
            ));
            self.call("engine.answer", &session.id, |records, _| {
                let found = records.sessions.get_mut(&session.id);
                let session = found.ok_or(EngineError::SessionGone)?;
                Ok(match session.requests.remove(&request.id) {
                    Some((_, waits)) => {
                        let _ = waits.send(answer);
                        AnswerOutcome::Given
                    }
                    None => AnswerOutcome::Gone,
                })
            })
            .await
        })
    }

    fn remove(
        &self,
        attempt: AttemptId,
        _session: Option<SessionRef>,
        _directory: Option<String>,
    ) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            self.saw(PortCall::Remove(&self.0.name, attempt));
            let about = attempt.to_string();
            self.call("engine.remove", &about, |records, _| {
                let owned: Vec<String> = records
                    .sessions
                    .iter()
                    .filter(|(_, session)| session.owner == attempt)
                    .map(|(id, _)| id.clone())
                    .collect();
                if !owned.is_empty() {
                    *records.tallies.removals.entry(attempt).or_default() += 1;
                }
                for id in owned {
                    records.delete(&id);
                }
                Ok(())
            })
            .await
        })
    }

    fn stop(&self, how: StopHow) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            self.0
                .trouble
                .call("engine.stop", "", |_| ())
                .await
                .map_err(EngineError::Unreachable)?;
            match how {
                StopHow::LeaveRunning => {}
                StopHow::EndWorkers => self.kill_worker(),
            }
            Ok(())
        })
    }
}
