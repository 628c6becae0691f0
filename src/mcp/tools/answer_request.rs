//! `answer_task_request`: answer a permission or question of the worker.
//!
//! In: task, request, answer. Out: what was answered and how the task stands; or what would fit the request.

use chargehand_actors::command::{Answer, AnswerRequest, StatusQuery, WaitFor};
use chargehand_actors::error::TreeError;
use chargehand_actors::event::RequestKind;
use chargehand_actors::id::{RequestId, TaskId};
use chargehand_actors::view::OpenRequest;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::table::{Effect, Tool};
use crate::mcp::answer::{Refusal, output_schema, result};
use crate::mcp::args::{Arg, Args, BadArguments, Kind};
use crate::mcp::call::Call;
use crate::mcp::requests::{TO_PERMISSION, TO_QUESTION, answer_word, answers};
use crate::mcp::shapes::next_call;

/// Told to the worker when a denial says nothing. Never empty: a bare reject ends the run in OpenCode.
const NO_REASON: &str = "This was not allowed. Do without it: find another way, or say in your answer what you could not do.";

/// The tool.
pub(crate) const TOOL: Tool = Tool {
    name: "answer_task_request",
    title: "Answer the worker",
    about: "Answer a permission or question of a task's worker: get_task_status shows the open ones in requests while phase is input_required, each with its request_id, the answers that fit and when its default is given. A permission takes allow (this time), allow_always (the like too, for the rest of the session) or deny with a message that tells the worker what to do instead; a question takes choices, or deny. An answer cannot be taken back.",
    args: &[
        Arg::required("task_id", Kind::TaskId, "The task."),
        Arg::required(
            "request_id",
            Kind::Text { min: 1, max: 200 },
            "The request, as requests of get_task_status names it.",
        ),
        Arg::required(
            "answer",
            Kind::Choice(&["allow", "allow_always", "deny", "choices"]),
            "allow, allow_always or deny for a permission; choices or deny for a question.",
        ),
        Arg::optional(
            "message",
            Kind::Text { min: 0, max: 2_000 },
            "With deny: what the worker is told, such as why not and what to do instead.",
        ),
        Arg::optional(
            "choices",
            Kind::Choices {
                max_items: 20,
                max_chars: 2_000,
            },
            "With choices: for each question in order a list of the options chosen (or a text of your own), such as [[\"Yes\"]].",
        ),
    ],
    effect: Effect::Decides,
    open_world: true,
    output: output_schema::<AnswerOut>,
    run: |call, args| Box::pin(async move { result(TOOL.name, answer(&call, &args).await) }),
};

#[derive(Debug, Serialize, JsonSchema)]
struct AnswerOut {
    /// The task.
    task_id: String,
    /// The request.
    request_id: String,
    /// What was answered: allow, allow_always, deny or choices.
    answer: &'static str,
    /// The state now: queued, running, completed, failed, timeout, paused or cancelled.
    status: &'static str,
    /// The precise phase now; input_required while the answer is on its way, or other requests are open.
    phase: &'static str,
    /// Requests of the task that still wait for an answer.
    still_open: Vec<String>,
    /// What to call next.
    next: &'static str,
}

/// The answer as asked for, whatever it is an answer to.
fn decode(args: &Args) -> Result<Answer, BadArguments> {
    let word = args.need_text("answer")?;
    let message = args.text("message").map(str::trim).unwrap_or_default();
    let choices = args.choices("choices");
    if !message.is_empty() && word != "deny" {
        return Err(BadArguments::one(
            "message",
            format!("is given with answer={word}"),
            "only with deny; call send_task_message to tell the worker something else",
        ));
    }
    if !choices.is_empty() && word != "choices" {
        return Err(BadArguments::one(
            "choices",
            format!("is given with answer={word}"),
            "only with answer=choices",
        ));
    }
    match word {
        "allow" => Ok(Answer::Allow { always: false }),
        "allow_always" => Ok(Answer::Allow { always: true }),
        "deny" if message.is_empty() => Ok(Answer::Deny {
            message: NO_REASON.to_owned(),
        }),
        "deny" => Ok(Answer::Deny {
            message: message.to_owned(),
        }),
        _ if choices.is_empty() => Err(BadArguments::one(
            "choices",
            "is missing",
            "with answer=choices a list of texts for each question",
        )),
        _ => Ok(Answer::Choices { choices }),
    }
}

