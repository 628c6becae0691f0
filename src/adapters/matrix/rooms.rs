//! The port: every call on the one client, within the homeserver's limits.
//!
//! In: calls of the room actors and of the link. Out: what the homeserver answered, as [`RoomError`] says it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chargehand_actors::ports::{
    Attachment, Dress, OpenRoom, Page, Person, PortFuture, Post, RoomError, RoomMemory, RoomSink,
    Rooms, Sign,
};
use chargehand_actors::view::HealthState;
use matrix_sdk::ruma::api::error::ErrorKind;
use matrix_sdk::ruma::events::StateEventType;
use matrix_sdk::ruma::events::reaction::ReactionEventContent;
use matrix_sdk::ruma::events::relation::Annotation;
use matrix_sdk::ruma::{OwnedEventId, OwnedTransactionId, RoomId, UserId};
use matrix_sdk::{Client, Room};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::budget::Budget;
use super::content::{self, ABOUT};
use super::settings::{MatrixLogin, MatrixSettings};
use super::{fault, listen, open, read, session};

/// Rooms on a homeserver. Cheap to clone.
#[derive(Clone)]
pub struct MatrixRooms(Arc<Inner>);

pub(super) struct Inner {
    pub(super) settings: MatrixSettings,
    memory: Arc<dyn RoomMemory>,
    client: tokio::sync::Mutex<Option<Client>>,
    /// The space, as far as it is known.
    pub(super) space: tokio::sync::Mutex<open::Space>,
    pub(super) budget: Budget,
    /// The right to have a room made: two hundred at once each take a homeserver as long as all of them together, and every
    /// request is given up before its answer comes.
    pub(super) making: Semaphore,
    /// What each room wears: its id and a state event's type, and what was sent.
    worn: Mutex<HashMap<String, String>>,
    health: Mutex<(HealthState, String)>,
    /// Why nothing works any more.
    login_lost: Mutex<Option<String>>,
    /// A session that was kept is refused; a new login was tried for it, and did not work yet.
    anew: AtomicBool,
}

impl std::fmt::Debug for MatrixRooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MatrixRooms")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl MatrixRooms {
    /// Rooms as these settings say; nothing is asked of the homeserver yet.
    pub fn new(settings: MatrixSettings, memory: Arc<dyn RoomMemory>) -> Self {
        Self(Arc::new(Inner {
            settings,
            memory,
            client: tokio::sync::Mutex::default(),
            space: tokio::sync::Mutex::default(),
            budget: Budget::default(),
            making: Semaphore::new(open::AT_ONCE),
            worn: Mutex::default(),
            health: Mutex::new((HealthState::Starting, "not connected yet".to_owned())),
            login_lost: Mutex::default(),
            anew: AtomicBool::new(false),
        }))
    }
}

