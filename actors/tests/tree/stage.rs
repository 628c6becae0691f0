//! A tree on a world, and what tests ask of it: short words for long calls.

use std::time::Duration;

use chargehand_actors::command::{
    Answer, AnswerRequest, Control, ControlSignal, MessageType, SendMessage, StatusQuery, Submit,
    WaitFor,
};
use chargehand_actors::error::TreeError;
use chargehand_actors::event::Phase;
use chargehand_actors::fakes::World;
use chargehand_actors::id::{RequestId, TaskId};
use chargehand_actors::ports::StopHow;
use chargehand_actors::tree::{Tree, TreeHandle};
use chargehand_actors::view::{ControlOutcome, MessageReceipt, TaskStatus, TaskView};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// A world with a tree on it.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) tree: Tree,
    pub(crate) handle: TreeHandle,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::of(World::new(1)).await
    }

    pub(crate) async fn of(world: World) -> Self {
        let tree = world.start().await.unwrap();
        let handle = tree.handle();
        let stage = Self {
            world,
            tree,
            handle,
        };
        sleep(50).await;
        stage
    }

    pub(crate) async fn submit(&self, script: &str) -> TaskId {
        self.send(World::task(script)).await
    }

    pub(crate) async fn send(&self, submit: Submit) -> TaskId {
        self.handle.submit(submit).await.unwrap().task
    }

    pub(crate) async fn view(&self, task: TaskId) -> TaskView {
        World::view(&self.handle, task).await.unwrap()
    }

    pub(crate) async fn phase(&self, task: TaskId) -> Phase {
        self.view(task).await.phase
    }

    /// The task gets to `phase`; anything final instead is a failure with the trace.
    pub(crate) async fn reach(&self, task: TaskId, phase: Phase) -> TaskView {
        let view = World::reach(&self.handle, task, phase, HOUR).await.unwrap();
        assert_eq!(
            view.phase,
            phase,
            "{:?}\n{}",
            view.failure,
            self.world.trouble.trace.tail(80)
        );
        view
    }

    /// The worker begins with the task.
    pub(crate) async fn works(&self, task: TaskId) {
        self.reach(task, Phase::Running).await;
        for _ in 0..10_000 {
            if self.world.count(task, "prompt_taken_up") > 0 {
                return;
            }
            sleep(5).await;
        }
        panic!("never taken up\n{}", self.world.trouble.trace.tail(80));
    }

    pub(crate) async fn control(
        &self,
        task: TaskId,
        signal: ControlSignal,
    ) -> Result<ControlOutcome, TreeError> {
        let control = Control {
            task,
            signal,
            reason: None,
        };
        self.handle.control(&World::operator(), control).await
    }

    pub(crate) async fn cancel(&self, task: TaskId) {
        let outcome = self.control(task, ControlSignal::Cancel).await.unwrap();
        assert_eq!(outcome.phase, Phase::Cancelled);
    }

    pub(crate) async fn message(
        &self,
        task: TaskId,
        text: &str,
    ) -> Result<MessageReceipt, TreeError> {
        let message = SendMessage {
            task,
            message_type: MessageType::Guidance,
            text: text.to_owned(),
            metadata: Default::default(),
        };
        self.handle.message(&World::operator(), message).await
    }

    pub(crate) async fn answer(
        &self,
        task: TaskId,
        request: &RequestId,
        answer: Answer,
    ) -> Result<(), TreeError> {
        let answer = AnswerRequest {
            task,
            request: request.clone(),
            answer,
        };
        self.handle.answer(&World::operator(), answer).await
    }

    pub(crate) async fn wait(&self, task: TaskId, wait_for: WaitFor, wait_ms: u64) -> TaskStatus {
        let query = StatusQuery {
            task,
            since: None,
            events_limit: 5,
            wait_for,
            wait_ms,
        };
        self.handle.status(&World::operator(), query).await.unwrap()
    }

    /// Slots in use and tasks waiting.
    pub(crate) async fn load(&self) -> (u32, u32) {
        let health = self.handle.health().await.unwrap();
        (health.active, health.queued)
    }

    /// Everything is at rest: no slot in use, nothing owned in the engines.
    pub(crate) async fn is_clean(&self) {
        for _ in 0..200 {
            let owned = self.world.engine.truths().len() + self.world.freezer.truths().len();
            if owned == 0 && self.load().await == (0, 0) {
                return;
            }
            sleep(1_000).await;
        }
        panic!(
            "not clean: {:?}, {:?}\n{}",
            self.load().await,
            self.world.engine.truths(),
            self.world.trouble.trace.tail(80)
        );
    }

    /// Crashes the tree; the world stays.
    pub(crate) async fn crash(self) -> World {
        self.tree.crash().await;
        self.world
    }

    pub(crate) async fn restart(self) -> Self {
        Self::of(self.crash().await).await
    }

    pub(crate) async fn stop(self, how: StopHow) -> World {
        let left = self.world.stop(self.tree, how).await;
        assert_eq!(left, Vec::<String>::new(), "the board must end empty");
        self.world
    }

    /// Everything is at rest, and so is the board after the stop.
    pub(crate) async fn end(self) -> World {
        self.is_clean().await;
        self.stop(StopHow::EndWorkers).await
    }
}
