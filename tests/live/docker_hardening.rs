//! What the sandbox really is: read back from the kernel by a probe that runs as the worker's shell, and from the daemon's inspect.
//!
//! The probe is a script in the workdir; it prints `name=value` lines. The expectations stand in one table per test, and everything
//! that differs is told at once.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::{LogsOptionsBuilder, RemoveContainerOptionsBuilder};
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use crate::harness::bash;
use crate::harness_docker::{Docked, image};
use crate::harness_product::{Setup, turns, until};

/// A provider key that must be seen nowhere but in the worker.
const KEY: &str = "sk-canary-5f0e8b6f0c7d4a31";

/// Limits that no default has.
const MEMORY: u64 = 900 << 20;
const PIDS: u64 = 333;

/// The kernel's view of the shell that runs this, of its limits, and of what can be written to.
const PROBE: &str = r#"
set -f
while read -r name value _; do
    case "$name" in CapInh:|CapPrm:|CapEff:|CapBnd:|CapAmb:|NoNewPrivs:|Seccomp:) echo "${name%:}=$value" ;; esac
done </proc/self/status
echo "uid=$(id -u)"
echo "gid=$(id -g)"
echo "nofile=$(ulimit -n)"
echo "core=$(ulimit -c)"
first() { for file in "$@"; do if [ -r "$file" ]; then read -r text <"$file"; echo "$text"; return; fi; done; echo none; }
c=/sys/fs/cgroup
echo "memory=$(first $c/memory/memory.limit_in_bytes $c/memory.max)"
echo "memory_and_swap=$(first $c/memory/memory.memsw.limit_in_bytes $c/memory.swap.max)"
echo "pids=$(first $c/pids/pids.max $c/pids.max)"
echo "cpu=$(first $c/cpu/cpu.cfs_quota_us $c/cpu,cpuacct/cpu.cfs_quota_us $c/cpu.max)"
for place in / /bin /etc /usr /usr/bin /usr/local/bin /var /root /run /run/chargehand /opt /srv /mnt \
    /sys /sys/fs/cgroup $c/memory $c/pids /proc/sys/kernel /workspace /data /home/chargehand /tmp; do
    if touch "$place/.probe" 2>/dev/null; then rm -f "$place/.probe"; echo "writable:$place=yes"; fi
done
for place in /tmp /home/chargehand; do
    while read -r _ mounted kind options _; do
        [ "$mounted" = "$place" ] && echo "mount:$place=$kind $options"
    done </proc/mounts
done
for socket in /var/run/docker.sock /run/docker.sock /run/podman/podman.sock /run/containerd/containerd.sock; do
    if [ -e "$socket" ]; then echo "socket:$socket=there"; fi
done
tr '\0' ' ' </proc/1/cmdline | { read -r first _; echo "init=${first##*/}"; }
echo "key=$PROVIDER_API_KEY"
"#;

/// A task that has run the probe and waits for `go`.
struct Probed {
    task: String,
    workdir: PathBuf,
    found: BTreeMap<String, String>,
}

async fn probed(docked: &Docked, probe: &str) -> Probed {
    let command = "until [ -e probe.sh ]; do sleep 0.05; done; sh ./probe.sh >probe.txt 2>probe.err; touch probed; \
                   until [ -e go ]; do sleep 0.05; done";
    let script = turns(json!([bash(command), {"text": "Probed."}]));
    let task = docked.product.client.submit(script, json!({})).await;
    let workdir = docked.workdir(&task).await;
    std::fs::write(workdir.join(".probe.sh"), probe).unwrap();
    std::fs::rename(workdir.join(".probe.sh"), workdir.join("probe.sh")).unwrap();
    until("the probe has run", || async {
        workdir.join("probed").exists().then_some(())
    })
    .await;
    let text = std::fs::read_to_string(workdir.join("probe.txt")).unwrap();
    let found = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Probed {
        task,
        workdir,
        found,
    }
}

