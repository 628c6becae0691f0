//! Random walks over the machine: any input at any time. What must hold after each input is checked by the bench.

use std::time::Duration;

use chargehand_actors::command::{Answer, ControlSignal, MessageType};
use chargehand_actors::event::{Changes, Phase, Request, RequestKind, ToolRun, Usage};
use chargehand_actors::id::RequestId;
use chargehand_actors::machine::{Effect, Input, Limits, Ticket};
use chargehand_actors::ports::{
    Activity, AnswerOutcome, EngineError, LastMessage, Prepared, PromptState, SessionReport,
    Signal, WorkdirError,
};
use proptest::prelude::*;

use crate::bench::{Bench, LIMITS, by, session, worker};

/// What may happen next on a walk.
#[derive(Clone, Debug)]
enum Stir {
    /// An input that fits nothing in particular.
    Any(Box<Input>),
    /// The oldest job that the machine asked for ends well.
    JobWorks,
    /// It fails, and may be tried again.
    JobFails,
    /// A reading of this session.
    Reading(Box<Reading>),
    /// Time passes, alarms go off.
    Pass(u64),
    /// The actor dies and another takes over.
    Crash,
}

#[derive(Clone, Debug)]
struct Reading {
    worker: u32,
    activity: Activity,
    last: LastMessage,
    /// Which prompts are stored, complete, taken up: bits.
    seen: u8,
    requests: u8,
    unfinished: u32,
}

fn error() -> impl Strategy<Value = EngineError> {
    prop_oneof![
        4 => Just(EngineError::Unreachable("walk".to_owned())),
        2 => Just(EngineError::Fault("walk".to_owned())),
        1 => Just(EngineError::Refused("walk".to_owned())),
        1 => Just(EngineError::SessionGone),
        1 => Just(EngineError::Unusable("walk".to_owned())),
    ]
}

fn last() -> impl Strategy<Value = LastMessage> {
    let finish = prop_oneof![
        3 => Just(Some("stop".to_owned())),
        1 => Just(Some("tool-calls".to_owned())),
        1 => Just(Some("length".to_owned())),
        1 => Just(Some("unknown".to_owned())),
        1 => Just(None),
    ];
    let name = prop_oneof![
        4 => Just(None),
        1 => Just(Some(("MessageAbortedError".to_owned(), String::new()))),
        1 => Just(Some(("APIError".to_owned(), String::new()))),
    ];
    prop_oneof![
        1 => Just(LastMessage::None),
        1 => Just(LastMessage::User),
        6 => (any::<bool>(), finish, name, prop::bool::weighted(0.1)).prop_map(
            |(completed, finish, error, rejected)| LastMessage::Assistant {
                completed,
                finish,
                error,
                rejected,
            }
        ),
    ]
}

fn reading() -> impl Strategy<Value = Reading> {
    let activity = prop_oneof![
        2 => Just(Activity::Busy),
        4 => Just(Activity::Idle),
        1 => Just(Activity::Retrying { attempt: 1, message: "walk".to_owned(), next: None }),
    ];
    (1..3u32, activity, last(), any::<u8>(), 0..4u8, 0..7u32).prop_map(
        |(worker, activity, last, seen, requests, unfinished)| Reading {
            worker,
            activity,
            last,
            seen,
            requests,
            unfinished,
        },
    )
}

fn request(n: u8) -> Request {
    Request {
        id: RequestId(format!("per_{n}")),
        session: session().id,
        text: "May I?".to_owned(),
        kind: RequestKind::Permission {
            permission: "bash".to_owned(),
            patterns: Vec::new(),
            always: Vec::new(),
        },
    }
}

fn report(bench: &Bench, reading: &Reading) -> SessionReport {
    let count = bench.state().prompts.len();
    let prompts = bench.state().prompts.iter().zip(1..);
    SessionReport {
        worker: worker(reading.worker),
        activity: reading.activity.clone(),
        prompts: prompts
            .map(|(record, number)| PromptState {
                message_id: record.prompt.message_id.clone(),
                stored: reading.seen & 1 != 0,
                complete: reading.seen & 3 == 3,
                taken_up: reading.seen & 7 == 7,
                newest: number == count,
            })
            .collect(),
        last: reading.last.clone(),
        requests: (0..reading.requests).map(request).collect(),
        usage: Usage::default(),
        steps: 0,
        unfinished_in_a_row: reading.unfinished,
        text: "walked".to_owned(),
        text_cut: false,
        running_tools: Vec::new(),
        newest_at: None,
        todos: Vec::new(),
    }
}

fn signal() -> impl Strategy<Value = Signal> {
    let tool = ToolRun {
        tool: "bash".to_owned(),
        title: String::new(),
        failed: false,
        ms: 1,
    };
    prop_oneof![
        Just(Signal::Busy),
        Just(Signal::Idle),
        Just(Signal::Deleted),
        Just(Signal::AssistantStarted),
        Just(Signal::Error {
            name: "APIError".to_owned(),
            message: String::new()
        }),
        Just(Signal::ToolStarted(tool.clone())),
        Just(Signal::ToolFinished(tool)),
        Just(Signal::StepFinished {
            usage: Usage::default(),
            reason: "unknown".to_owned()
        }),
        Just(Signal::FilesTouched(vec!["a".to_owned()])),
        Just(Signal::Retrying {
            attempt: 2,
            message: "walk".to_owned()
        }),
        (0..4u8).prop_map(|n| Signal::RequestAsked(request(n))),
        (0..4u8).prop_map(|n| Signal::RequestClosed(RequestId(format!("per_{n}")))),
    ]
}