impl Inner {
    pub(super) fn say(&self, state: HealthState, detail: impl Into<String>) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = (state, detail.into());
    }

    /// Why there is no space although one is wanted.
    pub(super) async fn without_space(&self) -> Option<&'static str> {
        let space = self.space.lock().await;
        (*space == open::Space::Foreign).then_some(
            "but the space of the rooms is not the bot's: it has another account than before, or was removed from it. Rooms \
             are made without a space, and only the owner of a task and the observers named with it are invited. Give the \
             bot its account of before, or delete the alias of that space (#chargehand-…), after which a new one is made; \
             then restart Chargehand. An invitation to it would be refused, as all are",
        )
    }

    /// The client, logged in.
    pub(super) async fn client(&self) -> Result<Client, RoomError> {
        let lost = self.login_lost.lock();
        if let Some(why) = lost.unwrap_or_else(PoisonError::into_inner).clone() {
            return Err(RoomError::LoginLost(why));
        }
        let mut held = self.client.lock().await;
        if let Some(client) = held.as_ref() {
            return Ok(client.clone());
        }
        let client = self.noted(session::connect(&self.settings).await)?;
        *held = Some(client.clone());
        Ok(client)
    }

    /// The session works: should it be refused again some day, a new login is tried again.
    pub(super) fn logged_in(&self) {
        self.anew.store(false, Ordering::Relaxed);
    }

    /// A kept session that the homeserver refuses is given up once, where a password can make a new one.
    async fn log_in_anew(&self, ended: Result<(), RoomError>) -> Result<(), RoomError> {
        let Err(RoomError::LoginLost(why)) = &ended else {
            return ended;
        };
        let by_password = matches!(self.settings.login, MatrixLogin::Password { .. });
        if !by_password || self.anew.swap(true, Ordering::Relaxed) {
            return self.noted(ended);
        }
        session::forget(&self.settings)?;
        *self.client.lock().await = None;
        *self
            .login_lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        Err(RoomError::Transient(format!(
            "the session of before is refused, a new login follows: {why}"
        )))
    }

    /// Keeps in mind that the login is lost.
    pub(super) fn noted<T>(&self, result: Result<T, RoomError>) -> Result<T, RoomError> {
        if let Err(RoomError::LoginLost(why)) = &result {
            self.say(HealthState::Down, why.clone());
            *self
                .login_lost
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        }
        result
    }

    pub(super) async fn room(&self, id: &str) -> Result<Room, RoomError> {
        let client = self.client().await?;
        let id = <&RoomId>::try_from(id)
            .map_err(|_| RoomError::Permanent(format!("\"{id}\" is no id of a room")))?;
        client.get_room(id).ok_or_else(|| {
            RoomError::Transient(format!(
                "room {id} is not known before the next synchronisation"
            ))
        })
    }

    /// Sends within the limits.
    async fn limited<T>(
        &self,
        must: bool,
        send: impl Future<Output = Result<T, RoomError>>,
    ) -> Result<T, RoomError> {
        self.budget.gate(must, Instant::now())?;
        let sent = send.await;
        if let Err(RoomError::Later(wait)) = &sent {
            self.budget.refused(must, *wait, Instant::now());
        }
        self.noted(sent)
    }

    async fn post(&self, room: String, post: Post) -> Result<String, RoomError> {
        let content = content::message(&post);
        let room = self.room(&room).await?;
        self.limited(post.must, send(&room, "m.room.message", content, &post.key))
            .await
    }

    async fn attach(&self, room: String, file: Attachment) -> Result<(), RoomError> {
        let room = self.room(&room).await?;
        let client = room.client();
        let upload = async {
            if self.settings.encrypt {
                let mut bytes = file.text.as_bytes();
                let source = client.upload_encrypted_file(&mut bytes).await;
                let source = source.map_err(|error| fault::of(&error))?;
                let source = serde_json::to_value(source).unwrap_or_default();
                return Ok(("file", source));
            }
            let kind = mime::TEXT_PLAIN_UTF_8;
            let bytes = file.text.clone().into_bytes();
            let uploaded = client.media().upload(&kind, bytes, None).await;
            let uploaded = uploaded.map_err(|error| fault::of(&error))?;
            Ok(("url", json!(uploaded.content_uri)))
        };
        let source = self.limited(file.must, upload).await?;
        let content = content::file(
            &file.name,
            file.text.len(),
            &file.thread,
            source,
            &file.about,
        );
        self.limited(file.must, send(&room, "m.room.message", content, &file.key))
            .await
            .map(drop)
    }

    async fn react(&self, room: String, sign: Sign) -> Result<(), RoomError> {
        let room = self.room(&room).await?;
        let to = OwnedEventId::try_from(sign.to)
            .map_err(|error| RoomError::Permanent(format!("no id of an event: {error}")))?;
        let content = ReactionEventContent::new(Annotation::new(to, sign.sign));
        let sent = async {
            match room
                .send(content)
                .with_transaction_id(OwnedTransactionId::from(sign.key))
                .await
            {
                Ok(_) => Ok(()),
                // It is there already, sent under another key.
                Err(error)
                    if matches!(
                        error.client_api_error_kind(),
                        Some(ErrorKind::DuplicateAnnotation)
                    ) =>
                {
                    Ok(())
                }
                Err(error) => Err(fault::of(&error)),
            }
        };
        self.limited(sign.must, sent).await
    }

    fn wears(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.worn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worn(&self, what: &str) -> Option<String> {
        self.wears().get(what).cloned()
    }

    /// Of what is cut in the middle by a limit, only the rest is sent the next time.
    async fn dress(&self, room: String, dress: Dress) -> Result<(), RoomError> {
        let room = self.room(&room).await?;
        let mut states = vec![
            ("m.room.name", json!({ "name": dress.name })),
            (ABOUT, Value::Object(dress.about)),
        ];
        if let Some(pinned) = dress.pinned {
            states.push(("m.room.pinned_events", json!({ "pinned": [pinned] })));
        }
        for (kind, content) in states {
            let (worn, says) = (format!("{} {kind}", room.room_id()), content.to_string());
            if self.worn(&worn).as_deref() == Some(says.as_str()) {
                continue;
            }
            let sent = async {
                let sent = room.send_state_event_raw(kind, "", content).await;
                sent.map(drop).map_err(|error| fault::of(&error))
            };
            self.limited(false, sent).await?;
            self.wears().insert(worn, says);
        }
        let linked = format!("{} linked", room.room_id());
        if self.worn(&linked).is_none() {
            self.limited(false, open::link(self, &room)).await?;
            self.wears().insert(linked, String::new());
        }
        Ok(())
    }

    async fn leave(&self, room: String) -> Result<(), RoomError> {
        let client = self.client().await?;
        let known = <&RoomId>::try_from(room.as_str()).ok();
        let Some(room) = known.and_then(|id| client.get_room(id)) else {
            return Ok(());
        };
        self.wears()
            .retain(|worn, _| !worn.starts_with(room.room_id().as_str()));
        room.leave().await.map_err(|error| fault::of(&error))?;
        room.forget().await.map_err(|error| fault::of(&error))
    }

    async fn people(&self, room: String) -> Result<Vec<Person>, RoomError> {
        let room = self.room(&room).await?;
        let powers = read::Powers::of(&room).await?;
        let members = read::members(&room).await?;
        let people = members.into_iter().map(|(user, joined)| Person {
            power: powers.power(&user),
            own: user == room.own_user_id(),
            id: user.to_string(),
            joined,
        });
        Ok(people.collect())
    }

    async fn invite(&self, room: String, user: String) -> Result<(), RoomError> {
        let room = self.room(&room).await?;
        let user = somebody_else(&room, &user)?;
        let invited = async {
            match room.invite_user_by_id(user).await {
                Ok(()) => Ok(()),
                // Invited or joined already.
                Err(error) => match open::membership(&room, user).await {
                    Some(member) if member == "join" || member == "invite" => Ok(()),
                    _ => Err(fault::of(&error)),
                },
            }
        };
        invited.await
    }

    async fn empower(&self, room: String, user: String, power: i64) -> Result<(), RoomError> {
        let room = self.room(&room).await?;
        somebody_else(&room, &user)?;
        let powers = read::state(&room, StateEventType::RoomPowerLevels).await?;
        let mut powers = powers.unwrap_or_else(|| json!({}));
        let has = powers["users"].get(&user).and_then(Value::as_i64);
        if has.unwrap_or(0) == power {
            return Ok(());
        }
        powers["users"][&user] = json!(power);
        let sent = async {
            let sent = room.send_state_event_raw("m.room.power_levels", "", powers);
            sent.await.map(drop).map_err(|error| fault::of(&error))
        };
        self.limited(true, sent).await
    }

    async fn remove(&self, room: String, user: String, reason: String) -> Result<(), RoomError> {
        let room = self.room(&room).await?;
        let user = somebody_else(&room, &user)?;
        if open::membership(&room, user).await.is_none() {
            return Ok(());
        }
        let removed = room.kick_user(user, Some(&reason)).await;
        removed.map_err(|error| fault::of(&error))
    }
}

