//! What `doctor` says about the engine `docker`: the daemon, the image, which limits and which parts of the sandbox are really in force.
//!
//! In: the settings, and a [`Survey`] of the daemon. Out: one [`Check`] each, with how to mend it. Judging is pure; only [`docker`] asks.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use chargehand_actors::id::InstanceId;

use super::docker::docker_settings;
use super::doctor::{Check, State};
use crate::adapters::docker::{DockerSettings, Network, Survey, survey};
use crate::config::{DockerEngineSettings, Settings};

/// The oldest API that Chargehand was tested with.
const TESTED_API: (u32, u32) = (1, 41);
/// How long the daemon may take for everything that is asked.
const WITHIN: Duration = Duration::from_secs(120);

/// What the trial found, by name.
type Trial = BTreeMap<String, String>;

/// Every check of the engine.
pub(crate) async fn docker(settings: &Settings, docker: &DockerEngineSettings) -> Vec<Check> {
    let adapter = docker_settings(
        docker,
        settings,
        &settings.data.dir,
        InstanceId("doctor".to_owned()),
    );
    let asked = tokio::time::timeout(WITHIN, survey(&adapter, &settings.data.workdirs)).await;
    let mut checks = match asked {
        Ok(Ok(found)) => judge(&found, &adapter),
        Ok(Err(error)) => vec![unreachable(&error.to_string())],
        Err(_) => vec![unreachable(&format!(
            "it did not answer within {} s",
            WITHIN.as_secs()
        ))],
    };
    checks.push(secrets(&adapter.secrets_dir, &mounts()));
    checks
}

fn unreachable(error: &str) -> Check {
    let mend = if error.contains("ermission denied") {
        "this account may not use the daemon's socket: add it to the group that owns it (usually docker; that group is as \
         powerful as root), or use a rootless daemon; then log in again"
    } else {
        "start Docker (`systemctl start docker`) or Podman's service (`podman system service --time=0`), and set \
         engines.docker.host or DOCKER_HOST if it listens elsewhere; `docker info` must work for this account"
    };
    Check::bad("docker", State::Fail, error, mend)
}

/// What the facts mean.
fn judge(found: &Survey, settings: &DockerSettings) -> Vec<Check> {
    let mut checks = vec![daemon(found)];
    checks.extend(image(found, settings));
    if let Some(Ok(trial)) = &found.trial {
        checks.push(limits(found, trial, settings));
        checks.push(sandbox(trial));
        checks.extend(workdir(found, trial));
    }
    checks.push(network(found, settings));
    checks.push(storage(found, settings));
    checks.push(restart(found));
    checks.extend(podman(found));
    checks
}

fn daemon(found: &Survey) -> Check {
    const NAME: &str = "docker";
    if found.elsewhere {
        return Check::bad(
            NAME,
            State::Warn,
            format!("{}, on another machine", found.version),
            "Chargehand needs the same directories there, under the same paths, and a network on which it reaches the workers' own \
             addresses (engines.docker.network): ports on that machine's loopback are out of its reach",
        );
    }
    if found.api < TESTED_API {
        let (major, minor) = TESTED_API;
        return Check::bad(
            NAME,
            State::Warn,
            &found.version,
            format!(
                "older than what Chargehand was tested with (API {major}.{minor}, Docker 20.10): update it"
            ),
        );
    }
    Check::ok(NAME, &found.version)
}

