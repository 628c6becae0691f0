//! Asks the person at the terminal what the worker asks, while `chargehand run --attended` watches.
//!
//! In: open requests, lines from standard input. Out: arguments of `answer_task_request`. One request at a time; where
//! there is no terminal to ask at, nothing is asked.

use std::collections::VecDeque;
use std::io::IsTerminal;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use super::answers::{OpenRequest, TaskStatus};
use super::terminal::one_line;

/// Reads answers from the terminal.
pub(crate) struct Prompt {
    lines: Option<Lines<BufReader<Stdin>>>,
    /// Requests that were not yet asked or answered; the first is being asked.
    waiting: VecDeque<OpenRequest>,
    known: Vec<String>,
    asked: bool,
}

impl Prompt {
    /// Asks only where it is wanted and somebody can see and answer.
    pub(crate) fn new(wanted: bool) -> Self {
        let person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        Self {
            lines: (wanted && person).then(|| BufReader::new(tokio::io::stdin()).lines()),
            waiting: VecDeque::new(),
            known: Vec::new(),
            asked: false,
        }
    }

    /// Takes new requests in and forgets those that are closed; what is to be said now, if anything.
    pub(crate) fn update(&mut self, status: &TaskStatus) -> Option<String> {
        self.lines.as_ref()?;
        let first = self.waiting.front().map(|open| open.request_id.clone());
        let open = |id: &str| status.requests.iter().any(|now| now.request_id == id);
        self.waiting.retain(|asked| open(&asked.request_id));
        for request in &status.requests {
            if !self.known.contains(&request.request_id) {
                self.known.push(request.request_id.clone());
                self.waiting.push_back(request.clone());
            }
        }
        let now = self.waiting.front()?;
        if first.as_ref() != Some(&now.request_id) {
            self.asked = false;
        }
        (!std::mem::replace(&mut self.asked, true)).then(|| question(now))
    }

    /// Whether somebody is typing an answer.
    pub(crate) fn is_asking(&self) -> bool {
        self.lines.is_some() && !self.waiting.is_empty()
    }

    /// The next answer that a person gives; never, while nothing is asked.
    pub(crate) async fn answer(&mut self) -> Given {
        let (Some(lines), Some(request)) = (&mut self.lines, self.waiting.front()) else {
            return std::future::pending().await;
        };
        match lines.next_line().await {
            Ok(Some(line)) => match read(request, &line) {
                Ok(mut arguments) => {
                    arguments["request_id"] = json!(request.request_id);
                    self.waiting.pop_front();
                    self.asked = false;
                    Given::Answer(arguments)
                }
                Err(again) => Given::Again(again),
            },
            Ok(None) | Err(_) => {
                self.lines = None;
                Given::Again("nobody answers here any more; `chargehand answer` can".to_owned())
            }
        }
    }
}

/// What came of a line.
pub(crate) enum Given {
    /// Arguments of `answer_task_request`, without the task.
    Answer(Value),
    /// It is no answer; what to say.
    Again(String),
}

fn question(request: &OpenRequest) -> String {
    let how = match (request.kind.as_str(), request.questions.as_slice()) {
        ("question", [_]) => "the number of an option (several with commas), or a text of your own",
        ("question", _) => "n = deny; answer several questions with `chargehand answer`",
        _ => "y = allow, a = allow always, n = deny, or n and what the worker is to do instead",
    };
    format!("  answer \"{}\" here: {how}", one_line(&request.text, 60))
}

/// A line as an answer, or what is wrong with it.
fn read(request: &OpenRequest, line: &str) -> Result<Value, String> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let deny = || json!({"answer": "deny", "message": rest.trim()});
    let word = word.to_ascii_lowercase();
    if request.kind != "question" {
        return match word.as_str() {
            "y" | "yes" if rest.is_empty() => Ok(json!({"answer": "allow"})),
            "a" | "always" if rest.is_empty() => Ok(json!({"answer": "allow_always"})),
            "n" | "no" => Ok(deny()),
            _ => Err(question(request)),
        };
    }
    let [only] = request.questions.as_slice() else {
        return if matches!(word.as_str(), "n" | "no") {
            Ok(deny())
        } else {
            Err(question(request))
        };
    };
    if line.is_empty() {
        return Err(question(request));
    }
    let number = |text: &str| text.trim().parse::<usize>().ok()?.checked_sub(1);
    let chosen: Option<Vec<&String>> = line
        .split(',')
        .map(|part| only.options.get(number(part)?))
        .collect();
    Ok(match chosen {
        Some(options) => json!({"answer": "choices", "choices": [options]}),
        None => json!({"answer": "choices", "choices": [[line]]}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::answers::Question;

    #[test]
    fn lines_become_answers() {
        let permission = OpenRequest {
            kind: "permission".to_owned(),
            ..OpenRequest::default()
        };
        let options = vec!["red".to_owned(), "blue".to_owned()];
        let one = Question {
            options,
            ..Question::default()
        };
        let question = OpenRequest {
            kind: "question".to_owned(),
            questions: vec![one.clone()],
            ..OpenRequest::default()
        };
        let two = OpenRequest {
            questions: vec![one.clone(), one],
            ..question.clone()
        };
        let choose = |chosen: &[&str]| json!({"answer": "choices", "choices": [chosen]});
        for (request, line, expected) in [
            (&permission, " Y ", Some(json!({"answer": "allow"}))),
            (&permission, "a", Some(json!({"answer": "allow_always"}))),
            (
                &permission,
                "n use curl",
                Some(json!({"answer": "deny", "message": "use curl"})),
            ),
            (
                &permission,
                "no",
                Some(json!({"answer": "deny", "message": ""})),
            ),
            (&permission, "", None),
            (&permission, "yes but carefully", None),
            (&permission, "maybe", None),
            (&question, "2", Some(choose(&["blue"]))),
            (&question, "1, 2", Some(choose(&["red", "blue"]))),
            (&question, "3", Some(choose(&["3"]))),
            (&question, "0", Some(choose(&["0"]))),
            (&question, "green, please", Some(choose(&["green, please"]))),
            (&question, " ", None),
            (&two, "1", None),
            (
                &two,
                "n ask less",
                Some(json!({"answer": "deny", "message": "ask less"})),
            ),
        ] {
            assert_eq!(read(request, line).ok(), expected, "{line:?}");
        }
    }
}
