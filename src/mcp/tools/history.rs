//! `get_task_history`: the events of a task page by page, and what it left behind.
//!
//! In: task, page, which artifacts. Out: events from the journal, for as long as it keeps the task; texts by offset.

use chargehand_actors::command::{HistoryQuery, TextKind, TextQuery};
use chargehand_actors::error::TreeError;
use chargehand_actors::id::TaskId;
use chargehand_actors::ports::TextChunk;
use chargehand_actors::view::{HistoryPage, TaskView};
use schemars::JsonSchema;
use serde::Serialize;

use super::rooms::CONVERSATION;
use super::table::{Effect, Tool};
use crate::mcp::answer::{Refusal, output_schema, result};
use crate::mcp::args::{Arg, Args, Default, Kind};
use crate::mcp::call::Call;
use crate::mcp::shapes::{ChangesOut, EventOut, next_call};

/// The worker's last answer, or why there is none.
const OUTPUT: &str = "execution_output";
const ERROR: &str = "execution_error";
/// What changed, as JSON.
const RESULT: &str = "execution_result";
/// The unified diff.
const DIFF: &str = "changes.diff";
/// Everything the worker said and did, as it came.
const LOG: &str = "worker_output";
const ARTIFACTS: [&str; 7] = [
    OUTPUT,
    ERROR,
    RESULT,
    DIFF,
    LOG,
    CONVERSATION[0],
    CONVERSATION[1],
];

/// The tool.
pub(crate) const TOOL: Tool = Tool {
    name: "get_task_history",
    title: "History of a task",
    about: "All events of a task, oldest first, page by page; also of tasks that ended long ago. With include_artifacts=true also the worker's full answer (execution_output or execution_error), what changed (execution_result), the unified diff (changes.diff) and the worker's output as it came (worker_output). A long artifact has next_offset: call again with artifact=its name and artifact_offset=next_offset.",
    args: &[
        Arg::required("task_id", Kind::TaskId, "The task."),
        Arg::optional(
            "include_artifacts",
            Kind::Bool,
            "Also return the artifacts.",
        )
        .or(Default::Bool(false)),
        Arg::optional(
            "events_limit",
            Kind::Integer {
                min: -1,
                max: 10_000,
            },
            "How many events; -1 for all (at most 10000).",
        )
        .or(Default::Int(100)),
        Arg::optional(
            "events_offset",
            Kind::Integer {
                min: 0,
                max: i64::MAX,
            },
            "Skip this many events.",
        )
        .or(Default::Int(0)),
        Arg::optional(
            "artifact",
            Kind::Choice(&ARTIFACTS),
            "Only this artifact; implies include_artifacts.",
        ),
        Arg::optional(
            "artifact_offset",
            Kind::Integer {
                min: 0,
                max: i64::MAX,
            },
            "First byte of each artifact.",
        )
        .or(Default::Int(0)),
        Arg::optional(
            "artifact_limit",
            Kind::Integer {
                min: 1,
                max: 200_000,
            },
            "At most this many bytes of each artifact.",
        )
        .or(Default::Int(10_000)),
    ],
    effect: Effect::Reads,
    open_world: false,
    output: output_schema::<HistoryOut>,
    run: |call, args| Box::pin(async move { result(TOOL.name, history(&call, &args).await) }),
};

#[derive(Debug, Serialize, JsonSchema)]
struct HistoryOut {
    /// The task.
    task_id: String,
    /// queued, running, completed, failed, timeout, paused or cancelled.
    status: &'static str,
    /// The precise phase.
    phase: &'static str,
    /// Milliseconds since 1970.
    created_at: i64,
    /// Ended, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<i64>,
    /// The page, oldest first.
    events: Vec<EventOut>,
    /// Number of all events.
    events_total: u64,
    /// Number of events in this page.
    events_returned: usize,
    /// Skipped before this page.
    events_offset: u64,
    /// There are more: call again with events_offset = events_offset + events_returned.
    has_more_events: bool,
    /// What the task left behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    artifacts: Option<Vec<ArtifactOut>>,
    /// What to call next.
    next: &'static str,
}

