//! Colours a unified diff.
//!
//! In: a diff as the task's result holds it (untrusted text). Out: the same with ANSI styles, safe for a terminal.

use super::terminal::{BOLD, CYAN, DIM, GREEN, RED, clean, paint};

/// The diff with a style for each kind of line.
pub(crate) fn render(diff: &str) -> String {
    let mut out = String::with_capacity(diff.len() + diff.len() / 4);
    // Lines before the first hunk of a file are its header; `--- a/x` and `+++ b/x` look like changes only there.
    let mut in_hunk = false;
    for line in diff.lines() {
        if line.starts_with("diff ") {
            in_hunk = false;
        } else if line.starts_with("@@") {
            in_hunk = true;
        }
        let style = match line.as_bytes().first() {
            Some(b'@') => CYAN,
            Some(b'+') if in_hunk => GREEN,
            Some(b'-') if in_hunk => RED,
            Some(b'\\') => DIM,
            _ if !in_hunk => BOLD,
            _ => {
                out.push_str(&clean(line));
                out.push('\n');
                continue;
            }
        };
        out.push_str(&paint(style, clean(line)).to_string());
        out.push('\n');
    }
    out
}
