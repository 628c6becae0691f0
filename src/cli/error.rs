//! What can go wrong on the command line, and the exit code that says so to scripts.
//!
//! In: failures of the server, the terminal and the machine. Out: a message with what to do, and an [`Exit`].

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

/// The codes of refusals that pass by themselves (docs/tools.md).
const PASSING: [&str; 3] = ["RATE_LIMITED", "UNAVAILABLE", "NO_ANSWER_YET"];

/// How the program ends. The numbers are a promise to scripts and stand in `chargehand --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; a followed task completed.
    Ok,
    /// A followed task failed, `doctor` found a failure, or something here went wrong.
    Failed,
    /// The command line cannot be used.
    Usage,
    /// No Chargehand server answers.
    Unreachable,
    /// A followed task ran into its timeout or was cancelled.
    Stopped,
    /// The server refused: unknown task, wrong phase, full queue, missing token.
    Refused,
    /// Left at once after a second Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number for the shell.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Stopped => 4,
            Self::Refused => 5,
            Self::Interrupted => 130,
        }
    }

    /// The exit code for a task that ended in this `status` (the original's seven words).
    pub fn of_status(status: &str) -> Self {
        match status {
            "completed" => Self::Ok,
            "timeout" | "cancelled" => Self::Stopped,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command was not done. The message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments are well formed but make no sense together.
    #[error("{0}")]
    Usage(String),
    /// Nothing answers at the address.
    #[error(
        "no Chargehand server answers at {url}; start one with `chargehand serve`, or name another with --server URL"
    )]
    Unreachable {
        /// The address that was tried.
        url: String,
        /// What the network said.
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke or took too long after the request was sent.
    #[error(
        "the server at {url} did not finish its answer; the command may have taken effect, look with `chargehand tasks`"
    )]
    Broken {
        /// The address.
        url: String,
        /// What the network said.
        #[source]
        source: reqwest::Error,
    },
    /// The server wants a token, or another one.
    #[error(
        "the server at {url} refused the token (HTTP {status}); set CHARGEHAND_TOKEN or CHARGEHAND_TOKEN_FILE to one of its tokens"
    )]
    Unauthorized {
        /// The address.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// Something answers that is not Chargehand, or a Chargehand that this program does not understand.
    #[error(
        "what answers at {url} is not a Chargehand server that this program understands: {what}"
    )]
    NotChargehand {
        /// The address.
        url: String,
        /// What was seen.
        what: String,
    },
    /// The server understood and said no.
    #[error("{0}")]
    Refused(String),
    /// The server said no for now: the same call may be answered later.
    #[error("{text}")]
    NotNow {
        /// What it said.
        text: String,
        /// Its word for why, such as `RATE_LIMITED`.
        code: String,
        /// When to ask again, in seconds.
        retry_after_s: Option<u64>,
    },
    /// A file of this machine cannot be used.
    #[error("{what} {}", path.display())]
    File {
        /// What was tried: `cannot read`, `cannot create`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Writing to the terminal or the pipe failed.
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
    /// The server started by this command does not work.
    #[error("{0}")]
    Server(String),
    /// Left at once after a second Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    /// The refusal that a tool's error answer is.
    pub(crate) fn refused(answer: &str) -> Self {
        let parsed: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
        let text = error_text(answer);
        match parsed["code"].as_str() {
            Some(code) if PASSING.contains(&code) => Self::NotNow {
                text,
                code: code.to_owned(),
                retry_after_s: parsed["retry_after_s"].as_u64(),
            },
            _ => Self::Refused(text),
        }
    }

    /// The exit code that belongs to it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Unauthorized { .. } | Self::Refused(_) | Self::NotNow { .. } => Exit::Refused,
            // `chargehand tasks | head` closes the pipe early; that is no failure.
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Broken { .. }
            | Self::NotChargehand { .. }
            | Self::File { .. }
            | Self::Output(_)
            | Self::Server(_) => Exit::Failed,
            Self::Interrupted => Exit::Interrupted,
        }
    }

    /// The message and its causes, one after the other, for standard error.
    pub fn report(&self) -> String {
        chain(self)
    }
}

/// An error and its causes in one line. Some errors already carry their cause in their own message.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

/// Text of an error body that may be JSON (`{"error": …}`) or anything else, for a person.
pub(crate) fn error_text(body: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let text = parsed
        .as_ref()
        .and_then(|value| {
            let error = value.get("error").unwrap_or(value);
            error
                .get("message")
                .and_then(serde_json::Value::as_str)
                .or_else(|| error.as_str())
        })
        .unwrap_or(body);
    super::terminal::clean(text.trim()).into_owned()
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code().fmt(f)
    }
}
