//! Makes rooms and the space that holds them, each found again by its alias; closes rooms.
//!
//! In: what a room is to be. Out: its id. Whoever makes a room of version 12 has power without bound and must not be
//! named among the powers; before that version it must be.

use chargehand_actors::ports::{OpenRoom, RoomError, STEER};
use matrix_sdk::ruma::api::client::discovery::get_capabilities;
use matrix_sdk::ruma::api::client::membership::joined_rooms;
use matrix_sdk::ruma::api::client::room::Visibility;
use matrix_sdk::ruma::api::client::room::create_room::v3::{
    CreationContent, Request as CreateRoom, RoomPreset,
};
use matrix_sdk::ruma::api::error::ErrorKind;
use matrix_sdk::ruma::events::StateEventType;
use matrix_sdk::ruma::room::RoomType;
use matrix_sdk::ruma::serde::Raw;
use matrix_sdk::ruma::{OwnedRoomId, RoomAliasId, UserId};
use matrix_sdk::{Client, Room};
use serde_json::{Value, json};

use super::content::ABOUT;
use super::rooms::Inner;
use super::{fault, read};

/// The event type of a command for machines.
const CONTROL: &str = "io.letta.control";
/// Rooms that are being made at the same time.
pub(super) const AT_ONCE: usize = 4;

