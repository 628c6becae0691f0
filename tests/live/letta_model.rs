//! The scripted model behind a Letta: what its agents think with.
//!
//! In: chat completions, streamed or not, and embeddings. The newest user or system message that holds
//! `CALL <tool> <json> END` makes the agent call that tool; after the tool's answer, and without such a message, it says
//! `ok`. An answer to a message that says `SLOWLY` waits for [`LettaModel::go_on`]. Out: answers, and a record of every request: what the agent really had in its prompt.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running model.
pub(crate) struct LettaModel {
    pub(crate) url: String,
    shared: Shared,
    serving: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Shared {
    /// Bodies of chat requests, oldest first.
    requests: Arc<Mutex<Vec<Value>>>,
    /// Lets slow answers go on.
    gate: CancellationToken,
}

impl LettaModel {
    pub(crate) async fn start() -> Self {
        let shared = Shared::default();
        let router = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/embeddings", post(embeddings))
            .route("/v1/chat/completions", post(chat))
            .with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            shared,
            serving,
        }
    }

    /// Prompts of an agent's turns so far: each the whole of what the model was sent.
    pub(crate) fn prompts(&self) -> Vec<Value> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Slow answers, those that wait and later ones, are given at once.
    pub(crate) fn go_on(&self) {
        self.shared.gate.cancel();
    }

    /// The newest prompt.
    pub(crate) fn last_prompt(&self) -> Value {
        self.prompts().last().unwrap().clone()
    }
}

impl Drop for LettaModel {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn models() -> Json<Value> {
    let ids = ["gpt-4o-mini", "text-embedding-3-small"];
    let models = ids.map(|id| json!({"id": id, "object": "model", "created": 1, "owned_by": "test", "context_window": 128_000}));
    Json(json!({"object": "list", "data": models}))
}

async fn embeddings(Json(body): Json<Value>) -> Json<Value> {
    let count = body["input"].as_array().map_or(1, Vec::len);
    let vectors: Vec<Value> = (0..count)
        .map(|index| json!({"object": "embedding", "index": index, "embedding": vec![0.01; 1_536]}))
        .collect();
    Json(
        json!({"object": "list", "model": body["model"], "data": vectors, "usage": {"prompt_tokens": 1, "total_tokens": 1}}),
    )
}

async fn chat(State(shared): State<Shared>, Json(body): Json<Value>) -> Response {
    let (text, call) = answer(&body);
    shared.requests.lock().unwrap().push(body.clone());
    if is_slow(&body) {
        shared.gate.cancelled().await;
    }
    let calls = call.map(|(name, arguments)| {
        json!([{"id": format!("call_{}", uuid::Uuid::new_v4().simple()), "type": "function",
                "function": {"name": name, "arguments": arguments}}])
    });
    let finish = if calls.is_some() {
        "tool_calls"
    } else {
        "stop"
    };
    let id = format!("chatcmpl-{}", uuid::Uuid::new_v4().simple());
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
    if body["stream"] != true {
        let mut message = json!({"role": "assistant", "content": text});
        if let Some(calls) = calls {
            message["tool_calls"] = calls;
        }
        return Json(json!({"id": id, "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}))
        .into_response();
    }
    let mut delta = json!({"role": "assistant", "content": text});
    if let Some(mut calls) = calls {
        calls[0]["index"] = json!(0);
        delta["tool_calls"] = calls;
    }
    let chunk = |choices: Value, usage: Value| {
        let chunk = json!({"id": id, "object": "chat.completion.chunk", "created": 1, "model": body["model"],
            "choices": choices, "usage": usage});
        format!("data: {chunk}\n\n")
    };
    let stream = [
        chunk(
            json!([{"index": 0, "delta": delta, "finish_reason": null}]),
            Value::Null,
        ),
        chunk(
            json!([{"index": 0, "delta": {}, "finish_reason": finish}]),
            Value::Null,
        ),
        chunk(json!([]), usage),
        "data: [DONE]\n\n".to_owned(),
    ];
    ([("content-type", "text/event-stream")], stream.concat()).into_response()
}

fn is_slow(body: &Value) -> bool {
    let last = body["messages"].as_array().and_then(|all| all.last());
    last.is_some_and(|one| one["role"] == "user" && text_of(&one["content"]).contains("SLOWLY"))
}

/// What the model says, and which tool it calls with which arguments.
fn answer(body: &Value) -> (String, Option<(String, String)>) {
    let messages = body["messages"].as_array().unwrap();
    let last = messages.last().unwrap();
    if last["role"] == "tool" {
        return ("ok".to_owned(), None);
    }
    let ordered = messages.iter().rev().find(|one| one["role"] == "user");
    let text = ordered
        .map(|one| text_of(&one["content"]))
        .unwrap_or_default();
    let Some((_, order)) = text.rsplit_once("CALL ") else {
        return ("ok".to_owned(), None);
    };
    let (tool, rest) = order.split_once(' ').unwrap();
    let (arguments, _) = rest.split_once(" END").unwrap();
    let offered: Vec<&str> = body["tools"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["function"]["name"].as_str())
        .collect();
    if offered.contains(&tool) {
        (String::new(), Some((tool.to_owned(), arguments.to_owned())))
    } else {
        (format!("no tool {tool}, only {}", offered.join(", ")), None)
    }
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}
