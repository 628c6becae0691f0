//! Arguments of a tool: declared once, used for its input schema and for decoding what a model sent.
//!
//! In: a tool's [`Arg`] list and the JSON object of a call. Out: [`Args`] with typed, checked values, or
//! [`BadArguments`] that names each wrong field, what is allowed and what to do next.
//! Sloppy but unambiguous values are accepted (`"5"` for 5, `null` for absent); unknown names never are.

use rmcp::model::JsonObject;
use serde_json::{Map, Value, json};

use super::values::{
    LONGEST_NAME, boolean, choices, integer, length, moment, parsed, short, text, texts, type_word,
};
use crate::nearest::nearest;

/// As many unknown names are told one by one: a refusal is read by somebody.
const UNKNOWN_NAMED: usize = 10;

/// What a field may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Text of `min..=max` characters, not only blanks when `min` is above 0.
    Text {
        /// Fewest characters.
        min: usize,
        /// Most characters.
        max: usize,
    },
    /// A whole number.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// true or false.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts.
    Texts {
        /// Most entries.
        max_items: usize,
        /// Most characters in each.
        max_chars: usize,
    },
    /// A list of texts for each question; the list of a single question may stand alone.
    Choices {
        /// Most lists, and most entries in each.
        max_items: usize,
        /// Most characters in each entry.
        max_chars: usize,
    },
    /// An object with these fields.
    Fields(&'static [Arg]),
    /// Any object of at most this many bytes of JSON.
    Object {
        /// Most bytes.
        max_bytes: usize,
    },
    /// A moment: ISO 8601 text or milliseconds since 1970. Decoded to milliseconds.
    Moment,
    /// A task id.
    TaskId,
}

/// One argument.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arg {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it may hold.
    pub(crate) kind: Kind,
    /// It must be given.
    pub(crate) required: bool,
    /// For the model.
    pub(crate) about: &'static str,
    /// Shown in the schema; the tool applies it.
    pub(crate) default: Option<Default>,
}

/// A default shown in the schema.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Default {
    /// A number.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A word.
    Word(&'static str),
}

impl Arg {
    /// An argument that may be left out.
    pub(crate) const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self {
            name,
            kind,
            required: false,
            about,
            default: None,
        }
    }

    /// An argument that must be given.
    pub(crate) const fn required(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self {
            name,
            kind,
            required: true,
            about,
            default: None,
        }
    }

    /// Says what holds when it is left out.
    pub(crate) const fn or(mut self, default: Default) -> Self {
        self.default = Some(default);
        self
    }

    fn schema(&self) -> Value {
        let mut schema = self.kind.schema();
        if let Value::Object(fields) = &mut schema {
            fields.insert("description".to_owned(), json!(self.about));
            if let Some(default) = self.default {
                let default = match default {
                    Default::Int(value) => json!(value),
                    Default::Bool(value) => json!(value),
                    Default::Word(value) => json!(value),
                };
                fields.insert("default".to_owned(), default);
            }
        }
        schema
    }
}

impl Kind {
    fn schema(self) -> Value {
        match self {
            Self::Text { min, max } => {
                json!({"type": "string", "minLength": min, "maxLength": max})
            }
            Self::Integer { min, max } => {
                json!({"type": "integer", "minimum": min, "maximum": max})
            }
            Self::Bool => json!({"type": "boolean"}),
            Self::Choice(words) => json!({"type": "string", "enum": words}),
            Self::Texts {
                max_items,
                max_chars,
            } => json!({
                "type": "array", "maxItems": max_items,
                "items": {"type": "string", "minLength": 1, "maxLength": max_chars},
            }),
            Self::Choices {
                max_items,
                max_chars,
            } => json!({
                "type": "array", "maxItems": max_items,
                "items": {"type": "array", "maxItems": max_items,
                    "items": {"type": "string", "minLength": 1, "maxLength": max_chars}},
            }),
            Self::Fields(fields) => Value::Object(input_schema(fields)),
            Self::Object { .. } => json!({"type": "object", "additionalProperties": true}),
            Self::Moment => json!({"type": "string", "maxLength": 64}),
            Self::TaskId => json!({"type": "string", "format": "uuid"}),
        }
    }

