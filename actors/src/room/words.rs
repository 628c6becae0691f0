//! What people read: names, the status notice, lines of the thread, calls for somebody, the final summary. Pure.
//!
//! In: views and events. Out: pieces of text; what comes from a task stands in pieces that cannot format.

use serde_json::{Map, Value, json};

use crate::command::{Answer, ControlSignal};
use crate::event::{AbortReason, Event, Phase, Request, RequestKind, Todo};
use crate::id::{EventNumber, TaskId, WallTime};
use crate::ports::{Piece, Post};
use crate::view::{OpenRequest, TaskView};

/// What is shown of the worker's answer and of the diff in a message, in bytes: an event of Matrix has room for 64 KB.
const RESULT: usize = 8_000;
const DIFF: usize = 4_000;
/// What is shown of one line from a task, in characters.
const LINE: usize = 300;
/// Questions of one request whose options are shown.
const QUESTIONS: usize = 5;
/// Lines of one message about tool calls.
const LINES: usize = 20;

/// How an event is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    /// Not at all: the status shows it, or nobody wants to know.
    Nothing,
    /// One of several lines of one notice in the thread.
    Lines(Vec<Vec<Piece>>),
    /// A notice of its own in the thread.
    Thread(Vec<Piece>),
    /// A message in the room that calls the owner.
    Call(Vec<Piece>),
}

/// One mark for each phase.
pub(crate) const fn mark(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "⏳",
        Phase::Starting | Phase::Running | Phase::Finishing => "▶️",
        Phase::Paused => "⏸️",
        Phase::InputRequired => "❓",
        Phase::Completed => "✅",
        Phase::Failed => "❌",
        Phase::Timeout => "⌛",
        Phase::Cancelled => "🚫",
    }
}

/// The room's name.
pub(crate) fn name(task: TaskId, phase: Phase) -> String {
    format!("{} Task: {task}", mark(phase))
}

/// The room's topic.
pub(crate) fn topic(view: &TaskView) -> String {
    shorten(&one_line(&view.spec.description), 500)
}

/// What machines read of a message.
pub(crate) fn about(task: TaskId, event_type: &str) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("task_id".to_owned(), json!(task.to_string()));
    map.insert("event_type".to_owned(), json!(event_type));
    map
}

/// What machines read of the room: its state event.
pub(crate) fn state(view: &TaskView) -> Map<String, Value> {
    let mut map = about(view.id, "task_state");
    map.insert("status".to_owned(), json!(view.phase.status()));
    map.insert("phase".to_owned(), json!(view.phase.as_str()));
    map.insert("agent_id".to_owned(), json!(view.caller.agent_id));
    map
}

/// What machines read of a message about an event.
pub(crate) fn about_event(task: TaskId, number: EventNumber, event: &Event) -> Map<String, Value> {
    let mut map = about(task, event_type(event));
    map.insert("event".to_owned(), json!(number.0));
    map
}

/// The original system's word where it has one.
fn event_type(event: &Event) -> &'static str {
    match event {
        Event::TaskAccepted { .. } => "task_created",
        Event::TaskCompleted { .. } => "task_completed",
        Event::TaskFailed { .. } => "task_failed",
        Event::TaskTimedOut { .. } => "task_timeout",
        Event::TaskCancelled { .. } => "task_cancelled",
        Event::RequestOpened { .. } => "request",
        Event::TaskPaused { .. } | Event::TaskResumed { .. } => "status_change",
        _ => "progress",
    }
}

fn text(text: impl Into<String>) -> Piece {
    Piece::Text(text.into())
}

fn bold(text: impl Into<String>) -> Piece {
    Piece::Bold(text.into())
}

fn code(text: &str) -> Piece {
    Piece::Code(shorten(&one_line(text), LINE))
}

