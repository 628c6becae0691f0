//! A bench for the pure machine: feeds inputs, keeps what came out, and checks after every input what must always hold.

use chargehand_actors::command::{Author, ControlSignal, Origin, TaskSpec};
use chargehand_actors::event::{Event, Phase, PromptKind, SessionRef, Usage};
use chargehand_actors::fakes::World;
use chargehand_actors::id::{TaskId, WallTime, WorkerId};
use chargehand_actors::machine::{
    Context, Effect, Input, Limits, Machine, Reply, Step, TaskState, Ticket,
};
use chargehand_actors::ports::{
    Activity, EngineError, LastMessage, Prepared, PromptState, SessionReport,
};

pub(crate) const LIMITS: Limits = Limits {
    start_timeout_ms: 600_000,
    hard_deadline_ms: 86_400_000,
    request_expiry_ms: 120_000,
    max_resumes: 2,
    max_unfinished: 5,
    silence_warn_ms: 0,
    silence_nudge_ms: 0,
    silence_fail_ms: 0,
    max_steps: 0,
    max_provider_retries: 10,
    can_freeze: false,
    engine_known: true,
};

/// Who gives a command.
pub(crate) fn by(name: &str) -> Author {
    Author {
        by: name.to_owned(),
        from: Origin::default(),
    }
}

pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) now: WallTime,
    pub(crate) events: Vec<Event>,
    pub(crate) effects: Vec<Effect>,
    limits: Limits,
    folded: TaskState,
    minted: u32,
}

impl Bench {
    pub(crate) fn new(limits: Limits, attended: bool) -> Self {
        Self::of_task(limits, |spec| spec.attended = attended)
    }

    pub(crate) fn of_task(limits: Limits, change: impl FnOnce(&mut TaskSpec)) -> Self {
        let mut submit = World::task("work 100");
        change(&mut submit.spec);
        let now = WallTime(1_000_000);
        let event = Event::TaskAccepted {
            spec: Box::new(submit.spec),
            caller: submit.caller,
            idempotency_key: None,
            fingerprint: String::new(),
            from: Origin::default(),
        };
        let id = TaskId::new(uuid::Uuid::from_u128(7));
        let state = TaskState::accepted(id, now, &event).unwrap();
        let mut bench = Self {
            machine: Machine::new(state.clone(), limits),
            now,
            events: Vec::new(),
            effects: Vec::new(),
            limits,
            folded: state,
            minted: 0,
        };
        bench.input(Input::Recovered);
        bench
    }

    /// A task whose first prompt was accepted and taken up.
    pub(crate) fn running() -> Self {
        Self::running_with(LIMITS, false)
    }

    pub(crate) fn running_with(limits: Limits, attended: bool) -> Self {
        Self::running_task(limits, |spec| spec.attended = attended)
    }

    pub(crate) fn running_task(limits: Limits, change: impl FnOnce(&mut TaskSpec)) -> Self {
        let mut bench = Self::of_task(limits, change);
        bench.begin();
        let report = bench.report(Activity::Busy, LastMessage::User);
        bench.read(report);
        assert!(bench.state().prompts[0].taken_up);
        bench.effects.clear();
        bench
    }

    /// A task whose first prompt was accepted, nothing more.
    pub(crate) fn sent() -> Self {
        Self::sent_with(LIMITS, false)
    }

    fn sent_with(limits: Limits, attended: bool) -> Self {
        let mut bench = Self::new(limits, attended);
        bench.begin();
        bench
    }

    /// The same under these limits.
    pub(crate) fn sent_to(limits: Limits) -> Self {
        Self::sent_with(limits, false)
    }

    /// Admission gives a slot, knowing everything that was recorded.
    pub(crate) fn dispatch(&mut self) {
        let holds = self.state().holds;
        self.input(Input::Dispatched { holds });
    }

    /// From the queue to the accepted first prompt.
    fn begin(&mut self) {
        self.engine_up();
        self.dispatch();
        self.prepared();
        self.input(Input::SessionOpened(Ok((session(), worker(1)))));
        self.input(Input::PromptSent {
            number: 1,
            result: Ok(()),
        });
        assert_eq!(self.state().phase, Phase::Running);
    }

    pub(crate) fn engine_up(&mut self) {
        let worker = worker(1);
        self.input(Input::EngineUp { worker });
    }

    pub(crate) fn prepared(&mut self) {
        let prepared = Prepared {
            directory: "/w".to_owned(),
            note: None,
        };
        self.input(Input::WorkdirPrepared(Ok(prepared)));
    }

    pub(crate) fn state(&self) -> &TaskState {
        self.machine.state()
    }

    /// One input, and everything that holds after any input.
    pub(crate) fn input(&mut self, input: Input) -> Step {
        let was = self.state().phase;
        let minted = &mut self.minted;
        let mut mint = || {
            *minted += 1;
            format!("{minted:026}")
        };
        let step = self.machine.handle(
            input,
            &mut Context {
                now: self.now,
                mint: &mut mint,
            },
        );
        for event in &step.events {
            self.folded.fold(self.now, event);
        }
        assert_eq!(
            self.folded,
            *self.state(),
            "the state is what the events say and nothing else"
        );
        if was.is_final() {
            assert_eq!(self.state().phase, was, "a final phase never changes");
        }
        self.events.extend(step.events.iter().cloned());
        self.effects.extend(step.effects.iter().cloned());
        step
    }