    /// What is allowed, for the error text.
    fn allowed(self) -> String {
        match self {
            Self::Text { min: 0, max } => format!("text of at most {max} characters"),
            Self::Text { min, max } if max <= LONGEST_NAME => {
                format!("text of {min} to {max} characters in one line, not blank")
            }
            Self::Text { min, max } => format!("text of {min} to {max} characters, not blank"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Bool => "true or false".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Texts {
                max_items,
                max_chars,
            } => {
                format!(
                    "a list of at most {max_items} texts of 1 to {max_chars} characters in one line each"
                )
            }
            Self::Choices {
                max_items,
                max_chars,
            } => format!(
                "a list of texts for each question, at most {max_items} texts of 1 to {max_chars} characters each, such as [[\"Yes\"]]"
            ),
            Self::Fields(fields) => format!(
                "an object with {}",
                fields.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")
            ),
            Self::Object { max_bytes } => {
                format!("a JSON object of at most {max_bytes} bytes")
            }
            Self::Moment => {
                "a time such as 2026-11-22T16:00:00Z, or milliseconds since 1970".to_owned()
            }
            Self::TaskId => {
                "a task_id as returned by opencode_execute_task (a UUID); list_tasks shows them"
                    .to_owned()
            }
        }
    }

    /// The value in its plain form, or what is wrong with it.
    fn check(self, path: &str, value: Value, wrong: &mut Vec<Problem>) -> Option<Value> {
        let result = match self {
            Self::Text { min, max } => text(value).and_then(|text| length(text, min, max)),
            Self::Integer { min, max } => integer(&value).and_then(|number| {
                if (min..=max).contains(&number) {
                    Ok(json!(number))
                } else {
                    Err(format!("is {number}"))
                }
            }),
            Self::Bool => boolean(&value),
            Self::Choice(words) => text(value).and_then(|text| {
                let word = text.trim().to_ascii_lowercase();
                if words.contains(&word.as_str()) {
                    Ok(json!(word))
                } else {
                    Err(match nearest(&word, words) {
                        Some(near) => format!("is \"{}\"; did you mean \"{near}\"?", short(&text)),
                        None => format!("is \"{}\"", short(&text)),
                    })
                }
            }),
            Self::Texts {
                max_items,
                max_chars,
            } => texts(value, max_items, max_chars),
            Self::Choices {
                max_items,
                max_chars,
            } => choices(value, max_items, max_chars),
            Self::Fields(fields) => {
                return match parsed(value) {
                    Value::Object(map) => Some(Value::Object(check_all(fields, map, path, wrong))),
                    other => {
                        wrong.push(Problem::new(
                            path,
                            format!("is {}", type_word(&other)),
                            self.allowed(),
                        ));
                        None
                    }
                };
            }
            Self::Object { max_bytes } => match parsed(value) {
                Value::Object(map) => {
                    let bytes = Value::Object(map.clone()).to_string().len();
                    if bytes <= max_bytes {
                        Ok(Value::Object(map))
                    } else {
                        Err(format!("has {bytes} bytes"))
                    }
                }
                other => Err(format!("is {}", type_word(&other))),
            },
            Self::Moment => moment(&value),
            Self::TaskId => text(value).and_then(|text| {
                match text.trim().parse::<chargehand_actors::id::TaskId>() {
                    Ok(id) => Ok(json!(id.to_string())),
                    Err(_) => Err(format!("is \"{}\", which is no task id", short(&text))),
                }
            }),
        };
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                wrong.push(Problem::new(path, problem, self.allowed()));
                None
            }
        }
    }
}

/// The input schema of a tool with these arguments.
pub(crate) fn input_schema(args: &[Arg]) -> JsonObject {
    let properties: Map<String, Value> = args
        .iter()
        .map(|arg| (arg.name.to_owned(), arg.schema()))
        .collect();
    let required: Vec<&str> = args
        .iter()
        .filter(|arg| arg.required)
        .map(|arg| arg.name)
        .collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema
}

/// One wrong argument.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Problem {
    /// Its name; fields of an object with a dot.
    pub(crate) field: String,
    /// What is wrong.
    pub(crate) problem: String,
    /// What would be right.
    pub(crate) allowed: String,
}

impl Problem {
    pub(crate) fn new(
        field: impl Into<String>,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            allowed: allowed.into(),
        }
    }
}

/// Why a call was not made: every wrong argument at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub(crate) struct BadArguments(pub(crate) Vec<Problem>);

impl BadArguments {
    fn sentence(&self) -> String {
        self.0
            .iter()
            .map(|p| format!("{} {}; allowed: {}", p.field, p.problem, p.allowed))
            .collect::<Vec<_>>()
            .join(". ")
    }

