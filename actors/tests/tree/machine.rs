//! Tables of the pure machine: what each command does in each phase, messages and requests.

use chargehand_actors::command::{Answer, ControlSignal, MessageType};
use chargehand_actors::event::{
    Event, Outcome, PauseKind, Phase, PromptKind, Request, RequestEnd, RequestKind,
};
use chargehand_actors::id::RequestId;
use chargehand_actors::machine::{Effect, Input, Limits, Refusal, Reply, Ticket};
use chargehand_actors::ports::{Activity, AnswerOutcome, EngineError, LastMessage, Signal};
use chargehand_actors::view::Delivery;

use crate::bench::{Bench, LIMITS, answered, by, session, unfinished, with_error, worker};

pub(crate) fn request(id: &str) -> Request {
    Request {
        id: RequestId(id.to_owned()),
        session: session().id,
        text: "May I?".to_owned(),
        kind: RequestKind::Permission {
            permission: "bash".to_owned(),
            patterns: Vec::new(),
            always: Vec::new(),
        },
    }
}

/// A bench in each phase in which a command may come.
pub(crate) fn in_phase(phase: Phase) -> Bench {
    let mut bench = match phase {
        Phase::Queued => Bench::new(LIMITS, false),
        Phase::Starting => {
            let mut bench = Bench::new(LIMITS, false);
            bench.engine_up();
            bench.dispatch();
            bench
        }
        Phase::Running => Bench::running(),
        Phase::InputRequired => {
            let mut bench = Bench::running_with(LIMITS, true);
            let mut report = bench.report(Activity::Busy, unfinished());
            report.requests = vec![request("per_1")];
            bench.read(report);
            bench
        }
        Phase::Paused => {
            let mut bench = Bench::running();
            bench.control(900, ControlSignal::Pause);
            bench.input(Input::Aborted(Ok(())));
            let report = bench.report(Activity::Idle, with_error("MessageAbortedError"));
            bench.read(report);
            bench
        }
        Phase::Finishing => {
            let mut bench = Bench::running();
            let report = bench.report(Activity::Idle, answered("stop"));
            bench.read_twice(&report);
            bench
        }
        Phase::Completed => {
            let mut bench = in_phase(Phase::Finishing);
            bench.input(Input::ChangesTaken(Ok(Default::default())));
            bench
        }
        Phase::Failed => {
            let mut bench = Bench::running();
            let reason = "test".to_owned();
            bench.input(Input::GaveUp { reason });
            bench
        }
        Phase::Timeout => {
            let mut bench = Bench::running();
            bench.unreachable();
            bench.pass(400_000);
            bench
        }
        Phase::Cancelled => {
            let mut bench = Bench::running();
            bench.control(901, ControlSignal::Cancel);
            bench
        }
    };
    assert_eq!(bench.state().phase, phase);
    bench.effects.clear();
    bench.events.clear();
    bench
}

#[test]
fn cancel_is_final_at_once_in_every_phase() {
    for phase in Phase::ALL {
        let mut bench = in_phase(phase);
        bench.control(1, ControlSignal::Cancel);
        if phase.is_final() {
            assert_eq!(bench.state().phase, phase);
            assert_eq!(bench.events, []);
        } else {
            assert_eq!(bench.state().phase, Phase::Cancelled, "from {phase:?}");
            assert_eq!((bench.finals(), bench.releases()), (1, 1), "from {phase:?}");
            assert!(bench.effects.contains(&Effect::DropJobs));
        }
        let reply = bench.reply(1);
        let (refused, already) = match &reply {
            Some(Reply::Control(outcome)) => (false, outcome.already),
            Some(Reply::Refused(Refusal::Phase(_))) => (true, false),
            other => panic!("from {phase:?}: {other:?}"),
        };
        assert_eq!(already, phase == Phase::Cancelled, "from {phase:?}");
        assert_eq!(refused, phase.is_final() && !already, "from {phase:?}");
    }
}

