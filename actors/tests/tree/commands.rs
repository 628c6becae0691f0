//! Commands to live tasks: cancel, pause, resume, messages, answers, waits.

use std::time::Duration;

use chargehand_actors::command::{Answer, ControlSignal, WaitFor};
use chargehand_actors::error::TreeError;
use chargehand_actors::event::{Event, FailureKind, PauseKind, Phase};
use chargehand_actors::fakes::engine::RunCause;
use chargehand_actors::fakes::{Fate, World};
use chargehand_actors::id::EngineName;
use chargehand_actors::view::Delivery;
use tokio::time::Instant;

use crate::stage::{Stage, sleep};

#[tokio::test(start_paused = true)]
async fn cancel_works_while_a_start_hangs() {
    for step in ["workdirs.prepare", "engine.open", "engine.prompt"] {
        for fate in [Fate::HangBefore, Fate::HangAfter] {
            let stage = Stage::new().await;
            stage.world.trouble.next(step, fate);
            let task = stage.submit("work 60000").await;
            sleep(2_000).await;
            let asked = Instant::now();
            stage.cancel(task).await;
            assert!(asked.elapsed() < Duration::from_millis(100), "{step}");
            let world = stage.end().await;
            assert_eq!(world.finals(task).len(), 1, "{step} {fate:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn d3_a_late_success_does_not_overwrite_a_cancel() {
    // Cancelled at every point of its life, in steps of 20 ms.
    for ms in (0..1_500).step_by(20) {
        let stage = Stage::new().await;
        let task = stage.submit("cold 100; work 300").await;
        sleep(ms).await;
        let outcome = stage.control(task, ControlSignal::Cancel).await;
        let cancelled = matches!(&outcome, Ok(outcome) if outcome.phase == Phase::Cancelled);
        sleep(5_000).await;
        let phase = stage.phase(task).await;
        let expected = if cancelled {
            Phase::Cancelled
        } else {
            Phase::Completed
        };
        assert_eq!(phase, expected, "cancel after {ms} ms: {outcome:?}");
        let world = stage.end().await;
        assert_eq!(world.finals(task).len(), 1, "after {ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_task_does_nothing_and_goes_on_where_it_was() {
    let stage = Stage::new().await;
    let task = stage.submit("work 500; work 500; work 500").await;
    stage.works(task).await;
    sleep(700).await;
    let outcome = stage.control(task, ControlSignal::Pause).await.unwrap();
    assert_eq!(outcome.pause, Some(PauseKind::Aborted));
    let effects = stage.world.engine.tallies().effects;
    sleep(600_000).await;
    assert_eq!(
        stage.world.engine.tallies().effects,
        effects,
        "nothing moves"
    );
    stage.control(task, ControlSignal::Resume).await.unwrap();
    let view = stage.reach(task, Phase::Completed).await;
    assert!(
        view.running_ms < 10_000,
        "the pause does not count: {}",
        view.running_ms
    );
    let world = stage.end().await;
    let effects = world.engine.tallies().effects;
    assert_eq!(effects.values().copied().collect::<Vec<_>>(), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_comes_before_the_run_holds_it_back() {
    let stage = Stage::new().await;
    let task = stage.submit("cold 8000; work 500").await;
    stage.reach(task, Phase::Running).await;
    let outcome = stage.control(task, ControlSignal::Pause).await.unwrap();
    assert_eq!(outcome.phase, Phase::Paused);
    // The prompt was on its way and is stored now: the run that begins is ended again.
    sleep(60_000).await;
    assert_eq!(stage.phase(task).await, Phase::Paused);
    assert!(stage.world.engine.tallies().effects.is_empty());
    stage.control(task, ControlSignal::Resume).await.unwrap();
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    let effects = world.engine.tallies().effects;
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_escapes_its_pause_is_ended_although_no_stream_tells() {
    let stage = Stage::new().await;
    let task = stage.submit("cold 8000; work 30000; work 30000").await;
    stage.reach(task, Phase::Running).await;
    stage.control(task, ControlSignal::Pause).await.unwrap();
    stage
        .world
        .engine
        .set_signals(chargehand_actors::fakes::engine::SignalRates {
            missing: 1000,
            ..Default::default()
        });
    sleep(120_000).await;
    assert_eq!(stage.phase(task).await, Phase::Paused);
    assert!(
        stage.world.engine.tallies().effects.is_empty(),
        "it worked on in its pause"
    );
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_freezes_pauses_in_the_middle_of_a_step() {
    let stage = Stage::new().await;
    let mut submit = World::task("work 500; work 500");
    submit.spec.engine = EngineName::new("frozen");
    let task = stage.send(submit).await;
    stage.works(task).await;
    let outcome = stage.control(task, ControlSignal::Pause).await.unwrap();
    assert_eq!(outcome.pause, Some(PauseKind::Frozen));
    sleep(60_000).await;
    assert!(stage.world.freezer.tallies().effects.is_empty());
    let outcome = stage.control(task, ControlSignal::Resume).await.unwrap();
    assert_eq!(outcome.phase, Phase::Running);
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.freezer.tallies().effects.len(), 2);
    assert_eq!(world.freezer.tallies().aborts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_freeze_that_fails_for_a_moment_pauses_and_one_that_never_works_is_refused() {
    let stage = Stage::new().await;
    let mut submit = World::task("work 60000; work 500");
    submit.spec.engine = EngineName::new("frozen");
    let task = stage.send(submit).await;
    stage.works(task).await;
    for _ in 0..4 {
        stage.world.trouble.next("engine.freeze", Fate::FailBefore);
    }
    let outcome = stage.control(task, ControlSignal::Pause).await.unwrap();
    assert_eq!(outcome.pause, Some(PauseKind::Frozen));
    stage.control(task, ControlSignal::Resume).await.unwrap();
    stage.world.trouble.always("engine.freeze", Fate::FailAfter);
    let refused = stage.control(task, ControlSignal::Pause).await.unwrap_err();
    assert_eq!(refused.code(), "ENGINE_FAILED");
    assert!(
        refused.to_string().contains("is running as before"),
        "{refused}"
    );
    assert_eq!(stage.phase(task).await, Phase::Running);
    // The engine had frozen it and said that it had not: it is thawed, and goes on.
    stage.world.trouble.clear();
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.freezer.tallies().effects.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_read_by_the_worker_and_said_to_be() {
    let stage = Stage::new().await;
    let task = stage.submit("work 2000; work 2000").await;
    stage.works(task).await;
    let receipt = stage.message(task, "script: work 300").await.unwrap();
    assert_eq!(receipt.delivery, Delivery::Sent);
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.count(task, "message_taken_up"), 1);
    assert_eq!(
        world.engine.tallies().effects.len(),
        3,
        "it did what it was told"
    );
    let runs = world.engine.tallies().runs;
    assert_eq!(runs.values().sum::<u32>(), 1, "in the same run: {runs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_before_the_start_reaches_the_worker_after_it() {
    let mut world = World::new(1);
    world.settings.max_running = 1;
    let stage = Stage::of(world).await;
    let first = stage.submit("work 5000").await;
    let task = stage.submit("work 5000").await;
    let receipt = stage.message(task, "read this").await.unwrap();
    assert_eq!(receipt.delivery, Delivery::Kept);
    stage.reach(first, Phase::Completed).await;
    stage.reach(task, Phase::Completed).await;
    let late = stage.message(task, "too late").await;
    assert!(matches!(
        late,
        Err(TreeError::WrongPhase {
            phase: Phase::Completed,
            ..
        })
    ));
    let world = stage.end().await;
    assert_eq!(world.count(task, "message_taken_up"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attended_request_is_answered_by_a_person() {
    let stage = Stage::new().await;
    let mut submit = World::task("ask bash; work 100; question");
    submit.spec.attended = true;
    let task = stage.send(submit).await;
    let view = stage.reach(task, Phase::InputRequired).await;
    let request = view.requests[0].request.id.clone();
    let allow = Answer::Allow { always: false };
    stage.answer(task, &request, allow.clone()).await.unwrap();
    let repeated = stage.answer(task, &request, allow.clone()).await;
    assert!(
        matches!(repeated, Err(TreeError::RequestNotOpen { .. })),
        "{repeated:?}"
    );
    stage.reach(task, Phase::Running).await;
    let view = stage.reach(task, Phase::InputRequired).await;
    let question = view.requests[0].request.id.clone();
    let wrong = stage.answer(task, &question, allow).await;
    assert!(matches!(wrong, Err(TreeError::BadAnswer(_))), "{wrong:?}");
    let choices = vec![vec!["B".to_owned()]];
    stage
        .answer(task, &question, Answer::Choices { choices })
        .await
        .unwrap();
    stage.reach(task, Phase::Completed).await;
    let world = stage.end().await;
    assert_eq!(world.count(task, "request_closed"), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_that_nobody_answers_get_their_default() {
    for attended in [false, true] {
        let stage = Stage::new().await;
        let mut submit = World::task("ask bash; work 100");
        submit.spec.attended = attended;
        let begun = Instant::now();
        let task = stage.send(submit).await;
        stage.reach(task, Phase::Completed).await;
        let took = begun.elapsed().as_secs();
        assert_eq!((119..140).contains(&took), attended, "{took} s");
        let world = stage.end().await;
        let defaulted = world.journal.of(task).into_iter().any(|e| {
            matches!(
                e.event,
                Event::RequestClosed {
                    end: chargehand_actors::event::RequestEnd::Defaulted,
                    ..
                }
            )
        });
        assert!(defaulted);
    }
}

#[tokio::test(start_paused = true)]
async fn waits_come_back_when_it_happens_or_when_their_time_is_over() {
    let stage = Stage::new().await;
    let task = stage.submit("work 20000").await;
    stage.works(task).await;
    let asked = Instant::now();
    let status = stage.wait(task, WaitFor::PhaseChange, 3_000).await;
    assert_eq!(status.view.phase, Phase::Running);
    assert_eq!(asked.elapsed().as_millis() / 10, 300);
    let status = stage.wait(task, WaitFor::Final, 45_000).await;
    assert_eq!(status.view.phase, Phase::Completed);
    assert!(asked.elapsed() < Duration::from_secs(25));
    let status = stage.wait(task, WaitFor::PhaseChange, 45_000).await;
    assert_eq!(
        status.view.phase,
        Phase::Completed,
        "final: nothing to wait for"
    );
    let after = status.view.last_event;
    let status = stage.wait(task, WaitFor::EventAfter(after), 45_000).await;
    assert_eq!(status.view.phase, Phase::Completed);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_longer_than_45_seconds() {
    let stage = Stage::new().await;
    let task = stage.submit("hang").await;
    stage.works(task).await;
    let asked = Instant::now();
    stage.wait(task, WaitFor::Final, u64::MAX).await;
    assert!(asked.elapsed() <= Duration::from_millis(45_010));
    stage.cancel(task).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn every_way_for_a_run_to_end_has_its_state_and_reason() {
    let check = async |script: &str, phase: Phase, kind: Option<FailureKind>| {
        let stage = Stage::new().await;
        let task = stage.submit(script).await;
        let view = stage.reach(task, phase).await;
        assert_eq!(view.failure.map(|failure| failure.kind), kind, "{script}");
        let world = stage.end().await;
        assert_eq!(world.finals(task).len(), 1, "{script}");
        let runs = world.engine.tallies().runs;
        let again = runs.keys().filter(|(_, cause)| *cause == RunCause::Again);
        assert_eq!(
            again.count(),
            0,
            "{script}: finished work is not run again: {runs:?}"
        );
    };
    use FailureKind::{Engine, Model, Rejected, Watchdog};
    check("work 10; finish stop", Phase::Completed, None).await;
    check("work 10; finish length", Phase::Failed, Some(Model)).await;
    check("work 10; finish weird", Phase::Failed, Some(Model)).await;
    check("error ProviderAuthError", Phase::Failed, Some(Model)).await;
    check("work 10; error APIError", Phase::Failed, Some(Model)).await;
    check("reject", Phase::Failed, Some(Rejected)).await;
    check("loop", Phase::Failed, Some(Watchdog)).await;
    check("refuse", Phase::Failed, Some(Engine)).await;
    check("lost", Phase::Failed, Some(Engine)).await;
    check("hang", Phase::Timeout, Some(Watchdog)).await;
    check("retry 30000; work 10", Phase::Completed, None).await;
    check("cold 17000; work 10", Phase::Completed, None).await;
}

#[tokio::test(start_paused = true)]
async fn d4_the_timeout_is_kept_whatever_hangs() {
    for what in ["engine.read", "engine.abort", "engine.answer"] {
        let stage = Stage::new().await;
        let mut submit = World::task("work 10; hang");
        submit.spec.timeout_ms = 5_000;
        let task = stage.send(submit).await;
        stage.reach(task, Phase::Running).await;
        stage.world.trouble.always(what, Fate::HangBefore);
        let begun = Instant::now();
        stage.reach(task, Phase::Timeout).await;
        assert!(begun.elapsed() < Duration::from_secs(7), "{what}");
        stage.world.trouble.clear();
        stage.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn d5_an_end_that_no_stream_tells_is_found_by_reading() {
    let stage = Stage::new().await;
    stage
        .world
        .engine
        .set_signals(chargehand_actors::fakes::engine::SignalRates {
            missing: 1000,
            ..Default::default()
        });
    for script in ["finish stop", "work 2000", "work 20000"] {
        let task = stage.submit(script).await;
        stage.reach(task, Phase::Completed).await;
    }
    stage.end().await;
}
