//! Permissions: policy, defaults, answers for good, stale requests, and what the worker is told beforehand.

use chargehand_actors::command::{Answer, ControlSignal, PermissionAction, PermissionRule};
use chargehand_actors::event::{
    Event, FailureKind, Outcome, Phase, Request, RequestEnd, RequestKind,
};
use chargehand_actors::fakes::World;
use chargehand_actors::id::RequestId;
use chargehand_actors::machine::{Effect, Input, Reply, Ticket};
use chargehand_actors::ports::{Activity, AnswerOutcome, EngineError, LastMessage};

use crate::bench::{Bench, LIMITS, by, session, unfinished};
use crate::stage::{Stage, sleep};

fn rule(text: &str, action: PermissionAction) -> PermissionRule {
    PermissionRule::parse(text, action).unwrap()
}

fn allow(text: &str) -> PermissionRule {
    rule(text, PermissionAction::Allow)
}

fn ask(text: &str) -> PermissionRule {
    rule(text, PermissionAction::Ask)
}

fn deny(text: &str) -> PermissionRule {
    rule(text, PermissionAction::Deny)
}

fn asks(id: &str, permission: &str, patterns: &[&str]) -> Request {
    let owned = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
    Request {
        id: RequestId(id.to_owned()),
        session: session().id,
        text: format!("{permission}: {}", patterns.join(", ")),
        kind: RequestKind::Permission {
            permission: permission.to_owned(),
            patterns: owned(patterns),
            always: Vec::new(),
        },
    }
}

fn bench(rules: &[PermissionRule], attended: bool) -> Bench {
    Bench::running_task(LIMITS, |spec| {
        spec.permissions = rules.to_vec();
        spec.attended = attended;
    })
}

/// The worker asks this, and nothing else.
fn ask_for(bench: &mut Bench, request: Request) {
    let mut report = bench.report(Activity::Busy, unfinished());
    report.requests = vec![request];
    bench.read(report);
}

/// The answers given since the last look, with who gave them.
fn answers(bench: &mut Bench) -> Vec<(Answer, String)> {
    let events = std::mem::take(&mut bench.events);
    let wanted = events.into_iter().filter_map(|event| match event {
        Event::AnswerWanted { answer, by, .. } => Some((answer, by)),
        _ => None,
    });
    wanted.collect()
}

/// The engine took the answer.
fn given(bench: &mut Bench, id: &str) {
    bench.input(Input::Answered {
        request: RequestId(id.to_owned()),
        result: Ok(AnswerOutcome::Given),
    });
}

const ONCE: Answer = Answer::Allow { always: false };

#[test]
fn the_policy_answers_at_once_attended_or_not() {
    for attended in [true, false] {
        let rules = [allow("bash"), deny("bash:git push*")];
        let mut bench = bench(&rules, attended);
        ask_for(&mut bench, asks("per_1", "bash", &["ls", "cat x"]));
        assert_eq!(answers(&mut bench), [(ONCE, "policy".to_owned())]);
        given(&mut bench, "per_1");
        assert_eq!(bench.state().phase, Phase::Running);
        ask_for(&mut bench, asks("per_2", "bash", &["ls", "git push -f"]));
        let (answer, who) = answers(&mut bench).remove(0);
        let Answer::Deny { message } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(who, "policy");
        assert!(
            message.contains("bash:git push*"),
            "names its rule: {message}"
        );
        given(&mut bench, "per_2");
        let closed = Event::RequestClosed {
            request: RequestId("per_2".to_owned()),
            end: RequestEnd::Answered,
        };
        assert!(bench.events.contains(&closed));
        let sent = bench.count(|effect| matches!(effect, Effect::GiveAnswer { .. }));
        assert_eq!(sent, 2);
    }
}

