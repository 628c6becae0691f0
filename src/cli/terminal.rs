//! The terminal: colours, the spinner line, and the cleaning of text that came from a task.
//!
//! In: rendered text with ANSI styles, and untrusted text. Out: standard output and error, without colours where they
//! are not wanted (`NO_COLOR`, a pipe), and never a control sequence that a task smuggled in.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::CliError;

/// Headings and what matters most.
pub(crate) const BOLD: Style = Style::new().bold();
/// What may be overlooked.
pub(crate) const DIM: Style = Style::new().dimmed();
/// Good, added.
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
/// Bad, removed.
pub(crate) const RED: Style = AnsiColor::Red.on_default();
/// Wants attention.
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();
/// Names and places.
pub(crate) const CYAN: Style = AnsiColor::Cyan.on_default();

/// A text in a style.
pub(crate) fn paint<T: Display>(style: Style, text: T) -> impl Display {
    Painted { style, text }
}

struct Painted<T> {
    style: Style,
    text: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (style, text) = (self.style, &self.text);
        write!(f, "{style}{text}{style:#}")
    }
}

/// The colour that goes with a phase or status word.
pub(crate) fn phase_style(phase: &str) -> Style {
    match phase {
        "completed" | "ok" | "ready" => GREEN,
        "failed" | "timeout" | "down" | "fail" => RED,
        "cancelled" | "paused" | "input_required" | "degraded" | "warn" => YELLOW,
        "off" => DIM,
        _ => CYAN,
    }
}

/// Makes text of a task harmless on a terminal: control characters (escape sequences) and characters that reorder a
/// line become visible marks; line ends and tabs stay.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        if is_harmful(c) {
            out.extend(c.escape_unicode().filter(|c| !matches!(c, '{' | '}')));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// The same on one line of at most `width` characters.
pub(crate) fn one_line(text: &str, width: usize) -> String {
    let flat: Vec<&str> = text.split_whitespace().collect();
    let flat = clean(&flat.join(" ")).into_owned();
    if flat.chars().count() <= width {
        return flat;
    }
    let mut cut: String = flat.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn is_harmful(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        // Bidirectional controls can make a diff or a command read as another one.
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// A length of time for people: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..=9 => format!("{}.{} s", s, ms % 1000 / 100),
        10..=59 => format!("{s} s"),
        60..=3599 => format!("{} min {:02} s", s / 60, s % 60),
        3600..=86_399 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {:02} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A number of bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..=1023 => format!("{n} B"),
        1024..=1_048_575 => format!("{}.{} KB", n / 1024, n % 1024 * 10 / 1024),
        1_048_576..=1_073_741_823 => {
            format!("{}.{} MB", n / 1_048_576, n % 1_048_576 * 10 / 1_048_576)
        }
        _ => format!(
            "{}.{} GB",
            n / 1_073_741_824,
            n % 1_073_741_824 * 10 / 1_073_741_824
        ),
    }
}

/// Writes rendered text to standard output.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// Writes data to standard output exactly as it is.
pub(crate) fn print_raw(data: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(data)?;
    out.flush()?;
    Ok(())
}

/// Whether standard output is read by a person: a terminal, or somebody who asked for colours.
pub(crate) fn wants_colours() -> bool {
    std::io::stdout().is_terminal()
        || anstream::ColorChoice::global() == anstream::ColorChoice::Always
}

/// Writes a value as JSON to standard output.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::Output(std::io::Error::other(error)))?;
    print_raw(text.as_bytes())?;
    print_raw(b"\n")
}

/// A line on standard error. It cannot fail: there is nobody left to tell.
pub(crate) fn say(text: &str) {
    let mut err = anstream::stderr().lock();
    let _ = writeln!(err, "{text}");
}

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// Progress on standard error: lines that stay, and on a terminal a spinner line below them that changes.
pub(crate) struct Screen {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Screen {
    /// `live` allows the spinner line, `quiet` prints nothing at all.
    pub(crate) fn new(live: bool, quiet: bool) -> Self {
        let bar = (live && !quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, quiet }
    }

    /// Takes the spinner line away while somebody types, and puts it back.
    pub(crate) fn still(&self, still: bool) {
        let Some(bar) = &self.bar else { return };
        if still && !bar.is_hidden() {
            bar.disable_steady_tick();
            bar.finish_and_clear();
            bar.set_draw_target(ProgressDrawTarget::hidden());
        } else if !still && bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.reset();
            bar.enable_steady_tick(TICK);
        }
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// What the spinner line says; nothing where there is none.
    pub(crate) fn status(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_of_a_task_become_visible() {
        assert_eq!(clean("plain\ttext\n"), "plain\ttext\n");
        assert_eq!(
            clean("a\u{1b}[31mb\r\nc\u{202e}d"),
            "a\\u1b[31mb\nc\\u202ed"
        );
        assert_eq!(clean("\u{9b}2J"), "\\u9b2J", "C1 controls too");
    }

    #[test]
    fn one_line_is_cut_at_characters() {
        assert_eq!(one_line("a\n b\t c", 10), "a b c");
        assert_eq!(one_line("ääääää", 4), "äää…");
    }

    #[test]
    fn durations_and_sizes_read_well() {
        assert_eq!(duration(450), "0.4 s");
        assert_eq!(duration(61_000), "1 min 01 s");
        assert_eq!(duration(90_061_000), "1 d 01 h");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KB");
        assert_eq!(bytes(5 * 1024 * 1024), "5.0 MB");
    }
}
