//! How a log line is written: text for people, one JSON object for programs; always one line, whatever its fields say.
//!
//! In: tracing's spans and events. Out: lines to a writer. Fields of the spans around an event (`task`, `attempt`) stand in the
//! line as if they were its own; its own win. Values come from workers and callers: control characters and characters that
//! reorder a line are written as `\u{..}`, and what is long is cut, so that no text can forge a line or drive a terminal.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;

/// Characters of a value that are kept.
const LONGEST: usize = 2_000;

/// Writes lines.
pub(super) struct Lines<W> {
    pub(super) format: LogFormat,
    pub(super) colours: bool,
    pub(super) writer: W,
}

/// Names and values, in the order in which they were given. A name stands only once.
#[derive(Clone, Debug, Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn set(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        match self.0.remove(at).1 {
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), Value::String(harmless(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), Value::String(harmless(&format!("{value:?}"))));
    }
}

/// The same text on one line, without a character that does anything, at most [`LONGEST`] long.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(LONGEST));
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            let left = text.chars().count() - LONGEST;
            let _ = write!(out, "… ({left} more characters)");
            break;
        }
        if acts(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Controls, line and paragraph separators, and what changes the direction of text or cannot be seen.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        let spans = context.event_scope(event).into_iter();
        for span in spans.flat_map(|spans| spans.from_root()) {
            // Libraries have spans too, whose fields say nothing here.
            if !span.metadata().target().starts_with("chargehand") {
                continue;
            }
            if let Some(known) = span.extensions().get::<Fields>() {
                for (name, value) in &known.0 {
                    fields.set(name, value.clone());
                }
            }
        }
        event.record(&mut fields);
        let line = Line::new(event, fields);
        let text = match self.format {
            LogFormat::Text => line.text(self.colours),
            LogFormat::Json => line.json(),
        };
        let mut writer = self.writer.make_writer_for(event.metadata());
        // Nobody is left to be told that the log cannot be written.
        let _ = writer.write_all(text.as_bytes());
    }
}

/// One line, before it has a form.
struct Line {
    time: String,
    level: Level,
    target: String,
    message: String,
    fields: Fields,
}

impl Line {
    fn new(event: &Event<'_>, mut fields: Fields) -> Self {
        // Libraries that speak through the crate `log` say in fields where they are.
        let target = fields.take("log.target");
        fields.0.retain(|(name, _)| !name.starts_with("log."));
        Self {
            time: format!("{:.3}", jiff::Timestamp::now()),
            level: *event.metadata().level(),
            target: target.unwrap_or_else(|| event.metadata().target().to_owned()),
            message: fields.take("message").unwrap_or_default(),
            fields,
        }
    }

    fn json(&self) -> String {
        let head = [
            ("timestamp", Value::from(self.time.as_str())),
            ("level", Value::from(self.level.as_str())),
            ("message", Value::from(self.message.as_str())),
            ("target", Value::from(self.target.as_str())),
        ];
        let mut line = String::from("{");
        let taken = |name: &str| head.iter().any(|(head, _)| *head == name);
        let own = self.fields.0.iter().filter(|(name, _)| !taken(name));
        for (at, (name, value)) in head.iter().chain(own).enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // A name is written as JSON too: a library may choose any.
            let _ = write!(line, "{comma}{}:{value}", Value::from(*name));
        }
        line.push_str("}\n");
        line
    }

    fn text(&self, colours: bool) -> String {
        let (level, dim, end) = match (colours, self.level) {
            (false, _) => ("", "", ""),
            (true, Level::ERROR) => ("\u{1b}[31m", "\u{1b}[2m", "\u{1b}[0m"),
            (true, Level::WARN) => ("\u{1b}[33m", "\u{1b}[2m", "\u{1b}[0m"),
            (true, Level::INFO) => ("\u{1b}[32m", "\u{1b}[2m", "\u{1b}[0m"),
            (true, _) => ("\u{1b}[34m", "\u{1b}[2m", "\u{1b}[0m"),
        };
        let mut line = format!(
            "{dim}{}{end} {level}{:>5}{end} {dim}{}{end} {}",
            self.time, self.level, self.target, self.message
        );
        for (name, value) in &self.fields.0 {
            let value = match value {
                // Quoted where it would not be seen where it ends.
                Value::String(text) if text.contains([' ', '=', '"']) || text.is_empty() => {
                    value.to_string()
                }
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let _ = write!(line, " {dim}{name}={end}{value}");
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
#[path = "log_line_tests.rs"]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