impl Probed {
    /// Everything that is not as it should be.
    fn differences(&self, expected: &[(&str, &str)]) -> Vec<String> {
        expected
            .iter()
            .filter(|(name, value)| self.found.get(*name).map(String::as_str) != Some(value))
            .map(|(name, value)| format!("{name} is {:?}, not {value:?}", self.found.get(*name)))
            .collect()
    }

    fn writable(&self) -> Vec<&str> {
        self.found
            .keys()
            .filter_map(|name| name.strip_prefix("writable:"))
            .collect()
    }

    async fn end(self, docked: Docked) {
        std::fs::write(self.workdir.join("go"), "").unwrap();
        docked
            .product
            .ended_saying(&self.task, "completed", "Probed.")
            .await;
        docked.stop().await;
    }
}

fn limits() -> Value {
    json!({
        "memory": format!("{}m", MEMORY >> 20), "cpus": 0.75, "pids": PIDS, "tmpfs": "64m",
        "env": {"PROVIDER_API_KEY": KEY},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hardening_item_is_in_force_in_docker() {
    hardened("CHARGEHAND_TEST_DOCKER_HOST").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hardening_item_is_in_force_in_podman() {
    hardened("CHARGEHAND_TEST_PODMAN_HOST").await;
}

async fn hardened(variable: &str) {
    let Some(docked) = Docked::with(variable, limits(), Setup::default()).await else {
        return;
    };
    let podman = variable.contains("PODMAN");
    let probed = probed(&docked, PROBE).await;
    let memory = MEMORY.to_string();
    let mut wrong = probed.differences(&[
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        // 2 = a filter is in force.
        ("Seccomp", "2"),
        ("uid", "10001"),
        ("gid", "10001"),
        ("nofile", "16384"),
        ("core", "0"),
        ("memory", &memory),
        ("pids", &PIDS.to_string()),
        ("key", KEY),
    ]);
    // In cgroup v1 the sum of both, in v2 what may be swapped.
    let swap = probed.found["memory_and_swap"].as_str();
    if swap != memory && swap != "0" {
        wrong.push(format!("memory and swap: {swap}"));
    }
    if !["75000", "75000 100000"].contains(&probed.found["cpu"].as_str()) {
        wrong.push(format!("cpu: {}", probed.found["cpu"]));
    }
    let writable = probed.writable();
    if writable != ["/data", "/home/chargehand", "/tmp", "/workspace"] {
        wrong.push(format!("writable: {writable:?}"));
    }
    for place in ["/tmp", "/home/chargehand"] {
        let mount = &probed.found[&format!("mount:{place}")];
        for part in ["tmpfs ", "nosuid", "nodev", "size=65536k"] {
            if !mount.contains(part) {
                wrong.push(format!("{place}: {mount} has no {part}"));
            }
        }
    }
    wrong.extend(
        probed
            .found
            .keys()
            .filter(|name| name.starts_with("socket:"))
            .cloned(),
    );
    if !["docker-init", "catatonit", "podman-init", "init"].contains(&probed.found["init"].as_str())
    {
        wrong.push(format!("process 1 is {}", probed.found["init"]));
    }
    let container = docked.container(&probed.task).await.unwrap();
    wrong.extend(inspected(&container, podman));
    wrong.extend(secrets_seen(variable, &docked, &probed.task, &container).await);
    assert_eq!(wrong, Vec::<String>::new(), "{:#?}", probed.found);
    probed.end(docked).await;
}

/// What the daemon says about the container and should not.
fn inspected(container: &ContainerInspectResponse, podman: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let host = container.host_config.as_ref().unwrap();
    if host.privileged == Some(true) || host.readonly_rootfs != Some(true) {
        wrong.push("privileged, or its root can be written to".to_owned());
    }
    for (name, mode) in [
        ("pid", &host.pid_mode),
        ("userns", &host.userns_mode),
        ("uts", &host.uts_mode),
        ("network", &host.network_mode),
    ] {
        if mode.as_deref().is_some_and(|mode| mode.starts_with("host")) {
            wrong.push(format!("{name} namespace is the host's"));
        }
    }
    let log = host.log_config.as_ref().and_then(|log| log.config.as_ref());
    if !podman
        && log.is_none_or(|log| !log.contains_key("max-size") || !log.contains_key("max-file"))
    {
        wrong.push(format!("log without limits: {log:?}"));
    }
    // Only these directories of the host; the secrets cannot be written to.
    let mut mounts: Vec<(String, bool)> = container
        .mounts
        .iter()
        .flatten()
        .filter(|mount| {
            mount
                .source
                .as_deref()
                .is_some_and(|source| !source.is_empty())
        })
        .map(|mount| (mount.destination.clone().unwrap(), mount.rw.unwrap()))
        .collect();
    mounts.sort();
    let expected = [
        ("/data", true),
        ("/run/chargehand", false),
        ("/workspace", true),
    ];
    if mounts != expected.map(|(place, rw)| (place.to_owned(), rw)) {
        wrong.push(format!("mounts: {mounts:?}"));
    }
    let ports = container
        .network_settings
        .as_ref()
        .and_then(|network| network.ports.as_ref());
    for binding in ports
        .into_iter()
        .flat_map(|ports| ports.values())
        .flatten()
        .flatten()
    {
        if binding.host_ip.as_deref() != Some("127.0.0.1") {
            wrong.push(format!("a port is published on {:?}", binding.host_ip));
        }
    }
    wrong
}

/// Where the provider's key or OpenCode's password can be read that is not the worker itself.
async fn secrets_seen(
    variable: &str,
    docked: &Docked,
    task: &str,
    container: &ContainerInspectResponse,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let secrets = container.mounts.iter().flatten().find_map(|mount| {
        (mount.destination.as_deref() == Some("/run/chargehand"))
            .then(|| mount.source.clone().unwrap())
    });
    let secrets = PathBuf::from(secrets.unwrap());
    let password = std::fs::read_to_string(secrets.join("password")).unwrap();
    assert!(password.len() >= 32, "a password that can be guessed");
    let raw = raw_inspect(variable, &docked.name(task));
    let options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .build();
    let logged = docked.docker.logs(&docked.name(task), Some(options));
    let logged: Vec<_> = logged.try_collect().await.unwrap();
    let logged: String = logged.into_iter().map(|part| part.to_string()).collect();
    assert!(
        logged.contains("listening"),
        "the container's log: {logged}"
    );
    let ours = std::fs::read_to_string(docked.product.log()).unwrap();
    let events = docked.product.client.history(task).await;
    let mut journal = std::fs::read(docked.product.data().join("journal.db")).unwrap();
    // The newest events are there.
    journal.extend(std::fs::read(docked.product.data().join("journal.db-wal")).unwrap());
    assert!(
        String::from_utf8_lossy(&journal).contains(task),
        "the journal knows nothing of the task"
    );
    for (place, text) in [
        ("inspect", raw.as_str()),
        ("the container's log", &logged),
        ("Chargehand's log", &ours),
        ("the history", &Value::from(events).to_string()),
        ("the journal", &String::from_utf8_lossy(&journal)),
    ] {
        for (name, secret) in [("the key", KEY), ("the password", password.trim())] {
            if text.contains(secret) {
                wrong.push(format!("{name} is in {place}"));
            }
        }
    }
    // In memory only, and for the worker's user alone.
    for file in ["password", "env"] {
        let mode = std::fs::metadata(secrets.join(file))
            .unwrap()
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            wrong.push(format!("{file} has the rights {mode:o}"));
        }
    }
    if !on_tmpfs(&secrets) {
        wrong.push(format!("{} is on a disk", secrets.display()));
    }
    wrong
}

/// The daemon's own words, with everything that our types leave out.
fn raw_inspect(variable: &str, container: &str) -> String {
    let host = std::env::var(variable).unwrap();
    let mut socket = UnixStream::connect(host.strip_prefix("unix://").unwrap()).unwrap();
    write!(
        socket,
        "GET /containers/{container}/json HTTP/1.0\r\nHost: daemon\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains(" 200 ") && answer.contains(container),
        "{answer}"
    );
    answer
}

fn on_tmpfs(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let holding = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        path.starts_with(place).then_some((place.len(), kind))
    });
    holding.max().is_some_and(|(_, kind)| kind == "tmpfs")
}

/// Who answers at `place=host:port`.
fn reaching(places: &[(&str, String)]) -> String {
    let mut probe = String::new();
    for (name, address) in places {
        let (host, port) = address.rsplit_once(':').unwrap();
        probe.push_str(&format!(
            "if timeout 4 bash -c 'exec 3<>/dev/tcp/{host}/{port}' 2>/dev/null; then echo {name}=open; else echo {name}=closed; fi\n"
        ));
    }
    probe
}

/// `internal` keeps the worker from everything but this machine; `bridge` does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_internal_network_lets_out_to_this_machine_only() {
    let expected = [
        ("outside", "closed"),
        ("neighbour", "closed"),
        ("machine", "open"),
        ("loopback", "closed"),
        // The model: how a worker without a way out still thinks.
        ("model", "open"),
    ];
    network("internal", &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_lets_out_to_the_world_and_to_its_neighbours() {
    let expected = [
        ("outside", "open"),
        ("neighbour", "open"),
        ("machine", "open"),
        ("loopback", "closed"),
        ("model", "open"),
    ];
    network("bridge", &expected).await;
}

async fn network(mode: &str, expected: &[(&str, &str)]) {
    let engine = json!({"network": mode});
    let Some(docked) = Docked::start(engine, Setup::default()).await else {
        return;
    };
    let Ok(outside) = std::env::var("CHARGEHAND_TEST_DOCKER_OUTSIDE") else {
        panic!("CHARGEHAND_TEST_DOCKER_OUTSIDE is not set: nothing stands for the internet");
    };
    let neighbour = Neighbour::start(&docked).await;
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
    let model = docked.model_address();
    let gateway = model.ip();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let places = [
        ("outside", outside),
        ("neighbour", format!("{}:9000", neighbour.address)),
        ("machine", format!("{gateway}:{}", port(&everywhere))),
        ("loopback", format!("{gateway}:{}", port(&loopback))),
        ("model", model.to_string()),
    ];
    let probed = probed(&docked, &reaching(&places)).await;
    assert_eq!(
        probed.differences(expected),
        Vec::<String>::new(),
        "{places:?}"
    );
    let container = docked.container(&probed.task).await.unwrap();
    let ports = container
        .network_settings
        .unwrap()
        .ports
        .unwrap_or_default();
    let published = ports.values().flatten().flatten().count();
    assert_eq!(published, usize::from(mode == "bridge"), "{ports:?}");
    neighbour.remove(&docked).await;
    let (docker, own) = (
        docked.docker.clone(),
        format!("chargehand-{}", docked.product.instance()),
    );
    let there = docker.inspect_network(&own, None).await.is_ok();
    assert_eq!(there, mode == "internal");
    probed.end(docked).await;
    let left = docker.inspect_network(&own, None).await;
    assert!(left.is_err(), "the network is left behind");
}

/// Somebody else's container in the default network, with a service.
struct Neighbour {
    id: String,
    address: String,
}

impl Neighbour {
    async fn start(docked: &Docked) -> Self {
        let serve = "while :; do echo hello | busybox nc -l -p 9000; done";
        let body = ContainerCreateBody {
            image: Some(image()),
            cmd: Some(["sh", "-c", serve].map(str::to_owned).to_vec()),
            ..ContainerCreateBody::default()
        };
        let made = docked.docker.create_container(None, body).await.unwrap();
        docked.docker.start_container(&made.id, None).await.unwrap();
        let found = docked
            .docker
            .inspect_container(&made.id, None)
            .await
            .unwrap();
        let networks = found.network_settings.unwrap().networks.unwrap();
        let address = networks["bridge"].ip_address.clone().unwrap();
        Self {
            id: made.id,
            address,
        }
    }

    async fn remove(self, docked: &Docked) {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        docked
            .docker
            .remove_container(&self.id, Some(options))
            .await
            .unwrap();
    }
}
