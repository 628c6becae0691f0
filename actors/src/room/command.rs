//! What somebody who speaks in a room wants, and whether they may. Pure.
//!
//! In: what was heard, whose signs and questions the bot's posts are, who is allowed. Out: a [`Verdict`].
//! The order of the checks is the rule: the bot itself, edits, notices; then what is asked for; then who asks.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::command::{ControlSignal, MessageType};
use crate::event::{Request, RequestKind};
use crate::id::{TaskId, WallTime};
use crate::ports::{Heard, STEER, Said};
use crate::view::OpenRequest;

/// Signs that the bot puts under the status as buttons.
pub(crate) const PAUSE: &str = "⏸";
/// Go on.
pub(crate) const RESUME: &str = "▶";
/// Cancel; under a request: deny.
pub(crate) const CANCEL: &str = "❌";
/// Under a request: approve.
pub(crate) const APPROVE: &str = "✅";
/// How far the homeserver's clock may be behind ours, in milliseconds: a command counts for what was asked so much later.
const SKEW_MS: u64 = 5_000;
/// Longest message that is passed on to the worker, in characters.
const LONGEST: usize = 20_000;

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub(crate) enum Wish {
    Control {
        signal: ControlSignal,
        reason: Option<String>,
    },
    Status,
    Files,
    Diff,
    Logs,
    Approve {
        request: Option<String>,
        always: bool,
    },
    Deny {
        request: Option<String>,
        reason: Option<String>,
    },
    Answer {
        #[serde(default)]
        request: Option<String>,
        text: String,
    },
    Invite {
        user: String,
    },
    Message {
        text: String,
        message_type: MessageType,
    },
    /// Not done; told why.
    Refused {
        why: String,
    },
}

/// What becomes of what was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Ignore,
    /// It is taken, with the place of its answer.
    Take(Wish),
}

/// What the verdict depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ground<'a> {
    pub(crate) task: Option<TaskId>,
    /// Posts that show the status.
    pub(crate) statuses: &'a [String],
    /// Posts that show a request, and which.
    pub(crate) requests: &'a [(String, String)],
    /// The only people who may steer; empty = whoever has the power.
    pub(crate) allowed: &'a [String],
}

/// Decides.
pub(crate) fn judge(heard: &Heard, ground: &Ground<'_>) -> Verdict {
    if heard.own {
        return Verdict::Ignore;
    }
    let may = may_steer(heard, ground);
    match &heard.said {
        Said::Message { edit: true, .. } => Verdict::Ignore,
        Said::Message {
            kind,
            body,
            content,
            ..
        } => match kind.as_str() {
            "m.text" => typed(body, content, may),
            "io.letta.control" => machine(content.get("io.letta.task"), ground, may),
            _ => Verdict::Ignore,
        },
        Said::Reaction { to, sign } => match reaction(to, sign, ground) {
            Some(wish) if may => Verdict::Take(wish),
            Some(_) | None => Verdict::Ignore,
        },
        Said::Control(content) => machine(Some(&Value::Object(content.clone())), ground, may),
        Said::Unreadable if may => refused(
            "I could not read your encrypted message: this device of yours has not shared its key with me. Nothing was \
             done. Send it again; if that does not help, verify me or open the room in another client",
        ),
        Said::Unreadable => Verdict::Ignore,
    }
}

fn may_steer(heard: &Heard, ground: &Ground<'_>) -> bool {
    may(heard.power, &heard.sender, ground.allowed)
}

/// Power in the room, and the list if there is one.
pub(crate) fn may(power: Option<i64>, user: &String, allowed: &[String]) -> bool {
    power.is_none_or(|power| power >= STEER) && (allowed.is_empty() || allowed.contains(user))
}

fn refused(why: impl Into<String>) -> Verdict {
    Verdict::Take(Wish::Refused { why: why.into() })
}

const MAY_NOT: &str = "you may watch this task, not steer it. Nothing was done";

