//! The product with the engine `docker`: a real daemon, the worker image, and the scripted model where containers reach it.
//!
//! In: `CHARGEHAND_TEST_DOCKER_HOST`, `CHARGEHAND_TEST_WORKER_IMAGE`, settings of `[engines.docker]`. Out: a [`Docked`] product and ways
//! to look at its containers from outside. Without a daemon the tests are skipped, and fail where `CHARGEHAND_REQUIRE_LIVE=1`.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bollard::Docker;
use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, ContainerSummary,
};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use chargehand::scripted_model::{ScriptedModel, opencode_provider_config};
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness_product::{Product, Setup, lines, until};

/// The daemon of a variable; none = the test is skipped.
pub(crate) async fn daemon(variable: &str) -> Option<(String, Docker)> {
    let Ok(host) = std::env::var(variable) else {
        assert!(
            std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_none_or(|v| v != "1"),
            "a container daemon is required here: {variable} is not set"
        );
        println!("SKIPPED, no container daemon: {variable} is not set");
        return None;
    };
    let docker = Docker::connect_with_host(&host).unwrap();
    let docker = docker.negotiate_version().await.unwrap();
    Some((host, docker))
}

/// Runs `stop` or `start` of the directory that `CHARGEHAND_TEST_DOCKER_DAEMON_DIR` names; `status` does nothing. None = the test is skipped.
pub(crate) fn control_daemon(what: &str) -> Option<()> {
    control_daemon_with(what, &[])
}

/// The same, with options of `dockerd` for the start.
pub(crate) fn control_daemon_with(what: &str, options: &[&str]) -> Option<()> {
    let Some(place) = std::env::var_os("CHARGEHAND_TEST_DOCKER_DAEMON_DIR") else {
        assert!(
            std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_none_or(|v| v != "1"),
            "a daemon that can be stopped is required here: CHARGEHAND_TEST_DOCKER_DAEMON_DIR is not set"
        );
        println!("SKIPPED, no daemon that can be stopped");
        return None;
    };
    if what != "status" {
        let done = Command::new(PathBuf::from(place).join(what))
            .args(options)
            .status()
            .unwrap();
        assert!(done.success(), "{what} of the container daemon failed");
    }
    Some(())
}

/// The worker image of the tests.
pub(crate) fn image() -> String {
    std::env::var("CHARGEHAND_TEST_WORKER_IMAGE").unwrap_or("chargehand-worker:test".to_owned())
}

/// A running Chargehand whose tasks run in containers.
pub(crate) struct Docked {
    pub(crate) product: Product,
    pub(crate) docker: Docker,
    /// Between the containers' network and the model, which listens on loopback.
    way: Way,
    /// Last: when Chargehand is gone.
    _sweep: Sweep,
}

/// Removes the containers that a failed test left.
struct Sweep {
    docker: Docker,
    instance: String,
    directory: PathBuf,
}

impl Docked {
    /// With the private Docker daemon; `engine` is laid over `[engines.docker]`, `setup.more` over all settings.
    pub(crate) async fn start(engine: Value, setup: Setup) -> Option<Self> {
        Self::with("CHARGEHAND_TEST_DOCKER_HOST", engine, setup).await
    }

    /// With the daemon that the variable names.
    pub(crate) async fn with(variable: &str, engine: Value, mut setup: Setup) -> Option<Self> {
        let (host, docker) = daemon(variable).await?;
        let gateway = gateway(&docker).await;
        let way = Way::open(&gateway).await;
        let model = format!("http://{}/v1", way.address);
        let mut docker_engine = json!({
            "host": host, "image": image(), "memory": "1g", "cpus": 1.0,
            "opencode_config": opencode_provider_config(&model),
        });
        lay_over(&mut docker_engine, &engine);
        let mut more = json!({
            "engine": {"default": "docker"},
            "engines": {"local": {"enabled": false}, "docker": docker_engine},
        });
        lay_over(&mut more, &setup.more);
        setup.more = more;
        // No OpenCode on this side.
        setup.opencode = Some(PathBuf::from("no-opencode-here"));
        let product = Product::start(setup).await?;
        way.lead_to_model(&product.model);
        let sweep = Sweep {
            docker: docker.clone(),
            instance: product.instance().0,
            directory: product.directory.path().to_owned(),
        };
        Some(Self {
            product,
            docker,
            way,
            _sweep: sweep,
        })
    }

    /// Where containers reach the model: an address of this machine in the default bridge network.
    pub(crate) const fn model_address(&self) -> SocketAddr {
        self.way.address
    }

    /// All containers of this product, whatever they do.
    pub(crate) async fn containers(&self) -> Vec<ContainerSummary> {
        containers_of(&self.docker, &self.product.instance().0).await
    }

    /// The container of a task's first attempt.
    pub(crate) fn name(&self, task: &str) -> String {
        format!("{}-{task}-1", self.product.instance())
    }

    /// How the container of a task stands; none if there is none.
    pub(crate) async fn container(&self, task: &str) -> Option<ContainerInspectResponse> {
        self.docker
            .inspect_container(&self.name(task), None)
            .await
            .ok()
    }

    /// The word of its state; empty if there is none.
    pub(crate) async fn state(&self, task: &str) -> String {
        let state = self.container(task).await.and_then(|found| found.state);
        let word = state.and_then(|state| state.status);
        word.map_or_else(String::new, |word| word.to_string())
    }

    /// Waits for the container to be in a state.
    pub(crate) async fn until_state(&self, task: &str, word: &str) {
        until(&format!("container of {task} {word}"), || async {
            (self.state(task).await == word).then_some(())
        })
        .await;
    }

