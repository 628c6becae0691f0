//! One pure decision: given what is recorded and what the engine's records say, how does the run stand?
//!
//! In: the folded state and one [`SessionReport`]. Out: a [`Verdict`]. The same function serves live and recovery;
//! the order of its questions is the order in which they were found to matter.

use super::state::{PromptRecord, TaskState};
use crate::event::{Failure, FailureKind, Outcome};
use crate::id::WallTime;
use crate::ports::{Activity, LastMessage, SessionReport};

/// How long an accepted prompt may stay without a trace: a cold, loaded server took up to 17 s (measured).
pub(super) const TAKE_UP_GRACE_MS: u64 = 25_000;

/// How often the engine may take a prompt and not begin with it.
const TAKES: u32 = 3;

/// What is known only while this actor lives.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hints {
    /// The newest sending or resending of a prompt.
    pub(super) sent_at: Option<WallTime>,
    /// The newest `session.error` since the last sending.
    pub(super) last_error: Option<(String, String)>,
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// The engine works on it.
    Working,
    /// Nothing can be said yet.
    Wait,
    /// This prompt never began: send it again, exactly as recorded.
    Resend(u32),
    /// The run was cut and can be continued by repeating the newest prompt.
    Resume(String),
    /// The run is over.
    Ended(Outcome),
}

/// Decides.
pub(super) fn decide(
    state: &TaskState,
    report: &SessionReport,
    hints: &Hints,
    max_resumes: u32,
    now: WallTime,
) -> Verdict {
    match report.activity {
        Activity::Busy | Activity::Retrying { .. } => return Verdict::Working,
        Activity::Idle => {}
    }
    if let Some(verdict) = unstarted_prompt(state, report, hints, now) {
        return verdict;
    }
    let cut = |why: &str| cut_run(state, hints, max_resumes, now, why);
    match &report.last {
        LastMessage::None | LastMessage::User => Verdict::Wait,
        LastMessage::Assistant {
            error: Some((name, message)),
            ..
        } => {
            if name == "MessageAbortedError" && state.interrupted {
                return cut("the run was aborted when its worker went away");
            }
            Verdict::Ended(Outcome::Failed {
                failure: failure_of(name, message),
            })
        }
        LastMessage::Assistant { rejected: true, .. } => failed(
            FailureKind::Rejected,
            "a rejected permission or question ended the run before the task was done",
        ),
        LastMessage::Assistant {
            completed: false, ..
        } => cut(if state.interrupted {
            "the worker process went away in the middle of an answer"
        } else {
            "the worker stopped in the middle of an answer"
        }),
        LastMessage::Assistant { finish, .. } => match finish.as_deref() {
            Some("stop") => Verdict::Ended(Outcome::Succeeded),
            Some("tool-calls") => cut("the worker stopped between two steps"),
            Some("length") => failed(
                FailureKind::Model,
                "the model stopped at its output limit before it was done; ask for less at once or use a model with a larger limit",
            ),
            Some("content-filter") => failed(
                FailureKind::Model,
                "the model provider's content filter stopped the answer",
            ),
            Some(other) => failed(
                FailureKind::Model,
                &format!(
                    "the model's answer ended without a proper finish (\"{other}\"); it may be incomplete"
                ),
            ),
            None => cut("the worker's last answer has no end"),
        },
    }
}

/// A prompt of ours that the worker has not begun with decides before the last message does.
fn unstarted_prompt(
    state: &TaskState,
    report: &SessionReport,
    hints: &Hints,
    now: WallTime,
) -> Option<Verdict> {
    let open: Vec<(&PromptRecord, bool, bool)> = state
        .prompts
        .iter()
        .filter(|record| record.is_open())
        .filter_map(|record| {
            let seen = report
                .prompts
                .iter()
                .find(|p| p.message_id == record.prompt.message_id);
            let (stored, taken_up) =
                seen.map_or((false, false), |p| (p.stored && p.complete, p.taken_up));
            (!taken_up).then_some((record, stored, seen.is_some_and(|p| p.newest)))
        })
        .collect();
    let (first, ..) = open.first()?;
    if let Some((name, message)) = &hints.last_error {
        return Some(Verdict::Ended(Outcome::Failed {
            failure: failure_of(name, message),
        }));
    }
    // What was sent to the worker that went away is lost; what was sent since has its time to begin.
    let quiet_since = match hints.sent_at {
        Some(sent) => Some(sent),
        None if state.interrupted => None,
        None => Some(first.accepted_at.unwrap_or(first.wanted_at)),
    };
    if quiet_since.is_some_and(|since| now.ms_since(since) < TAKE_UP_GRACE_MS) {
        return Some(Verdict::Wait);
    }
    // A stored prompt may be repeated only while it is the newest; what was never stored goes oldest first.
    let newest_stored = open
        .iter()
        .rev()
        .find(|(_, stored, newest)| *stored && *newest);
    let first_missing = open.iter().find(|(_, stored, _)| !*stored);
    newest_stored.or(first_missing).map(|(record, ..)| {
        if record.accepted >= TAKES && state.interrupted {
            // The prompt is not to blame, and OpenCode neither: what took it went away with it.
            failed(
                FailureKind::WorkerLost,
                "the worker process went away before it began with the prompt, which was sent three times; submit the task again",
            )
        } else if record.accepted >= TAKES {
            failed(
                FailureKind::Engine,
                "OpenCode accepted the prompt three times and never began with it",
            )
        } else {
            Verdict::Resend(record.prompt.number)
        }
    })
}

fn cut_run(
    state: &TaskState,
    hints: &Hints,
    max_resumes: u32,
    now: WallTime,
    why: &str,
) -> Verdict {
    // A run that was continued has its time to begin, also when the one who continued it is no more.
    let since = match hints.sent_at {
        Some(sent) => Some(sent),
        None if state.interrupted => None,
        None => state.resumed_at,
    };
    if since.is_some_and(|at| now.ms_since(at) < TAKE_UP_GRACE_MS) {
        return Verdict::Wait;
    }
    if state.resumes >= max_resumes {
        return failed(
            FailureKind::WorkerLost,
            &format!(
                "{why}; it was continued {} times without success",
                state.resumes
            ),
        );
    }
    Verdict::Resume(why.to_owned())
}

fn failed(kind: FailureKind, message: &str) -> Verdict {
    Verdict::Ended(Outcome::Failed {
        failure: Failure {
            kind,
            message: message.to_owned(),
        },
    })
}

/// OpenCode's error names in our words.
pub(super) fn failure_of(name: &str, message: &str) -> Failure {
    let (kind, advice) = match name {
        "MessageAbortedError" => (
            FailureKind::Aborted,
            "; somebody else aborted the session, submit the task again",
        ),
        "ProviderAuthError" => (
            FailureKind::Model,
            "; check the provider's key in the engine's configuration",
        ),
        "ContextOverflowError" => (
            FailureKind::Model,
            "; the conversation no longer fits the model, split the task",
        ),
        "ProviderModelNotFoundError" => (
            FailureKind::Model,
            "; check the name of the model (provider/model)",
        ),
        _ => (FailureKind::Model, ""),
    };
    Failure {
        kind,
        message: format!("{name}: {message}{advice}"),
    }
}
