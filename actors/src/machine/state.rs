//! What is known of a task for sure: the fold of its events and nothing else.
//!
//! In: events in order ([`TaskState::accepted`], then [`TaskState::fold`]). Out: the state that decisions are made from.

use std::collections::BTreeMap;

use super::observe::waits_for_provider;
use super::policy::Grant;
use crate::command::{Answer, Caller, MessageType, TaskSpec};
use crate::event::{
    AbortReason, CommittedEvent, Event, Failure, FailureKind, Outcome, PauseKind, Phase, Prompt,
    PromptKind, RequestKind, SessionRef, TaskResult, Todo, Usage, Watchdog,
};
use crate::id::{AttemptId, EventNumber, RequestId, TaskId, WallTime, WorkerId};
use crate::view::OpenRequest;

/// How many touched files a state remembers (the exact set is taken at the end).
const FILES_KEPT: usize = 200;

/// A prompt and how far it got.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptRecord {
    /// As recorded.
    pub prompt: Prompt,
    /// When it was recorded.
    pub wanted_at: WallTime,
    /// The engine took it; when it was last sent, if several times.
    pub accepted_at: Option<WallTime>,
    /// How often the engine took it.
    pub accepted: u32,
    /// It stands in the engine's record.
    pub seen: bool,
    /// The worker began to answer it.
    pub taken_up: bool,
    /// A later prompt says the same, or it will never be sent: no longer waited for.
    pub superseded: bool,
}

impl PromptRecord {
    /// Whether the worker still has to begin with it.
    pub const fn is_open(&self) -> bool {
        !self.taken_up && !self.superseded
    }
}

/// A message that no prompt carries yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptMessage {
    /// Its id.
    pub id: String,
    /// Kind.
    pub message_type: MessageType,
    /// Text.
    pub text: String,
}

/// An open request and its answer on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestState {
    /// As opened.
    pub open: OpenRequest,
    /// The answer wanted, and by whom.
    pub answer: Option<(Answer, String)>,
}

/// The fold of a task's events.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "each field is the fold of the events of that name"
)]
pub struct TaskState {
    pub id: TaskId,
    pub spec: TaskSpec,
    pub caller: Caller,
    pub idempotency_key: Option<String>,
    pub fingerprint: String,
    pub created_at: WallTime,
    pub phase: Phase,
    pub phase_since: WallTime,
    pub attempt: u32,
    pub started_at: Option<WallTime>,
    pub ended_at: Option<WallTime>,
    pub running_ms: u64,
    pub running_since: Option<WallTime>,
    pub directory: Option<String>,
    pub workdir_note: Option<String>,
    pub session_wanted: bool,
    pub session: Option<SessionRef>,
    pub worker: Option<WorkerId>,
    /// The worker was replaced while a run was open, and no prompt or resume was recorded since.
    pub interrupted: bool,
    pub prompts: Vec<PromptRecord>,
    pub kept: Vec<KeptMessage>,
    pub pause: Option<PauseKind>,
    /// How often it was put on hold before its start: tells a slot given before a hold from one given after it.
    pub holds: u32,
    pub requests: BTreeMap<RequestId, RequestState>,
    /// What was allowed for the rest of the task.
    pub granted: Vec<Grant>,
    /// Who watches it where it can be steered.
    pub attending: Vec<String>,
    pub abort: Option<AbortReason>,
    pub abort_detail: String,
    pub resumes: u32,
    pub resumed_at: Option<WallTime>,
    /// The newest sign of work, or the newest moment from which work was to be expected.
    pub worked_at: Option<WallTime>,
    /// The newest warning of silence.
    pub warned_at: Option<WallTime>,
    pub nudges: u32,
    pub nudged_at: Option<WallTime>,
    pub outcome: Option<Outcome>,
    pub run_text: String,
    pub run_text_cut: bool,
    /// How often the changes were asked for again.
    pub collects: u32,
    pub result: Option<TaskResult>,
    pub failure: Option<Failure>,
    pub removed: bool,
    pub files_cleared: Option<WallTime>,
    pub late: u32,
    pub steps: u32,
    pub usage: Usage,
    pub todos: Vec<Todo>,
    pub files_touched: Vec<String>,
    pub doing: String,
    pub last_event: EventNumber,
    pub events_total: u64,
}

