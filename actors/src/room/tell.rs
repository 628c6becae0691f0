//! Tells a room what happened, from what is durable: makes the room, shows and edits the status, tells events, ends it.
//!
//! In: the room's row and record, the task's view and events. Out: posts with keys that make a repeat harmless, and the
//! record moved on after each. It may be cut anywhere and called again: what was sent has the same key and text then.

mod invite;

use std::sync::Arc;

use crate::command::TextKind;
use crate::crash::CrashPoint;
use crate::event::{CommittedEvent, Event};
use crate::id::{EventNumber, TaskId};
use crate::ports::{
    Attachment, Dress, JournalError, OpenRoom, Piece, Place, Post, RoomError, RoomMemory,
    RoomMemoryError, RoomRow, Rooms, Sign,
};
use crate::rooms::RoomsMsg;
use crate::view::TaskView;
use crate::wiring::Wires;

use super::command::{APPROVE, CANCEL, PAUSE, RESUME};
use super::record::{Record, cursor};
use super::text::whole;
use super::words::{self, Say};

pub(super) use invite::Uninvited;

/// Events that are looked at in one go.
const PAGE: u64 = 500;
/// Edits of one status post; a fresh one is made then, because clients load every edit.
const EDITS: u32 = 100;
/// Bytes of output in one message.
const SHOWN: u64 = 3_000;

/// How far a call got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The room, once there is one.
    pub(crate) room: Option<String>,
    /// Told up to here.
    pub(crate) upto: EventNumber,
    /// Observations or output were told.
    pub(crate) batch: bool,
    /// There is more to tell.
    pub(crate) more: bool,
    /// Everything is told and nobody can write any more; what was said before is still to be answered.
    pub(crate) shut: bool,
    /// The room is done.
    pub(crate) closed: bool,
    /// The task has not ended: the status changes by itself.
    pub(crate) lives: bool,
    /// Why the rest was not told.
    pub(crate) behind: Option<RoomError>,
}

/// What a call may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Observations and output may be told.
    pub(super) batch: bool,
    /// The status may be edited although only its times changed.
    pub(super) refresh: bool,
    /// Everything that was said is answered.
    pub(super) answered: bool,
}

impl From<JournalError> for RoomError {
    fn from(error: JournalError) -> Self {
        Self::Transient(error.to_string())
    }
}

impl From<RoomMemoryError> for RoomError {
    fn from(error: RoomMemoryError) -> Self {
        Self::Transient(error.to_string())
    }
}

/// One call.
pub(super) async fn tell(
    wires: Wires,
    task: TaskId,
    turn: Turn,
    uninvited: Uninvited,
) -> Result<Told, RoomError> {
    let memory = wires.ports.rooms.memory();
    let row = memory.row(task).await?;
    if row.closed.is_some() {
        return Ok(Told {
            room: row.room,
            closed: true,
            ..Told::default()
        });
    }
    let Some(view) = wires.ports.journal.task(task).await? else {
        // It was forgotten meanwhile.
        return Ok(Told {
            closed: true,
            ..Told::default()
        });
    };
    let record = Record::read(&row.record)?;
    let mut teller = Teller {
        rooms: Arc::clone(&wires.ports.rooms),
        memory,
        room: String::new(),
        row,
        record,
        view,
        task,
        wires,
    };
    teller.open().await?;
    let mut told = Told {
        room: Some(teller.room.clone()),
        ..Told::default()
    };
    // First of all: in an encrypted room who is not invited yet gets no key for what is said.
    teller.invite(&uninvited).await?;
    if teller.record.statuses.is_empty() {
        // The threads hang on it.
        teller.show(turn).await?;
    }
    // What must arrive does not wait behind what is only kept current, which a limit holds back first.
    let events = teller.events(turn, &mut told).await;
    told.upto = teller.record.told;
    told.lives = !teller.view.phase.is_final();
    told.behind = match events {
        Ok(()) => match teller.keep_current(turn).await {
            // What is only kept current does not hold up the end.
            Err(RoomError::Permanent(why)) => {
                tracing::debug!(%task, why, "the status of the task's room cannot be kept current");
                None
            }
            other => other.err(),
        },
        Err(error) => Some(error),
    };
    if told.behind.is_some() {
        return Ok(told);
    }
    if told.lives && turn.batch && !told.more {
        told.batch |= teller.output().await?;
    }
    if !told.lives && !told.more && teller.record.told >= teller.view.last_event {
        // A file that cannot be uploaded holds up nothing: only the row stays open, so that it is tried again.
        told.behind = teller.files().await.err();
        teller.shut().await?;
        told.shut = true;
        if turn.answered && told.behind.is_none() {
            teller.close().await?;
            told.closed = true;
        }
    }
    Ok(told)
}

