//! A server of our own for one command: in this process, on a free loopback port, with a private data directory.
//!
//! In: the configuration, which model. Out: a [`Client`] to it; at the end everything that it started is stopped.
//! The private directories lie in `own/` of the data directory, so that an installed OpenCode is shared; the newest few
//! are kept, because the patch and the workdir of `run` are in them.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chargehand_actors::ports::StopHow;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::args::ConfigArgs;
use super::assembly::World;
use super::client::Client;
use super::config::settings;
use super::error::{CliError, chain};
use super::follow::Interrupts;
use super::leftovers;
use super::logging;
use super::rpc::{Endpoint, Token};
use super::terminal::{Screen, clean};
use crate::Tokens;
use crate::adapters::opencode::{Proof, WorkerSettings, find_or_install};
use crate::config::{
    CallerLimitSettings, DataSettings, LocalEngineSettings, Secret, Settings, TokenRole,
    TokenSettings,
};
use crate::scripted_model::{MODEL, PROVIDER, Scenario, ScriptedModel, opencode_provider_config};

/// How long the server may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to stop in order.
const STOP_WITHIN: Duration = Duration::from_secs(40);
/// The same after a second Ctrl-C.
const STOP_AT_ONCE: Duration = Duration::from_secs(2);
/// How long the worker goes on when this program was killed: nobody will start it on that directory again.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);
/// Private directories that are kept.
const KEPT: usize = 10;
/// The file that says, by its lock, that a private directory is in use.
const LOCK: &str = "in-use";

/// Environment variables in which the providers' keys are usually kept.
const PROVIDER_KEYS: [&str; 9] = [
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
    "GOOGLE_GENERATIVE_AI_API_KEY",
    "GEMINI_API_KEY",
    "MISTRAL_API_KEY",
    "GROQ_API_KEY",
    "XAI_API_KEY",
    "DEEPSEEK_API_KEY",
];

/// Names of the provider keys that are in the environment of this process.
pub(crate) fn provider_keys() -> Vec<String> {
    PROVIDER_KEYS
        .into_iter()
        .filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        .map(str::to_owned)
        .collect()
}

/// Which model the worker gets.
pub(crate) enum ModelChoice {
    /// As configured.
    Configured {
        /// Environment variables of ours that the workers get.
        pass: Vec<String>,
        /// The engine that the task names.
        engine: Option<String>,
    },
    /// As configured, with these keys that were found in our environment, where the usual engine can be given any.
    WithKeys(Vec<String>),
    /// The built-in scripted one, with these scripts.
    Scripted(Vec<Scenario>),
}

/// The server.
pub(crate) struct OwnServer {
    client: Client,
    directory: PathBuf,
    scripted: Option<ScriptedModel>,
    shutdown: CancellationToken,
    server: JoinHandle<Result<(), CliError>>,
    // Unlocks the private directory when it goes.
    _in_use: File,
}

impl OwnServer {
    /// Starts it and waits until it answers; installs OpenCode first if there is none. An interrupt ends what was started.
    pub(crate) async fn start(
        args: &ConfigArgs,
        model: ModelChoice,
        screen: &Screen,
        interrupts: &mut Interrupts,
    ) -> Result<Self, CliError> {
        let prepared = tokio::select! {
            prepared = prepare(args, model, screen) => prepared?,
            () = interrupts.next() => return Err(CliError::Interrupted),
        };
        screen.status("starting the server".to_owned());
        let listener = tokio::net::TcpListener::bind(prepared.settings.server.bind).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let base = Url::parse(&url).map_err(|error| CliError::Server(error.to_string()))?;
        let client = Endpoint::new(base, Some(prepared.token))
            .map(Client::at)
            .map_err(|error| CliError::Server(error.to_string()))?;
        let worker = WorkerSettings {
            abandoned_after: ABANDONED_AFTER,
            ..WorkerSettings::default()
        };
        let world = World::open(&prepared.settings, Arc::new(|_: &str| {}), worker).await?;
        let shutdown = CancellationToken::new();
        let tokens = Tokens::new(&prepared.settings.auth);
        let server = serve_until(prepared.settings, tokens, world, listener, shutdown.clone());
        let mut own = Self {
            client,
            directory: prepared.directory,
            scripted: prepared.scripted,
            shutdown,
            server: tokio::spawn(server),
            _in_use: prepared.in_use,
        };
        let ready = tokio::select! {
            ready = own.ready() => ready,
            () = interrupts.next() => Err(CliError::Interrupted),
        };
        match ready {
            Ok(()) => Ok(own),
            Err(error) => {
                own.stop(interrupts, true).await;
                Err(error)
            }
        }
    }