impl TaskState {
    /// The state after `TaskAccepted`; `None` for any other event.
    pub fn accepted(id: TaskId, at: WallTime, event: &Event) -> Option<Self> {
        let Event::TaskAccepted {
            spec,
            caller,
            idempotency_key,
            fingerprint,
            ..
        } = event
        else {
            return None;
        };
        Some(Self {
            id,
            spec: (**spec).clone(),
            caller: caller.clone(),
            idempotency_key: idempotency_key.clone(),
            fingerprint: fingerprint.clone(),
            created_at: at,
            phase: Phase::Queued,
            phase_since: at,
            attempt: 0,
            started_at: None,
            ended_at: None,
            running_ms: 0,
            running_since: None,
            directory: None,
            workdir_note: None,
            session_wanted: false,
            session: None,
            worker: None,
            interrupted: false,
            prompts: Vec::new(),
            kept: Vec::new(),
            pause: None,
            requests: BTreeMap::new(),
            granted: Vec::new(),
            attending: Vec::new(),
            abort: None,
            abort_detail: String::new(),
            holds: 0,
            resumes: 0,
            resumed_at: None,
            worked_at: None,
            warned_at: None,
            nudges: 0,
            nudged_at: None,
            outcome: None,
            run_text: String::new(),
            run_text_cut: false,
            collects: 0,
            result: None,
            failure: None,
            removed: false,
            files_cleared: None,
            late: 0,
            steps: 0,
            usage: Usage::default(),
            todos: Vec::new(),
            files_touched: Vec::new(),
            doing: "waits for a free slot".to_owned(),
            last_event: EventNumber::ZERO,
            events_total: 1,
        })
    }

    /// Folds a whole record, oldest first. `None` when it does not begin with `TaskAccepted`.
    pub fn replay(id: TaskId, events: &[CommittedEvent]) -> Option<Self> {
        let (first, rest) = events.split_first()?;
        let mut state = Self::accepted(id, first.at, &first.event)?;
        state.last_event = first.number;
        for committed in rest {
            state.fold_committed(committed);
        }
        Some(state)
    }

    /// Folds an event with its number.
    pub fn fold_committed(&mut self, committed: &CommittedEvent) {
        self.fold(committed.at, &committed.event);
        self.last_event = committed.number;
    }

    /// The current attempt, for labels and ownership.
    pub const fn attempt_id(&self) -> AttemptId {
        AttemptId {
            task: self.id,
            number: self.attempt,
        }
    }

    /// Messages accepted and not yet taken up by the worker.
    pub fn messages_waiting(&self) -> u32 {
        let carried = self
            .prompts
            .iter()
            .filter(|record| record.prompt.carries.is_some() && record.is_open())
            .count();
        u32::try_from(carried + self.kept.len()).unwrap_or(u32::MAX)
    }

    /// Running time up to `now`, in milliseconds.
    pub fn running_at(&self, now: WallTime) -> u64 {
        self.running_ms + self.running_since.map_or(0, |since| now.ms_since(since))
    }

    fn enter(&mut self, at: WallTime, phase: Phase) {
        if self.phase == phase {
            return;
        }
        if let Some(since) = self.running_since.take() {
            self.running_ms += at.ms_since(since);
        }
        // The clock against the timeout runs only while the worker may work.
        if phase == Phase::Running {
            self.running_since = Some(at);
        }
        if phase.is_final() {
            self.ended_at = Some(at);
            self.pause = None;
            self.requests.clear();
            self.abort = None;
        }
        self.phase = phase;
        self.phase_since = at;
    }

    /// The phase that open requests and a pause leave the task in.
    fn settle(&mut self, at: WallTime) {
        if matches!(self.phase, Phase::Running | Phase::InputRequired) {
            let phase = if self.requests.is_empty() {
                Phase::Running
            } else {
                Phase::InputRequired
            };
            self.enter(at, phase);
        }
    }

    fn prompt_mut(&mut self, number: u32) -> Option<&mut PromptRecord> {
        self.prompts
            .iter_mut()
            .find(|record| record.prompt.number == number)
    }

