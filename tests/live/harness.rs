//! What every live test needs: the scripted model, a real OpenCode behind the engine `local`, workdirs, and their end.
//!
//! In: a change of the settings. Out: a [`Live`] world in a directory of its own; dropping it ends every process that it
//! started, also when a test fails. A missing OpenCode is a printed skip, and a failure where `CHARGEHAND_REQUIRE_LIVE=1`.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chargehand::adapters::opencode::{
    LocalEngine, LocalSettings, OpencodeSettings, PINNED, Proof, WorkerSettings, find_or_install,
};
use chargehand::adapters::system::SystemIds;
use chargehand::scripted_model::{ScriptedModel, opencode_provider_config};
use chargehand_actors::event::{Prompt, PromptKind, SessionRef};
use chargehand_actors::id::{AttemptId, EngineName, InstanceId, TaskId};
use chargehand_actors::ports::{
    Activity, Engine, EngineSignal, Ids, LastMessage, OpenSession, SendPrompt, SessionReport,
    Signal,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness_outside::end_everything;

/// How long anything in a live test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// The program `chargehand` of this build.
pub(crate) fn chargehand() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_chargehand"))
}

/// OpenCode: `CHARGEHAND_OPENCODE`, `PATH`, or an installation below the target directory. None = the test is skipped.
pub(crate) async fn opencode() -> Option<PathBuf> {
    let configured = std::env::var_os("CHARGEHAND_OPENCODE").map(PathBuf::from);
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Tests are processes of their own: only one may install.
    let lock = std::fs::File::create(place.join("opencode.lock")).unwrap();
    lock.lock().unwrap();
    let tell = |line: &str| eprintln!("{line}");
    match find_or_install(configured.as_deref(), PINNED, place, Proof::Package, &tell).await {
        Ok(program) => Some(program),
        Err(error) if std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_some_and(|v| v == "1") => {
            panic!("OpenCode is required here: {error}")
        }
        Err(error) => {
            println!("SKIPPED, no OpenCode: {error}");
            None
        }
    }
}

/// A scripted model, a data directory, settings of the engine `local`.
pub(crate) struct Live {
    pub(crate) model: Option<ScriptedModel>,
    pub(crate) settings: LocalSettings,
    pub(crate) directory: TempDir,
    ids: SystemIds,
}

impl Live {
    /// Prepares everything; no engine is started yet. `config` is merged over OpenCode's configuration.
    pub(crate) async fn new(config: Value) -> Option<Self> {
        let binary = opencode().await?;
        let model = ScriptedModel::start(([127, 0, 0, 1], 0).into(), Vec::new())
            .await
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ids = SystemIds::default();
        let mut all = opencode_provider_config(&model.base_url());
        for (key, value) in config.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        let settings = LocalSettings {
            name: EngineName::new("local"),
            data_dir: directory.path().join("data"),
            binary: Some(binary),
            version: PINNED.to_owned(),
            opencode: OpencodeSettings {
                config: Some(all),
                ..OpencodeSettings::default()
            },
            instance: InstanceId(ids.uuid().simple().to_string()),
            install_progress: Arc::new(|line| eprintln!("{line}")),
            worker: WorkerSettings {
                guard: Some(chargehand()),
                ..WorkerSettings::default()
            },
        };
        Some(Self {
            model: Some(model),
            settings,
            directory,
            ids,
        })
    }

    /// An engine on the data directory, started and watched.
    pub(crate) async fn engine(&self) -> Watched {
        let engine = Arc::new(LocalEngine::new(self.settings.clone()));
        engine.start().await.unwrap();
        Watched::new(engine).await
    }