#[test]
fn pause_is_done_held_or_refused_by_phase() {
    #[derive(Debug, PartialEq)]
    enum Does {
        Holds,
        Aborts,
        Already,
        Refuses,
    }
    let check = |phase: Phase, expected: Does| {
        let mut bench = in_phase(phase);
        bench.control(1, ControlSignal::Pause);
        let aborts = bench.count(|effect| matches!(effect, Effect::Abort { .. })) == 1;
        let does = match bench.reply(1) {
            Some(Reply::Control(outcome)) if outcome.already => Does::Already,
            Some(Reply::Control(outcome)) if outcome.pause == Some(PauseKind::Held) => Does::Holds,
            Some(Reply::Refused(Refusal::Phase(_))) => Does::Refuses,
            None if aborts => Does::Aborts,
            other => panic!("{phase:?}: {other:?}"),
        };
        assert_eq!(does, expected, "{phase:?}");
    };
    check(Phase::Queued, Does::Holds);
    check(Phase::Starting, Does::Refuses);
    check(Phase::Running, Does::Aborts);
    check(Phase::InputRequired, Does::Aborts);
    check(Phase::Paused, Does::Already);
    check(Phase::Finishing, Does::Refuses);
    check(Phase::Completed, Does::Refuses);
    check(Phase::Failed, Does::Refuses);
    check(Phase::Timeout, Does::Refuses);
    check(Phase::Cancelled, Does::Refuses);
}

#[test]
fn resume_goes_on_only_from_a_pause() {
    for phase in Phase::ALL {
        let mut bench = in_phase(phase);
        bench.control(1, ControlSignal::Resume);
        match (phase, bench.reply(1)) {
            (Phase::Paused, Some(Reply::Control(outcome))) => {
                assert_eq!(outcome.phase, Phase::Running);
                assert_eq!(bench.sends(), [(2, PromptKind::Resume)]);
            }
            (Phase::Paused, other) => panic!("{other:?}"),
            (_, Some(Reply::Refused(Refusal::Phase(_)))) => assert_eq!(bench.events, []),
            (_, other) => panic!("{phase:?}: {other:?}"),
        }
    }
}

#[test]
fn a_held_task_is_not_started_by_a_slot_that_was_on_its_way() {
    let mut bench = in_phase(Phase::Queued);
    bench.control(1, ControlSignal::Pause);
    bench.dispatch();
    assert_eq!(bench.state().phase, Phase::Paused);
    bench.control(2, ControlSignal::Resume);
    assert_eq!(bench.state().phase, Phase::Queued);
    // Given before admission knew of the hold: it takes this slot back.
    bench.input(Input::Dispatched { holds: 0 });
    assert_eq!(bench.state().phase, Phase::Queued);
    bench.dispatch();
    assert_eq!(bench.state().phase, Phase::Starting);
}

#[test]
fn a_pause_before_the_prompt_was_taken_up_sends_it_again_under_new_ids() {
    let mut bench = Bench::sent();
    bench.control(1, ControlSignal::Pause);
    bench.input(Input::Aborted(Ok(())));
    let report = bench.report(Activity::Idle, LastMessage::None);
    bench.read(report.clone());
    assert_eq!(
        bench.state().phase,
        Phase::Running,
        "the prompt may still be stored, and begin"
    );
    bench.pass(26_000);
    bench.input(Input::Aborted(Ok(())));
    bench.read(report);
    assert_eq!(bench.state().phase, Phase::Paused);
    bench.effects.clear();
    bench.control(2, ControlSignal::Resume);
    assert_eq!(bench.sends(), [(2, PromptKind::First)]);
    assert!(bench.state().prompts[0].superseded);
    assert_ne!(
        bench.state().prompts[0].prompt.message_id,
        bench.state().prompts[1].prompt.message_id
    );
}

#[test]
fn a_prompt_that_stands_in_the_session_is_not_said_again_after_a_pause() {
    let mut bench = Bench::sent();
    bench.control(1, ControlSignal::Pause);
    bench.input(Input::Aborted(Ok(())));
    let mut report = bench.report(Activity::Idle, LastMessage::User);
    report.prompts[0].taken_up = false;
    bench.read(report);
    assert_eq!(bench.state().phase, Phase::Paused);
    bench.effects.clear();
    bench.control(2, ControlSignal::Resume);
    assert_eq!(bench.sends(), [(2, PromptKind::Resume)]);
    assert!(!bench.state().prompts[0].superseded);
}

