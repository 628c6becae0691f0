//! Tables of the pure machine: what the stream did not tell is caught up from readings of the record.

use chargehand_actors::event::{Event, Phase, Todo, ToolRun, Usage};
use chargehand_actors::machine::Input;
use chargehand_actors::ports::{Activity, SessionReport, Signal};

use crate::bench::{Bench, answered, unfinished};

fn tool(title: &str) -> ToolRun {
    ToolRun {
        tool: "bash".to_owned(),
        title: title.to_owned(),
        failed: false,
        ms: 0,
    }
}

fn started(bench: &mut Bench, title: &str) {
    let signal = Signal::ToolStarted(tool(title));
    bench.input(Input::Signal {
        child: false,
        signal,
    });
}

fn step_finished(bench: &mut Bench) {
    let signal = Signal::StepFinished {
        usage: Usage::default(),
        reason: "tool-calls".to_owned(),
    };
    bench.input(Input::Signal {
        child: false,
        signal,
    });
}

/// A reading of a run that works, with these tools running, and the time in which what it says is journaled.
fn working(bench: &mut Bench, titles: &[&str]) {
    let mut report = bench.report(Activity::Busy, unfinished());
    report.running_tools = titles.iter().map(|title| tool(title)).collect();
    read(bench, report);
}

fn read(bench: &mut Bench, report: SessionReport) {
    bench.later(1_000);
    bench.read(report);
    bench.pass(600);
}

fn changes(bench: &Bench) -> usize {
    let changes = |event: &&Event| matches!(event, Event::ActivityChanged { .. });
    bench.events.iter().filter(changes).count()
}

#[test]
fn a_tool_that_began_while_chargehand_was_dead_is_told_at_the_next_start() {
    let mut bench = Bench::running();
    started(&mut bench, "make all");
    // Killed before what was heard could be journaled.
    bench.crash();
    assert_eq!(bench.state().doing, "waits for the model");
    bench.engine_up();
    working(&mut bench, &["make all"]);
    assert_eq!(bench.state().doing, "runs bash: make all");

    let before = changes(&bench);
    for _ in 0..5 {
        working(&mut bench, &["make all"]);
    }
    assert_eq!(changes(&bench), before, "the same is told once");
}

#[test]
fn a_tool_that_ended_while_nobody_listened_does_not_run_any_more() {
    let mut bench = Bench::running();
    started(&mut bench, "make all");
    bench.pass(600);
    assert_eq!(bench.state().doing, "runs bash: make all");
    bench.crash();
    bench.engine_up();
    working(&mut bench, &[]);
    assert_eq!(bench.state().doing, "thinks");
}

#[test]
fn of_several_tools_the_one_that_is_known_goes_on_being_told() {
    let mut bench = Bench::running();
    started(&mut bench, "one");
    bench.pass(600);
    working(&mut bench, &["one", "two"]);
    assert_eq!(bench.state().doing, "runs bash: one");
    working(&mut bench, &["two"]);
    assert_eq!(bench.state().doing, "runs bash: two");
}

#[test]
fn a_reading_does_not_undo_what_was_heard_while_it_was_taken() {
    for child in [false, true] {
        let mut bench = Bench::running();
        bench.engine_up();
        let report = bench.report(Activity::Busy, unfinished());
        bench.later(100);
        let signal = Signal::ToolStarted(tool("make all"));
        bench.input(Input::Signal { child, signal });
        bench.pass(600);
        bench.read(report);
        bench.pass(600);
        assert_eq!(bench.state().doing, "runs bash: make all", "child: {child}");
    }
}

#[test]
fn the_wait_for_a_provider_its_end_and_the_todos_are_caught_up() {
    let mut bench = Bench::running();
    bench.crash();
    bench.engine_up();
    let mut report = bench.report(
        Activity::Retrying {
            attempt: 3,
            message: "overloaded".to_owned(),
            next: None,
        },
        unfinished(),
    );
    let todo = Todo {
        content: "build it".to_owned(),
        status: "pending".to_owned(),
    };
    report.todos = vec![todo.clone()];
    // Done after what is known, before this reading.
    bench.later(1);
    report.newest_at = Some(bench.now);
    read(&mut bench, report.clone());
    let waits = "waits for the model provider (retry 3): overloaded";
    assert_eq!(bench.state().doing, waits);
    assert_eq!(bench.state().todos, [todo]);

    let before = bench.events.len();
    read(&mut bench, report.clone());
    assert_eq!(bench.events[before..], [], "the same is told once");

    report.activity = Activity::Busy;
    read(&mut bench, report);
    assert_eq!(bench.state().doing, "thinks");
}

#[test]
fn of_two_sub_agents_the_wait_of_one_is_told_once_while_the_other_works() {
    let mut bench = Bench::running();
    let activity = Activity::Retrying {
        attempt: 1,
        message: "overloaded".to_owned(),
        next: None,
    };
    let waits = |event: &&Event| matches!(event, Event::ProviderRetry { .. });
    for _ in 0..4 {
        started(&mut bench, "make all");
        // Until the next reading begins, in which nothing is heard.
        bench.pass(20_000);
        let report = bench.report(activity.clone(), unfinished());
        read(&mut bench, report);
    }
    assert_eq!(bench.events.iter().filter(waits).count(), 1);
    // Over, and again.
    working(&mut bench, &[]);
    let report = bench.report(activity, unfinished());
    read(&mut bench, report);
    assert_eq!(bench.events.iter().filter(waits).count(), 2);
}

#[test]
fn a_step_that_is_told_after_the_totals_were_taken_is_in_them() {
    let mut bench = Bench::running();
    let mut report = bench.report(Activity::Idle, answered("stop"));
    report.steps = 3;
    bench.read_twice(&report);
    assert_eq!(
        (bench.state().phase, bench.state().steps),
        (Phase::Finishing, 3)
    );
    step_finished(&mut bench);
    bench.pass(600);
    assert_eq!(bench.state().steps, 3);
}

#[test]
fn nothing_is_caught_up_of_a_run_that_does_not_work() {
    let mut bench = Bench::running();
    started(&mut bench, "make all");
    bench.pass(600);
    let report = bench.report(Activity::Idle, unfinished());
    read(&mut bench, report);
    assert_eq!(bench.state().phase, Phase::Running);
    assert_eq!(bench.state().doing, "runs bash: make all");
}

#[test]
fn a_step_is_counted_once_also_when_the_record_shows_it_before_the_stream() {
    let mut bench = Bench::running();
    bench.later(1);
    let mut report = bench.report(Activity::Busy, unfinished());
    report.newest_at = Some(bench.now);
    report.steps = 2;
    read(&mut bench, report);
    for _ in 0..2 {
        step_finished(&mut bench);
    }
    bench.pass(600);
    assert_eq!(bench.state().steps, 2);
}
