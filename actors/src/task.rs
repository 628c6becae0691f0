//! A task actor: one live task. Owns its attempt; runs the machine's effects as jobs.
//!
//! In: commands with a reply, job results, signals of its engine, alarms, acknowledgements of the journal.
//! Out: batches to the journal; effects only once their batch is durable. The actor decides nothing itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::board::{ActorKind, Slot};
use crate::command::{AnswerRequest, Attendance, Author, Control, SendMessage};
use crate::crash::{Around, CrashPoint};
use crate::engines::EnginesMsg;
use crate::error::TreeError;
use crate::event::{Event, Phase, Prompt, SessionRef};
use crate::handle::{Handle, Inbox};
use crate::id::{BatchId, EventNumber, JobId, RequestId, WallTime};
use crate::jobs::{JobEnd, Jobs};
use crate::journal::{JournalMsg, NewBatch};
use crate::machine::{Context, Effect, Input, Limits, Machine, Refusal, Reply, TaskState, Ticket};
use crate::ports::{
    Engine, EngineError, OpenSession, PauseAbility, SendPrompt, Signal, WorkdirError,
};
use crate::reaper::{ReaperMsg, Removal};
use crate::view::{ControlOutcome, MessageReceipt};
use crate::wiring::Wires;

const PREPARE_DEADLINE: Duration = Duration::from_secs(600);
const OPEN_DEADLINE: Duration = Duration::from_secs(60);
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Ending a run in a cold directory is watched until no run can begin any more.
const ABORT_DEADLINE: Duration = Duration::from_secs(70);
const COLLECT_DEADLINE: Duration = Duration::from_secs(120);
const OUTPUT_DEADLINE: Duration = Duration::from_secs(5);
/// Output not yet written is cut beyond this, so that a stuck disk cannot fill the memory.
const OUTPUT_BUFFER: usize = 1 << 20;

/// A command with who waits for it.
pub(crate) enum TaskCommand {
    Message(
        SendMessage,
        Author,
        oneshot::Sender<Result<MessageReceipt, TreeError>>,
    ),
    Control(
        Control,
        Author,
        oneshot::Sender<Result<ControlOutcome, TreeError>>,
    ),
    Answer(
        AnswerRequest,
        Author,
        oneshot::Sender<Result<(), TreeError>>,
    ),
    Attendance(Attendance, oneshot::Sender<Result<(), TreeError>>),
}

pub(crate) enum TaskMsg {
    Command(TaskCommand),
    /// A job ended with this input for the machine.
    Job(JobId, Box<Input>),
    /// Something else happened.
    Input(Box<Input>),
    /// A signal of the task's session.
    Signal {
        child: bool,
        signal: Signal,
    },
    /// The oldest batch on its way is durable.
    Committed(EventNumber),
    Alarm,
    OutputWritten,
}

pub(crate) struct Task;

pub(crate) struct TaskArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) handle: Handle<TaskMsg>,
    pub(crate) state: Box<TaskState>,
    /// Instead of recovering: this task is given up on.
    pub(crate) give_up: Option<String>,
}

enum Waiting {
    Message(oneshot::Sender<Result<MessageReceipt, TreeError>>),
    Control(oneshot::Sender<Result<ControlOutcome, TreeError>>),
    /// An answer, or word of who watches.
    Done(oneshot::Sender<Result<(), TreeError>>),
}

pub(crate) struct TaskActorState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    handle: Handle<TaskMsg>,
    engine: Option<Arc<dyn Engine>>,
    machine: Machine,
    jobs: Jobs<TaskMsg>,
    background: Jobs<TaskMsg>,
    alarm: Option<(WallTime, JobId)>,
    /// Effects of batches on their way, oldest first.
    uncommitted: VecDeque<Vec<Effect>>,
    waiting: HashMap<Ticket, Waiting>,
    next_ticket: u64,
    output: String,
    output_busy: bool,
    done: bool,
    /// For log lines, and the attempt that it names.
    span: (Option<u32>, tracing::Span),
}

