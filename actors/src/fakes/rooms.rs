//! A fake homeserver with the memory of rooms beside it. In: a mode, what people say. Out: what was told, what was taken.
//!
//! It keeps what a real one keeps: a key that was used before gives the event from before, a room is found again by its
//! task, what was said is read in pages from a place.

mod memory;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::trouble::{Trouble, lock};
use super::{FakeClock, OutwardMode, PortCall};
use crate::id::TaskId;
use crate::ports::{
    Attachment, Clock as _, Dress, Heard, OpenRoom, Page, Person, PortFuture, Post, RoomError,
    RoomMemory, RoomMemoryError, RoomRow, RoomSignal, RoomSink, Rooms, Said, Sign, TakenCommand,
};
use crate::view::HealthState;

/// The bot's own user.
const BOT: &str = "@bot:fake";

/// Events of one page: few, so that there is more than one.
const PAGE: usize = 3;

/// One room.
#[derive(Clone, Debug, Default)]
struct FakeRoom {
    keys: HashMap<String, String>,
    posts: Vec<(String, Post)>,
    files: Vec<Attachment>,
    signs: Vec<(String, String)>,
    dress: Option<Dress>,
    /// What was said, in order; none = somebody came or went.
    said: Vec<Option<Heard>>,
    /// Who has joined, and with what power.
    people: BTreeMap<String, i64>,
    /// Power that was given to somebody, joined or not.
    powers: BTreeMap<String, i64>,
    /// Whom the bot tried to invite, in order, and whether it could.
    invited: Vec<(String, bool)>,
    shut: bool,
    left: bool,
    opened: Option<OpenRoom>,
}

/// Whether a post is of some kind.
type Fits = fn(&Post) -> bool;

/// A command, whose it is, and what was answered.
type Row = (TaskId, TakenCommand, Option<String>);

#[derive(Default)]
struct Home {
    rooms: BTreeMap<TaskId, FakeRoom>,
    rows: BTreeMap<TaskId, RoomRow>,
    commands: Vec<Row>,
    archives: BTreeMap<TaskId, String>,
    sink: Option<RoomSink>,
    next: u64,
}

impl Home {
    fn event(&mut self) -> String {
        self.next += 1;
        format!("${}", self.next)
    }

    fn room(&mut self, id: &str) -> Option<&mut FakeRoom> {
        let task: TaskId = id.strip_prefix('!')?.parse().ok()?;
        self.rooms.get_mut(&task)
    }
}

/// The homeserver. Cheap to clone.
#[derive(Clone)]
pub struct FakeRooms {
    mode: Arc<Mutex<OutwardMode>>,
    /// Answers of single calls, by name.
    answers: Arc<Mutex<HashMap<&'static str, RoomError>>>,
    /// Why somebody cannot be invited.
    unreachable: Arc<Mutex<HashMap<String, RoomError>>>,
    /// Posts that are never taken.
    refused: Arc<Mutex<Option<Fits>>>,
    home: Arc<Mutex<Home>>,
    trouble: Trouble,
    clock: Arc<FakeClock>,
}

impl std::fmt::Debug for FakeRooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeRooms").finish_non_exhaustive()
    }
}

impl FakeRooms {
    /// A homeserver in this mode, whose clock is this one.
    pub fn new(mode: OutwardMode, trouble: Trouble, clock: Arc<FakeClock>) -> Self {
        Self {
            mode: Arc::new(Mutex::new(mode)),
            answers: Arc::default(),
            unreachable: Arc::default(),
            refused: Arc::default(),
            home: Arc::default(),
            trouble,
            clock,
        }
    }

    /// From now on every call of `what` is answered so; `None` = as it should be.
    pub fn answer(&self, what: &'static str, error: Option<RoomError>) {
        let mut answers = lock(&self.answers);
        match error {
            Some(error) => answers.insert(what, error),
            None => answers.remove(what),
        };
    }

    /// From now on nobody can invite this user; `None` = it is as it should be.
    pub fn unreachable(&self, user: &str, error: Option<RoomError>) {
        let mut unreachable = lock(&self.unreachable);
        match error {
            Some(error) => unreachable.insert(user.to_owned(), error),
            None => unreachable.remove(user),
        };
    }

