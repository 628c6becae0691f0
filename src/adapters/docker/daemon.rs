//! Docker or Podman, as far as workers need it: every call has a deadline and is decided by how the container stands then.
//!
//! In: names and create bodies. Out: [`State`]s. What a call's status code says is never believed: the engines differ in them, and a lost answer
//! looks like a failure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum as Word,
    NetworkCreateRequest, SystemInfo,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use chargehand_actors::ports::EngineError;
use futures_util::{Stream, StreamExt, TryStreamExt};

use super::names::INSTANCE;
use super::settings::{DockerSettings, Endpoint};
use super::spec::{PORT, WORKSPACE};
use crate::adapters::cause::innermost;

/// How long the daemon may take for one call.
pub(super) const CALL: Duration = Duration::from_secs(25);
/// How long it may take until the first byte of an answer, in seconds.
const FIRST_BYTE: u64 = 60;
/// How long it may take to make a container: while it hangs, a call that was given up would be carried out later all the same, and the
/// container would appear after a removal that found none.
pub(super) const MAKING: Duration = Duration::from_secs(1_800);
/// How often an answer is asked for again that has a word in it that Docker's API does not have, and after how long.
const STRANGE_WORDS: u32 = 50;
const STRANGE_WORDS_EVERY: Duration = Duration::from_millis(100);
/// Where Docker listens when nothing says otherwise.
const USUAL_SOCKET: &str = "/var/run/docker.sock";

/// Whose daemon it is: they differ in details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavor {
    /// Docker, or what says it is.
    Docker,
    /// Podman's service.
    Podman,
}

/// How a container stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Docker's id.
    pub(super) id: String,
    /// When it was last started, as the daemon writes it; one start of it is one worker.
    pub(super) started_at: String,
    /// Where it stands.
    pub(super) phase: Phase,
    /// The published port on loopback.
    pub(super) port: Option<u16>,
    /// Its own address: on the network that is set, else on any that it is in.
    pub(super) address: Option<IpAddr>,
    /// The directory of the daemon's machine that it has as its workdir.
    pub(super) workdir: Option<PathBuf>,
}

/// Where a container stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Made, never started.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Ended.
    Exited {
        /// Its exit code.
        code: i64,
        /// The kernel killed something in it for memory. Says something about the worker only together with 137.
        out_of_memory: bool,
    },
    /// On its way from one to another, or half removed.
    Unsettled,
}

/// Names with labels.
pub(super) type Named = Vec<(String, HashMap<String, String>)>;

/// A connection to the daemon.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    pub(super) docker: Docker,
    flavor: Flavor,
    version: String,
}

impl Daemon {
    /// Connects and agrees on a version of the API.
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self, EngineError> {
        let docker = match endpoint {
            Endpoint::Environment if usual() => Docker::connect_with_defaults(),
            Endpoint::Environment => Docker::connect_with_podman_defaults(),
            Endpoint::Url(url) => Docker::connect_with_host(url),
            Endpoint::Tls { url, files } => Docker::connect_with_ssl(
                url,
                &files.key,
                &files.cert,
                &files.ca,
                FIRST_BYTE,
                API_DEFAULT_VERSION,
            ),
        }
        .map_err(|error| unusable(&error))?;
        let docker = call("agree on an API version", docker.negotiate_version()).await?;
        let version = call("tell its version", docker.version()).await?;
        let is_podman = version
            .components
            .iter()
            .flatten()
            .any(|component| component.name.to_ascii_lowercase().contains("podman"));
        let flavor = if is_podman {
            Flavor::Podman
        } else {
            Flavor::Docker
        };
        Ok(Self {
            docker,
            flavor,
            version: format!(
                "{flavor:?} {}, API {}",
                version.version.unwrap_or_default(),
                version.api_version.unwrap_or_default()
            ),
        })
    }

    /// Whose it is.
    pub(super) const fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Name and version of the daemon.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The agreed version of the API.
    pub(super) fn api(&self) -> (u32, u32) {
        let version = self.docker.client_version();
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        (number(version.major_version), number(version.minor_version))
    }