#[test]
fn a_message_is_sent_only_when_the_prompt_before_it_is_stored() {
    let mut bench = Bench::sent();
    bench.effects.clear();
    let mut report = bench.report(Activity::Idle, LastMessage::User);
    report.prompts[0].taken_up = false;
    message(&mut bench, 1);
    assert_eq!(bench.sends(), []);
    bench.read(report);
    assert_eq!(bench.sends(), [(2, PromptKind::Message)]);
}

#[test]
fn a_broken_stream_does_not_continue_a_run_that_was_just_continued() {
    let mut bench = Bench::running();
    bench.input(Input::EngineUp { worker: worker(2) });
    let mut report = bench.report(Activity::Idle, unfinished());
    report.worker = worker(2);
    bench.read_twice(&report);
    bench.input(Input::PromptSent {
        number: 1,
        result: Ok(()),
    });
    for crash in [false, true, false] {
        bench.pass(2_000);
        if crash {
            bench.crash();
        }
        bench.input(Input::EngineUp { worker: worker(2) });
        bench.read_twice(&report);
        assert_eq!(bench.state().resumes, 1, "it has its time to begin");
    }
    bench.pass(25_000);
    bench.read_twice(&report);
    assert_eq!(bench.state().resumes, 2);
}

#[test]
fn a_success_seen_before_the_abort_stays_a_success() {
    let mut bench = Bench::running();
    bench.control(1, ControlSignal::Pause);
    bench.input(Input::Aborted(Ok(())));
    let report = bench.report(Activity::Idle, answered("stop"));
    bench.read(report);
    assert_eq!(bench.state().phase, Phase::Finishing);
    assert_eq!(bench.state().outcome, Some(Outcome::Succeeded));
    assert!(matches!(bench.reply(1), Some(Reply::Control(o)) if o.phase == Phase::Finishing));
}

#[test]
fn an_abort_is_repeated_until_its_end_is_seen() {
    let mut bench = Bench::running();
    bench.control(1, ControlSignal::Pause);
    let aborts = |bench: &Bench| bench.count(|e| matches!(e, Effect::Abort { .. }));
    assert_eq!(aborts(&bench), 1);
    let down = || Err(EngineError::Unreachable("down".to_owned()));
    bench.input(Input::Aborted(down()));
    assert_eq!(aborts(&bench), 1, "not before its back-off");
    bench.pass(1_000);
    assert_eq!(aborts(&bench), 2);
    bench.input(Input::Aborted(Ok(())));
    let busy = bench.report(Activity::Busy, unfinished());
    bench.read(busy);
    assert_eq!(aborts(&bench), 3, "it still works: again");
    bench.input(Input::Aborted(Ok(())));
    let idle = bench.report(Activity::Idle, with_error("MessageAbortedError"));
    bench.read(idle);
    assert_eq!(bench.state().phase, Phase::Paused);
    assert!(bench.events.contains(&Event::AbortSeen));
}

#[test]
fn a_resumed_prompt_waits_for_an_abort_that_is_still_under_way() {
    let mut bench = in_phase(Phase::Paused);
    let signal = Signal::Busy;
    bench.input(Input::Signal {
        child: false,
        signal,
    });
    assert_eq!(bench.count(|e| matches!(e, Effect::Abort { .. })), 1);
    bench.control(1, ControlSignal::Resume);
    assert_eq!(bench.sends(), [], "it would be ended by that abort");
    bench.input(Input::Aborted(Ok(())));
    assert_eq!(bench.sends(), [(2, PromptKind::Resume)]);
}

#[test]
fn pause_of_an_engine_that_freezes() {
    let limits = Limits {
        can_freeze: true,
        ..LIMITS
    };
    let mut bench = Bench::running_with(limits, false);
    bench.control(1, ControlSignal::Pause);
    assert_eq!(bench.reply(1), None);
    bench.input(Input::Froze {
        frozen: true,
        result: Ok(()),
    });
    assert!(
        matches!(bench.reply(1), Some(Reply::Control(o)) if o.pause == Some(PauseKind::Frozen))
    );
    bench.control(2, ControlSignal::Resume);
    bench.input(Input::Froze {
        frozen: false,
        result: Ok(()),
    });
    assert!(matches!(bench.reply(2), Some(Reply::Control(o)) if o.phase == Phase::Running));
    assert_eq!(
        bench.sends(),
        [],
        "nothing is sent: it goes on where it was"
    );
}

