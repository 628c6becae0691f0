//! `send_task_control`: cancel, pause, resume.
//!
//! In: task, signal, reason. Out: the state that was reached.

use chargehand_actors::command::{Control, ControlSignal};
use schemars::JsonSchema;
use serde::Serialize;

use super::table::{Effect, Tool};
use crate::mcp::answer::{Refusal, output_schema, result};
use crate::mcp::args::{Arg, Args, Kind};
use crate::mcp::call::Call;
use crate::mcp::shapes::{next_call, pause_word};

const CONTROLS: [&str; 3] = [
    ControlSignal::Cancel.as_str(),
    ControlSignal::Pause.as_str(),
    ControlSignal::Resume.as_str(),
];

/// The tool.
pub(crate) const TOOL: Tool = Tool {
    name: "send_task_control",
    title: "Cancel, pause or resume a task",
    about: "Cancel (end for good, in any state before the end), pause (stop working, keep everything) or resume a task. Takes effect before it answers and says which state was reached; a signal that leads nowhere new answers already=true; one that is not possible is refused with the reason.",
    args: &[
        Arg::required("task_id", Kind::TaskId, "The task."),
        Arg::required(
            "control",
            Kind::Choice(&CONTROLS),
            "cancel cannot be undone.",
        ),
        Arg::optional(
            "reason",
            Kind::Text { min: 0, max: 2_000 },
            "Why, for the record.",
        ),
    ],
    effect: Effect::Decides,
    open_world: true,
    output: output_schema::<ControlOut>,
    run: |call, args| Box::pin(async move { result(TOOL.name, control(&call, &args).await) }),
};

#[derive(Debug, Serialize, JsonSchema)]
struct ControlOut {
    /// The task.
    task_id: String,
    /// As asked.
    control: &'static str,
    /// The state reached: queued, running, completed, failed, timeout, paused or cancelled.
    status: &'static str,
    /// The precise phase reached.
    phase: &'static str,
    /// How it is paused: frozen (goes on where it was), aborted (continues by a new prompt), held (in the queue).
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<&'static str>,
    /// The task already was there; nothing changed.
    already: bool,
    /// What to call next.
    next: &'static str,
}

fn decode(args: &Args) -> Result<Control, Refusal> {
    let signal = match args.need_text("control")? {
        "pause" => ControlSignal::Pause,
        "resume" => ControlSignal::Resume,
        // The argument list lets nothing else through.
        _ => ControlSignal::Cancel,
    };
    Ok(Control {
        task: args.task()?,
        signal,
        reason: args
            .text("reason")
            .filter(|reason| !reason.trim().is_empty())
            .map(str::to_owned),
    })
}

async fn control(call: &Call, args: &Args) -> Result<ControlOut, Refusal> {
    let control = decode(args)?;
    let (task, signal) = (control.task, control.signal);
    let outcome = call.edge.tree.control(&call.identity(), control).await?;
    Ok(ControlOut {
        task_id: task.to_string(),
        control: signal.as_str(),
        status: outcome.phase.status(),
        phase: outcome.phase.as_str(),
        pause: outcome.pause.map(pause_word),
        already: outcome.already,
        next: next_call(outcome.phase),
    })
}