    /// What it says about itself.
    pub(super) async fn info(&self) -> Result<SystemInfo, EngineError> {
        call("tell about itself", self.docker.info()).await
    }

    /// Whether a network is there.
    pub(super) async fn has_network(&self, name: &str) -> Result<bool, EngineError> {
        match within(CALL, self.docker.inspect_network(name, None)).await? {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(failed("look for the network", &error)),
        }
    }

    /// Whether it answers.
    pub(super) async fn ping(&self) -> Result<(), EngineError> {
        call("answer", self.docker.ping()).await.map(drop)
    }

    /// Whether the image is there.
    pub(super) async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        match within(CALL, self.docker.inspect_image(image)).await? {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(failed("look for the image", &error)),
        }
    }

    /// How the container stands; none = there is none.
    pub(super) async fn inspect(
        &self,
        name: &str,
        network: &str,
    ) -> Result<Option<State>, EngineError> {
        let inspected = passing_words(|| self.docker.inspect_container(name, None));
        match within(CALL, inspected).await? {
            Ok(found) => Ok(Some(state(found, network))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed("inspect the container", &error)),
        }
    }

    /// Makes the container, which may take until `limit`. An error matters only if it is not there afterwards: the caller inspects.
    pub(super) async fn create(
        &self,
        name: &str,
        body: ContainerCreateBody,
        limit: Duration,
    ) -> Result<(), EngineError> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let patient = self.docker.clone().with_timeout(limit);
        let made = patient.create_container(Some(options), body);
        within(limit, made)
            .await?
            .map(drop)
            .map_err(|error| failed("make the container", &error))
    }

    /// Starts it.
    pub(super) async fn start(&self, name: &str) -> Result<(), EngineError> {
        call(
            "start the container",
            self.docker.start_container(name, None),
        )
        .await
    }

    /// Freezes it.
    pub(super) async fn pause(&self, name: &str) -> Result<(), EngineError> {
        call("pause the container", self.docker.pause_container(name)).await
    }

    /// Thaws it.
    pub(super) async fn unpause(&self, name: &str) -> Result<(), EngineError> {
        call("unpause the container", self.docker.unpause_container(name)).await
    }

    /// Kills everything in it.
    pub(super) async fn kill(&self, name: &str) -> Result<(), EngineError> {
        let options = KillContainerOptionsBuilder::default()
            .signal("KILL")
            .build();
        call(
            "kill the container",
            self.docker.kill_container(name, Some(options)),
        )
        .await
    }

    /// Removes it, killing what runs in it.
    pub(super) async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        call(
            "remove the container",
            self.docker.remove_container(name, Some(options)),
        )
        .await
    }

    /// Names and labels of the containers of an instance, or of all instances, whatever they do.
    pub(super) async fn containers(&self, instance: Option<&str>) -> Result<Named, EngineError> {
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&labelled(instance))
            .build();
        let found = call(
            "list the containers",
            passing_words(|| self.docker.list_containers(Some(options.clone()))),
        )
        .await?;
        let named = found.into_iter().filter_map(|summary| {
            let name = summary.names?.into_iter().next()?;
            let name = name.trim_start_matches('/').to_owned();
            Some((name, summary.labels.unwrap_or_default()))
        });
        Ok(named.collect())
    }

    /// The newest lines of its log.
    pub(super) async fn log(&self, name: &str, lines: u32) -> Result<String, EngineError> {
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .tail(&lines.to_string())
            .build();
        let pieces = self.docker.logs(name, Some(options));
        let text = pieces.try_fold(String::new(), |mut text, piece| async move {
            text.push_str(&String::from_utf8_lossy(&piece.into_bytes()));
            Ok(text)
        });
        call("read the container's log", text).await
    }

    /// Waits until a line with `part` stands in its log since `since` (seconds of the epoch by the daemon's clock). False when the log
    /// ended before that: it no longer runs. None when it came to neither within `limit`.
    pub(super) async fn has_said(
        &self,
        name: &str,
        part: &str,
        since: i32,
        limit: Duration,
    ) -> Result<Option<bool>, EngineError> {
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(true)
            .since(since)
            .build();
        let mut pieces = Box::pin(self.docker.logs(name, Some(options)));
        let mut tail = String::new();
        let found = async {
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|error| failed("follow the container's log", &error))?;
                tail.push_str(&String::from_utf8_lossy(&piece.into_bytes()));
                if tail.contains(part) {
                    return Ok(true);
                }
                // A line may come in two pieces; what lies further back is of no use.
                if let Some((_, rest)) = tail.rsplit_once('\n') {
                    tail = rest.to_owned();
                }
            }
            Ok(false)
        };
        let found = tokio::time::timeout(limit, found).await;
        found.ok().transpose()
    }

    /// Makes a network without a way out, unless there is one of that name that carries the instance.
    pub(super) async fn internal_network(
        &self,
        name: &str,
        instance: &str,
    ) -> Result<(), EngineError> {
        let there = async || -> Result<bool, EngineError> {
            let known = self.networks(Some(instance)).await?;
            Ok(known.iter().any(|(known, _)| known == name))
        };
        if there().await? {
            return Ok(());
        }
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            internal: Some(true),
            labels: Some(HashMap::from([(INSTANCE.to_owned(), instance.to_owned())])),
            ..NetworkCreateRequest::default()
        };
        let made = call("make the network", self.docker.create_network(request)).await;
        if there().await? {
            Ok(())
        } else {
            made.and(Err(EngineError::Fault(format!(
                "network {name} is not there although the daemon said so"
            ))))
        }
    }

    /// Names and labels of the networks of an instance, or of all instances.
    pub(super) async fn networks(&self, instance: Option<&str>) -> Result<Named, EngineError> {
        let options = ListNetworksOptionsBuilder::default()
            .filters(&labelled(instance))
            .build();
        let found = call(
            "list the networks",
            self.docker.list_networks(Some(options)),
        )
        .await?;
        let named = found
            .into_iter()
            .filter_map(|network| Some((network.name?, network.labels.unwrap_or_default())));
        Ok(named.collect())
    }

    /// Removes a network.
    pub(super) async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        call("remove the network", self.docker.remove_network(name)).await
    }

    /// What happens to the containers of an instance, from `since` (seconds of the epoch) on: names of those that something
    /// happened to.
    pub(super) fn events(
        &self,
        instance: &str,
        since: u64,
    ) -> impl Stream<Item = Result<String, EngineError>> + use<> {
        let filters = HashMap::from([
            ("type", vec!["container".to_owned()]),
            ("label", vec![format!("{INSTANCE}={instance}")]),
        ]);
        let options = EventsOptionsBuilder::default()
            .since(&since.to_string())
            .filters(&filters)
            .build();
        self.docker.events(Some(options)).filter_map(|event| async {
            match event {
                Ok(event) => event
                    .actor
                    .and_then(|actor| actor.attributes)
                    .and_then(|mut attributes| attributes.remove("name"))
                    .map(Ok),
                Err(error) => Some(Err(failed("follow the events", &error))),
            }
        })
    }
}

