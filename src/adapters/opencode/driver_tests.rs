//! Prompts go out exactly as they were recorded.

use chargehand_actors::command::ModelRef;
use chargehand_actors::event::{Prompt, PromptKind, SessionRef};
use chargehand_actors::ports::SendPrompt;
use serde_json::json;

use super::prompt_body;

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
