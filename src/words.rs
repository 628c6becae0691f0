//! Events in words: the original system's type word, our precise type, and one sentence for a person or a model.
//!
//! In: an event. Out: what `recent_events`, `events` and the debug endpoint show of it. The table stands in docs/tools.md.
//! Every match here is exhaustive: a new event does not compile until it has its words.

use chargehand_actors::command::{Answer, Author, ControlSignal, MessageType, Source};
use chargehand_actors::event::{
    AbortReason, Changes, Event, Outcome, PauseKind, PromptKind, RequestEnd, ToolRun, Usage,
};

/// The original system's word for an event: one of its twelve.
pub const fn original_type(event: &Event) -> &'static str {
    match event {
        Event::AttemptStarted { .. } => "task_started",
        Event::TaskCompleted { .. } => "task_completed",
        Event::TaskFailed { .. } => "task_failed",
        Event::TaskTimedOut { .. } => "task_timeout",
        Event::TaskCancelled { .. } => "task_cancelled",
        Event::TaskPaused { .. } => "task_paused",
        Event::TaskResumed { .. } => "task_resumed",
        Event::ControlReceived { .. } => "task_control",
        Event::MessageReceived { message_type, .. } => match message_type {
            MessageType::Update => "task_progress",
            MessageType::Feedback
            | MessageType::Clarification
            | MessageType::Correction
            | MessageType::Guidance
            | MessageType::Approval => "task_feedback",
            MessageType::ContextChange
            | MessageType::RequirementChange
            | MessageType::PriorityChange => "task_runtime_update",
        },
        Event::MessageTakenUp { .. }
        | Event::MessageDropped { .. }
        | Event::RequestOpened { .. }
        | Event::AnswerWanted { .. }
        | Event::RequestClosed { .. } => "task_message",
        Event::TaskAccepted { .. }
        | Event::WorkdirPrepared { .. }
        | Event::SessionWanted
        | Event::SessionOpened { .. }
        | Event::PromptWanted { .. }
        | Event::PromptAccepted { .. }
        | Event::PromptSeen { .. }
        | Event::PromptTakenUp { .. }
        | Event::AttendanceChanged { .. }
        | Event::AbortWanted { .. }
        | Event::AbortSeen
        | Event::WorkerChanged { .. }
        | Event::ResumeWanted { .. }
        | Event::RunEnded { .. }
        | Event::ChangesWanted { .. }
        | Event::AttemptRemoved { .. }
        | Event::AttemptRemovalDelayed { .. }
        | Event::FilesCleared
        | Event::WatchdogWarned { .. }
        | Event::LateArrival { .. }
        | Event::ToolsFinished { .. }
        | Event::StepFinished { .. }
        | Event::FilesTouched { .. }
        | Event::TodosChanged { .. }
        | Event::ProviderRetry { .. }
        | Event::ActivityChanged { .. }
        | Event::Remark { .. }
        | Event::EngineReconciled { .. } => "task_progress",
    }
}

