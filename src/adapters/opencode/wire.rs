//! OpenCode's JSON, hand-written: what the driver reads of it and nothing else.
//!
//! In: bodies of REST answers and payloads of the event stream. Out: plain structs. Every field may be missing and
//! unknown ones are ignored, because the same structs read every version since 1.3.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /global/health`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::adapters) struct Health {
    pub(in crate::adapters) healthy: bool,
    pub(in crate::adapters) version: String,
}

/// Who owns a session: written into its metadata under `chargehand`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    #[serde(default)]
    pub(super) instance: String,
    #[serde(default)]
    pub(super) task: String,
    #[serde(default)]
    pub(super) attempt: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Times {
    pub(super) created: i64,
    pub(super) completed: Option<i64>,
    pub(super) start: Option<i64>,
    pub(super) end: Option<i64>,
}

/// A session.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) directory: String,
    pub(super) title: String,
    #[serde(rename = "parentID")]
    pub(super) parent_id: Option<String>,
    pub(super) metadata: Option<Value>,
    pub(super) time: Times,
}

impl Session {
    /// The owner that its metadata names, or, for versions without metadata, the mark at the end of its title.
    pub(super) fn owner(&self) -> Option<Owner> {
        let named = self
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.get("chargehand"))
            .and_then(|owner| Owner::deserialize(owner).ok());
        named.or_else(|| Owner::from_title(&self.title))
    }
}

impl Owner {
    /// The mark that carries the owner in the title, for versions of OpenCode that drop metadata.
    pub(super) fn title_mark(&self) -> String {
        format!(
            "[chargehand {} {} {}]",
            self.instance, self.task, self.attempt
        )
    }

    fn from_title(title: &str) -> Option<Self> {
        let (_, mark) = title.rsplit_once("[chargehand ")?;
        let mut words = mark.strip_suffix(']')?.split(' ');
        let owner = Self {
            instance: words.next()?.to_owned(),
            task: words.next()?.to_owned(),
            attempt: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(owner)
    }
}

/// A message with its parts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message {
    pub(super) info: MessageInfo,
    pub(super) parts: Vec<Part>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct MessageInfo {
    pub(super) id: String,
    #[serde(rename = "sessionID")]
    pub(super) session_id: String,
    pub(super) role: String,
    pub(super) time: Times,
    pub(super) finish: Option<String>,
    pub(super) error: Option<WireError>,
    pub(super) tokens: Tokens,
    pub(super) cost: f64,
}

impl MessageInfo {
    pub(super) fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }

    /// Nothing will be added to it.
    pub(super) fn is_ended(&self) -> bool {
        self.time.completed.is_some() || self.error.is_some()
    }
}

/// An error of a run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireError {
    pub(super) name: String,
    pub(super) data: Value,
}

