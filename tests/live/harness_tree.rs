//! The tree itself on the real engine `local`, for what is decided below the tools: permissions, answers, watchdogs.
//!
//! In: changes of OpenCode's configuration, of the tree's settings, of each task. Out: a [`Grove`]: tasks submitted, waited for,
//! answered, and their events. Stopping it ends the workers.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand::adapters::opencode::LocalEngine;
use chargehand::adapters::outward::{NoMemory, NoNotices, NoRooms};
use chargehand::adapters::system::{DiskSpace, SystemClock, SystemIds};
use chargehand::adapters::workdir::{LocalOutput, LocalWorkdirs, WorkdirLimits, WorkdirSettings};
use chargehand_actors::command::{
    Answer, AnswerRequest, Caller, HistoryQuery, Identity, Notify, Priority, Source, StatusQuery,
    Submit, TaskSpec, WaitFor,
};
use chargehand_actors::event::{Event, Phase};
use chargehand_actors::id::{EngineName, TaskId};
use chargehand_actors::ports::StopHow;
use chargehand_actors::tree::{self, Ports, Tree, TreeHandle, TreeSettings};
use chargehand_actors::view::{OpenRequest, TaskView};
use serde_json::{Value, json};

use crate::harness::{Live, PATIENCE};
use crate::harness_outside::Worker;

/// A tree on a real OpenCode.
pub(crate) struct Grove {
    pub(crate) live: Live,
    pub(crate) engine: Arc<LocalEngine>,
    pub(crate) handle: TreeHandle,
    tree: Tree,
}

impl Grove {
    /// Starts everything; `None` when there is no OpenCode and it is not required. `config` is merged over OpenCode's.
    pub(crate) async fn start(
        config: Value,
        change: impl FnOnce(&mut TreeSettings),
    ) -> Option<Self> {
        Some(Self::on(Live::new(config).await?, change).await)
    }

    /// On a prepared world.
    pub(crate) async fn on(live: Live, change: impl FnOnce(&mut TreeSettings)) -> Self {
        let engine = Arc::new(LocalEngine::new(live.settings.clone()));
        let data = live.directory.path();
        let journal = JournalSettings::at(data.join("journal.db"));
        let ports = Ports {
            clock: Arc::new(SystemClock),
            ids: Arc::new(SystemIds::default()),
            journal: Arc::new(SqliteJournal::open(journal).await.unwrap()),
            output: Arc::new(LocalOutput::new(data.join("output"), 1 << 20)),
            workdirs: Arc::new(LocalWorkdirs::new(WorkdirSettings {
                root: data.join("workdirs"),
                store: data.join("baselines"),
                git: None,
                instance: live.settings.instance.clone(),
                limits: WorkdirLimits::default(),
            })),
            space: Arc::new(DiskSpace::new(Vec::new(), 0)),
            engines: vec![Arc::clone(&engine) as _],
            memory: Arc::new(NoMemory),
            rooms: Arc::new(NoRooms),
            notices: Arc::new(NoNotices),
        };
        let mut settings = TreeSettings {
            instance: live.settings.instance.clone(),
            max_running: 20,
            max_running_per_caller: 20,
            ..TreeSettings::default()
        };
        change(&mut settings);
        let tree = tree::start(settings, ports).await.unwrap();
        Self {
            handle: tree.handle(),
            engine,
            live,
            tree,
        }
    }

    /// Submits a task that the model does by `script` (an object with `turns`).
    pub(crate) async fn submit(&self, script: Value, change: impl FnOnce(&mut TaskSpec)) -> TaskId {
        let mut spec = TaskSpec {
            description: format!("Do this. {}", in_tags(&script)),
            engine: EngineName::new("local"),
            model: None,
            agent: None,
            source: Source::Empty,
            timeout_ms: 300_000,
            priority: Priority::Normal,
            labels: Vec::new(),
            observers: Vec::new(),
            attended: false,
            permissions: Vec::new(),
            max_steps: None,
            notify: Notify::default(),
            conversation: None,
        };
        change(&mut spec);
        let caller = Caller {
            token: "local".to_owned(),
            agent_id: "live".to_owned(),
        };
        let submit = Submit {
            caller,
            spec,
            idempotency_key: None,
            asked: String::new(),
            from: Default::default(),
        };
        self.handle.submit(submit).await.unwrap().task
    }

