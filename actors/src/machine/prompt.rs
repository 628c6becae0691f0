//! The texts that the worker reads. In: the task and what happened to it. Out: prompt texts.

use crate::command::{MessageType, Source, TaskSpec};

/// The first prompt: the task, and the few rules that hold for every task.
pub(super) fn first(spec: &TaskSpec) -> String {
    let place = match spec.source {
        Source::Empty => "The working directory is empty and yours.",
        Source::Repository { .. } => "The working directory is your own clone of the repository.",
        Source::Directory { .. } => "The working directory is your own copy of the project.",
    };
    format!(
        "{description}\n\n---\n{place} Work only inside it, with relative paths. Nobody reads along while you work: \
         do not ask, decide and say what you decided. You have {minutes} of running time. \
         End with a short summary of what you did and how you checked it.",
        description = spec.description,
        minutes = minutes(spec.timeout_ms),
    )
}

fn minutes(ms: u64) -> String {
    match ms / 60_000 {
        0 => format!("{} seconds", (ms / 1000).max(1)),
        1 => "1 minute".to_owned(),
        n => format!("{n} minutes"),
    }
}

/// A planner's message.
pub(super) fn message(message_type: MessageType, text: &str) -> String {
    format!(
        "[{kind} from the planner of this task]\n{text}",
        kind = message_type.as_str().replace('_', " "),
    )
}

/// Goes on after a pause.
pub(super) fn after_pause() -> String {
    "The task was paused and goes on now. A command that was running was stopped: check what it left before you \
     repeat it. Continue where you were."
        .to_owned()
}
