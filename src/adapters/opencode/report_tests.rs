//! The table of session states that recovery has to tell apart, as OpenCode 1.18.33 leaves them.

#![expect(
    clippy::unwrap_used,
    reason = "a fixture that does not parse must fail the test"
)]

use chargehand_actors::event::RequestKind;
use chargehand_actors::id::{WallTime, WorkerId};
use chargehand_actors::ports::{Activity, LastMessage, SessionReport};
use serde_json::{Value, json};

use super::{Records, TEXT_LIMIT, cut, report};

fn user(id: &str, parts: Value) -> Value {
    json!({"info":{"id":id,"role":"user","time":{"created":1}},"parts":parts})
}

fn prompt(id: &str) -> Value {
    user(id, json!([{"id":"prt_1","type":"text","text":"do it"}]))
}

fn assistant(info: Value, parts: Value) -> Value {
    let mut base = json!({"id":"msg_a","role":"assistant","time":{"created":2}});
    for (key, value) in info.as_object().unwrap() {
        base[key] = value.clone();
    }
    json!({"info":base,"parts":parts})
}

fn done(finish: &str) -> Value {
    assistant(
        json!({"time":{"created":2,"completed":3},"finish":finish,
               "tokens":{"input":10,"output":5,"reasoning":1,"cache":{"read":2,"write":3}},"cost":0.5}),
        json!([{"type":"text","text":"hello"}]),
    )
}

fn read(status: Option<Value>, messages: Vec<Value>) -> SessionReport {
    let records = Records {
        status: status.map(|status| serde_json::from_value(status).unwrap()),
        messages: messages
            .into_iter()
            .map(|message| serde_json::from_value(message).unwrap())
            .collect(),
        ..Records::default()
    };
    report(&records, WorkerId("w".to_owned()), &["msg_u".to_owned()])
}

/// (stored, complete, taken_up, newest) of the prompt asked about.
fn prompt_of(report: &SessionReport) -> (bool, bool, bool, bool) {
    let prompt = &report.prompts[0];
    (
        prompt.stored,
        prompt.complete,
        prompt.taken_up,
        prompt.newest,
    )
}

fn ended(
    completed: bool,
    finish: Option<&str>,
    error: Option<(&str, &str)>,
    rejected: bool,
) -> LastMessage {
    LastMessage::Assistant {
        completed,
        finish: finish.map(str::to_owned),
        error: error.map(|(name, text)| (name.to_owned(), text.to_owned())),
        rejected,
    }
}

#[test]
fn states_of_a_prompt() {
    let table = [
        (
            "empty session",
            vec![],
            (false, false, false, false),
            LastMessage::None,
        ),
        (
            "lost after the 204",
            vec![prompt("msg_0"), done("stop")],
            (false, false, false, false),
            ended(true, Some("stop"), None, false),
        ),
        (
            "cut before its part",
            vec![user("msg_u", json!([]))],
            (true, false, false, true),
            LastMessage::User,
        ),
        (
            "not taken up",
            vec![prompt("msg_u")],
            (true, true, false, true),
            LastMessage::User,
        ),
        (
            "answered",
            vec![prompt("msg_u"), done("stop")],
            (true, true, true, true),
            ended(true, Some("stop"), None, false),
        ),
        (
            "followed by another prompt",
            vec![prompt("msg_u"), done("stop"), prompt("msg_v")],
            (true, true, true, false),
            LastMessage::User,
        ),
        (
            "queued behind a running turn",
            vec![prompt("msg_0"), done("tool-calls"), prompt("msg_u")],
            (true, true, false, true),
            LastMessage::User,
        ),
    ];
    for (name, messages, state, last) in table {
        let report = read(None, messages);
        assert_eq!(prompt_of(&report), state, "{name}");
        assert_eq!(report.last, last, "{name}");
        assert_eq!(report.activity, Activity::Idle, "{name}");
    }
}

#[test]
fn ends_of_a_run() {
    let rejected = json!([{"type":"tool","tool":"bash","state":{"status":"error",
        "error":"The user rejected permission to use this specific tool call."}}]);
    let corrected = json!([{"type":"tool","tool":"bash","state":{"status":"error",
        "error":"The user rejected permission to use this specific tool call with the following feedback: no"}},
        {"type":"tool","tool":"read","state":{"status":"completed"}}]);
    let table = [
        (
            "unfinished",
            json!({}),
            json!([]),
            ended(false, None, None, false),
        ),
        (
            "aborted",
            json!({"time":{"created":1,"completed":2},"error":{"name":"MessageAbortedError","data":{"message":"Aborted"}}}),
            json!([]),
            ended(true, None, Some(("MessageAbortedError", "Aborted")), false),
        ),
        (
            "refused by the provider",
            json!({"time":{"created":1,"completed":2},"error":{"name":"APIError","data":{"message":"bad key","statusCode":401}}}),
            json!([]),
            ended(true, None, Some(("APIError", "401: bad key")), false),
        ),
        (
            "rejected",
            json!({"time":{"created":1,"completed":2},"finish":"tool-calls"}),
            rejected,
            ended(true, Some("tool-calls"), None, true),
        ),
        (
            "went on after a refusal",
            json!({"time":{"created":1,"completed":2},"finish":"tool-calls"}),
            corrected,
            ended(true, Some("tool-calls"), None, false),
        ),
    ];
    for (name, info, parts, last) in table {
        let report = read(None, vec![prompt("msg_u"), assistant(info, parts)]);
        assert_eq!(report.last, last, "{name}");
        assert!(report.prompts[0].taken_up, "{name}");
    }
}

