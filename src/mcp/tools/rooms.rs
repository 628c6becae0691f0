//! `add_task_observer`, `remove_task_observer`, `list_task_observers`, `archive_task_conversation`: a task's Matrix room.
//!
//! In: task, Matrix user. Out: who is in the room; what was archived.

use chargehand_actors::id::TaskId;
use chargehand_actors::ports::{Person, STEER};
use chargehand_actors::tree::{RoomAnswer, RoomQuestion};
use schemars::JsonSchema;
use serde::Serialize;

use super::table::{Effect, Tool};
use crate::mcp::answer::{Refusal, output_schema, result};
use crate::mcp::args::{Arg, Args, BadArguments, Default, Kind};
use crate::mcp::call::Call;

/// Names of the archived conversation among the task's artifacts.
pub(crate) const CONVERSATION: [&str; 2] = ["conversation.json", "conversation.txt"];

const TASK: Arg = Arg::required("task_id", Kind::TaskId, "The task.");
const OBSERVER: Arg = Arg::required(
    "observer_id",
    Kind::Text { min: 4, max: 255 },
    "Matrix user id, such as @ann:example.org.",
);

/// Adds somebody.
pub(crate) const ADD: Tool = Tool {
    name: "add_task_observer",
    title: "Add an observer to a task's room",
    about: "Invite somebody into the task's Matrix room: to watch, or with read_only=false also to steer the task from there (pause, cancel, approve, message the worker). A repeat changes nothing. Needs a Chargehand with Matrix rooms.",
    args: &[
        TASK,
        OBSERVER,
        Arg::optional(
            "observer_type",
            Kind::Choice(&["human", "agent"]),
            "What the observer is; for the record.",
        )
        .or(Default::Word("human")),
        Arg::optional("read_only", Kind::Bool, "false: may also steer the task.")
            .or(Default::Bool(true)),
    ],
    effect: Effect::Adds,
    open_world: true,
    output: output_schema::<ObserversOut>,
    run: |call, args| Box::pin(async move { result(ADD.name, add(&call, &args).await) }),
};

/// Removes somebody.
pub(crate) const REMOVE: Tool = Tool {
    name: "remove_task_observer",
    title: "Remove an observer from a task's room",
    about: "Remove somebody from the task's Matrix room and take the power to steer away. What was said before stays readable for them. A repeat changes nothing.",
    args: &[TASK, OBSERVER],
    effect: Effect::Decides,
    open_world: true,
    output: output_schema::<ObserversOut>,
    run: |call, args| Box::pin(async move { result(REMOVE.name, remove(&call, &args).await) }),
};

/// Lists who is there.
pub(crate) const LIST: Tool = Tool {
    name: "list_task_observers",
    title: "List the observers of a task",
    about: "List who is in the task's Matrix room or invited, and who of them may steer the task.",
    args: &[TASK],
    effect: Effect::Reads,
    open_world: true,
    output: output_schema::<ObserversOut>,
    run: |call, args| Box::pin(async move { result(LIST.name, list(&call, &args).await) }),
};

/// Archives the conversation.
pub(crate) const ARCHIVE: Tool = Tool {
    name: "archive_task_conversation",
    title: "Archive a task's conversation",
    about: "Write everything that was said in the Matrix room of an ended task to its artifacts, as JSON and as text; get_task_history with artifact=conversation.txt reads it, also after the room is gone. A repeat replaces the archive.",
    args: &[
        TASK,
        Arg::optional(
            "summary",
            Kind::Text { min: 0, max: 8_000 },
            "Said in the room, and put in front of the archive.",
        ),
    ],
    effect: Effect::Decides,
    open_world: true,
    output: output_schema::<ArchiveOut>,
    run: |call, args| Box::pin(async move { result(ARCHIVE.name, archive(&call, &args).await) }),
};

#[derive(Debug, Serialize, JsonSchema)]
struct ObserversOut {
    /// The task.
    task_id: String,
    /// The room's id.
    channel_id: String,
    /// Who is in the room or invited.
    observers: Vec<ObserverOut>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ObserverOut {
    /// Matrix user id.
    observer_id: String,
    /// joined, or invited.
    membership: &'static str,
    /// May not steer the task.
    read_only: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ArchiveOut {
    /// The task.
    task_id: String,
    /// The room's id.
    channel_id: String,
    /// Messages in the archive, edits and reactions included.
    message_count: u64,
    /// Who said something.
    participants: Vec<String>,
    /// Artifacts of the task that hold it.
    artifacts: [&'static str; 2],
    /// What to call next.
    next: &'static str,
}

fn observer(args: &Args) -> Result<String, Refusal> {
    let id = args.need_text("observer_id")?.trim();
    let sound = id
        .strip_prefix('@')
        .and_then(|rest| rest.split_once(':'))
        .is_some_and(|(user, server)| {
            !user.is_empty() && !server.is_empty() && !id.contains(char::is_whitespace)
        });
    if sound {
        return Ok(id.to_owned());
    }
    Err(BadArguments::one(
        "observer_id",
        "is no Matrix user id".to_owned(),
        "an id such as @ann:example.org",
    )
    .into())
}

async fn ask(call: &Call, task: TaskId, question: RoomQuestion) -> Result<RoomAnswer, Refusal> {
    let answer = call.edge.tree.room(&call.identity(), task, question).await;
    Ok(answer?)
}

async fn add(call: &Call, args: &Args) -> Result<ObserversOut, Refusal> {
    let (task, user) = (args.task()?, observer(args)?);
    let steer = args.flag("read_only") == Some(false);
    let answer = ask(call, task, RoomQuestion::Add { user, steer }).await?;
    Ok(observers(task, answer))
}

async fn remove(call: &Call, args: &Args) -> Result<ObserversOut, Refusal> {
    let (task, user) = (args.task()?, observer(args)?);
    let answer = ask(call, task, RoomQuestion::Remove { user }).await?;
    Ok(observers(task, answer))
}

async fn list(call: &Call, args: &Args) -> Result<ObserversOut, Refusal> {
    let task = args.task()?;
    let answer = ask(call, task, RoomQuestion::People).await?;
    Ok(observers(task, answer))
}

async fn archive(call: &Call, args: &Args) -> Result<ArchiveOut, Refusal> {
    let task = args.task()?;
    let summary = args.text("summary").filter(|text| !text.trim().is_empty());
    let summary = summary.map(str::to_owned);
    let answer = ask(call, task, RoomQuestion::Archive { summary }).await?;
    Ok(ArchiveOut {
        task_id: task.to_string(),
        channel_id: answer.room,
        message_count: answer.messages,
        participants: answer.people.into_iter().map(|person| person.id).collect(),
        artifacts: CONVERSATION,
        next: "Call get_task_history with artifact=conversation.txt to read it.",
    })
}

fn observers(task: TaskId, answer: RoomAnswer) -> ObserversOut {
    let out = |person: Person| ObserverOut {
        membership: if person.joined { "joined" } else { "invited" },
        read_only: person.power.is_some_and(|power| power < STEER),
        observer_id: person.id,
    };
    ObserversOut {
        task_id: task.to_string(),
        channel_id: answer.room,
        observers: answer.people.into_iter().map(out).collect(),
    }
}
