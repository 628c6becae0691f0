//! Watchdogs: each rung of the ladder of silence, what counts as a sign of work, restarts in between.

use chargehand_actors::command::ControlSignal;
use chargehand_actors::event::{
    AbortReason, Event, FailureKind, Outcome, Phase, PromptKind, ToolRun, Usage,
};
use chargehand_actors::machine::{Effect, Input, Limits};
use chargehand_actors::ports::{Activity, LastMessage, Signal};

use crate::bench::{Bench, LIMITS, answered, unfinished, with_error};
use crate::machine::request;
use crate::stage::{Stage, sleep};

const SECOND: u64 = 1_000;

const LADDER: Limits = Limits {
    silence_warn_ms: 120 * SECOND,
    silence_nudge_ms: 240 * SECOND,
    silence_fail_ms: 600 * SECOND,
    ..LIMITS
};

/// A task with much time whose model hangs.
fn hung(limits: Limits) -> Bench {
    Bench::running_task(limits, |spec| spec.timeout_ms = 10_000 * SECOND)
}

/// Time passes; a busy session that says nothing is read as often as the machine wants.
fn silent(bench: &mut Bench, seconds: u64) {
    read_for(bench, seconds, |_| {});
}

fn read_for(
    bench: &mut Bench,
    seconds: u64,
    change: impl Fn(&mut chargehand_actors::ports::SessionReport),
) {
    for _ in 0..seconds {
        bench.pass(SECOND);
        let wanted = std::mem::take(&mut bench.effects)
            .iter()
            .any(|effect| matches!(effect, Effect::ReadSession { .. }));
        if wanted {
            let mut report = bench.report(Activity::Busy, unfinished());
            change(&mut report);
            bench.read(report);
        }
    }
}

fn signal(bench: &mut Bench, signal: Signal) {
    bench.input(Input::Signal {
        child: false,
        signal,
    });
}

fn text() -> Signal {
    Signal::Text {
        text: "x".to_owned(),
        reasoning: true,
    }
}

fn warnings(bench: &Bench) -> usize {
    let warned = |event: &&Event| matches!(event, Event::WatchdogWarned { .. });
    bench.events.iter().filter(warned).count()
}

/// The abort's end is seen.
pub(crate) fn stopped(bench: &mut Bench) {
    bench.input(Input::Aborted(Ok(())));
    let report = bench.report(Activity::Idle, with_error("MessageAbortedError"));
    bench.read(report);
}

/// The nudge was sent and the worker begins with it.
fn nudged(bench: &mut Bench) {
    stopped(bench);
    let number = u32::try_from(bench.state().prompts.len()).unwrap();
    bench.input(Input::PromptSent {
        number,
        result: Ok(()),
    });
    let report = bench.report(Activity::Busy, unfinished());
    bench.read(report);
}

pub(crate) fn failed(bench: &mut Bench) -> String {
    bench.input(Input::ChangesTaken(Ok(Default::default())));
    assert_eq!(bench.state().phase, Phase::Failed);
    assert!(bench.state().result.is_some(), "what was done is told");
    let failure = bench.state().failure.clone().unwrap();
    assert_eq!(failure.kind, FailureKind::Watchdog);
    failure.message
}

#[test]
fn a_silent_run_is_warned_about_then_nudged_then_failed() {
    let mut bench = hung(LADDER);
    silent(&mut bench, 119);
    assert_eq!((warnings(&bench), bench.state().abort), (0, None));
    silent(&mut bench, 2);
    assert_eq!((warnings(&bench), bench.state().abort), (1, None));
    silent(&mut bench, 117);
    assert_eq!((warnings(&bench), bench.state().abort), (1, None));
    silent(&mut bench, 2);
    assert_eq!(warnings(&bench), 2);
    assert_eq!(bench.state().abort, Some(AbortReason::Nudge));
    bench.effects.clear();
    stopped(&mut bench);
    assert_eq!(bench.sends(), [(2, PromptKind::Nudge)]);
    bench.input(Input::PromptSent {
        number: 2,
        result: Ok(()),
    });
    silent(&mut bench, 350);
    assert_eq!((warnings(&bench), bench.state().abort), (2, None));
    silent(&mut bench, 20);
    assert_eq!(bench.state().abort, Some(AbortReason::Watchdog));
    stopped(&mut bench);
    let told = failed(&mut bench);
    assert!(told.contains("asked to go on"), "{told}");
    assert_eq!(bench.finals(), 1);
}

