//! The clients of a simulated history: random calls, each checked against what is durable when its answer comes.
//!
//! In: a handle of a tree that may die at any moment. Out: what clients were told ([`Told`]), and the same to the observer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chargehand_actors::command::{
    Answer, AnswerRequest, Control, ControlSignal, HistoryQuery, Identity, ListQuery, MessageType,
    Origin, SendMessage, StatusQuery, Submit, WaitFor,
};
use chargehand_actors::error::TreeError;
use chargehand_actors::event::Phase;
use chargehand_actors::fakes::{FakeRooms, Random, World};
use chargehand_actors::id::TaskId;
use chargehand_actors::tree::TreeHandle;
use chargehand_actors::view::{ControlOutcome, Submitted};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::arrange::{self, AGENTS};
use crate::observer::Observer;

/// No call may take longer; the tenth of a second is the scheduler's.
const LONGEST_CALL: Duration = Duration::from_millis(45_100);

/// What clients were told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) submits: Vec<(Submit, Submitted)>,
    pub(crate) controls: Vec<(TaskId, ControlSignal, ControlOutcome)>,
    /// Phases read, in the order of reading.
    pub(crate) phases: Vec<(TaskId, Phase)>,
    /// Calls that took longer than any call may, and answers that nobody may get.
    pub(crate) bad: Vec<String>,
}

pub(crate) type Ledger = Arc<Mutex<Told>>;

/// A client of a tree. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) handle: TreeHandle,
    pub(crate) observer: Observer,
    pub(crate) told: Ledger,
    /// Where people come and go.
    pub(crate) rooms: FakeRooms,
}

impl Client {
    /// Calls something; the call goes on by itself.
    pub(crate) fn act(&self, random: &mut Random, task: Option<TaskId>, calls: &mut JoinSet<()>) {
        let client = self.clone();
        let Some(task) = task.filter(|_| random.chance(700)) else {
            let submits = self.told.lock().unwrap();
            let submits: Vec<Submit> = submits.submits.iter().map(|(s, _)| s.clone()).collect();
            let submit = arrange::submit(random, &submits);
            self.begin("submit", calls, async move { client.submit(submit).await });
            return;
        };
        match random.below(73) {
            0..30 => {
                let signal = match random.below(10) {
                    0 | 1 => ControlSignal::Cancel,
                    2..=5 => ControlSignal::Pause,
                    _ => ControlSignal::Resume,
                };
                self.begin("control", calls, async move {
                    client.control(task, signal).await;
                });
            }
            30..40 => {
                let text = if random.chance(500) {
                    format!("script: work {}", random.between(10, 500))
                } else {
                    "go on".to_owned()
                };
                self.begin("message", calls, async move {
                    client.message(task, text).await;
                });
            }
            40..50 => self.begin("answer", calls, async move { client.answer(task).await }),
            50..62 => {
                let wait_ms = random.below(60_000);
                let who = identity(random);
                self.begin("wait", calls, async move {
                    client.wait(who, task, wait_ms).await;
                });
            }
            62..67 => {
                let offset = random.below(30);
                self.begin("history", calls, async move {
                    client.history(task, offset).await;
                });
            }
            67..70 => {
                let power = random.chance(700).then_some(50);
                self.rooms.moves(task, "@anna:fake", power);
            }
            _ => self.begin("list", calls, async move { client.list().await }),
        }
    }

    /// A call: noted when it takes longer than any call may.
    fn begin(
        &self,
        name: &'static str,
        calls: &mut JoinSet<()>,
        call: impl Future<Output = ()> + Send + 'static,
    ) {
        let told = Arc::clone(&self.told);
        calls.spawn(async move {
            let begun = Instant::now();
            call.await;
            let took = begun.elapsed();
            if took > LONGEST_CALL {
                let note = format!("(8) {name} took {took:?}");
                told.lock().unwrap().bad.push(note);
            }
        });
    }

    async fn submit(&self, submit: Submit) {
        if let Ok(submitted) = self.handle.submit(submit.clone()).await {
            self.observer.accepted(submitted.task);
            self.told.lock().unwrap().submits.push((submit, submitted));
        }
    }

    async fn control(&self, task: TaskId, signal: ControlSignal) {
        let control = Control {
            task,
            signal,
            reason: None,
        };
        if let Ok(outcome) = self.handle.control(&World::operator(), control).await {
            self.observer.controlled(task, signal, &outcome);
            let mut told = self.told.lock().unwrap();
            told.controls.push((task, signal, outcome));
        }
    }

    async fn message(&self, task: TaskId, text: String) {
        let message = SendMessage {
            task,
            message_type: MessageType::Update,
            text,
            metadata: Default::default(),
        };
        let _ = self.handle.message(&World::operator(), message).await;
    }

    async fn answer(&self, task: TaskId) {
        let floor = self.observer.floor(task);
        let Ok(view) = World::view(&self.handle, task).await else {
            return;
        };
        self.observer.shown(&view, floor);
        let Some(open) = view.requests.first() else {
            return;
        };
        let choices = vec![vec!["A".to_owned()]];
        for answer in [Answer::Allow { always: false }, Answer::Choices { choices }] {
            let answer = AnswerRequest {
                task,
                request: open.request.id.clone(),
                answer,
            };
            let answered = self.handle.answer(&World::operator(), answer).await;
            if answered.is_ok() {
                return;
            }
        }
    }

    async fn wait(&self, who: Identity, task: TaskId, wait_ms: u64) {
        let floor = self.observer.floor(task);
        let query = StatusQuery {
            task,
            since: None,
            events_limit: 3,
            wait_for: WaitFor::PhaseChange,
            wait_ms,
        };
        match self.handle.status(&who, query).await {
            Ok(status) => {
                self.observer.shown(&status.view, floor);
                let mut told = self.told.lock().unwrap();
                told.phases.push((task, status.view.phase));
                if !who.may_see(&status.view.caller) {
                    let note = format!("{who:?} was shown {task} of {:?}", status.view.caller);
                    told.bad.push(note);
                }
            }
            Err(TreeError::TaskNotFound(_)) => self.observer.not_found(&who, task),
            Err(_) => {}
        }
    }

    async fn history(&self, task: TaskId, offset: u64) {
        let query = HistoryQuery {
            task,
            offset,
            limit: Some(20),
        };
        if let Ok(page) = self.handle.history(&World::operator(), query).await {
            self.observer.read(task, &page);
        }
    }

    async fn list(&self) {
        let query = ListQuery {
            limit: 100,
            ..ListQuery::default()
        };
        if let Ok(page) = self.handle.list(&World::operator(), query).await {
            for view in &page.tasks {
                self.observer.listed(view);
            }
        }
    }
}

/// An operator, or one of the agents.
fn identity(random: &mut Random) -> Identity {
    if random.chance(600) {
        return World::operator();
    }
    Identity::Caller {
        token: "local".to_owned(),
        agent_id: Some((*random.pick(&AGENTS)).to_owned()),
        from: Origin::default(),
    }
}
