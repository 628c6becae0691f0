//! Does what somebody asked for in a room, once, and answers there.
//!
//! In: a command that was taken down. Out: a command to the tree in the name of that person; then a sign or a notice as answer.
//! Doing and answering are two steps: what is done stays done while the homeserver takes no answer. One that was begun before
//! may have been done: the task's own record, which carries the event's id, tells.

use std::sync::Arc;

use crate::command::{
    Answer, AnswerRequest, Control, ControlSignal, FilesQuery, Identity, Origin, SendMessage,
    StatusQuery, TextKind, WaitFor,
};
use crate::crash::CrashPoint;
use crate::error::TreeError;
use crate::event::{Event, Request, RequestKind};
use crate::id::{EventNumber, RequestId, TaskId};
use crate::ports::{Attachment, Piece, Place, Post, RoomError, Sign, TakenCommand};
use crate::tree::TreeHandle;
use crate::view::TaskView;
use crate::wiring::Wires;

use super::command::Wish;
use super::hear::{Taken, origin_of};
use super::record::Record;
use super::words;

/// Files that are listed in an answer.
const FILES: u64 = 50;
/// How long a command takes from here to the journal at most, as a rule.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(1);
/// Events of a task that are looked through for one, in one go.
const LOOK: u64 = 5_000;

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A sign under the command.
    Sign(&'static str),
    /// A notice.
    Words(Vec<Piece>),
    /// A file in the thread.
    File(&'static str, String),
}

fn words(text: impl Into<String>) -> Reply {
    Reply::Words(vec![Piece::Text(text.into())])
}

/// Why there is no reply as it was wished.
enum Failed {
    /// It cannot be done; this is said instead.
    Refused(String),
    /// Nobody did it, or nobody knows: to be repeated, which looks first whether it was done.
    Repeat(String),
}

impl From<TreeError> for Failed {
    fn from(error: TreeError) -> Self {
        let text = error.to_string();
        match error {
            TreeError::Closed(_) | TreeError::Slow { .. } | TreeError::Internal(_) => {
                Self::Repeat(text)
            }
            TreeError::TaskNotFound(_)
            | TreeError::QueueFull { .. }
            | TreeError::CallerLimit { .. }
            | TreeError::DiskLow(_)
            | TreeError::KeyReused { .. }
            | TreeError::NoSuchEngine { .. }
            | TreeError::WrongPhase { .. }
            | TreeError::EngineFailed { .. }
            | TreeError::RequestNotOpen { .. }
            | TreeError::BadAnswer(_)
            | TreeError::File(_)
            | TreeError::FilesCleared { .. }
            | TreeError::Room(_) => Self::Refused(text),
        }
    }
}

/// What a row says; one that cannot be read is refused.
fn taken(command: &TakenCommand) -> Taken {
    serde_json::from_str(&command.wish).unwrap_or_else(|error| Taken {
        wish: Wish::Refused {
            why: format!("what you asked for was written down and cannot be read any more ({error}); say it again"),
        },
        thread: None,
    })
}

/// Does one command.
pub(super) async fn carry_out(
    wires: Wires,
    task: TaskId,
    command: TakenCommand,
) -> Result<Reply, RoomError> {
    let memory = wires.ports.rooms.memory();
    let wish = taken(&command).wish;
    let acting = Acting {
        tree: TreeHandle {
            wires: Arc::clone(&wires),
        },
        who: Identity::Operator {
            name: command.sender.clone(),
            from: Origin(origin_of(&command.event)),
        },
        wires,
        task,
        event: command.event.clone(),
    };
    if command.begun {
        // What was sent before may still be on its way to the journal.
        tokio::time::sleep(SETTLE).await;
        if acting.was_done().await? {
            let message = matches!(wish, Wish::Message { .. });
            return Ok(Reply::Sign(if message { "📨" } else { "✅" }));
        }
    }
    memory.begin(command.event).await?;
    CrashPoint::BeforeRoomCommand.pass();
    let reply = acting.carry_out(&wish).await;
    CrashPoint::AfterRoomCommand.pass();
    match reply {
        Ok(reply) => Ok(reply),
        Err(Failed::Refused(why)) => Ok(words(why)),
        Err(Failed::Repeat(why)) => Err(RoomError::Transient(why)),
    }
}

/// Answers a command that was done, and writes down that all is done.
pub(super) async fn answer(
    wires: Wires,
    task: TaskId,
    command: TakenCommand,
    reply: Arc<Reply>,
) -> Result<(), RoomError> {
    let memory = wires.ports.rooms.memory();
    let row = memory.row(task).await?;
    let Taken { wish, thread } = taken(&command);
    if let Some(room) = row.room {
        let root = Record::read(&row.record)?.root().cloned();
        let key = format!("ack-{}", command.event);
        let to = command.event.clone();
        match send(&wires, task, room, (key, to), (thread, root), &reply).await {
            // It is done; that nobody can be told is no reason to try for ever.
            Err(RoomError::Permanent(why)) => {
                tracing::warn!(%task, why, "a command of a room is done, but cannot be answered there");
            }
            other => other?,
        }
    }
    CrashPoint::AfterRoomAnswer.pass();
    memory.done(command.event, format!("{wish:?}")).await?;
    Ok(())
}

struct Acting {
    wires: Wires,
    tree: TreeHandle,
    who: Identity,
    task: TaskId,
    event: String,
}

impl Acting {
    /// Whether the task's record has something that came from this very event.
    async fn was_done(&self) -> Result<bool, RoomError> {
        let from = origin_of(&self.event);
        let journal = &self.wires.ports.journal;
        let mut after = EventNumber::ZERO;
        loop {
            let events = journal.events(self.task, after, 0, LOOK).await?;
            let Some(last) = events.last() else {
                return Ok(false);
            };
            after = last.number;
            let found = events.iter().any(|committed| match &committed.event {
                Event::MessageReceived { from: origin, .. }
                | Event::ControlReceived { from: origin, .. }
                | Event::AnswerWanted { from: origin, .. }
                | Event::TaskCancelled { from: origin, .. } => origin.0 == from,
                _ => false,
            });
            if found {
                return Ok(true);
            }
        }
    }

    async fn carry_out(&self, wish: &Wish) -> Result<Reply, Failed> {
        match wish {
            Wish::Control { signal, reason } => self.control(*signal, reason.clone()).await,
            Wish::Message { text, message_type } => {
                let message = SendMessage {
                    task: self.task,
                    message_type: *message_type,
                    text: text.clone(),
                    metadata: serde_json::Map::new(),
                };
                self.tree.message(&self.who, message).await?;
                Ok(Reply::Sign("📨"))
            }
            Wish::Approve { request, always } => {
                let answer = Answer::Allow { always: *always };
                self.reply_to(request.as_deref(), |_| answer).await
            }
            Wish::Deny { request, reason } => {
                let message = reason.clone().unwrap_or_else(|| {
                    "Denied by the person who watches this task. Go on without it.".to_owned()
                });
                self.reply_to(request.as_deref(), |_| Answer::Deny { message })
                    .await
            }
            Wish::Answer { request, text } => {
                self.reply_to(request.as_deref(), |request| chosen(request, text))
                    .await
            }
            Wish::Invite { user } => self.invite(user).await.map_err(Failed::Refused),
            // A look can be asked for again, so whatever happens is said.
            Wish::Status => match self.view().await {
                Ok(view) => Ok(Reply::Words(words::status_reply(&view, self.wires.now()))),
                Err(error) => Err(Failed::Refused(error.to_string())),
            },
            Wish::Files => self.files().await.map_err(Failed::Refused),
            Wish::Diff => Ok(self.file(TextKind::Patch).await),
            Wish::Logs => Ok(self.file(TextKind::Output).await),
            Wish::Refused { why } => Ok(words(why.clone())),
        }
    }

    async fn control(
        &self,
        signal: ControlSignal,
        reason: Option<String>,
    ) -> Result<Reply, Failed> {
        let control = Control {
            task: self.task,
            signal,
            reason,
        };
        self.tree.control(&self.who, control).await?;
        Ok(Reply::Sign("✅"))
    }

    /// Answers the request that was meant when the command was taken.
    async fn reply_to(
        &self,
        named: Option<&str>,
        make: impl FnOnce(&Request) -> Answer,
    ) -> Result<Reply, Failed> {
        let view = self.view().await?;
        let named = named.map(|named| RequestId(named.to_owned()));
        let open = view.requests.iter().find(|open| {
            open.answered_by.is_none() && named.as_ref().is_some_and(|id| open.request.id == *id)
        });
        let Some(open) = open else {
            return Err(Failed::Refused(
                "the request that you meant is closed, or was answered already. Nothing was done"
                    .to_owned(),
            ));
        };
        let answer = AnswerRequest {
            task: self.task,
            request: open.request.id.clone(),
            answer: make(&open.request),
        };
        self.tree.answer(&self.who, answer).await?;
        Ok(Reply::Sign("✅"))
    }

    async fn invite(&self, user: &str) -> Result<Reply, String> {
        let rooms = &self.wires.ports.rooms;
        let row = rooms.memory().row(self.task).await;
        let Some(room) = row.map_err(|e| e.to_string())?.room else {
            return Err("there is no room yet".to_owned());
        };
        match rooms.invite(room, user.to_owned()).await {
            Ok(()) => Ok(Reply::Sign("✅")),
            Err(error) => Err(format!("{user} could not be invited: {error}")),
        }
    }

    async fn view(&self) -> Result<TaskView, TreeError> {
        let query = StatusQuery {
            task: self.task,
            since: None,
            events_limit: 0,
            wait_for: WaitFor::Nothing,
            wait_ms: 0,
        };
        let status = self.tree.status(&self.who, query).await;
        status.map(|status| status.view)
    }

    async fn files(&self) -> Result<Reply, String> {
        let query = FilesQuery {
            task: self.task,
            prefix: String::new(),
            offset: 0,
            limit: FILES,
        };
        let list = self.tree.files(&self.who, query).await;
        let list = list.map_err(|e| e.to_string())?;
        let mut lines: Vec<String> = list
            .files
            .iter()
            .map(|file| words::one_line(&file.path))
            .collect();
        let more = list.total.saturating_sub(lines.len() as u64);
        if more > 0 {
            lines.push(format!("… {more} more"));
        }
        if lines.is_empty() {
            return Ok(words("the workdir has no files yet"));
        }
        Ok(Reply::Words(vec![Piece::Pre(lines.join("\n"))]))
    }

    async fn file(&self, kind: TextKind) -> Reply {
        let text = super::text::whole(&self.wires, self.task, kind).await;
        match kind {
            TextKind::Patch if text.is_empty() => {
                words("the diff is made when the task ends. !files lists what there is now")
            }
            TextKind::Output if text.is_empty() => words("the worker has said nothing yet"),
            TextKind::Patch => Reply::File("changes.patch", text),
            TextKind::Output => Reply::File("worker.log", text),
        }
    }
}

/// Sends an answer under a key of its own, to an event; in the thread of the command, else of the room.
async fn send(
    wires: &Wires,
    task: TaskId,
    room: String,
    (key, to): (String, String),
    (thread, root): (Option<String>, Option<String>),
    reply: &Reply,
) -> Result<(), RoomError> {
    let rooms = &wires.ports.rooms;
    match reply {
        Reply::Sign(sign) => {
            let sign = Sign {
                key,
                must: true,
                to,
                sign: (*sign).to_owned(),
            };
            rooms.react(room, sign).await
        }
        Reply::Words(body) => {
            let post = Post {
                key,
                must: true,
                call: Vec::new(),
                loud: false,
                place: thread.map_or(Place::Room, Place::Thread),
                body: body.clone(),
                about: words::about(task, "reply"),
            };
            rooms.post(room, post).await.map(drop)
        }
        Reply::File(name, text) => {
            let file = Attachment {
                must: true,
                key,
                thread: thread.or(root).unwrap_or_default(),
                name: (*name).to_owned(),
                text: text.clone(),
                about: words::about(task, "file"),
            };
            rooms.attach(room, file).await
        }
    }
}

/// An answer by number, by label, or in free words; the same to each of several questions.
fn chosen(request: &Request, text: &str) -> Answer {
    let questions = match &request.kind {
        RequestKind::Permission { .. } => &Vec::new(),
        RequestKind::Question { questions } => questions,
    };
    let number: Option<usize> = text.trim().parse().ok();
    let choices = questions.iter().map(|question| {
        let by_number = number
            .and_then(|n| n.checked_sub(1))
            .and_then(|index| question.options.get(index));
        vec![by_number.cloned().unwrap_or_else(|| text.to_owned())]
    });
    Answer::Choices {
        choices: choices.collect(),
    }
}
