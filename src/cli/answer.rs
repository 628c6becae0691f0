//! `chargehand answer`: answers a permission or question of a worker; and how it is said on the screen that one waits.
//!
//! In: the task, the request (or the only one that is open), the answer. Out: the server's answer in one line, or as JSON.

use serde_json::{Value, json};

use super::answers::{OpenRequest, TaskStatus};
use super::args::AnswerArgs;
use super::client::Client;
use super::error::{CliError, Exit};
use super::terminal::{clean, one_line, print, print_json};

/// `answer`.
pub(crate) async fn answer(
    client: &Client,
    args: &AnswerArgs,
    json: bool,
) -> Result<Exit, CliError> {
    let task = client.task_id(&args.task.id).await?;
    let status: TaskStatus = client
        .call_as("get_task_status", json!({ "task_id": task }))
        .await?;
    let request = which(&status, args.request.as_deref())?;
    let mut arguments = said(args, &request);
    arguments["task_id"] = json!(task);
    arguments["request_id"] = json!(request.request_id);
    let answer = client.call("answer_task_request", arguments).await?;
    if json {
        print_json(&answer)?;
        return Ok(Exit::Ok);
    }
    let word = answer["answer"].as_str().unwrap_or("the answer");
    let open = answer["still_open"].as_array().map_or(0, Vec::len);
    let more = match open {
        0 => String::new(),
        1 => "; another request is open".to_owned(),
        open => format!("; {open} other requests are open"),
    };
    print(&format!(
        "{}: {} is on its way to the worker{more}",
        clean(&request.request_id),
        clean(word)
    ))?;
    Ok(Exit::Ok)
}

/// The request named (its beginning is enough), or the only one; what the server does not know is left to it to refuse.
fn which(status: &TaskStatus, named: Option<&str>) -> Result<OpenRequest, CliError> {
    let task = &status.task_id;
    let fits = |open: &&OpenRequest| named.is_none_or(|start| open.request_id.starts_with(start));
    let found: Vec<&OpenRequest> = status.requests.iter().filter(fits).collect();
    match (found.as_slice(), named) {
        ([only], _) => Ok((*only).clone()),
        ([], Some(named)) => Ok(OpenRequest {
            request_id: named.to_owned(),
            ..OpenRequest::default()
        }),
        ([], None) => Err(CliError::Refused(format!(
            "the worker of {task} waits for no answer; it is {}",
            clean(&status.phase)
        ))),
        (several, _) => {
            let lines: Vec<String> = several
                .iter()
                .map(|open| {
                    format!(
                        "  {}  {}",
                        clean(&open.request_id),
                        one_line(&open.text, 100)
                    )
                })
                .collect();
            Err(CliError::Refused(format!(
                "{} requests are open; name one:\n{}",
                several.len(),
                lines.join("\n")
            )))
        }
    }
}

/// The answer in the words of the tool.
fn said(args: &AnswerArgs, request: &OpenRequest) -> Value {
    if args.allow {
        json!({"answer": "allow"})
    } else if args.always {
        json!({"answer": "allow_always"})
    } else if let Some(text) = &args.deny {
        json!({"answer": "deny", "message": text})
    } else {
        json!({"answer": "choices", "choices": choices(&args.choose, request.questions.len())})
    }
}

/// One list for a single question; one text for each of several.
fn choices(chosen: &[String], questions: usize) -> Value {
    if questions > 1 && chosen.len() == questions {
        let each: Vec<[&String; 1]> = chosen.iter().map(|text| [text]).collect();
        json!(each)
    } else {
        json!([chosen])
    }
}

/// How to answer an open request of `task`.
pub(crate) fn hint(task: &str, request: &OpenRequest) -> String {
    let id: String = task.chars().take(8).collect();
    let how = if request.kind == "question" {
        "--choose ANSWER | --deny TEXT"
    } else {
        "--allow | --always | --deny TEXT"
    };
    format!(
        "chargehand answer {id} {} {how}",
        one_line(&request.request_id, 60)
    )
}

/// What a request is about: its commands, paths or options.
pub(crate) fn details(request: &OpenRequest) -> Vec<String> {
    let mut lines: Vec<String> = request
        .patterns
        .iter()
        .take(10)
        .map(|pattern| one_line(pattern, 140))
        .collect();
    for question in &request.questions {
        lines.push(one_line(&question.text, 140));
        for option in question.options.iter().take(10) {
            lines.push(format!("- {}", one_line(option, 100)));
        }
    }
    // The text of a request often is its only command or question.
    let text = one_line(&request.text, 140);
    lines.retain(|line| *line != text);
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn open(id: &str) -> OpenRequest {
        OpenRequest {
            request_id: id.to_owned(),
            text: "May I?".to_owned(),
            ..OpenRequest::default()
        }
    }

    fn status(ids: &[&str]) -> TaskStatus {
        TaskStatus {
            requests: ids.iter().map(|id| open(id)).collect(),
            phase: "input_required".to_owned(),
            ..TaskStatus::default()
        }
    }

    #[test]
    fn the_only_request_needs_no_name() {
        let id = |status: &TaskStatus, named: Option<&str>| {
            which(status, named).map(|open| open.request_id).ok()
        };
        assert_eq!(id(&status(&["per_1"]), None).as_deref(), Some("per_1"));
        assert_eq!(id(&status(&[]), None), None);
        let two = status(&["per_1", "que_2"]);
        assert_eq!(id(&two, None), None);
        assert_eq!(id(&two, Some("que")).as_deref(), Some("que_2"));
        assert_eq!(id(&two, Some("gone")).as_deref(), Some("gone"));
    }

    #[test]
    fn choices_are_for_one_question_or_one_for_each() {
        let chosen = ["a".to_owned(), "b".to_owned()];
        assert_eq!(choices(&chosen, 1), json!([["a", "b"]]));
        assert_eq!(choices(&chosen, 2), json!([["a"], ["b"]]));
        assert_eq!(choices(&chosen[..1], 1), json!([["a"]]));
    }
}