/// Our precise type: the same word as in the journal.
pub const fn precise_type(event: &Event) -> &'static str {
    match event {
        Event::TaskAccepted { .. } => "task_accepted",
        Event::AttemptStarted { .. } => "attempt_started",
        Event::WorkdirPrepared { .. } => "workdir_prepared",
        Event::SessionWanted => "session_wanted",
        Event::SessionOpened { .. } => "session_opened",
        Event::PromptWanted { .. } => "prompt_wanted",
        Event::PromptAccepted { .. } => "prompt_accepted",
        Event::PromptSeen { .. } => "prompt_seen",
        Event::PromptTakenUp { .. } => "prompt_taken_up",
        Event::MessageReceived { .. } => "message_received",
        Event::MessageTakenUp { .. } => "message_taken_up",
        Event::MessageDropped { .. } => "message_dropped",
        Event::ControlReceived { .. } => "control_received",
        Event::TaskPaused { .. } => "task_paused",
        Event::TaskResumed { .. } => "task_resumed",
        Event::RequestOpened { .. } => "request_opened",
        Event::AnswerWanted { .. } => "answer_wanted",
        Event::RequestClosed { .. } => "request_closed",
        Event::AttendanceChanged { .. } => "attendance_changed",
        Event::AbortWanted { .. } => "abort_wanted",
        Event::AbortSeen => "abort_seen",
        Event::WorkerChanged { .. } => "worker_changed",
        Event::ResumeWanted { .. } => "resume_wanted",
        Event::RunEnded { .. } => "run_ended",
        Event::ChangesWanted { .. } => "changes_wanted",
        Event::TaskCompleted { .. } => "task_completed",
        Event::TaskFailed { .. } => "task_failed",
        Event::TaskTimedOut { .. } => "task_timed_out",
        Event::TaskCancelled { .. } => "task_cancelled",
        Event::AttemptRemoved { .. } => "attempt_removed",
        Event::AttemptRemovalDelayed { .. } => "attempt_removal_delayed",
        Event::FilesCleared => "files_cleared",
        Event::WatchdogWarned { .. } => "watchdog_warned",
        Event::LateArrival { .. } => "late_arrival",
        Event::ToolsFinished { .. } => "tools_finished",
        Event::StepFinished { .. } => "step_finished",
        Event::FilesTouched { .. } => "files_touched",
        Event::TodosChanged { .. } => "todos_changed",
        Event::ProviderRetry { .. } => "provider_retry",
        Event::ActivityChanged { .. } => "activity_changed",
        Event::Remark { .. } => "remark",
        Event::EngineReconciled { .. } => "engine_reconciled",
    }
}

/// Who gave the command that an event records, and from where; none for events that are no command of anybody.
pub fn author(event: &Event) -> Option<Author> {
    let (by, from) = match event {
        Event::MessageReceived { by, from, .. }
        | Event::ControlReceived { by, from, .. }
        | Event::AnswerWanted { by, from, .. }
        | Event::TaskCancelled { by, from, .. } => (by.clone(), from.clone()),
        Event::TaskAccepted { caller, from, .. } => (
            format!("{}/{}", caller.token, caller.agent_id),
            from.clone(),
        ),
        Event::AttemptStarted { .. }
        | Event::WorkdirPrepared { .. }
        | Event::SessionWanted
        | Event::SessionOpened { .. }
        | Event::PromptWanted { .. }
        | Event::PromptAccepted { .. }
        | Event::PromptSeen { .. }
        | Event::PromptTakenUp { .. }
        | Event::MessageTakenUp { .. }
        | Event::MessageDropped { .. }
        | Event::TaskPaused { .. }
        | Event::TaskResumed { .. }
        | Event::RequestOpened { .. }
        | Event::RequestClosed { .. }
        | Event::AttendanceChanged { .. }
        | Event::AbortWanted { .. }
        | Event::AbortSeen
        | Event::WorkerChanged { .. }
        | Event::ResumeWanted { .. }
        | Event::RunEnded { .. }
        | Event::ChangesWanted { .. }
        | Event::TaskCompleted { .. }
        | Event::TaskFailed { .. }
        | Event::TaskTimedOut { .. }
        | Event::AttemptRemoved { .. }
        | Event::AttemptRemovalDelayed { .. }
        | Event::FilesCleared
        | Event::WatchdogWarned { .. }
        | Event::LateArrival { .. }
        | Event::ToolsFinished { .. }
        | Event::StepFinished { .. }
        | Event::FilesTouched { .. }
        | Event::TodosChanged { .. }
        | Event::ProviderRetry { .. }
        | Event::ActivityChanged { .. }
        | Event::Remark { .. }
        | Event::EngineReconciled { .. } => return None,
    };
    Some(Author { by, from })
}

