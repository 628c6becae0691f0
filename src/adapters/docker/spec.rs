//! How a worker's container is made: every hardening item stands here. Pure.
//!
//! In: settings, the attempt, its mounts. Out: the body of the daemon's create call.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding,
    ResourcesUlimits,
};
use chargehand_actors::id::AttemptId;

use super::daemon::Flavor;
use super::names::labels;
use super::settings::{DockerSettings, Network};

/// Where the worker sees its workdir.
pub(super) const WORKSPACE: &str = "/workspace";
/// Where it sees what only it may know.
pub(super) const SECRETS: &str = "/run/chargehand";
/// Where OpenCode keeps its records.
const DATA: &str = "/data";
/// Its HOME: a directory that no image has, because runc gives a tmpfs the rights of the directory that it hides.
pub(super) const HOME: &str = "/home/chargehand";
/// The port that OpenCode listens on inside.
pub(super) const PORT: u16 = 4096;
/// Processes of one user on the whole machine: many, for the pids limit counts those of the container. Podman grants no more than
/// the kernel's smallest `pid_max`.
const PROCESSES_OF_THE_USER: i64 = 32_768;

/// Reads the environment from a file (it is in no inspect) and becomes OpenCode. A program that is missing ends with 127. On Podman HOME
/// is root's at a second start, when the directory below it is there: /tmp is as good a place.
const START: &str = "set -a; . /run/chargehand/env; set +a; \
    [ -w \"$HOME\" ] || { HOME=/tmp/home; mkdir -p $HOME; export HOME; }; \
    for program in opencode git; do \
    command -v $program >/dev/null || { echo \"the program $program is not in this image\" >&2; exit 127; }; \
    done; \
    exec opencode serve --hostname 0.0.0.0 --port 4096";

/// What one container is made of.
pub(super) struct Making<'a> {
    /// Whose it is.
    pub(super) attempt: AttemptId,
    /// Who asked for it.
    pub(super) caller: &'a str,
    /// Its workdir on the daemon's machine.
    pub(super) workdir: &'a Path,
    /// OpenCode's data there, kept until the result is taken.
    pub(super) data: &'a Path,
    /// Its secrets there.
    pub(super) secrets: &'a Path,
    /// Who makes it.
    pub(super) flavor: Flavor,
}

/// The create call's body.
pub(super) fn body(settings: &DockerSettings, making: &Making<'_>) -> ContainerCreateBody {
    let (uid, gid) = settings.user;
    ContainerCreateBody {
        image: Some(settings.image.clone()),
        // Podman keeps an image's own entrypoint when this one is empty.
        entrypoint: Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]),
        cmd: Some(vec![START.to_owned()]),
        user: Some(format!("{uid}:{gid}")),
        working_dir: Some(WORKSPACE.to_owned()),
        env: Some(vec![
            format!("HOME={HOME}"),
            format!("PWD={WORKSPACE}"),
            format!("XDG_DATA_HOME={DATA}"),
        ]),
        labels: Some(labels(
            &settings.instance,
            making.attempt,
            making.caller,
            &settings.data_dir,
        )),
        exposed_ports: Some(vec![format!("{PORT}/tcp")]),
        host_config: Some(host_config(settings, making)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(settings: &DockerSettings, making: &Making<'_>) -> HostConfig {
    let limits = settings.limits;
    let memory = i64::try_from(limits.memory).ok();
    HostConfig {
        mounts: Some(vec![
            bind(making.workdir, WORKSPACE, false),
            bind(making.data, DATA, false),
            bind(making.secrets, SECRETS, true),
        ]),
        tmpfs: Some(tmpfs(settings, making.flavor)),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        init: Some(true),
        memory,
        // The same as memory: no swap on top.
        memory_swap: memory,
        nano_cpus: Some(nano(limits.cpus)),
        pids_limit: Some(i64::from(limits.pids)),
        // Named, because Podman without CAP_SYS_RESOURCE fails to inherit them.
        ulimits: Some(vec![
            ulimit("nofile", 16_384),
            ulimit("nproc", PROCESSES_OF_THE_USER),
            ulimit("core", 0),
        ]),
        log_config: log_config(making.flavor),
        network_mode: Some(settings.network_name()),
        port_bindings: match settings.network {
            Network::Bridge => Some(HashMap::from([(
                format!("{PORT}/tcp"),
                Some(vec![PortBinding {
                    host_ip: Some("127.0.0.1".to_owned()),
                    host_port: Some(String::new()),
                }]),
            )])),
            Network::Named(_) | Network::Internal => None,
        },
        runtime: settings.runtime.clone(),
        extra_hosts: match making.flavor {
            Flavor::Docker => Some(vec!["host.docker.internal:host-gateway".to_owned()]),
            // It knows no `host-gateway` before 5, and adds host.containers.internal by itself.
            Flavor::Podman => None,
        },
        ..HostConfig::default()
    }
}

/// The only other places that can be written to. Programs may run there: package managers and build tools need it.
fn tmpfs(settings: &DockerSettings, flavor: Flavor) -> HashMap<String, String> {
    let (uid, gid) = settings.user;
    let owner = match flavor {
        // By mode alone it would have the mode of the image's directory, and root as its owner.
        Flavor::Docker => format!("uid={uid},gid={gid},mode=0700"),
        // Refuses uid and gid.
        Flavor::Podman => "mode=1777".to_owned(),
    };
    let bytes = settings.limits.tmpfs;
    let options = format!("rw,exec,nosuid,nodev,size={bytes},{owner}");
    ["/tmp", HOME]
        .into_iter()
        .map(|place| (place.to_owned(), options.clone()))
        .collect()
}

fn log_config(flavor: Flavor) -> Option<HostConfigLogConfig> {
    let config = match flavor {
        Flavor::Docker => [("max-size", "10m"), ("max-file", "2")].as_slice(),
        Flavor::Podman => [("max-size", "10m")].as_slice(),
    };
    Some(HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(
            config
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        ),
    })
}

pub(super) fn bind(from: &Path, to: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(from.to_string_lossy().into_owned()),
        target: Some(to.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn ulimit(name: &str, most: i64) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(most),
        hard: Some(most),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "settings allow 0.1 to 1024 CPUs, far below what an i64 holds"
)]
fn nano(cpus: f64) -> i64 {
    (cpus * 1_000_000_000.0) as i64
}
