//! The engine `remote`: sessions on an OpenCode server that somebody else runs.
//!
//! In: the calls of the [`Engine`] port. Out: the driver's answers. The server is never started, stopped or cleaned: only sessions that
//! carry this instance are touched. With a path mapping the server sees our workdirs under another path, which is proved with
//! a file of a random name; without one nothing is shared: the files are the server's, and [`RestWorkdirs`] keeps them over REST.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chargehand_actors::command::{Answer, ModelRef};
use chargehand_actors::event::{Request, SessionRef};
use chargehand_actors::id::{AttemptId, EngineName, InstanceId, WorkerId};
use chargehand_actors::ports::{
    AnswerOutcome, Engine, EngineError, EngineHealth, EngineReady, OpenSession, OwnedAttempt,
    PauseAbility, PortFuture, SendPrompt, SessionReport, SignalSink, StopHow, Workdirs,
};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;
use uuid::Uuid;

use super::client::{Client, Credentials, Reply};
use super::driver::{Driver, DriverSettings};
use super::local::cannot_freeze;
use super::rest_workdirs::{RestWorkdirs, SharedDriver, driver_of};
use super::settings::Secret;
use super::translate::Translator;
use super::version::Version;
use super::watching::watch;
use super::wire::WireContent;

/// How long the server may take to say who it is.
const HEALTH_LIMIT: Duration = Duration::from_secs(10);

/// Our workdirs as the server sees them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PathMapping {
    /// A directory on Chargehand's machine.
    pub ours: PathBuf,
    /// The same directory on the server's machine.
    pub theirs: String,
}

/// What the engine `remote` needs.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// Its name, normally `remote`.
    pub name: EngineName,
    /// Address of the server, such as `http://127.0.0.1:4096`.
    pub url: String,
    /// User name of the server; OpenCode's default is `opencode`.
    pub username: String,
    /// Its password, if it has one.
    pub password: Option<Secret>,
    /// Where the server sees our workdirs; none = it does not see them.
    pub path_map: Option<PathMapping>,
    /// Without `path_map`: the directory on the server that tasks work in; none = the one that the server works in.
    pub directory: Option<String>,
    /// Stamped on every session.
    pub instance: InstanceId,
    /// Model for tasks that name none; none = the server's own choice.
    pub model: Option<ModelRef>,
}

/// The engine `remote`.
pub struct RemoteEngine {
    settings: RemoteSettings,
    client: Client,
    driver: SharedDriver,
    /// Without `path_map`: the files are the server's.
    workdirs: Option<Arc<RestWorkdirs>>,
    translator: Mutex<Translator>,
}

impl RemoteEngine {
    /// An engine that has not been started.
    ///
    /// # Errors
    /// `Unusable` when the URL is none of http or https.
    pub fn new(settings: RemoteSettings) -> Result<Self, EngineError> {
        let url = Url::parse(&settings.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                EngineError::Unusable(
                    "the URL of the engine `remote` must look like http://host:port".to_owned(),
                )
            })?;
        let credentials = settings.password.as_ref().map(|password| Credentials {
            username: settings.username.clone(),
            password: password.reveal().to_owned(),
        });
        let client = Client::new(url, credentials)?;
        let driver = SharedDriver::default();
        let workdirs = settings.path_map.is_none().then(|| {
            Arc::new(RestWorkdirs::new(
                client.clone(),
                Arc::clone(&driver),
                settings.directory.clone(),
            ))
        });
        Ok(Self {
            client,
            settings,
            driver,
            workdirs,
            translator: Mutex::new(Translator::default()),
        })
    }

    pub(super) fn driver(&self) -> Result<Driver, EngineError> {
        driver_of(&self.driver)
    }

    async fn connect(&self) -> Result<EngineReady, EngineError> {
        let health = self.client.health(HEALTH_LIMIT).await?;
        let version = Version::accept(&health.version)?;
        if let Some(mapping) = &self.settings.path_map {
            self.prove(mapping).await?;
        }
        let worker = WorkerId(format!("{} {}", self.client.address(), health.version));
        let known = self.driver().is_ok_and(|driver| driver.worker == worker);
        if !known {
            let driver = Driver::new(DriverSettings {
                client: self.client.clone(),
                instance: self.settings.instance.clone(),
                worker: worker.clone(),
                version,
                model: self.settings.model.clone(),
                engine: self.settings.name.as_str().to_owned(),
                adopted: true,
            });
            *self.driver.write().unwrap_or_else(PoisonError::into_inner) = Some(driver);
        }
        Ok(EngineReady {
            version: health.version,
            worker,
            note: version.note(),
            blocked: None,
        })
    }

    /// Writes a file of a random name here and reads it there.
    async fn prove(&self, mapping: &PathMapping) -> Result<(), EngineError> {
        let nonce = Uuid::new_v4().simple().to_string();
        let name = format!(".chargehand-probe-{nonce}");
        let path = mapping.ours.join(&name);
        // Before the first task it may not be there yet.
        let written = match tokio::fs::create_dir_all(&mapping.ours).await {
            Ok(()) => tokio::fs::write(&path, &nonce).await,
            Err(error) => Err(error),
        };
        written.map_err(|error| {
            EngineError::Unusable(format!(
                "path_map: {} cannot be written: {error}",
                mapping.ours.display()
            ))
        })?;
        let seen = self.read_there(mapping, &name).await;
        // Left behind it would be litter of 32 bytes, nothing more.
        drop(tokio::fs::remove_file(&path).await);
        if seen? == nonce {
            return Ok(());
        }
        Err(EngineError::Unusable(format!(
            "path_map: the server does not see {} as {}; correct it, or mount the directory there",
            mapping.ours.display(),
            mapping.theirs
        )))
    }

    async fn read_there(&self, mapping: &PathMapping, name: &str) -> Result<String, EngineError> {
        let query = [("directory", mapping.theirs.as_str()), ("path", name)];
        match self
            .client
            .get::<WireContent>("/file/content", &query)
            .await
        {
            Ok(Reply::Json(content)) => Ok(content.content),
            Ok(Reply::Missing | Reply::NoRoute) => Ok(String::new()),
            // OpenCode answers 500 for a file that is not there.
            Err(EngineError::Fault(_)) => Ok(String::new()),
            Err(error) => Err(error),
        }
    }

    /// A workdir as the server sees it.
    fn theirs(&self, directory: &str) -> Result<String, EngineError> {
        match &self.settings.path_map {
            // It is the server's own path.
            None => Ok(directory.to_owned()),
            Some(mapping) => map_path(mapping, directory),
        }
    }
}