/// One sentence. Text that came from a task is cut and freed of control characters; it stays untrusted.
pub fn sentence(event: &Event) -> String {
    match event {
        Event::TaskAccepted { .. }
        | Event::AttemptStarted { .. }
        | Event::WorkdirPrepared { .. }
        | Event::SessionWanted
        | Event::SessionOpened { .. }
        | Event::RunEnded { .. }
        | Event::TaskCompleted { .. }
        | Event::TaskFailed { .. }
        | Event::TaskTimedOut { .. }
        | Event::TaskCancelled { .. } => life(event),
        Event::PromptWanted { .. }
        | Event::PromptAccepted { .. }
        | Event::PromptSeen { .. }
        | Event::PromptTakenUp { .. }
        | Event::MessageReceived { .. }
        | Event::MessageTakenUp { .. }
        | Event::MessageDropped { .. } => talk(event),
        Event::ControlReceived { .. }
        | Event::TaskPaused { .. }
        | Event::TaskResumed { .. }
        | Event::RequestOpened { .. }
        | Event::AnswerWanted { .. }
        | Event::RequestClosed { .. }
        | Event::AttendanceChanged { .. } => steering(event),
        Event::AbortWanted { .. }
        | Event::AbortSeen
        | Event::WorkerChanged { .. }
        | Event::ResumeWanted { .. }
        | Event::ChangesWanted { .. }
        | Event::AttemptRemoved { .. }
        | Event::AttemptRemovalDelayed { .. }
        | Event::FilesCleared
        | Event::WatchdogWarned { .. }
        | Event::LateArrival { .. }
        | Event::EngineReconciled { .. } => upkeep(event),
        Event::ToolsFinished { .. }
        | Event::StepFinished { .. }
        | Event::FilesTouched { .. }
        | Event::TodosChanged { .. }
        | Event::ProviderRetry { .. }
        | Event::ActivityChanged { .. }
        | Event::Remark { .. } => observation(event),
    }
}

fn life(event: &Event) -> String {
    match event {
        Event::TaskAccepted { spec, caller, .. } => {
            let source = match &spec.source {
                Source::Empty => String::new(),
                Source::Repository { url, reference } => format!(
                    ", starting from {}{}",
                    cut(url, 200),
                    reference
                        .as_ref()
                        .map_or_else(String::new, |r| format!(" at {}", cut(r, 100)))
                ),
                Source::Directory { path } => {
                    format!(", starting from a copy of {}", cut(path, 200))
                }
            };
            format!(
                "Accepted from {} for engine {}{source}; it waits for a slot.",
                cut(&caller.agent_id, 100),
                spec.engine
            )
        }
        Event::AttemptStarted { attempt, engine } => {
            format!("Attempt {attempt} started on engine {engine}.")
        }
        Event::WorkdirPrepared { note, .. } => match note {
            Some(note) => format!(
                "The workdir is ready; there will be no diff: {}.",
                cut(note, 300)
            ),
            None => "The workdir is ready and its baseline is taken.".to_owned(),
        },
        Event::SessionWanted => "An OpenCode session is being opened.".to_owned(),
        Event::SessionOpened { session, .. } => {
            format!("OpenCode session {} is open.", cut(&session.id, 80))
        }
        Event::RunEnded { outcome, .. } => match outcome {
            Outcome::Succeeded => "The worker is done; the result is being read.".to_owned(),
            Outcome::Failed { failure } => format!(
                "The worker ended without success ({}); what it left is being read.",
                cut(&failure.message, 500)
            ),
        },
        Event::TaskCompleted { result, running_ms } => format!(
            "Completed after {}: {}.",
            duration(*running_ms),
            changes(&result.changes)
        ),
        Event::TaskFailed {
            failure,
            running_ms,
            ..
        } => format!(
            "Failed after {}: {}",
            duration(*running_ms),
            cut(&failure.message, 500)
        ),
        Event::TaskTimedOut {
            message,
            running_ms,
        } => format!(
            "Timed out after {}: {}",
            duration(*running_ms),
            cut(message, 300)
        ),
        Event::TaskCancelled { reason, by, .. } => format!(
            "Cancelled by {}{}.",
            cut(by, 100),
            because(reason.as_deref())
        ),
        other => unexpected(other),
    }
}

