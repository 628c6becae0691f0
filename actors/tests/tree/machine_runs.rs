//! Tables of the pure machine: readings, recovery, deadlines, late arrivals.

use chargehand_actors::command::{ControlSignal, Origin};
use chargehand_actors::event::{
    AbortReason, Event, Failure, FailureKind, Phase, PromptKind, TaskResult, Usage,
};
use chargehand_actors::machine::Input;
use chargehand_actors::ports::{
    Activity, EngineError, LastMessage, Prepared, Signal, WorkdirError,
};

use crate::bench::{Bench, LIMITS, answered, unfinished, with_error, worker};
use crate::machine::{in_phase, message, request};

#[test]
fn readings_that_fail_are_repeated_after_their_back_off() {
    let mut bench = Bench::running();
    bench.engine_up();
    for round in 1..5 {
        assert_eq!(bench.reads(), round);
        bench.unreachable();
        assert_eq!(bench.reads(), round, "not before the back-off is over");
        bench.pass(20_000);
    }
    assert_eq!(bench.state().phase, Phase::Running, "nothing is known");
}

#[test]
fn the_end_is_believed_when_two_readings_say_it() {
    let mut bench = Bench::running();
    let report = bench.report(Activity::Idle, answered("stop"));
    bench.read(report.clone());
    assert_eq!(bench.state().phase, Phase::Running);
    let signal = Signal::Busy;
    bench.input(Input::Signal {
        child: false,
        signal,
    });
    bench.read(report.clone());
    assert_eq!(bench.state().phase, Phase::Running, "it worked in between");
    bench.pass(500);
    bench.read(report);
    assert_eq!(bench.state().phase, Phase::Finishing);
}

#[test]
fn the_result_counts_what_the_engine_recorded_not_what_the_stream_told() {
    let mut bench = Bench::running();
    for _ in 0..3 {
        let usage = Usage {
            input: 1_000,
            ..Usage::default()
        };
        let reason = "tool-calls".to_owned();
        let signal = Signal::StepFinished { usage, reason };
        bench.input(Input::Signal {
            child: false,
            signal,
        });
    }
    let report = bench.report(Activity::Idle, answered("stop"));
    bench.read(report.clone());
    bench.later(100);
    bench.read(report);
    bench.input(Input::ChangesTaken(Ok(Default::default())));
    let result = bench.state().result.clone().unwrap();
    assert_eq!(result.usage.input, 100);
    assert_eq!(result.text, "done");
}

#[test]
fn a_cut_run_is_continued_twice_and_then_given_up() {
    let mut bench = Bench::running();
    for life in 2..4 {
        bench.effects.clear();
        bench.input(Input::EngineUp {
            worker: worker(life),
        });
        let mut report = bench.report(Activity::Idle, unfinished());
        report.worker = worker(life);
        bench.read_twice(&report);
        assert_eq!(bench.sends(), [(1, PromptKind::First)], "life {life}");
        bench.input(Input::PromptSent {
            number: 1,
            result: Ok(()),
        });
    }
    let resumes = |e: &&Event| matches!(e, Event::ResumeWanted { .. });
    assert_eq!(bench.events.iter().filter(resumes).count(), 2);
    bench.input(Input::EngineUp { worker: worker(4) });
    let mut report = bench.report(Activity::Idle, unfinished());
    report.worker = worker(4);
    bench.read_twice(&report);
    bench.input(Input::ChangesTaken(Ok(Default::default())));
    let failure = bench.state().failure.clone().unwrap();
    assert_eq!(failure.kind, FailureKind::WorkerLost);
}