struct Teller {
    wires: Wires,
    rooms: Arc<dyn Rooms>,
    memory: Arc<dyn RoomMemory>,
    task: TaskId,
    room: String,
    row: RoomRow,
    record: Record,
    view: TaskView,
}

impl Teller {
    async fn save(&mut self) -> Result<(), RoomError> {
        self.row.record = self.record.write();
        let cursor = (cursor(self.task), self.record.told);
        self.memory
            .save(self.task, self.row.clone(), cursor)
            .await?;
        Ok(())
    }

    async fn post(&self, post: Post) -> Result<String, RoomError> {
        CrashPoint::BeforeRoomPost.pass();
        let event = self.rooms.post(self.room.clone(), post).await?;
        CrashPoint::AfterRoomPost.pass();
        Ok(event)
    }

    /// Posts something that others wait behind: where the homeserver refuses it for good, one line in its place.
    async fn post_or_say_so(&self, post: Post) -> Result<String, RoomError> {
        match self.post(post.clone()).await {
            Err(RoomError::Permanent(why)) => {
                tracing::warn!(task = %self.task, key = post.key, why, "the homeserver refuses a post; its room is told so in a line");
                let instead = Post {
                    key: format!("{}.instead", post.key),
                    body: words::instead(&post),
                    ..post
                };
                self.post(instead).await
            }
            other => other,
        }
    }

    /// Makes the room, or finds the one of an earlier life.
    async fn open(&mut self) -> Result<(), RoomError> {
        if let Some(room) = &self.row.room {
            self.room.clone_from(room);
            return Ok(());
        }
        let settings = &self.wires.settings.rooms;
        let open = OpenRoom {
            task: self.task,
            name: words::name(self.task, self.view.phase),
            topic: words::topic(&self.view),
            steer: settings.steering(&self.view),
            about: words::state(&self.view),
        };
        self.record.worn.clone_from(&open.name);
        CrashPoint::BeforeRoomOpen.pass();
        self.room = self.rooms.open(open).await?;
        CrashPoint::AfterRoomOpen.pass();
        self.row.room = Some(self.room.clone());
        self.save().await?;
        // What people say is heard from here on, also while the homeserver limits what is told.
        self.wires.rooms.tell(RoomsMsg::Opened {
            task: self.task,
            room: self.room.clone(),
        });
        Ok(())
    }

    /// The status, its buttons, the room's name and state.
    async fn keep_current(&mut self, turn: Turn) -> Result<(), RoomError> {
        self.show(turn).await?;
        self.buttons().await?;
        self.dress().await
    }

    /// The status: a first post, an edit when it says something else, a fresh post after many edits.
    async fn show(&mut self, turn: Turn) -> Result<(), RoomError> {
        let (body, said) = words::status(&self.view, self.wires.now());
        let same = said == self.record.said;
        if same && !turn.refresh && !self.record.statuses.is_empty() {
            return Ok(());
        }
        let fresh = self.record.statuses.is_empty() || self.record.edits >= EDITS;
        let place = match self.record.statuses.last() {
            Some(last) if !fresh => Place::Edit(last.clone()),
            Some(_) | None => Place::Room,
        };
        // A number is given to one text only: a repeat after a crash takes the next one, and an edit says it all again.
        // A fresh post keeps its number until it is known to be there, so that it is never there twice.
        let rev = self.record.rev + 1;
        if !fresh {
            self.record.rev = rev;
            self.save().await?;
        }
        let mut about = words::about(self.task, "status_change");
        about.insert("rev".to_owned(), rev.into());
        about.insert("status".to_owned(), self.view.phase.status().into());
        about.insert("phase".to_owned(), self.view.phase.as_str().into());
        let event = self
            .post(Post {
                key: format!("{}.status.{rev}", self.task),
                must: fresh,
                call: Vec::new(),
                loud: false,
                place,
                body,
                about,
            })
            .await?;
        if fresh {
            self.record.rev = rev;
            self.record.edits = 0;
            self.record.statuses.push(event);
        } else {
            self.record.edits += 1;
        }
        self.record.said = said;
        self.save().await
    }

    /// The signs under the newest status that work as buttons, and its pin.
    async fn buttons(&mut self) -> Result<(), RoomError> {
        let newest = self.record.statuses.last().cloned();
        if newest == self.record.buttons || self.view.phase.is_final() {
            return Ok(());
        }
        if let Some(status) = &newest {
            for sign in [PAUSE, RESUME, CANCEL] {
                self.sign(status, sign, false).await?;
            }
        }
        self.wear().await?;
        self.record.buttons = newest;
        self.save().await
    }