#[test]
fn status_words() {
    let busy = json!({"type":"busy"});
    let retry = json!({"type":"retry","attempt":3,"message":"overloaded","next":5});
    assert_eq!(read(Some(busy), vec![]).activity, Activity::Busy);
    assert_eq!(
        read(Some(retry), vec![]).activity,
        Activity::Retrying {
            attempt: 3,
            message: "overloaded".to_owned(),
            next: Some(WallTime(5)),
        }
    );
    assert_eq!(
        read(Some(json!({"type":"idle"})), vec![]).activity,
        Activity::Idle
    );
    assert_eq!(
        read(Some(json!({"type":"dreaming"})), vec![]).activity,
        Activity::Busy
    );
}

#[test]
fn the_endless_loop_is_counted_from_the_newest_ended_step() {
    let table = [
        (
            vec![
                prompt("u"),
                done("unknown"),
                done("unknown"),
                done("unknown"),
            ],
            3,
        ),
        (
            vec![
                prompt("u"),
                done("unknown"),
                done("unknown"),
                assistant(json!({}), json!([])),
            ],
            2,
        ),
        (vec![prompt("u"), done("unknown"), done("tool-calls")], 0),
        (vec![prompt("u"), done("stop"), done("unknown")], 1),
        (vec![prompt("u")], 0),
    ];
    for (messages, count) in table {
        assert_eq!(read(None, messages).unfinished_in_a_row, count);
    }
}

#[test]
fn usage_steps_and_text_cover_all_assistants() {
    let report = read(
        None,
        vec![prompt("msg_u"), done("tool-calls"), done("stop")],
    );
    assert_eq!(report.steps, 2);
    assert_eq!(
        (
            report.usage.input,
            report.usage.output,
            report.usage.reasoning
        ),
        (20, 10, 2)
    );
    assert_eq!((report.usage.cache_read, report.usage.cache_write), (4, 6));
    assert!((report.usage.cost - 1.0).abs() < 1e-9);
    assert_eq!(report.text, "hello");
    assert!(!report.text_cut);
}

#[test]
fn long_text_is_cut_between_characters() {
    let (text, was_cut) = cut("é".repeat(TEXT_LIMIT), TEXT_LIMIT - 1);
    assert!(was_cut);
    assert_eq!(text.len(), TEXT_LIMIT - 2);
}

#[test]
fn the_text_of_a_prompt_is_never_the_answer() {
    // The prompt stands alone, is the newest message after an answer, or its answer has no text.
    for messages in [
        vec![prompt("msg_u")],
        vec![prompt("msg_0"), done("stop"), prompt("msg_u")],
        vec![
            prompt("msg_u"),
            assistant(json!({"finish":"stop"}), json!([])),
        ],
    ] {
        let report = read(None, messages);
        assert!(!report.text.contains("do it"), "{report:?}");
    }
}

#[test]
fn a_tool_runs_only_while_its_session_does() {
    let running = assistant(
        json!({}),
        json!([{"type":"tool","tool":"bash","state":{"status":"running","input":{"command":"sleep 9"}}}]),
    );
    let alive = read(
        Some(json!({"type":"busy"})),
        vec![prompt("msg_u"), running.clone()],
    );
    assert_eq!(alive.running_tools.len(), 1);
    assert_eq!(alive.running_tools[0].title, "sleep 9");
    let dead = read(None, vec![prompt("msg_u"), running]);
    assert!(dead.running_tools.is_empty());
}

#[test]
fn requests_of_child_sessions_are_reported() {
    let mut records = Records {
        status: serde_json::from_value(json!({"type":"busy"})).unwrap(),
        messages: serde_json::from_value(json!([prompt("msg_u"), done("stop")])).unwrap(),
        permissions: serde_json::from_value(json!([{"id":"per_1","sessionID":"ses_child","permission":"bash",
            "patterns":["rm *"],"metadata":{"command":"rm -rf x"}}]))
        .unwrap(),
        questions: serde_json::from_value(json!([{"id":"que_1","sessionID":"ses_root","questions":[
            {"question":"Which?","header":"Pick","options":[{"label":"A","description":"a"},{"label":"B"}]}]}]))
        .unwrap(),
        ..Records::default()
    };
    let worker = || WorkerId("w".to_owned());
    let report = super::report(&records, worker(), &[]);
    assert_eq!(report.requests[0].session, "ses_child");
    assert_eq!(report.requests[0].text, "bash: rm -rf x");
    match &report.requests[1].kind {
        RequestKind::Question { questions } => assert_eq!(questions[0].options, ["A", "B"]),
        RequestKind::Permission { .. } => panic!("a question became a permission"),
    }
    // What an ended message asked is stale, and so is everything once nothing runs.
    records.permissions[0].tool = serde_json::from_value(json!({"messageID":"msg_a"})).unwrap();
    assert_eq!(super::report(&records, worker(), &[]).requests.len(), 1);
    records.status = None;
    assert!(super::report(&records, worker(), &[]).requests.is_empty());
}