fn talk(event: &Event) -> String {
    match event {
        Event::PromptWanted { prompt } => match prompt.kind {
            PromptKind::First => "The task is being sent to the worker.".to_owned(),
            PromptKind::Message => "A message is being sent to the worker.".to_owned(),
            PromptKind::Resume => "The worker is being asked to go on where it stopped.".to_owned(),
            PromptKind::Nudge => "The silent worker is being asked to go on.".to_owned(),
        },
        Event::PromptAccepted { number } => format!("OpenCode took prompt {number}."),
        Event::PromptSeen { number } => format!("Prompt {number} stands in OpenCode's record."),
        Event::PromptTakenUp { number } => {
            format!("The worker has begun to answer prompt {number}.")
        }
        Event::MessageReceived {
            message_id,
            message_type,
            text,
            by,
            ..
        } => format!(
            "Message {message_id} ({}) from {}: {}",
            message_type.as_str(),
            cut(by, 100),
            cut(text, 300)
        ),
        Event::MessageTakenUp { message_id } => {
            format!("The worker has taken up message {message_id}.")
        }
        Event::MessageDropped { message_id, reason } => format!(
            "Message {message_id} will not reach the worker: {}.",
            cut(reason, 300)
        ),
        other => unexpected(other),
    }
}

fn steering(event: &Event) -> String {
    match event {
        Event::ControlReceived {
            signal, reason, by, ..
        } => {
            let what = match signal {
                ControlSignal::Cancel => "Cancel",
                ControlSignal::Pause => "Pause",
                ControlSignal::Resume => "Resume",
            };
            format!(
                "{what} asked for by {}{}.",
                cut(by, 100),
                because(reason.as_deref())
            )
        }
        Event::TaskPaused { pause } => match pause {
            PauseKind::Frozen => "Paused: the worker's processes are frozen.",
            PauseKind::Aborted => {
                "Paused: the run was stopped; resume continues in the same session."
            }
            PauseKind::Held => "Held in the queue until it is resumed.",
        }
        .to_owned(),
        Event::TaskResumed { .. } => "Resumed.".to_owned(),
        Event::RequestOpened { request, .. } => {
            format!("The worker asks: {}", cut(&request.text, 500))
        }
        Event::AnswerWanted { answer, by, .. } => {
            let what = match answer {
                Answer::Allow { always: true } => "allowed for the rest of the session".to_owned(),
                Answer::Allow { always: false } => "allowed this time".to_owned(),
                Answer::Deny { message } => format!("denied ({})", cut(message, 200)),
                Answer::Choices { choices } => {
                    let chosen: Vec<String> =
                        choices.iter().flatten().map(|c| cut(c, 100)).collect();
                    format!("answered with {}", chosen.join(", "))
                }
            };
            format!("The worker's request is {what} by {}.", cut(by, 100))
        }
        Event::RequestClosed { end, .. } => match end {
            RequestEnd::Answered => "The worker's request is answered.",
            RequestEnd::Defaulted => "Nobody answered the worker's request; its default was given.",
            RequestEnd::Gone => "The worker no longer asks.",
            RequestEnd::Superseded => "The worker's request was closed by a pause or an end.",
        }
        .to_owned(),
        Event::AttendanceChanged { people } if people.is_empty() => {
            "Nobody who may answer watches the task any more.".to_owned()
        }
        Event::AttendanceChanged { people } => {
            format!("Watched by {}, who may answer the worker.", some(people, 5))
        }
        other => unexpected(other),
    }
}

