//! The engine `docker` from its settings.
//!
//! In: `[engines.docker]`, the other settings, the data directory, the instance. Out: what the adapter needs.

use std::path::{Path, PathBuf};

use chargehand_actors::id::{EngineName, InstanceId};

use super::assembly::{Opencode, opencode};
use super::error::CliError;
use crate::adapters::docker::{
    DockerLimits, DockerSettings, Endpoint, Network, SetupRule, TlsFiles, reach,
};
use crate::config::{DockerEngineSettings, Settings};

/// User and group of a worker when Chargehand is root, which a worker never is.
const NOBODY_IN_PARTICULAR: (u32, u32) = (10_001, 10_001);

/// What the adapter needs.
pub(crate) fn docker_settings(
    docker: &DockerEngineSettings,
    settings: &Settings,
    data_dir: &Path,
    instance: InstanceId,
) -> DockerSettings {
    let rule = |(source, commands): &(String, Vec<String>)| SetupRule {
        source: source.clone(),
        commands: commands.clone(),
    };
    DockerSettings {
        name: EngineName::new("docker"),
        instance,
        endpoint: endpoint(docker),
        image: docker.image.clone(),
        network: match docker.network.as_str() {
            "bridge" => Network::Bridge,
            "internal" => Network::Internal,
            name => Network::Named(name.to_owned()),
        },
        runtime: docker.runtime.clone(),
        user: docker.user.unwrap_or_else(user),
        limits: DockerLimits {
            memory: docker.memory,
            cpus: docker.cpus,
            pids: docker.pids,
            tmpfs: docker.tmpfs,
            disk: docker.disk,
        },
        data_dir: data_dir.to_owned(),
        secrets_dir: docker.secrets_dir.clone().unwrap_or_else(secrets_dir),
        opencode: opencode(
            Opencode {
                model: docker.model.as_deref(),
                small_model: docker.small_model.as_deref(),
                config: &docker.opencode_config,
                env: &docker.env,
            },
            &settings.permissions,
        ),
        setup: settings.setup.iter().map(rule).collect(),
    }
}

/// Who asked for containers is not left waiting for them, nor given anything else.
pub(crate) async fn must_be_there(settings: &DockerSettings) -> Result<(), CliError> {
    reach(settings).await.map_err(|error| {
        CliError::Server(format!(
            "engine.default is docker, and there is no container daemon: {error}. Nothing was started. Start Docker or Podman (or \
             name its socket in engines.docker.host or DOCKER_HOST; `chargehand doctor` tells more), or choose another engine: \
             CHARGEHAND_ENGINE_DEFAULT=local runs tasks without containers"
        ))
    })
}

fn endpoint(docker: &DockerEngineSettings) -> Endpoint {
    match (&docker.host, &docker.tls) {
        (None, _) => Endpoint::Environment,
        (Some(url), None) => Endpoint::Url(url.clone()),
        (Some(url), Some([ca, cert, key])) => Endpoint::Tls {
            url: url.clone(),
            files: TlsFiles {
                ca: ca.clone(),
                cert: cert.clone(),
                key: key.clone(),
            },
        },
    }
}

/// Our own, so that the workdirs belong to both; never root.
fn user() -> (u32, u32) {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        NOBODY_IN_PARTICULAR
    } else {
        (uid.as_raw(), rustix::process::getegid().as_raw())
    }
}

/// On tmpfs, so that no key reaches a disk, and for this account alone.
fn secrets_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if !runtime.is_empty() => Path::new(&runtime).join("chargehand"),
        _ => {
            let uid = rustix::process::geteuid().as_raw();
            PathBuf::from(format!("/dev/shm/chargehand-{uid}"))
        }
    }
}