#[test]
fn a_prompt_sent_to_a_new_worker_has_its_time_to_begin() {
    let mut bench = Bench::sent();
    bench.input(Input::EngineUp { worker: worker(2) });
    let mut report = bench.report(Activity::Idle, LastMessage::None);
    report.worker = worker(2);
    bench.read_twice(&report);
    assert_eq!(bench.sends().len(), 2, "lost with its worker: sent again");
    bench.input(Input::PromptSent {
        number: 1,
        result: Ok(()),
    });
    for _ in 0..20 {
        bench.pass(1_000);
        bench.read(report.clone());
    }
    assert_eq!(bench.state().phase, Phase::Running);
    assert_eq!(bench.sends().len(), 2, "a cold server takes up to 17 s");
    let mut report = bench.report(Activity::Idle, answered("stop"));
    report.worker = worker(2);
    bench.read_twice(&report);
    assert_eq!(bench.state().phase, Phase::Finishing);
}

#[test]
fn a_start_that_takes_too_long_fails() {
    let mut bench = in_phase(Phase::Starting);
    bench.pass(599_000);
    assert_eq!(bench.state().phase, Phase::Starting);
    bench.pass(2_000);
    assert_eq!(bench.state().phase, Phase::Failed);
    assert_eq!((bench.finals(), bench.releases()), (1, 1));
}

#[test]
fn running_time_does_not_count_pauses_and_open_requests() {
    let mut bench = Bench::running_with(LIMITS, true);
    bench.unreachable();
    bench.pass(200_000);
    let mut report = bench.report(Activity::Busy, unfinished());
    report.requests = vec![request("per_1")];
    bench.read(report);
    bench.later(110_000);
    let report = bench.report(Activity::Busy, unfinished());
    bench.read(report);
    assert_eq!(bench.state().running_at(bench.now), 200_000);
    bench.control(1, ControlSignal::Pause);
    bench.input(Input::Aborted(Ok(())));
    let report = bench.report(Activity::Idle, with_error("MessageAbortedError"));
    bench.read(report);
    bench.pass(3_600_000);
    bench.control(2, ControlSignal::Resume);
    bench.pass(99_000);
    assert_eq!(bench.state().phase, Phase::Running);
    bench.pass(2_000);
    assert_eq!(bench.state().phase, Phase::Timeout);
    assert_eq!(bench.state().running_ms, 300_000);
}

#[test]
fn a_paused_task_ends_at_the_hard_deadline() {
    let mut bench = in_phase(Phase::Paused);
    bench.pass(86_300_000);
    assert_eq!(bench.state().phase, Phase::Paused);
    bench.pass(200_000);
    assert_eq!(bench.state().phase, Phase::Timeout);
}

#[test]
fn after_recovery_the_result_is_read_before_the_deadline_is_judged() {
    let mut bench = Bench::running();
    bench.later(3_600_000);
    bench.crash();
    bench.pass(100);
    bench.engine_up();
    bench.pass(10_000);
    assert_eq!(bench.state().phase, Phase::Running);
    let report = bench.report(Activity::Idle, answered("stop"));
    bench.read(report.clone());
    assert_eq!(bench.state().phase, Phase::Running);
    bench.pass(500);
    bench.read(report);
    assert_eq!(bench.state().phase, Phase::Finishing, "it ended in time");
}

#[test]
fn after_recovery_a_run_that_still_works_is_timed_out() {
    let mut bench = Bench::running();
    bench.later(3_600_000);
    bench.crash();
    bench.engine_up();
    let report = bench.report(Activity::Busy, unfinished());
    bench.read(report);
    bench.pass(10);
    assert_eq!(bench.state().phase, Phase::Timeout);
}

#[test]
fn recovery_does_not_wait_for_ever_for_an_engine() {
    let mut bench = Bench::running();
    bench.later(3_600_000);
    bench.crash();
    bench.pass(59_000);
    assert_eq!(bench.state().phase, Phase::Running);
    bench.pass(2_000);
    assert_eq!(bench.state().phase, Phase::Timeout);
}

#[test]
fn an_endless_loop_of_unfinished_answers_is_ended() {
    let mut bench = Bench::running();
    let mut report = bench.report(Activity::Busy, answered("unknown"));
    report.unfinished_in_a_row = 4;
    bench.read(report.clone());
    assert_eq!(bench.state().abort, None);
    report.unfinished_in_a_row = 5;
    bench.read(report.clone());
    assert_eq!(bench.state().abort, Some(AbortReason::Watchdog));
    bench.input(Input::Aborted(Ok(())));
    report.activity = Activity::Idle;
    bench.read(report);
    bench.input(Input::ChangesTaken(Ok(Default::default())));
    let failure = bench.state().failure.clone().unwrap();
    assert_eq!(failure.kind, FailureKind::Watchdog);
}

