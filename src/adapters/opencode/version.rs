//! Versions of OpenCode: which are refused, which are told about, what each can do. Pure.

use std::fmt;

use chargehand_actors::ports::EngineError;

/// The version that Chargehand installs and is tested with.
pub const PINNED: &str = "1.18.33";

/// A version: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::adapters) struct Version(u32, u32, u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// Reads `1.18.33`, with or without a leading `v` and a suffix such as `-beta.1`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('v');
        let end = text
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .unwrap_or(text.len());
        let mut numbers = text.get(..end)?.split('.').map(str::parse::<u32>);
        Some(Self(
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
            numbers.next().and_then(Result::ok).unwrap_or(0),
        ))
    }

    /// Refuses what is too old to be driven.
    pub(in crate::adapters) fn accept(text: &str) -> Result<Self, EngineError> {
        match Self::parse(text) {
            Some(version) if version >= Self(1, 3, 0) => Ok(version),
            Some(version) => Err(EngineError::Unusable(format!(
                "OpenCode {version} is too old: 1.3.0 or newer is needed; install it with \
                 `npm install -g opencode-ai@{PINNED}`, or let Chargehand install its own by removing the old one from PATH"
            ))),
            // A build from source says `local` or `dev`; it answered the health route, which came with 1.3.
            None => Ok(Self(1, 18, 0)),
        }
    }

    /// Something to tell an operator.
    pub(super) fn note(self) -> Option<String> {
        (self.0 >= 2).then(|| {
            format!("OpenCode {self} is newer than what this Chargehand was tested with ({PINNED}); if tasks behave strangely, use 1.x")
        })
    }

    /// Whether an answer to a request that is not open is refused (1.3.0 takes any, 1.17.0 refuses).
    pub(super) fn refuses_gone_requests(self) -> bool {
        self >= Self(1, 17, 0)
    }

    /// Whether child sessions inherit the denials of their parent (1.3.0 does not, 1.17.0 does).
    pub(super) fn inherits_rules(self) -> bool {
        self >= Self(1, 17, 0)
    }

    /// Whether the sessions of all directories can be listed (not known of versions before 1.17.0).
    pub(super) fn lists_all_sessions(self) -> bool {
        self >= Self(1, 17, 0)
    }

    /// Whether sessions keep the metadata that they are created with (1.3.0 drops it, 1.17.0 keeps it).
    pub(super) fn keeps_metadata(self) -> bool {
        self >= Self(1, 17, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_judged() {
        let table = [
            ("1.18.33", Some(Version(1, 18, 33)), true),
            ("v1.3.0\n", Some(Version(1, 3, 0)), true),
            ("1.2.27", Some(Version(1, 2, 27)), false),
            ("0.9", Some(Version(0, 9, 0)), false),
            ("2.0.0-beta.1", Some(Version(2, 0, 0)), true),
            ("local", None, true),
        ];
        for (text, parsed, accepted) in table {
            assert_eq!(Version::parse(text), parsed, "{text}");
            assert_eq!(Version::accept(text).is_ok(), accepted, "{text}");
        }
        assert!(Version(2, 0, 0).note().is_some());
        assert!(Version(1, 99, 0).note().is_none());
        assert!(!Version(1, 3, 0).keeps_metadata());
    }
}
