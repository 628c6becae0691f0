//! One log line for each step in the life of a task, written when the step is durable: nobody is told earlier, no log either.
//!
//! In: committed events, with the attempt that their task is in. Out: INFO for what a task went through, WARN for what watchdogs
//! and recovery decided, nothing for observations. Every line carries `task` and `attempt`; texts of workers and callers go into
//! fields, which the log escapes and cuts.

use tracing::{debug, info, warn};

use crate::event::{AbortReason, CommittedEvent, Event, Outcome, Phase};
use crate::id::TaskId;

/// Writes the lines of events that became durable together. `attempt` is that of their task after them.
pub(crate) fn write(events: &[CommittedEvent], attempt: Option<u32>) {
    for committed in events {
        match committed.task {
            Some(task) => {
                let attempt = own_attempt(&committed.event).or(attempt).unwrap_or(0);
                recovery(task, attempt, &committed.event);
                step(task, attempt, &committed.event);
                end(task, attempt, &committed.event);
            }
            None => instance(&committed.event),
        }
    }
}

/// The attempt that an event names itself.
const fn own_attempt(event: &Event) -> Option<u32> {
    match event {
        Event::AttemptStarted { attempt, .. }
        | Event::AttemptRemoved { attempt }
        | Event::AttemptRemovalDelayed { attempt, .. } => Some(*attempt),
        _ => None,
    }
}

/// From acceptance to the last answer of the worker.
fn step(task: TaskId, attempt: u32, event: &Event) {
    match event {
        Event::TaskAccepted { spec, caller, .. } => {
            info!(%task, attempt, engine = %spec.engine, token = caller.token, "task accepted");
        }
        Event::AttemptStarted { engine, .. } => info!(%task, attempt, %engine, "task started"),
        Event::SessionOpened { session, .. } => {
            debug!(%task, attempt, session = session.id, "session opened");
        }
        Event::PromptAccepted { number: 1 } => info!(%task, attempt, "task running"),
        Event::PromptAccepted { number } => debug!(%task, attempt, number, "prompt accepted"),
        Event::TaskPaused { pause } => info!(%task, attempt, how = ?pause, "task paused"),
        Event::TaskResumed { pause } => info!(%task, attempt, how = ?pause, "task resumed"),
        Event::RequestOpened { request, .. } => {
            info!(%task, attempt, request = request.id.0, text = request.text, "task asks");
        }
        Event::RequestClosed { request, end } => {
            info!(%task, attempt, request = request.0, how = ?end, "request closed");
        }
        Event::RunEnded { outcome, .. } => match outcome {
            Outcome::Succeeded => info!(%task, attempt, "task finishing"),
            Outcome::Failed { failure } => {
                info!(%task, attempt, failure = failure.kind.as_str(), "task finishing");
            }
        },
        Event::AttemptRemoved { .. } => debug!(%task, attempt, "attempt removed"),
        _ => {}
    }
}

/// The last line of a task: its outcome.
fn end(task: TaskId, attempt: u32, event: &Event) {
    let ended = |phase: Phase, running_ms: u64, why: &str| {
        let outcome = phase.as_str();
        info!(%task, attempt, outcome, running_ms, why, "task ended");
    };
    match event {
        Event::TaskCompleted { running_ms, .. } => {
            let outcome = Phase::Completed.as_str();
            info!(%task, attempt, outcome, running_ms, "task ended");
        }
        Event::TaskFailed {
            failure,
            running_ms,
            ..
        } => {
            let (outcome, kind) = (Phase::Failed.as_str(), failure.kind.as_str());
            let why = &failure.message;
            info!(%task, attempt, outcome, failure = kind, running_ms, why, "task ended");
        }
        Event::TaskTimedOut {
            message,
            running_ms,
        } => ended(Phase::Timeout, *running_ms, message),
        Event::TaskCancelled {
            reason,
            by,
            running_ms,
            ..
        } => {
            let why = reason.as_deref().unwrap_or("no reason given");
            let outcome = Phase::Cancelled.as_str();
            info!(%task, attempt, outcome, by, running_ms, why, "task ended");
        }
        _ => {}
    }
}

/// What watchdogs and recovery decided.
fn recovery(task: TaskId, attempt: u32, event: &Event) {
    match event {
        Event::WatchdogWarned { watchdog, message } => {
            warn!(%task, attempt, watchdog = watchdog.as_str(), why = message, "watchdog warns");
        }
        Event::AbortWanted {
            reason: AbortReason::Watchdog,
            detail,
        } => warn!(%task, attempt, why = detail, "watchdog ends the run"),
        Event::WorkerChanged { worker } => {
            warn!(%task, attempt, %worker, "the worker of the session is another one now");
        }
        Event::ResumeWanted { resume, reason } => {
            warn!(%task, attempt, resume, why = reason, "run is continued");
        }
        Event::AttemptRemovalDelayed { reason, .. } => {
            warn!(%task, attempt, why = reason, "attempt is not removed yet");
        }
        Event::LateArrival { what } => {
            warn!(%task, attempt, what, "came after the end and changes nothing");
        }
        _ => {}
    }
}

/// What concerns no single task.
fn instance(event: &Event) {
    if let Event::EngineReconciled {
        engine,
        adopted,
        stale,
    } = event
    {
        let adopted = adopted.len();
        if stale.is_empty() {
            info!(%engine, adopted, "engine reconciled");
        } else {
            let stale = stale.join(" ");
            warn!(%engine, adopted, stale, "engine reconciled; what has no owner is removed");
        }
    }
}
