//! Watchdogs beside the ladder of silence: steps, the provider's waits, prompts that never begin, the hard deadline.

use chargehand_actors::command::ControlSignal;
use chargehand_actors::event::{AbortReason, Event, FailureKind, Outcome, Phase, Usage};
use chargehand_actors::machine::{Input, Limits};
use chargehand_actors::ports::{Activity, LastMessage, Signal};

use crate::bench::{Bench, LIMITS, answered, unfinished};
use crate::machine::request;
use crate::watchdogs::{failed, stopped};

#[test]
fn a_run_over_its_steps_is_stopped() {
    // Server's limit, the task's own, the steps allowed.
    for (server, own, limit) in [
        (5, None, 5),
        (0, Some(3), 3),
        (5, Some(9), 5),
        (9, Some(5), 5),
    ] {
        let limits = Limits {
            max_steps: server,
            ..LIMITS
        };
        let mut bench = Bench::running_task(limits, |spec| spec.max_steps = own);
        let mut report = bench.report(Activity::Busy, unfinished());
        report.steps = limit;
        bench.read(report.clone());
        assert_eq!(bench.state().abort, None, "{server} {own:?}");
        report.steps = limit + 1;
        bench.read(report);
        assert_eq!(bench.state().abort, Some(AbortReason::Watchdog));
        stopped(&mut bench);
        let told = failed(&mut bench);
        assert!(told.contains(&format!("{limit} model steps")), "{told}");
    }
}

#[test]
fn steps_that_only_the_stream_told_count_and_make_it_look() {
    let limits = Limits {
        max_steps: 2,
        ..LIMITS
    };
    let mut bench = Bench::running_task(limits, |_| {});
    for step in 1..=3 {
        let usage = Usage::default();
        let reason = "tool-calls".to_owned();
        bench.input(Input::Signal {
            child: true,
            signal: Signal::StepFinished { usage, reason },
        });
        assert_eq!(bench.reads() > 0, step >= 2, "step {step}");
    }
    let report = bench.report(Activity::Busy, unfinished());
    bench.read(report);
    assert_eq!(bench.state().abort, Some(AbortReason::Watchdog));
}

#[test]
fn a_run_that_ended_with_one_step_too_many_has_ended() {
    let limits = Limits {
        max_steps: 2,
        ..LIMITS
    };
    let mut bench = Bench::running_task(limits, |_| {});
    let mut report = bench.report(Activity::Idle, answered("stop"));
    report.steps = 3;
    bench.read_twice(&report);
    assert_eq!(bench.state().outcome, Some(Outcome::Succeeded));
}

#[test]
fn a_short_wait_at_the_end_of_the_running_time_is_left_to_the_timeout() {
    let mut bench = Bench::running();
    let mut report = bench.report(Activity::Busy, unfinished());
    bench.now = bench.now.plus_ms(299_000);
    report.activity = Activity::Retrying {
        attempt: 1,
        message: "unable to connect".to_owned(),
        next: Some(bench.now.plus_ms(2_000)),
    };
    bench.read(report);
    assert_eq!(bench.state().abort, None);
}

#[test]
fn a_provider_is_asked_again_so_often_and_no_longer_than_the_task_may_run() {
    let check = |attempt: u32, words: &str, wait_ms: Option<u64>, expected: Option<&str>| {
        let mut bench = Bench::running();
        let mut report = bench.report(Activity::Busy, unfinished());
        report.activity = Activity::Retrying {
            attempt,
            message: words.to_owned(),
            next: wait_ms.map(|ms| bench.now.plus_ms(ms)),
        };
        bench.read(report);
        let case = format!("{attempt} {words} {wait_ms:?}");
        let Some(part) = expected else {
            assert_eq!(bench.state().abort, None, "{case}");
            return;
        };
        assert_eq!(bench.state().abort, Some(AbortReason::Watchdog), "{case}");
        stopped(&mut bench);
        let told = failed(&mut bench);
        assert!(
            told.contains(part) && told.contains(words),
            "{case}: {told}"
        );
    };
    check(10, "overloaded", None, None);
    check(11, "overloaded", None, Some("11 times in a row"));
    check(1, "overloaded", Some(290_000), None);
    check(1, "overloaded", Some(310_000), Some("only in 5 minutes"));
    check(1, "Free usage exceeded, subscribe", None, Some("used up"));
    check(1, "429: insufficient_quota", None, Some("used up"));
    // Some call a limit per minute a quota: three times in a row it is meant.
    check(2, "You exceeded your current quota", None, None);
    check(3, "You exceeded your current quota", None, Some("used up"));
    check(3, "Rate limit reached", None, None);
}

#[test]
fn a_prompt_that_never_begins_is_counted_across_restarts() {
    let mut bench = Bench::sent();
    let report = bench.report(Activity::Idle, LastMessage::None);
    for _ in 0..10 {
        bench.pass(26_000);
        bench.crash();
        bench.engine_up();
        bench.effects.clear();
        bench.read_twice(&report);
        if bench.sends().is_empty() {
            break;
        }
        bench.input(Input::PromptSent {
            number: 1,
            result: Ok(()),
        });
    }
    bench.input(Input::ChangesTaken(Ok(Default::default())));
    let failure = bench.state().failure.clone().unwrap();
    assert_eq!(failure.kind, FailureKind::Engine);
    let taken = |event: &&Event| matches!(event, Event::PromptAccepted { .. });
    assert_eq!(bench.events.iter().filter(taken).count(), 3);
}

#[test]
fn the_hard_deadline_stands_in_every_phase_that_can_last() {
    for phase in [
        Phase::Starting,
        Phase::Running,
        Phase::Paused,
        Phase::InputRequired,
    ] {
        let limits = Limits {
            start_timeout_ms: 100_000_000,
            request_expiry_ms: 100_000_000,
            ..LIMITS
        };
        let mut bench = Bench::of_task(limits, |spec| spec.timeout_ms = 100_000_000);
        let mut bench = match phase {
            Phase::Starting => {
                bench.engine_up();
                bench.dispatch();
                bench
            }
            _ => Bench::running_task(limits, |spec| {
                spec.timeout_ms = 100_000_000;
                spec.attended = true;
            }),
        };
        match phase {
            Phase::Paused => {
                bench.control(1, ControlSignal::Pause);
                stopped(&mut bench);
            }
            Phase::InputRequired => {
                let mut report = bench.report(Activity::Busy, unfinished());
                report.requests = vec![request("per_1")];
                bench.read(report);
            }
            _ => {}
        }
        assert_eq!(bench.state().phase, phase);
        bench.unreachable();
        bench.pass(86_300_000);
        assert_eq!(bench.state().phase, phase);
        bench.pass(200_000);
        assert_eq!(bench.state().phase, Phase::Timeout, "{phase:?}");
    }
}
