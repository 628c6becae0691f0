//! The folded state as readers see it.

use super::state::TaskState;
use crate::event::{Failure, FailureKind, Phase};
use crate::view::{OpenRequest, TaskView};

impl TaskState {
    /// What readers see.
    pub fn view(&self) -> TaskView {
        TaskView {
            id: self.id,
            phase: self.phase,
            phase_since: self.phase_since,
            spec: self.spec.clone(),
            caller: self.caller.clone(),
            idempotency_key: self.idempotency_key.clone(),
            created_at: self.created_at,
            started_at: self.started_at,
            ended_at: self.ended_at,
            attempt: self.attempt,
            running_ms: self.running_ms,
            running_since: self.running_since,
            doing: self.doing.clone(),
            steps: self.steps,
            usage: self.usage,
            todos: self.todos.clone(),
            files_touched: self.files_touched.clone(),
            requests: self.open_requests(),
            pause: self.pause,
            directory: self.directory.clone(),
            session: self.session.as_ref().map(|session| session.id.clone()),
            messages_waiting: self.messages_waiting(),
            result: self.result.clone(),
            failure: self.failure.clone(),
            files_cleared: self.files_cleared,
            last_event: self.last_event,
            events_total: self.events_total,
        }
    }

    fn open_requests(&self) -> Vec<OpenRequest> {
        self.requests
            .values()
            .map(|request| request.open.clone())
            .collect()
    }

    /// The failure that a task gets whose record or actor cannot be used.
    pub fn quarantine(reason: &str) -> Failure {
        Failure {
            kind: FailureKind::Internal,
            message: format!(
                "Chargehand gave up on this task: {reason}. Other tasks are not affected; submit it again"
            ),
        }
    }

    /// Whether a live actor is needed for it.
    pub const fn needs_actor(&self) -> bool {
        !self.phase.is_final()
    }

    /// Whether the reaper still has to remove what its attempt owns.
    pub fn needs_removal(&self) -> bool {
        self.phase.is_final() && self.attempt > 0 && !self.removed
    }

    /// Whether it waits for a slot.
    pub fn waits(&self) -> bool {
        self.phase == Phase::Queued
    }
}
