//! Turns a turn into the pieces of a chat-completions stream. Pure, apart from the ids of tool calls that it is given.
//!
//! In: a turn, the facts of the request, an id that is unique in the server. Out: pieces to send and pauses between.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::choose::Facts;
use super::script::Turn;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Send these bytes.
    Send(Bytes),
    /// Send nothing for so long.
    Wait(Duration),
}

struct Stream<'a> {
    facts: &'a Facts,
    id: String,
    size: usize,
    pause: Duration,
    pieces: Vec<Piece>,
}

/// The whole answer.
pub(super) fn plan(turn: &Turn, facts: &Facts, unique: u64) -> Vec<Piece> {
    let mut stream = Stream {
        facts,
        id: format!("chatcmpl-scripted-{unique}"),
        size: turn.chunk.unwrap_or(16).max(1),
        pause: Duration::from_millis(turn.chunk_delay_ms),
        pieces: Vec::new(),
    };
    stream.delta(json!({"role": "assistant", "content": ""}));
    stream.text(
        &fill(&turn.reasoning, facts),
        |t| json!({"reasoning_content": t}),
    );
    stream.text(&fill(&turn.text, facts), |t| json!({"content": t}));
    for (index, call) in turn.tools.iter().enumerate() {
        stream.delta(json!({"tool_calls": [{
            "index": index, "id": format!("call_scripted_{unique}_{index}"), "type": "function",
            "function": {"name": call.name, "arguments": ""}}]}));
        let args = fill_all(&Value::Object(call.args.clone()), facts).to_string();
        stream.text(
            &args,
            |t| json!({"tool_calls": [{"index": index, "function": {"arguments": t}}]}),
        );
    }
    if turn.hang_ms > 0 {
        stream
            .pieces
            .push(Piece::Wait(Duration::from_millis(turn.hang_ms)));
    }
    if !turn.cut {
        stream.end(turn);
    }
    stream.pieces
}

impl Stream<'_> {
    fn chunk(&mut self, choices: Value, usage: Value) {
        let chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": 0, "model": self.facts.model,
            "choices": choices, "usage": usage,
        });
        self.pieces
            .push(Piece::Send(Bytes::from(format!("data: {chunk}\n\n"))));
    }

    fn delta(&mut self, delta: Value) {
        let choices = json!([{"index": 0, "delta": delta, "finish_reason": null}]);
        self.chunk(choices, Value::Null);
    }

    fn text(&mut self, text: &str, wrap: impl Fn(&str) -> Value) {
        let mut rest = text;
        while !rest.is_empty() {
            let cut = rest.char_indices().nth(self.size).map(|(at, _)| at);
            let (piece, tail) = rest.split_at(cut.unwrap_or(rest.len()));
            self.delta(wrap(piece));
            if !self.pause.is_zero() {
                self.pieces.push(Piece::Wait(self.pause));
            }
            rest = tail;
        }
    }

    fn end(&mut self, turn: &Turn) {
        let usual = if turn.tools.is_empty() {
            "stop"
        } else {
            "tool_calls"
        };
        let finish = turn.finish.as_deref().unwrap_or(usual);
        self.chunk(
            json!([{"index": 0, "delta": {}, "finish_reason": finish}]),
            Value::Null,
        );
        let mut usage = match &turn.usage {
            Some(given) => Value::Object(given.clone()),
            None => json!({"prompt_tokens": 10, "completion_tokens": 5}),
        };
        if usage.get("total_tokens").is_none() {
            let count = |key: &str| usage[key].as_u64().unwrap_or(0);
            let total = count("prompt_tokens") + count("completion_tokens");
            usage["total_tokens"] = json!(total);
        }
        self.chunk(json!([]), usage);
        self.pieces
            .push(Piece::Send(Bytes::from_static(b"data: [DONE]\n\n")));
    }
}

fn fill(text: &str, facts: &Facts) -> String {
    text.replace("{{cwd}}", &facts.cwd)
        .replace("{{model}}", &facts.model)
        .replace("{{last_tool}}", &facts.last_tool)
}

fn fill_all(value: &Value, facts: &Facts) -> Value {
    match value {
        Value::String(text) => Value::String(fill(text, facts)),
        Value::Array(items) => items.iter().map(|item| fill_all(item, facts)).collect(),
        Value::Object(entries) => entries
            .iter()
            .map(|(key, item)| (key.clone(), fill_all(item, facts)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}