/// A user that is not the bot: without its power or its place in a room, the room is lost for good.
fn somebody_else<'a>(room: &Room, text: &'a str) -> Result<&'a UserId, RoomError> {
    not_own(room.own_user_id(), text)
}

fn not_own<'a>(own: &UserId, text: &'a str) -> Result<&'a UserId, RoomError> {
    let user = <&UserId>::try_from(text)
        .map_err(|_| RoomError::Permanent(format!("\"{text}\" is no Matrix id")))?;
    if user == own {
        return Err(RoomError::Permanent(format!(
            "{user} is Chargehand's own user: it is in every room that it made, and keeps its power there"
        )));
    }
    Ok(user)
}

async fn send(room: &Room, kind: &str, content: Value, key: &str) -> Result<String, RoomError> {
    let key = OwnedTransactionId::from(key.to_owned());
    let sent = room.send_raw(kind, content).with_transaction_id(&key).await;
    sent.map(|sent| sent.response.event_id.to_string())
        .map_err(|error| fault::of(&error))
}

impl Rooms for MatrixRooms {
    fn name(&self) -> String {
        format!("Matrix at {}", self.0.settings.homeserver)
    }

    fn enabled(&self) -> bool {
        true
    }

    fn health(&self) -> (HealthState, String) {
        let health = self.0.health.lock();
        let (state, detail) = health.unwrap_or_else(PoisonError::into_inner).clone();
        (state, format!("{}: {detail}", self.name()))
    }