/// Whether there is a daemon that can be spoken to.
///
/// # Errors
/// There is none, or it does not answer.
pub async fn reach(settings: &DockerSettings) -> Result<(), EngineError> {
    Daemon::connect(&settings.endpoint).await.map(drop)
}

/// What carries the label of an instance, or of any.
fn labelled(instance: Option<&str>) -> HashMap<&'static str, Vec<String>> {
    let label = match instance {
        Some(instance) => format!("{INSTANCE}={instance}"),
        None => INSTANCE.to_owned(),
    };
    HashMap::from([("label", vec![label])])
}

/// Whether something says that Docker is meant, or Docker's own socket is there.
fn usual() -> bool {
    std::env::var_os("DOCKER_HOST").is_some() || Path::new(USUAL_SOCKET).exists()
}

fn state(found: ContainerInspectResponse, network: &str) -> State {
    let state = found.state.unwrap_or_default();
    let phase = match state.status {
        Some(Word::CREATED) => Phase::Created,
        Some(Word::RUNNING) => Phase::Running,
        Some(Word::PAUSED) => Phase::Paused,
        Some(Word::EXITED) => Phase::Exited {
            code: state.exit_code.unwrap_or(-1),
            out_of_memory: state.oom_killed.unwrap_or(false),
        },
        Some(Word::EMPTY | Word::RESTARTING | Word::REMOVING | Word::DEAD | Word::STOPPING)
        | None => Phase::Unsettled,
    };
    let settings = found.network_settings.unwrap_or_default();
    let port = settings.ports.as_ref().and_then(|ports| {
        let bindings = ports.get(&format!("{PORT}/tcp"))?.as_ref()?;
        bindings
            .iter()
            .find_map(|b| b.host_port.as_ref()?.parse().ok())
    });
    // One that was made with another setting is in another network.
    let address = settings.networks.and_then(|mut networks| {
        let ours = networks.remove(network);
        let mut all = ours.into_iter().chain(networks.into_values());
        all.find_map(|endpoint| endpoint.ip_address?.parse().ok())
    });
    let workdir = found.mounts.into_iter().flatten().find_map(|mount| {
        (mount.destination.as_deref() == Some(WORKSPACE)).then_some(mount.source.map(PathBuf::from))
    });
    State {
        workdir: workdir.flatten(),
        id: found.id.unwrap_or_default(),
        started_at: state.started_at.unwrap_or_default(),
        phase,
        port,
        address,
    }
}

