//! Texts that an agent's prompt will hold: a task's memory, a notice. Pure.
//!
//! In: a task and its newest events. Out: short lines for a model. What comes from a task is untrusted: it loses what could
//! end a prompt's tag or forge one, every field has a limit, and so has the whole. The text holds no clock, so that it
//! changes only when something happened: each change makes the agent's provider read the prompt anew.

use chargehand_actors::event::{FileMark, Phase, RequestKind};
use chargehand_actors::ports::{MemoryPage, Notice, NoticeAbout};
use chargehand_actors::view::{OpenRequest, TaskView};

use super::settings::EventWords;
use chargehand_actors::event::CommittedEvent;

/// Characters of a memory.
pub(super) const MEMORY_CHARS: usize = 2_000;
/// Characters of a notice.
pub(super) const NOTICE_CHARS: usize = 1_500;
const GOAL_CHARS: usize = 200;
const LINE_CHARS: usize = 160;
const RESULT_CHARS: usize = 500;
const FILES: usize = 5;
const EVENTS: usize = 4;

/// How many of a task's newest events the text is made from: more than it shows, because not all are worth a line.
pub(super) const EVENTS_WANTED: u64 = 20;

/// What the text needs besides the task.
pub(super) struct Style<'a> {
    /// What our tools' names begin with.
    pub(super) prefix: &'a str,
    /// Events in words.
    pub(super) words: fn(&CommittedEvent) -> EventWords,
}

/// The memory of a task.
pub(super) fn memory(page: &MemoryPage, style: &Style<'_>) -> String {
    let view = &page.view;
    let mut lines = vec![
        format!("task_id: {}", view.id),
        status(view),
        format!("goal: {}", safe(&view.spec.description, GOAL_CHARS)),
    ];
    if !view.phase.is_final() && !view.doing.is_empty() {
        let step = if view.steps > 0 {
            format!(" (step {})", view.steps)
        } else {
            String::new()
        };
        lines.push(format!("now: {}{step}", safe(&view.doing, LINE_CHARS)));
    }
    lines.extend(todos(view));
    lines.extend(files(view));
    lines.extend(events(page, style));
    for open in view
        .requests
        .iter()
        .filter(|open| open.answered_by.is_none())
    {
        lines.push(format!("asks: {}", request(open)));
    }
    if let Some(failure) = &view.failure {
        lines.push(format!("error: {}", safe(&failure.message, 2 * LINE_CHARS)));
    }
    if let Some(result) = view.result.as_ref().filter(|_| view.phase.is_final()) {
        lines.push(format!("result: {}", safe(&result.text, RESULT_CHARS)));
    }
    lines.push(format!("next: {}", next(view, style.prefix)));
    cut(&lines.join("\n"), MEMORY_CHARS)
}

/// A notice, with its key in the last line, by which it is found again.
pub(super) fn notice(notice: &Notice, style: &Style<'_>) -> String {
    let view = &notice.view;
    let mut lines = match &notice.about {
        NoticeAbout::End => vec![format!(
            "[Chargehand] Your task {} has ended: {}.",
            view.id,
            view.phase.as_str()
        )],
        NoticeAbout::Request(open) => vec![
            format!(
                "[Chargehand] The worker of your task {} waits for an answer.",
                view.id
            ),
            format!("asks: {}", request(open)),
        ],
    };
    lines.push(format!(
        "goal: {}",
        safe(&view.spec.description, GOAL_CHARS)
    ));
    if matches!(notice.about, NoticeAbout::End) {
        if let Some(failure) = &view.failure {
            lines.push(format!("error: {}", safe(&failure.message, 2 * LINE_CHARS)));
        }
        if let Some(result) = &view.result {
            lines.push(format!("result: {}", safe(&result.text, RESULT_CHARS)));
        }
        lines.extend(files(view));
    }
    lines.push(format!("next: {}", next(view, style.prefix)));
    let key = format!("\n(notice {})", notice.key());
    cut(&lines.join("\n"), NOTICE_CHARS - key.len()) + key.as_str()
}

fn status(view: &TaskView) -> String {
    let (status, phase) = (view.phase.status(), view.phase.as_str());
    if status == phase {
        format!("status: {status}")
    } else {
        format!("status: {status} ({phase})")
    }
}

fn todos(view: &TaskView) -> Option<String> {
    let mut todos = view.todos.iter();
    let current = todos.find(|todo| todo.status == "in_progress");
    let current = current.map_or_else(String::new, |todo| {
        format!("; now: {}", safe(&todo.content, LINE_CHARS))
    });
    (!view.todos.is_empty()).then(|| {
        let done = view.todos.iter().filter(|todo| todo.status == "completed");
        let done = done.count();
        format!("todo: {done} of {} done{current}", view.todos.len())
    })
}

