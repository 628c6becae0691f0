//! Watches a task until it has ended, and passes Ctrl-C on as a polite cancel.
//!
//! In: a task id, the server's answers, signals. Out: lines on the screen and the last status. The first Ctrl-C asks
//! the server to cancel the task and goes on watching; the second leaves at once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::answers::TaskStatus;
use super::client::Client;
use super::error::CliError;
use super::progress::{Progress, Words};
use super::prompt::{Given, Prompt};
use super::terminal::{Screen, YELLOW, paint};

/// How long one question waits for news.
const WAIT_SECONDS: u64 = 15;
/// How often the changing line is drawn and the worker listened to.
const TICK: Duration = Duration::from_millis(400);
/// How long a server that stopped answering is asked again.
const RECONNECT: Duration = Duration::from_secs(60);
/// The longest pause that a server can ask for, in seconds.
const LONGEST_PAUSE_S: u64 = 60;

/// SIGINT and SIGTERM, from the moment this is made.
pub(crate) struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    /// Begins to listen; from here on the signals no longer end the program by themselves.
    pub(crate) fn listen() -> Result<Self, CliError> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// What was seen of a task up to its end.
pub(crate) struct Followed {
    /// Its last status.
    pub(crate) status: TaskStatus,
    /// Tool calls seen.
    pub(crate) tools: u64,
}

/// Follows `task` to its end; `prompt` answers for the person at the terminal.
pub(crate) async fn follow(
    client: &Client,
    task: &str,
    screen: &Screen,
    interrupts: &mut Interrupts,
    mut prompt: Prompt,
) -> Result<Followed, CliError> {
    let begun = Instant::now();
    let mut progress = Progress::default();
    let mut wait = 0;
    let mut cancel_asked = false;
    let mut away = Away::default();
    let mut words = Some(Words::default());
    loop {
        let question = ask(client, task, progress.seen(), wait);
        tokio::pin!(question);
        let answer = loop {
            tokio::select! {
                answer = &mut question => break answer,
                () = interrupts.next() => {
                    if cancel_asked {
                        return Err(CliError::Interrupted);
                    }
                    cancel_asked = true;
                    cancel(client, task, screen, interrupts).await?;
                }
                given = prompt.answer() => match given {
                    Given::Answer(arguments) => answer(client, task, arguments, screen).await,
                    Given::Again(text) => screen.line(&text),
                },
                () = tokio::time::sleep(TICK) => {
                    hear(client, task, screen, &mut words).await;
                    screen.status(progress.spinner(elapsed(begun)));
                }
            }
        };
        match answer {
            Ok(status) => {
                away = Away::default();
                hear(client, task, screen, &mut words).await;
                for line in progress.update(status) {
                    screen.line(&line);
                }
                screen.status(progress.spinner(elapsed(begun)));
                let latest = progress.latest();
                if let Some(question) = prompt.update(latest) {
                    screen.line(&paint(YELLOW, question).to_string());
                }
                screen.still(prompt.is_asking());
                if latest.is_final() && !latest.more_events {
                    return Ok(Followed {
                        status: latest.clone(),
                        tools: progress.tools(),
                    });
                }
                wait = if latest.more_events { 0 } else { WAIT_SECONDS };
            }
            Err(error) => {
                let pause = away.pause(error, screen)?;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = interrupts.next() => return Err(CliError::Interrupted),
                }
            }
        }
    }
}

/// How long there was no answer, or only a refusal that passes.
#[derive(Default)]
struct Away {
    since: Option<Instant>,
}

impl Away {
    /// How long to wait before asking again; the error, when that is of no use. The task belongs to the server and goes on.
    fn pause(&mut self, error: CliError, screen: &Screen) -> Result<Duration, CliError> {
        let (why, pause, limited) = match &error {
            CliError::Unreachable { .. } | CliError::Broken { .. } => {
                ("the server does not answer".to_owned(), None, false)
            }
            CliError::NotNow {
                text,
                code,
                retry_after_s,
            } => (text.clone(), *retry_after_s, code == "RATE_LIMITED"),
            _ => return Err(error),
        };
        let since = *self.since.get_or_insert_with(|| {
            let text = format!("{why}; asking again (the task belongs to the server and goes on)");
            screen.line(&paint(YELLOW, text).to_string());
            Instant::now()
        });
        // A server that counts calls is there: its limit is over when it says.
        if since.elapsed() > RECONNECT && !limited {
            return Err(error);
        }
        Ok(Duration::from_secs(
            pause.unwrap_or(1).clamp(1, LONGEST_PAUSE_S),
        ))
    }
}

/// Shows what the worker said since the last time. Only operators may listen; nobody else is told so again and again.
async fn hear(client: &Client, task: &str, screen: &Screen, words: &mut Option<Words>) {
    let Some(heard) = words else { return };
    match client.text(task, "output", heard.offset()).await {
        Ok(piece) => {
            for line in heard.take(&piece) {
                screen.line(&line);
            }
        }
        Err(CliError::Unauthorized { .. }) => *words = None,
        // There is none yet, or the server is away: the status tells.
        Err(_) => {}
    }
}

async fn ask(client: &Client, task: &str, since: u64, wait: u64) -> Result<TaskStatus, CliError> {
    let arguments = json!({ "task_id": task, "since_event": since, "wait_seconds": wait });
    let answer = client
        .call_waiting("get_task_status", arguments, Duration::from_secs(wait))
        .await?;
    client.decode(answer)
}

/// Passes on what the person at the terminal answered. A request that is closed by now refuses; watching on shows how.
async fn answer(client: &Client, task: &str, mut arguments: Value, screen: &Screen) {
    arguments["task_id"] = json!(task);
    if let Err(error) = client.call("answer_task_request", arguments).await {
        screen.line(&paint(YELLOW, error.report()).to_string());
    }
}

async fn cancel(
    client: &Client,
    task: &str,
    screen: &Screen,
    interrupts: &mut Interrupts,
) -> Result<(), CliError> {
    screen.line(
        &paint(
            YELLOW,
            "asking for the task to be cancelled; press Ctrl-C again to leave at once",
        )
        .to_string(),
    );
    let arguments = json!({
        "task_id": task, "control": "cancel", "reason": "Ctrl-C on the command line",
    });
    tokio::select! {
        answer = client.call("send_task_control", arguments) => {
            // A task that ended in the meantime refuses; watching on shows how it ended.
            if let Err(error) = answer {
                screen.line(&paint(YELLOW, error.report()).to_string());
            }
            Ok(())
        }
        () = interrupts.next() => Err(CliError::Interrupted),
    }
}

fn elapsed(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