#[test]
fn each_rung_can_be_left_out() {
    let off = Limits {
        silence_warn_ms: 0,
        silence_nudge_ms: 0,
        silence_fail_ms: 0,
        ..LADDER
    };
    let mut bench = hung(off);
    silent(&mut bench, 3_000);
    assert_eq!((warnings(&bench), bench.state().abort), (0, None));

    let mut bench = hung(Limits {
        silence_warn_ms: 120 * SECOND,
        ..off
    });
    silent(&mut bench, 3_000);
    assert_eq!((warnings(&bench), bench.state().abort), (1, None));

    let mut bench = hung(Limits {
        silence_nudge_ms: 0,
        ..LADDER
    });
    silent(&mut bench, 599);
    assert_eq!((warnings(&bench), bench.state().abort), (1, None));
    silent(&mut bench, 2);
    assert_eq!(bench.state().abort, Some(AbortReason::Watchdog));

    let mut bench = hung(Limits {
        silence_fail_ms: 0,
        ..LADDER
    });
    for _ in 0..2 {
        silent(&mut bench, 300);
        assert_eq!(bench.state().abort, Some(AbortReason::Nudge));
        nudged(&mut bench);
        signal(&mut bench, text());
    }
    silent(&mut bench, 3_000);
    assert_eq!(bench.state().abort, None, "asked twice, and no more");
}

#[test]
fn the_time_in_which_the_stream_is_broken_is_no_silence() {
    let mut bench = hung(LADDER);
    silent(&mut bench, 60);
    bench.input(Input::StreamLost);
    // Readings go on; a model that reasons for so long leaves nothing in the record.
    silent(&mut bench, 900);
    assert_eq!((warnings(&bench), bench.state().abort), (0, None));
    bench.engine_up();
    silent(&mut bench, 45);
    assert_eq!(warnings(&bench), 0, "60 s before and 45 s after");
    silent(&mut bench, 60);
    assert_eq!((warnings(&bench), bench.state().abort), (1, None));
    silent(&mut bench, 150);
    assert_eq!(bench.state().abort, Some(AbortReason::Nudge));
}

#[test]
fn a_stream_that_breaks_for_moments_only_hides_no_silence() {
    let mut bench = hung(LADDER);
    for _ in 0..7 {
        silent(&mut bench, 18);
        bench.input(Input::StreamLost);
        silent(&mut bench, 2);
        bench.engine_up();
    }
    assert_eq!((warnings(&bench), bench.state().abort), (1, None));
}

#[test]
fn nothing_that_works_or_waits_is_silent() {
    let tool = || ToolRun {
        tool: "bash".to_owned(),
        title: "sleep 600".to_owned(),
        failed: false,
        ms: 0,
    };
    let check = |name: &str, change: &dyn Fn(&mut chargehand_actors::ports::SessionReport)| {
        let mut bench = hung(LADDER);
        read_for(&mut bench, 3_000, change);
        let asked = bench
            .events
            .iter()
            .any(|e| matches!(e, Event::AbortWanted { .. }));
        assert_eq!((warnings(&bench), asked), (0, false), "{name}");
    };
    check("a tool runs", &|report| report.running_tools = vec![tool()]);
    check("the provider asks for patience", &|report| {
        report.activity = Activity::Retrying {
            attempt: 1,
            message: "busy".to_owned(),
            next: None,
        };
    });
    // What streams is heard, piece by piece.
    let pieces = [
        text(),
        Signal::ToolStarted(tool()),
        Signal::ToolFinished(tool()),
        Signal::FilesTouched(vec!["a".to_owned()]),
        Signal::Todos(Vec::new()),
        Signal::StepFinished {
            usage: Usage::default(),
            reason: "tool-calls".to_owned(),
        },
    ];
    for piece in pieces {
        let mut bench = hung(LADDER);
        for _ in 0..30 {
            silent(&mut bench, 100);
            signal(&mut bench, piece.clone());
        }
        assert_eq!(
            (warnings(&bench), bench.state().abort),
            (0, None),
            "{piece:?}"
        );
    }
    // That it is called busy, or that an answer was begun, is no work.
    for piece in [Signal::Busy, Signal::AssistantStarted] {
        let mut bench = hung(LADDER);
        for _ in 0..3 {
            silent(&mut bench, 100);
            signal(&mut bench, piece.clone());
        }
        assert_eq!(bench.state().abort, Some(AbortReason::Nudge), "{piece:?}");
    }
}