impl WireError {
    /// Its message for a person; the status code of the provider in front, if there is one.
    pub(super) fn message(&self) -> String {
        let text = self.data.get("message").and_then(Value::as_str);
        let status = self.data.get("statusCode").and_then(Value::as_u64);
        match (status, text) {
            (Some(status), Some(text)) => format!("{status}: {text}"),
            (Some(status), None) => status.to_string(),
            (None, Some(text)) => text.to_owned(),
            (None, None) => self.name.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tokens {
    pub(super) input: f64,
    pub(super) output: f64,
    pub(super) reasoning: f64,
    pub(super) cache: CacheTokens,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CacheTokens {
    pub(super) read: f64,
    pub(super) write: f64,
}

/// A part of a message; which fields are set depends on `kind`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Part {
    pub(super) id: String,
    #[serde(rename = "sessionID")]
    pub(super) session_id: String,
    #[serde(rename = "messageID")]
    pub(super) message_id: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) text: String,
    pub(super) synthetic: bool,
    pub(super) ignored: bool,
    pub(super) time: Times,
    pub(super) tool: String,
    pub(super) state: ToolState,
    pub(super) files: Vec<String>,
    pub(super) reason: String,
    pub(super) tokens: Tokens,
    pub(super) cost: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ToolState {
    pub(super) status: String,
    pub(super) input: Value,
    pub(super) title: Option<String>,
    pub(super) error: Option<String>,
    pub(super) time: Times,
}

/// One entry of `GET /session/status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) attempt: u32,
    pub(super) message: String,
    /// When the provider is asked again, milliseconds since 1970.
    pub(super) next: Option<i64>,
}

/// `GET /session/status`: sessions that are not idle.
pub(super) type StatusMap = HashMap<String, Status>;

/// One entry of `GET /permission`, and `permission.asked`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Permission {
    pub(super) id: String,
    #[serde(rename = "sessionID")]
    pub(super) session_id: String,
    pub(super) permission: String,
    pub(super) patterns: Vec<String>,
    pub(super) metadata: Value,
    /// What "always" would cover.
    pub(super) always: Vec<String>,
    pub(super) tool: Option<CalledFrom>,
}

/// The tool call that a request came from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CalledFrom {
    #[serde(rename = "messageID")]
    pub(super) message_id: String,
}

/// One entry of `GET /question`, and `question.asked`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Questions {
    pub(super) id: String,
    #[serde(rename = "sessionID")]
    pub(super) session_id: String,
    pub(super) questions: Vec<WireQuestion>,
    pub(super) tool: Option<CalledFrom>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireQuestion {
    pub(super) question: String,
    pub(super) header: String,
    pub(super) options: Vec<WireOption>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireOption {
    pub(super) label: String,
}

/// One line of the to-do list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireTodo {
    pub(super) content: String,
    pub(super) status: String,
}

/// One file of `GET /session/{id}/diff?messageID=`: what one turn did to it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FileDiff {
    pub(super) file: String,
    pub(super) patch: String,
    pub(super) additions: u64,
    pub(super) deletions: u64,
    pub(super) status: String,
}

/// One entry of `GET /file`. Links and devices are not among them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FileNode {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) ignored: bool,
}

/// `GET /file/content`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireContent {
    pub(super) content: String,
    /// `base64`, or nothing for text.
    pub(super) encoding: String,
}

/// `GET /path`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServerPaths {
    pub(super) directory: String,
    /// The repository that the directory is in; `/` without one.
    pub(super) worktree: String,
}

/// What `GET /global/event` sends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GlobalEvent {
    pub(super) directory: String,
    pub(super) payload: Payload,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Payload {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) properties: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_from_metadata_and_from_the_title() {
        let owner = Owner {
            instance: "i1".to_owned(),
            task: "t-4".to_owned(),
            attempt: 2,
        };
        let with_metadata = Session {
            metadata: Some(
                serde_json::json!({"chargehand": {"instance":"i1","task":"t-4","attempt":2}}),
            ),
            ..Session::default()
        };
        assert_eq!(with_metadata.owner(), Some(owner.clone()));
        let with_title = Session {
            title: format!("fix [brackets] {}", owner.title_mark()),
            ..Session::default()
        };
        assert_eq!(with_title.owner(), Some(owner));
        let foreign = Session {
            title: "[chargehand of the night]".to_owned(),
            metadata: Some(serde_json::json!({"other": 1})),
            ..Session::default()
        };
        assert_eq!(foreign.owner(), None);
    }

    #[test]
    fn strange_json_is_read_as_far_as_it_goes() {
        let message: Message = serde_json::from_value(serde_json::json!({
            "info": {"id":"msg_1","role":"assistant","time":{"created":5},"new_field":[1]},
            "parts": [{"type":"hologram","id":"prt_1"}]
        }))
        .unwrap_or_default();
        assert_eq!(message.info.id, "msg_1");
        assert_eq!(message.parts.len(), 1);
        assert!(!message.info.is_ended());
    }
}