/// Podman tells for a moment of states that Docker's API does not have (`stopped`), and then no answer can be read: asks again.
async fn passing_words<T, F>(ask: impl Fn() -> F) -> Result<T, bollard::errors::Error>
where
    F: Future<Output = Result<T, bollard::errors::Error>>,
{
    for _ in 0..STRANGE_WORDS {
        match ask().await {
            Err(bollard::errors::Error::JsonDataError { .. }) => {
                tokio::time::sleep(STRANGE_WORDS_EVERY).await;
            }
            other => return other,
        }
    }
    ask().await
}

pub(super) async fn within<T>(
    limit: Duration,
    future: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<Result<T, bollard::errors::Error>, EngineError> {
    tokio::time::timeout(limit, future).await.map_err(|_| {
        EngineError::Unreachable(format!(
            "the container daemon did not answer within {} s",
            limit.as_secs()
        ))
    })
}

pub(super) async fn call<T>(
    what: &str,
    future: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, EngineError> {
    within(CALL, future)
        .await?
        .map_err(|error| failed(what, &error))
}

pub(super) fn is_missing(error: &bollard::errors::Error) -> bool {
    matches!(
        error,
        bollard::errors::Error::DockerResponseServerError {
            status_code: 404,
            ..
        }
    )
}

pub(super) fn failed(what: &str, error: &bollard::errors::Error) -> EngineError {
    match error {
        bollard::errors::Error::DockerResponseServerError {
            status_code,
            message,
        } => EngineError::Fault(format!(
            "the container daemon could not {what} ({status_code}): {message}"
        )),
        other => EngineError::Unreachable(format!(
            "could not {what}: the container daemon does not answer ({})",
            innermost(other)
        )),
    }
}

fn unusable(error: &bollard::errors::Error) -> EngineError {
    if let bollard::errors::Error::SocketNotFoundError(socket) = error {
        return EngineError::Unreachable(format!(
            "there is no container daemon at {socket}: it does not run, or its socket is elsewhere"
        ));
    }
    EngineError::Unusable(format!(
        "the container daemon's address cannot be used ({error}); set engines.docker.host or DOCKER_HOST, such as \
         unix:///var/run/docker.sock"
    ))
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
