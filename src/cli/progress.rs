//! What is shown of a task while it runs: a line for each event that tells something, and one line that changes.
//!
//! In: status answers with their new events. Out: lines of text with ANSI styles. Pure: time comes with the answers.

use anstyle::Style;

use super::answer;
use super::answers::{EventLine, TaskStatus, Text};
use super::terminal::{
    BOLD, CYAN, DIM, GREEN, RED, YELLOW, clean, duration, one_line, paint, phase_style,
};

/// The longest event line, in characters.
const WIDTH: usize = 160;

/// What was seen of a task so far.
#[derive(Default)]
pub(crate) struct Progress {
    seen: u64,
    tools: u64,
    latest: TaskStatus,
}

impl Progress {
    /// The number of the newest event seen: the cursor for the next question.
    pub(crate) const fn seen(&self) -> u64 {
        self.seen
    }

    /// Tool calls seen so far.
    pub(crate) const fn tools(&self) -> u64 {
        self.tools
    }

    /// The newest answer.
    pub(crate) const fn latest(&self) -> &TaskStatus {
        &self.latest
    }

    /// Takes an answer in; the lines that it adds.
    pub(crate) fn update(&mut self, status: TaskStatus) -> Vec<String> {
        let mut lines = Vec::new();
        for event in &status.recent_events {
            if event.number <= self.seen && event.number != 0 {
                continue;
            }
            self.seen = self.seen.max(event.number);
            if event.event == "tools_finished" {
                self.tools += tool_count(&event.message);
            }
            if let Some((mark, style)) = mark(&event.event) {
                lines.push(line(event, mark, style, status.created_at));
            }
        }
        for request in &status.requests {
            let known = self
                .latest
                .requests
                .iter()
                .any(|old| old.request_id == request.request_id);
            if !known {
                let text = format!(
                    "  the worker waits for an answer: {}",
                    one_line(&request.text, WIDTH)
                );
                lines.push(paint(YELLOW, text).to_string());
                let details = answer::details(request).into_iter();
                lines.extend(details.map(|line| format!("    {line}")));
                let hint = answer::hint(&status.task_id, request);
                lines.push(paint(DIM, format!("    {hint}")).to_string());
            }
        }
        self.seen = self.seen.max(status.next_event);
        self.latest = status;
        lines
    }

    /// The line that changes, `elapsed_ms` after the start of watching.
    pub(crate) fn spinner(&self, elapsed_ms: u64) -> String {
        let task = &self.latest;
        let mut parts = vec![paint(phase_style(&task.phase), clean(&task.phase)).to_string()];
        if let Some(position) = task.queue_position.filter(|position| *position > 1) {
            parts.push(format!("place {position} in the queue"));
        }
        if task.steps > 0 {
            parts.push(plural(task.steps, "step"));
        }
        if self.tools > 0 {
            parts.push(plural(self.tools, "tool call"));
        }
        if !task.files_touched.is_empty() {
            parts.push(plural(task.files_touched.len() as u64, "file"));
        }
        if task.usage.read() + task.usage.written() > 0 {
            parts.push(format!(
                "{} tokens in, {} out",
                short(task.usage.read()),
                short(task.usage.written())
            ));
        }
        parts.push(duration(elapsed_ms));
        let doing = match task.waiting_for.as_deref() {
            Some(what) if task.phase == "queued" => format!("waits for {what}"),
            _ => task.doing.clone(),
        };
        format!(
            "{}  {}",
            parts.join(" · "),
            paint(DIM, one_line(&doing, 80))
        )
    }
}

/// The worker's words as they come, cut into lines.
#[derive(Default)]
pub(crate) struct Words {
    offset: u64,
    rest: String,
}

impl Words {
    /// Where to read on.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes a piece in; the lines that it completes. The last line of an answer has no end: it is shown as the answer.
    pub(crate) fn take(&mut self, piece: &Text) -> Vec<String> {
        self.offset = piece.next_offset.max(self.offset);
        self.rest.push_str(&piece.text);
        let Some(end) = self.rest.rfind('\n') else {
            return Vec::new();
        };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        lines
            .lines()
            // Finished tools are told by events, with their time.
            .filter(|line| !line.trim().is_empty() && !line.starts_with("[done: "))
            .map(|line| paint(DIM, format!("{:>12} {}", "│", one_line(line, WIDTH))).to_string())
            .collect()
    }
}

/// `1 file`, `2 files`.
pub(crate) fn plural(n: u64, word: &str) -> String {
    if n == 1 {
        format!("1 {word}")
    } else {
        format!("{n} {word}s")
    }
}

/// A count of tokens in little space.
pub(crate) fn short(n: u64) -> String {
    match n {
        0..=9_999 => n.to_string(),
        10_000..=999_999 => format!("{}k", n / 1000),
        _ => format!("{}.{}M", n / 1_000_000, n % 1_000_000 / 100_000),
    }
}

fn line(event: &EventLine, mark: &str, style: Style, start: i64) -> String {
    let after = u64::try_from(event.timestamp.saturating_sub(start)).unwrap_or(0);
    format!(
        "{} {} {}",
        paint(DIM, format!("{:>10}", duration(after))),
        paint(style, mark),
        one_line(tools(&event.message).unwrap_or(&event.message), WIDTH)
    )
}