    /// Folds one event. A final phase never changes again, whatever is folded.
    pub fn fold(&mut self, at: WallTime, event: &Event) {
        self.events_total += 1;
        if self.phase.is_final() {
            self.fold_after_end(at, event);
            return;
        }
        if is_work(event) {
            self.worked_at = Some(at);
        }
        match event {
            Event::AttemptStarted { attempt, .. } => {
                self.attempt = *attempt;
                self.started_at.get_or_insert(at);
                "prepares the workdir".clone_into(&mut self.doing);
                self.enter(at, Phase::Starting);
            }
            Event::WorkdirPrepared { directory, note } => {
                self.directory = Some(directory.clone());
                self.workdir_note.clone_from(note);
                "opens a session".clone_into(&mut self.doing);
            }
            Event::SessionWanted => self.session_wanted = true,
            Event::SessionOpened { session, worker } => {
                self.session = Some(session.clone());
                self.worker = Some(worker.clone());
            }
            Event::PromptWanted { prompt } => self.fold_prompt_wanted(at, prompt),
            Event::PromptAccepted { number } => {
                if let Some(record) = self.prompt_mut(*number) {
                    record.accepted_at = Some(at);
                    record.accepted += 1;
                }
                if self.phase == Phase::Starting {
                    "waits for the model".clone_into(&mut self.doing);
                    self.worked_at = Some(at);
                    self.enter(at, Phase::Running);
                }
            }
            Event::PromptSeen { number } => {
                if let Some(record) = self.prompt_mut(*number) {
                    record.seen = true;
                }
            }
            Event::PromptTakenUp { number } => {
                if let Some(record) = self.prompt_mut(*number) {
                    record.seen = true;
                    record.taken_up = true;
                }
            }
            Event::MessageReceived {
                message_id,
                message_type,
                text,
                ..
            } => {
                self.kept.push(KeptMessage {
                    id: message_id.clone(),
                    message_type: *message_type,
                    text: text.clone(),
                });
            }
            Event::MessageDropped { message_id, .. } => {
                self.kept.retain(|kept| kept.id != *message_id);
                for record in &mut self.prompts {
                    record.superseded |= record.prompt.carries.as_ref() == Some(message_id);
                }
            }
            Event::TaskPaused { pause } => {
                self.pause = Some(*pause);
                self.holds += u32::from(*pause == PauseKind::Held);
                "is paused".clone_into(&mut self.doing);
                self.enter(at, Phase::Paused);
            }
            Event::TaskResumed { pause } => self.fold_resumed(at, *pause),
            Event::RequestOpened {
                request,
                expires_at,
                default,
            } => {
                let open = OpenRequest {
                    request: request.clone(),
                    asked_at: at,
                    expires_at: *expires_at,
                    default: default.clone(),
                    answered_by: None,
                };
                self.doing = format!("waits for an answer: {}", request.text);
                self.requests
                    .insert(request.id.clone(), RequestState { open, answer: None });
                self.settle(at);
            }
            Event::AnswerWanted {
                request,
                answer,
                by,
                ..
            } => {
                if let Some(state) = self.requests.get_mut(request) {
                    state.answer = Some((answer.clone(), by.clone()));
                    state.open.answered_by = Some(by.clone());
                    if matches!(answer, Answer::Allow { always: true }) {
                        self.granted.extend(grant(&state.open.request.kind));
                    }
                }
            }
            Event::RequestClosed { request, .. } => {
                self.requests.remove(request);
                if self.requests.is_empty() && self.phase == Phase::InputRequired {
                    "works".clone_into(&mut self.doing);
                }
                self.settle(at);
            }
            Event::AttendanceChanged { people } => self.attending.clone_from(people),
            Event::AbortWanted { reason, detail } => {
                self.abort = Some(*reason);
                self.abort_detail.clone_from(detail);
            }
            Event::AbortSeen => self.abort = None,
            Event::WorkerChanged { worker } => {
                self.worker = Some(worker.clone());
                self.interrupted = true;
            }
            Event::ResumeWanted { resume, .. } => {
                self.resumes = *resume;
                self.resumed_at = Some(at);
                self.interrupted = false;
            }
            Event::RunEnded {
                outcome,
                text,
                text_cut,
                usage,
            } => {
                self.outcome = Some(outcome.clone());
                self.run_text.clone_from(text);
                self.run_text_cut = *text_cut;
                self.usage = *usage;
                self.requests.clear();
                "collects the result".clone_into(&mut self.doing);
                self.enter(at, Phase::Finishing);
            }
            Event::ChangesWanted { again } => self.collects = *again,
            Event::TaskCompleted { result, running_ms } => {
                self.result = Some((**result).clone());
                self.finish(at, Phase::Completed, "is done", *running_ms);
            }
            Event::TaskFailed {
                failure,
                result,
                running_ms,
            } => {
                self.failure = Some(failure.clone());
                self.result = result.as_deref().cloned();
                self.finish(at, Phase::Failed, "has failed", *running_ms);
            }
            Event::TaskTimedOut {
                message,
                running_ms,
            } => {
                self.failure = Some(Failure {
                    kind: FailureKind::Watchdog,
                    message: message.clone(),
                });
                self.finish(at, Phase::Timeout, "ran longer than allowed", *running_ms);
            }
            Event::TaskCancelled {
                reason,
                by,
                running_ms,
                ..
            } => {
                let why = reason
                    .as_ref()
                    .map_or_else(String::new, |r| format!(": {r}"));
                self.failure = Some(Failure {
                    kind: FailureKind::Aborted,
                    message: format!("cancelled by {by}{why}"),
                });
                self.finish(at, Phase::Cancelled, "was cancelled", *running_ms);
            }
            Event::StepFinished { steps, usage } => {
                self.steps = *steps;
                self.usage = *usage;
            }
            Event::FilesTouched { files } => self.fold_files(files),
            Event::TodosChanged { todos } => self.todos.clone_from(todos),
            Event::ProviderRetry { attempt, message } => {
                self.doing = waits_for_provider(*attempt, message);
            }
            Event::ActivityChanged { doing } => self.doing.clone_from(doing),
            Event::WatchdogWarned { watchdog, .. } => {
                if *watchdog == Watchdog::Silence {
                    self.warned_at = Some(at);
                }
            }
            Event::AttemptRemoved { .. } => self.removed = true,
            Event::LateArrival { .. } => self.late += 1,
            Event::TaskAccepted { .. }
            | Event::MessageTakenUp { .. }
            | Event::ControlReceived { .. }
            | Event::AttemptRemovalDelayed { .. }
            | Event::ToolsFinished { .. }
            | Event::FilesCleared
            | Event::Remark { .. }
            | Event::EngineReconciled { .. } => {}
        }
    }