    async fn sign(&self, event: &str, sign: &str, must: bool) -> Result<(), RoomError> {
        let sign = Sign {
            key: format!("{}.{event}.{sign}", self.task),
            must,
            to: event.to_owned(),
            sign: sign.to_owned(),
        };
        self.rooms.react(self.room.clone(), sign).await
    }

    /// Name and state for machines, when the phase is another one.
    async fn dress(&mut self) -> Result<(), RoomError> {
        if self.record.worn == words::name(self.task, self.view.phase) {
            return Ok(());
        }
        self.wear().await?;
        self.save().await
    }

    async fn wear(&mut self) -> Result<(), RoomError> {
        let name = words::name(self.task, self.view.phase);
        let dress = Dress {
            name: name.clone(),
            about: words::state(&self.view),
            pinned: self.record.statuses.last().cloned(),
        };
        self.rooms.dress(self.room.clone(), dress).await?;
        self.record.worn = name;
        Ok(())
    }

    /// Tells what happened after what was told: single events one by one, runs of observations in one notice.
    async fn events(&mut self, turn: Turn, told: &mut Told) -> Result<(), RoomError> {
        let after = self.record.told;
        let journal = &self.wires.ports.journal;
        let mut events = journal.events(self.task, after, 0, PAGE).await?;
        let full = events.len() as u64 == PAGE;
        if !self.view.phase.is_final() {
            // What is newer than the view is told with a view that knows it.
            events.retain(|event| event.number <= self.view.last_event);
        }
        let mut rest = events.as_slice();
        while let Some(first) = rest.first() {
            if first.event.is_lifecycle() && self.record.telling.is_none() {
                self.event(first).await?;
                rest = &rest[1..];
                continue;
            }
            let run = match self.record.telling {
                Some(upto) => rest.iter().take_while(|e| e.number <= upto).count(),
                None => rest.iter().take_while(|e| !e.event.is_lifecycle()).count(),
            };
            let (batch, after) = rest.split_at(run.max(1));
            // A batch waits for its time, unless something that matters comes after it.
            if after.is_empty() && !turn.batch && !full && self.record.telling.is_none() {
                break;
            }
            told.batch |= self.batch(batch).await?;
            rest = after;
        }
        told.more = full;
        Ok(())
    }

    /// One event.
    async fn event(&mut self, committed: &CommittedEvent) -> Result<(), RoomError> {
        let ours = self.carry(&committed.event).await?;
        let number = committed.number;
        let key = format!("{}.event.{number}", self.task);
        let about = words::about_event(self.task, number, &committed.event);
        match words::say(&committed.event, &self.view, ours) {
            Say::Nothing | Say::Lines(_) => {}
            Say::Thread(body) => {
                let post = self.notice(key, body, about);
                self.post_or_say_so(Post { must: true, ..post }).await?;
            }
            Say::Call(body) => {
                let post = Post {
                    key,
                    must: true,
                    call: self.wires.settings.rooms.called(&self.view),
                    loud: true,
                    place: Place::Room,
                    body,
                    about,
                };
                let event = self.post_or_say_so(post).await?;
                self.called(committed, event).await?;
            }
        }
        self.record.told = number;
        self.save().await
    }

    fn notice(
        &self,
        key: String,
        body: Vec<Piece>,
        about: serde_json::Map<String, serde_json::Value>,
    ) -> Post {
        Post {
            key,
            must: false,
            call: Vec::new(),
            loud: false,
            place: self.thread(),
            body,
            about,
        }
    }

    fn thread(&self) -> Place {
        self.record
            .root()
            .map_or(Place::Room, |root| Place::Thread(root.clone()))
    }

