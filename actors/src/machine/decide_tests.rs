//! Tables of the one decision: a record, a reading, and the verdict that must follow.

use super::decide::{Hints, TAKE_UP_GRACE_MS, Verdict, decide};
use super::state::TaskState;
use crate::command::{Caller, Notify, Priority, Source, TaskSpec};
use crate::event::{Event, FailureKind, Outcome, Prompt, PromptKind, SessionRef, Usage};
use crate::id::{EngineName, TaskId, WallTime, WorkerId};
use crate::ports::{Activity, LastMessage, PromptState, SessionReport};

const START: WallTime = WallTime(1_000_000);
const MAX_RESUMES: u32 = 2;

/// What is known of a task whose prompts got this far: (accepted, taken up).
fn state(prompts: &[(bool, bool)]) -> TaskState {
    let spec = TaskSpec {
        description: "x".to_owned(),
        engine: EngineName::new("local"),
        model: None,
        agent: None,
        source: Source::Empty,
        timeout_ms: 1,
        priority: Priority::Normal,
        labels: Vec::new(),
        observers: Vec::new(),
        attended: false,
        permissions: Vec::new(),
        max_steps: None,
        notify: Notify::default(),
        conversation: None,
    };
    let accepted = Event::TaskAccepted {
        spec: Box::new(spec),
        caller: Caller {
            token: "t".to_owned(),
            agent_id: "a".to_owned(),
        },
        idempotency_key: None,
        fingerprint: String::new(),
        from: Default::default(),
    };
    let mut state = TaskState::accepted(TaskId::new(uuid::Uuid::nil()), START, &accepted)
        .unwrap_or_else(|| unreachable!("it is the first event"));
    let session = SessionRef {
        id: "ses_1".to_owned(),
        directory: "/w".to_owned(),
        server: "1".to_owned(),
    };
    let worker = WorkerId("1".to_owned());
    state.fold(START, &Event::SessionOpened { session, worker });
    for (number, (accepted, taken_up)) in (1..).zip(prompts) {
        let kind = match number {
            1 => PromptKind::First,
            _ => PromptKind::Message,
        };
        let prompt = Prompt {
            number,
            kind,
            message_id: format!("msg_{number}"),
            part_id: format!("prt_{number}"),
            text: String::new(),
            carries: None,
        };
        state.fold(START, &Event::PromptWanted { prompt });
        if *accepted {
            state.fold(START, &Event::PromptAccepted { number });
        }
        if *taken_up {
            state.fold(START, &Event::PromptTakenUp { number });
        }
    }
    state
}

/// A reading in which the prompts are (stored, taken up).
fn report(activity: Activity, last: LastMessage, prompts: &[(bool, bool)]) -> SessionReport {
    let count = prompts.len();
    SessionReport {
        worker: WorkerId("1".to_owned()),
        activity,
        prompts: (1..)
            .zip(prompts)
            .map(|(number, (stored, taken_up))| PromptState {
                message_id: format!("msg_{number}"),
                stored: *stored,
                complete: *stored,
                taken_up: *taken_up,
                newest: number == count,
            })
            .collect(),
        last,
        requests: Vec::new(),
        usage: Usage::default(),
        steps: 0,
        unfinished_in_a_row: 0,
        text: String::new(),
        text_cut: false,
        running_tools: Vec::new(),
        newest_at: None,
        todos: Vec::new(),
    }
}

fn assistant(finish: Option<&str>) -> LastMessage {
    LastMessage::Assistant {
        completed: finish.is_some(),
        finish: finish.map(str::to_owned),
        error: None,
        rejected: false,
    }
}

fn with_error(name: &str) -> LastMessage {
    LastMessage::Assistant {
        completed: true,
        finish: None,
        error: Some((name.to_owned(), "why".to_owned())),
        rejected: false,
    }
}

/// The verdict in a word: an ended run by its outcome.
fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Working => "working".to_owned(),
        Verdict::Wait => "wait".to_owned(),
        Verdict::Resend(number) => format!("resend {number}"),
        Verdict::Resume(_) => "resume".to_owned(),
        Verdict::Ended(Outcome::Succeeded) => "succeeded".to_owned(),
        Verdict::Ended(Outcome::Failed { failure }) => format!("{:?}", failure.kind),
    }
}

fn verdict(state: &TaskState, report: &SessionReport, hints: &Hints, after_ms: u64) -> String {
    word(&decide(
        state,
        report,
        hints,
        MAX_RESUMES,
        START.plus_ms(after_ms),
    ))
}

const TAKEN: [(bool, bool); 1] = [(true, true)];
const LONG: u64 = TAKE_UP_GRACE_MS + 1;

#[test]
fn a_busy_engine_is_working_whatever_else_is_seen() {
    let check = |last: LastMessage| {
        let retrying = Activity::Retrying {
            attempt: 1,
            message: String::new(),
            next: None,
        };
        for activity in [Activity::Busy, retrying] {
            let report = report(activity, last.clone(), &TAKEN);
            assert_eq!(
                verdict(&state(&TAKEN), &report, &Hints::default(), LONG),
                "working"
            );
        }
    };
    check(LastMessage::None);
    check(assistant(Some("stop")));
    check(assistant(None));
    check(with_error("APIError"));
}