fn typed(body: &str, content: &Map<String, Value>, may: bool) -> Verdict {
    let text = without_quote(body, content).trim();
    match command(text) {
        Some(_) if !may => refused(MAY_NOT),
        Some(Ok(wish)) => Verdict::Take(wish),
        Some(Err(why)) => refused(why),
        // People who only watch may talk with each other.
        None if !may || text.is_empty() => Verdict::Ignore,
        None if text.chars().count() > LONGEST => refused(format!(
            "your message is longer than {LONGEST} characters and was not passed on to the worker"
        )),
        None => Verdict::Take(Wish::Message {
            text: text.to_owned(),
            message_type: MessageType::Guidance,
        }),
    }
}

/// A reply of older clients begins with what it replies to.
fn without_quote<'a>(body: &'a str, content: &Map<String, Value>) -> &'a str {
    let reply = content
        .get("m.relates_to")
        .and_then(|relates| relates.get("m.in_reply_to"))
        .is_some();
    if !reply || !body.starts_with("> ") {
        return body;
    }
    body.split_once("\n\n").map_or(body, |(_, rest)| rest)
}

/// `!word rest` or `/word rest`; none = no command. A path is no command, so after a slash only known words count.
fn command(text: &str) -> Option<Result<Wish, String>> {
    let slash = text.starts_with('/');
    let text = text.strip_prefix(['!', '/'])?;
    let (word, rest) = text
        .split_once(char::is_whitespace)
        .map_or((text, ""), |(word, rest)| (word, rest.trim()));
    if !word.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return None;
    }
    let wish = known(&word.to_ascii_lowercase(), rest);
    if wish.is_none() && slash {
        return None;
    }
    Some(wish.unwrap_or_else(|| {
        Err(format!("there is no command !{word}. !help lists what there is; a text without ! goes to the worker"))
    }))
}

fn known(word: &str, rest: &str) -> Option<Result<Wish, String>> {
    let given = || (!rest.is_empty()).then(|| rest.to_owned());
    let control = |signal| Wish::Control {
        signal,
        reason: given(),
    };
    Some(Ok(match word {
        "cancel" | "stop" => control(ControlSignal::Cancel),
        "pause" => control(ControlSignal::Pause),
        "resume" | "continue" => control(ControlSignal::Resume),
        "status" => Wish::Status,
        "files" => Wish::Files,
        "diff" => Wish::Diff,
        "logs" | "log" => Wish::Logs,
        "approve" | "allow" => Wish::Approve {
            request: None,
            always: rest.eq_ignore_ascii_case("always"),
        },
        "deny" => Wish::Deny {
            request: None,
            reason: given(),
        },
        "answer" => match given() {
            Some(text) => Wish::Answer {
                request: None,
                text,
            },
            None => {
                return Some(Err(
                    "!answer needs the answer: its number, or a text".to_owned()
                ));
            }
        },
        "invite" => match given().filter(|user| is_user(user)) {
            Some(user) => Wish::Invite { user },
            None => {
                return Some(Err(
                    "!invite needs a Matrix id, such as @anna:example.org".to_owned()
                ));
            }
        },
        "help" => Wish::Refused {
            why: HELP.to_owned(),
        },
        _ => return None,
    }))
}

/// What `!help` answers.
pub(crate) const HELP: &str = "!cancel [reason] · !pause · !resume · !status · !files · !diff · !logs · !approve [always] · \
     !deny [reason] · !answer NUMBER or TEXT · !invite @user:server · !help. A text without ! goes to the worker. The signs \
     under the status do the same as pause, resume and cancel";

/// Whether this looks like a Matrix user id.
pub(crate) fn is_user(text: &str) -> bool {
    text.strip_prefix('@')
        .and_then(|rest| rest.split_once(':'))
        .is_some_and(|(name, server)| !name.is_empty() && !server.is_empty())
        && text.len() <= 255
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Which requests a command can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Any,
    Permission,
    Question,
}

/// What a command answers that names no request.
pub(crate) const fn kind(wish: &Wish) -> Option<Kind> {
    match wish {
        Wish::Approve { request: None, .. } => Some(Kind::Permission),
        Wish::Deny { request: None, .. } => Some(Kind::Any),
        Wish::Answer { request: None, .. } => Some(Kind::Question),
        Wish::Approve { .. }
        | Wish::Deny { .. }
        | Wish::Answer { .. }
        | Wish::Control { .. }
        | Wish::Status
        | Wish::Files
        | Wish::Diff
        | Wish::Logs
        | Wish::Invite { .. }
        | Wish::Message { .. }
        | Wish::Refused { .. } => None,
    }
}

