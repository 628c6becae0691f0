//! The checker itself: a true history has no contradiction, and each kind of lie is found.

use serde_json::{Value, json};

use crate::checker::{Delegated, Evidence, Message, Part, Session, Wanted, violations};

fn event(word: &str) -> Value {
    json!({"event": word})
}

fn message(id: &str, data: Value) -> Message {
    Message {
        id: id.to_owned(),
        session: "s1".to_owned(),
        data,
    }
}

fn part(message: &str, data: Value) -> Part {
    Part {
        message: message.to_owned(),
        session: "s1".to_owned(),
        data,
    }
}

fn call(step: u32, status: &str, output: &str) -> Value {
    json!({"type": "tool", "state": {"status": status, "output": output,
        "input": {"command": format!(": step:one:{step}; work")}}})
}

/// One task with one command, done in peace.
fn truth() -> Evidence {
    Evidence {
        tasks: vec![Delegated {
            tag: "one".to_owned(),
            id: "t1".to_owned(),
            id_again: "t1".to_owned(),
            wanted: Wanted::Says(vec!["one done.".to_owned()]),
            meddled: false,
            steps: 1,
            status: json!({"status": "completed", "output": "one done."}),
            history: vec![event("task_accepted"), event("task_completed")],
            worker_deaths: 0,
        }],
        listed: vec!["t1".to_owned()],
        sessions: vec![Session {
            id: "s1".to_owned(),
            task: "t1".to_owned(),
            attempt: 1,
        }],
        messages: vec![
            message("u1", json!({"role": "user"})),
            message(
                "a1",
                json!({"role": "assistant", "parentID": "u1", "finish": "tool-calls"}),
            ),
            message(
                "a2",
                json!({"role": "assistant", "parentID": "u1", "finish": "stop"}),
            ),
        ],
        parts: vec![
            part("u1", json!({"type": "text", "text": "Do this. <script>"})),
            part("a1", call(1, "completed", "")),
        ],
        lines: vec!["begun:one:1".to_owned(), "ended:one:1".to_owned()],
        ..Evidence::default()
    }
}

#[test]
fn the_truth_has_no_contradiction() {
    assert_eq!(violations(&truth()), Vec::<String>::new());
}

#[test]
fn a_cut_command_may_have_stopped_anywhere_and_a_lost_worker_may_be_told() {
    let mut cut = truth();
    cut.tasks[0].worker_deaths = 1;
    cut.parts[1] = part("a1", call(1, "running", ""));
    assert_eq!(violations(&cut), Vec::<String>::new());
    cut.lines.pop();
    assert_eq!(violations(&cut), Vec::<String>::new());
    let mut paused = truth();
    paused.tasks[0].meddled = true;
    paused.parts[1] = part("a1", call(1, "completed", "User aborted the command"));
    paused.lines.pop();
    assert_eq!(violations(&paused), Vec::<String>::new());
    let mut lost = cut;
    lost.tasks[0].worker_deaths = 3;
    lost.tasks[0].status = json!({"status": "failed", "failure": {"kind": "worker_lost"}});
    lost.tasks[0].history[1] = event("task_failed");
    assert_eq!(violations(&lost), Vec::<String>::new());
    lost.tasks[0].worker_deaths = 2;
    assert!(!violations(&lost).is_empty(), "two deaths are no excuse");
}

/// A lie, and what the checker says about it.
type Lie = (&'static str, fn(&mut Evidence));

const LIES: &[Lie] = &[
    ("its history ends as", |e| {
        e.tasks[0].history.push(event("task_failed"));
    }),
    ("its history ends as []", |e| {
        e.tasks[0].history.truncate(1);
    }),
    ("should be", |e| {
        e.tasks[0].status["output"] = json!("two done.");
    }),
    ("should be", |e| e.tasks[0].wanted = Wanted::Cancelled),
    ("should be", |e| e.tasks[0].wanted = Wanted::TimedOut),
    ("its key also led to t2", |e| {
        e.tasks[0].id_again = "t2".to_owned();
    }),
    ("only Chargehand knows task t2", |e| {
        e.listed.push("t2".to_owned());
    }),
    ("only the planner knows task t1", |e| e.listed.clear()),
    ("two keys led to one task", |e| {
        let again = e.tasks[0].clone();
        e.tasks.push(again);
    }),
    ("attempt 1 ran in", |e| {
        e.sessions.push(Session {
            id: "s2".to_owned(),
            ..e.sessions[0].clone()
        });
        e.messages.push(Message {
            session: "s2".to_owned(),
            ..message("u2", json!({"role": "user"}))
        });
    }),
    ("has 2 texts", |e| {
        let again = json!({"type": "text", "text": "Do this."});
        e.parts.push(part("u1", again));
    }),
    ("was answered 2 times", |e| {
        let again = json!({"role": "assistant", "parentID": "u1", "finish": "stop"});
        e.messages.push(message("a3", again));
    }),
    ("was given to the worker 2 times", |e| {
        e.messages.push(message("u2", json!({"role": "user"})));
        let again = json!({"type": "text", "text": "Do this. <script>"});
        e.parts.push(part("u2", again));
    }),
    ("one:1: done 2 times", |e| {
        e.parts.push(part("a2", call(1, "completed", "")));
        e.lines.extend(truth().lines);
    }),
    ("begun", |e| e.lines.push("begun:one:1".to_owned())),
    ("1 begun and 0 ended", |e| {
        e.lines.pop();
    }),
    ("one:asked: asked for 0 times", |e| {
        e.lines.push("begun:one:asked".to_owned());
    }),
    ("one:1: nothing disturbed its worker", |e| {
        e.lines.clear();
        e.parts.pop();
    }),
    ("session s1 is left", |e| {
        e.left.sessions.push("s1".to_owned());
    }),
    ("a process is left: 7 sleep", |e| {
        e.left.processes.push("7 sleep".to_owned());
    }),
    ("directory t9/1 is of no task", |e| {
        e.left.workdirs.push(("t9".to_owned(), "1".to_owned()));
    }),
    ("directory t1/1.making-x is half-made", |e| {
        e.left
            .workdirs
            .push(("t1".to_owned(), "1.making-x".to_owned()));
    }),
];

#[test]
fn every_lie_is_found() {
    for (number, (says, lie)) in LIES.iter().enumerate() {
        let mut evidence = truth();
        lie(&mut evidence);
        let found = violations(&evidence);
        assert!(
            found.iter().any(|one| one.contains(says)),
            "lie {number} ({says}) was not found: {found:?}"
        );
    }
}