    /// The way to it.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Its private data directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    async fn ready(&mut self) -> Result<(), CliError> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            if self.server.is_finished() {
                return Err(self.why_it_ended().await);
            }
            match self.client.probe().await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
            }
        }
    }

    async fn why_it_ended(&mut self) -> CliError {
        let why = match (&mut self.server).await {
            Ok(Ok(())) => "it ended by itself".to_owned(),
            Ok(Err(error)) => error.report(),
            Err(error) => error.to_string(),
        };
        CliError::Server(format!(
            "the server of this command did not start: {why}; its log is {}",
            self.directory.join("chargehand.log").display()
        ))
    }

    /// Stops everything that it started, in order; `at_once`, or an interrupt meanwhile, ends what is left by force.
    pub(crate) async fn stop(mut self, interrupts: &mut Interrupts, at_once: bool) {
        self.shutdown.cancel();
        let patience = if at_once { STOP_AT_ONCE } else { STOP_WITHIN };
        if !self.server.is_finished() {
            let stopped = tokio::select! {
                _ = &mut self.server => true,
                () = tokio::time::sleep(patience) => false,
                () = interrupts.next() => false,
            };
            if !stopped {
                self.server.abort();
                end_leftovers(&self.directory);
            }
        }
        if let Some(model) = self.scripted.take() {
            model.stop().await;
        }
    }
}

/// What a server of our own is started with.
struct Prepared {
    settings: Settings,
    token: Token,
    scripted: Option<ScriptedModel>,
    directory: PathBuf,
    in_use: File,
}

/// Everything up to the first thing that would have to be stopped again.
async fn prepare(
    args: &ConfigArgs,
    model: ModelChoice,
    screen: &Screen,
) -> Result<Prepared, CliError> {
    let mut settings = settings(args, BTreeMap::new())?;
    if let Some(local) = &mut settings.engines.local {
        let tell = |text: &str| {
            screen.line(&clean(text));
            screen.status(clean(text).into_owned());
        };
        screen.status("looking for OpenCode".to_owned());
        // What is found is all that the server then has: another one is looked for here or not at all.
        let program = local.opencode.as_deref();
        let program = find_or_install(
            program,
            &local.version,
            &settings.data.dir,
            Proof::Run,
            &tell,
        )
        .await
        .map_err(|error| CliError::Server(error.to_string()))?;
        local.opencode = Some(program);
    }
    let scripted = choose_model(&mut settings, model).await?;
    let (directory, in_use) = private_directory(&settings.data.dir)?;
    settings.data = DataSettings {
        workdirs: directory.join("workdirs"),
        dir: directory.clone(),
    };
    settings.server.bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    settings.engine.on_stop = StopHow::EndWorkers;
    // Its only caller is this command, which may name whatever this user can read.
    settings.tasks.allowed_sources = Some(vec![PathBuf::from("/")]);
    // Other users of this machine reach the port too.
    let random = || uuid::Uuid::new_v4().simple();
    let token = format!("{}{}", random(), random());
    settings.auth.tokens = vec![TokenSettings {
        name: "cli".to_owned(),
        token: Secret::new(token.clone()),
        file: None,
        role: TokenRole::Operator,
        agents: Vec::new(),
        limits: CallerLimitSettings::default(),
    }];
    logging::to_file(&directory.join("chargehand.log"), &settings.log.level)?;
    Ok(Prepared {
        settings,
        token: Token(token),
        scripted,
        directory,
        in_use,
    })
}

/// Runs a server until `shutdown`, then closes its journal.
pub(crate) async fn serve_until(
    settings: Settings,
    tokens: Tokens,
    world: World,
    listener: tokio::net::TcpListener,
    shutdown: CancellationToken,
) -> Result<(), CliError> {
    let ended = crate::run_with(
        settings,
        tokens,
        world.adapters.clone(),
        listener,
        shutdown.cancelled_owned(),
    )
    .await;
    world.close().await;
    ended.map_err(|error| CliError::Server(chain(&error)))
}

/// Gives variables of this environment to the workers of `engine`.
fn pass_on(settings: &mut Settings, engine: &str, names: Vec<String>) -> Result<(), CliError> {
    for name in names {
        let value = std::env::var(&name)
            .map_err(|_| CliError::Usage(format!("the environment variable {name} is not set")))?;
        let engines = &mut settings.engines;
        let env = match engine {
            "local" => engines.local.as_mut().map(|local| &mut local.env),
            "docker" => engines.docker.as_mut().map(|docker| &mut docker.env),
            _ => None,
        };
        let Some(env) = env else {
            return Err(CliError::Usage(format!(
                "--pass-env {name} cannot be done: the environment of the engine \"{engine}\" is not made here; leave it out, or choose \
                 the engine local or docker"
            )));
        };
        env.insert(name, Secret::new(value));
    }
    Ok(())
}

