//! A piece of a stored text, cut between characters.
//!
//! In: a file, an offset, the most that is wanted. Out: a `TextChunk` whose end is always a place to read on from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use chargehand_actors::ports::TextChunk;

/// The longest character in bytes: a piece is never shorter, or reading would not advance.
const CHARACTER: u64 = 4;

/// Reads at most `limit` bytes (at least one character) from `offset`.
pub(super) fn text_chunk(file: &File, offset: u64, limit: u64) -> io::Result<TextChunk> {
    let total = file.metadata()?.len();
    let mut bytes = read_piece(file, offset, limit.max(CHARACTER))?;
    let mut start = offset.min(total);
    let at_end = start + bytes.len() as u64 >= total;
    let inside = bytes.iter().take_while(|byte| is_inner(**byte)).count();
    if inside < 4 && offset > 0 {
        bytes.drain(..inside);
        start += inside as u64;
    }
    let cut = unfinished(&bytes);
    if !at_end {
        bytes.truncate(bytes.len() - cut);
    }
    Ok(TextChunk {
        offset: start,
        next_offset: start + bytes.len() as u64,
        text: String::from_utf8_lossy(&bytes).into_owned(),
        total,
    })
}

/// At most `limit` bytes from `offset`, fewer only at the end of the file.
pub(super) fn read_piece(file: &File, offset: u64, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    let wanted = limit.min(size.saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(wanted).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            // It became shorter meanwhile.
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// How many bytes at the end are the start of a character that is not complete.
pub(super) fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        if is_inner(byte) {
            continue;
        }
        let needed = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if needed > back { back } else { 0 };
    }
    0
}

const fn is_inner(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{text_chunk, unfinished};
    use proptest::prelude::*;
    use std::io::Write as _;

    fn stored(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_piece_ends_between_characters() {
        let file = stored("aäöü€".as_bytes());
        let piece = text_chunk(&file, 0, 4).unwrap();
        assert_eq!((piece.text.as_str(), piece.next_offset), ("aä", 3));
        let inside = text_chunk(&file, 2, 100).unwrap();
        assert_eq!((inside.offset, inside.text.as_str()), (3, "öü€"));
        let beyond = text_chunk(&file, 999, 10).unwrap();
        assert_eq!(
            (beyond.text.as_str(), beyond.next_offset),
            ("", beyond.total)
        );
        assert_eq!(unfinished(b"ab\xf0\x9f"), 2);
    }

    proptest! {
        #[test]
        fn pages_put_together_are_the_text(text in "\\PC{0,60}", limit in 0_u64..9) {
            let file = stored(text.as_bytes());
            let mut read = String::new();
            let mut offset = 0;
            loop {
                let piece = text_chunk(&file, offset, limit).unwrap();
                read.push_str(&piece.text);
                if piece.next_offset == piece.total {
                    break;
                }
                prop_assert!(piece.next_offset > offset);
                offset = piece.next_offset;
            }
            prop_assert_eq!(read, text);
        }
    }
}