#[test]
fn an_open_request_and_a_pause_are_no_silence() {
    let mut bench = Bench::running_task(LADDER, |spec| {
        spec.timeout_ms = 10_000 * SECOND;
        spec.attended = true;
    });
    let asks = |report: &mut chargehand_actors::ports::SessionReport| {
        report.requests = vec![request("per_1")];
    };
    silent(&mut bench, 100);
    let mut report = bench.report(Activity::Busy, unfinished());
    asks(&mut report);
    bench.read(report);
    read_for(&mut bench, 100, asks);
    assert_eq!(bench.state().phase, Phase::InputRequired);
    silent(&mut bench, 110);
    assert_eq!(warnings(&bench), 0, "counted from the end of the request");
    bench.control(1, ControlSignal::Pause);
    stopped(&mut bench);
    assert_eq!(bench.state().phase, Phase::Paused);
    bench.pass(4_000 * SECOND);
    bench.control(2, ControlSignal::Resume);
    silent(&mut bench, 110);
    assert_eq!(warnings(&bench), 0, "counted from the resume");
    silent(&mut bench, 15);
    assert_eq!(warnings(&bench), 1);
}

#[test]
fn a_start_that_takes_long_is_no_silence_and_a_nudge_that_begins_late_no_work() {
    let idle = |bench: &mut Bench, seconds: u64| {
        for _ in 0..seconds {
            bench.pass(SECOND);
            let mut report = bench.report(Activity::Idle, LastMessage::User);
            for prompt in &mut report.prompts {
                prompt.taken_up = false;
            }
            bench.read(report);
        }
    };
    let limits = Limits {
        silence_warn_ms: 10 * SECOND,
        silence_nudge_ms: 15 * SECOND,
        silence_fail_ms: 30 * SECOND,
        ..LIMITS
    };
    let mut bench = Bench::sent_to(limits);
    idle(&mut bench, 20);
    silent(&mut bench, 8);
    assert_eq!((warnings(&bench), bench.state().abort), (0, None));
    silent(&mut bench, 8);
    assert_eq!(bench.state().abort, Some(AbortReason::Nudge));
    stopped(&mut bench);
    bench.input(Input::PromptSent {
        number: 2,
        result: Ok(()),
    });
    idle(&mut bench, 20);
    silent(&mut bench, 20);
    assert_eq!(bench.state().abort, Some(AbortReason::Watchdog));
    assert_eq!(bench.state().nudges, 1);
}

#[test]
fn an_engine_that_does_not_answer_says_nothing_about_silence() {
    let mut bench = hung(LADDER);
    silent(&mut bench, 100);
    for _ in 0..60 {
        bench.pass(15 * SECOND);
        bench.unreachable();
    }
    assert_eq!(warnings(&bench), 0);
    // It answers again: the gap does not count, what was silent before does.
    silent(&mut bench, 15);
    assert_eq!((warnings(&bench), bench.state().abort), (0, None));
    silent(&mut bench, 30);
    assert_eq!((warnings(&bench), bench.state().abort), (1, None));
}

#[test]
fn a_restart_begins_no_ladder_anew_and_takes_its_time_to_listen() {
    let mut bench = hung(LADDER);
    silent(&mut bench, 125);
    assert_eq!(warnings(&bench), 1);
    for _ in 0..2 {
        silent(&mut bench, 40);
        bench.crash();
        bench.engine_up();
    }
    bench.crash();
    bench.later(60 * SECOND);
    bench.engine_up();
    assert_eq!(warnings(&bench), 1, "warned once");
    // Long enough silent, but not yet listened to.
    silent(&mut bench, 29);
    assert_eq!(bench.state().abort, None);
    silent(&mut bench, 3);
    assert_eq!(bench.state().abort, Some(AbortReason::Nudge));
    // The next one dies with the abort under way; the nudge is still sent, once.
    bench.crash();
    bench.effects.clear();
    bench.engine_up();
    assert_eq!(bench.count(|e| matches!(e, Effect::Abort { .. })), 1);
    nudged(&mut bench);
    assert_eq!((bench.state().nudges, bench.state().prompts.len()), (1, 2));
    for _ in 0..8 {
        silent(&mut bench, 50);
        bench.crash();
        bench.engine_up();
    }
    assert_eq!((bench.state().nudges, bench.state().prompts.len()), (1, 2));
    assert_eq!(
        bench.state().abort,
        Some(AbortReason::Watchdog),
        "and it comes to an end"
    );
}

