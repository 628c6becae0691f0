//! `[letta]`: the planner's memory and notices.
//!
//! In: the section, `LETTA_*` and `WORKSPACE_*` of the original system. Out: [`LettaSettings`], and how they are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use chargehand_actors::command::Notify;
use chargehand_actors::tree::MemorySettings;
use toml::Value;
use url::Url;

use super::Secret;
use super::reader::Reader;
use super::shown::REDACTED;

/// `[letta]`, when it has a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LettaSettings {
    /// The server: http(s) of a classic server, ws(s) or http(s) of an App Server.
    pub url: Url,
    /// The bearer token, where it asks for one.
    pub token: Option<Secret>,
    /// Which Letta it is.
    pub kind: LettaKind,
    /// Whether tasks have a memory at all; notices are sent without, too.
    pub memory: bool,
    /// What a memory looks like.
    pub format: MemoryFormat,
    /// Whether a memory is put before the agent's eyes, or only kept on the server.
    pub attach: bool,
    /// Whether the end of a task also goes to the agent's archival memory.
    pub archival: bool,
    /// Whether a memory is kept on the server when it is taken from the agent's eyes.
    pub keep: bool,
    /// How often, how long, how many.
    pub pace: MemorySettings,
    /// Events in a memory of the format `json`.
    pub max_events: u32,
    /// Characters of a memory of the format `json`.
    pub block_limit: u32,
    /// What agents are told of whose call does not say.
    pub notify: Notify,
    /// As whom a classic server is told.
    pub role: NoticeRole,
}

/// Which Letta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LettaKind {
    /// Found out by asking.
    Auto,
    /// The classic server, up to 0.16: REST, memory blocks.
    Classic,
    /// Letta Code's App Server: WebSocket, memory files.
    AppServer,
    /// None, although there is a URL.
    None,
}

/// What a memory looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryFormat {
    /// About ten lines for a model or a person.
    Text,
    /// The original system's JSON, for programs that read it.
    Json,
}

/// As whom an agent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeRole {
    /// The system.
    System,
    /// A user.
    User,
}

const KINDS: [(&str, LettaKind); 4] = [
    ("auto", LettaKind::Auto),
    ("classic", LettaKind::Classic),
    ("app_server", LettaKind::AppServer),
    ("none", LettaKind::None),
];
const FORMATS: [(&str, MemoryFormat); 2] =
    [("text", MemoryFormat::Text), ("json", MemoryFormat::Json)];
const ROLES: [(&str, NoticeRole); 2] = [("system", NoticeRole::System), ("user", NoticeRole::User)];
/// Words for what an agent is told of.
pub(crate) const NOTIFY: [(&str, Notify); 3] = [
    ("never", Notify::Never),
    ("end", Notify::End),
    ("questions", Notify::Questions),
];

/// Takes over what the original's variables say.
pub(super) fn apply_original(reader: &mut Reader) {
    for (theirs, ours) in [
        ("LETTA_API_URL", "letta.url"),
        ("LETTA_API_TOKEN", "letta.token"),
        ("WORKSPACE_BLOCK_LIMIT", "letta.block_limit"),
        ("WORKSPACE_MAX_EVENTS", "letta.max_events"),
    ] {
        if let Some(value) = reader.variable(theirs) {
            reader.imply(ours, value, theirs);
        }
    }
}

