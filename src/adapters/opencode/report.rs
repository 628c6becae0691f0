//! What the engine's own records say about a session, in one struct. Pure.
//!
//! In: one reading of OpenCode's REST routes ([`Records`]). Out: the [`SessionReport`] that the machine decides on.
//! Nothing here decides; what is told apart is what a decision needs to be told apart.

use chargehand_actors::event::{Question, Request, RequestKind, Todo, ToolRun, Usage};
use chargehand_actors::id::{RequestId, WallTime, WorkerId};
use chargehand_actors::ports::{Activity, LastMessage, PromptState, SessionReport};
use serde_json::Value;

use super::wire::{
    CalledFrom, Message, Part, Permission, Questions, Status, Tokens, ToolState, WireTodo,
};

/// Longest text of the last answer that a report carries, in bytes.
pub(super) const TEXT_LIMIT: usize = 50 * 1024;

/// How OpenCode words a tool call that a person refused without giving a reason (that ends the run).
const REFUSALS: [&str; 3] = [
    "rejected permission",
    "dismissed this question",
    "rejected by the user",
];
/// How it words a refusal with a reason: the model reads it, and the run goes on.
const REASONED: &str = "with the following feedback";
/// The tool that runs a sub-agent in a child session.
pub(super) const SUB_AGENT: &str = "task";

/// One reading of the records, already narrowed to one session and its child sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    /// Status of the session; none = idle.
    pub(super) status: Option<Status>,
    /// All messages, oldest first.
    pub(super) messages: Vec<Message>,
    /// Open permissions of the session and its children.
    pub(super) permissions: Vec<Permission>,
    /// Open questions of the session and its children.
    pub(super) questions: Vec<Questions>,
    /// To-do list.
    pub(super) todos: Vec<WireTodo>,
    /// Child sessions of the sub-agents that run now.
    pub(super) children: Vec<Child>,
}

/// A child session that works.
#[derive(Clone, Debug, Default)]
pub(super) struct Child {
    /// Its status; none = idle.
    pub(super) status: Option<Status>,
    /// Its newest messages, oldest first.
    pub(super) messages: Vec<Message>,
}

/// Folds a reading into a report about the prompts with these message ids.
pub(super) fn report(records: &Records, worker: WorkerId, prompts: &[String]) -> SessionReport {
    let activity = whole_activity(records);
    let messages = &records.messages;
    let (text, text_cut) = last_text(messages);
    let children = records.children.iter();
    SessionReport {
        worker,
        prompts: prompts
            .iter()
            .map(|id| prompt_state(messages, id))
            .collect(),
        last: last_message(messages),
        requests: requests(records, &activity),
        usage: total_usage(messages),
        steps: count(assistants(messages).count()),
        unfinished_in_a_row: unfinished_in_a_row(messages),
        text,
        text_cut,
        running_tools: all_running_tools(records, &activity),
        newest_at: children
            .filter_map(|child| newest_work(&child.messages))
            .chain(newest_work(messages))
            .max(),
        todos: records.todos.iter().map(todo).collect(),
        activity,
    }
}

/// What a status entry means; an absent one is idle.
pub(super) fn activity(status: Option<&Status>) -> Activity {
    match status {
        None => Activity::Idle,
        Some(status) if status.kind == "idle" => Activity::Idle,
        Some(status) if status.kind == "retry" => Activity::Retrying {
            attempt: status.attempt,
            message: status.message.clone(),
            next: status.next.map(WallTime),
        },
        // A word of a later version: the session is listed, so something goes on.
        Some(_) => Activity::Busy,
    }
}

/// A session whose sub-agent waits for the provider waits for it, too.
fn whole_activity(records: &Records) -> Activity {
    let own = activity(records.status.as_ref());
    if own != Activity::Busy {
        return own;
    }
    let children = records.children.iter();
    children
        .map(|child| activity(child.status.as_ref()))
        .find(|one| matches!(one, Activity::Retrying { .. }))
        .unwrap_or(own)
}

