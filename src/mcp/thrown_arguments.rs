//! Random arguments for tools, mostly almost right: made from the tools' own argument lists, then spoilt here and there.
//!
//! In: a seeded generator, an argument list, words that are known to the server (task ids). Out: a JSON object.

use chargehand_actors::fakes::Random;
use rmcp::model::JsonObject;
use serde_json::{Map, Value, json};

use super::args::{Arg, Kind};

/// What a worker of the fakes can be told to do.
const DESCRIPTIONS: [&str; 11] = [
    "Say hello.",
    "Work.\nscript: work 500; say 200; finish stop",
    "Wait.\nscript: hang",
    "Ask.\nscript: ask bash; say 100",
    "Ask.\nscript: question; say 100",
    "Err.\nscript: error ProviderAuthError",
    "Loop.\nscript: loop",
    "Reject.\nscript: reject",
    "Refuse.\nscript: refuse",
    "Lose.\nscript: lost",
    "Retry.\nscript: retry 5000; work 1000",
];

/// Pieces that have broken programs before.
const NASTY: [&str; 28] = [
    "",
    " ",
    "\n",
    "\0",
    "\u{1b}[31m",
    "\u{feff}",
    "\u{202e}",
    "\u{200d}",
    "ä€😀",
    "e\u{301}",
    "'",
    "\"",
    "\\",
    "{",
    "[]",
    "null",
    "NaN",
    "Infinity",
    "-0",
    "1e999",
    "0x10",
    "../../etc/passwd",
    "/dev/zero",
    "%00",
    "%s%n",
    "${HOME}",
    "$(id)",
    "; DROP TABLE tasks",
];

/// Words that the server knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Ids of tasks.
    pub(super) tasks: Vec<String>,
    /// Ids of requests that are or were open.
    pub(super) requests: Vec<String>,
    /// Cursors of lists.
    pub(super) cursors: Vec<String>,
}

/// Arguments that a tool must take, whatever the tree then says of them.
pub(super) fn right(random: &mut Random, args: &[Arg], known: &Known) -> JsonObject {
    let mut object = fields(random, args, known, 0);
    if object.contains_key("repository") {
        object.remove("directory");
    }
    // An answer takes the one of the two that belongs to its word.
    match object.get("answer").and_then(Value::as_str) {
        Some("choices") => {
            object.remove("message");
            object.insert("choices".to_owned(), json!([["Yes"]]));
        }
        Some("deny") => drop(object.remove("choices")),
        Some(_) => {
            object.remove("message");
            object.remove("choices");
        }
        None => {}
    }
    object
}

/// Arguments of which about every fourth is wrong, or looks wrong.
pub(super) fn spoilt(random: &mut Random, args: &[Arg], known: &Known) -> JsonObject {
    let mut object = fields(random, args, known, 250);
    if random.chance(150) {
        let (name, value) = unknown(random, args);
        object.insert(name, value);
    }
    if random.chance(4) {
        for number in 0..random.between(100, 3_000) {
            object.insert(format!("field_{number}"), Value::Null);
        }
    }
    object
}

/// Each argument is wrong in so many of a thousand cases; one that is required is left out as seldom.
fn fields(random: &mut Random, args: &[Arg], known: &Known, wrong: u32) -> JsonObject {
    let mut object = Map::new();
    for arg in args {
        let given = if arg.required {
            !random.chance(wrong / 5)
        } else {
            random.chance(250)
        };
        if given {
            let value = if random.chance(wrong) {
                wrong_value(random, arg, known)
            } else {
                good(random, arg, known)
            };
            object.insert(arg.name.to_owned(), value);
        }
    }
    // May be left out only when a header says it.
    if wrong == 0 && args.iter().any(|arg| arg.name == "task_description") {
        object.insert("agent_id".to_owned(), json!("agent-1"));
        // Soon over, so that there is place for others.
        object.insert(
            "timeout_ms".to_owned(),
            json!(random.between(1_000, 20_000)),
        );
    }
    object
}