impl Actor for Task {
    type Msg = TaskMsg;
    type State = TaskActorState;
    type Arguments = TaskArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<TaskMsg>,
        args: TaskArgs,
    ) -> Result<TaskActorState, ActorProcessingErr> {
        args.handle.fill(myself);
        let label = args.state.id.to_string();
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Task,
            &label,
            args.restarts,
            &args.handle,
        );
        let engine = args.wires.engine(&args.state.spec.engine);
        let can_freeze = engine
            .as_ref()
            .is_some_and(|e| e.pause_ability() == PauseAbility::Freeze);
        let limits = limits(&args.wires, can_freeze, engine.is_some());
        let first = match args.give_up {
            Some(reason) => Input::GaveUp { reason },
            None => Input::Recovered,
        };
        args.handle.tell(TaskMsg::Input(Box::new(first)));
        Ok(TaskActorState {
            slot,
            inbox: args.handle.inbox(),
            engine,
            machine: Machine::new(*args.state, limits),
            jobs: Jobs::new(args.handle.clone()),
            background: Jobs::new(args.handle.clone()),
            alarm: None,
            uncommitted: VecDeque::new(),
            waiting: HashMap::new(),
            next_ticket: 0,
            output: String::new(),
            output_busy: false,
            done: false,
            span: (None, tracing::Span::none()),
            handle: args.handle,
            wires: args.wires,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<TaskMsg>,
        message: TaskMsg,
        state: &mut TaskActorState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        let _in_span = state.log_span().entered();
        match message {
            TaskMsg::Command(command) => state.command(command),
            TaskMsg::Job(id, input) => {
                state.slot.job_ended(id.0);
                state.decide(*input);
            }
            TaskMsg::Input(input) => state.decide(*input),
            TaskMsg::Signal { child, signal } => state.decide(Input::Signal { child, signal }),
            TaskMsg::Committed(number) => state.committed(number),
            TaskMsg::Alarm => {
                state.alarm = None;
                state.decide(Input::Tick);
            }
            TaskMsg::OutputWritten => {
                state.output_busy = false;
                state.write_output(Around::OUTPUT);
            }
        }
        if state.done && state.uncommitted.is_empty() && !state.output_busy {
            myself.stop(Some("the task is done".to_owned()));
        }
        Ok(())
    }
}

fn limits(wires: &Wires, can_freeze: bool, engine_known: bool) -> Limits {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let settings = &wires.settings;
    Limits {
        start_timeout_ms: ms(settings.start_timeout),
        hard_deadline_ms: ms(settings.hard_deadline),
        request_expiry_ms: ms(settings.request_expiry),
        max_resumes: settings.max_resumes,
        max_unfinished: settings.max_unfinished,
        silence_warn_ms: ms(settings.silence_warn),
        silence_nudge_ms: ms(settings.silence_nudge),
        silence_fail_ms: ms(settings.silence_fail),
        max_steps: settings.max_steps,
        max_provider_retries: settings.max_provider_retries,
        can_freeze,
        engine_known,
    }
}

impl TaskActorState {
    /// What every log line of this task carries, the adapters' lines in its jobs included.
    fn log_span(&mut self) -> tracing::Span {
        let state = self.machine.state();
        if self.span.0 != Some(state.attempt) {
            let span = tracing::info_span!("task", task = %state.id, attempt = state.attempt);
            self.span = (Some(state.attempt), span);
        }
        self.span.1.clone()
    }

    fn command(&mut self, command: TaskCommand) {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let input = match command {
            TaskCommand::Message(message, by, reply) => {
                self.waiting.insert(ticket, Waiting::Message(reply));
                let SendMessage {
                    message_type,
                    text,
                    metadata,
                    ..
                } = message;
                Input::Message {
                    ticket,
                    message_type,
                    text,
                    metadata,
                    by,
                }
            }
            TaskCommand::Control(control, by, reply) => {
                self.waiting.insert(ticket, Waiting::Control(reply));
                Input::Control {
                    ticket,
                    signal: control.signal,
                    reason: control.reason,
                    by,
                }
            }
            TaskCommand::Answer(answer, by, reply) => {
                self.waiting.insert(ticket, Waiting::Done(reply));
                Input::Answer {
                    ticket,
                    request: answer.request,
                    answer: answer.answer,
                    by,
                }
            }
            TaskCommand::Attendance(Attendance { people, .. }, reply) => {
                self.waiting.insert(ticket, Waiting::Done(reply));
                Input::Attendance { ticket, people }
            }
        };
        self.decide(input);
    }

    /// One decision: its events go to the journal, its effects wait for them.
    fn decide(&mut self, input: Input) {
        let ids = Arc::clone(&self.wires.ports.ids);
        let mut mint = move || ids.ascending();
        let now = self.wires.now();
        let step = self.machine.handle(
            input,
            &mut Context {
                now,
                mint: &mut mint,
            },
        );
        self.slot.set_phase(self.machine.state().phase.as_str());
        if step.events.is_empty() {
            match self.uncommitted.back_mut() {
                // They may rest on decisions that are not durable yet.
                Some(later) => later.extend(step.effects),
                None => self.run_all(step.effects),
            }
        } else {
            if step.events.iter().any(Event::is_final) {
                CrashPoint::BeforeEnd.pass();
            }
            let handle = self.handle.clone();
            self.uncommitted.push_back(step.effects);
            self.wires.journal.tell(JournalMsg::Append(NewBatch {
                id: BatchId(self.wires.ports.ids.uuid()),
                task: Some(self.machine.state().id),
                events: step.events.into_iter().map(|event| (now, event)).collect(),
                row: Some(Box::new(self.machine.state().view())),
                ack: Some(Box::new(move |number| {
                    handle.tell(TaskMsg::Committed(number))
                })),
            }));
        }
        self.set_alarm(now);
    }

