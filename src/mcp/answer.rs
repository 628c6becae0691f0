//! Results of tool calls: the whole answer as JSON text, the same as structured content; or a refusal that says what to do.
//!
//! In: a tool's answer or [`Refusal`]. Out: MCP results. A refusal has text only: clients check structured content
//! against the output schema of a success.

use chargehand_actors::error::TreeError;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

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
}

/// A finished tool call.
pub(crate) fn result<T: Serialize>(tool: &str, answer: Result<T, Refusal>) -> CallToolResult {
    match answer {
        Ok(answer) => success(&answer),
        Err(refusal) => refused(tool, &refusal),
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
            "code": "INVALID_ARGUMENT",
            "fields": bad.0,
            "next": format!("Nothing was done. Correct the fields and call {tool} again."),
        })),
        Refusal::Tree(error) => failure(&tree_error(error)),
    }
}

/// The one mapping of the tree's errors to what clients see.
fn tree_error(error: &TreeError) -> Value {
    let mut body = json!({"error": error.to_string(), "code": error.code()});
    let extra = match error {
        TreeError::QueueFull { .. } | TreeError::CallerLimit { .. } => Some(("status", json!(429))),
        TreeError::KeyReused { task } => Some(("task_id", json!(task.to_string()))),
        TreeError::WrongPhase { phase, .. } => Some(("phase", json!(phase.as_str()))),
        TreeError::TaskNotFound(_)
        | TreeError::NoSuchEngine { .. }
        | TreeError::RequestNotOpen { .. }
        | TreeError::BadAnswer(_)
        | TreeError::File(_)
        | TreeError::Closed(_)
        | TreeError::Slow { .. }
        | TreeError::Internal(_) => None,
    };
    if let (Some((name, value)), Value::Object(fields)) = (extra, &mut body) {
        fields.insert(name.to_owned(), value);
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