fn pick<'a, T>(random: &mut Random, all: &'a [T]) -> Option<&'a T> {
    let at = random.below(all.len() as u64);
    all.get(usize::try_from(at).unwrap_or(0))
}

/// One that is probably taken.
fn good(random: &mut Random, arg: &Arg, known: &Known) -> Value {
    let words = |random: &mut Random, words: &[&str]| {
        pick(random, words).map_or(Value::Null, |word| json!(word))
    };
    match (arg.name, arg.kind) {
        ("task_id", _) => {
            pick(random, &known.tasks).map_or_else(|| json!(uuid(random)), |id| json!(id))
        }
        ("request_id", _) => {
            pick(random, &known.requests).map_or_else(|| json!("per_1"), |id| json!(id))
        }
        ("cursor", _) => pick(random, &known.cursors).map_or(Value::Null, |cursor| json!(cursor)),
        ("task_description", _) => words(random, &DESCRIPTIONS),
        ("agent_id", _) => words(random, &["agent-1", "agent-2", "agent-3"]),
        ("idempotency_key", _) => json!(format!("key-{}", random.below(200))),
        ("engine", _) => words(random, &["local", "frozen"]),
        ("model", _) => words(random, &["anthropic/claude", "openai/gpt-5"]),
        ("directory", _) => words(random, &["/srv/project", "/tmp"]),
        ("url", _) => words(
            random,
            &[
                "https://example.org/a.git",
                "git@example.org:a/b",
                "file:///srv/a.git",
            ],
        ),
        ("ref", _) => words(random, &["main", "v1.0", "feature/x"]),
        ("observers", _) => json!(["@ann:example.org"]),
        ("observer_id", _) => json!("@ann:example.org"),
        ("state", _) => words(random, &["running", "queued", "failed", "input_required"]),
        ("allow" | "ask" | "deny", Kind::Texts { .. }) => json!(["webfetch", "bash:git *"]),
        ("label" | "path" | "file_path" | "agent", _) => {
            words(random, &["build", "src/main.rs", "x"])
        }
        (_, kind) => of_kind(random, kind, known),
    }
}

/// Anything that the kind of argument allows.
fn of_kind(random: &mut Random, kind: Kind, known: &Known) -> Value {
    match kind {
        Kind::Text { min, max } => json!(text(random, min.max(1), max.min(60))),
        Kind::Integer { min, max } => json!(number(random, min, max)),
        Kind::Bool => json!(random.chance(500)),
        Kind::Choice(words) => pick(random, words).map_or(Value::Null, |word| json!(word)),
        Kind::Texts {
            max_items,
            max_chars,
        } => {
            let items = random.below(max_items as u64 + 1).min(5);
            Value::Array(
                (0..items)
                    .map(|_| json!(text(random, 1, max_chars)))
                    .collect(),
            )
        }
        Kind::Choices { max_chars, .. } => json!([[text(random, 1, max_chars)]]),
        Kind::Fields(args) => Value::Object(fields(random, args, known, 0)),
        Kind::Object { .. } => json!({"note": text(random, 1, 20), "n": random.below(9)}),
        Kind::Moment => match random.below(3) {
            0 => json!("2026-01-01T00:00:00Z"),
            1 => json!(random.below(4_000_000_000_000)),
            _ => json!("2026-01-01"),
        },
        Kind::TaskId => json!(uuid(random)),
    }
}