    fn memory(&self) -> Arc<dyn RoomMemory> {
        Arc::clone(&self.0.memory)
    }

    fn pace(&self) -> Duration {
        self.0.budget.pace(Instant::now())
    }

    fn listen(&self, sink: RoomSink) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(async move {
            let ended = listen::listen(&self.0, &sink).await;
            self.0.log_in_anew(ended).await
        })
    }

    fn open(&self, room: OpenRoom) -> PortFuture<'_, Result<String, RoomError>> {
        Box::pin(async move { self.0.limited(true, open::open(&self.0, room)).await })
    }

    fn post(&self, room: String, post: Post) -> PortFuture<'_, Result<String, RoomError>> {
        Box::pin(self.0.post(room, post))
    }

    fn attach(&self, room: String, file: Attachment) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(self.0.attach(room, file))
    }

    fn react(&self, room: String, sign: Sign) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(self.0.react(room, sign))
    }

    fn dress(&self, room: String, dress: Dress) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(self.0.dress(room, dress))
    }

    fn close(&self, room: String) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(async move { self.0.limited(false, open::close(&self.0, room)).await })
    }

    fn leave(&self, room: String) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(self.0.leave(room))
    }

    fn read(&self, room: String, from: Option<String>) -> PortFuture<'_, Result<Page, RoomError>> {
        Box::pin(async move {
            let page = read::page(&self.0, room, from).await;
            self.0.noted(page)
        })
    }

    fn people(&self, room: String) -> PortFuture<'_, Result<Vec<Person>, RoomError>> {
        Box::pin(self.0.people(room))
    }

    fn invite(&self, room: String, user: String) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(self.0.invite(room, user))
    }

    fn empower(
        &self,
        room: String,
        user: String,
        power: i64,
    ) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(self.0.empower(room, user, power))
    }

    fn remove(
        &self,
        room: String,
        user: String,
        reason: String,
    ) -> PortFuture<'_, Result<(), RoomError>> {
        Box::pin(self.0.remove(room, user, reason))
    }
}

#[cfg(test)]
mod tests {
    use matrix_sdk::ruma::user_id;

    use super::*;

    #[test]
    fn the_bot_itself_is_nobody_who_is_added_removed_or_given_power() {
        let own = user_id!("@bot:example.org");
        for wrong in ["@bot:example.org", "bot", "", "@bot"] {
            let refused = not_own(own, wrong);
            assert!(
                matches!(refused, Err(RoomError::Permanent(_))),
                "{wrong}: {refused:?}"
            );
        }
        for other in ["@ann:example.org", "@bot:example.com"] {
            assert_eq!(not_own(own, other).map(UserId::as_str), Ok(other));
        }
    }
}
