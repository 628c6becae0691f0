//! What is shown of a task while it runs: a line for each event that tells something, and one line that changes.
//!
//! In: status answers with their new events. Out: lines of text with ANSI styles. Pure: time comes with the answers.

use anstyle::Style;

use super::answers::{EventLine, TaskStatus};
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