    pub(crate) async fn view(&self, task: TaskId) -> TaskView {
        let query = StatusQuery {
            task,
            since: None,
            events_limit: 0,
            wait_for: WaitFor::Nothing,
            wait_ms: 0,
        };
        self.handle.status(&operator(), query).await.unwrap().view
    }

    /// Waits until the view fits.
    pub(crate) async fn until(
        &self,
        task: TaskId,
        what: &str,
        fits: impl Fn(&TaskView) -> bool,
    ) -> TaskView {
        let end = Instant::now() + 6 * PATIENCE;
        loop {
            let view = self.view(task).await;
            if fits(&view) {
                return view;
            }
            let late = Instant::now() > end;
            if late || view.phase.is_final() {
                self.tell(task).await;
                panic!("{what}: {:?}, {:?}", view.phase, view.failure);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for the phase, through those before it.
    pub(crate) async fn reach(&self, task: TaskId, phase: Phase) -> TaskView {
        let what = format!("task {task} does not reach {phase:?}");
        self.until(task, &what, |view| view.phase == phase).await
    }

    /// Waits for a request that nobody has answered.
    pub(crate) async fn asked(&self, task: TaskId) -> OpenRequest {
        let open = |view: &TaskView| {
            view.requests
                .iter()
                .find(|r| r.answered_by.is_none())
                .cloned()
        };
        let view = self
            .until(task, "the worker asks", |view| open(view).is_some())
            .await;
        open(&view).unwrap()
    }

    pub(crate) async fn answer(&self, task: TaskId, request: &OpenRequest, answer: Answer) {
        let answer = AnswerRequest {
            task,
            request: request.request.id.clone(),
            answer,
        };
        self.handle.answer(&operator(), answer).await.unwrap();
    }

    pub(crate) async fn events(&self, task: TaskId) -> Vec<Event> {
        let query = HistoryQuery {
            task,
            offset: 0,
            limit: None,
        };
        let page = self.handle.history(&operator(), query).await.unwrap();
        page.events.into_iter().map(|e| e.event).collect()
    }

    /// The events of a task once what its attempt owned is gone.
    pub(crate) async fn removed(&self, task: TaskId) -> Vec<Event> {
        let end = Instant::now() + 2 * PATIENCE;
        loop {
            let events = self.events(task).await;
            let gone = |e: &Event| matches!(e, Event::AttemptRemoved { .. });
            if events.iter().any(gone) {
                return events;
            }
            assert!(Instant::now() < end, "what {task} owned is not removed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The OpenCode that runs now.
    pub(crate) fn worker(&self) -> Worker {
        Worker::recorded(&self.live.settings.data_dir.join("local")).unwrap()
    }

    /// Bodies of the requests with tools that the model got and that contain `part`.
    pub(crate) fn model_requests(&self, part: &str) -> Vec<Value> {
        let requests = self.live.model.as_ref().unwrap().requests();
        requests
            .into_iter()
            .filter(|one| one.scenario == "inline" && one.body.to_string().contains(part))
            .map(|one| one.body)
            .collect()
    }

    /// Prints what happened to a task, for a person who reads a failed test.
    async fn tell(&self, task: TaskId) {
        for event in self.events(task).await {
            eprintln!("{event:?}");
        }
    }

    /// Every test ends with it: a tree that still lives starts the worker anew that [`Live`] ends when it is dropped.
    pub(crate) async fn stop(self) {
        self.tree.stop(StopHow::EndWorkers).await;
    }
}

/// Who gives the commands.
pub(crate) fn operator() -> Identity {
    Identity::inside("live test")
}

/// A file of the task's workdir; none while it is not there.
pub(crate) fn file_of(view: &TaskView, name: &str) -> Option<String> {
    let directory = PathBuf::from(view.directory.as_deref().unwrap());
    std::fs::read_to_string(directory.join(name)).ok()
}

/// A script between its tags; one within it (of a sub-agent) is closed by a tag that does not close it.
fn in_tags(script: &Value) -> String {
    let text = script.to_string().replace("</script>", "<\\/script>");
    format!("<script>{text}</script>")
}

/// A turn that starts a sub-agent whose model does these turns.
pub(crate) fn sub_agent(turns: Value) -> Value {
    let prompt = format!("A part of it. {}", in_tags(&json!({"turns": turns})));
    json!({"tools": [{"name": "task", "args":
        {"description": "a part", "prompt": prompt, "subagent_type": "general"}}]})
}