#[test]
fn a_refusal_ends_a_run_only_without_a_reason_and_in_the_session_itself() {
    const BARE: &str = "The user rejected permission to use this specific tool call.";
    let reasoned = format!("{BARE} with the following feedback: not this one");
    let in_child = format!("Subagent failed (task_id: ses_c): {BARE}");
    let tool = |name: &str, error: &str| json!({"type":"tool","tool":name,"state":{"status":"error","error":error}});
    let done = json!({"type":"tool","tool":"read","state":{"status":"completed"}});
    let table = [
        (vec![tool("bash", BARE)], true),
        (vec![tool("bash", BARE), done.clone()], true),
        (
            vec![tool("question", "The user dismissed this question")],
            true,
        ),
        (
            vec![tool("bash", &reasoned.replace("call. with", "call with"))],
            false,
        ),
        (vec![tool("task", &in_child)], false),
        (vec![tool("bash", "exit 1")], false),
        (vec![done], false),
    ];
    for (parts, rejected) in table {
        let name = json!(parts);
        let time = json!({"time":{"created":2,"completed":3},"finish":"tool-calls"});
        let report = read(None, vec![prompt("msg_u"), assistant(time, name.clone())]);
        let expected = ended(true, Some("tool-calls"), None, rejected);
        assert_eq!(report.last, expected, "{name}");
    }
}

#[test]
fn of_a_sub_agent_its_own_tools_run_and_its_patience_counts() {
    let task = |status: &str| json!([{"type":"tool","tool":"task","state":{"status":status,"input":{"description":"d"}}}]);
    let busy = || serde_json::from_value(json!({"type":"busy"})).unwrap();
    let report_with = |child: Option<super::Child>| {
        let records = Records {
            status: busy(),
            messages: serde_json::from_value(json!([
                prompt("msg_u"),
                assistant(json!({}), task("running"))
            ]))
            .unwrap(),
            children: child.into_iter().collect(),
            ..Records::default()
        };
        super::report(&records, WorkerId("w".to_owned()), &[])
    };
    let child = |status: Value, parts: Value| super::Child {
        status: serde_json::from_value(status).unwrap(),
        messages: serde_json::from_value(json!([prompt("msg_k"), assistant(json!({}), parts)]))
            .unwrap(),
    };
    let names = |report: SessionReport| -> Vec<String> {
        report
            .running_tools
            .into_iter()
            .map(|tool| tool.tool)
            .collect()
    };
    // Not seen yet: it counts as a tool.
    assert_eq!(names(report_with(None)), ["task"]);
    let thinks = child(json!({"type":"busy"}), json!([]));
    assert_eq!(names(report_with(Some(thinks))), Vec::<String>::new());
    let sleeps =
        json!([{"type":"tool","tool":"bash","state":{"status":"running","time":{"start":7}}}]);
    let sleeps = report_with(Some(child(json!({"type":"busy"}), sleeps)));
    assert_eq!(sleeps.newest_at, Some(WallTime(7)));
    assert_eq!(names(sleeps), ["bash"]);
    let waits = child(
        json!({"type":"retry","attempt":2,"message":"slow down"}),
        json!([]),
    );
    assert!(matches!(
        report_with(Some(waits)).activity,
        Activity::Retrying { attempt: 2, .. }
    ));
}

#[test]
fn the_newest_work_is_what_was_done_not_what_was_ended() {
    let at = |messages: Vec<Value>| read(None, messages).newest_at.map(|at| at.0);
    let text =
        |start: i64, end: i64| json!([{"type":"text","text":"x","time":{"start":start,"end":end}}]);
    let time = |completed: i64| json!({"time":{"created":1,"completed":completed}});
    assert_eq!(at(vec![prompt("msg_u")]), None);
    assert_eq!(
        at(vec![
            prompt("msg_u"),
            assistant(json!({}), json!([{"type":"step-start"}]))
        ]),
        None
    );
    assert_eq!(
        at(vec![prompt("msg_u"), assistant(time(30), text(10, 20))]),
        Some(30)
    );
    let mut aborted = time(90);
    aborted["error"] = json!({"name":"MessageAbortedError","data":{}});
    assert_eq!(
        at(vec![
            assistant(time(30), text(10, 20)),
            assistant(aborted, text(40, 90))
        ]),
        Some(30)
    );
}