fn files(view: &TaskView) -> Option<String> {
    let changes = view.result.as_ref().map(|result| &result.changes);
    let (total, names): (u64, Vec<String>) = match changes.filter(|_| view.phase.is_final()) {
        Some(changes) => {
            let name = |file: &chargehand_actors::event::FileChange| {
                let mark = match file.mark {
                    FileMark::Added => "+",
                    FileMark::Modified => "~",
                    FileMark::Deleted => "-",
                };
                format!("{mark}{}", safe(&file.path, 80))
            };
            let names = changes.files.iter().take(FILES).map(name).collect();
            (changes.files_total, names)
        }
        None => {
            // The newest first: that is where the work is.
            let touched = view.files_touched.iter().rev().take(FILES);
            let names = touched.map(|path| safe(path, 80)).collect();
            (view.files_touched.len() as u64, names)
        }
    };
    let more = total.saturating_sub(names.len() as u64);
    let more = if more > 0 {
        format!(", and {more} more")
    } else {
        String::new()
    };
    (total > 0).then(|| format!("files changed: {total} ({}{more})", names.join(", ")))
}

fn events(page: &MemoryPage, style: &Style<'_>) -> Vec<String> {
    // What the lines above say already, and what only concerns the machinery, is left out.
    let worth = |committed: &&CommittedEvent| {
        use chargehand_actors::event::Event as E;
        matches!(
            committed.event,
            E::ToolsFinished { .. }
                | E::MessageReceived { .. }
                | E::MessageTakenUp { .. }
                | E::MessageDropped { .. }
                | E::ControlReceived { .. }
                | E::TaskPaused { .. }
                | E::TaskResumed { .. }
                | E::RequestClosed { .. }
                | E::ResumeWanted { .. }
                | E::WatchdogWarned { .. }
                | E::ProviderRetry { .. }
                | E::Remark { .. }
        )
    };
    let mut newest: Vec<String> = page
        .events
        .iter()
        .rev()
        .filter(worth)
        .take(EVENTS)
        .map(|committed| {
            let words = (style.words)(committed);
            format!("- {}", safe(&words.sentence, LINE_CHARS))
        })
        .collect();
    newest.reverse();
    if !newest.is_empty() {
        newest.insert(0, "lately:".to_owned());
    }
    newest
}

fn request(open: &OpenRequest) -> String {
    let kind = match &open.request.kind {
        RequestKind::Permission { .. } => "permission",
        RequestKind::Question { .. } => "question",
    };
    let text = safe(&open.request.text, LINE_CHARS);
    format!("{kind} {}: {text}", safe(&open.request.id.0, 80))
}

fn next(view: &TaskView, prefix: &str) -> String {
    let id = view.id;
    match view.phase {
        Phase::Queued | Phase::Starting | Phase::Running | Phase::Finishing => format!(
            "nothing needs to be done; {prefix}get_task_status with task_id {id} and wait_seconds=45 waits for the end"
        ),
        Phase::InputRequired => format!(
            "answer with {prefix}answer_task_request, task_id {id} and the request_id named above, before its default is given"
        ),
        Phase::Paused => format!(
            "{prefix}send_task_control with task_id {id} and control=resume goes on, control=cancel ends it"
        ),
        Phase::Completed => format!(
            "{prefix}get_task_history with task_id {id} and include_artifacts=true gives the full text and the diff, {prefix}read_task_file the files"
        ),
        Phase::Failed | Phase::Timeout | Phase::Cancelled => format!(
            "{prefix}get_task_history with task_id {id} and include_artifacts=true shows what was done; {prefix}opencode_execute_task starts a new task"
        ),
    }
}

/// One line of a text that is not ours, harmless in a prompt, of at most `most` characters.
pub(super) fn safe(text: &str, most: usize) -> String {
    let mut line = String::with_capacity(text.len().min(4 * most));
    let mut count = 0;
    let mut space = false;
    for c in text.chars() {
        let c = match c {
            '<' => '‹',
            '>' => '›',
            c if c.is_whitespace() => {
                space = !line.is_empty();
                continue;
            }
            // Marks that change the direction of writing could make a line read otherwise than it is.
            c if c.is_control() || is_invisible(c) => continue,
            c => c,
        };
        if count + usize::from(space) >= most {
            line.push('…');
            return line;
        }
        if space {
            line.push(' ');
            count += 1;
            space = false;
        }
        line.push(c);
        count += 1;
    }
    line
}

const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

/// At most so many characters, with a mark where something is missing.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most.saturating_sub(1)) {
        Some((at, _)) if text.chars().count() > most => format!("{}…", &text[..at]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
