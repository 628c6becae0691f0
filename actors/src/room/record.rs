//! What a room actor must not forget, and what it is told by the settings.
//!
//! In: JSON of the room's row. Out: [`Record`]; everything in it is written before or together with what it speaks of.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::Caller;
use crate::id::{EventNumber, TaskId};
use crate::ports::RoomMemoryError;
use crate::view::TaskView;

/// Who may do what in rooms, and how long they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSettings {
    /// The Matrix user of a caller, by `token/agent` or by `token`: owner of its tasks' rooms.
    pub owners: BTreeMap<String, String>,
    /// Steer every task.
    pub operators: Vec<String>,
    /// Invited to every room, to watch.
    pub observers: Vec<String>,
    /// The only people who may steer; empty = whoever has the power.
    pub allowed: Vec<String>,
    /// Rooms are joinable by the members of a space: who is no named part of a task needs no invitation.
    pub in_space: bool,
    /// How long the room of a final task is kept before the bot leaves it; zero = for ever.
    pub keep: Duration,
}

impl Default for RoomSettings {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
            operators: Vec::new(),
            observers: Vec::new(),
            allowed: Vec::new(),
            in_space: false,
            keep: Duration::from_secs(7 * 86_400),
        }
    }
}

impl RoomSettings {
    /// The Matrix user whose task this is, if any is known.
    pub(crate) fn owner(&self, caller: &Caller) -> Option<&String> {
        let narrow = format!("{}/{}", caller.token, caller.agent_id);
        self.owners
            .get(&narrow)
            .or_else(|| self.owners.get(&caller.token))
    }

    /// Who may steer this task: its owner first, then the operators.
    pub(crate) fn steering(&self, view: &TaskView) -> Vec<String> {
        let owner = self.owner(&view.caller).into_iter();
        distinct(owner.chain(&self.operators))
    }

    /// Who is called when the task needs somebody: its owner, or the operators where nobody owns it.
    pub(crate) fn called(&self, view: &TaskView) -> Vec<String> {
        match self.owner(&view.caller) {
            Some(owner) => vec![owner.clone()],
            None => self.operators.clone(),
        }
    }

    /// Everybody who is invited.
    pub(crate) fn invited(&self, view: &TaskView) -> Vec<String> {
        let owner = self.owner(&view.caller).into_iter();
        let named = view.spec.observers.iter().filter(|id| super::is_user(id));
        let everywhere = self.operators.iter().chain(&self.observers);
        let everywhere = everywhere.filter(|_| !self.in_space);
        distinct(owner.chain(named).chain(everywhere))
    }
}

fn distinct<'a>(all: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(one) {
            seen.push(one.clone());
        }
    }
    seen
}

/// The name of a task's cursor.
pub(crate) fn cursor(task: TaskId) -> String {
    format!("rooms:{task}")
}

/// Durable with the room's row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Every event up to here is told.
    pub(crate) told: EventNumber,
    /// Observations after `told` and up to here are being told in one post.
    pub(crate) telling: Option<EventNumber>,
    /// The posts that show the status, oldest first; the thread hangs on the first, the last one is edited.
    pub(crate) statuses: Vec<String>,
    /// Counts posts and edits of the status.
    pub(crate) rev: u64,
    /// Edits of the last status post.
    pub(crate) edits: u32,
    /// What the status said last, without times.
    pub(crate) said: String,
    /// The status post that has its buttons and is pinned.
    pub(crate) buttons: Option<String>,
    /// The name that the room has.
    pub(crate) worn: String,
    /// Posts that show an open request, and which.
    pub(crate) requests: Vec<(String, String)>,
    /// Files that were put into the room after the end, or refused.
    pub(crate) files: Vec<String>,
    /// Messages from this room that the worker has not taken up, and their events.
    pub(crate) carried: BTreeMap<String, String>,
    /// Output up to here was shown.
    pub(crate) output: u64,
    /// Output up to here is being shown.
    pub(crate) showing: Option<u64>,
    /// Nobody can write any more.
    pub(crate) shut: bool,
    /// Who was invited, or cannot be.
    pub(crate) invited: Vec<String>,
}

impl Record {
    pub(crate) fn read(json: &str) -> Result<Self, RoomMemoryError> {
        if json.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(json).map_err(|error| RoomMemoryError(error.to_string()))
    }

    pub(crate) fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The event that the thread hangs on.
    pub(crate) fn root(&self) -> Option<&String> {
        self.statuses.first()
    }
}
