//! The observer's judgement of single port calls: what must be durable, reconciled and still wanted before each.
//!
//! In: a call as the tree asks for it. Out: sentences about what was wrong with it, among those of the observer.

use chargehand_actors::event::{PauseKind, Phase, Prompt};
use chargehand_actors::id::{AttemptId, EngineName, TaskId};
use chargehand_actors::ports::{OpenSession, Post};
use chargehand_actors::view::TaskView;

use super::Seen;

impl Seen {
    /// The task of an attempt; a call for it needs one of these phases to be durable.
    pub(super) fn attempt(&mut self, what: &str, attempt: AttemptId, phases: &[Phase]) {
        let number = self
            .tasks
            .get(&attempt.task)
            .map(|known| known.state.attempt);
        if number != Some(attempt.number) {
            self.is_wrong(format!("(4) {what} for {attempt}, durable is {number:?}"));
            return;
        }
        self.in_phases(what, attempt.task, phases);
    }

    pub(super) fn in_phases(&mut self, what: &str, task: TaskId, phases: &[Phase]) {
        let phase = self.tasks[&task].state.phase;
        if !phases.contains(&phase) {
            self.is_wrong(format!("(1) {what} of {task}, which is {phase:?}"));
        }
    }

    /// The task that owns a session, which must be durable.
    pub(super) fn session(
        &mut self,
        what: &str,
        engine: &EngineName,
        session: &str,
    ) -> Option<TaskId> {
        let key = (engine.clone(), session.to_owned());
        let task = self.sessions.get(&key).copied();
        let Some(task) = task else {
            self.is_wrong(format!(
                "(4) {what} in {session}, which no task is known to own"
            ));
            return None;
        };
        if !self.reconciled.contains(engine) {
            self.is_wrong(format!(
                "(5) {what} of {task} before {engine} is reconciled"
            ));
        }
        Some(task)
    }

    pub(super) fn open(&mut self, engine: &EngineName, open: &OpenSession) {
        self.attempt("open", open.attempt, &[Phase::Starting]);
        if !self.reconciled.contains(engine) {
            self.is_wrong(format!(
                "(5) {} is opened before {engine} is reconciled",
                open.attempt
            ));
        }
        let state = &self.tasks[&open.attempt.task].state;
        let right = state.session_wanted
            && state.directory.as_ref() == Some(&open.directory)
            && state.spec.engine == *engine;
        if !right {
            self.is_wrong(format!(
                "(1) {} is opened and that is not durable",
                open.attempt
            ));
        }
    }

    pub(super) fn prompt(&mut self, engine: &EngineName, session: &str, prompt: &Prompt) {
        let Some(task) = self.session("prompt", engine, session) else {
            return;
        };
        let state = &self.tasks[&task].state;
        let may_run = match state.phase {
            Phase::Starting | Phase::Running | Phase::InputRequired => true,
            // Sent just before it was frozen; it is read when that is over.
            Phase::Paused => state.pause == Some(PauseKind::Frozen),
            // Finished work is never run again: nothing is sent once the end of the run is durable.
            _ => false,
        };
        if !may_run {
            let text = format!("(5) a prompt of {task}, which is {:?}", state.phase);
            self.is_wrong(text);
        }
        let state = &self.tasks[&task].state;
        let wanted = state.prompts.iter().find(|r| r.prompt == *prompt);
        if wanted.is_none() {
            let id = &prompt.message_id;
            let text = format!("(1) {task}: prompt {id} is sent and not durable");
            self.is_wrong(text);
        }
    }

    pub(super) fn abort(&mut self, engine: &EngineName, session: &str) {
        let Some(task) = self.session("abort", engine, session) else {
            return;
        };
        let state = &self.tasks[&task].state;
        let wanted =
            state.abort.is_some() || state.phase == Phase::Paused || state.phase.is_final();
        if !wanted {
            let phase = state.phase;
            self.is_wrong(format!(
                "(1) {task} is aborted in {phase:?} and that is not durable"
            ));
        }
    }

    pub(super) fn remove(&mut self, engine: &EngineName, attempt: AttemptId) {
        if !self.reconciled.contains(engine) {
            self.is_wrong(format!(
                "(5) {attempt} is removed before {engine} is reconciled"
            ));
        }
        let owns = self.tasks.get(&attempt.task).is_some_and(|known| {
            let state = &known.state;
            !state.phase.is_final()
                && state.attempt == attempt.number
                && state.spec.engine == *engine
        });
        if owns {
            self.is_wrong(format!("(4) {attempt} is removed and its task lives"));
        }
    }

    pub(super) fn remove_workdir(&mut self, task: TaskId) {
        if !self.is_over(task, self.settings.keep_files.min(self.settings.keep_tasks)) {
            self.is_wrong(format!("(4) the workdir of {task} is removed too early"));
        }
    }

    // ---- what is shown ----

    /// A view must be the fold of the record up to its newest event.
    pub(super) fn view(&mut self, what: &str, view: &TaskView) {
        let Some(known) = self.tasks.get(&view.id) else {
            self.is_wrong(format!(
                "(1) {what}: {} is shown before it is durable",
                view.id
            ));
            return;
        };
        if view.last_event > known.state.last_event {
            let text = format!(
                "(1) {what}: {} is shown as of event {}, which is not durable",
                view.id, view.last_event
            );
            self.is_wrong(text);
            return;
        }
        let then = known
            .phases
            .iter()
            .rev()
            .find(|(at, _)| *at <= view.last_event);
        let phase = then.map(|(_, phase)| *phase);
        if phase != Some(view.phase) {
            let text = format!(
                "(3) {what}: {} is shown as {:?} and its record says {phase:?}",
                view.id, view.phase
            );
            self.is_wrong(text);
            return;
        }
        if view.last_event < known.state.last_event || known.quarantined {
            return;
        }
        let folded = known.state.view();
        // The row of a task is written by its actor, which does not see what others append after its end.
        let same = TaskView {
            events_total: view.events_total,
            ..folded
        };
        if same != *view {
            let text = format!("(3) {what}: {view:?} is shown and its record says {same:?}");
            self.is_wrong(text);
        }
    }

    pub(super) fn posted(&mut self, post: &Post) {
        let told = post.about.get("event").and_then(serde_json::Value::as_u64);
        let Some(at) = told.and_then(|number| usize::try_from(number).ok()) else {
            return;
        };
        let task = post.about.get("task_id").and_then(|task| task.as_str());
        let durable = self.durable.get(at - 1).and_then(|event| event.task);
        if durable.map(|task| task.to_string()).as_deref() != task {
            self.is_wrong(format!(
                "(1) a room is told of event {at}, which is not durable: {post:?}"
            ));
        }
    }
}