/// The status notice, and the same without what changes by itself.
pub(crate) fn status(view: &TaskView, now: WallTime) -> (Vec<Piece>, String) {
    let mut pieces = vec![
        text(format!("{} ", mark(view.phase))),
        bold(view.phase.as_str().replace('_', " ")),
        text(" · "),
        Piece::Text(shorten(&one_line(&view.spec.description), LINE)),
    ];
    let mut line = |label: &str, value: String| {
        pieces.push(Piece::Break);
        pieces.push(text(format!("{label}: ")));
        pieces.push(Piece::Text(value));
    };
    if !view.phase.is_final() && !view.doing.is_empty() {
        line("now", shorten(&one_line(&view.doing), LINE));
    }
    if let Some(todo) = todos(&view.todos) {
        line("to do", todo);
    }
    if !view.files_touched.is_empty() {
        let shown: Vec<String> = view
            .files_touched
            .iter()
            .take(8)
            .map(|path| shorten(path, 100))
            .collect();
        let more = view.files_touched.len().saturating_sub(shown.len());
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        line("files", format!("{}{more}", one_line(&shown.join(", "))));
    }
    let usage = &view.usage;
    line(
        "steps",
        format!(
            "{} · tokens: {} in, {} out{}",
            view.steps,
            usage.input + usage.cache_read + usage.cache_write,
            usage.output + usage.reasoning,
            cost(usage.cost)
        ),
    );
    let said = format!("{pieces:?}");
    pieces.push(Piece::Break);
    pieces.push(text(format!(
        "running time: {} of {}",
        duration(running_ms(view, now)),
        duration(view.spec.timeout_ms)
    )));
    (pieces, said)
}

fn cost(dollars: f64) -> String {
    if dollars > 0.0 {
        format!(" · ${dollars:.4}")
    } else {
        String::new()
    }
}

fn todos(todos: &[Todo]) -> Option<String> {
    let done = todos
        .iter()
        .filter(|todo| todo.status == "completed")
        .count();
    let now = todos.iter().find(|todo| todo.status == "in_progress");
    let now = now.map(|todo| format!(", now: {}", shorten(&one_line(&todo.content), 100)));
    (!todos.is_empty())
        .then(|| format!("{done} of {} done{}", todos.len(), now.unwrap_or_default()))
}

fn running_ms(view: &TaskView, now: WallTime) -> u64 {
    view.running_ms + view.running_since.map_or(0, |since| now.ms_since(since))
}

/// Minutes and seconds.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