/// Makes a task's room, or finds it.
pub(super) async fn open(inner: &Inner, wanted: OpenRoom) -> Result<String, RoomError> {
    let client = inner.client().await?;
    let space = space(inner, &client).await?;
    let write = if inner.settings.observers_write {
        0
    } else {
        STEER
    };
    // Named as an operator, the bot would have less power than it must have.
    let own = client.user_id().map(UserId::as_str);
    let steer = wanted
        .steer
        .iter()
        .filter(|user| Some(user.as_str()) != own);
    let mut powers = json!({
        "users_default": 0,
        "events_default": write,
        "state_default": 100,
        "invite": STEER, "kick": STEER, "ban": STEER, "redact": STEER,
        "notifications": {"room": 100},
        "events": {CONTROL: STEER, "m.reaction": write},
        "users": steer.map(|user| (user.clone(), json!(STEER))).collect::<serde_json::Map<_, _>>(),
    });
    name_creator(&client, &mut powers).await?;
    let mut state = vec![
        json!({"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "shared"}}),
        json!({"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "forbidden"}}),
        json!({"type": ABOUT, "state_key": "", "content": wanted.about}),
    ];
    if let Some(space) = &space {
        let via = via(&client);
        state.push(json!({"type": "m.space.parent", "state_key": space, "content": {"via": via, "canonical": true}}));
        let rule = json!({"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space}]});
        state.push(json!({"type": "m.room.join_rules", "state_key": "", "content": rule}));
    }
    if inner.settings.encrypt {
        state.push(json!({"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}));
    }
    let mut request = CreateRoom::new();
    request.name = Some(wanted.name);
    request.topic = Some(wanted.topic);
    request.power_level_content_override = Some(raw(&powers)?.cast_unchecked());
    let _right = inner.making.acquire().await.map_err(|error| bad(&error))?;
    let room = create(&client, request, &format!("task-{}", wanted.task), state).await?;
    Ok(room.to_string())
}

/// Puts the room into the space. Not a part of making it: where the homeserver limits the bot, a link that is refused would
/// have the room made again and again, which uses the limit up.
pub(super) async fn link(inner: &Inner, room: &Room) -> Result<(), RoomError> {
    let client = room.client();
    let space = space(inner, &client).await?;
    if let Some(space) = space.and_then(|space| client.get_room(&space)) {
        let child = json!({"via": via(&client), "suggested": true});
        let linked = space.send_state_event_raw("m.space.child", room.room_id().as_str(), child);
        linked.await.map_err(|error| fault::of(&error))?;
    }
    Ok(())
}

/// What is known of the space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Space {
    #[default]
    Unknown,
    Ours(OwnedRoomId),
    /// Its alias is taken by a space that the bot is not in.
    Foreign,
}

/// The space; none where none is wanted, or the one of its name is not the bot's.
pub(super) async fn space(
    inner: &Inner,
    client: &Client,
) -> Result<Option<OwnedRoomId>, RoomError> {
    if !inner.settings.space {
        return Ok(None);
    }
    let mut known = inner.space.lock().await;
    match &*known {
        Space::Unknown => {}
        Space::Ours(space) => return Ok(Some(space.clone())),
        Space::Foreign => return Ok(None),
    }
    let short: String = inner.settings.instance.0.chars().take(8).collect();
    let mut request = CreateRoom::new();
    request.name = Some("Chargehand tasks".to_owned());
    request.topic = Some("A room for each task that runs. Its members may join them.".to_owned());
    let mut creation = CreationContent::new();
    creation.room_type = Some(RoomType::Space);
    request.creation_content = Some(Raw::new(&creation).map_err(|error| bad(&error))?);
    // Who is in the space may join every room: its members invite nobody, which the preset would let them.
    let mut powers = json!({"invite": STEER});
    name_creator(client, &mut powers).await?;
    request.power_level_content_override = Some(raw(&powers)?.cast_unchecked());
    let space = create(client, request, &format!("chargehand-{short}"), Vec::new()).await?;
    let Some(room) = client.get_room(&space) else {
        let joined = client.send(joined_rooms::v3::Request::new()).await;
        let joined = joined.map_err(|error| fault::of_http(&error))?.joined_rooms;
        if !joined.contains(&space) {
            tracing::warn!(%space, "the space of the rooms is not the bot's; rooms are made without it");
            *known = Space::Foreign;
            return Ok(None);
        }
        return Err(RoomError::Transient(
            "the space is not known before the next synchronisation".to_owned(),
        ));
    };
    if let Err(error) = keep_to_ourselves(&room).await {
        tracing::warn!(%space, %error, "members of the space may still invite others; trying again at the next start");
    }
    invite_people(inner, &room).await;
    *known = Space::Ours(space.clone());
    Ok(Some(space))
}

/// A space of an earlier version lets every member invite.
async fn keep_to_ourselves(space: &Room) -> Result<(), RoomError> {
    let powers = read::state(space, StateEventType::RoomPowerLevels).await?;
    let mut powers = powers.unwrap_or_else(|| json!({}));
    // Where nothing is said it is 0.
    if powers["invite"].as_i64().unwrap_or(0) >= STEER {
        return Ok(());
    }
    powers["invite"] = json!(STEER);
    let sent = space.send_state_event_raw("m.room.power_levels", "", powers);
    sent.await.map(drop).map_err(|error| fault::of(&error))
}

async fn invite_people(inner: &Inner, space: &Room) {
    for person in &inner.settings.people {
        let Ok(user) = <&UserId>::try_from(person.as_str()) else {
            continue;
        };
        if membership(space, user).await.is_none()
            && let Err(error) = space.invite_user_by_id(user).await
        {
            tracing::warn!(%user, %error, "somebody could not be invited to the space; trying again at the next start");
        }
    }
}

/// Membership of somebody, as the homeserver has it now; none for somebody who never was there, or left.
pub(super) async fn membership(room: &Room, user: &UserId) -> Option<String> {
    let state = read::state_of(room, StateEventType::RoomMember, user.to_string()).await;
    let member = state.ok()??.get("membership")?.as_str()?.to_owned();
    (member != "leave").then_some(member)
}

async fn create(
    client: &Client,
    mut request: CreateRoom,
    local: &str,
    state: Vec<Value>,
) -> Result<OwnedRoomId, RoomError> {
    request.preset = Some(RoomPreset::PrivateChat);
    request.visibility = Visibility::Private;
    request.room_alias_name = Some(local.to_owned());
    for event in &state {
        request.initial_state.push(raw(event)?.cast_unchecked());
    }
    match client.create_room(request).await {
        Ok(room) => Ok(room.room_id().to_owned()),
        Err(error) if matches!(error.client_api_error_kind(), Some(ErrorKind::RoomInUse)) => {
            let server = client.user_id().map(|user| user.server_name().to_string());
            let alias = format!("#{local}:{}", server.unwrap_or_default());
            let alias = RoomAliasId::parse(alias).map_err(|error| bad(&error))?;
            let found = client.resolve_room_alias(&alias).await;
            Ok(found.map_err(|error| fault::of_http(&error))?.room_id)
        }
        Err(error) => Err(fault::of(&error)),
    }
}

/// Before version 12 the creator's power must be written down.
async fn name_creator(client: &Client, powers: &mut Value) -> Result<(), RoomError> {
    let capabilities = client
        .send(get_capabilities::v3::Request::new())
        .await
        .map_err(|error| fault::of_http(&error))?;
    let version = capabilities.capabilities.room_versions.default.to_string();
    let unbounded = match version.parse::<u32>() {
        Ok(number) => number >= 12,
        Err(_) => version.contains("hydra"),
    };
    if let Some(user) = client.user_id().filter(|_| !unbounded) {
        powers["users"][user.as_str()] = json!(100);
    }
    Ok(())
}

/// Nobody but the bot writes any more, and the space holds the room no longer.
pub(super) async fn close(inner: &Inner, room: String) -> Result<(), RoomError> {
    let room = inner.room(&room).await?;
    let powers = read::state(&room, StateEventType::RoomPowerLevels).await?;
    let mut powers = powers.unwrap_or_else(|| json!({}));
    powers["events_default"] = json!(100);
    powers["events"] = json!({});
    powers["invite"] = json!(100);
    let sent = room
        .send_state_event_raw("m.room.power_levels", "", powers)
        .await;
    sent.map_err(|error| fault::of(&error))?;
    let client = room.client();
    let space = space(inner, &client).await?;
    if let Some(space) = space.and_then(|space| client.get_room(&space)) {
        let gone = space
            .send_state_event_raw("m.space.child", room.room_id().as_str(), json!({}))
            .await;
        gone.map_err(|error| fault::of(&error))?;
    }
    Ok(())
}

fn via(client: &Client) -> Vec<String> {
    let server = client.user_id().map(|user| user.server_name().to_string());
    server.into_iter().collect()
}

fn raw(value: &Value) -> Result<Raw<Value>, RoomError> {
    Raw::new(value).map_err(|error| bad(&error))
}

fn bad(error: &dyn std::error::Error) -> RoomError {
    RoomError::Permanent(error.to_string())
}
