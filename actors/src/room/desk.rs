//! What planners ask about a task's room: who watches it, whom to add or remove, the conversation as a file.
//!
//! In: a question with the task's view. Out: an answer, or why there is none. Runs as a job of the rooms supervisor, beside
//! the room actor: it changes who is in a room, never what is said there, except for the summary of an archive.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::error::TreeError;
use crate::ports::{Heard, Person, Piece, Place, Post, RoomError, Rooms, STEER, Said};
use crate::view::TaskView;
use crate::wiring::Wires;

use super::words;

/// Messages of one archive.
const MOST: usize = 20_000;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomQuestion {
    /// Who is in the room or invited.
    People,
    /// Add somebody.
    Add {
        /// Matrix user.
        user: String,
        /// With the power to steer.
        steer: bool,
    },
    /// Remove somebody.
    Remove {
        /// Matrix user.
        user: String,
    },
    /// Write the conversation down.
    Archive {
        /// Said in the room, and put in front of the archive.
        summary: Option<String>,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomAnswer {
    /// The room's id.
    pub room: String,
    /// Who is in it or invited, without the bot; of an archive, who said something.
    pub people: Vec<Person>,
    /// Messages in the archive.
    pub messages: u64,
}

impl From<RoomError> for TreeError {
    fn from(error: RoomError) -> Self {
        Self::Room(format!("the homeserver did not do it: {error}"))
    }
}

/// Answers one question.
pub(crate) async fn answer(
    wires: Wires,
    view: TaskView,
    question: RoomQuestion,
) -> Result<RoomAnswer, TreeError> {
    let rooms = &wires.ports.rooms;
    let memory = rooms.memory();
    let row = memory.row(view.id).await.map_err(RoomError::from)?;
    let Some(room) = row.room else {
        return Err(TreeError::Room(
            "the room of this task is not made yet; try again in a few seconds".to_owned(),
        ));
    };
    match question {
        RoomQuestion::People => {}
        RoomQuestion::Add { user, steer } => {
            rooms.invite(room.clone(), user.clone()).await?;
            rooms
                .empower(room.clone(), user, if steer { STEER } else { 0 })
                .await?;
        }
        RoomQuestion::Remove { user } => {
            let reason = "removed by the planner".to_owned();
            rooms.empower(room.clone(), user.clone(), 0).await?;
            rooms.remove(room.clone(), user, reason).await?;
        }
        RoomQuestion::Archive { summary } => {
            return archive(&wires, &view, room, summary).await;
        }
    }
    let mut people = rooms.people(room.clone()).await?;
    // The bot watches nothing: it cannot be added or removed.
    people.retain(|person| !person.own);
    Ok(RoomAnswer {
        room,
        people,
        messages: 0,
    })
}

async fn archive(
    wires: &Wires,
    view: &TaskView,
    room: String,
    summary: Option<String>,
) -> Result<RoomAnswer, TreeError> {
    let rooms = &wires.ports.rooms;
    if let Some(summary) = &summary {
        // The same summary again is the same message.
        let body = vec![
            Piece::Bold("Summary: ".to_owned()),
            Piece::Text(words::shorten(summary, 8_000)),
        ];
        let post = Post {
            key: format!("{}.summary.{}", view.id, mark_of(summary)),
            must: true,
            call: Vec::new(),
            loud: false,
            place: Place::Room,
            body,
            about: words::about(view.id, "summary"),
        };
        rooms.post(room.clone(), post).await?;
    }
    let messages = messages(rooms, &room).await?;
    let mut people: Vec<Person> = Vec::new();
    for one in &messages {
        if let Some(sender) = one["sender"].as_str()
            && !people.iter().any(|person| person.id == sender)
        {
            people.push(Person {
                id: sender.to_owned(),
                joined: true,
                power: None,
                own: false,
            });
        }
    }
    let count = messages.len() as u64;
    let archive = json!({
        "task_id": view.id.to_string(),
        "room_id": room,
        "status": view.phase.status(),
        "summary": summary,
        "messages": messages,
    });
    let memory = rooms.memory();
    memory
        .keep_archive(view.id, archive.to_string())
        .await
        .map_err(RoomError::from)?;
    Ok(RoomAnswer {
        room,
        people,
        messages: count,
    })
}

/// The same for the same text, in this and in every other version (FNV-1a).
fn mark_of(text: &str) -> String {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, mix))
}

/// Everything that was said in the room, as it stood first, with reactions and edits as messages of their own.
async fn messages(rooms: &Arc<dyn Rooms>, room: &str) -> Result<Vec<Value>, TreeError> {
    let mut all = Vec::new();
    let mut from = None;
    loop {
        let page = rooms.read(room.to_owned(), from).await?;
        all.extend(page.heard.iter().map(message));
        match page.next {
            Some(next) if all.len() < MOST => from = Some(next),
            Some(_) | None => return Ok(all),
        }
    }
}

fn message(heard: &Heard) -> Value {
    let (kind, text) = match &heard.said {
        Said::Message {
            kind, body, edit, ..
        } => (if *edit { "edit" } else { kind.as_str() }, body.clone()),
        Said::Reaction { to, sign } => ("reaction", format!("{sign} under {to}")),
        Said::Control(content) => ("control", Value::Object(content.clone()).to_string()),
        Said::Unreadable => ("encrypted", "cannot be read".to_owned()),
    };
    json!({
        "event_id": heard.event,
        "sender": heard.sender,
        "at": heard.at.0,
        "type": kind,
        "thread": heard.thread,
        "text": text,
    })
}

/// The archive for people: one line or more for each message, edits left out.
pub(crate) fn as_text(archive: &str) -> String {
    let archive: Value = serde_json::from_str(archive).unwrap_or_default();
    let mut text = format!(
        "Task {} ({})\n",
        archive["task_id"].as_str().unwrap_or_default(),
        archive["status"].as_str().unwrap_or_default()
    );
    if let Some(summary) = archive["summary"].as_str() {
        text.push_str(&format!("Summary: {summary}\n"));
    }
    for message in archive["messages"].as_array().into_iter().flatten() {
        if message["type"] == "edit" {
            continue;
        }
        text.push_str(&format!(
            "\n[{}] {}: {}\n",
            message["at"],
            message["sender"].as_str().unwrap_or_default(),
            message["text"].as_str().unwrap_or_default()
        ));
    }
    text
}
