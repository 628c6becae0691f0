//! `get_task_status`: how a task stands, now or when something happens.
//!
//! In: task, cursor, wait. Out: everything known of the task except its whole history, answered by the registry.

use chargehand_actors::command::{StatusQuery, WaitFor};
use chargehand_actors::event::{FailureKind, Phase};
use chargehand_actors::id::{EventNumber, WallTime};
use chargehand_actors::view::{TaskStatus, TaskView};
use schemars::JsonSchema;
use serde::Serialize;

use super::execute::OUTPUT_CHARS;
use super::table::{Effect, Tool};
use crate::mcp::answer::{Refusal, output_schema, result};
use crate::mcp::args::{Arg, Args, Default, Kind};
use crate::mcp::call::{Call, LONGEST_WAIT_S};
use crate::mcp::requests::RequestOut;
use crate::mcp::shapes::{
    ChangesOut, EventOut, UsageOut, duration_ms, exit_code, next_call, output, pause_word,
};

/// Events shown without a cursor, as the original.
const NEWEST_EVENTS: usize = 5;
/// Events shown after a cursor.
const EVENTS_PAGE: usize = 50;

/// The tool.
pub(crate) const TOOL: Tool = Tool {
    name: "get_task_status",
    title: "Status of a task",
    about: "How a task stands: status, what it is doing right now in one sentence, newest events, tokens and cost, and after the end the worker's answer and what it changed. With wait_seconds it answers as soon as the phase changes (or, with since_event, as soon as there is a new event), at the latest after that time: poll with wait_seconds=45. Give next_event of the last answer as since_event to get only what is new.",
    args: &[
        Arg::required("task_id", Kind::TaskId, "The task."),
        Arg::optional(
            "wait_seconds",
            Kind::Integer {
                min: 0,
                max: LONGEST_WAIT_S,
            },
            "Wait at most this long for news. An ended task answers at once.",
        )
        .or(Default::Int(0)),
        Arg::optional(
            "since_event",
            Kind::Integer {
                min: 0,
                max: i64::MAX,
            },
            "Return only events after this number (next_event of the answer before).",
        ),
    ],
    effect: Effect::Reads,
    open_world: false,
    output: output_schema::<StatusOut>,
    run: |call, args| Box::pin(async move { result(TOOL.name, status(&call, &args).await) }),
};

#[derive(Debug, Serialize, JsonSchema)]
struct StatusOut {
    /// The task.
    task_id: String,
    /// queued, running, completed, failed, timeout, paused or cancelled.
    status: &'static str,
    /// The precise phase: queued, starting, running, paused, input_required, finishing, completed, failed, timeout or cancelled.
    phase: &'static str,
    /// What it is doing right now, in one sentence.
    doing: String,
    /// What to call next.
    next: &'static str,
    /// The worker's last text, once ended (at most 5000 characters).
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// The output is cut; get_task_history with include_artifacts=true has all of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    output_cut: bool,
    /// Why it failed, timed out or was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Stable word for why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_kind: Option<FailureWord>,
    /// 0 when completed, 1 when failed; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// What changed in the workdir, once ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<ChangesOut>,
    /// The newest 5 events, or those after since_event, oldest first.
    recent_events: Vec<EventOut>,
    /// Give this as since_event in the next call.
    next_event: u64,
    /// There are more events after these; call again with since_event=next_event.
    more_events: bool,
    /// How many events the task has.
    events_total: u64,
    /// Place in the queue (1 = next), while queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_position: Option<u32>,
    /// What a queued task waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<String>,
    /// How it is paused: frozen, aborted or held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<&'static str>,
    /// Open permissions and questions of the worker.
    requests: Vec<RequestOut>,
    /// Messages accepted and not yet taken up by the worker.
    messages_waiting: u32,
    /// The worker's to-do list.
    todos: Vec<TodoOut>,
    /// Files seen written so far (at most 50; the exact set is in changes).
    files_touched: Vec<String>,
    /// Model steps so far.
    steps: u32,
    /// Tokens and cost so far.
    usage: UsageOut,
    /// 1 for the first attempt; 0 while queued.
    attempt: u32,
    /// The engine that runs it.
    engine: String,
    /// Owner.
    agent_id: String,
    /// Its labels.
    labels: Vec<String>,
    /// Label of the memory block that is kept current with the task, where that is configured.
    workspace_block_id: String,
    /// Milliseconds since 1970.
    created_at: i64,
    /// Got its slot, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<i64>,
    /// Ended, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<i64>,
    /// In this phase since, milliseconds since 1970.
    phase_since: i64,
    /// From the slot to the end in milliseconds, once ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// Running time that counts against the timeout, in milliseconds.
    running_ms: u64,
    /// Running time allowed, in milliseconds.
    timeout_ms: u64,
    /// Workdir on Chargehand's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<String>,
    /// When workdir, patch and output were removed after their retention time, milliseconds since 1970. Files cannot be read any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    files_removed_at: Option<i64>,
    /// OpenCode's session id.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
}