fn command() -> impl Strategy<Value = Input> {
    let ticket = || any::<u64>().prop_map(Ticket);
    let signal = prop_oneof![
        1 => Just(ControlSignal::Cancel),
        4 => Just(ControlSignal::Pause),
        4 => Just(ControlSignal::Resume),
    ];
    prop_oneof![
        (ticket(), signal).prop_map(|(ticket, signal)| Input::Control {
            ticket,
            signal,
            reason: None,
            by: by("walk"),
        }),
        ticket().prop_map(|ticket| Input::Message {
            ticket,
            message_type: MessageType::Update,
            text: "walk".to_owned(),
            metadata: Default::default(),
            by: by("walk"),
        }),
        (ticket(), 0..4u8).prop_map(|(ticket, n)| Input::Answer {
            ticket,
            request: RequestId(format!("per_{n}")),
            answer: Answer::Allow { always: false },
            by: by("walk"),
        }),
    ]
}

/// Results that nobody asked for now: late, repeated, of an earlier life.
fn stray() -> impl Strategy<Value = Input> {
    let prepared = || Prepared {
        directory: "/w".to_owned(),
        note: None,
    };
    prop_oneof![
        (0..2u32).prop_map(|holds| Input::Dispatched { holds }),
        Just(Input::Recovered),
        Just(Input::Tick),
        Just(Input::EngineUp { worker: worker(1) }),
        Just(Input::StreamLost),
        Just(Input::WorkdirPrepared(Ok(prepared()))),
        Just(Input::SessionOpened(Ok((session(), worker(1))))),
        (1..4u32, prop::option::of(error())).prop_map(|(number, error)| Input::PromptSent {
            number,
            result: error.map_or(Ok(()), Err),
        }),
        prop::option::of(error()).prop_map(|e| Input::Aborted(e.map_or(Ok(()), Err))),
        (any::<bool>(), prop::option::of(error())).prop_map(|(frozen, e)| Input::Froze {
            frozen,
            result: e.map_or(Ok(()), Err),
        }),
        (0..4u8, prop::option::of(error())).prop_map(|(n, e)| Input::Answered {
            request: RequestId(format!("per_{n}")),
            result: e.map_or(Ok(AnswerOutcome::Given), Err),
        }),
        Just(Input::ChangesTaken(Ok(Changes::default()))),
        error().prop_map(|error| Input::SessionRead(Err(error))),
        (any::<bool>(), signal()).prop_map(|(child, signal)| Input::Signal { child, signal }),
    ]
}

fn stir() -> impl Strategy<Value = Stir> {
    let pass = prop_oneof![
        6 => 1..2_000u64,
        2 => 2_000..40_000u64,
        1 => 40_000..400_000u64,
    ];
    let rare = prop_oneof![Just(Input::GaveUp {
        reason: "walk".to_owned()
    })];
    prop_oneof![
        30 => Just(Stir::JobWorks),
        8 => Just(Stir::JobFails),
        20 => reading().prop_map(|reading| Stir::Reading(Box::new(reading))),
        12 => command().prop_map(|input| Stir::Any(Box::new(input))),
        16 => stray().prop_map(|input| Stir::Any(Box::new(input))),
        12 => pass.prop_map(Stir::Pass),
        4 => Just(Stir::Crash),
        1 => rare.prop_map(|input| Stir::Any(Box::new(input))),
    ]
}

/// The result of a job, good or bad.
fn result_of(bench: &Bench, effect: &Effect, works: bool) -> Option<Input> {
    let fault = || EngineError::Unreachable("walk".to_owned());
    let ok = |()| if works { Ok(()) } else { Err(fault()) };
    Some(match effect {
        Effect::PrepareWorkdir if works => Input::WorkdirPrepared(Ok(Prepared {
            directory: "/w".to_owned(),
            note: None,
        })),
        Effect::PrepareWorkdir => {
            Input::WorkdirPrepared(Err(WorkdirError::Fault("walk".to_owned())))
        }
        Effect::OpenSession { .. } if works => Input::SessionOpened(Ok((session(), worker(1)))),
        Effect::OpenSession { .. } => Input::SessionOpened(Err(fault())),
        Effect::SendPrompt { prompt, .. } => Input::PromptSent {
            number: prompt.number,
            result: ok(()),
        },
        Effect::ReadSession { .. } if works => {
            Input::SessionRead(Ok(bench.report(Activity::Busy, LastMessage::User)))
        }
        Effect::ReadSession { .. } => Input::SessionRead(Err(fault())),
        Effect::Abort { .. } => Input::Aborted(ok(())),
        Effect::Freeze { frozen, .. } => Input::Froze {
            frozen: *frozen,
            result: ok(()),
        },
        Effect::GiveAnswer { request, .. } => Input::Answered {
            request: request.id.clone(),
            result: if works {
                Ok(AnswerOutcome::Given)
            } else {
                Err(fault())
            },
        },
        Effect::TakeChanges if works => Input::ChangesTaken(Ok(Changes::default())),
        Effect::TakeChanges => Input::ChangesTaken(Err(WorkdirError::Fault("walk".to_owned()))),
        Effect::AppendOutput { .. }
        | Effect::Route { .. }
        | Effect::DropJobs
        | Effect::Release { .. }
        | Effect::Finish
        | Effect::Reply(..) => return None,
    })
}