/// A piece of what a task left behind.
#[derive(Debug, Serialize, JsonSchema)]
struct ArtifactOut {
    /// Milliseconds since 1970: the end of the task, or its newest phase.
    timestamp: i64,
    /// output, error, file or log.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Its name.
    name: &'static str,
    /// The text from offset on.
    content: String,
    /// First byte of content within the whole.
    offset: u64,
    /// Size of the whole in bytes.
    total: u64,
    /// Where to read on; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<u64>,
}

/// Which part of which artifacts.
struct Wanted<'a> {
    only: Option<&'a str>,
    offset: u64,
    limit: u64,
}

impl Wanted<'_> {
    fn includes(&self, name: &str) -> bool {
        self.only.is_none_or(|only| only == name)
    }
}

async fn history(call: &Call, args: &Args) -> Result<HistoryOut, Refusal> {
    let offset = args.count("events_offset").unwrap_or(0);
    let limit = match args.integer("events_limit").unwrap_or(100) {
        all if all < 0 => None,
        some => u64::try_from(some).ok(),
    };
    let query = HistoryQuery {
        task: args.task()?,
        offset,
        limit,
    };
    let page = call.edge.tree.history(&call.identity(), query).await?;
    let only = args.text("artifact");
    let artifacts = if only.is_some() || args.flag("include_artifacts") == Some(true) {
        let wanted = Wanted {
            only,
            offset: args.count("artifact_offset").unwrap_or(0),
            limit: args.count("artifact_limit").unwrap_or(10_000),
        };
        Some(artifacts(call, &page.view, &wanted).await?)
    } else {
        None
    };
    Ok(shape(&page, artifacts))
}

fn shape(page: &HistoryPage, artifacts: Option<Vec<ArtifactOut>>) -> HistoryOut {
    let view = &page.view;
    let returned = page.events.len();
    HistoryOut {
        task_id: view.id.to_string(),
        status: view.phase.status(),
        phase: view.phase.as_str(),
        created_at: view.created_at.0,
        completed_at: view.ended_at.map(|at| at.0),
        events: page.events.iter().map(EventOut::from).collect(),
        events_total: page.total,
        events_returned: returned,
        events_offset: page.offset,
        has_more_events: page.offset.saturating_add(returned as u64) < page.total,
        artifacts,
        next: if view.phase.is_final() {
            "The task has ended; its history is complete."
        } else {
            next_call(view.phase)
        },
    }
}

async fn artifacts(
    call: &Call,
    view: &TaskView,
    wanted: &Wanted<'_>,
) -> Result<Vec<ArtifactOut>, Refusal> {
    let at = view.ended_at.unwrap_or(view.phase_since).0;
    let mut list = Vec::new();
    for (kind, name, text) in kept(view)? {
        if wanted.includes(name) {
            list.push(artifact(at, kind, name, piece(&text, wanted)));
        }
    }
    for (kind, name, text) in [
        ("file", DIFF, TextKind::Patch),
        ("log", LOG, TextKind::Output),
    ] {
        if wanted.includes(name)
            && let Some(chunk) = stored(call, view.id, text, wanted).await?
        {
            list.push(artifact(at, kind, name, chunk));
        }
    }
    // An engine that keeps the files itself has no patch file; the diff of the result is what there is.
    let diff = view.result.as_ref().map(|result| &result.changes.diff);
    if wanted.includes(DIFF)
        && let Some(diff) = diff.filter(|diff| !diff.is_empty())
        && !list.iter().any(|one| one.name == DIFF)
    {
        list.push(artifact(at, "file", DIFF, piece(diff, wanted)));
    }
    for (kind, name, text) in conversation(call, view.id).await? {
        if wanted.includes(name) {
            list.push(artifact(at, kind, name, piece(&text, wanted)));
        }
    }
    Ok(list)
}