async fn answer(call: &Call, args: &Args) -> Result<AnswerOut, Refusal> {
    let answer = decode(args)?;
    let task = args.task()?;
    let request = RequestId(args.need_text("request_id")?.trim().to_owned());
    let open = requests(call, task).await?;
    match open.iter().find(|open| open.request.id == request) {
        Some(open) => fits(open, &answer)?,
        None => return Err(not_open(task, request, &open)),
    }
    let word = answer_word(&answer);
    let command = AnswerRequest {
        task,
        request: request.clone(),
        answer,
    };
    match call.edge.tree.answer(&call.identity(), command).await {
        Ok(()) => {}
        // It was closed between the look and the answer.
        Err(TreeError::RequestNotOpen { .. }) => {
            let open = requests(call, task).await?;
            return Err(not_open(task, request, &open));
        }
        Err(error) => return Err(error.into()),
    }
    let status = call.status(look(task)).await?;
    let view = status.view;
    Ok(AnswerOut {
        task_id: task.to_string(),
        still_open: view
            .requests
            .iter()
            .filter(|open| open.request.id != request)
            .map(|open| open.request.id.0.clone())
            .collect(),
        request_id: request.0,
        answer: word,
        status: view.phase.status(),
        phase: view.phase.as_str(),
        next: next_call(view.phase),
    })
}

const fn look(task: TaskId) -> StatusQuery {
    StatusQuery {
        task,
        since: None,
        events_limit: 0,
        wait_for: WaitFor::Nothing,
        wait_ms: 0,
    }
}

async fn requests(call: &Call, task: TaskId) -> Result<Vec<OpenRequest>, Refusal> {
    Ok(call.status(look(task)).await?.view.requests)
}

/// Whether the answer fits the request; if not, what would. The machine decides again.
fn fits(open: &OpenRequest, answer: &Answer) -> Result<(), Refusal> {
    let problem = match (&open.request.kind, answer) {
        (_, Answer::Deny { .. }) | (RequestKind::Permission { .. }, Answer::Allow { .. }) => None,
        (RequestKind::Permission { .. }, Answer::Choices { .. }) => Some(format!(
            "the worker asks for a permission; allowed: {}",
            TO_PERMISSION.join(", ")
        )),
        (RequestKind::Question { .. }, Answer::Allow { .. }) => Some(format!(
            "the worker asks a question; allowed: {}",
            TO_QUESTION.join(", ")
        )),
        (RequestKind::Question { questions }, Answer::Choices { choices }) => {
            let texts = questions.iter().map(|question| question.text.as_str());
            if choices.len() != questions.len() {
                Some(format!(
                    "the worker asks {} questions and choices has {} lists; give one list for each: {}",
                    questions.len(),
                    choices.len(),
                    texts.collect::<Vec<_>>().join(" | ")
                ))
            } else {
                let empty = choices.iter().position(Vec::is_empty);
                empty.map(|index| {
                    format!("list {index} of choices is empty; choose at least one option, or deny")
                })
            }
        }
    };
    let Some(problem) = problem else {
        return Ok(());
    };
    let mut more = Map::new();
    more.insert("answers".to_owned(), json!(answers(&open.request.kind)));
    if let RequestKind::Question { questions } = &open.request.kind {
        let options: Vec<&Vec<String>> = questions.iter().map(|one| &one.options).collect();
        more.insert("options".to_owned(), json!(options));
    }
    Err(Refusal::Request {
        error: TreeError::BadAnswer(problem),
        more,
    })
}

fn not_open(task: TaskId, request: RequestId, open: &[OpenRequest]) -> Refusal {
    let ids: Vec<Value> = open.iter().map(|open| json!(open.request.id.0)).collect();
    let mut more = Map::new();
    more.insert("open_requests".to_owned(), json!(ids));
    Refusal::Request {
        error: TreeError::RequestNotOpen { task, request },
        more,
    }
}