/// How an event is told. `ours` says whether a message came from this room.
pub(crate) fn say(event: &Event, view: &TaskView, ours: bool) -> Say {
    use Event as E;
    match event {
        E::ToolsFinished { tools } => Say::Lines(
            tools
                .iter()
                .map(|run| {
                    let sign = if run.failed { "✗ " } else { "✓ " };
                    let mut line = vec![
                        text(sign),
                        bold(shorten(&run.tool, 60)),
                        text(" "),
                        code(&run.title),
                    ];
                    if run.ms >= 1_000 {
                        line.push(text(format!(" ({})", duration(run.ms))));
                    }
                    line
                })
                .collect(),
        ),
        E::ProviderRetry { attempt, message } => Say::Lines(vec![vec![
            text(format!(
                "the provider makes the worker wait (try {attempt}): "
            )),
            code(message),
        ]]),
        E::Remark { message } => {
            Say::Lines(vec![vec![Piece::Text(shorten(&one_line(message), LINE))]])
        }
        E::AttemptStarted { attempt, engine } => Say::Thread(vec![text(format!(
            "attempt {attempt} starts in engine {engine}"
        ))]),
        E::WorkdirPrepared {
            note: Some(note), ..
        } => Say::Thread(vec![text(shorten(&one_line(note), LINE))]),
        E::MessageReceived {
            text: said,
            message_type,
            by,
            ..
        } if !ours => Say::Thread(vec![
            text("message for the worker from "),
            code(by),
            text(format!(" ({}): ", message_type.as_str())),
            Piece::Text(shorten(said, 2_000)),
        ]),
        E::MessageTakenUp { .. } if !ours => {
            Say::Thread(vec![text("the worker has taken up the message")])
        }
        E::MessageDropped { reason, .. } => Say::Thread(vec![
            text("a message did not reach the worker: "),
            Piece::Text(shorten(&one_line(reason), LINE)),
        ]),
        E::ControlReceived {
            signal, reason, by, ..
        } => Say::Thread(control(*signal, reason.as_deref(), by)),
        E::TaskPaused { .. } => Say::Thread(vec![text("⏸️ paused")]),
        E::TaskResumed { .. } => Say::Thread(vec![text("▶️ goes on")]),
        E::RequestOpened {
            request, default, ..
        } => {
            // One that is answered already needs nobody.
            match view
                .requests
                .iter()
                .find(|open| open.request.id == request.id)
            {
                Some(OpenRequest {
                    answered_by: None, ..
                }) => Say::Call(asked(request, default)),
                Some(_) | None => Say::Thread(asked(request, default)),
            }
        }
        E::AnswerWanted { answer, by, .. } => Say::Thread(vec![
            text("answered by "),
            code(by),
            text(": "),
            Piece::Text(shorten(&answered(answer), LINE)),
        ]),
        // The request for the pause and the pause itself are told.
        E::AbortWanted {
            reason: AbortReason::Pause,
            ..
        } => Say::Nothing,
        E::AbortWanted {
            reason: AbortReason::Nudge | AbortReason::Watchdog,
            detail,
        } => Say::Thread(vec![Piece::Text(shorten(&one_line(detail), LINE))]),
        E::WorkerChanged { .. } => Say::Thread(vec![text("the worker process is another one now")]),
        E::ResumeWanted { reason, .. } => Say::Thread(vec![
            text("the interrupted run goes on: "),
            Piece::Text(shorten(&one_line(reason), LINE)),
        ]),
        E::WatchdogWarned { message, .. } => Say::Thread(vec![
            text("⚠️ "),
            Piece::Text(shorten(&one_line(message), LINE)),
        ]),
        E::TaskCompleted { .. }
        | E::TaskFailed { .. }
        | E::TaskTimedOut { .. }
        | E::TaskCancelled { .. } => Say::Call(summary(event, view)),
        E::TaskAccepted { .. }
        | E::WorkdirPrepared { note: None, .. }
        | E::SessionWanted
        | E::SessionOpened { .. }
        | E::PromptWanted { .. }
        | E::PromptAccepted { .. }
        | E::PromptSeen { .. }
        | E::PromptTakenUp { .. }
        | E::MessageReceived { .. }
        | E::MessageTakenUp { .. }
        | E::RequestClosed { .. }
        | E::AttendanceChanged { .. }
        | E::AbortSeen
        | E::RunEnded { .. }
        | E::ChangesWanted { .. }
        | E::AttemptRemoved { .. }
        | E::AttemptRemovalDelayed { .. }
        | E::FilesCleared
        | E::LateArrival { .. }
        | E::StepFinished { .. }
        | E::FilesTouched { .. }
        | E::TodosChanged { .. }
        | E::ActivityChanged { .. }
        | E::EngineReconciled { .. } => Say::Nothing,
    }
}

fn control(signal: ControlSignal, reason: Option<&str>, by: &str) -> Vec<Piece> {
    let mut pieces = vec![bold(signal.as_str()), text(" asked by "), code(by)];
    if let Some(reason) = reason {
        pieces.push(text(": "));
        pieces.push(Piece::Text(shorten(&one_line(reason), LINE)));
    }
    pieces
}

/// Several lines of one notice; what is too much is counted.
pub(crate) fn lines(lines: Vec<Vec<Piece>>) -> Vec<Piece> {
    let more = lines.len().saturating_sub(LINES);
    let mut pieces = Vec::new();
    for line in lines.into_iter().skip(more) {
        if !pieces.is_empty() {
            pieces.push(Piece::Break);
        }
        pieces.extend(line);
    }
    if more > 0 {
        pieces.insert(0, Piece::Break);
        pieces.insert(
            0,
            text(format!("{more} earlier ones are in the log (!logs)")),
        );
    }
    pieces
}

fn asked(request: &Request, default: &Answer) -> Vec<Piece> {
    let mut pieces = vec![text("❓ "), bold("The worker asks: ")];
    pieces.push(Piece::Text(shorten(&request.text, 1_000)));
    match &request.kind {
        RequestKind::Permission {
            permission,
            patterns,
            ..
        } => {
            pieces.push(Piece::Break);
            pieces.push(bold(shorten(permission, 60)));
            for pattern in patterns.iter().take(5) {
                pieces.push(text(" "));
                pieces.push(code(pattern));
            }
            pieces.push(Piece::Break);
            pieces.push(text(
                "!approve, !approve always or !deny [reason]; or ✅ and ❌ under this message.",
            ));
        }
        RequestKind::Question { questions } => {
            for question in questions.iter().take(QUESTIONS) {
                for (index, option) in question.options.iter().enumerate().take(20) {
                    pieces.push(Piece::Break);
                    pieces.push(text(format!("{}. ", index + 1)));
                    pieces.push(Piece::Text(shorten(&one_line(option), LINE)));
                }
            }
            let more = questions.len().saturating_sub(QUESTIONS);
            if more > 0 {
                pieces.push(Piece::Break);
                pieces.push(text(format!("… and {more} more questions")));
            }
            pieces.push(Piece::Break);
            pieces.push(text("!answer NUMBER or !answer TEXT; !deny refuses."));
        }
    }
    pieces.push(Piece::Break);
    let default = shorten(&answered(default), LINE);
    pieces.push(text(format!("Without an answer: {default}.")));
    pieces
}

