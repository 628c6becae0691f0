//! `send_task_message`: tell the worker something while it works.
//!
//! In: task, text, one of nine types, metadata. Out: the message's id and whether it is on its way or kept.

use chargehand_actors::command::{MessageType, SendMessage};
use chargehand_actors::view::Delivery;
use schemars::JsonSchema;
use serde::Serialize;

use super::table::{Effect, Tool};
use crate::mcp::answer::{Refusal, output_schema, result};
use crate::mcp::args::{Arg, Args, Default, Kind};
use crate::mcp::call::Call;

const TYPES: [&str; 9] = [
    MessageType::Update.as_str(),
    MessageType::Feedback.as_str(),
    MessageType::ContextChange.as_str(),
    MessageType::RequirementChange.as_str(),
    MessageType::PriorityChange.as_str(),
    MessageType::Clarification.as_str(),
    MessageType::Correction.as_str(),
    MessageType::Guidance.as_str(),
    MessageType::Approval.as_str(),
];

/// The tool.
pub(crate) const TOOL: Tool = Tool {
    name: "send_task_message",
    title: "Send a message to the worker",
    about: "Tell the worker of a running task something: a correction, a changed requirement, an answer. It reaches the worker's session at its next step; while the task waits to start or is paused it is kept and sent later. Refused with the reason when the task has ended or its result is being read. To stop, pause or resume a task call send_task_control instead.",
    args: &[
        Arg::required("task_id", Kind::TaskId, "The task."),
        Arg::required(
            "message",
            Kind::Text {
                min: 1,
                max: 20_000,
            },
            "What to tell the worker, complete in itself.",
        ),
        Arg::optional(
            "message_type",
            Kind::Choice(&TYPES),
            "What kind of message it is; the worker is told.",
        )
        .or(Default::Word("update")),
        Arg::optional(
            "metadata",
            Kind::Object { max_bytes: 10_000 },
            "Kept with the event for readers of the history; not shown to the worker.",
        ),
    ],
    effect: Effect::Adds,
    open_world: true,
    output: output_schema::<MessageOut>,
    run: |call, args| Box::pin(async move { result(TOOL.name, send(&call, &args).await) }),
};

#[derive(Debug, Serialize, JsonSchema)]
struct MessageOut {
    /// The task.
    task_id: String,
    /// Id of the message; the event message_taken_up names it.
    message_id: String,
    /// When it was accepted, milliseconds since 1970.
    timestamp: i64,
    /// sent: on its way to the worker's session. kept: goes there when the task starts or is resumed.
    delivery: &'static str,
    /// What that means and what to call next.
    next: &'static str,
}

fn decode(args: &Args) -> Result<SendMessage, Refusal> {
    let word = args.text("message_type").unwrap_or("update");
    Ok(SendMessage {
        task: args.task()?,
        message_type: MessageType::ALL
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .unwrap_or_default(),
        text: args.need_text("message")?.to_owned(),
        metadata: args.object("metadata"),
    })
}

async fn send(call: &Call, args: &Args) -> Result<MessageOut, Refusal> {
    let message = decode(args)?;
    let task = message.task;
    let receipt = call.edge.tree.message(&call.identity(), message).await?;
    let (delivery, next) = match receipt.delivery {
        Delivery::Sent => (
            "sent",
            "On its way to the worker. Call get_task_status: the event message_taken_up with this message_id says when the worker reads it.",
        ),
        Delivery::Kept => (
            "kept",
            "Kept; it goes to the worker when the task starts or is resumed (send_task_control with control=resume when it is paused).",
        ),
    };
    Ok(MessageOut {
        task_id: task.to_string(),
        message_id: receipt.message_id,
        timestamp: receipt.at.0,
        delivery,
        next,
    })
}
