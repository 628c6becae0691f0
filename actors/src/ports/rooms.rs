//! The rooms in which people watch a task and steer it: what is asked of a homeserver, and what is remembered of each room.
//!
//! In: plain posts, reactions, names. Out: ids of what was sent, pages of what was said, signals that there is news.
//! Every call may be repeated: a post, a file or a reaction with a key that was used before is the one from before.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PortFuture;
use crate::id::{EventNumber, TaskId, WallTime};
use crate::view::HealthState;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomError {
    /// The homeserver takes no more for now.
    #[error("the homeserver limits how much may be sent; goes on in {} ms", .0.as_millis())]
    Later(Duration),
    /// Trying again may help.
    #[error("{0}")]
    Transient(String),
    /// It will not.
    #[error("{0}")]
    Permanent(String),
    /// The login is not valid any more: nothing works until an operator mends it.
    #[error("{0}")]
    LoginLost(String),
}

/// A part of a message. What comes from a task is never formatting, except in [`Piece::Markdown`], whose HTML is shown as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it is; line breaks are kept.
    Text(String),
    /// Emphasised.
    Bold(String),
    /// In one line, in a fixed width.
    Code(String),
    /// Several lines in a fixed width.
    Pre(String),
    /// Formatted text of the worker.
    Markdown(String),
    /// A new line.
    Break,
}

/// Where a post goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The room itself.
    Room,
    /// The thread under this event.
    Thread(String),
    /// In place of what this event said so far.
    Edit(String),
}

/// Something to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Makes a repeat harmless.
    pub key: String,
    /// Must arrive: goes before progress where the homeserver limits what is sent.
    pub must: bool,
    /// Who is called to the room by it; nobody = it makes no sound at all.
    pub call: Vec<String>,
    /// It is a message, not a notice.
    pub loud: bool,
    /// Where.
    pub place: Place,
    /// What people read.
    pub body: Vec<Piece>,
    /// What machines read.
    pub about: Map<String, Value>,
}

/// A file for a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Makes a repeat harmless.
    pub key: String,
    /// Somebody asked for it: goes before what nobody waits for.
    pub must: bool,
    /// The event that the thread hangs on.
    pub thread: String,
    /// File name.
    pub name: String,
    /// Its content.
    pub text: String,
    /// What machines read.
    pub about: Map<String, Value>,
}

/// A room to be made, or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRoom {
    /// Whose room: decides its alias.
    pub task: TaskId,
    /// Name.
    pub name: String,
    /// Topic.
    pub topic: String,
    /// Who may steer: their power is [`STEER`].
    pub steer: Vec<String>,
    /// The state event that machines read.
    pub about: Map<String, Value>,
}

/// A sign under an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// Makes a repeat harmless.
    pub key: String,
    /// Must arrive: goes before what only makes a room handier.
    pub must: bool,
    /// The event.
    pub to: String,
    /// An emoji.
    pub sign: String,
}

/// How a room looks. Saying the same again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dress {
    /// Name.
    pub name: String,
    /// The state event that machines read.
    pub about: Map<String, Value>,
    /// The event that is pinned.
    pub pinned: Option<String>,
}

/// The power from which a member may steer the task.
pub const STEER: i64 = 50;

/// Somebody in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Matrix user id.
    pub id: String,
    /// Joined; else invited.
    pub joined: bool,
    /// Power level; `None` = no bound (the room's creator).
    pub power: Option<i64>,
    /// It is the bot.
    pub own: bool,
}

/// What somebody said or did in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The event's id.
    pub event: String,
    /// When, as the homeserver says.
    pub at: WallTime,
    /// Who, as the homeserver says.
    pub sender: String,
    /// It is the bot's own.
    pub own: bool,
    /// The sender's power in the room now; `None` = no bound.
    pub power: Option<i64>,
    /// The thread it stands in.
    pub thread: Option<String>,
    /// What.
    pub said: Said,
}

/// What was said or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A message of this `msgtype`.
    Message {
        /// `m.text`, `m.notice`, …
        kind: String,
        /// Plain text.
        body: String,
        /// It replaces an earlier one.
        edit: bool,
        /// Everything that it contains, for machines.
        content: Map<String, Value>,
    },
    /// A sign under an event.
    Reaction {
        /// The event.
        to: String,
        /// The sign.
        sign: String,
    },
    /// The event type for machines, `io.letta.control`.
    Control(Map<String, Value>),
    /// Encrypted, and the bot has no key.
    Unreadable,
}

/// A page of what was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Oldest first.
    pub heard: Vec<Heard>,
    /// Somebody came, went, or may more or less than before.
    pub people_changed: bool,
    /// Where to read on; none at the end.
    pub next: Option<String>,
}

/// What the homeserver's stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomSignal {
    /// The stream is open.
    Up,
    /// Something was said in a room; all of it stands before `upto`.
    News {
        /// The room.
        room: String,
        /// A place in the stream that can be read on from.
        upto: String,
    },
}

/// Takes signals. Never blocks.
pub type RoomSink = Arc<dyn Fn(RoomSignal) + Send + Sync>;