/// An answer in words.
pub(crate) fn answered(answer: &Answer) -> String {
    match answer {
        Answer::Allow { always: true } => "allowed, from now on".to_owned(),
        Answer::Allow { always: false } => "allowed".to_owned(),
        Answer::Deny { message } => format!("denied ({})", one_line(message)),
        Answer::Choices { choices } => {
            let all: Vec<String> = choices.iter().map(|one| one.join(", ")).collect();
            one_line(&all.join("; "))
        }
    }
}

/// The final summary.
fn summary(event: &Event, view: &TaskView) -> Vec<Piece> {
    let (running_ms, why) = match event {
        Event::TaskCompleted { running_ms, .. } => (*running_ms, None),
        Event::TaskFailed {
            failure,
            running_ms,
            ..
        } => (*running_ms, Some(failure.message.clone())),
        Event::TaskTimedOut {
            message,
            running_ms,
        } => (*running_ms, Some(message.clone())),
        Event::TaskCancelled {
            reason,
            by,
            running_ms,
            ..
        } => {
            let reason = reason
                .as_deref()
                .map(|r| format!(": {r}"))
                .unwrap_or_default();
            (*running_ms, Some(format!("by {by}{reason}")))
        }
        _ => (view.running_ms, None),
    };
    let mut pieces = vec![
        text(format!("{} ", mark(view.phase))),
        bold(format!("Task {}", view.phase.as_str())),
        text(format!(" after {}", duration(running_ms))),
    ];
    if let Some(why) = why {
        pieces.push(text(" · "));
        pieces.push(Piece::Text(shorten(&one_line(&why), 1_000)));
    }
    let Some(result) = &view.result else {
        return pieces;
    };
    let changes = &result.changes;
    pieces.push(Piece::Break);
    pieces.push(text(format!(
        "{} files changed, +{} −{}",
        changes.files_total, changes.additions, changes.deletions
    )));
    if let Some(branch) = &changes.branch {
        pieces.push(text(" · branch "));
        pieces.push(code(branch));
    }
    if !result.text.trim().is_empty() {
        pieces.push(Piece::Break);
        pieces.push(Piece::Markdown(cut(&result.text, RESULT)));
    }
    if !changes.diff.trim().is_empty() {
        pieces.push(Piece::Pre(cut(&changes.diff, DIFF)));
    }
    pieces
}

/// One line in place of a post that the homeserver refuses: how it begins, and where the rest is.
pub(crate) fn instead(post: &Post) -> Vec<Piece> {
    let begins: String = post
        .body
        .iter()
        .map(|piece| match piece {
            Piece::Text(text)
            | Piece::Bold(text)
            | Piece::Code(text)
            | Piece::Pre(text)
            | Piece::Markdown(text) => text.as_str(),
            Piece::Break => " ",
        })
        .collect();
    vec![
        Piece::Text(shorten(&one_line(&begins), LINE)),
        text(" (the homeserver refuses the whole message; !status and !logs show more)"),
    ]
}

/// The answer to `!status`.
pub(crate) fn status_reply(view: &TaskView, now: WallTime) -> Vec<Piece> {
    status(view, now).0
}

/// At most so many characters of it.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// At most so many bytes of it, and how much is left out.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most);
    format!("{}\n… {} bytes more", &text[..end], text.len() - end)
}

/// Without line breaks and other control characters.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace()
        .map(|word| word.chars().filter(|c| !c.is_control()).collect::<String>())
        .collect::<Vec<_>>()
        .join(" ")
}