    fn committed(&mut self, number: EventNumber) {
        self.slot.set_last_event(number);
        if let Some(effects) = self.uncommitted.pop_front() {
            self.run_all(effects);
        }
    }

    fn set_alarm(&mut self, now: WallTime) {
        let wanted = self.machine.next_alarm(now);
        if self.alarm.map(|(at, _)| at) == wanted {
            return;
        }
        if let Some((_, job)) = self.alarm.take() {
            self.background.drop_job(job);
        }
        if let Some(at) = wanted {
            let wait = Duration::from_millis(at.ms_since(now).max(1));
            self.alarm = Some((at, self.background.after(wait, TaskMsg::Alarm)));
        }
    }

    fn run_all(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.run(effect);
        }
    }

    fn run(&mut self, effect: Effect) {
        let around = Around::effect(&effect);
        match effect {
            Effect::PrepareWorkdir => self.prepare(around),
            Effect::OpenSession { directory } => self.open(directory, around),
            Effect::SendPrompt { session, prompt } => self.send_prompt(session, prompt, around),
            Effect::ReadSession { session, prompts } => self.engine_job(
                ("read session", around),
                CALL_DEADLINE,
                move |engine| Box::pin(async move { engine.read(session, prompts).await }),
                Input::SessionRead,
            ),
            Effect::Abort { session } => self.engine_job(
                ("abort", around),
                ABORT_DEADLINE,
                move |engine| Box::pin(async move { engine.abort(session).await }),
                Input::Aborted,
            ),
            Effect::Freeze { session, frozen } => self.engine_job(
                (if frozen { "freeze" } else { "thaw" }, around),
                CALL_DEADLINE,
                move |engine| Box::pin(async move { engine.freeze(session, frozen).await }),
                move |result| Input::Froze { frozen, result },
            ),
            Effect::GiveAnswer {
                session,
                request,
                answer,
            } => {
                let id: RequestId = request.id.clone();
                self.engine_job(
                    ("answer", around),
                    CALL_DEADLINE,
                    move |engine| {
                        Box::pin(async move { engine.answer(session, request, answer).await })
                    },
                    move |result| Input::Answered {
                        request: id,
                        result,
                    },
                );
            }
            Effect::TakeChanges => self.take_changes(around),
            Effect::AppendOutput { text } => {
                if self.output.len() < OUTPUT_BUFFER {
                    self.output.push_str(&text);
                }
                self.write_output(around);
            }
            Effect::Route { session } => self.wires.engines.tell(EnginesMsg::Route {
                engine: self.machine.state().spec.engine.clone(),
                session: session.id,
                task: self.handle.clone(),
            }),
            Effect::DropJobs => {
                self.jobs.drop_all();
                self.slot.clear_jobs();
            }
            Effect::Release { session } => {
                around.before();
                self.release(session);
                around.after();
            }
            Effect::Finish => self.done = true,
            Effect::Reply(ticket, reply) => {
                around.before();
                self.reply(ticket, reply);
                around.after();
            }
        }
    }

    fn prepare(&mut self, around: Around) {
        let workdirs = self.wires.workdirs(&self.machine.state().spec.engine);
        let attempt = self.machine.state().attempt_id();
        let source = self.machine.state().spec.source.clone();
        let id = self.jobs.start(
            PREPARE_DEADLINE,
            around.over(async move { workdirs.prepare(attempt, source).await }),
            |id, end: JobEnd<_>| {
                let result = end.or_else(WorkdirError::Fault);
                TaskMsg::Job(id, Box::new(Input::WorkdirPrepared(result)))
            },
        );
        self.slot.job_started(id.0, "prepare workdir");
    }

    fn take_changes(&mut self, around: Around) {
        let workdirs = self.wires.workdirs(&self.machine.state().spec.engine);
        let attempt = self.machine.state().attempt_id();
        let id = self.jobs.start(
            COLLECT_DEADLINE,
            around.over(async move { workdirs.collect(attempt).await }),
            |id, end: JobEnd<_>| {
                let result = end.or_else(WorkdirError::Fault);
                TaskMsg::Job(id, Box::new(Input::ChangesTaken(result)))
            },
        );
        self.slot.job_started(id.0, "take changes");
    }

    fn open(&mut self, directory: String, around: Around) {
        let state = self.machine.state();
        let request = OpenSession {
            attempt: state.attempt_id(),
            directory,
            title: title(&state.spec.description),
            model: state.spec.model.clone(),
            agent: state.spec.agent.clone(),
            permissions: state.spec.permissions.clone(),
            source: state.spec.source.clone(),
            caller: format!("{}/{}", state.caller.token, state.caller.agent_id),
        };
        self.engine_job(
            ("open session", around),
            OPEN_DEADLINE,
            move |engine| Box::pin(async move { engine.open(request).await }),
            Input::SessionOpened,
        );
    }

    fn send_prompt(&mut self, session: SessionRef, prompt: Prompt, around: Around) {
        let number = prompt.number;
        let spec = &self.machine.state().spec;
        let request = SendPrompt {
            session,
            prompt,
            model: spec.model.clone(),
            agent: spec.agent.clone(),
        };
        self.engine_job(
            ("send prompt", around),
            CALL_DEADLINE,
            move |engine| Box::pin(async move { engine.prompt(request).await }),
            move |result| Input::PromptSent { number, result },
        );
    }

    fn engine_job<T: Send + 'static>(
        &mut self,
        (name, around): (&str, Around),
        deadline: Duration,
        call: impl FnOnce(
            Arc<dyn Engine>,
        ) -> futures_util::future::BoxFuture<'static, Result<T, EngineError>>
        + Send
        + 'static,
        input: impl FnOnce(Result<T, EngineError>) -> Input + Send + 'static,
    ) {
        let engine = self.engine.clone();
        let name_missing = self.machine.state().spec.engine.to_string();
        let work = async move {
            match engine {
                Some(engine) => call(engine).await,
                None => Err(EngineError::Unusable(format!(
                    "engine \"{name_missing}\" is no longer configured"
                ))),
            }
        };
        let id = self
            .jobs
            .start(deadline, around.over(work), move |id, end: JobEnd<_>| {
                let result = end.or_else(EngineError::Unreachable);
                TaskMsg::Job(id, Box::new(input(result)))
            });
        self.slot.job_started(id.0, name);
    }

    fn write_output(&mut self, around: Around) {
        if self.output_busy || self.output.is_empty() {
            return;
        }
        self.output_busy = true;
        let text = std::mem::take(&mut self.output);
        let store = Arc::clone(&self.wires.ports.output);
        let task = self.machine.state().id;
        self.background.start(
            OUTPUT_DEADLINE,
            around.over(async move {
                if let Err(error) = store.append(task, text).await {
                    tracing::warn!(%task, %error, "output of the worker is not kept");
                }
            }),
            |_, _| TaskMsg::OutputWritten,
        );
    }

    fn release(&mut self, session: Option<SessionRef>) {
        self.done = true;
        let state = self.machine.state();
        self.wires.reaper.tell(ReaperMsg::Remove(Removal {
            engine: state.spec.engine.clone(),
            attempt: state.attempt_id(),
            session,
            directory: state.directory.clone(),
            owned_by_task: true,
        }));
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        let Some(waiting) = self.waiting.remove(&ticket) else {
            return;
        };
        let (task, phase) = (self.machine.state().id, self.machine.state().phase);
        match (waiting, reply) {
            (Waiting::Message(to), Reply::Message(receipt)) => {
                let _ = to.send(Ok(receipt));
            }
            (Waiting::Control(to), Reply::Control(outcome)) => {
                let _ = to.send(Ok(outcome));
            }
            (Waiting::Done(to), Reply::Answered | Reply::Noted) => {
                let _ = to.send(Ok(()));
            }
            (Waiting::Message(to), Reply::Refused(refusal)) => {
                let _ = to.send(Err(refused(task, phase, refusal)));
            }
            (Waiting::Control(to), Reply::Refused(refusal)) => {
                let _ = to.send(Err(refused(task, phase, refusal)));
            }
            (Waiting::Done(to), Reply::Refused(refusal)) => {
                let _ = to.send(Err(refused(task, phase, refusal)));
            }
            (_, Reply::Message(_) | Reply::Control(_) | Reply::Answered | Reply::Noted) => {
                tracing::error!(%task, "a reply of the wrong kind was made; the caller sees an internal error");
            }
        }
    }
}

fn refused(task: crate::id::TaskId, phase: Phase, refusal: Refusal) -> TreeError {
    match refusal {
        Refusal::Phase(why) => TreeError::WrongPhase { task, phase, why },
        Refusal::NoRequest(request) => TreeError::RequestNotOpen { task, request },
        Refusal::BadAnswer(why) => TreeError::BadAnswer(why),
        Refusal::Engine(why) => TreeError::EngineFailed { task, phase, why },
    }
}

/// The first line of the description, at most 80 characters.
fn title(description: &str) -> String {
    description
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(80)
        .collect()
}
