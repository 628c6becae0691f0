//! What the Letta adapter is told.
//!
//! In: values of the configuration, put in by the assembly. Out: plain data for the two sides and the texts.

use std::fmt;

use chargehand_actors::event::CommittedEvent;
use url::Url;

/// Which Letta it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Found out by asking.
    Auto,
    /// The classic server: REST, memory blocks.
    Classic,
    /// Letta Code's App Server: WebSocket, memory files.
    AppServer,
}

/// What a memory looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// About ten lines for a model or a person.
    Text,
    /// The original system's JSON.
    Json {
        /// Newest events in it.
        events: u32,
        /// Characters of the whole.
        limit: usize,
    },
}

/// As whom a classic agent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A system message.
    System,
    /// A user message.
    User,
}

impl Role {
    /// Letta's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
        }
    }
}

/// A bearer token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps a token.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// For the one place that sends it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// An event in the original system's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventWords {
    /// The original's type word.
    pub kind: &'static str,
    /// One sentence.
    pub sentence: String,
}

/// Everything.
#[derive(Clone, Debug)]
pub struct LettaSettings {
    /// Where it is.
    pub url: Url,
    /// The bearer token, where it asks for one.
    pub token: Option<Token>,
    /// Which Letta it is.
    pub kind: Kind,
    /// This data directory's id: every memory carries it, and nothing without it is ever touched.
    pub instance: String,
    /// Whether tasks have a memory.
    pub memory: bool,
    /// What it looks like.
    pub format: Format,
    /// Whether it is put before the agent's eyes.
    pub attach: bool,
    /// Whether the end goes to the agent's archival memory.
    pub archival: bool,
    /// Whether it is kept on the server when it leaves the agent's eyes.
    pub keep: bool,
    /// As whom a classic agent is told.
    pub role: Role,
    /// What our tools' names begin with, for what to call next.
    pub tool_prefix: String,
    /// Events in words.
    pub words: fn(&CommittedEvent) -> EventWords,
}