    pub(crate) fn later(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    /// Time passes; every alarm that falls due goes off. Fails when alarms never cease.
    pub(crate) fn pass(&mut self, ms: u64) {
        let until = self.now.plus_ms(ms);
        let mut ticks = 0u64;
        while let Some(at) = self.machine.next_alarm(self.now).filter(|at| *at <= until) {
            // As the task actor does: an alarm is at least a millisecond away.
            self.now = self.now.max(at).max(self.now.plus_ms(1));
            self.input(Input::Tick);
            ticks += 1;
            assert!(
                ticks <= 20 + ms / 20,
                "alarms without progress: {ticks} within {ms} ms, next {:?} at {:?}",
                self.machine.next_alarm(self.now),
                self.now
            );
        }
        self.now = until;
    }

    /// A reading of a session in which every prompt was taken up (none for [`LastMessage::None`]).
    pub(crate) fn report(&self, activity: Activity, last: LastMessage) -> SessionReport {
        let taken_up = last != LastMessage::None;
        let count = self.state().prompts.len();
        let prompts = self.state().prompts.iter().zip(1..);
        SessionReport {
            worker: worker(1),
            activity,
            prompts: prompts
                .map(|(record, number)| PromptState {
                    message_id: record.prompt.message_id.clone(),
                    stored: taken_up,
                    complete: taken_up,
                    taken_up,
                    newest: number == count,
                })
                .collect(),
            last,
            requests: Vec::new(),
            usage: Usage {
                input: 100,
                ..Usage::default()
            },
            steps: 1,
            unfinished_in_a_row: 0,
            text: "done".to_owned(),
            text_cut: false,
            running_tools: Vec::new(),
            newest_at: None,
            todos: Vec::new(),
        }
    }

    pub(crate) fn read(&mut self, report: SessionReport) -> Step {
        self.input(Input::SessionRead(Ok(report)))
    }

    /// The same reading twice, as far apart as the machine wants it.
    pub(crate) fn read_twice(&mut self, report: &SessionReport) {
        self.read(report.clone());
        self.pass(500);
        self.read(report.clone());
    }

    pub(crate) fn unreachable(&mut self) -> Step {
        self.input(Input::SessionRead(Err(EngineError::Unreachable(
            "down".to_owned(),
        ))))
    }

    pub(crate) fn control(&mut self, ticket: u64, signal: ControlSignal) -> Step {
        self.input(Input::Control {
            ticket: Ticket(ticket),
            signal,
            reason: None,
            by: by("test"),
        })
    }

    pub(crate) fn reply(&self, ticket: u64) -> Option<Reply> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Reply(to, reply) if *to == Ticket(ticket) => Some(reply.clone()),
            _ => None,
        })
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Effect) -> bool) -> usize {
        self.effects.iter().filter(|effect| wanted(effect)).count()
    }

    pub(crate) fn sends(&self) -> Vec<(u32, PromptKind)> {
        let sent = self.effects.iter().filter_map(|effect| match effect {
            Effect::SendPrompt { prompt, .. } => Some((prompt.number, prompt.kind)),
            _ => None,
        });
        sent.collect()
    }

    pub(crate) fn reads(&self) -> usize {
        self.count(|effect| matches!(effect, Effect::ReadSession { .. }))
    }

    pub(crate) fn finals(&self) -> usize {
        self.events.iter().filter(|event| event.is_final()).count()
    }

    pub(crate) fn releases(&self) -> usize {
        self.count(|effect| matches!(effect, Effect::Release { .. } | Effect::Finish))
    }

    /// The actor dies here and another takes over on the same record.
    pub(crate) fn crash(&mut self) {
        self.machine = Machine::new(self.folded.clone(), self.limits);
        self.input(Input::Recovered);
    }
}

pub(crate) fn session() -> SessionRef {
    SessionRef {
        id: "ses_1".to_owned(),
        directory: "/w".to_owned(),
        server: "1".to_owned(),
    }
}

pub(crate) fn worker(n: u32) -> WorkerId {
    WorkerId(format!("worker-{n}"))
}

pub(crate) fn answered(finish: &str) -> LastMessage {
    LastMessage::Assistant {
        completed: true,
        finish: Some(finish.to_owned()),
        error: None,
        rejected: false,
    }
}

pub(crate) fn unfinished() -> LastMessage {
    LastMessage::Assistant {
        completed: false,
        finish: None,
        error: None,
        rejected: false,
    }
}

pub(crate) fn with_error(name: &str) -> LastMessage {
    LastMessage::Assistant {
        completed: true,
        finish: None,
        error: Some((name.to_owned(), "scripted".to_owned())),
        rejected: false,
    }
}