    fn fold_after_end(&mut self, at: WallTime, event: &Event) {
        match event {
            Event::AttemptRemoved { .. } => self.removed = true,
            Event::FilesCleared => self.files_cleared = Some(at),
            Event::LateArrival { .. } => self.late += 1,
            _ => {}
        }
    }

    fn fold_prompt_wanted(&mut self, at: WallTime, prompt: &Prompt) {
        if let Some(carried) = &prompt.carries {
            self.kept.retain(|kept| kept.id != *carried);
        }
        if matches!(prompt.kind, PromptKind::First | PromptKind::Resume) {
            for record in &mut self.prompts {
                // What stands in the session is read with the new prompt; what does not is said again by it.
                record.superseded |= !record.taken_up && !record.seen;
            }
        }
        if prompt.kind == PromptKind::Nudge {
            self.nudges += 1;
            self.nudged_at = Some(at);
            "was silent and is asked to go on".clone_into(&mut self.doing);
        }
        self.interrupted = false;
        self.prompts.push(PromptRecord {
            prompt: prompt.clone(),
            wanted_at: at,
            accepted_at: None,
            accepted: 0,
            seen: false,
            taken_up: false,
            superseded: false,
        });
    }

    fn fold_resumed(&mut self, at: WallTime, pause: PauseKind) {
        self.pause = None;
        match pause {
            PauseKind::Held => {
                "waits for a free slot".clone_into(&mut self.doing);
                self.enter(at, Phase::Queued);
            }
            PauseKind::Frozen | PauseKind::Aborted => {
                "goes on".clone_into(&mut self.doing);
                self.enter(at, Phase::Running);
                self.settle(at);
            }
        }
    }

    fn fold_files(&mut self, files: &[String]) {
        for file in files {
            if self.files_touched.len() >= FILES_KEPT {
                break;
            }
            if !self.files_touched.contains(file) {
                self.files_touched.push(file.clone());
            }
        }
    }

    fn finish(&mut self, at: WallTime, phase: Phase, doing: &str, running_ms: u64) {
        doing.clone_into(&mut self.doing);
        self.enter(at, phase);
        self.running_ms = running_ms;
    }

    /// Whether somebody may answer what the worker asks: the call asked for it, or somebody who may steer watches.
    pub fn attended(&self) -> bool {
        self.spec.attended || !self.attending.is_empty()
    }

    /// Whether a pause was asked for and not yet reached.
    pub fn pausing(&self) -> bool {
        self.abort == Some(AbortReason::Pause)
    }
}

/// Whether the event is a sign of work, or the moment from which work is to be expected again.
const fn is_work(event: &Event) -> bool {
    matches!(
        event,
        Event::ToolsFinished { .. }
            | Event::StepFinished { .. }
            | Event::FilesTouched { .. }
            | Event::TodosChanged { .. }
            | Event::ActivityChanged { .. }
            | Event::ProviderRetry { .. }
            | Event::RequestOpened { .. }
            | Event::RequestClosed { .. }
            | Event::TaskResumed { .. }
            | Event::ResumeWanted { .. }
    )
}

/// What an "always" to this request covers from now on.
fn grant(kind: &RequestKind) -> Option<Grant> {
    match kind {
        RequestKind::Permission {
            permission,
            patterns,
            always,
        } => Some(Grant {
            permission: permission.clone(),
            patterns: if always.is_empty() { patterns } else { always }.clone(),
        }),
        RequestKind::Question { .. } => None,
    }
}