/// One that is wrong, or looks wrong: another type, a bound passed by one, a nasty text.
fn wrong_value(random: &mut Random, arg: &Arg, known: &Known) -> Value {
    match (random.below(8), arg.kind) {
        (0..=2, Kind::Text { min, max }) => {
            let chars = match random.below(3) {
                0 => max + 1,
                1 => max,
                _ => min.saturating_sub(1),
            };
            json!("x".repeat(chars))
        }
        (0..=2, Kind::Integer { min, max }) => match random.below(8) {
            0 => json!(min.saturating_sub(1)),
            1 => json!(max.saturating_add(1)),
            2 => json!(i64::MAX),
            3 => json!(u64::MAX),
            4 => json!(i64::MIN),
            5 => json!(1.5),
            6 => json!(1e300),
            _ => json!(format!(" {} ", number(random, min, max))),
        },
        (
            0..=2,
            Kind::Texts {
                max_items,
                max_chars,
            },
        ) => match random.below(3) {
            0 => json!(vec!["x"; max_items + 1]),
            1 => json!(["x".repeat(max_chars + 1), null, 7]),
            _ => json!("one"),
        },
        (0..=2, Kind::TaskId) => {
            let id = good(random, arg, known);
            let mut id = id.as_str().unwrap_or_default().to_owned();
            match random.below(4) {
                0 => id.make_ascii_uppercase(),
                1 => id.truncate(35),
                2 => id = id.replace('-', ""),
                _ => id.push('0'),
            }
            json!(id)
        }
        (0..=2, Kind::Object { max_bytes }) => json!({"x": "y".repeat(max_bytes)}),
        (0..=2, Kind::Fields(_)) => json!(good(random, arg, known).to_string()),
        (0..=2, Kind::Choice(words)) => {
            let word = pick(random, words).copied().unwrap_or_default();
            json!(word.get(1..).unwrap_or_default())
        }
        (0..=4, _) => json!(nasty(random)),
        (5, _) => json!(good(random, arg, known).to_string()),
        (6, _) => deep(random),
        _ => junk(random),
    }
}

/// A name that the tool does not have: often one that it nearly has.
fn unknown(random: &mut Random, args: &[Arg]) -> (String, Value) {
    let near = pick(random, args).map(|arg| arg.name);
    let name = match (near, random.below(4)) {
        (Some(near), 0) => near.replace('_', ""),
        (Some(near), 1) => format!("{near}s"),
        (Some(near), 2) => near.to_ascii_uppercase(),
        _ => nasty(random),
    };
    (name, junk(random))
}

fn number(random: &mut Random, min: i64, max: i64) -> i64 {
    let width = u64::try_from(i128::from(max) - i128::from(min)).unwrap_or(u64::MAX);
    // Mostly small: a large number is rarely a useful page or wait.
    let offset = if random.chance(700) {
        random.below(width.min(50) + 1)
    } else {
        random.below(width)
    };
    i64::try_from(i128::from(min) + i128::from(offset)).unwrap_or(max)
}

fn text(random: &mut Random, min: usize, max: usize) -> String {
    let letters: Vec<char> = "abc xyz-_./:@1ä€😀".chars().collect();
    let more = random.between(min.max(1) as u64, max as u64) - 1;
    let rest = (0..more).map(|_| pick(random, &letters).copied().unwrap_or('a'));
    // A text of blanks alone is none.
    std::iter::once('a').chain(rest).collect()
}

fn nasty(random: &mut Random) -> String {
    let pieces = random.between(1, 3);
    (0..pieces)
        .map(|_| pick(random, &NASTY).copied().unwrap_or_default())
        .collect()
}

/// Lists in lists, as deep as the parser of requests lets through.
fn deep(random: &mut Random) -> Value {
    let mut value = json!(1);
    for _ in 0..random.between(2, 120) {
        value = if random.chance(500) {
            json!([value])
        } else {
            json!({"a": value})
        };
    }
    value
}

fn junk(random: &mut Random) -> Value {
    match random.below(9) {
        0 => Value::Null,
        1 => json!(random.chance(500)),
        2 => json!(random.next()),
        3 => json!(-0.0),
        4 => json!(random.unit() * 1e18),
        5 => json!([]),
        6 => json!({}),
        7 => json!([nasty(random), 1, null]),
        _ => json!(nasty(random)),
    }
}

fn uuid(random: &mut Random) -> String {
    let bits = (u128::from(random.next()) << 64) | u128::from(random.next());
    uuid::Builder::from_random_bytes(bits.to_be_bytes())
        .into_uuid()
        .to_string()
}