/// The tool calls that the sentence of a `tools_finished` event names.
fn tools(message: &str) -> Option<&str> {
    message.strip_prefix("Tools: ")?.strip_suffix('.')
}

/// How an event is shown; `None` for the small steps in between, which the spinner line tells.
fn mark(event: &str) -> Option<(&'static str, Style)> {
    match event {
        "session_wanted" | "prompt_wanted" | "prompt_accepted" | "prompt_seen"
        | "step_finished" | "abort_seen" | "files_touched" | "attempt_removed"
        | "activity_changed" => None,
        "task_completed" => Some(("✓", GREEN)),
        "task_failed" | "task_timed_out" => Some(("✗", RED)),
        "task_cancelled"
        | "task_paused"
        | "request_opened"
        | "provider_retry"
        | "remark"
        | "abort_wanted"
        | "message_dropped"
        | "worker_changed"
        | "resume_wanted"
        | "attempt_removal_delayed" => Some(("!", YELLOW)),
        "tools_finished" => Some(("▸", CYAN)),
        "message_received" | "message_taken_up" => Some(("✉", CYAN)),
        // Words of a newer server are shown too.
        _ => Some(("·", BOLD)),
    }
}

/// How many tool calls the sentence of a `tools_finished` event speaks of.
fn tool_count(message: &str) -> u64 {
    let body = tools(message).unwrap_or(message);
    let more = body
        .rsplit_once("; and ")
        .and_then(|(_, rest)| rest.strip_suffix(" more"))
        .and_then(|n| n.parse::<u64>().ok());
    match more {
        // The sentence names three and counts the rest.
        Some(more) => 3 + more,
        None => body.split("; ").count().min(3) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::answers::Usage;

    fn piece(text: &str, next_offset: u64) -> Text {
        Text {
            text: text.to_owned(),
            next_offset,
            total: next_offset,
        }
    }

    fn stripped(line: &str) -> String {
        anstream::adapter::strip_str(line).to_string()
    }

    #[test]
    fn the_workers_words_come_line_by_line_and_the_open_end_waits() {
        let mut words = Words::default();
        assert_eq!(words.take(&piece("I lo", 4)), Vec::<String>::new());
        let lines = words.take(&piece("ok.\n[done: read: a]\n\nThen \u{1b}[2J\nand", 40));
        let lines: Vec<String> = lines.iter().map(|line| stripped(line)).collect();
        assert_eq!(
            lines,
            ["           │ I look.", "           │ Then \\u1b[2J"]
        );
        assert_eq!(words.offset(), 40);
        assert_eq!(words.take(&piece(" so on\n", 47)).len(), 1);
    }

    #[test]
    fn tool_calls_are_counted_from_what_the_server_says() {
        assert_eq!(tool_count("Tools: bash: a."), 1);
        assert_eq!(tool_count("Tools: read: a; read: b."), 2);
        assert_eq!(
            tool_count("Tools: read: a; read: b; edit: c; and 4 more."),
            7
        );
        assert_eq!(
            tool_count("Tools: bash: a; b; c; d; e."),
            3,
            "the sentence names three at most"
        );
    }

    #[test]
    fn the_changing_line_says_what_is_known() {
        let mut progress = Progress::default();
        progress.update(TaskStatus {
            phase: "queued".to_owned(),
            queue_position: Some(2),
            waiting_for: Some("a slot".to_owned()),
            ..TaskStatus::default()
        });
        assert_eq!(
            stripped(&progress.spinner(400)),
            "queued · place 2 in the queue · 0.4 s  waits for a slot"
        );
        progress.update(TaskStatus {
            phase: "running".to_owned(),
            steps: 1,
            files_touched: vec!["a".to_owned(), "b".to_owned()],
            usage: Usage {
                input: 11_000,
                cache_read: 2_000,
                output: 90,
                ..Usage::default()
            },
            doing: "runs\nbash".to_owned(),
            ..TaskStatus::default()
        });
        assert_eq!(
            stripped(&progress.spinner(75_000)),
            "running · 1 step · 2 files · 13k tokens in, 90 out · 1 min 15 s  runs bash"
        );
    }

    #[test]
    fn a_question_of_the_worker_is_told_once() {
        let asks = TaskStatus {
            task_id: "3f2b8c1e-0000-4000-8000-00000000000a".to_owned(),
            requests: vec![super::super::answers::OpenRequest {
                request_id: "r1".to_owned(),
                text: "May I?".to_owned(),
                patterns: vec!["git push".to_owned()],
                ..super::super::answers::OpenRequest::default()
            }],
            ..TaskStatus::default()
        };
        let mut progress = Progress::default();
        let lines: Vec<String> = progress
            .update(asks.clone())
            .iter()
            .map(|line| stripped(line).trim().to_owned())
            .collect();
        assert_eq!(
            lines,
            [
                "the worker waits for an answer: May I?",
                "git push",
                "chargehand answer 3f2b8c1e r1 --allow | --always | --deny TEXT"
            ]
        );
        assert_eq!(progress.update(asks).len(), 0);
    }
}
