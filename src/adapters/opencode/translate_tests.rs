//! Events as OpenCode sends them, and what the tree is told of them.

#![expect(
    clippy::unwrap_used,
    reason = "a fixture that does not parse must fail the test"
)]

use std::time::{Duration, Instant};

use chargehand_actors::ports::{EngineSignal, Signal};
use serde_json::{Value, json};

use super::Translator;
use crate::adapters::opencode::wire::GlobalEvent;

struct World {
    translator: Translator,
    start: Instant,
}

impl World {
    fn new() -> Self {
        let mut translator = Translator::default();
        translator.learn("ses_r", None);
        Self {
            translator,
            start: Instant::now(),
        }
    }

    fn event(kind: &str, properties: Value) -> GlobalEvent {
        let event =
            json!({"directory":"/w","payload":{"id":"evt_1","type":kind,"properties":properties}});
        serde_json::from_value(event).unwrap()
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// Signals as (session, child, short words).
    fn send(&mut self, ms: u64, kind: &str, properties: Value) -> Vec<String> {
        let now = self.at(ms);
        words(
            self.translator
                .translate(&Self::event(kind, properties), now),
        )
    }

    fn tick(&mut self, ms: u64) -> Vec<String> {
        let now = self.at(ms);
        words(self.translator.flush(now))
    }

    fn assistant(&mut self) {
        let told = self.send(
            0,
            "message.updated",
            json!({"info":{"id":"msg_a","sessionID":"ses_r","role":"assistant"}}),
        );
        assert_eq!(told, ["ses_r assistant"]);
    }
}

fn words(signals: Vec<EngineSignal>) -> Vec<String> {
    signals
        .into_iter()
        .map(|signal| match signal {
            EngineSignal::Open { .. } => "open".to_owned(),
            EngineSignal::Unknown(count) => format!("unknown {count}"),
            EngineSignal::Session(told) => {
                let place = if told.child {
                    format!("{} child", told.session)
                } else {
                    told.session
                };
                let what = match told.signal {
                    Signal::Busy => "busy".to_owned(),
                    Signal::Idle => "idle".to_owned(),
                    Signal::Retrying { attempt, message } => format!("retry {attempt} {message}"),
                    Signal::Error { name, message } => format!("error {name} {message}"),
                    Signal::Text { text, reasoning } => {
                        format!("{} {text}", if reasoning { "thinks" } else { "says" })
                    }
                    Signal::ToolStarted(run) => format!("tool {} {}", run.tool, run.title),
                    Signal::ToolFinished(run) => format!(
                        "done {} {} {} ms",
                        run.tool,
                        if run.failed { "failed" } else { "well" },
                        run.ms
                    ),
                    Signal::AssistantStarted => "assistant".to_owned(),
                    Signal::StepFinished { usage, reason } => {
                        format!("step {reason} {}", usage.input)
                    }
                    Signal::FilesTouched(files) => format!("files {}", files.join(",")),
                    Signal::Todos(todos) => format!("todos {}", todos.len()),
                    Signal::RequestAsked(request) => {
                        format!("asks {} of {}", request.id, request.session)
                    }
                    Signal::RequestClosed(id) => format!("closed {id}"),
                    Signal::Deleted => "deleted".to_owned(),
                };
                format!("{place} {what}")
            }
        })
        .collect()
}

fn delta(part: &str, text: &str) -> Value {
    json!({"sessionID":"ses_r","messageID":"msg_a","partID":part,"field":"text","delta":text})
}

fn part(part: Value) -> Value {
    let mut part = part;
    part["sessionID"] = json!("ses_r");
    part["messageID"] = json!("msg_a");
    json!({"part": part, "time": 1})
}

#[test]
fn simple_events() {
    let mut world = World::new();
    let table = [
        (
            "session.status",
            json!({"sessionID":"ses_r","status":{"type":"busy"}}),
            "ses_r busy",
        ),
        (
            "session.status",
            json!({"sessionID":"ses_r","status":{"type":"idle"}}),
            "ses_r idle",
        ),
        (
            "session.status",
            json!({"sessionID":"ses_r","status":{"type":"retry","attempt":2,"message":"slow"}}),
            "ses_r retry 2 slow",
        ),
        (
            "session.error",
            json!({"sessionID":"ses_r","error":{"name":"APIError","data":{"message":"no","statusCode":401}}}),
            "ses_r error APIError 401: no",
        ),
        (
            "todo.updated",
            json!({"sessionID":"ses_r","todos":[{"content":"a","status":"pending"}]}),
            "ses_r todos 1",
        ),
        (
            "permission.asked",
            json!({"id":"per_1","sessionID":"ses_r","permission":"bash","patterns":["x"]}),
            "ses_r asks per_1 of ses_r",
        ),
        (
            "permission.replied",
            json!({"sessionID":"ses_r","requestID":"per_1","reply":"once"}),
            "ses_r closed per_1",
        ),
        (
            "question.asked",
            json!({"id":"que_1","sessionID":"ses_r","questions":[]}),
            "ses_r asks que_1 of ses_r",
        ),
        (
            "question.rejected",
            json!({"sessionID":"ses_r","requestID":"que_1"}),
            "ses_r closed que_1",
        ),
        (
            "session.deleted",
            json!({"info":{"id":"ses_r"}}),
            "ses_r deleted",
        ),
    ];
    for (kind, properties, told) in table {
        assert_eq!(world.send(0, kind, properties), [told], "{kind}");
    }
}

#[test]
fn what_children_do_is_told_of_their_root() {
    let mut world = World::new();
    assert!(
        world
            .send(
                0,
                "session.created",
                json!({"info":{"id":"ses_c","parentID":"ses_r"}})
            )
            .is_empty()
    );
    assert!(
        world
            .send(
                0,
                "session.created",
                json!({"info":{"id":"ses_d","parentID":"ses_c"}})
            )
            .is_empty()
    );
    let asked = json!({"id":"per_2","sessionID":"ses_d","permission":"bash","patterns":[]});
    assert_eq!(
        world.send(0, "permission.asked", asked),
        ["ses_r child asks per_2 of ses_d"]
    );
    let circle = World::event(
        "session.status",
        json!({"sessionID":"ses_x","status":{"type":"busy"}}),
    );
    assert_eq!(world.translator.stranger(&circle).as_deref(), Some("ses_x"));
    world.translator.learn("ses_x", Some("ses_y".to_owned()));
    world.translator.learn("ses_y", Some("ses_x".to_owned()));
    assert_eq!(world.translator.translate(&circle, Instant::now()).len(), 1);
}

#[test]
fn text_comes_in_ten_pieces_a_second_and_before_what_follows_it() {
    let mut world = World::new();
    world.assistant();
    assert!(
        world
            .send(
                0,
                "message.part.updated",
                part(json!({"id":"p1","type":"reasoning","text":""}))
            )
            .is_empty()
    );
    assert!(
        world
            .send(1, "message.part.delta", delta("p1", "hm "))
            .is_empty()
    );
    assert!(
        world
            .send(2, "message.part.delta", delta("p2", "a"))
            .is_empty()
    );
    assert!(
        world
            .send(50, "message.part.delta", delta("p2", "b"))
            .is_empty()
    );
    assert!(world.tick(60).is_empty());
    assert_eq!(world.tick(101), ["ses_r thinks hm ", "ses_r says ab"]);
    assert!(
        world
            .send(110, "message.part.delta", delta("p2", "c"))
            .is_empty()
    );
    let step = part(json!({"id":"p3","type":"step-finish","reason":"stop","tokens":{"input":7}}));
    assert_eq!(
        world.send(111, "message.part.updated", step.clone()),
        ["ses_r says c", "ses_r step stop 7"]
    );
    assert!(
        world.send(112, "message.part.updated", step).is_empty(),
        "repeated"
    );
}

#[test]
fn the_end_of_a_part_tells_what_no_delta_told() {
    let mut world = World::new();
    world.assistant();
    world.send(0, "message.part.delta", delta("p1", "hel"));
    world.tick(200);
    let end = part(json!({"id":"p1","type":"text","text":"hello","time":{"start":1,"end":2}}));
    assert_eq!(
        world.send(300, "message.part.updated", end.clone()),
        ["ses_r says lo"]
    );
    assert!(world.send(301, "message.part.updated", end).is_empty());
    let users = json!({"part":{"id":"p9","sessionID":"ses_r","messageID":"msg_u","type":"text","text":"prompt","time":{"end":1}}});
    assert!(
        world.send(302, "message.part.updated", users).is_empty(),
        "the prompt is not output"
    );
}

#[test]
fn a_tool_is_told_once_when_it_starts_and_once_when_it_ends() {
    let mut world = World::new();
    world.assistant();
    let tool = |state: Value| part(json!({"id":"p1","type":"tool","tool":"write","state":state}));
    let running = json!({"status":"running","input":{"filePath":"/w/a.txt"},"time":{"start":10}});
    let completed = json!({"status":"completed","input":{"filePath":"/w/a.txt"},"title":"a.txt","time":{"start":10,"end":15}});
    assert!(
        world
            .send(
                0,
                "message.part.updated",
                tool(json!({"status":"pending","input":{}}))
            )
            .is_empty()
    );
    assert_eq!(
        world.send(1, "message.part.updated", tool(running.clone())),
        ["ses_r tool write /w/a.txt"]
    );
    assert!(
        world
            .send(2, "message.part.updated", tool(running.clone()))
            .is_empty()
    );
    assert_eq!(
        world.send(3, "message.part.updated", tool(completed.clone())),
        ["ses_r done write well 5 ms", "ses_r files a.txt"]
    );
    assert!(
        world
            .send(4, "message.part.updated", tool(completed))
            .is_empty()
    );
    assert!(
        world
            .send(5, "message.part.updated", tool(running))
            .is_empty(),
        "out of order"
    );
    let patch = part(json!({"id":"p2","type":"patch","files":["/w/b c.txt","/elsewhere/d"]}));
    assert_eq!(
        world.send(6, "message.part.updated", patch),
        ["ses_r files b c.txt,/elsewhere/d"]
    );
}

#[test]
fn unknown_events_are_counted_and_known_silent_ones_are_not() {
    let mut world = World::new();
    for kind in [
        "server.heartbeat",
        "sync",
        "plugin.added",
        "catalog.updated",
        "lsp.client.diagnostics",
        "file.edited",
    ] {
        assert!(world.send(0, kind, json!({})).is_empty());
    }
    assert!(world.tick(0).is_empty());
    assert!(
        world
            .send(0, "hologram.started", json!({"sessionID":"ses_r"}))
            .is_empty()
    );
    assert!(world.send(0, "hologram.ended", Value::Null).is_empty());
    assert_eq!(world.tick(1), ["unknown 2"]);
    assert!(world.tick(2).is_empty());
}