fn map_path(mapping: &PathMapping, directory: &str) -> Result<String, EngineError> {
    let below = Path::new(directory)
        .strip_prefix(&mapping.ours)
        .map_err(|_| {
            EngineError::Refused(format!(
                "{directory} is not below {}, so the server cannot see it; use another engine for this directory",
                mapping.ours.display()
            ))
        })?;
    let theirs = mapping.theirs.trim_end_matches('/');
    Ok(match below.to_str() {
        Some("") | None => theirs.to_owned(),
        Some(below) => format!("{theirs}/{below}"),
    })
}

impl Engine for RemoteEngine {
    fn name(&self) -> EngineName {
        self.settings.name.clone()
    }

    fn workdirs(&self) -> Option<Arc<dyn Workdirs>> {
        let workdirs = Arc::clone(self.workdirs.as_ref()?);
        Some(workdirs)
    }

    fn pause_ability(&self) -> PauseAbility {
        PauseAbility::AbortAndPrompt
    }

    fn start(&self) -> PortFuture<'_, Result<EngineReady, EngineError>> {
        Box::pin(self.connect())
    }

    fn watch(&self, sink: SignalSink) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move { watch(&self.driver()?, &self.translator, &sink).await })
    }

    fn probe(&self) -> PortFuture<'_, Result<EngineHealth, EngineError>> {
        Box::pin(async move {
            let health = self.client.health(HEALTH_LIMIT).await?;
            Ok(EngineHealth {
                detail: format!("OpenCode {} at {}", health.version, self.client.address()),
            })
        })
    }

    fn owned(&self) -> PortFuture<'_, Result<Vec<OwnedAttempt>, EngineError>> {
        Box::pin(async move { self.driver()?.owned().await })
    }

    fn open(
        &self,
        mut request: OpenSession,
    ) -> PortFuture<'_, Result<(SessionRef, WorkerId), EngineError>> {
        Box::pin(async move {
            let driver = self.driver()?;
            request.directory = self.theirs(&request.directory)?;
            let session = driver.open(request).await?;
            Ok((session, driver.worker))
        })
    }

    fn prompt(&self, request: SendPrompt) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move { self.driver()?.prompt(request).await })
    }

    fn read(
        &self,
        session: SessionRef,
        prompts: Vec<String>,
    ) -> PortFuture<'_, Result<SessionReport, EngineError>> {
        Box::pin(async move { self.driver()?.read(&session, &prompts).await })
    }

    fn abort(&self, session: SessionRef) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move { self.driver()?.abort(&session).await })
    }

    fn freeze(
        &self,
        _session: SessionRef,
        _frozen: bool,
    ) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Err(cannot_freeze()) })
    }

    fn answer(
        &self,
        session: SessionRef,
        request: Request,
        answer: Answer,
    ) -> PortFuture<'_, Result<AnswerOutcome, EngineError>> {
        Box::pin(async move { self.driver()?.answer(&session, &request, &answer).await })
    }

    fn remove(
        &self,
        attempt: AttemptId,
        session: Option<SessionRef>,
        directory: Option<String>,
    ) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            // A session that nobody owns any more comes from the server's own list, with the server's path.
            let directory = directory
                .map(|directory| match &self.settings.path_map {
                    Some(mapping) if Path::new(&directory).starts_with(&mapping.theirs) => {
                        Ok(directory)
                    }
                    _ => self.theirs(&directory),
                })
                .transpose()?;
            self.driver()?.remove(attempt, session, directory).await
        })
    }

    fn stop(&self, how: StopHow) -> PortFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            match how {
                // The server is not ours to end.
                StopHow::LeaveRunning | StopHow::EndWorkers => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_mapped_below_the_mapping_only() {
        let mapping = PathMapping {
            ours: PathBuf::from("/data/tasks"),
            theirs: "/mnt/w/".to_owned(),
        };
        let table = [
            ("/data/tasks/t1/a", Some("/mnt/w/t1/a")),
            ("/data/tasks", Some("/mnt/w")),
            ("/data/tasksforce", None),
            ("/etc", None),
        ];
        for (ours, theirs) in table {
            assert_eq!(map_path(&mapping, ours).ok().as_deref(), theirs, "{ours}");
        }
    }
}