    /// One wrong argument, found by the tool itself.
    pub(crate) fn one(
        field: impl Into<String>,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self(vec![Problem::new(field, problem, allowed)])
    }
}

/// Checked arguments.
#[derive(Debug)]
pub(crate) struct Args(Map<String, Value>);

impl Args {
    /// Checks everything.
    pub(crate) fn check(args: &[Arg], given: JsonObject) -> Result<Self, BadArguments> {
        let mut wrong = Vec::new();
        let checked = check_all(args, given, "", &mut wrong);
        if wrong.is_empty() {
            Ok(Self(checked))
        } else {
            Err(BadArguments(wrong))
        }
    }

    /// All of them but those named, as JSON with its names in order.
    pub(crate) fn in_one_form(&self, without: &[&str]) -> String {
        let kept = self.0.iter();
        let kept = kept.filter(|(name, _)| !without.contains(&name.as_str()));
        let kept = kept.map(|(name, value)| (name.clone(), value.clone()));
        let mut kept = Value::Object(kept.collect());
        // Whether a map keeps the order of the call is for some other crate to decide.
        kept.sort_all_objects();
        kept.to_string()
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A text that the argument list marks as required.
    pub(crate) fn need_text(&self, name: &str) -> Result<&str, BadArguments> {
        self.text(name)
            .ok_or_else(|| BadArguments::one(name, "is missing", "a text"))
    }

    /// The task id of argument `task_id`.
    pub(crate) fn task(&self) -> Result<chargehand_actors::id::TaskId, BadArguments> {
        self.need_text("task_id")?
            .parse()
            .map_err(|_| BadArguments::one("task_id", "is no task id", Kind::TaskId.allowed()))
    }

    /// A whole number.
    pub(crate) fn integer(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(Value::as_i64)
    }

    /// A whole number that the argument list keeps at 0 or above.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(Value::as_u64)
    }

    /// A truth value.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(Value::as_bool)
    }

    /// A list of texts; empty when absent.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        self.0.get(name).map(strings).unwrap_or_default()
    }

    /// Lists of texts; empty when absent.
    pub(crate) fn choices(&self, name: &str) -> Vec<Vec<String>> {
        match self.0.get(name) {
            Some(Value::Array(lists)) => lists.iter().map(strings).collect(),
            _ => Vec::new(),
        }
    }

    /// An object; empty when absent.
    pub(crate) fn object(&self, name: &str) -> Map<String, Value> {
        match self.0.get(name) {
            Some(Value::Object(map)) => map.clone(),
            _ => Map::new(),
        }
    }

    /// A nested object with checked fields.
    pub(crate) fn fields(&self, name: &str) -> Option<Self> {
        match self.0.get(name) {
            Some(Value::Object(map)) => Some(Self(map.clone())),
            _ => None,
        }
    }
}

fn strings(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten();
    texts
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn check_all(
    args: &[Arg],
    mut given: Map<String, Value>,
    path: &str,
    wrong: &mut Vec<Problem>,
) -> Map<String, Value> {
    let at = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    let mut checked = Map::new();
    for arg in args {
        match given.remove(arg.name).filter(|value| !value.is_null()) {
            Some(value) => {
                if let Some(value) = arg.kind.check(&at(arg.name), value, wrong) {
                    checked.insert(arg.name.to_owned(), value);
                }
            }
            None if arg.required => {
                wrong.push(Problem::new(at(arg.name), "is missing", arg.kind.allowed()));
            }
            None => {}
        }
    }
    let names: Vec<&str> = args.iter().map(|arg| arg.name).collect();
    for unknown in given.keys().take(UNKNOWN_NAMED) {
        let allowed = match (nearest(unknown, &names), names.is_empty()) {
            (Some(near), _) => format!("{} (the nearest)", at(near)),
            (None, true) => "no arguments at all".to_owned(),
            (None, false) => format!("only {}", names.join(", ")),
        };
        wrong.push(Problem::new(
            at(&short(unknown)),
            "is no argument of this tool",
            allowed,
        ));
    }
    let more = given.len().saturating_sub(UNKNOWN_NAMED);
    if more > 0 {
        wrong.push(Problem::new(
            if path.is_empty() { "arguments" } else { path },
            format!("has {more} more names that are no arguments of this tool"),
            "only the arguments of the tool",
        ));
    }
    checked
}
