//! The format of scripts: plain data, read from JSON.
//!
//! In: `{"turns": […]}` between `<script>` and `</script>` in a prompt, or scenarios given at the start.
//! Out: [`Scenario`]s and [`Turn`]s. Every key may be left out; an unknown key is an error, so that a misspelt one shows.
//!
//! ```json
//! {"turns": [
//!    {"tools": [{"name": "write", "args": {"filePath": "{{cwd}}/a.txt", "content": "hello\n"}}]},
//!    {"text": "Wrote a.txt: {{last_tool}}", "chunk_delay_ms": 200}],
//!  "on_message": [{"contains": "blue", "turns": [{"text": "Blue it is."}]}]}
//! ```
//!
//! A closing tag inside a script (in the prompt of a sub-agent that has a script of its own) is written `<\/script>`.
//! In `text`, `reasoning` and every string inside `args`, `{{cwd}}` is the working directory that the worker names in
//! its system prompt, `{{last_tool}}` the newest tool result, `{{model}}` the model asked for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A script and the requests that it answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// For the record; `inline` for a script that stood in a prompt.
    pub name: String,
    /// Which requests it answers; everything when empty. Not looked at in an inline script.
    #[serde(rename = "match")]
    pub matches: Match,
    /// One answer of the model each; the last is repeated when more are asked for.
    pub turns: Vec<Turn>,
    /// What a later user message changes.
    pub on_message: Vec<OnMessage>,
}

/// What must fit; all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// A user message contains this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// The request is for this model id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// Another continuation, taken when a user message after the script's own contains a text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnMessage {
    /// The text; case matters.
    pub contains: String,
    /// The turns from that message on, counted from it.
    pub turns: Vec<Turn>,
    /// What messages after that one change.
    pub on_message: Vec<OnMessage>,
}

/// One answer of the model. The parts come in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Turn {
    /// Wait this many milliseconds before anything is sent, headers included.
    pub delay_ms: u64,
    /// Answer with an HTTP error instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<HttpFault>,
    /// Streamed as reasoning.
    pub reasoning: String,
    /// Streamed as the answer.
    pub text: String,
    /// Tool calls, arguments streamed in pieces.
    pub tools: Vec<ToolCall>,
    /// Characters in a streamed piece; 16 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<usize>,
    /// Pause after each piece, in milliseconds.
    pub chunk_delay_ms: u64,
    /// Silence after the pieces, in milliseconds.
    pub hang_ms: u64,
    /// End the stream without a finish reason and without `[DONE]`.
    pub cut: bool,
    /// The finish reason; `tool_calls` or `stop` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish: Option<String>,
    /// Token counts as a provider gives them; 10 in and 5 out when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Map<String, Value>>,
}

/// An HTTP error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpFault {
    /// Status code, 400 to 599.
    pub status: u16,
    /// JSON body; an OpenAI error object when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Extra headers, such as `retry-after`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub headers: Map<String, Value>,
    /// Only for the first so many requests that reach this turn; always when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

/// A tool call of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// Name of the tool.
    pub name: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Map<String, Value>,
}