/// What was said in the task's room, when it was archived.
async fn conversation(
    call: &Call,
    task: TaskId,
) -> Result<Vec<(&'static str, &'static str, String)>, Refusal> {
    let archived = call.edge.tree.conversation(&call.identity(), task).await?;
    let [json_name, text_name] = CONVERSATION;
    Ok(archived.map_or_else(Vec::new, |(json, text)| {
        vec![("log", json_name, json), ("log", text_name, text)]
    }))
}

/// The texts that are part of the task's row.
fn kept(view: &TaskView) -> Result<Vec<(&'static str, &'static str, String)>, Refusal> {
    let mut texts = Vec::new();
    if let Some(result) = &view.result {
        texts.push(("output", OUTPUT, result.text.clone()));
    }
    if let Some(failure) = &view.failure {
        texts.push(("error", ERROR, failure.message.clone()));
    }
    if let Some(changes) = ChangesOut::of(view) {
        let text = serde_json::to_string(&changes)
            .map_err(|error| TreeError::Internal(error.to_string()))?;
        texts.push(("output", RESULT, text));
    }
    Ok(texts)
}

/// A text kept on disk; none when there is none.
async fn stored(
    call: &Call,
    task: TaskId,
    text: TextKind,
    wanted: &Wanted<'_>,
) -> Result<Option<TextChunk>, Refusal> {
    let query = TextQuery {
        task,
        text,
        offset: wanted.offset,
        limit: wanted.limit,
    };
    match call.edge.tree.text(&call.identity(), query).await {
        Ok(chunk) if chunk.total == 0 => Ok(None),
        Ok(chunk) => Ok(Some(chunk)),
        // What was removed after its time is told by its event.
        Err(TreeError::File(_) | TreeError::FilesCleared { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn artifact(at: i64, kind: &'static str, name: &'static str, chunk: TextChunk) -> ArtifactOut {
    ArtifactOut {
        timestamp: at,
        kind,
        name,
        content: chunk.text,
        offset: chunk.offset,
        total: chunk.total,
        next_offset: (chunk.next_offset < chunk.total).then_some(chunk.next_offset),
    }
}

/// A piece of a text by bytes, cut at character boundaries; never empty before the end.
fn piece(text: &str, wanted: &Wanted<'_>) -> TextChunk {
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(text.len());
    let start = text.floor_char_boundary(size(wanted.offset));
    let mut end = text.floor_char_boundary(size(wanted.offset.saturating_add(wanted.limit)));
    if end <= start {
        end = text.ceil_char_boundary(start.saturating_add(1).min(text.len()));
    }
    TextChunk {
        offset: start as u64,
        text: text.get(start..end).unwrap_or_default().to_owned(),
        next_offset: end as u64,
        total: text.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted, piece};

    #[test]
    fn pieces_join_to_the_whole() {
        let text = "aä€😀b";
        for limit in 1..=12 {
            let (mut offset, mut joined, mut rounds) = (0, String::new(), 0);
            loop {
                let chunk = piece(
                    text,
                    &Wanted {
                        only: None,
                        offset,
                        limit,
                    },
                );
                joined.push_str(&chunk.text);
                rounds += 1;
                assert!(rounds < 20, "limit {limit} does not advance");
                if chunk.next_offset >= chunk.total {
                    break;
                }
                offset = chunk.next_offset;
            }
            assert_eq!(joined, text, "limit {limit}");
        }
    }

    #[test]
    fn an_offset_beyond_the_end_is_empty() {
        let chunk = piece(
            "abc",
            &Wanted {
                only: None,
                offset: 9,
                limit: 5,
            },
        );
        assert_eq!((chunk.text.as_str(), chunk.next_offset), ("", 3));
    }
}
