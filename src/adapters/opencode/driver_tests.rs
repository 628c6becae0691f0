//! Bodies that go out: exactly as recorded, and never one that ends a run by accident.

use chargehand_actors::command::{Answer, ModelRef};
use chargehand_actors::event::{Prompt, PromptKind, Question, Request, RequestKind, SessionRef};
use chargehand_actors::id::RequestId;
use chargehand_actors::ports::SendPrompt;
use serde_json::json;

use super::{answer_call, prompt_body};

fn permission() -> Request {
    Request {
        id: RequestId("per_1".to_owned()),
        session: "ses_1".to_owned(),
        text: String::new(),
        kind: RequestKind::Permission {
            permission: "bash".to_owned(),
            patterns: vec![],
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
            Some(("/permission/per_1/reply", json!({"reply":"always"}))),
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

#[test]
fn a_prompt_goes_out_with_its_recorded_ids() {
    let mut request = SendPrompt {
        session: SessionRef {
            id: "ses_1".to_owned(),
            directory: "/w".to_owned(),
            server: String::new(),
        },
        prompt: Prompt {
            number: 1,
            kind: PromptKind::First,
            message_id: "msg_01".to_owned(),
            part_id: "prt_01".to_owned(),
            text: "do".to_owned(),
            carries: None,
        },
        model: None,
        agent: None,
    };
    let parts = json!([{"id":"prt_01","type":"text","text":"do"}]);
    assert_eq!(
        prompt_body(&request, None),
        json!({"messageID":"msg_01","parts":parts})
    );
    let fallback = ModelRef {
        provider: "p".to_owned(),
        model: "m".to_owned(),
    };
    request.agent = Some("plan".to_owned());
    assert_eq!(
        prompt_body(&request, Some(&fallback)),
        json!({"messageID":"msg_01","parts":parts,"agent":"plan","model":{"providerID":"p","modelID":"m"}})
    );
    request.model = Some(ModelRef {
        provider: "q".to_owned(),
        model: "n".to_owned(),
    });
    assert_eq!(
        prompt_body(&request, Some(&fallback))["model"],
        json!({"providerID":"q","modelID":"n"})
    );
}