#[test]
fn what_no_rule_decides_is_open_for_the_attended_and_defaulted_for_others() {
    for rules in [vec![], vec![ask("bash")], vec![deny("edit"), allow("read")]] {
        let mut open = bench(&rules, true);
        ask_for(&mut open, asks("per_1", "bash", &["ls"]));
        assert_eq!(answers(&mut open), []);
        assert_eq!(open.state().phase, Phase::InputRequired);
        let shown = open.state().view().requests.remove(0);
        assert_eq!(shown.expires_at, open.now.plus_ms(LIMITS.request_expiry_ms));
        assert_eq!(shown.answered_by, None);
        open.pass(LIMITS.request_expiry_ms + 1_000);
        let (answer, who) = answers(&mut open).remove(0);
        assert!(matches!(answer, Answer::Deny { .. }));
        assert_eq!(who, "default");
        assert_eq!(
            open.state().view().requests[0].answered_by.as_deref(),
            Some("default")
        );

        let mut alone = bench(&rules, false);
        ask_for(&mut alone, asks("per_1", "bash", &["ls"]));
        assert!(
            matches!(&answers(&mut alone)[..], [(Answer::Deny { .. }, who)] if who == "default")
        );
    }
}

#[test]
fn whoever_may_steer_and_watches_attends_the_task_for_as_long_as_he_is_there() {
    let mut bench = bench(&[ask("bash")], false);
    let watch = |bench: &mut Bench, ticket, people: &[&str]| {
        bench.input(Input::Attendance {
            ticket: Ticket(ticket),
            people: people.iter().map(|one| (*one).to_owned()).collect(),
        });
        assert_eq!(bench.reply(ticket), Some(Reply::Noted));
    };
    let changes = |bench: &Bench| {
        let changed = |event: &&Event| matches!(event, Event::AttendanceChanged { .. });
        bench.events.iter().filter(changed).count()
    };
    watch(&mut bench, 1, &["@anna:fake"]);
    watch(&mut bench, 2, &["@anna:fake"]);
    assert_eq!(changes(&bench), 1, "the same again is no event");
    ask_for(&mut bench, asks("per_1", "bash", &["ls"]));
    assert_eq!(answers(&mut bench), []);
    assert_eq!(bench.state().phase, Phase::InputRequired);
    // What is open keeps its deadline when the last one goes.
    watch(&mut bench, 3, &[]);
    bench.pass(LIMITS.request_expiry_ms - 1_000);
    assert_eq!(answers(&mut bench), []);
    bench.pass(2_000);
    assert!(matches!(&answers(&mut bench)[..], [(Answer::Deny { .. }, who)] if who == "default"));
    given(&mut bench, "per_1");
    ask_for(&mut bench, asks("per_2", "bash", &["ls"]));
    assert!(
        matches!(&answers(&mut bench)[..], [(Answer::Deny { .. }, who)] if who == "default"),
        "nobody is there for the next one"
    );
}

#[test]
fn an_answer_for_good_holds_for_the_like_survives_a_restart_and_loosens_no_denial() {
    let rules = [ask("bash"), deny("bash:git push*")];
    let mut bench = bench(&rules, true);
    let mut request = asks("per_1", "bash", &["git status"]);
    if let RequestKind::Permission { always, .. } = &mut request.kind {
        always.push("git *".to_owned());
    }
    ask_for(&mut bench, request);
    bench.input(Input::Answer {
        ticket: Ticket(1),
        request: RequestId("per_1".to_owned()),
        answer: Answer::Allow { always: true },
        by: by("me"),
    });
    assert_eq!(bench.reply(1), Some(Reply::Answered));
    given(&mut bench, "per_1");
    answers(&mut bench);
    bench.crash();
    bench.engine_up();
    ask_for(&mut bench, asks("per_2", "bash", &["git log"]));
    assert_eq!(answers(&mut bench), [(ONCE, "policy".to_owned())]);
    given(&mut bench, "per_2");
    ask_for(
        &mut bench,
        asks("per_3", "bash", &["git log", "git push x"]),
    );
    assert!(matches!(&answers(&mut bench)[..], [(Answer::Deny { .. }, who)] if who == "policy"));
    given(&mut bench, "per_3");
    ask_for(&mut bench, asks("per_4", "bash", &["rm x"]));
    assert_eq!(answers(&mut bench), [], "that was not allowed");
    assert_eq!(bench.state().phase, Phase::InputRequired);
}

