//! Open requests of the worker as tools show them, and what answers to them are allowed.
//!
//! In: an open request of a view. Out: its shape for clients; the words of the answers that fit.

use chargehand_actors::command::Answer;
use chargehand_actors::event::RequestKind;
use chargehand_actors::view::OpenRequest;
use schemars::JsonSchema;
use serde::Serialize;

/// Answers to a permission.
pub(crate) const TO_PERMISSION: [&str; 3] = ["allow", "allow_always", "deny"];
/// Answers to a question.
pub(crate) const TO_QUESTION: [&str; 2] = ["choices", "deny"];
/// Who may answer; others are told that there is no such task.
const WHO: &str = "the task's caller, operators, and people in its room who may steer";

/// An open permission or question of the worker.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RequestOut {
    /// Its id, for answer_task_request.
    request_id: String,
    /// permission or question.
    kind: &'static str,
    /// What the worker asks.
    text: String,
    /// What the permission is for, such as bash or edit.
    #[serde(skip_serializing_if = "Option::is_none")]
    permission: Option<String>,
    /// The commands or paths concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    patterns: Option<Vec<String>>,
    /// What allow_always would cover for the rest of the session; * stands for any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    always_covers: Option<Vec<String>>,
    /// The questions in order; an answer has a list of choices for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    questions: Option<Vec<QuestionOut>>,
    /// The answers that fit: allow, allow_always, deny, choices.
    answers: Vec<&'static str>,
    /// Who may answer.
    who_may_answer: &'static str,
    /// Milliseconds since 1970.
    asked_at: i64,
    /// When its default is given, milliseconds since 1970.
    expires_at: i64,
    /// The answer that is given then.
    default: AnswerOut,
}

/// One question of the worker.
#[derive(Debug, Serialize, JsonSchema)]
struct QuestionOut {
    /// The question.
    text: String,
    /// Short title.
    header: String,
    /// Answers offered; another text may be given too.
    options: Vec<String>,
}

/// An answer to a request.
#[derive(Debug, Serialize, JsonSchema)]
struct AnswerOut {
    /// allow, allow_always, deny or choices.
    answer: &'static str,
    /// What the worker is told with a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// The choices, a list for each question.
    #[serde(skip_serializing_if = "Option::is_none")]
    choices: Option<Vec<Vec<String>>>,
}

impl From<&OpenRequest> for RequestOut {
    fn from(open: &OpenRequest) -> Self {
        let request = &open.request;
        let (kind, permission, patterns, always_covers, questions) = match &request.kind {
            RequestKind::Permission {
                permission,
                patterns,
                always,
            } => {
                let covers = if always.is_empty() { patterns } else { always };
                (
                    "permission",
                    Some(permission.clone()),
                    Some(patterns.clone()),
                    Some(covers.clone()),
                    None,
                )
            }
            RequestKind::Question { questions } => {
                let questions = questions.iter().map(|question| QuestionOut {
                    text: question.text.clone(),
                    header: question.header.clone(),
                    options: question.options.clone(),
                });
                ("question", None, None, None, Some(questions.collect()))
            }
        };
        Self {
            request_id: request.id.0.clone(),
            kind,
            text: request.text.clone(),
            permission,
            patterns,
            always_covers,
            questions,
            answers: answers(&request.kind).to_vec(),
            who_may_answer: WHO,
            asked_at: open.asked_at.0,
            expires_at: open.expires_at.0,
            default: AnswerOut::from(&open.default),
        }
    }
}

impl From<&Answer> for AnswerOut {
    fn from(answer: &Answer) -> Self {
        let (message, choices) = match answer {
            Answer::Allow { .. } => (None, None),
            Answer::Deny { message } => (Some(message.clone()), None),
            Answer::Choices { choices } => (None, Some(choices.clone())),
        };
        Self {
            answer: answer_word(answer),
            message,
            choices,
        }
    }
}

/// The word of an answer in tool arguments.
pub(crate) const fn answer_word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Allow { always: false } => "allow",
        Answer::Allow { always: true } => "allow_always",
        Answer::Deny { .. } => "deny",
        Answer::Choices { .. } => "choices",
    }
}

/// The answers that fit a request of this kind.
pub(crate) const fn answers(kind: &RequestKind) -> &'static [&'static str] {
    match kind {
        RequestKind::Permission { .. } => &TO_PERMISSION,
        RequestKind::Question { .. } => &TO_QUESTION,
    }
}