    /// Keeps in mind which messages came from this room, and shows there that the worker took one up.
    async fn carry(&mut self, event: &Event) -> Result<bool, RoomError> {
        match event {
            Event::MessageReceived {
                message_id, from, ..
            } => {
                let Some(heard) = super::hear::event_of(&from.0) else {
                    return Ok(false);
                };
                self.record
                    .carried
                    .insert(message_id.clone(), heard.to_owned());
                Ok(true)
            }
            Event::MessageTakenUp { message_id } => {
                let Some(heard) = self.record.carried.get(message_id).cloned() else {
                    return Ok(false);
                };
                self.sign(&heard, "👀", true).await?;
                self.record.carried.remove(message_id);
                Ok(true)
            }
            Event::MessageDropped { message_id, .. } => {
                Ok(self.record.carried.remove(message_id).is_some())
            }
            Event::RequestClosed { request, .. } => {
                self.record.requests.retain(|(_, open)| *open != request.0);
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// What follows a call: buttons under a request.
    async fn called(&mut self, committed: &CommittedEvent, post: String) -> Result<(), RoomError> {
        if let Event::RequestOpened { request, .. } = &committed.event {
            // Known before its buttons are there: a sign of somebody who is faster than the homeserver's limit counts.
            let shown = (post.clone(), request.id.0.clone());
            if !self.record.requests.contains(&shown) {
                self.record.requests.push(shown);
                self.save().await?;
            }
            for sign in [APPROVE, CANCEL] {
                self.sign(&post, sign, true).await?;
            }
        }
        Ok(())
    }

    /// The patch and the whole log, as files of the thread. Which ones are there is in the record of a room that is not
    /// closed, so what is missing after a crash comes then.
    async fn files(&mut self) -> Result<(), RoomError> {
        let Some(root) = self.record.root().cloned() else {
            return Ok(());
        };
        for (name, kind) in [
            ("changes.patch", TextKind::Patch),
            ("worker.log", TextKind::Output),
        ] {
            if self.record.files.iter().any(|there| there == name) {
                continue;
            }
            let text = whole(&self.wires, self.task, kind).await;
            if text.trim().is_empty() {
                continue;
            }
            let file = Attachment {
                must: false,
                key: format!("{}.file.{name}", self.task),
                thread: root.clone(),
                name: name.to_owned(),
                text,
                about: words::about(self.task, "file"),
            };
            match self.rooms.attach(self.room.clone(), file).await {
                Ok(()) => {}
                // The end is told without it; it can be had from the task's artifacts.
                Err(RoomError::Permanent(why)) => {
                    tracing::warn!(task = %self.task, name, why, "a file is not put into the task's room");
                }
                Err(error) => return Err(error),
            }
            self.record.files.push(name.to_owned());
            self.save().await?;
        }
        Ok(())
    }

    /// Observations in one notice. Which ones is durable first: a repeat tells the same.
    async fn batch(&mut self, batch: &[CommittedEvent]) -> Result<bool, RoomError> {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
            return Ok(false);
        };
        let lines: Vec<Vec<Piece>> = batch
            .iter()
            .flat_map(|one| match words::say(&one.event, &self.view, false) {
                Say::Lines(lines) => lines,
                Say::Nothing | Say::Thread(_) | Say::Call(_) => Vec::new(),
            })
            .collect();
        let silent = lines.is_empty();
        if !silent {
            if self.record.telling != Some(last.number) {
                self.record.telling = Some(last.number);
                self.save().await?;
            }
            let key = format!("{}.events.{}", self.task, first.number);
            let about = words::about_event(self.task, last.number, &last.event);
            let post = self.notice(key, words::lines(lines), about);
            self.post_or_say_so(post).await?;
        }
        self.record.told = last.number;
        self.record.telling = None;
        self.save().await?;
        Ok(!silent)
    }

    /// What the worker said since the last time. Whoever falls behind reads the newest part.
    async fn output(&mut self) -> Result<bool, RoomError> {
        let store = &self.wires.ports.output;
        let lost = |error: crate::ports::OutputError| RoomError::Transient(error.to_string());
        let from = self.record.output;
        let limit = match self.record.showing {
            Some(upto) => upto.saturating_sub(from),
            None => SHOWN,
        };
        let mut chunk = store.read(self.task, from, limit).await.map_err(lost)?;
        if self.record.showing.is_none() && chunk.total.saturating_sub(from) > 2 * SHOWN {
            let from = chunk.total - SHOWN;
            chunk = store.read(self.task, from, SHOWN).await.map_err(lost)?;
        }
        if chunk.next_offset <= from || chunk.text.trim().is_empty() {
            return Ok(false);
        }
        self.record.output = chunk.offset;
        self.record.showing = Some(chunk.next_offset);
        self.save().await?;
        let key = format!("{}.output.{}", self.task, chunk.offset);
        let body = vec![Piece::Text(chunk.text)];
        let post = self.notice(key, body, words::about(self.task, "output"));
        self.post_or_say_so(post).await?;
        self.record.output = chunk.next_offset;
        self.record.showing = None;
        self.save().await?;
        Ok(true)
    }

    /// Everything is told: nobody writes any more.
    async fn shut(&mut self) -> Result<(), RoomError> {
        if self.record.shut {
            return Ok(());
        }
        CrashPoint::BeforeRoomClose.pass();
        self.rooms.close(self.room.clone()).await?;
        CrashPoint::AfterRoomClose.pass();
        self.record.shut = true;
        self.save().await
    }

    async fn close(&mut self) -> Result<(), RoomError> {
        self.row.closed = Some(self.wires.now());
        self.save().await
    }
}