/// Hands the model's configuration to the engine.
async fn choose_model(
    settings: &mut Settings,
    model: ModelChoice,
) -> Result<Option<ScriptedModel>, CliError> {
    match model {
        ModelChoice::Configured { pass, engine } => {
            let engine = engine.unwrap_or_else(|| settings.engine.default.clone());
            pass_on(settings, engine.trim(), pass)?;
            Ok(None)
        }
        ModelChoice::WithKeys(keys) => {
            let engine = settings.engine.default.clone();
            if matches!(engine.as_str(), "local" | "docker") {
                pass_on(settings, &engine, keys)?;
            }
            Ok(None)
        }
        ModelChoice::Scripted(scenarios) => {
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let model = ScriptedModel::start(any_port, scenarios).await?;
            let local = settings
                .engines
                .local
                .get_or_insert_with(LocalEngineSettings::default);
            let config = opencode_provider_config(&model.base_url());
            if let serde_json::Value::Object(config) = config {
                local.opencode_config.extend(config);
            }
            local.model = Some(format!("{PROVIDER}/{MODEL}"));
            local.small_model = local.model.clone();
            settings.engine.default = "local".to_owned();
            settings.engines.remote = None;
            Ok(Some(model))
        }
    }
}

/// Makes a new private directory in `own/`, locked while the file lives, and removes the oldest ones.
fn private_directory(data: &Path) -> Result<(PathBuf, File), CliError> {
    let all = data.join("own");
    let file_error = |what, path: &Path| {
        let path = path.to_owned();
        move |source| CliError::File { what, path, source }
    };
    std::fs::create_dir_all(&all).map_err(file_error("cannot create", &all))?;
    prune(&all);
    // The time in front makes the order of names the order of age.
    let directory = tempfile::Builder::new()
        .prefix(&format!("{:013}-", jiff::Timestamp::now().as_millisecond()))
        .tempdir_in(&all)
        .map_err(file_error("cannot create a directory in", &all))?
        .keep();
    let lock = directory.join(LOCK);
    let file = File::create(&lock).map_err(file_error("cannot create", &lock))?;
    file.lock().map_err(file_error("cannot lock", &lock))?;
    let directory = directory
        .canonicalize()
        .map_err(file_error("cannot find", &directory))?;
    Ok((directory, file))
}

/// Removes all but the newest directories that nobody uses. What cannot be removed now is tried again next time.
fn prune(all: &Path) {
    let Ok(entries) = std::fs::read_dir(all) else {
        return;
    };
    let mut directories: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    directories.sort_unstable();
    let surplus = directories.len().saturating_sub(KEPT);
    for directory in directories.into_iter().take(surplus) {
        let unused = File::open(directory.join(LOCK)).is_ok_and(|file| file.try_lock().is_ok());
        if unused {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// Kills what still belongs to a private directory after the ordered stop was given up.
fn end_leftovers(directory: &Path) {
    for process in leftovers::processes_of(directory).unwrap_or_default() {
        let pid = i32::try_from(process.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::DockerEngineSettings;

    #[test]
    fn a_variable_reaches_the_engine_of_the_task_or_nothing() {
        let mut settings = Settings::default();
        settings.engines.docker = Some(DockerEngineSettings::default());
        let mut pass = |engine| pass_on(&mut settings, engine, vec!["PATH".to_owned()]);
        assert!(pass("docker").is_ok());
        let refused = pass("remote").unwrap_err().to_string();
        assert!(refused.contains("remote"), "{refused}");
        let has = |env: &BTreeMap<String, Secret>| env.contains_key("PATH");
        let engines = &settings.engines;
        assert!(
            engines
                .docker
                .as_ref()
                .is_some_and(|docker| has(&docker.env))
        );
        assert!(!engines.local.as_ref().is_some_and(|local| has(&local.env)));
    }

    #[test]
    fn the_newest_directories_and_those_in_use_are_kept() {
        let data = tempfile::tempdir().unwrap();
        let all = data.path().join("own");
        let mut made = Vec::new();
        let mut in_use = None;
        for number in 0..KEPT + 3 {
            let directory = all.join(format!("{number:013}-x"));
            std::fs::create_dir_all(&directory).unwrap();
            let file = File::create(directory.join(LOCK)).unwrap();
            if number == 1 {
                file.lock().unwrap();
                in_use = Some(file);
            }
            made.push(directory);
        }
        let (new, _lock) = private_directory(data.path()).unwrap();
        assert!(new.is_dir());
        assert!(
            !made[0].exists() && !made[2].exists(),
            "the oldest are gone"
        );
        assert!(made[1].exists(), "in use");
        assert!(made[3].exists(), "among the newest");
        drop(in_use);
    }
}
