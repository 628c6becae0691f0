//! Tables of the pure machine: an engine that freezes. What the record says is asked for after every start; the clock stands still.

use chargehand_actors::command::ControlSignal;
use chargehand_actors::event::Phase;
use chargehand_actors::machine::{Effect, Input, Limits, Refusal, Reply};
use chargehand_actors::ports::EngineError;

use crate::bench::{Bench, LIMITS};

fn freezing() -> Bench {
    let limits = Limits {
        can_freeze: true,
        ..LIMITS
    };
    Bench::running_with(limits, false)
}

fn froze(bench: &mut Bench, frozen: bool) {
    bench.input(Input::Froze {
        frozen,
        result: Ok(()),
    });
}

/// How often a freeze (or a thaw) was asked for.
fn asked(bench: &Bench, wanted: bool) -> usize {
    bench.count(|effect| matches!(effect, Effect::Freeze { frozen, .. } if *frozen == wanted))
}

#[test]
fn after_a_crash_the_engine_is_made_to_be_as_the_record_says() {
    // A freeze was under way and is not in the record: the task runs, so it is thawed.
    let mut bench = freezing();
    bench.control(1, ControlSignal::Pause);
    bench.crash();
    bench.effects.clear();
    bench.engine_up();
    assert_eq!((asked(&bench, true), asked(&bench, false)), (0, 1));
    froze(&mut bench, false);
    assert_eq!(bench.state().phase, Phase::Running);
    // Known now: not asked again.
    bench.pass(60_000);
    assert_eq!(asked(&bench, false), 1);

    // A thaw was under way and is not in the record: the task is paused, so it is frozen.
    bench.control(2, ControlSignal::Pause);
    froze(&mut bench, true);
    assert_eq!(bench.state().phase, Phase::Paused);
    bench.control(3, ControlSignal::Resume);
    bench.crash();
    bench.effects.clear();
    bench.engine_up();
    assert_eq!((asked(&bench, true), asked(&bench, false)), (1, 0));
    froze(&mut bench, true);
    assert_eq!(bench.state().phase, Phase::Paused);
}

#[test]
fn the_clock_stands_still_while_frozen_and_nothing_is_read() {
    let mut bench = freezing();
    bench.engine_up();
    froze(&mut bench, false);
    bench.control(1, ControlSignal::Pause);
    froze(&mut bench, true);
    let before = bench.state().running_ms;
    bench.effects.clear();
    bench.pass(LIMITS.hard_deadline_ms / 2);
    assert_eq!(bench.state().phase, Phase::Paused);
    assert_eq!((bench.state().running_ms, bench.reads()), (before, 0));
    bench.control(2, ControlSignal::Resume);
    froze(&mut bench, false);
    assert_eq!(bench.state().phase, Phase::Running);
    assert_eq!(bench.state().running_ms, before);
}

fn failed(bench: &mut Bench, frozen: bool, error: EngineError) {
    bench.input(Input::Froze {
        frozen,
        result: Err(error),
    });
}

fn fault() -> EngineError {
    EngineError::Fault("unable to freeze".to_owned())
}

#[test]
fn a_freeze_that_fails_is_tried_again_and_answered_when_it_works() {
    let mut bench = freezing();
    bench.engine_up();
    froze(&mut bench, false);
    bench.effects.clear();
    bench.control(1, ControlSignal::Pause);
    for tried in 1..=4 {
        assert_eq!((asked(&bench, true), asked(&bench, false)), (tried, 0));
        failed(&mut bench, true, fault());
        assert_eq!(bench.reply(1), None, "after {tried}");
        bench.pass(20_000);
    }
    froze(&mut bench, true);
    assert_eq!(bench.state().phase, Phase::Paused);
    assert!(matches!(bench.reply(1), Some(Reply::Control(_))));
    // A thaw has all its tries, too, and does not wait for what the freeze failed of.
    bench.effects.clear();
    bench.control(2, ControlSignal::Resume);
    failed(&mut bench, false, fault());
    bench.pass(1_000);
    assert_eq!(asked(&bench, false), 2);
    for _ in 2..=4 {
        failed(&mut bench, false, fault());
        bench.pass(20_000);
    }
    froze(&mut bench, false);
    assert_eq!(bench.state().phase, Phase::Running);
    assert!(matches!(bench.reply(2), Some(Reply::Control(_))));
}

#[test]
fn a_freeze_that_never_works_leaves_it_running_and_everybody_who_asked_is_told() {
    for (error, tries) in [(fault(), 5), (EngineError::SessionGone, 1)] {
        let mut bench = freezing();
        bench.engine_up();
        froze(&mut bench, false);
        bench.effects.clear();
        bench.control(1, ControlSignal::Pause);
        bench.control(2, ControlSignal::Pause);
        for _ in 0..tries {
            assert_eq!((bench.reply(1), bench.reply(2)), (None, None));
            failed(&mut bench, true, error.clone());
            bench.pass(20_000);
        }
        assert_eq!(asked(&bench, true), tries);
        assert_eq!(bench.state().phase, Phase::Running);
        for ticket in [1, 2] {
            let Some(Reply::Refused(Refusal::Engine(why))) = bench.reply(ticket) else {
                panic!("{ticket}: {:?}", bench.reply(ticket));
            };
            assert!(why.contains(&error.to_string()), "{why}");
        }
        // It may be frozen all the same: it is thawed.
        assert_eq!(asked(&bench, false), 1);
        froze(&mut bench, false);
        // The next one has all its tries again.
        bench.control(3, ControlSignal::Pause);
        failed(&mut bench, true, fault());
        bench.pass(20_000);
        assert_eq!(bench.reply(3), None);
        froze(&mut bench, true);
        assert_eq!(bench.state().phase, Phase::Paused);
    }
}

#[test]
fn a_thaw_that_never_works_leaves_it_paused_and_says_so() {
    let mut bench = freezing();
    bench.engine_up();
    froze(&mut bench, false);
    bench.control(1, ControlSignal::Pause);
    froze(&mut bench, true);
    bench.control(2, ControlSignal::Resume);
    for _ in 0..5 {
        failed(&mut bench, false, fault());
        bench.pass(20_000);
    }
    assert_eq!(bench.state().phase, Phase::Paused);
    assert!(
        matches!(bench.reply(2), Some(Reply::Refused(Refusal::Engine(why))) if why.contains("could not thaw it"))
    );
}

#[test]
fn a_pause_while_the_thaw_is_under_way_is_refused_not_called_done() {
    let mut bench = freezing();
    bench.control(1, ControlSignal::Pause);
    froze(&mut bench, true);
    bench.control(2, ControlSignal::Resume);
    bench.control(3, ControlSignal::Pause);
    let Some(Reply::Refused(Refusal::Phase(why))) = bench.reply(3) else {
        panic!("{:?}", bench.reply(3));
    };
    assert!(why.contains("repeat the pause"), "{why}");
    froze(&mut bench, false);
    assert_eq!(bench.state().phase, Phase::Running);
    bench.control(4, ControlSignal::Pause);
    froze(&mut bench, true);
    assert_eq!(bench.state().phase, Phase::Paused);
}
