//! The settings as they were found: where each came from, and what a person should know about them.
//!
//! In: what the reader saw. Out: [`Checked`]: the settings or every problem, origins, notes. Nothing secret is in it but
//! the settings themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::{ConfigError, Settings};

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The settings file.
    File,
    /// An environment variable: ours, or one of the original system's.
    Variable(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("file"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Something is weaker than it was asked for, or open to others: said at every start.
    Warning,
    /// Good to know: said by `chargehand config check`.
    Remark,
}

impl Weight {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Remark => "note",
        }
    }
}

/// Something that does not stop a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The setting, variable or file.
    pub about: String,
    /// What about it, and what to do.
    pub text: String,
    /// How much it matters.
    pub weight: Weight,
}

/// What the sources say.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The settings, or everything that is wrong with them.
    pub settings: Result<Settings, ConfigError>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Where the value of each setting came from, by its path; empty when the file is no TOML.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What to know about them.
    pub notes: Vec<Note>,
}

#[cfg(test)]
#[path = "checked_tests.rs"]
mod tests;
