//! Lines as they come out of [`super::Lines`].

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::layer::SubscriberExt;

use super::*;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `speak` logs.
fn written(format: LogFormat, colours: bool, speak: impl FnOnce()) -> String {
    let out = Written::default();
    let writer = out.clone();
    let layer = Lines {
        format,
        colours,
        writer: move || writer.clone(),
    };
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, speak);
    String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
}

/// Everything with which a text could pretend to be more than a value.
const HOSTILE: &str = "done\n{\"level\":\"INFO\",\"message\":\"task ended\"}\r\n\u{1b}[31mred\u{1b}[0m\u{2028}\u{202e}txt\u{7}\u{9b}2J";

#[test]
fn json_is_one_object_on_one_line() {
    let text = written(LogFormat::Json, false, || {
        let span = tracing::info_span!("task", task = "t-1", attempt = 1_u32);
        span.in_scope(|| {
            tracing::info!(why = HOSTILE, number = 7, fine = true, "text: {HOSTILE}");
        });
    });
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    assert!(!text.trim_end().chars().any(acts), "{text:?}");
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["task"], "t-1");
    assert_eq!(line["attempt"], 1);
    assert_eq!(line["number"], 7);
    assert_eq!(line["fine"], true);
    assert_eq!(line["level"], "INFO");
    // The values themselves are harmless too, for whoever prints them.
    for field in ["why", "message"] {
        let value = line[field].as_str().unwrap();
        assert!(!value.chars().any(acts), "{value:?}");
        assert!(
            value.contains("\\n") && value.contains("\\u{1b}[31mred"),
            "{value}"
        );
    }
}

#[test]
fn text_is_one_line_too() {
    let text = written(LogFormat::Text, false, || {
        tracing::warn!(why = HOSTILE, task = "t-1", "{HOSTILE}");
    });
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    assert!(!text.trim_end().chars().any(acts), "{text:?}");
    assert!(
        text.contains(" WARN ") && text.ends_with(" task=t-1\n"),
        "{text}"
    );
}

#[test]
fn colours_are_ours_alone() {
    let text = written(LogFormat::Text, true, || {
        tracing::error!(why = HOSTILE, "bad")
    });
    let ours = ["\u{1b}[31m", "\u{1b}[2m", "\u{1b}[0m"];
    let rest = ours.iter().fold(text, |text, ours| text.replace(ours, ""));
    assert!(!rest.trim_end().chars().any(acts), "{rest:?}");
}

#[test]
fn the_own_field_wins_and_the_inner_span_wins() {
    let text = written(LogFormat::Json, false, || {
        let outer = tracing::info_span!(
            "outer",
            task = "outer",
            engine = "local",
            attempt = tracing::field::Empty
        );
        outer.record("attempt", 3);
        let _outer = outer.entered();
        let _library = tracing::info_span!(target: "library", "actor", id = "0.2").entered();
        let _inner = tracing::info_span!("inner", task = "inner").entered();
        tracing::info!("spans");
        tracing::info!(task = "own", "own");
    });
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&lines[0]["task"], &lines[0]["attempt"]),
        (&"inner".into(), &3.into())
    );
    assert_eq!(lines[0].get("id"), None, "a span of a library is not ours");
    assert_eq!(
        (&lines[1]["task"], &lines[1]["engine"]),
        (&"own".into(), &"local".into())
    );
}

#[test]
fn a_field_cannot_take_the_place_of_the_head() {
    let text = written(LogFormat::Json, false, || {
        tracing::info!(level = "ERROR", timestamp = "1970", "real");
    });
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&line["level"], &line["message"]),
        (&"INFO".into(), &"real".into())
    );
    assert_eq!(text.matches("\"level\"").count(), 1, "{text}");
}

#[test]
fn long_values_are_cut() {
    let text = written(LogFormat::Json, false, || {
        tracing::info!(why = "ä".repeat(LONGEST + 5), "x")
    });
    let line: Value = serde_json::from_str(&text).unwrap();
    let why = line["why"].as_str().unwrap();
    assert!(why.ends_with("ä… (5 more characters)"), "{why}");
    assert!(why.chars().count() < LONGEST + 40);
}