pub(crate) fn message(bench: &mut Bench, ticket: u64) {
    bench.input(Input::Message {
        ticket: Ticket(ticket),
        message_type: MessageType::Guidance,
        text: "mind the gap".to_owned(),
        metadata: Default::default(),
        by: by("test"),
    });
}

#[test]
fn messages_are_sent_kept_or_refused_by_phase() {
    let check = |phase: Phase, expected: Option<Delivery>| {
        let mut bench = in_phase(phase);
        message(&mut bench, 1);
        let delivery = match bench.reply(1) {
            Some(Reply::Message(receipt)) => Some(receipt.delivery),
            Some(Reply::Refused(Refusal::Phase(_))) => None,
            other => panic!("{phase:?}: {other:?}"),
        };
        assert_eq!(delivery, expected, "{phase:?}");
        let sent = bench.sends().len();
        assert_eq!(
            sent,
            usize::from(delivery == Some(Delivery::Sent)),
            "{phase:?}"
        );
    };
    check(Phase::Queued, Some(Delivery::Kept));
    check(Phase::Starting, Some(Delivery::Kept));
    check(Phase::Running, Some(Delivery::Sent));
    check(Phase::InputRequired, Some(Delivery::Sent));
    check(Phase::Paused, Some(Delivery::Kept));
    check(Phase::Finishing, None);
    check(Phase::Completed, None);
    check(Phase::Failed, None);
    check(Phase::Timeout, None);
    check(Phase::Cancelled, None);
}

#[test]
fn a_message_is_said_to_be_taken_up_when_the_worker_begins_with_it() {
    let mut bench = Bench::running();
    message(&mut bench, 1);
    bench.input(Input::PromptSent {
        number: 2,
        result: Ok(()),
    });
    assert_eq!(bench.state().messages_waiting(), 1);
    let report = bench.report(Activity::Busy, unfinished());
    bench.read(report);
    assert_eq!(bench.state().messages_waiting(), 0);
    let taken = |e: &&Event| matches!(e, Event::MessageTakenUp { .. });
    assert_eq!(bench.events.iter().filter(taken).count(), 1);
}

#[test]
fn a_run_is_not_over_while_a_message_waits_to_be_taken_up() {
    let mut bench = Bench::running();
    message(&mut bench, 1);
    bench.input(Input::PromptSent {
        number: 2,
        result: Ok(()),
    });
    let mut report = bench.report(Activity::Idle, answered("stop"));
    report.prompts[1].taken_up = false;
    bench.read_twice(&report);
    bench.pass(5_000);
    bench.read_twice(&report);
    assert_eq!(bench.state().phase, Phase::Running);
}

#[test]
fn messages_that_reach_nobody_are_said_to_be_dropped() {
    let mut bench = Bench::running();
    message(&mut bench, 1);
    bench.input(Input::PromptSent {
        number: 2,
        result: Ok(()),
    });
    let mut report = bench.report(Activity::Idle, with_error("ProviderAuthError"));
    report.prompts[1].taken_up = false;
    let signal = Signal::Error {
        name: "ProviderAuthError".to_owned(),
        message: "no key".to_owned(),
    };
    bench.input(Input::Signal {
        child: false,
        signal,
    });
    bench.read_twice(&report);
    bench.input(Input::ChangesTaken(Ok(Default::default())));
    assert_eq!(bench.state().phase, Phase::Failed);
    let dropped = |e: &&Event| matches!(e, Event::MessageDropped { .. });
    assert_eq!(bench.events.iter().filter(dropped).count(), 1);
    assert_eq!(bench.state().messages_waiting(), 0);
}

#[test]
fn a_request_of_an_unattended_task_gets_its_default_at_once() {
    let mut bench = Bench::running();
    let mut report = bench.report(Activity::Busy, unfinished());
    report.requests = vec![request("per_1")];
    bench.read(report);
    assert_eq!(bench.state().phase, Phase::InputRequired);
    let given = |e: &Effect| {
        matches!(
            e,
            Effect::GiveAnswer {
                answer: Answer::Deny { .. },
                ..
            }
        )
    };
    assert_eq!(bench.count(given), 1);
    bench.input(Input::Answered {
        request: RequestId("per_1".to_owned()),
        result: Ok(AnswerOutcome::Given),
    });
    assert_eq!(bench.state().phase, Phase::Running);
    let end = RequestEnd::Defaulted;
    let request = RequestId("per_1".to_owned());
    assert!(
        bench
            .events
            .contains(&Event::RequestClosed { request, end })
    );
}

