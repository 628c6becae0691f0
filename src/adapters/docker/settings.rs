//! What an operator sets about the engine `docker`. Plain data.

use std::path::PathBuf;

use chargehand_actors::id::{EngineName, InstanceId};

use super::setup::SetupRule;
use crate::adapters::opencode::OpencodeSettings;

/// Where the daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `DOCKER_HOST` and its companions, else the usual sockets of Docker and Podman.
    Environment,
    /// A URL: `unix:///run/podman/podman.sock`, `tcp://127.0.0.1:2375`.
    Url(String),
    /// A TCP address that is spoken to with mutual TLS.
    Tls {
        /// `tcp://host:2376`.
        url: String,
        /// Files in PEM.
        files: TlsFiles,
    },
}

/// The files of mutual TLS, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signs the daemon.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The network of the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Docker's default bridge; the worker's port is published on loopback.
    Bridge,
    /// This network; the worker is reached on its own address.
    Named(String),
    /// A network of this instance without a way out; the worker is reached on its own address.
    Internal,
}

/// The limits of one worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DockerLimits {
    /// Bytes of memory; swap gives no more.
    pub memory: u64,
    /// CPUs.
    pub cpus: f64,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes of `/tmp` and of HOME, each in memory.
    pub tmpfs: u64,
    /// Bytes of disk: workdir and OpenCode's records together; 0 = not watched.
    pub disk: u64,
}

impl Default for DockerLimits {
    fn default() -> Self {
        Self {
            memory: 2 << 30,
            cpus: 2.0,
            pids: 512,
            tmpfs: 256 << 20,
            disk: 10 << 30,
        }
    }
}

/// What the engine `docker` needs.
#[derive(Clone, Debug)]
pub struct DockerSettings {
    /// Its name, normally `docker`.
    pub name: EngineName,
    /// Stamped on every container.
    pub instance: InstanceId,
    /// The daemon.
    pub endpoint: Endpoint,
    /// The image: any that has `opencode`, `sh` and git in it.
    pub image: String,
    /// The network.
    pub network: Network,
    /// The runtime, such as `runsc`; none = the daemon's default.
    pub runtime: Option<String>,
    /// User and group of the worker.
    pub user: (u32, u32),
    /// The limits.
    pub limits: DockerLimits,
    /// OpenCode's data of each attempt is kept below it.
    pub data_dir: PathBuf,
    /// Secrets of each attempt are kept below it: a directory on tmpfs.
    pub secrets_dir: PathBuf,
    /// How OpenCode is configured.
    pub opencode: OpencodeSettings,
    /// What is run before the first prompt.
    pub setup: Vec<SetupRule>,
}

impl DockerSettings {
    /// The network as the daemon names it.
    pub(super) fn network_name(&self) -> String {
        match &self.network {
            Network::Bridge => "bridge".to_owned(),
            Network::Named(name) => name.clone(),
            Network::Internal => format!("chargehand-{}", self.instance),
        }
    }
}