    /// Whom the bot tried to invite to the task's room, in order, and whether it could.
    pub fn invited(&self, task: TaskId) -> Vec<(String, bool)> {
        let home = lock(&self.home);
        let room = home.rooms.get(&task);
        room.map_or_else(Vec::new, |room| room.invited.clone())
    }

    /// From now on posts like these are refused for good.
    pub fn refuse(&self, fits: Fits) {
        *lock(&self.refused) = Some(fits);
    }

    /// The stream says that the homeserver is there again.
    pub fn up(&self) {
        let sink = lock(&self.home).sink.clone();
        if let Some(sink) = sink {
            sink(RoomSignal::Up);
        }
    }

    /// Behaves otherwise from now on.
    pub fn set(&self, mode: OutwardMode) {
        *lock(&self.mode) = mode;
    }

    /// What was posted to the task's room, in order; repeats left out.
    pub fn posted(&self, task: TaskId) -> Vec<Post> {
        let home = lock(&self.home);
        let room = home.rooms.get(&task);
        room.map_or_else(Vec::new, |room| {
            room.posts.iter().map(|(_, post)| post.clone()).collect()
        })
    }

    /// Signs under events, in order; repeats left out.
    pub fn signs(&self, task: TaskId) -> Vec<(String, String)> {
        let home = lock(&self.home);
        home.rooms
            .get(&task)
            .map_or_else(Vec::new, |room| room.signs.clone())
    }

    /// Names of the files in the room.
    pub fn files(&self, task: TaskId) -> Vec<String> {
        let home = lock(&self.home);
        let files = home.rooms.get(&task).map(|room| room.files.clone());
        files.into_iter().flatten().map(|file| file.name).collect()
    }

    /// Whether nobody can write in the room any more, and whether the bot has left it.
    pub fn ended(&self, task: TaskId) -> (bool, bool) {
        let home = lock(&self.home);
        home.rooms
            .get(&task)
            .map_or((false, false), |room| (room.shut, room.left))
    }

    /// The event of the first post that fits.
    pub fn event_of(&self, task: TaskId, fits: impl Fn(&Post) -> bool) -> Option<String> {
        let home = lock(&self.home);
        let posts = &home.rooms.get(&task)?.posts;
        let found = posts.iter().find(|(_, post)| fits(post));
        found.map(|(event, _)| event.clone())
    }

    /// Commands of the task that were taken, and what was answered to those that are done.
    pub fn commands(&self, task: TaskId) -> Vec<(TakenCommand, Option<String>)> {
        let home = lock(&self.home);
        let of = home.commands.iter().filter(|(of, _, _)| *of == task);
        of.map(|(_, command, done)| (command.clone(), done.clone()))
            .collect()
    }

    /// Somebody says something; `told` = the stream tells of it. The event's id, none without a room.
    pub fn say(
        &self,
        task: TaskId,
        sender: &str,
        power: Option<i64>,
        said: Said,
        told: bool,
    ) -> Option<String> {
        let mut home = lock(&self.home);
        let event = home.event();
        let room = home.rooms.get_mut(&task)?;
        room.said.push(Some(Heard {
            event: event.clone(),
            at: self.clock.now(),
            sender: sender.to_owned(),
            own: false,
            power,
            thread: None,
            said,
        }));
        let upto = room.said.len().to_string();
        let sink = home.sink.clone().filter(|_| told);
        drop(home);
        if let Some(sink) = sink {
            let room = format!("!{task}");
            sink(RoomSignal::News { room, upto });
        }
        Some(event)
    }

    /// Somebody joins with this power, or leaves without one; the stream tells of it. `false` without a room.
    pub fn moves(&self, task: TaskId, user: &str, power: Option<i64>) -> bool {
        let mut home = lock(&self.home);
        let Some(room) = home.rooms.get_mut(&task) else {
            return false;
        };
        match power {
            Some(power) => room.people.insert(user.to_owned(), power),
            None => room.people.remove(user),
        };
        room.said.push(None);
        let place = room.said.len();
        let sink = home.sink.clone();
        drop(home);
        if let Some(sink) = sink {
            let room = format!("!{task}");
            let upto = place.to_string();
            sink(RoomSignal::News { room, upto });
        }
        true
    }

