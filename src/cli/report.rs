//! What a task looks like on paper: the details of one task, and the summary at its end.
//!
//! In: status answers. Out: text with ANSI styles.

use std::fmt::Write;

use super::answer;
use super::answers::{Changes, TaskStatus};
use super::progress::{plural, short};
use super::table::{self, Cell};
use super::terminal::{
    BOLD, CYAN, DIM, GREEN, RED, YELLOW, clean, duration, one_line, paint, phase_style,
};

/// `chargehand show`: everything about one task but its diff.
pub(crate) fn details(task: &TaskStatus, now_ms: i64) -> String {
    let mut out = String::new();
    field(&mut out, "task", &task.task_id);
    let phase = paint(phase_style(&task.phase), clean(&task.phase)).to_string();
    field(&mut out, "phase", &phase);
    if !task.doing.is_empty() {
        field(&mut out, "doing", &one_line(&task.doing, 200));
    }
    if !task.agent_id.is_empty() {
        field(&mut out, "by", &one_line(&task.agent_id, 100));
    }
    if !task.engine.is_empty() {
        let attempt = format!("{}, attempt {}", clean(&task.engine), task.attempt);
        field(&mut out, "engine", &attempt);
    }
    field(&mut out, "created", &ago(task.created_at, now_ms));
    if let Some(position) = task.queue_position {
        field(&mut out, "queue", &format!("place {position}"));
    }
    field(&mut out, "figures", &figures(task, None));
    if let Some(directory) = &task.directory {
        field(&mut out, "workdir", &clean(directory));
    }
    for request in &task.requests {
        let text = paint(YELLOW, one_line(&request.text, 300)).to_string();
        field(&mut out, "asks", &text);
        for line in answer::details(request) {
            field(&mut out, "", &line);
        }
        let left = u64::try_from(request.expires_at.saturating_sub(now_ms)).unwrap_or(0);
        let hint = format!(
            "{} (within {})",
            answer::hint(&task.task_id, request),
            duration(left)
        );
        field(&mut out, "answer", &paint(DIM, hint).to_string());
    }
    if !task.recent_events.is_empty() {
        heading(&mut out, "Events");
        for event in &task.recent_events {
            let at = ago(event.timestamp, now_ms);
            let _ = writeln!(
                out,
                "{} {}",
                paint(DIM, format!("{:>8}  {at:<16}", event.number)),
                one_line(&event.message, 160)
            );
        }
    }
    add_outcome(&mut out, task);
    out
}

/// What came out of a task: the worker's last words, what failed, what changed.
pub(crate) fn outcome(task: &TaskStatus) -> String {
    let mut out = String::new();
    add_outcome(&mut out, task);
    out
}

/// The last line of `run` and `demo`: how it ended, in figures.
pub(crate) fn closing(task: &TaskStatus, tools: u64) -> String {
    let (mark, style) = match task.status.as_str() {
        "completed" => ("✓", GREEN),
        "failed" | "timeout" => ("✗", RED),
        _ => ("!", YELLOW),
    };
    format!(
        "\n{} {}  {}\n",
        paint(style, format!("{mark} {}", clean(&task.phase))),
        figures(task, Some(tools)),
        paint(DIM, &task.task_id)
    )
}

/// The heading above a diff.
pub(crate) fn diff_heading() -> String {
    let mut out = String::new();
    heading(&mut out, "Diff");
    out
}

fn add_outcome(out: &mut String, task: &TaskStatus) {
    if let Some(text) = task
        .output
        .as_deref()
        .filter(|text| !text.trim().is_empty())
    {
        heading(out, "Answer");
        let _ = writeln!(out, "{}", clean(text.trim_end()));
    }
    if let Some(error) = &task.error {
        heading(out, "Error");
        let _ = writeln!(out, "{}", paint(RED, clean(error)));
    }
    if let Some(changes) = &task.changes {
        heading(out, "Changes");
        out.push_str(&changed(changes));
    }
}

fn changed(changes: &Changes) -> String {
    let rows: Vec<Vec<Cell>> = changes
        .files
        .iter()
        .map(|file| {
            let (mark, style) = change_mark(&file.change);
            vec![
                Cell::styled(format!("{mark} {}", one_line(&file.path, 200)), style),
                Cell::plain(format!("+{} -{}", file.additions, file.deletions)),
            ]
        })
        .collect();
    let title = format!(
        "{} (+{} -{})",
        plural(changes.files_total, "file"),
        changes.additions,
        changes.deletions
    );
    let mut out = table::render(&[&title, ""], &rows);
    let more = changes
        .files_total
        .saturating_sub(changes.files.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "{}", paint(DIM, format!("and {more} more")));
    }
    if changes.left_out > 0 {
        let text = format!(
            "{} not part of the result",
            plural(changes.left_out, "path")
        );
        let _ = writeln!(out, "{}", paint(YELLOW, text));
    }
    if let Some(note) = &changes.note {
        let _ = writeln!(out, "{}", paint(YELLOW, clean(note)));
    }
    if let Some(branch) = &changes.branch {
        let _ = writeln!(out, "branch  {}", paint(CYAN, clean(branch)));
    }
    if let Some(patch) = &changes.patch_file {
        let _ = writeln!(out, "patch   {}", paint(CYAN, clean(patch)));
    }
    out
}

/// The letter and colour for what was done to a file.
pub(crate) fn change_mark(change: &str) -> (&'static str, anstyle::Style) {
    match change {
        "added" => ("A", GREEN),
        "deleted" => ("D", RED),
        "modified" => ("M", YELLOW),
        _ => (" ", anstyle::Style::new()),
    }
}

fn figures(task: &TaskStatus, tools: Option<u64>) -> String {
    let mut parts = Vec::new();
    if let Some(ms) = task.duration_ms {
        parts.push(duration(ms));
    }
    parts.push(plural(task.steps, "model step"));
    if let Some(tools) = tools {
        parts.push(plural(tools, "tool call"));
    }
    parts.push(format!(
        "{} tokens in, {} out",
        short(task.usage.read()),
        short(task.usage.written())
    ));
    if task.usage.cost > 0.0 {
        parts.push(format!("${:.4}", task.usage.cost));
    }
    parts.join(" · ")
}

/// How long ago a moment was.
pub(crate) fn ago(at_ms: i64, now_ms: i64) -> String {
    let ms = u64::try_from(now_ms.saturating_sub(at_ms)).unwrap_or(0);
    format!("{} ago", duration(ms))
}

fn field(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{} {value}", paint(DIM, format!("{name:<10}")));
}

fn heading(out: &mut String, text: &str) {
    let _ = writeln!(out, "\n{}", paint(BOLD, text));
}
