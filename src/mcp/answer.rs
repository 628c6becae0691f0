//! Results of tool calls: the whole answer as JSON text, the same as structured content; or a refusal that says what to do.
//!
//! In: a tool's answer or [`Refusal`]. Out: MCP results. A refusal has text only: clients check structured content
//! against the output schema of a success.

use std::time::Duration;

use chargehand_actors::error::TreeError;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::args::BadArguments;

/// Why a tool did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The arguments are wrong; nothing was sent to the tree.
    #[error(transparent)]
    Arguments(#[from] BadArguments),
    /// The tree refused or did not answer.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The token has used up its calls.
    #[error(
        "this token may make {per_minute} tool calls a minute; nothing was done. Call again in {} s. A wait (wait_seconds=45) needs fewer calls than asking again and again",
        seconds(*wait)
    )]
    TooOften {
        /// Its limit.
        per_minute: u32,
        /// Until the next call may be made.
        wait: Duration,
    },
    /// An answer that does not fit what the worker asks, or a request that is not open.
    #[error("{error}")]
    Request {
        /// What the tree says, or would say.
        error: TreeError,
        /// More about it, as fields of the refusal.
        more: Map<String, Value>,
    },
}

impl Refusal {
    /// A stable word for machines.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Arguments(_) => "INVALID_ARGUMENT",
            Self::Tree(error) | Self::Request { error, .. } => error.code(),
            Self::TooOften { .. } => "RATE_LIMITED",
        }
    }
}

/// Whole seconds, never too few.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// A finished tool call: its answer, and the code when it was refused.
pub(crate) struct Done {
    /// For the client.
    pub(crate) result: CallToolResult,
    /// For the audit log.
    pub(crate) refused: Option<&'static str>,
}

/// Finishes a tool call.
pub(crate) fn result<T: Serialize>(tool: &str, answer: Result<T, Refusal>) -> Done {
    match answer {
        Ok(answer) => Done {
            result: success(&answer),
            refused: None,
        },
        Err(refusal) => Done {
            result: refused(tool, &refusal),
            refused: Some(refusal.code()),
        },
    }
}

fn success<T: Serialize>(answer: &T) -> CallToolResult {
    // The text keeps the order of the fields, which is made for reading.
    let written = serde_json::to_string(answer)
        .and_then(|text| serde_json::to_value(answer).map(|value| (text, value)));
    match written {
        Ok((text, value)) => {
            let mut result = CallToolResult::structured(value);
            result.content = vec![ContentBlock::text(text)];
            result
        }
        Err(error) => failure(&json!({
            "error": format!("the answer could not be written as JSON: {error}"),
            "code": "INTERNAL",
        })),
    }
}

fn refused(tool: &str, refusal: &Refusal) -> CallToolResult {
    match refusal {
        Refusal::Arguments(bad) => failure(&json!({
            "error": format!("{tool}: {bad}"),
            "code": refusal.code(),
            "fields": bad.0,
            "next": format!("Nothing was done. Correct the fields and call {tool} again."),
        })),
        Refusal::Tree(error) => failure(&Value::Object(tree_error(error))),
        Refusal::TooOften { wait, .. } => failure(&json!({
            "error": refusal.to_string(),
            "code": refusal.code(),
            "status": 429,
            "retry_after_s": seconds(*wait),
        })),
        Refusal::Request { error, more } => {
            let mut body = tree_error(error);
            body.extend(more.clone());
            failure(&Value::Object(body))
        }
    }
}

/// The one mapping of the tree's errors to what clients see.
fn tree_error(error: &TreeError) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("error".to_owned(), json!(error.to_string()));
    body.insert("code".to_owned(), json!(error.code()));
    let extra = match error {
        TreeError::QueueFull { .. } | TreeError::CallerLimit { .. } => Some(("status", json!(429))),
        TreeError::KeyReused { task } => Some(("task_id", json!(task.to_string()))),
        TreeError::WrongPhase { phase, .. } | TreeError::EngineFailed { phase, .. } => {
            Some(("phase", json!(phase.as_str())))
        }
        TreeError::DiskLow(_) => Some(("status", json!(507))),
        TreeError::TaskNotFound(_)
        | TreeError::NoSuchEngine { .. }
        | TreeError::RequestNotOpen { .. }
        | TreeError::BadAnswer(_)
        | TreeError::File(_)
        | TreeError::Room(_)
        | TreeError::FilesCleared { .. }
        | TreeError::Closed(_)
        | TreeError::Slow { .. }
        | TreeError::Internal(_) => None,
    };
    if let Some((name, value)) = extra {
        body.insert(name.to_owned(), value);
    }
    body
}

fn failure(body: &Value) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(body.to_string())])
}

/// The output schema of an answer: self-contained, without nullable unions and machine formats.
pub(crate) fn output_schema<T: JsonSchema>() -> JsonObject {
    let mut settings = schemars::generate::SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    without_nulls(&mut schema);
    match schema {
        Value::Object(fields) => fields,
        _ => JsonObject::new(),
    }
}

// An absent field is left out of our answers, so its schema needs no `null`; some model providers refuse such unions.
fn without_nulls(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    fields.insert("type".to_owned(), only);
                }
            }
            let machine_format = fields
                .get("format")
                .and_then(Value::as_str)
                .is_some_and(|f| f.starts_with("uint") || f.starts_with("int") || f == "double");
            if machine_format {
                fields.remove("format");
            }
            if let Some(Value::Array(options)) = fields.remove("anyOf") {
                let mut kept: Vec<Value> = options
                    .into_iter()
                    .filter(|option| option.get("type") != Some(&json!("null")))
                    .collect();
                match (kept.pop(), kept.is_empty()) {
                    (Some(Value::Object(only)), true) => {
                        for (name, value) in only {
                            fields.entry(name).or_insert(value);
                        }
                    }
                    (Some(last), _) => {
                        kept.push(last);
                        fields.insert("anyOf".to_owned(), Value::Array(kept));
                    }
                    (None, _) => {}
                }
            }
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