    /// Somebody with the power to steer types something.
    pub fn types(&self, task: TaskId, text: &str) -> Option<String> {
        let said = Said::Message {
            kind: "m.text".to_owned(),
            body: text.to_owned(),
            edit: false,
            content: serde_json::Map::new(),
        };
        self.say(task, "@anna:fake", Some(50), said, true)
    }

    /// Somebody joins with the power that was given; the stream tells of it. `false` without a room.
    pub fn joins(&self, task: TaskId, user: &str) -> bool {
        let home = lock(&self.home);
        let room = home.rooms.get(&task);
        let power = room.and_then(|room| room.powers.get(user).copied());
        drop(home);
        self.moves(task, user, Some(power.unwrap_or(0)))
    }

    async fn call<T>(
        &self,
        what: &'static str,
        about: &str,
        effect: impl FnOnce(&mut Home) -> T,
    ) -> Result<T, RoomError> {
        let answer = lock(&self.answers).get(what).cloned();
        if let Some(error) = answer {
            return Err(error);
        }
        let mode = *lock(&self.mode);
        match mode {
            OutwardMode::Off | OutwardMode::Works => {}
            OutwardMode::Fails => {
                return Err(RoomError::Transient("scripted: not now".to_owned()));
            }
            OutwardMode::Refuses => {
                return Err(RoomError::Permanent("scripted: never".to_owned()));
            }
            OutwardMode::Hangs => std::future::pending().await,
            OutwardMode::Panics => std::panic::panic_any(format!("scripted panic of {what}")),
        }
        self.trouble
            .call(what, about, |_| effect(&mut lock(&self.home)))
            .await
            .map_err(RoomError::Transient)
    }

    async fn remember<T>(
        &self,
        what: &'static str,
        about: &str,
        effect: impl FnOnce(&mut Home) -> T,
    ) -> Result<T, RoomMemoryError> {
        self.trouble
            .call(what, about, |_| effect(&mut lock(&self.home)))
            .await
            .map_err(RoomMemoryError)
    }
}

/// A homeserver would do it, and the room were lost.
fn not_own(user: &str) -> Result<(), RoomError> {
    match user {
        BOT => Err(RoomError::Permanent(format!("{user} is the bot itself"))),
        _ => Ok(()),
    }
}

fn gone() -> RoomError {
    RoomError::Permanent("no such room".to_owned())
}

impl Rooms for FakeRooms {
    fn name(&self) -> String {
        "fake rooms".to_owned()
    }

    fn enabled(&self) -> bool {
        *lock(&self.mode) != OutwardMode::Off
    }

    fn health(&self) -> (HealthState, String) {
        (HealthState::Ok, self.name())
    }

    fn memory(&self) -> Arc<dyn RoomMemory> {
        Arc::new(self.clone())
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(1_500)
    }

