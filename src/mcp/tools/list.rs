//! `list_tasks`: find tasks again.
//!
//! In: filters and a cursor. Out: a page of tasks, newest first.

use chargehand_actors::command::ListQuery;
use chargehand_actors::error::TreeError;
use chargehand_actors::event::Phase;
use chargehand_actors::id::WallTime;
use chargehand_actors::view::TaskView;
use schemars::JsonSchema;
use serde::Serialize;

use super::table::{Effect, Tool};
use crate::mcp::answer::{Refusal, output_schema, result};
use crate::mcp::args::{Arg, Args, BadArguments, Default, Kind};
use crate::mcp::call::Call;
use crate::mcp::requests::RequestOut;
use crate::words::cut;

/// The tool.
pub(crate) const TOOL: Tool = Tool {
    name: "list_tasks",
    title: "List tasks",
    about: "List the tasks that you can see, newest first, filtered by state, agent, label and time. Call get_task_status with a task_id for the details.",
    args: &[
        Arg::optional(
            "state",
            Kind::Texts {
                max_items: 10,
                max_chars: 20,
            },
            "Only these states: queued, running, completed, failed, timeout, paused, cancelled, or the precise phases starting, input_required, finishing.",
        ),
        Arg::optional(
            "agent_id",
            Kind::Text { min: 1, max: 200 },
            "Only tasks of this agent.",
        ),
        Arg::optional(
            "label",
            Kind::Text { min: 1, max: 64 },
            "Only tasks with this label.",
        ),
        Arg::optional(
            "created_after",
            Kind::Moment,
            "Only tasks created at or after this time (ISO 8601, or milliseconds since 1970).",
        ),
        Arg::optional(
            "created_before",
            Kind::Moment,
            "Only tasks created before this time (ISO 8601, or milliseconds since 1970).",
        ),
        Arg::optional(
            "limit",
            Kind::Integer { min: 1, max: 200 },
            "At most this many tasks.",
        )
        .or(Default::Int(20)),
        Arg::optional(
            "cursor",
            Kind::Text { min: 1, max: 200 },
            "next_cursor of the page before.",
        ),
    ],
    effect: Effect::Reads,
    open_world: false,
    output: output_schema::<ListOut>,
    run: |call, args| Box::pin(async move { result(TOOL.name, list(&call, &args).await) }),
};

#[derive(Debug, Serialize, JsonSchema)]
struct ListOut {
    /// The page, newest first.
    tasks: Vec<TaskOut>,
    /// How many are in this page.
    count: usize,
    /// Give this as cursor for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A task in a list.
#[derive(Debug, Serialize, JsonSchema)]
struct TaskOut {
    /// Its id.
    task_id: String,
    /// queued, running, completed, failed, timeout, paused or cancelled.
    status: &'static str,
    /// The precise phase.
    phase: &'static str,
    /// What it is doing, in one sentence.
    doing: String,
    /// The start of its description.
    description: String,
    /// Owner.
    agent_id: String,
    /// Engine.
    engine: String,
    /// Labels.
    labels: Vec<String>,
    /// Open permissions and questions of the worker; answer them with answer_task_request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    requests: Vec<RequestOut>,
    /// Attempts so far.
    attempt: u32,
    /// Milliseconds since 1970.
    created_at: i64,
    /// Got its slot, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<i64>,
    /// Ended, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<i64>,
}

impl From<&TaskView> for TaskOut {
    fn from(view: &TaskView) -> Self {
        Self {
            task_id: view.id.to_string(),
            status: view.phase.status(),
            phase: view.phase.as_str(),
            doing: format!("It {}.", view.doing),
            description: cut(&view.spec.description, 200),
            agent_id: view.caller.agent_id.clone(),
            engine: view.spec.engine.to_string(),
            labels: view.spec.labels.clone(),
            requests: view.requests.iter().map(RequestOut::from).collect(),
            attempt: view.attempt,
            created_at: view.created_at.0,
            started_at: view.started_at.map(|at| at.0),
            completed_at: view.ended_at.map(|at| at.0),
        }
    }
}

fn decode(args: &Args) -> Result<ListQuery, BadArguments> {
    let states: Vec<String> = args
        .texts("state")
        .into_iter()
        .map(|state| state.trim().to_ascii_lowercase())
        .collect();
    let known = Phase::ALL.map(Phase::as_str);
    if let Some(unknown) = states.iter().find(|s| !known.contains(&s.as_str())) {
        return Err(BadArguments::one(
            "state",
            format!("contains \"{}\"", cut(unknown, 20)),
            format!("any of {}", known.join(", ")),
        ));
    }
    Ok(ListQuery {
        states,
        agent_id: args.text("agent_id").map(|id| id.trim().to_owned()),
        label: args.text("label").map(str::to_owned),
        created_after: args.integer("created_after").map(WallTime),
        created_before: args.integer("created_before").map(WallTime),
        limit: args
            .count("limit")
            .and_then(|limit| u32::try_from(limit).ok())
            .unwrap_or(20),
        cursor: args.text("cursor").map(str::to_owned),
    })
}

async fn list(call: &Call, args: &Args) -> Result<ListOut, Refusal> {
    let listed = call.edge.tree.list(&call.identity(), decode(args)?).await;
    let page = listed.map_err(|error| match error {
        // A list reads no file: this is a cursor that the tree did not make.
        TreeError::File(_) => Refusal::from(BadArguments::one(
            "cursor",
            "is not one of ours",
            "next_cursor of the page before, unchanged; leave it out for the first page",
        )),
        other => other.into(),
    })?;
    Ok(ListOut {
        count: page.tasks.len(),
        tasks: page.tasks.iter().map(TaskOut::from).collect(),
        next_cursor: page.next_cursor,
    })
}