#[test]
fn an_answer_that_the_engine_refuses_is_replaced_by_the_default_and_then_ends_the_task() {
    let refused = |bench: &mut Bench| {
        bench.input(Input::Answered {
            request: RequestId("per_1".to_owned()),
            result: Err(EngineError::Refused("400".to_owned())),
        });
    };
    let mut bench = bench(&[], true);
    ask_for(&mut bench, asks("per_1", "bash", &["ls"]));
    bench.input(Input::Answer {
        ticket: Ticket(1),
        request: RequestId("per_1".to_owned()),
        answer: ONCE,
        by: by("me"),
    });
    assert_eq!(answers(&mut bench), [(ONCE, "me".to_owned())]);
    refused(&mut bench);
    let told =
        |event: &Event| matches!(event, Event::Remark { message } if message.contains("400"));
    assert!(bench.events.iter().any(told), "{:?}", bench.events);
    assert!(matches!(&answers(&mut bench)[..], [(Answer::Deny { .. }, who)] if who == "default"));
    assert_eq!(bench.state().phase, Phase::InputRequired);
    let given = bench.count(|effect| matches!(effect, Effect::GiveAnswer { .. }));
    assert_eq!(given, 2);
    refused(&mut bench);
    assert_eq!(bench.state().phase, Phase::Finishing);
    let Some(Outcome::Failed { failure }) = &bench.state().outcome else {
        panic!("{:?}", bench.state().outcome)
    };
    assert_eq!(failure.kind, FailureKind::Engine);
    assert!(failure.message.contains("400"), "{failure:?}");
}

#[test]
fn somebody_who_is_called_default_is_a_person() {
    let mut bench = bench(&[], true);
    ask_for(&mut bench, asks("per_1", "bash", &["ls"]));
    bench.input(Input::Answer {
        ticket: Ticket(1),
        request: RequestId("per_1".to_owned()),
        answer: ONCE,
        by: by("default"),
    });
    given(&mut bench, "per_1");
    let answered = |event: &Event| {
        let end = RequestEnd::Answered;
        matches!(event, Event::RequestClosed { end: e, .. } if *e == end)
    };
    assert!(bench.events.iter().any(answered));
}

#[test]
fn a_policy_answers_no_question() {
    let mut bench = bench(&[allow("*")], true);
    let question = chargehand_actors::event::Question {
        text: "Which?".to_owned(),
        header: "h".to_owned(),
        options: vec!["A".to_owned()],
    };
    let kind = RequestKind::Question {
        questions: vec![question],
    };
    let request = asks("que_1", "question", &[]);
    ask_for(&mut bench, Request { kind, ..request });
    assert_eq!(answers(&mut bench), []);
    assert_eq!(bench.state().phase, Phase::InputRequired);
}

#[test]
fn requests_are_no_longer_answered_when_their_run_is_over() {
    let mut bench = bench(&[allow("bash")], true);
    bench.control(1, ControlSignal::Pause);
    ask_for(&mut bench, asks("per_1", "bash", &["ls"]));
    assert_eq!(answers(&mut bench), [], "the run is being stopped");
    let mut bench = self::bench(&[], true);
    ask_for(&mut bench, asks("per_1", "bash", &["ls"]));
    // A new worker knows nothing of it.
    bench.engine_up();
    let report = bench.report(Activity::Busy, unfinished());
    bench.read(report);
    assert_eq!(bench.state().phase, Phase::Running);
    bench.input(Input::Answer {
        ticket: Ticket(2),
        request: RequestId("per_1".to_owned()),
        answer: ONCE,
        by: by("me"),
    });
    assert!(matches!(bench.reply(2), Some(Reply::Refused(_))));
}