#[test]
fn late_arrivals_are_recorded_a_few_times_and_change_nothing() {
    for phase in [
        Phase::Completed,
        Phase::Failed,
        Phase::Timeout,
        Phase::Cancelled,
    ] {
        let mut bench = in_phase(phase);
        let report = bench.report(Activity::Idle, answered("stop"));
        for _ in 0..10 {
            bench.read(report.clone());
            bench.input(Input::Tick);
            bench.dispatch();
            bench.input(Input::ChangesTaken(Ok(Default::default())));
        }
        assert_eq!(bench.state().phase, phase);
        assert_eq!((bench.finals(), bench.releases()), (0, 0));
        assert_eq!(bench.events.len(), 3, "a few are recorded, not all");
    }
}

fn gone() -> Input {
    Input::SessionRead(Err(EngineError::SessionGone))
}

#[test]
fn a_session_that_was_deleted_is_gone_when_two_readings_apart_say_it() {
    let mut bench = Bench::running();
    bench.engine_up();
    let signal = Signal::Deleted;
    bench.input(Input::Signal {
        child: false,
        signal,
    });
    bench.effects.clear();
    bench.input(gone());
    assert_eq!(bench.reads(), 0, "not at once again");
    bench.pass(400);
    assert_eq!(bench.reads(), 1);
    bench.input(gone());
    bench.input(Input::ChangesTaken(Ok(Default::default())));
    let failure = bench.state().failure.clone().unwrap();
    assert_eq!(failure.kind, FailureKind::SessionGone);
}

#[test]
fn a_session_of_which_no_deletion_was_told_may_be_there_again() {
    let mut bench = Bench::running();
    bench.engine_up();
    let gone_for = |bench: &mut Bench, seconds: u32| {
        for _ in 0..seconds {
            bench.input(gone());
            assert_eq!(bench.state().phase, Phase::Running);
            bench.pass(1_000);
        }
    };
    gone_for(&mut bench, 9);
    // The right server answers, and then another one again.
    let there = bench.report(Activity::Busy, unfinished());
    bench.read(there);
    gone_for(&mut bench, 9);
    // So does one that cannot be reached: what comes up afterwards is asked anew.
    bench.unreachable();
    bench.pass(1_000);
    gone_for(&mut bench, 10);
    bench.input(gone());
    assert_eq!(bench.state().phase, Phase::Finishing);
    let why = bench.state().outcome.clone();
    assert!(format!("{why:?}").contains("SessionGone"), "{why:?}");
}

#[test]
fn a_worker_that_cannot_go_on_is_believed_when_two_readings_agree() {
    let ended = |why: &str| Input::SessionRead(Err(EngineError::Ended(why.to_owned())));
    let mut bench = Bench::running();
    bench.engine_up();
    bench.input(ended("out of memory"));
    assert_eq!(bench.state().phase, Phase::Running);
    bench.pass(1_000);
    // Another reason is another story: it is read once more.
    bench.input(ended("too much on the disk"));
    assert_eq!(bench.state().phase, Phase::Running);
    bench.pass(1_000);
    bench.input(ended("too much on the disk"));
    assert_eq!(bench.state().phase, Phase::Finishing);
    bench.input(Input::ChangesTaken(Ok(Default::default())));
    let failure = bench.state().failure.clone().unwrap();
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert_eq!(failure.message, "too much on the disk");
    assert!(bench.state().result.is_some(), "what it left is taken");
}

#[test]
fn a_start_whose_worker_cannot_go_on_fails_at_once() {
    let mut bench = in_phase(Phase::Starting);
    bench.input(Input::WorkdirPrepared(Ok(Prepared {
        directory: "/w".to_owned(),
        note: None,
    })));
    bench.engine_up();
    bench.input(Input::SessionOpened(Err(EngineError::Ended(
        "out of memory".to_owned(),
    ))));
    let failure = bench.state().failure.clone().unwrap();
    assert!(failure.message.contains("out of memory"), "{failure:?}");
}