/// Jobs asked for and not yet ended.
fn next_job(jobs: &mut Vec<Effect>) -> Option<Effect> {
    (!jobs.is_empty()).then(|| jobs.remove(0))
}

fn walk(bench: &mut Bench, stirs: Vec<Stir>) {
    let mut jobs: Vec<Effect> = Vec::new();
    let mut releases = 0;
    for stir in stirs {
        let end = |bench: &mut Bench, jobs: &mut Vec<Effect>, works| {
            if let Some(job) = next_job(jobs)
                && let Some(input) = result_of(bench, &job, works)
            {
                bench.input(input);
            }
        };
        match stir {
            Stir::Any(input) => {
                bench.input(*input);
            }
            Stir::JobWorks => end(bench, &mut jobs, true),
            Stir::JobFails => end(bench, &mut jobs, false),
            Stir::Reading(reading) => {
                let report = report(bench, &reading);
                bench.read(report);
            }
            Stir::Pass(ms) => bench.pass(ms),
            Stir::Crash => {
                jobs.clear();
                // Each life of the actor hands over a final task once; the reaper knows it by its key.
                releases += bench.releases();
                bench.effects.clear();
                bench.crash();
            }
        }
        let asked = bench.effects.extract_if(.., |effect| {
            !matches!(effect, Effect::Release { .. } | Effect::Finish)
        });
        jobs.extend(asked.filter(|effect| {
            !matches!(
                effect,
                Effect::AppendOutput { .. } | Effect::Route { .. } | Effect::Reply(..)
            )
        }));
        if jobs.contains(&Effect::DropJobs) {
            jobs.clear();
        }
        assert!(jobs.len() < 12, "jobs pile up: {jobs:?}");
        assert!(bench.releases() <= 1, "released once in a life");
        assert!(bench.finals() <= 1, "one final event");
        let is_final = bench.state().phase.is_final();
        assert_eq!(bench.finals() == 1, is_final);
        assert_eq!(bench.releases() == 1, is_final, "released when it is final");
        if is_final {
            assert_eq!(bench.machine.next_alarm(bench.now), None);
        }
    }
    assert!(releases <= bench.finals() * 100);
}

/// Whatever happened: when the engine works and says the run succeeded, the task ends, in bounded time.
fn come_to_an_end(bench: &mut Bench) {
    bench.effects.clear();
    bench.crash();
    bench.engine_up();
    bench.dispatch();
    bench.control(1, ControlSignal::Resume);
    for _ in 0..400 {
        if bench.state().phase.is_final() {
            return;
        }
        let asked: Vec<Effect> = bench.effects.drain(..).collect();
        for effect in asked {
            let read = matches!(effect, Effect::ReadSession { .. });
            let input = if read {
                let finish = crate::bench::answered("stop");
                Some(Input::SessionRead(Ok(bench.report(Activity::Idle, finish))))
            } else {
                result_of(bench, &effect, true)
            };
            if let Some(input) = input {
                bench.input(input);
            }
        }
        match bench.state().phase {
            Phase::Paused => {
                bench.control(2, ControlSignal::Resume);
            }
            Phase::Queued => {
                bench.dispatch();
            }
            _ => {}
        }
        bench.pass(1_000);
    }
    panic!("stuck in {:?}: {:?}", bench.state().phase, bench.effects);
}

fn config() -> ProptestConfig {
    ProptestConfig {
        max_shrink_time: u32::try_from(Duration::from_secs(20).as_millis()).unwrap(),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_walk_keeps_the_rules_and_comes_to_an_end(
        stirs in prop::collection::vec(stir(), 1..120),
        attended: bool,
        can_freeze: bool,
    ) {
        let limits = Limits { can_freeze, ..LIMITS };
        let mut bench = Bench::new(limits, attended);
        walk(&mut bench, stirs);
        come_to_an_end(&mut bench);
    }

    #[test]
    fn any_walk_from_a_running_task_keeps_the_rules_and_comes_to_an_end(
        stirs in prop::collection::vec(stir(), 1..80),
        attended: bool,
        can_freeze: bool,
    ) {
        let limits = Limits { can_freeze, ..LIMITS };
        let mut bench = Bench::running_with(limits, attended);
        walk(&mut bench, stirs);
        come_to_an_end(&mut bench);
    }
}