/// The image, and what is in it.
fn image(found: &Survey, settings: &DockerSettings) -> Option<Check> {
    const NAME: &str = "docker image";
    let image = &settings.image;
    if !found.image {
        return Some(Check::bad(
            NAME,
            State::Fail,
            format!("{image} is not there"),
            format!(
                "build it (`docker build --target worker --tag {image} .` in Chargehand's source), or name another in \
                 engines.docker.image"
            ),
        ));
    }
    let trial = match found.trial.as_ref()? {
        Ok(trial) => trial,
        Err(error) => return Some(cannot_run(found, settings, error)),
    };
    let has = |program: &str| trial.get(program).filter(|version| !version.is_empty());
    let missing: Vec<&str> = ["opencode", "git"]
        .into_iter()
        .filter(|program| has(program).is_none())
        .collect();
    if !missing.is_empty() {
        return Some(Check::bad(
            NAME,
            State::Fail,
            format!("{image} has no {}", missing.join(" and no ")),
            "use an image with them in PATH: the target `worker` of Chargehand's Dockerfile takes any Debian as BASE_IMAGE",
        ));
    }
    let version = has("opencode").map_or("", String::as_str);
    let told = format!("{image}: OpenCode {version}");
    if !version.starts_with(|first: char| first.is_ascii_digit()) {
        return Some(Check::bad(
            NAME,
            State::Fail,
            format!("{image}: opencode does not run; it says: {version}"),
            "build the image with an OpenCode for its system and processor (`opencode --version` must work in it)",
        ));
    }
    if too_old(version) {
        return Some(Check::bad(
            NAME,
            State::Fail,
            told,
            "build it with a newer OpenCode: 1.3 or newer is needed",
        ));
    }
    let lacking: Vec<&str> = [("bash", "bash"), ("rg", "ripgrep")]
        .into_iter()
        .filter(|(program, _)| has(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if lacking.is_empty() {
        return Some(Check::ok(NAME, told));
    }
    Some(Check::bad(
        NAME,
        State::Warn,
        format!("{told}, without {}", lacking.join(" and ")),
        "install them in the image: without bash the worker uses sh, without ripgrep it cannot search offline",
    ))
}

/// A container made as a worker's is did not come up.
fn cannot_run(found: &Survey, settings: &DockerSettings, error: &str) -> Check {
    let low = error.to_ascii_lowercase();
    let mend = if let Some(runtime) = settings
        .runtime
        .as_ref()
        .filter(|runtime| error.contains(*runtime))
    {
        format!(
            "engines.docker.runtime is \"{runtime}\"; this daemon has {}",
            found.runtimes.join(", ")
        )
    } else if low.contains("catatonit") || low.contains("init") && low.contains("no such file") {
        "install the small init program: catatonit for Podman, tini (docker-init) for Docker"
            .to_owned()
    } else if low.contains("cgroup") {
        "the daemon cannot set the limits: its cgroup controllers are missing or not delegated (docs/operations.md)".to_owned()
    } else if low.contains("bind source path") || low.contains("mount") {
        "the daemon does not see Chargehand's workdirs: mount them into Chargehand's container under the very path that they have \
         on the daemon's machine"
            .to_owned()
    } else {
        "a worker would fail in the same way: mend what the daemon names".to_owned()
    };
    Check::bad(
        "docker image",
        State::Fail,
        format!(
            "{} is there, but its container does not run: {error}",
            settings.image
        ),
        mend,
    )
}

fn too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    matches!(
        (numbers.next().flatten(), numbers.next().flatten()),
        (Some(0), _) | (Some(1), Some(0..=2))
    )
}

/// Which limits the kernel has taken over.
fn limits(found: &Survey, trial: &Trial, settings: &DockerSettings) -> Check {
    const NAME: &str = "docker limits";
    let limits = settings.limits;
    let is = |name: &str, wanted: &str| trial.get(name).is_some_and(|value| value == wanted);
    let memory = limits.memory.to_string();
    let mut missing = Vec::new();
    if !is("memory", &memory) {
        missing.push("memory");
    }
    // The sum of both in v1, what may be swapped in v2.
    if !is("memory_and_swap", &memory) && !is("swap", "0") {
        missing.push("swap");
    }
    if trial
        .get("cpu")
        .is_none_or(|cpu| cpu.is_empty() || cpu.starts_with("max") || cpu.starts_with('-'))
    {
        missing.push("CPU");
    }
    if !is("pids", &limits.pids.to_string()) {
        missing.push("pids");
    }
    let told = format!(
        "{} MB, {} CPUs, {} processes by {}",
        limits.memory >> 20,
        limits.cpus,
        limits.pids,
        found.cgroups
    );
    if missing.is_empty() {
        return Check::ok(NAME, told);
    }
    let mend = if found.rootless {
        "a daemon without root needs cgroups v2 with these controllers delegated to the user (systemd: Delegate=cpu cpuset io \
         memory pids for user@.service)"
    } else {
        "switch the controllers on: for memory and swap boot Linux with `cgroup_enable=memory swapaccount=1`, for the others \
         mount or enable them (`docker info` shows what is missing)"
    };
    Check::bad(
        NAME,
        State::Warn,
        format!("not enforced: {}", missing.join(", ")),
        mend,
    )
}

/// What holds the worker in.
fn sandbox(trial: &Trial) -> Check {
    const NAME: &str = "docker sandbox";
    let value = |name: &str| trial.get(name).map_or("", String::as_str);
    let mut open = Vec::new();
    let none = |set: &str| !set.is_empty() && set.bytes().all(|digit| digit == b'0');
    if !none(value("CapEff")) {
        open.push("it has capabilities");
    }
    if value("NoNewPrivs") != "1" {
        open.push("it can gain privileges");
    }
    if value("Seccomp") != "2" {
        open.push("no seccomp filter is in force");
    }
    if value("root") != "read-only" {
        open.push("its root can be written to");
    }
    if open.is_empty() {
        return Check::ok(
            NAME,
            "no capabilities, no new privileges, seccomp, read-only root",
        );
    }
    Check::bad(
        NAME,
        State::Warn,
        open.join(", "),
        "the daemon gives less than it is asked for: look for a seccomp profile `unconfined` in its configuration, and for a kernel \
         without CONFIG_SECCOMP_FILTER; a runtime of its own (gVisor) may show 0 and be well",
    )
}

/// Whether the daemon gives the worker the very directory that Chargehand means.
fn workdir(found: &Survey, trial: &Trial) -> Option<Check> {
    const NAME: &str = "docker workdirs";
    let nonce = found.nonce.as_ref()?;
    if trial.get("nonce") != Some(nonce) {
        return Some(Check::bad(
            NAME,
            State::Fail,
            "the daemon has another directory under the path of Chargehand's workdirs",
            "mount data.dir and data.workdirs into Chargehand's container under the very paths that they have on the daemon's machine",
        ));
    }
    if trial.get("workdir").map(String::as_str) != Some("writable") {
        return Some(Check::bad(
            NAME,
            State::Fail,
            "the worker's user cannot write to its workdir",
            "leave engines.docker.user unset (then it is Chargehand's own user), or run Chargehand as root; with user namespaces the \
             directory must belong to the mapped user",
        ));
    }
    Some(Check::ok(NAME, "the worker sees them and may write"))
}

fn network(found: &Survey, settings: &DockerSettings) -> Check {
    const NAME: &str = "docker network";
    match (&settings.network, found.network) {
        (Network::Named(name), Some(false)) => Check::bad(
            NAME,
            State::Fail,
            format!("there is no network {name}"),
            format!(
                "make it (`docker network create {name}`), or set engines.docker.network to bridge or internal"
            ),
        ),
        (Network::Named(name), _) => Check::ok(
            NAME,
            format!("{name}; workers are reached on their own addresses"),
        ),
        (Network::Bridge, _) => Check::ok(
            NAME,
            "bridge: workers reach the internet, and what listens on all of this machine's addresses",
        ),
        (Network::Internal, _) => Check::ok(
            NAME,
            "internal: workers reach only this machine, and of it what listens on all of its addresses",
        ),
    }
}

fn storage(found: &Survey, settings: &DockerSettings) -> Check {
    const NAME: &str = "docker storage";
    let disk = match settings.limits.disk {
        0 => "the disk of a worker is not limited".to_owned(),
        // A quota of the driver would hold for the container's own layer, which cannot be written to anyway.
        bytes => format!("{} MB for a worker are watched, not enforced", bytes >> 20),
    };
    let told = format!("{}; {disk}", found.storage);
    if found.storage.starts_with("vfs") {
        return Check::bad(
            NAME,
            State::Warn,
            told,
            "vfs copies the whole image for every container: use overlay2 on ext4 or xfs",
        );
    }
    if settings.limits.disk == 0 {
        return Check::bad(
            NAME,
            State::Warn,
            told,
            "set engines.docker.disk, or one task can fill the disk for all",
        );
    }
    Check::ok(NAME, told)
}

fn restart(found: &Survey) -> Check {
    const NAME: &str = "docker restarts";
    if found.podman {
        return Check::ok(NAME, "Podman's containers outlive its service");
    }
    if found.live_restore {
        return Check::ok(
            NAME,
            "live-restore: workers outlive a restart of the daemon",
        );
    }
    Check::bad(
        NAME,
        State::Warn,
        "no live-restore: a restart of the daemon stops every worker; their tasks are continued afterwards",
        "set \"live-restore\": true in /etc/docker/daemon.json and reload the daemon (`systemctl reload docker`)",
    )
}

/// What Podman tells less of.
fn podman(found: &Survey) -> Option<Check> {
    if !found.podman {
        return None;
    }
    Some(if found.cgroups.starts_with("cgroups v1") {
        Check::bad(
            "podman",
            State::Warn,
            "with cgroups v1 it does not say that a worker was killed for want of memory: the worker is started again once",
            "use cgroups v2, or Docker",
        )
    } else {
        Check::ok("podman", "cgroups v2")
    })
}

/// The directory of keys and passwords must not be on a disk.
fn secrets(directory: &Path, mounts: &str) -> Check {
    const NAME: &str = "docker secrets";
    let holding = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        directory.starts_with(place).then_some((place.len(), kind))
    });
    // Of two mounts on one place the later one is seen.
    let kind = holding
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind);
    let told = directory.display();
    match kind {
        Some("tmpfs" | "ramfs") => Check::ok(NAME, format!("{told}, in memory")),
        kind => Check::bad(
            NAME,
            State::Warn,
            format!("{told} is on {}", kind.unwrap_or("an unknown file system")),
            "set engines.docker.secrets_dir to a directory on tmpfs, such as /dev/shm/chargehand: keys should reach no disk",
        ),
    }
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/mounts").unwrap_or_default()
}

#[cfg(test)]
#[path = "doctor_docker_tests.rs"]
mod tests;
