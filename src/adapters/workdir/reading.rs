//! Reads a piece of a file for a caller.
//!
//! In: an opened regular file and a range. Out: text cut between characters, or base64 when the piece is not text, with
//! a guess at the type from the file's first bytes and its name.

use std::fs::File;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chargehand_actors::ports::{FileContent, WorkdirError};

use super::layout::disk;
use super::text::{read_piece, unfinished};

/// Bytes that tell the type of a file.
const HEAD: u64 = 512;
/// The longest character in bytes: a piece is never shorter, or reading would not advance.
const CHARACTER: u64 = 4;

/// First bytes of well-known types.
const SIGNATURES: [(&[u8], &str); 18] = [
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\x00", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"\x7fELF", "application/x-elf"),
    (b"\x00asm", "application/wasm"),
    (b"SQLite format 3\x00", "application/vnd.sqlite3"),
    (b"OggS", "application/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"wOF2", "font/woff2"),
];

/// Names of text formats that have a type of their own.
const TEXT_TYPES: [(&str, &str); 14] = [
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("md", "text/markdown"),
    ("mjs", "text/javascript"),
    ("rs", "text/x-rust"),
    ("svg", "image/svg+xml"),
    ("toml", "application/toml"),
    ("xml", "application/xml"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
];

/// Reads at most `limit` bytes (at least one character) from `offset`.
pub(super) fn read_content(
    file: &File,
    path: String,
    offset: u64,
    limit: u64,
) -> Result<FileContent, WorkdirError> {
    let fault = |error| disk("the file could not be read", &error);
    let size = file.metadata().map_err(fault)?.len();
    let piece = read_piece(file, offset, limit.max(CHARACTER)).map_err(fault)?;
    let head = read_piece(file, 0, HEAD).map_err(fault)?;
    Ok(content(path, &head, size, offset, piece))
}

/// The same from the bytes of a whole file.
pub(in crate::adapters) fn content_of(
    bytes: &[u8],
    path: String,
    offset: u64,
    limit: u64,
) -> FileContent {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    let end = place(offset.saturating_add(limit.max(CHARACTER)));
    let piece = bytes[place(offset)..end].to_vec();
    content(
        path,
        &bytes[..place(HEAD)],
        bytes.len() as u64,
        offset,
        piece,
    )
}

fn content(path: String, head: &[u8], size: u64, offset: u64, mut piece: Vec<u8>) -> FileContent {
    let mut end = offset.saturating_add(piece.len() as u64);
    if end < size {
        let whole = piece.len() - unfinished(&piece);
        if is_text(&piece[..whole]) {
            piece.truncate(whole);
            end = offset.saturating_add(whole as u64);
        }
    }
    let (binary, content) = match String::from_utf8(piece) {
        Ok(text) if is_text(text.as_bytes()) => (false, text),
        Ok(text) => (true, STANDARD.encode(text)),
        Err(error) => (true, STANDARD.encode(error.as_bytes())),
    };
    FileContent {
        media_type: media_type(head, size, &path).to_owned(),
        path,
        content,
        binary,
        size,
        offset,
        length: end.saturating_sub(offset),
        next_offset: (end < size && end > offset).then_some(end),
        note: None,
    }
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

/// A guess at the type.
fn media_type(head: &[u8], size: u64, path: &str) -> &'static str {
    let whole = if (head.len() as u64) < size {
        head.len() - unfinished(head)
    } else {
        head.len()
    };
    if is_text(&head[..whole]) {
        let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
        return TEXT_TYPES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(extension))
            .map_or("text/plain", |(_, kind)| kind);
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        return "image/webp";
    }
    if head.get(257..262) == Some(b"ustar") {
        return "application/x-tar";
    }
    if head.get(4..8) == Some(b"ftyp") {
        return "video/mp4";
    }
    SIGNATURES
        .iter()
        .find(|(start, _)| head.starts_with(start))
        .map_or("application/octet-stream", |(_, kind)| kind)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{content_of, media_type, read_content};
    use base64::Engine as _;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn stored(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn types_by_content_then_by_name() {
        assert_eq!(media_type(b"\x89PNG\r\n\x1a\n\0", 9, "a.txt"), "image/png");
        assert_eq!(media_type(b"{}", 2, "a.JSON"), "application/json");
        assert_eq!(media_type(b"hello", 5, "Makefile"), "text/plain");
        assert_eq!(media_type(b"\0\x01", 2, "a"), "application/octet-stream");
    }

    #[test]
    fn a_piece_with_a_nul_byte_is_base64() {
        let read = read_content(&stored(b"ab\0c"), "x".to_owned(), 0, 100).unwrap();
        assert!(read.binary);
        assert_eq!(read.content, "YWIAYw==");
        assert_eq!((read.size, read.length, read.next_offset), (4, 4, None));
        let beyond = read_content(&stored(b"ab"), "x".to_owned(), 9, 100).unwrap();
        assert_eq!((beyond.content.as_str(), beyond.length), ("", 0));
        assert_eq!(beyond.next_offset, None);
    }

    proptest! {
        #[test]
        fn pages_put_together_are_the_file(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..80),
                "\\PC{0,40}".prop_map(String::into_bytes)],
            limit in 0_u64..16,
        ) {
            let file = stored(&bytes);
            let mut whole = Vec::new();
            let mut offset = 0;
            loop {
                let read = read_content(&file, "x".to_owned(), offset, limit).unwrap();
                prop_assert_eq!(&read, &content_of(&bytes, "x".to_owned(), offset, limit));
                let piece = if read.binary {
                    base64::engine::general_purpose::STANDARD.decode(&read.content).unwrap()
                } else {
                    read.content.into_bytes()
                };
                prop_assert_eq!(piece.len() as u64, read.length);
                whole.extend(piece);
                match read.next_offset {
                    Some(next) => offset = next,
                    None => break,
                }
            }
            prop_assert_eq!(whole, bytes);
        }
    }
}