/// A line of the worker's to-do list.
#[derive(Debug, Serialize, JsonSchema)]
struct TodoOut {
    /// What.
    content: String,
    /// pending, in_progress, completed or cancelled.
    status: String,
}

/// Stable word for a failure.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(transparent)]
struct FailureWord(&'static str);

impl From<FailureKind> for FailureWord {
    fn from(kind: FailureKind) -> Self {
        Self(match kind {
            FailureKind::Workdir => "workdir",
            FailureKind::Engine => "engine",
            FailureKind::Model => "model",
            FailureKind::Rejected => "rejected",
            FailureKind::Aborted => "aborted",
            FailureKind::WorkerLost => "worker_lost",
            FailureKind::SessionGone => "session_gone",
            FailureKind::Watchdog => "watchdog",
            FailureKind::Internal => "internal",
        })
    }
}

fn decode(args: &Args) -> Result<StatusQuery, Refusal> {
    let since = args.count("since_event").map(EventNumber);
    let wait_ms = args.count("wait_seconds").unwrap_or(0) * 1_000;
    Ok(StatusQuery {
        task: args.task()?,
        since,
        events_limit: if since.is_some() {
            EVENTS_PAGE
        } else {
            NEWEST_EVENTS
        },
        wait_for: match (wait_ms, since) {
            (0, _) => WaitFor::Nothing,
            (_, Some(since)) => WaitFor::EventAfter(since),
            (_, None) => WaitFor::PhaseChange,
        },
        wait_ms,
    })
}

async fn status(call: &Call, args: &Args) -> Result<StatusOut, Refusal> {
    let query = decode(args)?;
    let since = query.since;
    let status = call.status(query).await?;
    Ok(StatusOut {
        workspace_block_id: call.memory_label(status.view.id),
        ..shape(&status, since, call.now())
    })
}

fn running_ms(view: &TaskView, now: WallTime) -> u64 {
    view.running_ms + view.running_since.map_or(0, |since| now.ms_since(since))
}

fn shape(status: &TaskStatus, since: Option<EventNumber>, now: WallTime) -> StatusOut {
    let view = &status.view;
    let (output, output_cut) = output(view, OUTPUT_CHARS).unzip();
    let next_event = match status.events.last() {
        Some(last) => last.number,
        // A cursor never jumps over an event that was not shown.
        None => since.unwrap_or(view.last_event),
    };
    StatusOut {
        task_id: view.id.to_string(),
        status: view.phase.status(),
        phase: view.phase.as_str(),
        doing: format!("It {}.", view.doing),
        next: next_call(view.phase),
        output,
        output_cut: output_cut.unwrap_or(false),
        error: view.failure.as_ref().map(|f| f.message.clone()),
        error_kind: view
            .failure
            .as_ref()
            .filter(|_| view.phase == Phase::Failed)
            .map(|f| f.kind.into()),
        exit_code: exit_code(view.phase),
        changes: ChangesOut::of(view),
        recent_events: status.events.iter().map(EventOut::from).collect(),
        next_event: next_event.0,
        more_events: status.more_events,
        events_total: view.events_total,
        queue_position: status.queue_position,
        waiting_for: status.waiting_for.clone(),
        pause: view.pause.map(pause_word),
        requests: view.requests.iter().map(RequestOut::from).collect(),
        messages_waiting: view.messages_waiting,
        todos: view
            .todos
            .iter()
            .map(|todo| TodoOut {
                content: todo.content.clone(),
                status: todo.status.clone(),
            })
            .collect(),
        files_touched: view.files_touched.iter().take(50).cloned().collect(),
        steps: view.steps,
        usage: view.into(),
        attempt: view.attempt,
        engine: view.spec.engine.to_string(),
        agent_id: view.caller.agent_id.clone(),
        labels: view.spec.labels.clone(),
        workspace_block_id: String::new(),
        created_at: view.created_at.0,
        started_at: view.started_at.map(|at| at.0),
        completed_at: view.ended_at.map(|at| at.0),
        phase_since: view.phase_since.0,
        duration_ms: duration_ms(view),
        running_ms: running_ms(view, now),
        timeout_ms: view.spec.timeout_ms,
        directory: view.directory.clone(),
        files_removed_at: view.files_cleared.map(|at| at.0),
        session_id: view.session.clone(),
    }
}