    fn listen(&self, sink: RoomSink) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(async move {
            self.call("rooms.listen", "", |home| {
                home.sink = Some(Arc::clone(&sink));
            })
            .await?;
            sink(RoomSignal::Up);
            std::future::pending().await
        })
    }

    fn open(&self, open: OpenRoom) -> PortFuture<'_, Result<String, RoomError>> {
        let task = open.task;
        Box::pin(async move {
            self.call("rooms.open", &task.to_string(), |home| {
                home.rooms
                    .entry(task)
                    .or_default()
                    .opened
                    .get_or_insert(open);
                format!("!{task}")
            })
            .await
        })
    }

    fn post(&self, room: String, post: Post) -> PortFuture<'_, Result<String, RoomError>> {
        self.trouble.watch.saw(PortCall::Room(&room, &post));
        let refused = lock(&self.refused).is_some_and(|fits| fits(&post));
        Box::pin(async move {
            if refused {
                return Err(RoomError::Permanent("scripted: too large".to_owned()));
            }
            self.call("rooms.post", &room, |home| {
                let event = home.event();
                let room = home.room(&room).ok_or_else(gone)?;
                if let Some(event) = room.keys.get(&post.key) {
                    return Ok(event.clone());
                }
                room.keys.insert(post.key.clone(), event.clone());
                room.posts.push((event.clone(), post));
                Ok(event)
            })
            .await?
        })
    }

    fn attach(&self, room: String, file: Attachment) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(async move {
            self.call("rooms.attach", &room, |home| {
                let room = home.room(&room).ok_or_else(gone)?;
                if room.keys.insert(file.key.clone(), String::new()).is_none() {
                    room.files.push(file);
                }
                Ok(())
            })
            .await?
        })
    }

    fn react(&self, room: String, sign: Sign) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(async move {
            self.call("rooms.react", &room, |home| {
                let room = home.room(&room).ok_or_else(gone)?;
                let sign = (sign.to, sign.sign);
                if !room.signs.contains(&sign) {
                    room.signs.push(sign);
                }
                Ok(())
            })
            .await?
        })
    }

    fn dress(&self, room: String, dress: Dress) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(async move {
            self.call("rooms.dress", &room, |home| {
                home.room(&room).ok_or_else(gone)?.dress = Some(dress);
                Ok(())
            })
            .await?
        })
    }

    fn close(&self, room: String) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(async move {
            self.call("rooms.close", &room, |home| {
                home.room(&room).ok_or_else(gone)?.shut = true;
                Ok(())
            })
            .await?
        })
    }

    fn leave(&self, room: String) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(async move {
            self.call("rooms.leave", &room, |home| {
                home.room(&room).ok_or_else(gone)?.left = true;
                Ok(())
            })
            .await?
        })
    }

    fn read(&self, room: String, from: Option<String>) -> PortFuture<'_, Result<Page, RoomError>> {
        Box::pin(async move {
            self.call("rooms.read", &room, |home| {
                let room = home.room(&room).ok_or_else(gone)?;
                let from: usize = from.and_then(|from| from.parse().ok()).unwrap_or(0);
                let page: Vec<_> = room.said.iter().skip(from).take(PAGE).collect();
                let read = from + page.len();
                let next = (read < room.said.len()).then(|| read.to_string());
                let people_changed = page.iter().any(|one| one.is_none());
                Ok(Page {
                    heard: page.into_iter().flatten().cloned().collect(),
                    people_changed,
                    next,
                })
            })
            .await?
        })
    }

    fn people(&self, room: String) -> PortFuture<'_, Result<Vec<Person>, RoomError>> {
        Box::pin(async move {
            self.call("rooms.people", &room, |home| {
                let room = home.room(&room).ok_or_else(gone)?;
                let bot = Person {
                    id: BOT.to_owned(),
                    joined: true,
                    power: None,
                    own: true,
                };
                let people = room.people.iter().map(|(id, power)| Person {
                    id: id.clone(),
                    joined: true,
                    power: Some(*power),
                    own: false,
                });
                Ok(std::iter::once(bot).chain(people).collect())
            })
            .await?
        })
    }

    fn invite(&self, room: String, user: String) -> PortFuture<'_, Result<(), RoomError>> {
        let unreachable = lock(&self.unreachable).get(&user).cloned();
        Box::pin(async move {
            not_own(&user)?;
            self.call("rooms.invite", &room, |home| {
                let room = home.room(&room).ok_or_else(gone)?;
                room.invited.push((user, unreachable.is_none()));
                unreachable.map_or(Ok(()), Err)
            })
            .await?
        })
    }

    fn empower(
        &self,
        room: String,
        user: String,
        power: i64,
    ) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(async move {
            not_own(&user)?;
            self.call("rooms.empower", &room, |home| {
                let room = home.room(&room).ok_or_else(gone)?;
                room.powers.insert(user.clone(), power);
                if let Some(has) = room.people.get_mut(&user) {
                    *has = power;
                }
                Ok(())
            })
            .await?
        })
    }

    fn remove(
        &self,
        room: String,
        user: String,
        _reason: String,
    ) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(async move {
            not_own(&user)?;
            self.call("rooms.remove", &room, |home| {
                let room = home.room(&room).ok_or_else(gone)?;
                room.people.remove(&user);
                Ok(())
            })
            .await?
        })
    }
}