/// An aborted run leaves its requests in OpenCode's lists: they are open only while their session works and the message
/// that asked has not ended.
fn requests(records: &Records, activity: &Activity) -> Vec<Request> {
    if *activity == Activity::Idle {
        return Vec::new();
    }
    let open = |from: &Option<CalledFrom>| {
        !from.as_ref().is_some_and(|from| {
            records
                .messages
                .iter()
                .any(|message| message.info.id == from.message_id && message.info.is_ended())
        })
    };
    let permissions = records.permissions.iter().filter(|asked| open(&asked.tool));
    let questions = records.questions.iter().filter(|asked| open(&asked.tool));
    permissions
        .map(permission_request)
        .chain(questions.map(question_request))
        .collect()
}

fn assistants(messages: &[Message]) -> impl DoubleEndedIterator<Item = &Message> {
    messages
        .iter()
        .filter(|message| message.info.is_assistant())
}

fn prompt_state(messages: &[Message], id: &str) -> PromptState {
    let at = messages.iter().position(|message| message.info.id == id);
    let after = at.map_or(&[][..], |at| messages.get(at + 1..).unwrap_or_default());
    PromptState {
        message_id: id.to_owned(),
        stored: at.is_some(),
        complete: at
            .and_then(|at| messages.get(at))
            .is_some_and(|message| !message.parts.is_empty()),
        taken_up: assistants(after).next().is_some(),
        newest: at.is_some() && after.iter().all(|message| message.info.role != "user"),
    }
}

fn last_message(messages: &[Message]) -> LastMessage {
    let Some(last) = messages.last() else {
        return LastMessage::None;
    };
    if !last.info.is_assistant() {
        return LastMessage::User;
    }
    LastMessage::Assistant {
        completed: last.info.time.completed.is_some(),
        finish: last.info.finish.clone(),
        error: last
            .info
            .error
            .as_ref()
            .map(|error| (error.name.clone(), error.message())),
        rejected: last
            .parts
            .iter()
            .any(|part| part.kind == "tool" && is_refusal(part)),
    }
}

/// A refusal in a child session ends the sub-agent; the session itself goes on with its error.
fn is_refusal(part: &Part) -> bool {
    let state: &ToolState = &part.state;
    let refused = |error: &str| {
        !error.contains(REASONED) && REFUSALS.iter().any(|words| error.contains(words))
    };
    part.tool != SUB_AGENT && state.status == "error" && state.error.as_deref().is_some_and(refused)
}

fn unfinished_in_a_row(messages: &[Message]) -> u32 {
    let run = assistants(messages)
        .rev()
        .skip_while(|message| !message.info.is_ended())
        .take_while(|message| {
            message.info.error.is_none()
                && matches!(
                    message.info.finish.as_deref(),
                    None | Some("unknown" | "other")
                )
        })
        .count();
    count(run)
}

fn total_usage(messages: &[Message]) -> Usage {
    assistants(messages).fold(Usage::default(), |sum, message| {
        let one = usage(&message.info.tokens, message.info.cost);
        Usage {
            input: sum.input + one.input,
            output: sum.output + one.output,
            reasoning: sum.reasoning + one.reasoning,
            cache_read: sum.cache_read + one.cache_read,
            cache_write: sum.cache_write + one.cache_write,
            cost: sum.cost + one.cost,
        }
    })
}

/// Token counts of one message or step.
pub(super) fn usage(tokens: &Tokens, cost: f64) -> Usage {
    Usage {
        input: whole(tokens.input),
        output: whole(tokens.output),
        reasoning: whole(tokens.reasoning),
        cache_read: whole(tokens.cache.read),
        cache_write: whole(tokens.cache.write),
        cost: if cost.is_finite() { cost } else { 0.0 },
    }
}

/// JSON numbers may be fractions or negative; token counts are not. The cast saturates.
fn whole(number: f64) -> u64 {
    number.max(0.0) as u64
}

fn last_text(messages: &[Message]) -> (String, bool) {
    let Some(last) = assistants(messages).next_back() else {
        return (String::new(), false);
    };
    let pieces: Vec<&str> = last
        .parts
        .iter()
        .filter(|part| part.kind == "text" && !part.synthetic && !part.ignored)
        .map(|part| part.text.as_str())
        .filter(|text| !text.is_empty())
        .collect();
    cut(pieces.join("\n\n"), TEXT_LIMIT)
}

