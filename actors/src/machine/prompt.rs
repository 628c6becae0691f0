//! The texts that the worker reads. In: the task, its limits and what happened to it. Out: prompt texts.

use super::step::Machine;
use crate::command::{MessageType, PermissionAction, PermissionRule, Source};

/// Rules told to the worker; more are many words for little.
const RULES_TOLD: usize = 12;

impl Machine {
    /// The first prompt: the task, and the few rules that hold for it.
    pub(super) fn first_prompt(&self) -> String {
        let spec = &self.state.spec;
        let place = match spec.source {
            Source::Empty => "The working directory is empty and yours.",
            Source::Repository { .. } => {
                "The working directory is your own clone of the repository."
            }
            Source::Directory { .. } => "The working directory is your own copy of the project.",
        };
        let people = if self.state.attended() {
            format!(
                "Decide yourself and say what you decided. Only where a wrong guess would spoil the work, ask: an answer \
                 comes within {}, or you are told to go on without it.",
                duration(self.limits.request_expiry_ms)
            )
        } else {
            "Nobody reads along while you work: do not ask, decide and say what you decided."
                .to_owned()
        };
        let steps = match self.step_limit() {
            0 => String::new(),
            limit => format!(" and at most {limit} steps"),
        };
        format!(
            "{description}\n\n---\n{place} Work only inside it, with relative paths. {people}{denied} \
             You have {time} of running time{steps}. \
             End with a short summary of what you did and how you checked it.",
            description = spec.description,
            denied = denied(&spec.permissions),
            time = duration(spec.timeout_ms),
        )
    }
}

/// What is not allowed anyhow, so that nothing is planned around it.
fn denied(rules: &[PermissionRule]) -> String {
    let denied: Vec<String> = rules
        .iter()
        .filter(|rule| rule.action == PermissionAction::Deny)
        .map(|rule| match rule.pattern.as_str() {
            "*" => rule.permission.clone(),
            pattern => format!("{}: {pattern}", rule.permission),
        })
        .collect();
    let told = denied.get(..RULES_TOLD).unwrap_or(&denied);
    if told.is_empty() {
        return String::new();
    }
    let more = if told.len() < denied.len() {
        ", and more"
    } else {
        ""
    };
    format!(" Not allowed here: {}{more}.", told.join("; "))
}

/// A time for people.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds, seconds / 60) {
        (1, _) => "1 second".to_owned(),
        (60, _) => "1 minute".to_owned(),
        (0..120, _) => format!("{seconds} seconds"),
        (_, minutes @ 0..120) => format!("{minutes} minutes"),
        (_, minutes) => format!("{} hours", minutes / 60),
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

/// Wakes a worker whose call hung and was stopped.
pub(super) fn nudge() -> String {
    "Nothing was heard from you for a while, so your last step was stopped. Look at what is there before you repeat \
     anything, then continue where you were."
        .to_owned()
}
