//! The commands that steer a task: cancel, pause, resume, message.
//!
//! In: their arguments. Out: the server's answer in one line, or as JSON.

use serde_json::{Value, json};

use super::args::{ControlArgs, MessageArgs};
use super::client::Client;
use super::error::{CliError, Exit};
use super::terminal::{clean, paint, phase_style, print, print_json};

/// `cancel`, `pause`, `resume`: `signal` is the word of the tool.
pub(crate) async fn control(
    client: &Client,
    signal: &str,
    args: &ControlArgs,
    json: bool,
) -> Result<Exit, CliError> {
    let task = client.task_id(&args.task.id).await?;
    let mut arguments = json!({ "task_id": task, "control": signal });
    if let Some(reason) = &args.reason {
        arguments["reason"] = json!(reason);
    }
    let answer = client.call("send_task_control", arguments).await?;
    if json {
        print_json(&answer)?;
        return Ok(Exit::Ok);
    }
    let phase = word(&answer, "phase").or_else(|| word(&answer, "status"));
    let phase = phase.unwrap_or(signal);
    let note = word(&answer, "message").map_or_else(String::new, |m| format!(": {}", clean(m)));
    print(&format!(
        "{task} is {}{note}",
        paint(phase_style(phase), clean(phase))
    ))?;
    Ok(Exit::Ok)
}

/// `message`.
pub(crate) async fn message(
    client: &Client,
    args: &MessageArgs,
    json: bool,
) -> Result<Exit, CliError> {
    let task = client.task_id(&args.task.id).await?;
    let arguments = json!({
        "task_id": task, "message": args.text, "message_type": args.message_type,
    });
    let answer = client.call("send_task_message", arguments).await?;
    if json {
        print_json(&answer)?;
        return Ok(Exit::Ok);
    }
    let id = word(&answer, "message_id").unwrap_or("the message");
    let what = match word(&answer, "delivery") {
        Some("kept") => "is kept until the worker goes on",
        _ => "is on its way to the worker; `chargehand show` says when it is taken up",
    };
    print(&format!("{} {what}", clean(id)))?;
    Ok(Exit::Ok)
}

fn word<'a>(answer: &'a Value, key: &str) -> Option<&'a str> {
    answer[key].as_str().filter(|text| !text.is_empty())
}