/// At most `limit` bytes of `text`, on a character boundary, and whether something was cut.
pub(super) fn cut(mut text: String, limit: usize) -> (String, bool) {
    if text.len() <= limit {
        return (text, false);
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    (text, true)
}

/// A tool part without its end in a session that does nothing was cut off by the death of its worker: it runs no more.
fn running_tools(messages: &[Message], activity: &Activity) -> Vec<ToolRun> {
    if *activity == Activity::Idle {
        return Vec::new();
    }
    assistants(messages)
        .next_back()
        .filter(|message| !message.info.is_ended())
        .map(|message| {
            message
                .parts
                .iter()
                .filter(|part| part.kind == "tool" && part.state.status == "running")
                .map(tool_run)
                .collect()
        })
        .unwrap_or_default()
}

/// The tools that run, those of sub-agents in place of the sub-agents: one whose model says nothing is silent as well.
fn all_running_tools(records: &Records, activity: &Activity) -> Vec<ToolRun> {
    let own = running_tools(&records.messages, activity);
    let watched = !records.children.is_empty();
    own.into_iter()
        .filter(|tool| !watched || tool.tool != SUB_AGENT)
        .chain(records.children.iter().flat_map(|child| {
            running_tools(&child.messages, &self::activity(child.status.as_ref()))
        }))
        .collect()
}

/// When the newest piece of work was done. What an abort closed was no work at that time.
fn newest_work(messages: &[Message]) -> Option<WallTime> {
    assistants(messages)
        .filter(|message| message.info.error.is_none())
        .flat_map(|message| {
            let parts = message.parts.iter().flat_map(|part| {
                let (own, tool) = (&part.time, &part.state.time);
                [own.start, own.end, tool.start, tool.end]
            });
            parts.chain([message.info.time.completed])
        })
        .flatten()
        .max()
        .map(WallTime)
}

/// A tool call for people: its title, or what it was called with.
pub(super) fn tool_run(part: &Part) -> ToolRun {
    let state = &part.state;
    let ms = match (state.time.start, state.time.end) {
        (Some(start), Some(end)) => u64::try_from(end.saturating_sub(start)).unwrap_or(0),
        _ => 0,
    };
    let title = state
        .title
        .clone()
        .filter(|title| !title.is_empty())
        .or_else(|| called_with(&state.input))
        .unwrap_or_default();
    ToolRun {
        tool: part.tool.clone(),
        title: cut(title, 400).0,
        failed: state.status == "error",
        ms,
    }
}

fn called_with(input: &Value) -> Option<String> {
    [
        "description",
        "command",
        "filePath",
        "pattern",
        "url",
        "path",
    ]
    .iter()
    .find_map(|key| input.get(key).and_then(Value::as_str))
    .map(str::to_owned)
}

/// A permission as a request.
pub(super) fn permission_request(permission: &Permission) -> Request {
    let subject = ["command", "filepath", "path", "url"]
        .iter()
        .find_map(|key| permission.metadata.get(key).and_then(Value::as_str))
        .map_or_else(|| permission.patterns.join(", "), str::to_owned);
    Request {
        id: RequestId(permission.id.clone()),
        session: permission.session_id.clone(),
        text: cut(format!("{}: {subject}", permission.permission), 2000).0,
        kind: RequestKind::Permission {
            permission: permission.permission.clone(),
            patterns: permission.patterns.clone(),
            always: permission.always.clone(),
        },
    }
}

/// A set of questions as a request.
pub(super) fn question_request(asked: &Questions) -> Request {
    let questions: Vec<Question> = asked
        .questions
        .iter()
        .map(|question| Question {
            text: question.question.clone(),
            header: question.header.clone(),
            options: question
                .options
                .iter()
                .map(|option| option.label.clone())
                .collect(),
        })
        .collect();
    let text: Vec<&str> = questions.iter().map(|q| q.text.as_str()).collect();
    Request {
        id: RequestId(asked.id.clone()),
        session: asked.session_id.clone(),
        text: cut(text.join(" / "), 2000).0,
        kind: RequestKind::Question { questions },
    }
}

/// A line of the to-do list.
pub(super) fn todo(wire: &WireTodo) -> Todo {
    Todo {
        content: wire.content.clone(),
        status: wire.status.clone(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