#[test]
fn what_happened_while_nobody_listened_is_no_silence() {
    let mut bench = hung(LADDER);
    silent(&mut bench, 10);
    bench.later(2_000 * SECOND);
    bench.crash();
    bench.engine_up();
    let newest = bench.now;
    read_for(&mut bench, 100, |report| report.newest_at = Some(newest));
    assert_eq!((warnings(&bench), bench.state().abort), (0, None));
    read_for(&mut bench, 30, |report| report.newest_at = Some(newest));
    assert_eq!((warnings(&bench), bench.state().abort), (1, None));
}

#[test]
fn text_that_streams_for_long_is_on_record_for_the_next_life() {
    let mut bench = hung(LADDER);
    for _ in 0..300 {
        silent(&mut bench, 1);
        signal(&mut bench, text());
    }
    let pulses = |event: &&Event| matches!(event, Event::ActivityChanged { .. });
    let pulses = bench.events.iter().filter(pulses).count();
    assert!((9..=11).contains(&pulses), "{pulses}");
    bench.crash();
    bench.engine_up();
    silent(&mut bench, 60);
    assert_eq!(warnings(&bench), 0);
}

#[test]
fn work_that_was_done_when_the_run_is_stopped_stays_done() {
    let mut bench = hung(LADDER);
    silent(&mut bench, 245);
    assert_eq!(bench.state().abort, Some(AbortReason::Nudge));
    bench.input(Input::Aborted(Ok(())));
    let report = bench.report(Activity::Idle, answered("stop"));
    bench.read(report);
    assert_eq!(bench.state().outcome, Some(Outcome::Succeeded));
    assert_eq!(bench.state().nudges, 0);
}

#[test]
fn a_message_that_never_arrived_does_not_fail_work_that_was_done() {
    for (limits, steps, nudge) in [
        (
            Limits {
                max_steps: 1,
                ..LIMITS
            },
            2,
            false,
        ),
        (LADDER, 1, true),
    ] {
        let mut bench = hung(limits);
        if nudge {
            silent(&mut bench, 245);
        } else {
            let mut report = bench.report(Activity::Busy, unfinished());
            report.steps = steps;
            bench.read(report);
        }
        assert!(bench.state().abort.is_some());
        bench.input(Input::Message {
            ticket: chargehand_actors::machine::Ticket(1),
            message_type: chargehand_actors::command::MessageType::Update,
            text: "more".to_owned(),
            metadata: Default::default(),
            by: crate::bench::by("me"),
        });
        bench.effects.clear();
        bench.input(Input::Aborted(Ok(())));
        let report = bench.report(Activity::Idle, answered("stop"));
        bench.read(report);
        if nudge {
            // The run ended well, and the message is what goes on.
            assert_eq!(bench.sends(), [(2, PromptKind::Message)]);
            assert_eq!(bench.state().nudges, 0);
        } else {
            assert_eq!(bench.state().outcome, Some(Outcome::Succeeded));
            assert_eq!(bench.sends(), []);
        }
    }
}

#[test]
fn a_late_word_of_the_stopped_run_does_not_fail_the_nudged_one() {
    let mut bench = hung(LADDER);
    silent(&mut bench, 245);
    stopped(&mut bench);
    bench.input(Input::PromptSent {
        number: 2,
        result: Ok(()),
    });
    let name = "MessageAbortedError".to_owned();
    let message = "aborted".to_owned();
    signal(&mut bench, Signal::Error { name, message });
    let mut report = bench.report(Activity::Idle, with_error("MessageAbortedError"));
    report.prompts[1].taken_up = false;
    bench.read_twice(&report);
    assert_eq!(bench.state().phase, Phase::Running);
    assert_eq!(bench.state().outcome, None);
}

#[tokio::test(start_paused = true)]
async fn a_hung_model_is_woken_and_then_given_up() {
    let stage = Stage::new().await;
    let mut submit = chargehand_actors::fakes::World::task("work 100; hang");
    submit.spec.timeout_ms = 3_600 * SECOND;
    let task = stage.send(submit).await;
    stage.works(task).await;
    sleep(230 * SECOND).await;
    assert_eq!(stage.world.count(task, "watchdog_warned"), 1);
    sleep(30 * SECOND).await;
    assert_eq!(stage.world.count(task, "watchdog_warned"), 2);
    assert_eq!(stage.phase(task).await, Phase::Running);
    let view = stage.reach(task, Phase::Failed).await;
    assert_eq!(view.failure.unwrap().kind, FailureKind::Watchdog);
    let prompts = stage.world.count(task, "prompt_wanted");
    assert_eq!(prompts, 2, "the task, and one nudge");
    stage.end().await;
}
