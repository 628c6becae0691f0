//! Tables of what people say in rooms, and what becomes of it.

#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;

fn heard(power: Option<i64>, said: Said) -> Heard {
    Heard {
        event: "$1".to_owned(),
        at: crate::id::WallTime::default(),
        sender: "@anna:x".to_owned(),
        own: false,
        power,
        thread: None,
        said,
    }
}

fn message(kind: &str, body: &str, content: Value) -> Said {
    let Value::Object(content) = content else {
        panic!("an object")
    };
    Said::Message {
        kind: kind.to_owned(),
        body: body.to_owned(),
        edit: false,
        content,
    }
}

fn text(body: &str) -> Said {
    message("m.text", body, json!({}))
}

fn ground() -> Ground<'static> {
    static STATUSES: std::sync::LazyLock<Vec<String>> =
        std::sync::LazyLock::new(|| vec!["$status".to_owned()]);
    static REQUESTS: std::sync::LazyLock<Vec<(String, String)>> =
        std::sync::LazyLock::new(|| vec![("$ask".to_owned(), "req-1".to_owned())]);
    Ground {
        task: Some("6f2c1f2e-0000-4000-8000-000000000001".parse().unwrap()),
        statuses: &STATUSES,
        requests: &REQUESTS,
        allowed: &[],
    }
}

fn control(signal: ControlSignal, reason: Option<&str>) -> Verdict {
    Verdict::Take(Wish::Control {
        signal,
        reason: reason.map(str::to_owned),
    })
}

fn is_refusal(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Take(Wish::Refused { .. }))
}

#[test]
fn typed_commands() {
    use ControlSignal::{Cancel, Pause, Resume};
    for (typed, expected) in [
        ("!cancel", control(Cancel, None)),
        (
            " !Cancel  it is wrong ",
            control(Cancel, Some("it is wrong")),
        ),
        ("/cancel", control(Cancel, None)),
        ("!pause", control(Pause, None)),
        ("!resume", control(Resume, None)),
        ("!status", Verdict::Take(Wish::Status)),
        (
            "!approve always",
            Verdict::Take(Wish::Approve {
                request: None,
                always: true,
            }),
        ),
        (
            "!answer 2",
            Verdict::Take(Wish::Answer {
                request: None,
                text: "2".to_owned(),
            }),
        ),
        (
            "!invite @bob:x",
            Verdict::Take(Wish::Invite {
                user: "@bob:x".to_owned(),
            }),
        ),
        (
            "/etc/hosts is wrong",
            Verdict::Take(Wish::Message {
                text: "/etc/hosts is wrong".to_owned(),
                message_type: MessageType::Guidance,
            }),
        ),
        ("   ", Verdict::Ignore),
    ] {
        assert_eq!(
            judge(&heard(Some(50), text(typed)), &ground()),
            expected,
            "{typed}"
        );
    }
    for typed in ["!cancle", "!answer", "!invite bob", "!invite @bob", "!help"] {
        assert!(
            is_refusal(&judge(&heard(Some(50), text(typed)), &ground())),
            "{typed}"
        );
    }
    // Not everything with an exclamation mark is a command.
    for typed in ["!!! look", "! important"] {
        let verdict = judge(&heard(Some(50), text(typed)), &ground());
        assert!(
            matches!(verdict, Verdict::Take(Wish::Message { .. })),
            "{typed}"
        );
    }
}

#[test]
fn d13_a_stranger_controls_nothing() {
    let controls = [
        text("!cancel"),
        message(
            "io.letta.control",
            "cancel",
            json!({"io.letta.task": {"control": "cancel"}}),
        ),
        Said::Control(json!({"control": "cancel"}).as_object().unwrap().clone()),
    ];
    for said in controls {
        for power in [Some(0), Some(49), Some(-1)] {
            assert!(
                is_refusal(&judge(&heard(power, said.clone()), &ground())),
                "{said:?}"
            );
        }
        // A power without a bound is the creator's.
        assert_eq!(
            judge(&heard(None, said.clone()), &ground()),
            control(ControlSignal::Cancel, None)
        );
        let allowed = ["@bob:x".to_owned()];
        let listed = Ground {
            allowed: &allowed,
            ..ground()
        };
        assert!(is_refusal(&judge(&heard(Some(100), said), &listed)));
    }
    for said in [
        text("please stop"),
        Said::Unreadable,
        Said::Reaction {
            to: "$status".to_owned(),
            sign: CANCEL.to_owned(),
        },
    ] {
        assert_eq!(judge(&heard(Some(0), said), &ground()), Verdict::Ignore);
    }
}

#[test]
fn d10_the_bots_own_words_are_no_commands() {
    for said in [
        text("!cancel"),
        text("hello"),
        Said::Reaction {
            to: "$status".to_owned(),
            sign: CANCEL.to_owned(),
        },
        Said::Control(json!({"control": "cancel"}).as_object().unwrap().clone()),
    ] {
        let own = Heard {
            own: true,
            ..heard(None, said)
        };
        assert_eq!(judge(&own, &ground()), Verdict::Ignore);
    }
}

#[test]
fn edits_and_notices_are_no_commands() {
    let mut edit = text("!cancel");
    if let Said::Message { edit, .. } = &mut edit {
        *edit = true;
    }
    assert_eq!(judge(&heard(Some(50), edit), &ground()), Verdict::Ignore);
    for kind in ["m.notice", "m.emote", "m.image"] {
        let said = message(kind, "!cancel", json!({}));
        assert_eq!(
            judge(&heard(Some(50), said), &ground()),
            Verdict::Ignore,
            "{kind}"
        );
    }
}

#[test]
fn d2_machine_controls_work_with_either_key() {
    for key in ["control", "control_signal"] {
        let content = json!({ key: "pause", "reason": "lunch" });
        let original = message("io.letta.control", "", json!({ "io.letta.task": content }));
        let ours = Said::Control(content.as_object().unwrap().clone());
        for said in [original, ours] {
            assert_eq!(
                judge(&heard(Some(50), said), &ground()),
                control(ControlSignal::Pause, Some("lunch")),
                "{key}"
            );
        }
    }
    let other = json!({"control": "cancel", "task_id": "6f2c1f2e-0000-4000-8000-00000000000f"});
    let said = Said::Control(other.as_object().unwrap().clone());
    assert!(is_refusal(&judge(&heard(Some(50), said), &ground())));
}

#[test]
fn signs_mean_what_they_stand_under() {
    let sign = |to: &str, sign: &str| {
        let said = Said::Reaction {
            to: to.to_owned(),
            sign: sign.to_owned(),
        };
        judge(&heard(Some(50), said), &ground())
    };
    assert_eq!(
        sign("$status", "⏸\u{fe0f}"),
        control(ControlSignal::Pause, None)
    );
    assert_eq!(sign("$status", "❌"), control(ControlSignal::Cancel, None));
    assert_eq!(
        sign("$ask", "❌"),
        Verdict::Take(Wish::Deny {
            request: Some("req-1".to_owned()),
            reason: None
        })
    );
    assert_eq!(sign("$other", "❌"), Verdict::Ignore);
    assert_eq!(sign("$status", "🎉"), Verdict::Ignore);
}

#[test]
fn what_a_reply_quotes_is_not_part_of_it() {
    let content = json!({"m.relates_to": {"m.in_reply_to": {"event_id": "$1"}}});
    let said = message("m.text", "> <@bot:x> state\n> more\n\n!pause", content);
    assert_eq!(
        judge(&heard(Some(50), said), &ground()),
        control(ControlSignal::Pause, None)
    );
}