fn upkeep(event: &Event) -> String {
    match event {
        Event::AbortWanted { reason, detail } => match reason {
            AbortReason::Pause => "The run is being stopped for the pause.".to_owned(),
            AbortReason::Nudge => {
                "The hung run is being stopped, then the worker is asked to go on.".to_owned()
            }
            AbortReason::Watchdog => {
                format!(
                    "The run is being stopped by a watchdog: {}",
                    cut(detail, 300)
                )
            }
        },
        Event::AbortSeen => "The run's stop was seen in OpenCode.".to_owned(),
        Event::WorkerChanged { .. } => {
            "The OpenCode worker was replaced; what ran in it was interrupted.".to_owned()
        }
        Event::ResumeWanted { resume, reason } => format!(
            "The interrupted run is being continued (time {resume}): {}",
            cut(reason, 300)
        ),
        Event::ChangesWanted { again } => {
            format!("Reading the result was cut off; it is being read again (time {again}).")
        }
        Event::AttemptRemoved { attempt } => {
            format!("What attempt {attempt} owned in the engine is removed.")
        }
        Event::AttemptRemovalDelayed { attempt, reason } => format!(
            "What attempt {attempt} owned could not be removed yet; it is tried again: {}",
            cut(reason, 300)
        ),
        Event::FilesCleared => {
            "Its workdir and output were removed after their retention time.".to_owned()
        }
        Event::WatchdogWarned { message, .. } => cut(message, 300),
        Event::LateArrival { what } => {
            format!(
                "Arrived after the end and changed nothing: {}",
                cut(what, 300)
            )
        }
        Event::EngineReconciled {
            engine,
            adopted,
            stale,
        } => format!(
            "Engine {engine} was compared with the journal: {} adopted, {} stale.",
            adopted.len(),
            stale.len()
        ),
        other => unexpected(other),
    }
}

fn observation(event: &Event) -> String {
    match event {
        Event::ToolsFinished { tools } => tool_runs(tools),
        Event::StepFinished { steps, usage } => {
            format!("Model step {steps} is done; {}.", tokens(usage))
        }
        Event::FilesTouched { files } => format!("Wrote {}.", some(files, 5)),
        Event::TodosChanged { todos } => {
            let done = todos.iter().filter(|t| t.status == "completed").count();
            format!("To-do list: {done} of {} done.", todos.len())
        }
        Event::ProviderRetry { attempt, message } => format!(
            "The model provider makes the worker wait (try {attempt}): {}",
            cut(message, 300)
        ),
        Event::ActivityChanged { doing } => format!("The worker {}.", cut(doing, 300)),
        Event::Remark { message } => cut(message, 500),
        other => unexpected(other),
    }
}

// Only reached when `sentence` sends an event to the wrong group; a test walks all of them.
fn unexpected(event: &Event) -> String {
    precise_type(event).replace('_', " ")
}

fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {}", cut(reason, 300)))
}

fn tool_runs(tools: &[ToolRun]) -> String {
    let shown: Vec<String> = tools
        .iter()
        .take(3)
        .map(|run| {
            let title = cut(&run.title, 120);
            let name = cut(&run.tool, 60);
            let failed = if run.failed { " (failed)" } else { "" };
            if title.is_empty() {
                format!("{name}{failed}")
            } else {
                format!("{name}: {title}{failed}")
            }
        })
        .collect();
    match tools.len().saturating_sub(3) {
        0 => format!("Tools: {}.", shown.join("; ")),
        more => format!("Tools: {}; and {more} more.", shown.join("; ")),
    }
}

fn tokens(usage: &Usage) -> String {
    let read = usage.input + usage.cache_read + usage.cache_write;
    let written = usage.output + usage.reasoning;
    if usage.cost > 0.0 {
        format!("{read} tokens in, {written} out, ${:.4} so far", usage.cost)
    } else {
        format!("{read} tokens in, {written} out so far")
    }
}

/// What changed, in half a sentence.
pub(crate) fn changes(changes: &Changes) -> String {
    match changes.files_total {
        0 => "no files changed".to_owned(),
        1 => format!(
            "1 file changed (+{} -{})",
            changes.additions, changes.deletions
        ),
        files => format!(
            "{files} files changed (+{} -{})",
            changes.additions, changes.deletions
        ),
    }
}

fn some(names: &[String], most: usize) -> String {
    let shown: Vec<String> = names.iter().take(most).map(|n| cut(n, 120)).collect();
    match names.len().saturating_sub(most) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Milliseconds for people.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..=59 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// At most `most` characters on one line.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for (count, c) in text.trim().chars().enumerate() {
        if count == most {
            shown.push('…');
            break;
        }
        shown.push(if c.is_control() { ' ' } else { c });
    }
    shown
}

#[cfg(test)]
#[path = "words_tests.rs"]
mod tests;