#[test]
fn a_rejection_that_ended_the_run_is_no_success() {
    let mut bench = bench(&[], false);
    let last = LastMessage::Assistant {
        completed: true,
        finish: Some("tool-calls".to_owned()),
        error: None,
        rejected: true,
    };
    let report = bench.report(Activity::Idle, last);
    bench.read_twice(&report);
    bench.input(Input::ChangesTaken(Ok(Default::default())));
    assert_eq!(bench.state().phase, Phase::Failed);
    let failure = bench.state().failure.clone().unwrap();
    assert_eq!(failure.kind, FailureKind::Rejected);
}

#[test]
fn the_first_prompt_tells_what_holds() {
    let text = |attended: bool, rules: Vec<PermissionRule>, max_steps: Option<u32>| {
        let bench = Bench::running_task(LIMITS, |spec| {
            spec.attended = attended;
            spec.permissions = rules;
            spec.max_steps = max_steps;
        });
        bench.state().prompts[0].prompt.text.clone()
    };
    let alone = text(false, vec![], None);
    assert!(
        alone.contains("do not ask") && alone.contains("5 minutes of running time."),
        "{alone}"
    );
    let told = text(
        true,
        vec![deny("bash:git push*"), deny("webfetch"), allow("edit")],
        Some(9),
    );
    assert!(!told.contains("do not ask"), "{told}");
    for part in [
        "comes within 2 minutes",
        "bash: git push*; webfetch.",
        "at most 9 steps",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(!told.contains("edit"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_task_goes_on_after_each_answer_of_its_policy() {
    let stage = Stage::new().await;
    let mut submit = World::task("ask bash; work 100; ask edit; work 100");
    submit.spec.permissions = vec![allow("bash"), deny("edit")];
    let task = stage.send(submit).await;
    stage.reach(task, Phase::Completed).await;
    assert_eq!(stage.world.count(task, "answer_wanted"), 2);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_hard_deadline_stands_in_every_phase() {
    // An attended task that asks, and one that is paused.
    let stage = Stage::new().await;
    let mut waits = World::task("ask bash; work 100");
    waits.spec.attended = true;
    let waits = stage.send(waits).await;
    stage.reach(waits, Phase::InputRequired).await;
    let paused = stage.submit("work 60000").await;
    stage.works(paused).await;
    stage.control(paused, ControlSignal::Pause).await.unwrap();
    sleep(24 * 3_600 * 1_000 + 60_000).await;
    assert_eq!(stage.phase(paused).await, Phase::Timeout);
    // Its request was defaulted long ago.
    assert_eq!(stage.phase(waits).await, Phase::Completed);
    stage.end().await;
}

#[test]
fn a_reading_that_is_older_than_the_answer_does_not_ask_again() {
    let mut bench = bench(&[allow("bash")], true);
    ask_for(&mut bench, asks("per_1", "bash", &["ls"]));
    bench.pass(60_000);
    assert!(bench.reads() > 0, "a reading is under way");
    given(&mut bench, "per_1");
    assert_eq!(bench.state().phase, Phase::Running);
    // That reading began before the answer was given.
    ask_for(&mut bench, asks("per_1", "bash", &["ls"]));
    let opened = |event: &&Event| matches!(event, Event::RequestOpened { .. });
    assert_eq!(bench.events.iter().filter(opened).count(), 1);
    assert_eq!(bench.state().phase, Phase::Running);
    // The next one is believed: an engine that still asks is answered.
    bench.pass(60_000);
    ask_for(&mut bench, asks("per_1", "bash", &["ls"]));
    assert_eq!(bench.events.iter().filter(opened).count(), 2);
}