/// The homeserver.
pub trait Rooms: Send + Sync + 'static {
    /// For health.
    fn name(&self) -> String;
    /// Whether anything is configured.
    fn enabled(&self) -> bool;
    /// How it is now, without asking anybody.
    fn health(&self) -> (HealthState, String);
    /// What is remembered of rooms.
    fn memory(&self) -> Arc<dyn RoomMemory>;
    /// How long to leave between two progress posts of one room.
    fn pace(&self) -> Duration;
    /// Logs in if needed and delivers what the stream says until it breaks.
    fn listen(&self, sink: RoomSink) -> PortFuture<'_, Result<(), RoomError>>;
    /// Makes the task's room, or finds it. The room's id.
    fn open(&self, room: OpenRoom) -> PortFuture<'_, Result<String, RoomError>>;
    /// Says something. The event's id.
    fn post(&self, room: String, post: Post) -> PortFuture<'_, Result<String, RoomError>>;
    /// Puts a file into a thread.
    fn attach(&self, room: String, file: Attachment) -> PortFuture<'_, Result<(), RoomError>>;
    /// Puts a sign under an event; a sign that is there already is fine.
    fn react(&self, room: String, sign: Sign) -> PortFuture<'_, Result<(), RoomError>>;
    /// Name, state for machines, pinned event.
    fn dress(&self, room: String, dress: Dress) -> PortFuture<'_, Result<(), RoomError>>;
    /// Nobody may write any more, and the room leaves the space of live tasks.
    fn close(&self, room: String) -> PortFuture<'_, Result<(), RoomError>>;
    /// The bot leaves and forgets the room; one that it is not in is fine.
    fn leave(&self, room: String) -> PortFuture<'_, Result<(), RoomError>>;
    /// What was said after `from` (from the beginning without it).
    fn read(&self, room: String, from: Option<String>) -> PortFuture<'_, Result<Page, RoomError>>;
    /// Who is in the room or invited.
    fn people(&self, room: String) -> PortFuture<'_, Result<Vec<Person>, RoomError>>;
    /// Invites somebody; who is there already is fine.
    fn invite(&self, room: String, user: String) -> PortFuture<'_, Result<(), RoomError>>;
    /// Gives somebody this power; who has it is fine.
    fn empower(
        &self,
        room: String,
        user: String,
        power: i64,
    ) -> PortFuture<'_, Result<(), RoomError>>;
    /// Removes somebody; who is not there is fine.
    fn remove(
        &self,
        room: String,
        user: String,
        reason: String,
    ) -> PortFuture<'_, Result<(), RoomError>>;
}

/// What is remembered of a task's room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomRow {
    /// The room's id, once it is known.
    pub room: Option<String>,
    /// Nothing more will be said in it; since when.
    pub closed: Option<WallTime>,
    /// Read up to here, every command taken.
    pub heard: Option<String>,
    /// The room actor's own record, as JSON; empty at first.
    pub record: String,
}

/// Something that a person asked for in a room, durable before it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenCommand {
    /// The Matrix event: no two rows have the same.
    pub event: String,
    /// Who asked.
    pub sender: String,
    /// What, as the room actor wrote it (JSON).
    pub wish: String,
    /// It was begun before: it may have been done.
    pub begun: bool,
}

/// Why the memory of rooms failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is remembered of rooms cannot be used: {0}")]
pub struct RoomMemoryError(pub String);

/// What is remembered of rooms. Every write is durable when it returns.
pub trait RoomMemory: Send + Sync + 'static {
    /// All rooms: task, row (without its record).
    fn all(&self) -> PortFuture<'_, Result<Vec<(TaskId, RoomRow)>, RoomMemoryError>>;
    /// One room; an empty row when there is none.
    fn row(&self, task: TaskId) -> PortFuture<'_, Result<RoomRow, RoomMemoryError>>;
    /// Writes room, closed and record, and moves the task's cursor `told` (named as given) in the same transaction.
    fn save(
        &self,
        task: TaskId,
        row: RoomRow,
        cursor: (String, EventNumber),
    ) -> PortFuture<'_, Result<(), RoomMemoryError>>;
    /// Takes commands that were not taken before, and says that everything up to `heard` was, in the same transaction.
    fn take(
        &self,
        task: TaskId,
        commands: Vec<TakenCommand>,
        heard: Option<String>,
    ) -> PortFuture<'_, Result<(), RoomMemoryError>>;
    /// Commands that are taken and not done, in the order in which they were taken.
    fn open(&self, task: TaskId) -> PortFuture<'_, Result<Vec<TakenCommand>, RoomMemoryError>>;
    /// A command is about to be done.
    fn begin(&self, event: String) -> PortFuture<'_, Result<(), RoomMemoryError>>;
    /// A command is done; with what was answered.
    fn done(&self, event: String, outcome: String) -> PortFuture<'_, Result<(), RoomMemoryError>>;
    /// Keeps the conversation of a task's room, as JSON, in place of an earlier one.
    fn keep_archive(
        &self,
        task: TaskId,
        json: String,
    ) -> PortFuture<'_, Result<(), RoomMemoryError>>;
    /// The conversation that was kept. It is kept as long as the task, also when the room is left.
    fn archive(&self, task: TaskId) -> PortFuture<'_, Result<Option<String>, RoomMemoryError>>;
    /// Deletes all that is known of a task's room.
    fn forget(&self, task: TaskId) -> PortFuture<'_, Result<(), RoomMemoryError>>;
}
