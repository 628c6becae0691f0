//! Invites people into a task's room. Who cannot be invited now holds up nobody else, and is not asked for at every telling.
//!
//! In: who is wanted, who was invited, who failed lately. Out: invitations; who failed and when is kept by the room actor,
//! beside the telling, so that one that is cut forgets nothing of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::ports::RoomError;

use super::Teller;

/// After the first failure; twice as long after each one that follows.
const FIRST: Duration = Duration::from_secs(15);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(600);
/// What invitations may take of one telling, which has other things to do: the rest are for the next one.
const TIME: Duration = Duration::from_secs(20);

/// Failures in a row, and not again before this.
type Waits = BTreeMap<String, (u32, Instant)>;

/// Who could not be invited lately. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Uninvited(Arc<Mutex<Waits>>);

impl Uninvited {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rests(&self, person: &str) -> bool {
        let until = self.waits().get(person).map(|(_, until)| *until);
        until.is_some_and(|until| until > Instant::now())
    }

    fn failed(&self, person: &str) {
        let mut waits = self.waits();
        let failures = waits.get(person).map_or(0, |(failures, _)| *failures);
        let wait = FIRST.saturating_mul(1 << failures.min(8)).min(LONGEST);
        waits.insert(person.to_owned(), (failures + 1, Instant::now() + wait));
    }

    /// The homeserver is there again: everybody is tried at once.
    pub(in super::super) fn forget(&self) {
        self.waits().clear();
    }
}

impl Teller {
    /// Invites who is not yet invited. Homeservers limit this hard: who cannot be invited now is the next time.
    pub(super) async fn invite(&mut self, uninvited: &Uninvited) -> Result<(), RoomError> {
        let wanted = self.wires.settings.rooms.invited(&self.view);
        let began = Instant::now();
        for person in wanted {
            if self.record.invited.contains(&person) || uninvited.rests(&person) {
                continue;
            }
            if began.elapsed() >= TIME {
                return Ok(());
            }
            match self.rooms.invite(self.room.clone(), person.clone()).await {
                Ok(()) => {}
                Err(RoomError::Permanent(why)) => {
                    tracing::warn!(task = %self.task, person, why, "somebody cannot be invited to the task's room");
                }
                Err(RoomError::Transient(why)) => {
                    tracing::debug!(task = %self.task, person, why, "somebody is invited to the task's room later");
                    uninvited.failed(&person);
                    continue;
                }
                Err(RoomError::LoginLost(why)) => return Err(RoomError::LoginLost(why)),
                // It is about everybody.
                Err(RoomError::Later(_)) => return Ok(()),
            }
            self.record.invited.push(person);
            self.save().await?;
        }
        Ok(())
    }
}