/// Names the request that such a command is about: of its kind, the one that was asked first of those that nobody has
/// answered. What was asked after the command was said is not meant by it.
pub(crate) fn bound(wish: Wish, open: &[OpenRequest], said_at: WallTime) -> Wish {
    let Some(kind) = kind(&wish) else {
        return wish;
    };
    let fits = |request: &Request| match request.kind {
        RequestKind::Permission { .. } => kind != Kind::Question,
        RequestKind::Question { .. } => kind != Kind::Permission,
    };
    let waiting = |open: &&OpenRequest| open.answered_by.is_none() && fits(&open.request);
    let before = |open: &&OpenRequest| open.asked_at <= said_at.plus_ms(SKEW_MS);
    let first = open.iter().filter(waiting).filter(before);
    let Some(first) = first.min_by_key(|open| open.asked_at) else {
        return Wish::Refused {
            why: nothing_open(kind, open.iter().any(|open| waiting(&open))).to_owned(),
        };
    };
    let named = Some(first.request.id.0.clone());
    match wish {
        Wish::Approve { always, .. } => Wish::Approve {
            request: named,
            always,
        },
        Wish::Deny { reason, .. } => Wish::Deny {
            request: named,
            reason,
        },
        Wish::Answer { text, .. } => Wish::Answer {
            request: named,
            text,
        },
        other => other,
    }
}

const fn nothing_open(kind: Kind, newer: bool) -> &'static str {
    if newer {
        return "what the worker asked when you said this is closed; it asks something else now. Nothing was done: look at \
                the newer request and answer that one";
    }
    match kind {
        Kind::Permission => "the worker asks for no permission now",
        Kind::Question => "the worker asks no question now; !approve and !deny are for permissions",
        Kind::Any => "the worker asks nothing now, or it was answered already",
    }
}

fn reaction(to: &str, sign: &str, ground: &Ground<'_>) -> Option<Wish> {
    // Clients send signs with and without the mark that asks for colour.
    let sign = sign.trim_end_matches('\u{fe0f}');
    if let Some((_, request)) = ground.requests.iter().find(|(post, _)| post == to) {
        let request = Some(request.clone());
        return match sign {
            APPROVE | "👍" => Some(Wish::Approve {
                request,
                always: false,
            }),
            CANCEL | "👎" => Some(Wish::Deny {
                request,
                reason: None,
            }),
            _ => None,
        };
    }
    if !ground.statuses.iter().any(|status| status == to) {
        return None;
    }
    let signal = match sign {
        PAUSE => ControlSignal::Pause,
        RESUME => ControlSignal::Resume,
        CANCEL => ControlSignal::Cancel,
        _ => return None,
    };
    Some(Wish::Control {
        signal,
        reason: None,
    })
}

/// The form for machines: `{task_id?, control | control_signal, reason?}`.
fn machine(content: Option<&Value>, ground: &Ground<'_>, may: bool) -> Verdict {
    let text = |name: &str| content.and_then(|content| content.get(name)?.as_str());
    let Some(word) = text("control").or_else(|| text("control_signal")) else {
        return Verdict::Ignore;
    };
    if !may {
        return refused(MAY_NOT);
    }
    let meant = text("task_id").is_none_or(|id| {
        ground
            .task
            .is_some_and(|task| id.eq_ignore_ascii_case(&task.to_string()))
    });
    if !meant {
        return refused("task_id names another task than the one of this room. Nothing was done");
    }
    let signal = match word {
        "cancel" => ControlSignal::Cancel,
        "pause" => ControlSignal::Pause,
        "resume" => ControlSignal::Resume,
        _ => return refused("control must be cancel, pause or resume. Nothing was done"),
    };
    Verdict::Take(Wish::Control {
        signal,
        reason: text("reason").map(str::to_owned),
    })
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
