//! Names of files for people and back.
//!
//! In: bytes of a path from the disk, or text of a path from a caller. Out: printable text that can be given back, or
//! checked path components. Bytes that are not UTF-8 and control characters are shown as `\xNN`; a backslash that would
//! read as such an escape is shown as `\x5c`, so that the text always leads back to the same bytes.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use chargehand_actors::ports::WorkdirError;

/// A path as printable text.
pub(in crate::adapters) fn show(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    let mut at = 0;
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            let length = character.len_utf8();
            let raw = path.get(at..at + length).unwrap_or_default();
            let escape_like = character == '\\' && escaped_byte(&path[at..]).is_some();
            if character.is_control() || escape_like {
                push_escaped(&mut text, raw);
            } else {
                text.push(character);
            }
            at += length;
        }
        push_escaped(&mut text, chunk.invalid());
        at += chunk.invalid().len();
    }
    text
}

/// The bytes that [`show`] made the text from. Text without escapes is taken as it is.
pub(super) fn parse(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut path = Vec::with_capacity(rest.len());
    while let Some(first) = rest.first() {
        match escaped_byte(rest) {
            Some(byte) => {
                path.push(byte);
                rest = &rest[4..];
            }
            None => {
                path.push(*first);
                rest = &rest[1..];
            }
        }
    }
    path
}

/// The components of a path below `root` that a caller asked for. An absolute path inside `root` is made relative.
pub(in crate::adapters) fn components(
    root: &Path,
    text: &str,
) -> Result<Vec<Vec<u8>>, WorkdirError> {
    let asked = parse(text);
    if asked.contains(&0) {
        return Err(refused(text, "it contains a NUL byte"));
    }
    let relative = if asked.starts_with(b"/") {
        Path::new(OsStr::from_bytes(&asked))
            .strip_prefix(root)
            .map_err(|_| {
                refused(
                    text,
                    "it is outside of the workdir; give a path relative to the workdir",
                )
            })?
            .as_os_str()
            .as_bytes()
            .to_vec()
    } else {
        asked
    };
    let mut parts = Vec::new();
    for part in relative.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                return Err(refused(
                    text,
                    "\"..\" is not allowed; give a path relative to the workdir",
                ));
            }
            name => parts.push(name.to_vec()),
        }
    }
    Ok(parts)
}

/// The path lies below one of the directories.
pub(super) fn is_below_any(path: &[u8], directories: &[Vec<u8>]) -> bool {
    directories.iter().any(|directory| {
        path.strip_prefix(directory.as_slice())
            .is_some_and(|rest| rest.starts_with(b"/"))
    })
}

/// A refusal that names the path.
pub(in crate::adapters) fn refused(path: &str, why: &str) -> WorkdirError {
    let shown: String = show(path.as_bytes()).chars().take(300).collect();
    WorkdirError::Refused(format!("path \"{shown}\" is refused: {why}"))
}

fn push_escaped(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

fn escaped_byte(bytes: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = bytes else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(*high)? * 16 + digit(*low)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::{components, parse, show};
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn bytes_that_cannot_be_printed_are_escaped() {
        assert_eq!(show(b"plain/\xc3\xa4.rs"), "plain/ä.rs");
        assert_eq!(show(b"a\xffb"), "a\\xffb");
        assert_eq!(show(b"new\nline\x1b"), "new\\x0aline\\x1b");
        assert_eq!(show(b"c:\\dir"), "c:\\dir");
        assert_eq!(show(b"\\x41"), "\\x5cx41");
    }

    #[test]
    fn paths_that_leave_the_workdir_are_refused() {
        let root = Path::new("/w/task");
        for bad in [
            "../x",
            "a/../../x",
            "/etc/passwd",
            "/w/task2/x",
            "/w/task/../x",
            "a\\x00b",
        ] {
            let error = components(root, bad).map_err(|error| error.to_string());
            assert!(
                error
                    .as_ref()
                    .is_err_and(|text| text.contains("is refused")),
                "{bad}: {error:?}"
            );
        }
        assert_eq!(
            components(root, "/w/task/a/./b//c").ok(),
            Some(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()])
        );
        assert_eq!(components(root, "-rf").ok(), Some(vec![b"-rf".to_vec()]));
        assert_eq!(components(root, "./").ok(), Some(vec![]));
    }

    proptest! {
        #[test]
        fn shown_names_lead_back(path in proptest::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\\'), Just(b'x'), Just(b'4'), Just(b'f')], 0..40)) {
            let shown = show(&path);
            prop_assert!(!shown.chars().any(char::is_control));
            prop_assert_eq!(parse(&shown), path);
        }
    }
}