#[test]
fn a_workdir_that_cannot_be_made_fails_the_task_a_fault_is_tried_again() {
    let check = |error: fn(String) -> WorkdirError, tries: usize| {
        let mut bench = in_phase(Phase::Starting);
        for n in 1..=tries {
            let result = Err(error("scripted".to_owned()));
            bench.input(Input::WorkdirPrepared(result));
            assert_eq!(bench.state().phase.is_final(), n == tries);
            bench.pass(20_000);
        }
        let failure = bench.state().failure.clone().unwrap();
        assert_eq!(failure.kind, FailureKind::Workdir);
    };
    check(WorkdirError::BadSource, 1);
    check(WorkdirError::Fault, 4);
}

#[test]
fn nothing_that_is_folded_after_the_end_changes_it() {
    let failure = Failure {
        kind: FailureKind::Internal,
        message: String::new(),
    };
    let later = [
        Event::AttemptStarted {
            attempt: 2,
            engine: chargehand_actors::id::EngineName::new("local"),
        },
        Event::PromptAccepted { number: 1 },
        Event::TaskPaused {
            pause: chargehand_actors::event::PauseKind::Aborted,
        },
        Event::TaskCompleted {
            result: Box::new(TaskResult::default()),
            running_ms: 1,
        },
        Event::TaskFailed {
            failure,
            result: None,
            running_ms: 1,
        },
        Event::TaskTimedOut {
            message: String::new(),
            running_ms: 1,
        },
        Event::TaskCancelled {
            reason: None,
            by: String::new(),
            from: Origin::default(),
            running_ms: 1,
        },
    ];
    for phase in Phase::ALL.into_iter().filter(|phase| phase.is_final()) {
        let ended = in_phase(phase);
        let mut state = ended.state().clone();
        for event in &later {
            state.fold(ended.now.plus_ms(1), event);
        }
        state.events_total = ended.state().events_total;
        assert_eq!(state, *ended.state(), "{phase:?}");
    }
}

#[test]
fn changes_that_cost_chargehand_its_life_again_and_again_are_left_out() {
    let mut bench = crate::machine::in_phase(Phase::Finishing);
    let mut times = 0;
    while bench.state().phase == Phase::Finishing {
        assert!(times < 20, "it is tried for ever");
        bench.crash();
        times += 1;
    }
    assert_eq!(bench.state().phase, Phase::Completed);
    assert_eq!(times, 7, "six times anew");
    let result = bench.state().result.clone().unwrap();
    let note = result.changes.note.unwrap_or_default();
    assert!(note.contains("could not be taken"), "{note}");
    assert!(!result.text.is_empty(), "the worker's answer is kept");
}

#[test]
fn a_prompt_that_is_on_its_way_is_not_sent_again() {
    let mut bench = Bench::running();
    message(&mut bench, 1);
    bench.input(Input::PromptSent {
        number: 2,
        result: Err(EngineError::Unreachable("gone".to_owned())),
    });
    bench.effects.clear();
    bench.input(Input::EngineUp { worker: worker(2) });
    let mut report = bench.report(Activity::Idle, answered("tool-calls"));
    report.worker = worker(2);
    report.prompts.truncate(1);
    // It waits in the engine's gate, longer than two readings take.
    for _ in 0..6 {
        bench.read(report.clone());
        bench.pass(500);
    }
    assert_eq!(bench.sends(), [(2, PromptKind::Message)]);
    bench.input(Input::PromptSent {
        number: 2,
        result: Ok(()),
    });
    bench.pass(2_000);
    assert_eq!(bench.sends(), [(2, PromptKind::Message)], "sent once");
    // Never begun with: then it is sent again.
    bench.pass(30_000);
    bench.read_twice(&report);
    assert_eq!(bench.sends().len(), 2);
}