#[test]
fn a_request_of_an_attended_task_waits_and_expires() {
    let mut bench = in_phase(Phase::InputRequired);
    bench.pass(119_000);
    let given = |e: &Effect| matches!(e, Effect::GiveAnswer { .. });
    assert_eq!(bench.count(given), 0);
    bench.pass(2_000);
    assert_eq!(bench.count(given), 1);
    bench.pass(60_000);
    assert_eq!(bench.count(given), 1, "one answer is under way");
}

#[test]
fn an_answer_that_fails_is_repeated_after_its_back_off() {
    let mut bench = in_phase(Phase::InputRequired);
    let answer = |bench: &mut Bench, ticket, answer| {
        bench.input(Input::Answer {
            ticket: Ticket(ticket),
            request: RequestId("per_1".to_owned()),
            answer,
            by: by("test"),
        });
    };
    answer(
        &mut bench,
        1,
        Answer::Deny {
            message: " ".to_owned(),
        },
    );
    assert!(matches!(
        bench.reply(1),
        Some(Reply::Refused(Refusal::BadAnswer(_)))
    ));
    answer(
        &mut bench,
        2,
        Answer::Choices {
            choices: Vec::new(),
        },
    );
    assert!(matches!(
        bench.reply(2),
        Some(Reply::Refused(Refusal::BadAnswer(_)))
    ));
    answer(&mut bench, 3, Answer::Allow { always: false });
    assert_eq!(bench.reply(3), Some(Reply::Answered));
    answer(&mut bench, 4, Answer::Allow { always: false });
    assert!(matches!(
        bench.reply(4),
        Some(Reply::Refused(Refusal::NoRequest(_)))
    ));
    let given = |e: &Effect| matches!(e, Effect::GiveAnswer { .. });
    for round in 1..4 {
        assert_eq!(bench.count(given), round, "not before the back-off is over");
        bench.input(Input::Answered {
            request: RequestId("per_1".to_owned()),
            result: Err(EngineError::Unreachable("down".to_owned())),
        });
        assert_eq!(bench.count(given), round, "not before the back-off is over");
        bench.pass(10_000);
    }
}

#[test]
fn a_reading_that_began_before_a_sending_failed_says_nothing_about_it() {
    let mut bench = Bench::running();
    let before = bench.report(Activity::Busy, unfinished());
    message(&mut bench, 1);
    assert_eq!(bench.sends(), vec![(2, PromptKind::Message)]);
    // A reading begins, the engine takes the prompt and its answer is lost, the reading comes back from before all that.
    bench.input(Input::Signal {
        child: false,
        signal: Signal::Idle,
    });
    assert_eq!(bench.reads(), 1);
    bench.input(Input::PromptSent {
        number: 2,
        result: Err(EngineError::Unreachable("lost".to_owned())),
    });
    bench.read(before);
    bench.pass(5_000);
    assert_eq!(bench.sends().len(), 1, "it is not repeated on old news");
    assert_eq!(bench.reads(), 2, "it is read again");
    let after = bench.report(Activity::Busy, unfinished());
    bench.read(after);
    bench.pass(5_000);
    assert_eq!(bench.sends().len(), 1, "it had arrived");
}

/// A reading that took long, or during which the session did something, shows what is there and not what is missing.
#[test]
fn a_reading_that_may_be_old_repeats_nothing() {
    for is_late in [true, false] {
        let mut bench = Bench::running();
        let before = bench.report(Activity::Busy, unfinished());
        message(&mut bench, 1);
        bench.input(Input::PromptSent {
            number: 2,
            result: Err(EngineError::Unreachable("lost".to_owned())),
        });
        bench.pass(500);
        assert_eq!(bench.reads(), 1);
        if is_late {
            bench.later(3_200);
        } else {
            bench.input(Input::Signal {
                child: false,
                signal: Signal::AssistantStarted,
            });
        }
        bench.read(before.clone());
        bench.pass(100);
        assert_eq!(bench.sends().len(), 1, "late: {is_late}");
        assert_eq!(bench.reads(), 2, "it is read again");
        bench.read(before);
        bench.pass(100);
        assert_eq!(bench.sends().len(), 2, "it never arrived");
    }
}
