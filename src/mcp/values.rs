//! Single JSON values as models send them, brought to their plain form.
//!
//! In: a JSON value of an argument. Out: the plain value, or what is wrong with it in a few words. Sloppy but unambiguous
//! values are accepted: `"5"` for 5, one text for a list of one, the JSON text of a list or object.

use serde_json::{Value, json};

/// Texts that may not be longer are names of something: one line without control characters.
pub(super) const LONGEST_NAME: usize = 255;

pub(super) fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) if text.contains('\0') => Err("contains a NUL character".to_owned()),
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("is {}", type_word(&other))),
    }
}

pub(super) fn length(text: String, min: usize, max: usize) -> Result<Value, String> {
    let chars = text.chars().count();
    if chars > max {
        Err(format!("has {chars} characters"))
    } else if chars < min {
        Err(format!("has only {chars} characters"))
    } else if min > 0 && text.trim().is_empty() {
        Err("is blank".to_owned())
    } else if max <= LONGEST_NAME && text.contains(char::is_control) {
        Err("contains control characters".to_owned())
    } else {
        Ok(Value::String(text))
    }
}

pub(super) fn integer(value: &Value) -> Result<i64, String> {
    let number = match value {
        Value::Number(number) => number
            .as_i64()
            .or_else(|| number.as_f64().and_then(whole_float)),
        Value::String(text) => {
            let text = text.trim();
            text.parse()
                .ok()
                .or_else(|| text.parse().ok().and_then(whole_float))
        }
        _ => None,
    };
    number.ok_or_else(|| match value {
        Value::Number(number) => format!("is {number}"),
        Value::String(text) => format!("is \"{}\"", short(text)),
        other => format!("is {}", type_word(other)),
    })
}

fn whole_float(number: f64) -> Option<i64> {
    // Beyond 2^53 a float no longer names one whole number.
    (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(number as i64)
}

pub(super) fn boolean(value: &Value) -> Result<Value, String> {
    let word = match value {
        Value::Bool(_) => return Ok(value.clone()),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        other => return Err(format!("is {}", type_word(other))),
    };
    match word.as_str() {
        "true" => Ok(json!(true)),
        "false" => Ok(json!(false)),
        _ => Err(format!("is \"{}\"", short(&word))),
    }
}

pub(super) fn texts(value: Value, max_items: usize, max_chars: usize) -> Result<Value, String> {
    let items = match parsed(value) {
        Value::Array(items) => items,
        Value::String(one) => vec![Value::String(one)],
        other => return Err(format!("is {}", type_word(&other))),
    };
    if items.len() > max_items {
        return Err(format!("has {} entries", items.len()));
    }
    let items: Result<Vec<Value>, String> = items
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            text(item)
                .and_then(|text| length(text, 1, max_chars))
                .map_err(|problem| format!("entry {index} {problem}"))
        })
        .collect();
    items.map(Value::Array)
}

// Models sometimes send a list or an object as its JSON text.
pub(super) fn parsed(value: Value) -> Value {
    match value {
        Value::String(text) if text.trim_start().starts_with(['{', '[']) => {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        }
        other => other,
    }
}

pub(super) fn moment(value: &Value) -> Result<Value, String> {
    if let Ok(ms) = integer(value) {
        return if ms >= 0 {
            Ok(json!(ms))
        } else {
            Err(format!("is {ms}"))
        };
    }
    let Value::String(text) = value else {
        return Err(format!("is {}", type_word(value)));
    };
    let text = text.trim();
    let at = text
        .parse::<jiff::Timestamp>()
        .ok()
        .or_else(|| format!("{text}T00:00:00Z").parse().ok())
        .or_else(|| format!("{text}Z").parse().ok());
    at.map(|at| json!(at.as_millisecond()))
        .ok_or_else(|| format!("is \"{}\"", short(text)))
}

pub(super) fn type_word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// At most 60 characters of a value that is shown back, without control characters.
pub(super) fn short(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(60)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(60).is_some() {
        shown.push('…');
    }
    shown
}

/// Lists of texts, one for each question; one flat list (or one text) is the list of a single question.
pub(super) fn choices(value: Value, max_items: usize, max_chars: usize) -> Result<Value, String> {
    let lists = match parsed(value) {
        Value::Array(items) if items.iter().any(Value::is_array) => items,
        flat => vec![flat],
    };
    if lists.len() > max_items {
        return Err(format!("has {} lists", lists.len()));
    }
    let lists: Result<Vec<Value>, String> = lists
        .into_iter()
        .enumerate()
        .map(|(index, list)| {
            texts(list, max_items, max_chars).map_err(|problem| format!("list {index} {problem}"))
        })
        .collect();
    lists.map(Value::Array)
}