/// Reads the section; none without a URL.
pub(super) fn read(reader: &mut Reader) -> Option<LettaSettings> {
    let url = url(reader);
    let pace = MemorySettings::default();
    let seconds = |reader: &mut Reader, path, range, default: Duration| {
        Duration::from_secs(reader.number(path, range, default.as_secs()))
    };
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let token = reader.secret("letta.token", "letta.token_file");
    let kind = reader.choice("letta.kind", &KINDS, LettaKind::Auto);
    let memory = reader.flag("letta.memory", true);
    let format = reader.choice("letta.format", &FORMATS, MemoryFormat::Text);
    let attach = reader.flag("letta.attach", true);
    let archival = reader.flag("letta.archival", false);
    let keep = reader.flag("letta.keep", false);
    let pace = MemorySettings {
        interval: seconds(reader, "letta.interval_s", 1..=3_600, pace.interval),
        grace: seconds(reader, "letta.grace_s", 0..=86_400, pace.grace),
        per_agent: usize::try_from(reader.number(
            "letta.max_memories",
            1..=50,
            pace.per_agent as u64,
        ))
        .unwrap_or(pace.per_agent),
    };
    let max_events = small(reader.number("letta.max_events", 1..=1_000, 50));
    let block_limit = small(reader.number("letta.block_limit", 2_000..=1_000_000, 50_000));
    let notify = reader.choice("letta.notify", &NOTIFY, Notify::Never);
    let role = reader.choice("letta.role", &ROLES, NoticeRole::System);
    Some(LettaSettings {
        url: url?,
        token,
        kind,
        memory,
        format,
        attach,
        archival,
        keep,
        pace,
        max_events,
        block_limit,
        notify,
        role,
    })
}

/// `server.tool_prefix`: what Letta and other clients allow in a tool's name.
pub(super) fn tool_prefix(reader: &mut Reader) -> String {
    const PATH: &str = "server.tool_prefix";
    // An empty text is the default, and is shown.
    let prefix = reader.word(PATH).unwrap_or_default();
    let sound = prefix.len() <= 20
        && prefix
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !sound {
        reader.problem(
            PATH,
            format!("is \"{prefix}\""),
            "at most 20 of a-z, 0-9 and _, such as \"dev_\"",
        );
    }
    prefix
}

fn url(reader: &mut Reader) -> Option<Url> {
    const ALLOWED: &str = "http://, https://, ws:// or wss:// of a Letta server";
    let url = reader.parsed::<Url>("letta.url", ALLOWED)?;
    let scheme = matches!(url.scheme(), "http" | "https" | "ws" | "wss");
    if !scheme || url.host().is_none() {
        reader.problem("letta.url", "is no address of a server", ALLOWED);
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        reader.problem(
            "letta.url",
            "contains credentials",
            "letta.token or letta.token_file",
        );
        return None;
    }
    Some(url)
}

fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> Value {
    let found = words.iter().find(|(_, of)| of == value);
    Value::String(found.map_or("", |(word, _)| *word).to_owned())
}

/// Every setting that has a value, by its path.
pub(super) fn show(values: &mut BTreeMap<&'static str, Value>, settings: Option<&LettaSettings>) {
    let Some(settings) = settings else {
        return;
    };
    let LettaSettings {
        url,
        token,
        kind,
        memory,
        format,
        attach,
        archival,
        keep,
        pace,
        max_events,
        block_limit,
        notify,
        role,
    } = settings;
    let MemorySettings {
        interval,
        grace,
        per_agent,
    } = pace;
    let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    values.extend([
        ("letta.url", Value::String(url.to_string())),
        ("letta.kind", word(&KINDS, kind)),
        ("letta.memory", Value::Boolean(*memory)),
        ("letta.format", word(&FORMATS, format)),
        ("letta.attach", Value::Boolean(*attach)),
        ("letta.archival", Value::Boolean(*archival)),
        ("letta.keep", Value::Boolean(*keep)),
        ("letta.interval_s", number(interval.as_secs())),
        ("letta.grace_s", number(grace.as_secs())),
        ("letta.max_memories", number(*per_agent as u64)),
        ("letta.max_events", number((*max_events).into())),
        ("letta.block_limit", number((*block_limit).into())),
        ("letta.notify", word(&NOTIFY, notify)),
        ("letta.role", word(&ROLES, role)),
    ]);
    if token.is_some() {
        values.insert("letta.token", Value::String(REDACTED.to_owned()));
    }
}