    /// A new empty git repository.
    pub(crate) fn workdir(&self, name: &str) -> String {
        let path = self.directory.path().join("work").join(name);
        std::fs::create_dir_all(&path).unwrap();
        let made = Command::new("git").args(["init", "-q"]).arg(&path).status();
        assert!(made.unwrap().success());
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn attempt(&self) -> AttemptId {
        AttemptId {
            task: TaskId::new(self.ids.uuid()),
            number: 1,
        }
    }

    /// What opens the session of an attempt.
    pub(crate) fn opening(&self, attempt: AttemptId, directory: &str) -> OpenSession {
        OpenSession {
            attempt,
            directory: directory.to_owned(),
            title: format!("live test {attempt}"),
            model: None,
            agent: None,
            permissions: Vec::new(),
            caller: "planner/agent".to_owned(),
            source: chargehand_actors::command::Source::Empty,
        }
    }

    /// A prompt that carries the turns of the model.
    pub(crate) fn prompt(&self, session: &SessionRef, number: u32, turns: Value) -> SendPrompt {
        let script = json!({"turns": turns});
        self.text_prompt(
            session,
            number,
            &format!("Do this. <script>{script}</script>"),
        )
    }

    /// A prompt of plain words.
    pub(crate) fn text_prompt(&self, session: &SessionRef, number: u32, text: &str) -> SendPrompt {
        SendPrompt {
            session: session.clone(),
            prompt: Prompt {
                number,
                kind: PromptKind::First,
                message_id: format!("msg_{}", self.ids.ascending()),
                part_id: format!("prt_{}", self.ids.ascending()),
                text: text.to_owned(),
                carries: None,
            },
            model: None,
            agent: None,
        }
    }

    /// How many requests with tools the model got.
    pub(crate) fn model_calls(&self) -> usize {
        let requests = self.model.as_ref().unwrap().requests();
        requests
            .iter()
            .filter(|one| one.scenario == "inline")
            .count()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let settings = &self.settings;
        end_everything(settings.data_dir.clone(), settings.instance.clone());
    }
}

/// An engine with its stream being read.
pub(crate) struct Watched {
    pub(crate) engine: Arc<LocalEngine>,
    signals: Arc<Mutex<Vec<EngineSignal>>>,
    watching: tokio::task::JoinHandle<()>,
}

impl Watched {
    /// Reads the stream of a started engine.
    pub(crate) async fn new(engine: Arc<LocalEngine>) -> Self {
        let signals: Arc<Mutex<Vec<EngineSignal>>> = Arc::default();
        let sink = Arc::clone(&signals);
        let watched = Arc::clone(&engine);
        let watching = tokio::spawn(async move {
            let ended = watched
                .watch(Arc::new(move |signal| {
                    sink.lock().unwrap().push(signal);
                    true
                }))
                .await;
            eprintln!("watch ended: {ended:?}");
        });
        let this = Self {
            engine,
            signals,
            watching,
        };
        this.until("the stream opens", |signals| {
            signals
                .iter()
                .any(|signal| matches!(signal, EngineSignal::Open { .. }))
        })
        .await;
        this
    }

    /// The same engine after its stream broke and it was started again.
    pub(crate) async fn again(before: &Self) -> Self {
        Self::new(Arc::clone(&before.engine)).await
    }

    /// Waits for the stream to break.
    pub(crate) async fn broken(&mut self) {
        tokio::time::timeout(PATIENCE, &mut self.watching)
            .await
            .unwrap()
            .unwrap();
    }

    /// Signals of a session so far.
    pub(crate) fn of(&self, session: &SessionRef) -> Vec<Signal> {
        let signals = self.signals.lock().unwrap();
        signals
            .iter()
            .filter_map(|signal| match signal {
                EngineSignal::Session(told) if told.session == session.id => {
                    Some(told.signal.clone())
                }
                EngineSignal::Session(_) | EngineSignal::Open { .. } | EngineSignal::Unknown(_) => {
                    None
                }
            })
            .collect()
    }

    /// Waits until a signal of the session fits.
    pub(crate) async fn told(
        &self,
        session: &SessionRef,
        what: &str,
        fits: impl Fn(&Signal) -> bool,
    ) {
        let end = Instant::now() + PATIENCE;
        while !self.of(session).iter().any(&fits) {
            assert!(Instant::now() < end, "never told: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Event types that the translator did not know.
    pub(crate) fn unknown(&self) -> u32 {
        let signals = self.signals.lock().unwrap();
        signals
            .iter()
            .map(|signal| match signal {
                EngineSignal::Unknown(count) => *count,
                EngineSignal::Session(_) | EngineSignal::Open { .. } => 0,
            })
            .sum()
    }

    /// Waits until the signals fit.
    pub(crate) async fn until(&self, what: &str, fits: impl Fn(&[EngineSignal]) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !fits(&self.signals.lock().unwrap()) {
            assert!(Instant::now() < end, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads until the report fits.
    pub(crate) async fn report(
        &self,
        sent: &SendPrompt,
        what: &str,
        fits: impl Fn(&SessionReport) -> bool,
    ) -> SessionReport {
        let end = Instant::now() + PATIENCE;
        loop {
            let ids = vec![sent.prompt.message_id.clone()];
            let report = self.engine.read(sent.session.clone(), ids).await.unwrap();
            if fits(&report) {
                return report;
            }
            assert!(
                Instant::now() < end,
                "waited in vain until {what}; last: {report:#?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads until the prompt was answered to the end.
    pub(crate) async fn answered(&self, sent: &SendPrompt) -> SessionReport {
        self.report(sent, "the answer is complete", |report| {
            report.activity == Activity::Idle
                && report.prompts.iter().all(|prompt| prompt.taken_up)
                && matches!(
                    report.last,
                    LastMessage::Assistant {
                        completed: true,
                        ..
                    }
                )
        })
        .await
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// Whether the last message is an assistant's that ended well.
pub(crate) fn ended_well(report: &SessionReport) -> bool {
    match &report.last {
        LastMessage::Assistant {
            completed,
            finish,
            error,
            rejected,
        } => *completed && finish.as_deref() == Some("stop") && error.is_none() && !rejected,
        LastMessage::None | LastMessage::User => false,
    }
}

/// Waits until a file holds a text.
pub(crate) async fn file_holds(path: &Path, text: &str) {
    let end = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(path).is_ok_and(|content| content.contains(text)) {
        assert!(
            Instant::now() < end,
            "{} never held {text:?}",
            path.display()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A bash call of the model.
pub(crate) fn bash(command: &str) -> Value {
    json!({"tools": [{"name": "bash", "args": {"command": command, "description": "a command"}}]})
}
