//! The only sync loop: keeps the SDK's store current and says in which rooms something was said.
//!
//! In: the homeserver's stream. Out: signals. What was said is not taken from here: whoever is told reads the room on from
//! its own place, so a stream that skips, repeats or dies loses nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chargehand_actors::ports::{RoomError, RoomSignal, RoomSink};
use chargehand_actors::view::HealthState;
use matrix_sdk::Client;
use matrix_sdk::config::SyncSettings;
use matrix_sdk::ruma::api::client::filter::FilterDefinition;
use matrix_sdk::ruma::api::client::sync::sync_events::v3::Filter;
use matrix_sdk::ruma::{OwnedRoomId, uint};
use matrix_sdk::sync::SyncResponse;

use super::rooms::Inner;
use super::{fault, open, session};

/// How long the homeserver may keep a request open when there is nothing new.
const POLL: Duration = Duration::from_secs(30);

/// How often a room in which only the bot speaks is told of news.
const OWN: Duration = Duration::from_secs(60);

/// Listens until something breaks.
pub(super) async fn listen(inner: &Inner, sink: &RoomSink) -> Result<(), RoomError> {
    let down = |error: RoomError| {
        inner.say(HealthState::Degraded, format!("does not answer: {error}"));
        error
    };
    let client = inner.client().await.map_err(down)?;
    let mut filter = FilterDefinition::with_lazy_loading();
    filter.room.timeline.limit = Some(uint!(50));
    let settings = SyncSettings::new().filter(Filter::FilterDefinition(filter));
    let mut up = false;
    let mut quiet = Quiet::default();
    loop {
        let poll = if up { POLL } else { Duration::ZERO };
        let response = client.sync_once(settings.clone().timeout(poll)).await;
        let response = response.map_err(|error| down(fault::of(&error)))?;
        if !up {
            up = true;
            inner.logged_in();
            if inner.settings.encrypt {
                set_up_encryption(inner, &client).await;
            }
            if let Err(error) = open::space(inner, &client).await {
                tracing::warn!(%error, "the space of the rooms is not ready; trying again at the next connection");
            }
            match inner.without_space().await {
                Some(why) => {
                    let user = connected(&client);
                    inner.say(HealthState::Degraded, format!("{user}, {why}"));
                }
                None => inner.say(HealthState::Ok, connected(&client)),
            }
            sink(RoomSignal::Up);
        }
        tell(&client, &response, sink, &mut quiet);
        refuse_invitations(&client, &response);
    }
}

fn connected(client: &Client) -> String {
    let user = client.user_id().map(ToString::to_string);
    format!("connected as {}", user.unwrap_or_default())
}

/// Says which rooms have something that is not the bot's own; of what is, now and then.
fn tell(client: &Client, response: &SyncResponse, sink: &RoomSink, quiet: &mut Quiet) {
    for (room, update) in &response.rooms.joined {
        let timeline = &update.timeline;
        let others = timeline
            .events
            .iter()
            .any(|event| event.sender().as_deref() != client.user_id());
        let own = !timeline.events.is_empty();
        if quiet.is_told(room, others || timeline.limited, own, Instant::now()) {
            sink(RoomSignal::News {
                room: room.to_string(),
                upto: response.next_batch.clone(),
            });
        }
    }
    for room in response.rooms.left.keys() {
        quiet.0.remove(room);
    }
}

/// When rooms were told of news last. The place from which a room is read on must also pass what the bot says to itself:
/// else, after hours with nobody else there, all of that would be read anew each time.
#[derive(Default)]
struct Quiet(HashMap<OwnedRoomId, Instant>);

impl Quiet {
    fn is_told(&mut self, room: &OwnedRoomId, others: bool, own: bool, now: Instant) -> bool {
        let long_ago = |at: &Instant| now.saturating_duration_since(*at) >= OWN;
        let told = others || (own && self.0.get(room).is_none_or(long_ago));
        if told {
            self.0.insert(room.clone(), now);
        }
        told
    }
}

/// The bot is in the rooms that it made, and in no other.
fn refuse_invitations(client: &Client, response: &SyncResponse) {
    for id in response.rooms.invited.keys() {
        tracing::info!(room = %id, "an invitation to a room of somebody else is refused");
        if let Some(room) = client.get_room(id) {
            tokio::spawn(async move {
                if let Err(error) = room.leave().await {
                    tracing::debug!(%error, "an invitation could not be refused");
                }
            });
        }
    }
}

/// Waits for cross-signing and backup, and writes the recovery key down the first time.
async fn set_up_encryption(inner: &Inner, client: &Client) {
    let encryption = client.encryption();
    encryption.wait_for_e2ee_initialization_tasks().await;
    let path = inner.settings.store.join("recovery-key");
    if path.exists() {
        return;
    }
    match encryption.recovery().enable().await {
        Ok(key) => match session::write_private(&path, &key) {
            Ok(()) => {
                tracing::info!(file = %path.display(), "the key that recovers encrypted rooms was written")
            }
            Err(error) => {
                tracing::warn!(%error, "the recovery key of encrypted rooms could not be written")
            }
        },
        Err(error) => {
            tracing::warn!(%error, "encrypted rooms have no recovery key yet; messages are lost with the store");
        }
    }
}

#[cfg(test)]
mod tests {
    use matrix_sdk::ruma::owned_room_id;

    use super::*;

    #[test]
    fn what_the_bot_says_to_itself_is_news_once_a_minute() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        let (a, b) = (owned_room_id!("!a:x"), owned_room_id!("!b:x"));
        assert!(!quiet.is_told(&a, false, false, now), "nothing at all");
        assert!(quiet.is_told(&a, false, true, now));
        assert!(!quiet.is_told(&a, false, true, now + OWN / 2));
        assert!(quiet.is_told(&b, false, true, now + OWN / 2));
        assert!(quiet.is_told(&a, false, true, now + OWN));
        assert!(quiet.is_told(&a, true, true, now + OWN), "others at once");
        assert!(!quiet.is_told(&a, false, true, now + OWN * 3 / 2));
    }
}