#[test]
fn an_idle_session_is_judged_by_its_last_message() {
    let check = |last: LastMessage, expected: &str| {
        let report = report(Activity::Idle, last, &TAKEN);
        assert_eq!(
            verdict(&state(&TAKEN), &report, &Hints::default(), LONG),
            expected
        );
    };
    let kind = |kind: FailureKind| format!("{kind:?}");
    check(assistant(Some("stop")), "succeeded");
    check(assistant(Some("length")), &kind(FailureKind::Model));
    check(assistant(Some("content-filter")), &kind(FailureKind::Model));
    check(assistant(Some("other")), &kind(FailureKind::Model));
    check(assistant(Some("tool-calls")), "resume");
    check(assistant(None), "resume");
    check(with_error("APIError"), &kind(FailureKind::Model));
    check(
        with_error("MessageAbortedError"),
        &kind(FailureKind::Aborted),
    );
    check(LastMessage::User, "wait");
    check(LastMessage::None, "wait");
    let rejected = LastMessage::Assistant {
        completed: true,
        finish: Some("tool-calls".to_owned()),
        error: None,
        rejected: true,
    };
    check(rejected, &kind(FailureKind::Rejected));
}

#[test]
fn a_prompt_that_never_began_is_sent_again_after_its_time_and_not_for_ever() {
    let check = |stored: bool, repeats: u32, after_ms: u64, expected: &str| {
        let report = report(Activity::Idle, LastMessage::None, &[(stored, false)]);
        let mut state = state(&[(true, false)]);
        for _ in 0..repeats {
            state.fold(START, &Event::PromptAccepted { number: 1 });
        }
        let hints = Hints::default();
        assert_eq!(verdict(&state, &report, &hints, after_ms), expected);
    };
    for stored in [false, true] {
        check(stored, 0, 1_000, "wait");
        check(stored, 0, TAKE_UP_GRACE_MS - 1, "wait");
        check(stored, 0, LONG, "resend 1");
        check(stored, 1, LONG, "resend 1");
        check(stored, 2, LONG, "Engine");
    }
}

#[test]
fn a_prompt_that_was_lost_with_its_workers_is_not_blamed_on_opencode() {
    let report = report(Activity::Idle, LastMessage::None, &[(false, false)]);
    let mut state = state(&[(true, false)]);
    for (worker, expected) in [("2", "resend 1"), ("3", "resend 1"), ("4", "WorkerLost")] {
        let worker = WorkerId(worker.to_owned());
        state.fold(START, &Event::WorkerChanged { worker });
        let now = verdict(&state, &report, &Hints::default(), 0);
        assert_eq!(now, expected);
        state.fold(START, &Event::PromptAccepted { number: 1 });
    }
}

#[test]
fn of_several_prompts_the_newest_stored_or_the_oldest_missing_is_sent_again() {
    let check = |stored: [bool; 2], expected: &str| {
        let seen = stored.map(|stored| (stored, false));
        let report = report(Activity::Idle, LastMessage::User, &seen);
        let state = state(&[(true, false), (true, false)]);
        assert_eq!(
            verdict(&state, &report, &Hints::default(), LONG),
            expected,
            "{stored:?}"
        );
    };
    check([false, false], "resend 1");
    check([true, false], "resend 2");
    check([true, true], "resend 2");
}

#[test]
fn a_message_that_waits_to_be_read_keeps_a_finished_answer_from_ending_the_run() {
    let state = state(&[(true, true), (true, false)]);
    let seen = [(true, true), (true, false)];
    let report = report(Activity::Idle, assistant(Some("stop")), &seen);
    assert_eq!(verdict(&state, &report, &Hints::default(), 1_000), "wait");
    assert_eq!(
        verdict(&state, &report, &Hints::default(), LONG),
        "resend 2"
    );
}

#[test]
fn an_error_before_the_run_began_ends_it_with_its_reason() {
    let hints = Hints {
        last_error: Some(("ProviderAuthError".to_owned(), "no key".to_owned())),
        ..Hints::default()
    };
    let report = report(Activity::Idle, LastMessage::User, &[(true, false)]);
    assert_eq!(
        verdict(&state(&[(true, false)]), &report, &hints, 100),
        "Model"
    );
}

#[test]
fn after_the_workers_death_what_it_had_not_begun_is_sent_again_at_once() {
    let mut state = state(&[(true, false)]);
    let worker = WorkerId("2".to_owned());
    state.fold(START, &Event::WorkerChanged { worker });
    let report = report(Activity::Idle, LastMessage::None, &[(false, false)]);
    assert_eq!(verdict(&state, &report, &Hints::default(), 100), "resend 1");
    let sent = Hints {
        sent_at: Some(START),
        ..Hints::default()
    };
    assert_eq!(verdict(&state, &report, &sent, 100), "wait");
}

#[test]
fn a_cut_run_is_continued_a_bounded_number_of_times() {
    let check = |resumes: u32, since_ms: u64, expected: &str| {
        let mut state = state(&TAKEN);
        for resume in 1..=resumes {
            let reason = String::new();
            state.fold(START, &Event::ResumeWanted { resume, reason });
        }
        let report = report(Activity::Idle, assistant(None), &TAKEN);
        assert_eq!(
            verdict(&state, &report, &Hints::default(), since_ms),
            expected,
            "{resumes} resumes, {since_ms} ms"
        );
    };
    check(0, 0, "resume");
    check(1, 1_000, "wait");
    check(1, LONG, "resume");
    check(2, 1_000, "wait");
    check(2, LONG, "WorkerLost");
}

#[test]
fn an_abort_by_the_workers_end_is_a_cut_by_anybody_else_a_failure() {
    let mut state = state(&TAKEN);
    let report = report(Activity::Idle, with_error("MessageAbortedError"), &TAKEN);
    assert_eq!(verdict(&state, &report, &Hints::default(), 0), "Aborted");
    let worker = WorkerId("2".to_owned());
    state.fold(START, &Event::WorkerChanged { worker });
    assert_eq!(verdict(&state, &report, &Hints::default(), 0), "resume");
}
