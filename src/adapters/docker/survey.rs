//! What a daemon really gives its containers: asked, and tried with one container that is removed at once.
//!
//! In: the settings, and where workdirs lie. Out: a [`Survey`]: facts only; what to think of them is `doctor`'s. The container of the trial
//! is made as a worker's is, but has no network, no secrets and no label of an instance, and a name of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{ContainerCreateBody, SystemInfo};
use chargehand_actors::id::{AttemptId, TaskId};
use chargehand_actors::ports::EngineError;

use super::daemon::{CALL, Daemon, Flavor, Phase};
use super::place::on_disk;
use super::settings::{DockerSettings, Endpoint, Network};
use super::spec::{HOME, Making, WORKSPACE, bind, body};

/// How long the container of the trial may take.
const TRIAL_WITHIN: Duration = Duration::from_secs(40);
/// How often it is looked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Prints `name=value` lines; reads what the kernel enforces. It does not matter whether the programs are there.
const TRIAL: &str = r#"
while read -r name value _; do
    case "$name" in CapEff:|NoNewPrivs:|Seccomp:) echo "${name%:}=$value" ;; esac
done </proc/self/status
first() { for file in "$@"; do if [ -r "$file" ]; then read -r text <"$file"; echo "$text"; return; fi; done; }
c=/sys/fs/cgroup
echo "memory=$(first $c/memory/memory.limit_in_bytes $c/memory.max)"
echo "memory_and_swap=$(first $c/memory/memory.memsw.limit_in_bytes)"
echo "swap=$(first $c/memory.swap.max)"
echo "pids=$(first $c/pids/pids.max $c/pids.max)"
echo "cpu=$(first $c/cpu/cpu.cfs_quota_us $c/cpu,cpuacct/cpu.cfs_quota_us $c/cpu.max)"
if (: >/.probe) 2>/dev/null; then echo "root=writable"; else echo "root=read-only"; fi
for program in opencode git bash rg; do
    if command -v $program >/dev/null; then echo "$program=$($program --version 2>&1 | head -n 1)"; fi
done
if [ -e nonce ]; then read -r text <nonce; echo "nonce=$text"; (: >answer) 2>/dev/null && echo "workdir=writable"; fi
"#;

/// What was found out about a daemon.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Podman's service; else Docker.
    pub podman: bool,
    /// Name, version and API version.
    pub version: String,
    /// The API version as numbers.
    pub api: (u32, u32),
    /// Whether it runs on another machine.
    pub elsewhere: bool,
    /// Storage driver and the file system below it.
    pub storage: String,
    /// Whether containers outlive a restart of the daemon.
    pub live_restore: bool,
    /// Names of the runtimes.
    pub runtimes: Vec<String>,
    /// Version of cgroups and who makes them.
    pub cgroups: String,
    /// Whether it runs without root.
    pub rootless: bool,
    /// The daemon's own warnings.
    pub warnings: Vec<String>,
    /// Whether the configured network is there; none when it is made by the daemon or by us.
    pub network: Option<bool>,
    /// Whether the image is there.
    pub image: bool,
    /// What the trial found, by name, or why it could not be made; none without an image.
    pub trial: Option<Result<BTreeMap<String, String>, String>>,
    /// What the trial was to find in the workdir; none when there was no place for one.
    pub nonce: Option<String>,
}

/// Asks the daemon, and tries a container. `workdirs` is where workdirs lie: something is put there for the trial, and removed.
pub async fn survey(settings: &DockerSettings, workdirs: &Path) -> Result<Survey, EngineError> {
    let daemon = Daemon::connect(&settings.endpoint).await?;
    let info = daemon.info().await?;
    let mut found = told(&daemon, info);
    found.elsewhere = elsewhere(&settings.endpoint);
    found.network = match &settings.network {
        Network::Bridge | Network::Internal => None,
        Network::Named(name) => Some(daemon.has_network(name).await?),
    };
    found.image = daemon.has_image(&settings.image).await?;
    if found.image {
        let (nonce, trial) = tried(&daemon, settings, workdirs).await;
        found.nonce = nonce;
        found.trial = Some(trial.map_err(|error| error.to_string()));
    }
    Ok(found)
}

fn told(daemon: &Daemon, info: SystemInfo) -> Survey {
    let status = |wanted: &str| {
        let rows = info.driver_status.iter().flatten();
        rows.filter_map(|row| Some((row.first()?, row.get(1)?)))
            .find(|(name, _)| name.contains(wanted))
            .map(|(_, value)| value.clone())
    };
    let driver = info.driver.clone().unwrap_or_default();
    let mut runtimes: Vec<String> = info.runtimes.unwrap_or_default().into_keys().collect();
    runtimes.sort();
    let word = |word: Option<String>| word.filter(|word| !word.is_empty());
    let version = word(info.cgroup_version.map(|version| version.to_string()));
    let made_by = word(info.cgroup_driver.map(|driver| driver.to_string()));
    Survey {
        podman: daemon.flavor() == Flavor::Podman,
        version: daemon.version().to_owned(),
        api: daemon.api(),
        storage: match status("Backing Filesystem") {
            Some(below) => format!("{driver} on {below}"),
            None => driver,
        },
        live_restore: info.live_restore_enabled.unwrap_or(false),
        runtimes,
        cgroups: format!(
            "cgroups v{} by {}",
            version.as_deref().unwrap_or("?"),
            made_by.as_deref().unwrap_or("?")
        ),
        rootless: info
            .security_options
            .iter()
            .flatten()
            .any(|option| option.contains("rootless")),
        warnings: info.warnings.unwrap_or_default(),
        ..Survey::default()
    }
}

