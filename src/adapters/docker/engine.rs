//! The engine `docker`: sessions in containers, driven as in every engine.
//!
//! In: the calls of the [`Engine`] port. Out: the driver's answers, from the very container that carries the attempt.

use std::sync::Arc;

use chargehand_actors::command::Answer;
use chargehand_actors::event::{PromptKind, Request, SessionRef};
use chargehand_actors::id::{AttemptId, EngineName, WorkerId};
use chargehand_actors::ports::{
    AnswerOutcome, Engine, EngineError, EngineHealth, EngineNumbers, EngineReady, OpenSession,
    OwnedAttempt, PauseAbility, PortFuture, SendPrompt, SessionReport, SignalSink, StopHow,
};
use futures_util::future::join_all;

use super::containers::Containers;
use super::names;
use super::settings::DockerSettings;
use super::spec::WORKSPACE;
use super::watching::{engine_id, watch_all};
use super::worker::Worker;

/// The engine `docker`.
pub struct DockerEngine {
    containers: Arc<Containers>,
}

impl DockerEngine {
    /// An engine that has not been started.
    pub fn new(settings: DockerSettings) -> Self {
        Self {
            containers: Arc::new(Containers::new(settings)),
        }
    }

    /// The worker that a session lives in.
    async fn of(&self, session: &SessionRef) -> Result<Arc<Worker>, EngineError> {
        let worker = self.containers.worker(&session.server).await?;
        worker.serves(&session.id);
        Ok(worker)
    }

    /// Makes the container if there is none, then opens or finds the session in it.
    async fn open_session(
        &self,
        request: OpenSession,
    ) -> Result<(SessionRef, WorkerId), EngineError> {
        let name = names::name(&self.containers.settings.instance, request.attempt);
        Arc::clone(&self.containers)
            .make(name.clone(), &request)
            .await?;
        let worker = self.containers.worker(&name).await?;
        let inside = OpenSession {
            directory: WORKSPACE.to_owned(),
            ..request
        };
        let session = worker.driver.open(inside).await?;
        worker.serves(&session.id);
        Ok((session, worker.driver.worker.clone()))
    }

    /// Kills what runs in any container, all at once: one that cannot be killed keeps none of the others running.
    async fn end_workers(&self) -> Result<(), EngineError> {
        let instance = &self.containers.settings.instance;
        let owned = self.containers.owned().await?;
        let halts = owned.into_iter().map(|attempt| async move {
            let name = names::name(instance, attempt);
            let halted = self.containers.halt(&name).await;
            if let Err(error) = &halted {
                tracing::warn!(container = %name, %error, "the worker could not be ended");
            }
            halted
        });
        join_all(halts).await.into_iter().collect()
    }
}

impl Engine for DockerEngine {
    fn name(&self) -> EngineName {
        self.containers.settings.name.clone()
    }

    fn pause_ability(&self) -> PauseAbility {
        PauseAbility::Freeze
    }

    fn start(&self) -> PortFuture<'_, Result<EngineReady, EngineError>> {
        Box::pin(async move {
            let daemon = self.containers.connect().await?;
            let blocked = self.containers.missing(&daemon).await?;
            Ok(EngineReady {
                version: format!(
                    "in containers of {} ({})",
                    self.containers.settings.image,
                    daemon.version()
                ),
                worker: engine_id(),
                note: None,
                blocked,
            })
        })
    }

    fn watch(&self, sink: SignalSink) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move { watch_all(&self.containers, sink).await })
    }

    fn probe(&self) -> PortFuture<'_, Result<EngineHealth, EngineError>> {
        Box::pin(async move {
            let daemon = self.containers.daemon()?;
            daemon.ping().await?;
            let image = &self.containers.settings.image;
            let count = self.containers.all_known().len();
            let detail = format!(
                "{}, image {image}, {count} workers, {} MB",
                daemon.version(),
                self.containers.memory.held() / 1_000_000
            );
            Ok(EngineHealth { detail })
        })
    }

    fn numbers(&self) -> EngineNumbers {
        EngineNumbers {
            generation: None,
            memory_bytes: Some(self.containers.memory.held()),
            directories: u64::try_from(self.containers.all_known().len()).ok(),
        }
    }

    fn owned(&self) -> PortFuture<'_, Result<Vec<OwnedAttempt>, EngineError>> {
        Box::pin(async move {
            let attempts = self.containers.owned().await?;
            let owned = attempts.into_iter().map(|attempt| OwnedAttempt {
                attempt,
                session: None,
            });
            Ok(owned.collect())
        })
    }

    fn open(
        &self,
        request: OpenSession,
    ) -> PortFuture<'_, Result<(SessionRef, WorkerId), EngineError>> {
        Box::pin(self.open_session(request))
    }

    fn prompt(&self, request: SendPrompt) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let worker = self.of(&request.session).await?;
            if request.prompt.kind == PromptKind::First {
                let containers = Arc::clone(&self.containers);
                containers
                    .set_up(worker.name.clone(), request.session.id.clone())
                    .await?;
            }
            worker.driver.prompt(request).await
        })
    }

    fn read(
        &self,
        session: SessionRef,
        prompts: Vec<String>,
    ) -> PortFuture<'_, Result<SessionReport, EngineError>> {
        Box::pin(async move {
            let worker = self.of(&session).await?;
            worker.driver.read(&session, &prompts).await
        })
    }

    fn abort(&self, session: SessionRef) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move { self.of(&session).await?.driver.abort(&session).await })
    }

    fn freeze(&self, session: SessionRef, frozen: bool) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move { self.containers.freeze(&session.server, frozen).await })
    }

    fn answer(
        &self,
        session: SessionRef,
        request: Request,
        answer: Answer,
    ) -> PortFuture<'_, Result<AnswerOutcome, EngineError>> {
        Box::pin(async move {
            let worker = self.of(&session).await?;
            worker.driver.answer(&session, &request, &answer).await
        })
    }

    fn remove(
        &self,
        attempt: AttemptId,
        _session: Option<SessionRef>,
        _directory: Option<String>,
    ) -> PortFuture<'_, Result<(), EngineError>> {
        // Everything that the attempt owns is in its container or beside it.
        Box::pin(async move { self.containers.remove(attempt).await })
    }

    fn stop(&self, how: StopHow) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            match how {
                StopHow::LeaveRunning => {}
                // Nothing was started where no daemon was ever reached.
                StopHow::EndWorkers if self.containers.daemon().is_err() => {}
                // What was running in them has been cancelled. The containers that are still to be removed wait for the next start.
                StopHow::EndWorkers => self.end_workers().await?,
            }
            self.containers.leave_network().await;
            Ok(())
        })
    }
}
