//! Reads what was said in a room, page by page, with the power of each sender as the homeserver has it now.
//!
//! In: a room and a place. Out: plain [`Heard`].

use std::collections::HashMap;

use chargehand_actors::id::WallTime;
use chargehand_actors::ports::{Heard, Page, RoomError, Said};
use matrix_sdk::Room;
use matrix_sdk::deserialized_responses::{TimelineEvent, TimelineEventKind};
use matrix_sdk::room::MessagesOptions;
use matrix_sdk::ruma::api::client::membership::get_member_events;
use matrix_sdk::ruma::api::client::state::get_state_event_for_key;
use matrix_sdk::ruma::api::error::ErrorKind;
use matrix_sdk::ruma::events::StateEventType;
use matrix_sdk::ruma::{OwnedUserId, UserId, uint};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::fault;
use super::rooms::Inner;

/// One page.
pub(super) async fn page(
    inner: &Inner,
    room: String,
    from: Option<String>,
) -> Result<Page, RoomError> {
    let room = inner.room(&room).await?;
    let mut options = MessagesOptions::forward().from(from.as_deref());
    options.limit = uint!(100);
    let messages = room.messages(options).await;
    let messages = messages.map_err(|error| fault::of(&error))?;
    let own = room.own_user_id().to_owned();
    let others = messages
        .chunk
        .iter()
        .any(|event| event.sender().is_some_and(|sender| sender != own));
    // Asked anew each time: who lost the power a moment ago must not steer.
    let powers = if others {
        Powers::of(&room).await?
    } else {
        Powers::default()
    };
    let heard = messages
        .chunk
        .iter()
        .filter_map(|event| heard(event, &own, &powers));
    let heard = heard.collect();
    let people_changed = messages.chunk.iter().any(about_people);
    let next = if messages.chunk.is_empty() {
        None
    } else {
        messages.end
    };
    Ok(Page {
        heard,
        people_changed,
        next,
    })
}

/// Whether an event changes who is in the room or what they may.
fn about_people(event: &TimelineEvent) -> bool {
    let kind = event.raw().get_field::<String>("type").ok().flatten();
    kind.is_some_and(|kind| matches!(kind.as_str(), "m.room.member" | "m.room.power_levels"))
}

/// Who has how much power, as the room's state says.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Powers {
    #[serde(default)]
    users: HashMap<String, i64>,
    #[serde(default)]
    users_default: i64,
    #[serde(skip)]
    creators: Vec<String>,
}

impl Powers {
    /// Asks the homeserver.
    pub(super) async fn of(room: &Room) -> Result<Self, RoomError> {
        let content = state(room, StateEventType::RoomPowerLevels).await?;
        let mut powers: Self = content
            .map(serde_json::from_value)
            .transpose()
            .map_err(|error| RoomError::Transient(format!("power levels cannot be read: {error}")))?
            .unwrap_or_default();
        let creators = room.creators().unwrap_or_default();
        // Before version 12 a creator has the power that stands there.
        let bounded = creators
            .iter()
            .any(|creator| powers.users.contains_key(creator.as_str()));
        if !bounded {
            powers.creators = creators.iter().map(ToString::to_string).collect();
        }
        Ok(powers)
    }

    /// `None` = no bound.
    pub(super) fn power(&self, user: &UserId) -> Option<i64> {
        if self.creators.iter().any(|creator| creator == user.as_str()) {
            return None;
        }
        let named = self.users.get(user.as_str()).copied();
        Some(named.unwrap_or(self.users_default))
    }
}

/// Content of a state event as the homeserver has it now; none when there is none.
pub(super) async fn state(room: &Room, kind: StateEventType) -> Result<Option<Value>, RoomError> {
    state_of(room, kind, String::new()).await
}

/// The same for a state key.
pub(super) async fn state_of(
    room: &Room,
    kind: StateEventType,
    key: String,
) -> Result<Option<Value>, RoomError> {
    let request = get_state_event_for_key::v3::Request::new(room.room_id().to_owned(), kind, key);
    match room.client().send(request).await {
        Ok(answer) => serde_json::from_str(answer.event_or_content.get())
            .map(Some)
            .map_err(|error| RoomError::Transient(error.to_string())),
        Err(error) if matches!(error.client_api_error_kind(), Some(ErrorKind::NotFound)) => {
            Ok(None)
        }
        Err(error) => Err(fault::of_http(&error)),
    }
}

/// Who has joined (true) or is invited (false), as the homeserver has it now.
pub(super) async fn members(room: &Room) -> Result<Vec<(OwnedUserId, bool)>, RoomError> {
    let request = get_member_events::v3::Request::new(room.room_id().to_owned());
    let answer = room.client().send(request).await;
    let answer = answer.map_err(|error| fault::of_http(&error))?;
    let member = |event: &Value| {
        let user = event.get("state_key")?.as_str()?;
        let joined = match event.get("content")?.get("membership")?.as_str()? {
            "join" => true,
            "invite" => false,
            _ => return None,
        };
        Some((OwnedUserId::try_from(user).ok()?, joined))
    };
    let events = answer.chunk.iter();
    let events = events.filter_map(|raw| serde_json::from_str(raw.json().get()).ok());
    Ok(events.filter_map(|event: Value| member(&event)).collect())
}

fn heard(event: &TimelineEvent, own: &UserId, powers: &Powers) -> Option<Heard> {
    let sender = event.sender()?;
    let id = event.event_id()?;
    let unreadable = matches!(event.kind, TimelineEventKind::UnableToDecrypt { .. });
    let raw: Value = serde_json::from_str(event.raw().json().get()).ok()?;
    let content = raw.get("content").and_then(Value::as_object)?;
    let relates = content.get("m.relates_to");
    let relation = |name: &str| relates.and_then(|relates| relates.get(name)?.as_str());
    let said = if unreadable {
        Said::Unreadable
    } else {
        said(raw.get("type")?.as_str()?, content)?
    };
    Some(Heard {
        event: id.to_string(),
        at: WallTime(
            raw.get("origin_server_ts")
                .and_then(Value::as_i64)
                .unwrap_or(0),
        ),
        own: sender == own,
        power: powers.power(&sender),
        thread: (relation("rel_type") == Some("m.thread"))
            .then(|| relation("event_id").map(str::to_owned))
            .flatten(),
        sender: sender.to_string(),
        said,
    })
}

fn said(kind: &str, content: &Map<String, Value>) -> Option<Said> {
    let text = |name: &str| content.get(name).and_then(Value::as_str);
    let relates = content.get("m.relates_to");
    let relation = |name: &str| relates.and_then(|relates| relates.get(name)?.as_str());
    match kind {
        "m.room.message" => Some(Said::Message {
            kind: text("msgtype")?.to_owned(),
            body: text("body").unwrap_or_default().to_owned(),
            edit: relation("rel_type") == Some("m.replace"),
            content: content.clone(),
        }),
        "m.reaction" => Some(Said::Reaction {
            to: relation("event_id")?.to_owned(),
            sign: relation("key")?.to_owned(),
        }),
        "io.letta.control" => Some(Said::Control(content.clone())),
        _ => None,
    }
}