/// Whether the daemon's machine is another one: then it has other directories, and its loopback is not ours.
fn elsewhere(endpoint: &Endpoint) -> bool {
    let from_environment = std::env::var("DOCKER_HOST").ok();
    let url = match endpoint {
        Endpoint::Environment => from_environment.as_deref().unwrap_or_default(),
        Endpoint::Url(url) | Endpoint::Tls { url, .. } => url,
    };
    let host = ["tcp://", "http://", "https://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme));
    host.is_some_and(|host| {
        !["127.", "localhost", "[::1]"]
            .iter()
            .any(|here| host.starts_with(here))
    })
}

async fn tried(
    daemon: &Daemon,
    settings: &DockerSettings,
    workdirs: &Path,
) -> (
    Option<String>,
    Result<BTreeMap<String, String>, EngineError>,
) {
    let (place, user) = (workdirs.to_owned(), settings.user);
    // Where there is no place yet, or none for us, that is another check's finding.
    let workdir = on_disk("no place", move || Workdir::make(&place, user))
        .await
        .ok();
    let name = format!("chargehand-doctor-{}", std::process::id());
    let path = workdir.as_ref().map(|workdir| workdir.path.as_path());
    let found = run(daemon, &name, trial_body(settings, daemon.flavor(), path)).await;
    drop(daemon.remove(&name).await);
    (workdir.as_ref().map(|workdir| workdir.nonce.clone()), found)
}

/// A worker's container in everything but what it runs and what it may see.
fn trial_body(
    settings: &DockerSettings,
    flavor: Flavor,
    workdir: Option<&Path>,
) -> ContainerCreateBody {
    let nowhere = Path::new("/");
    let attempt = AttemptId {
        task: TaskId::new(uuid::Uuid::nil()),
        number: 0,
    };
    let mut made = body(
        settings,
        &Making {
            attempt,
            caller: "",
            workdir: nowhere,
            data: nowhere,
            secrets: nowhere,
            flavor,
        },
    );
    made.cmd = Some(vec![TRIAL.to_owned()]);
    made.labels = None;
    made.exposed_ports = None;
    // Without a place for its records OpenCode keeps them in HOME.
    made.env = Some(vec![format!("HOME={HOME}")]);
    if workdir.is_none() {
        made.working_dir = Some("/".to_owned());
    }
    if let Some(host) = &mut made.host_config {
        host.network_mode = Some("none".to_owned());
        host.port_bindings = None;
        host.extra_hosts = None;
        host.mounts = workdir.map(|path| vec![bind(path, WORKSPACE, false)]);
    }
    made
}

async fn run(
    daemon: &Daemon,
    name: &str,
    body: ContainerCreateBody,
) -> Result<BTreeMap<String, String>, EngineError> {
    // One that was left by a doctor that was killed.
    drop(daemon.remove(name).await);
    daemon.create(name, body, CALL).await?;
    daemon.start(name).await?;
    let ended = async {
        loop {
            match daemon.inspect(name, "none").await? {
                Some(state) if matches!(state.phase, Phase::Exited { .. }) => return Ok(()),
                Some(_) => tokio::time::sleep(LOOK_EVERY).await,
                None => {
                    return Err(EngineError::Fault(
                        "the container of the trial is gone".to_owned(),
                    ));
                }
            }
        }
    };
    tokio::time::timeout(TRIAL_WITHIN, ended)
        .await
        .map_err(|_| {
            EngineError::Fault(format!(
                "a container that only looks around did not end within {} s",
                TRIAL_WITHIN.as_secs()
            ))
        })??;
    Ok(lines(&daemon.log(name, 100).await?))
}

fn lines(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// A workdir for the trial, with something in it that only the same directory can have. Removed with the value.
struct Workdir {
    path: PathBuf,
    nonce: String,
}

impl Workdir {
    fn make(workdirs: &Path, (uid, gid): (u32, u32)) -> std::io::Result<Self> {
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let path = workdirs.join(format!(".doctor-{nonce}"));
        std::fs::create_dir(&path)?;
        let made = Self { path, nonce };
        std::fs::write(made.path.join("nonce"), format!("{}\n", made.nonce))?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(&made.path, Some(uid), Some(gid))?;
        }
        Ok(made)
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_of_another_machine_is_told_by_its_address() {
        for (url, expected) in [
            ("unix:///var/run/docker.sock", false),
            ("tcp://127.0.0.1:2375", false),
            ("tcp://localhost:2375", false),
            ("tcp://10.0.0.9:2376", true),
            ("tcp://builder.example.org:2376", true),
        ] {
            assert_eq!(elsewhere(&Endpoint::Url(url.to_owned())), expected, "{url}");
        }
    }
}
