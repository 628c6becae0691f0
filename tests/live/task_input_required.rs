//! A task whose worker waits for an answer: cancelled there, and answered. The tree itself on the real engine `local`, because
//! no tool can attend a task yet.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand::adapters::opencode::LocalEngine;
use chargehand::adapters::outward::{NoMemory, NoNotices, NoRooms};
use chargehand::adapters::system::{SystemClock, SystemIds};
use chargehand::adapters::workdir::{LocalOutput, LocalWorkdirs, WorkdirLimits, WorkdirSettings};
use chargehand_actors::command::{
    Answer, AnswerRequest, Caller, Control, ControlSignal, HistoryQuery, Identity, Priority,
    Source, StatusQuery, Submit, TaskSpec, WaitFor,
};
use chargehand_actors::event::{Event, Phase};
use chargehand_actors::id::{EngineName, TaskId};
use chargehand_actors::ports::{Engine, StopHow};
use chargehand_actors::tree::{self, Ports, Tree, TreeHandle, TreeSettings};
use chargehand_actors::view::TaskView;
use serde_json::json;

use crate::harness::{Live, PATIENCE, bash};

async fn start(live: &Live, engine: Arc<LocalEngine>) -> Tree {
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
            limits: WorkdirLimits::default(),
        })),
        engines: vec![engine],
        memory: Arc::new(NoMemory),
        rooms: Arc::new(NoRooms),
        notices: Arc::new(NoNotices),
    };
    let settings = TreeSettings {
        instance: live.settings.instance.clone(),
        ..TreeSettings::default()
    };
    tree::start(settings, ports).await.unwrap()
}

fn operator() -> Identity {
    Identity::Operator {
        name: "live test".to_owned(),
    }
}

/// An attended task whose only tool call needs a permission.
async fn submit(tree: &TreeHandle) -> TaskId {
    let script = json!({"turns": [bash("echo done > effect.txt"), {"text": "finished"}]});
    let spec = TaskSpec {
        description: format!("Do this. <script>{script}</script>"),
        engine: EngineName::new("local"),
        model: None,
        agent: None,
        source: Source::Empty,
        timeout_ms: 60_000,
        priority: Priority::Normal,
        labels: Vec::new(),
        observers: Vec::new(),
        attended: true,
    };
    let caller = Caller {
        token: "local".to_owned(),
        agent_id: "live".to_owned(),
    };
    let submit = Submit {
        caller,
        spec,
        idempotency_key: None,
    };
    tree.submit(submit).await.unwrap().task
}

/// Waits for the phase, through those before it.
async fn reach(tree: &TreeHandle, task: TaskId, phase: Phase) -> TaskView {
    let end = Instant::now() + 2 * PATIENCE;
    loop {
        assert!(Instant::now() < end, "task {task} does not reach {phase:?}");
        let query = StatusQuery {
            task,
            since: None,
            events_limit: 0,
            wait_for: WaitFor::PhaseChange,
            wait_ms: 500,
        };
        let view = tree.status(&operator(), query).await.unwrap().view;
        if view.phase == phase {
            return view;
        }
        assert!(
            !view.phase.is_final(),
            "{:?}: {:?}",
            view.phase,
            view.failure
        );
    }
}

/// The events of a task once what its attempt owned is gone.
async fn removed(tree: &TreeHandle, task: TaskId) -> Vec<Event> {
    let end = Instant::now() + 2 * PATIENCE;
    loop {
        assert!(
            Instant::now() < end,
            "what task {task} owned is not removed"
        );
        let query = HistoryQuery {
            task,
            offset: 0,
            limit: None,
        };
        let page = tree.history(&operator(), query).await.unwrap();
        let events: Vec<Event> = page.events.into_iter().map(|e| e.event).collect();
        if events
            .iter()
            .any(|e| matches!(e, Event::AttemptRemoved { .. }))
        {
            return events;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_for_an_answer_is_cancelled_or_answered() {
    let Some(live) = Live::new(json!({"permission": {"bash": "ask"}})).await else {
        return;
    };
    let engine = Arc::new(LocalEngine::new(live.settings.clone()));
    let running = start(&live, Arc::clone(&engine)).await;
    let tree = running.handle();

    let cancelled = submit(&tree).await;
    let waiting = reach(&tree, cancelled, Phase::InputRequired).await;
    assert_eq!(waiting.requests.len(), 1);
    let control = Control {
        task: cancelled,
        signal: ControlSignal::Cancel,
        reason: None,
    };
    let outcome = tree.control(&operator(), control).await.unwrap();
    assert_eq!(outcome.phase, Phase::Cancelled);
    let events = removed(&tree, cancelled).await;
    assert_eq!(events.iter().filter(|e| e.is_final()).count(), 1);
    assert!(
        engine.owned().await.unwrap().is_empty(),
        "its session is gone"
    );
    let effect = Path::new(waiting.directory.as_deref().unwrap()).join("effect.txt");
    assert!(!effect.exists(), "what was never allowed was not done");

    let answered = submit(&tree).await;
    let waiting = reach(&tree, answered, Phase::InputRequired).await;
    let answer = AnswerRequest {
        task: answered,
        request: waiting.requests[0].request.id.clone(),
        answer: Answer::Allow { always: false },
    };
    tree.answer(&operator(), answer).await.unwrap();
    let done = reach(&tree, answered, Phase::Completed).await;
    let effect = Path::new(done.directory.as_deref().unwrap()).join("effect.txt");
    assert_eq!(std::fs::read_to_string(effect).unwrap(), "done\n");
    removed(&tree, answered).await;
    running.stop(StopHow::EndWorkers).await;
}
