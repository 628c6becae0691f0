//! Answers go out so that none ends a run by accident.

use chargehand_actors::command::Answer;
use chargehand_actors::event::{Question, Request, RequestKind};
use chargehand_actors::id::RequestId;
use serde_json::json;

use super::answer_call;

fn permission() -> Request {
    Request {
        id: RequestId("per_1".to_owned()),
        session: "ses_1".to_owned(),
        text: String::new(),
        kind: RequestKind::Permission {
            permission: "bash".to_owned(),
            patterns: vec![],
            always: vec![],
        },
    }
}

fn question() -> Request {
    let one = Question {
        text: "Which?".to_owned(),
        header: String::new(),
        options: vec!["A".to_owned()],
    };
    Request {
        id: RequestId("que_1".to_owned()),
        kind: RequestKind::Question {
            questions: vec![one.clone(), one],
        },
        ..permission()
    }
}

#[test]
fn answers_by_kind() {
    let allow = |always| Answer::Allow { always };
    let deny = |message: &str| Answer::Deny {
        message: message.to_owned(),
    };
    let choices = Answer::Choices {
        choices: vec![vec!["A".to_owned()], vec![]],
    };
    let table = [
        (
            permission(),
            allow(false),
            Some(("/permission/per_1/reply", json!({"reply":"once"}))),
        ),
        (
            permission(),
            allow(true),
            // OpenCode's own "always" would loosen denials; what it means is the machine's business.
            Some(("/permission/per_1/reply", json!({"reply":"once"}))),
        ),
        (
            permission(),
            deny("no"),
            Some((
                "/permission/per_1/reply",
                json!({"reply":"reject","message":"no"}),
            )),
        ),
        (
            permission(),
            deny(" "),
            Some((
                "/permission/per_1/reply",
                json!({"reply":"reject","message":"Not allowed. Go on without it."}),
            )),
        ),
        (permission(), choices.clone(), None),
        (
            question(),
            choices,
            Some(("/question/que_1/reply", json!({"answers":[["A"],[]]}))),
        ),
        (
            question(),
            deny("decide yourself"),
            Some((
                "/question/que_1/reply",
                json!({"answers":[["decide yourself"],["decide yourself"]]}),
            )),
        ),
        (question(), allow(false), None),
    ];
    for (request, answer, call) in table {
        let made = answer_call(&request, &answer).ok();
        let expected = call.map(|(path, body)| (path.to_owned(), body));
        assert_eq!(made, expected, "{answer:?} to {request:?}");
    }
}