    /// The workdir of a task on this machine, once it is known.
    pub(crate) async fn workdir(&self, task: &str) -> PathBuf {
        let seen = self
            .product
            .everybody()
            .until(task, "the workdir is there", |seen| {
                seen["directory"].is_string()
            })
            .await;
        PathBuf::from(seen["directory"].as_str().unwrap())
    }

    /// Waits until there are so many lines in a file of the workdir.
    pub(crate) async fn until_lines(&self, task: &str, file: &str, count: usize) {
        let path = self.workdir(task).await.join(file);
        until(&format!("{count} lines in {file}"), || async {
            (lines(&path) >= count).then_some(())
        })
        .await;
    }

    /// The same without asking Chargehand.
    pub(crate) fn workdir_of(&self, task: &str) -> PathBuf {
        self.product.data().join(format!("workdirs/{task}/1/work"))
    }

    /// What is there of this product: containers, and what they have on disk.
    pub(crate) async fn left(&self) -> Vec<String> {
        let instance = self.product.instance().0;
        let containers = self.containers().await;
        let names = containers.into_iter().filter_map(|one| one.names);
        let on_disk = [
            self.product.data().join("docker/attempts"),
            PathBuf::from(format!("/dev/shm/chargehand-{}", uid())),
        ];
        let entries = on_disk.into_iter().flat_map(|place| {
            let entries = std::fs::read_dir(place).ok().into_iter().flatten();
            entries.map(|entry| entry.unwrap().path().display().to_string())
        });
        let ours = entries.filter(|path| path.contains(&instance));
        names.flatten().chain(ours).collect()
    }

    /// Ends the product in order; nothing of it may be left.
    pub(crate) async fn stop(self) {
        until("nothing is left", || async {
            let left = self.left().await;
            left.is_empty().then_some(())
        })
        .await;
        self.product.stop().await;
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        let (docker, instance) = (self.docker.clone(), self.instance.clone());
        // A thread of its own: a test's runtime may be shutting down.
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                for left in containers_of(&docker, &instance).await {
                    let id = left.id.unwrap();
                    drop(docker.unpause_container(&id).await);
                    let force = RemoveContainerOptionsBuilder::default().force(true).build();
                    drop(docker.remove_container(&id, Some(force)).await);
                }
            });
        });
        drop(removed.join());
        let secrets = format!("/dev/shm/chargehand-{}", uid());
        for left in std::fs::read_dir(secrets).into_iter().flatten().flatten() {
            if left
                .file_name()
                .to_string_lossy()
                .starts_with(&format!("{}-", self.instance))
            {
                drop(std::fs::remove_dir_all(left.path()));
            }
        }
        // What a container wrote while it was being removed the first time.
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

fn address_in(url: &str) -> SocketAddr {
    let rest = url.strip_prefix("http://").unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

/// An image made from the worker image by a shell command that root runs in it. Gives its name.
pub(crate) async fn altered_image(docker: &Docker, tag: &str, command: &str) -> String {
    let name = format!("chargehand-test-{}-{tag}", std::process::id());
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let body = ContainerCreateBody {
        image: Some(image()),
        user: Some("0:0".to_owned()),
        entrypoint: Some(vec!["/bin/sh".to_owned(), "-ec".to_owned()]),
        cmd: Some(vec![command.to_owned()]),
        network_disabled: Some(true),
        ..ContainerCreateBody::default()
    };
    docker.create_container(Some(options), body).await.unwrap();
    docker.start_container(&name, None).await.unwrap();
    let ended: Vec<_> = docker
        .wait_container(&name, None)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(ended.len(), 1);
    let commit = CommitContainerOptionsBuilder::default()
        .container(&name)
        .repo(&name)
        .tag("latest")
        .build();
    docker
        .commit_container(commit, ContainerConfig::default())
        .await
        .unwrap();
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&name, Some(force)).await.unwrap();
    name
}

/// Removes an image made by [`altered_image`].
pub(crate) async fn remove_image(docker: &Docker, name: &str) {
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    docker
        .remove_image(name, Some(options), None)
        .await
        .unwrap();
}

pub(crate) async fn containers_of(docker: &Docker, instance: &str) -> Vec<ContainerSummary> {
    let label = format!("chargehand.instance={instance}");
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filters)
        .build();
    docker.list_containers(Some(options)).await.unwrap()
}

/// The address of this machine in the default bridge network.
pub(crate) async fn gateway(docker: &Docker) -> String {
    let mut found = Err(());
    for network in ["bridge", "podman"] {
        if let Ok(network) = docker.inspect_network(network, None).await {
            found = Ok(network);
            break;
        }
    }
    let configs = found.unwrap().ipam.unwrap().config.unwrap();
    configs.first().unwrap().gateway.clone().unwrap()
}

fn uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// Passes connections to the model on, from an address that containers reach.
pub(crate) struct Way {
    address: SocketAddr,
    to: Arc<Mutex<Option<SocketAddr>>>,
    accepting: JoinHandle<()>,
}

impl Way {
    pub(crate) async fn open(gateway: &str) -> Self {
        let listener = TcpListener::bind(format!("{gateway}:0")).await.unwrap();
        let to: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let upstream = Arc::clone(&to);
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let to = *upstream.lock().unwrap();
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(to.unwrap()).await.unwrap();
                    // A side that went away ends both.
                    drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
                });
            }
        });
        Self {
            address,
            to,
            accepting,
        }
    }

    /// Where containers reach what it leads to.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn lead_to_model(&self, model: &ScriptedModel) {
        self.lead_to(address_in(&model.base_url()));
    }

    fn lead_to(&self, model: SocketAddr) {
        *self.to.lock().unwrap() = Some(model);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Sets in `under` what `over` names, at any depth.
fn lay_over(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                lay_over(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}
