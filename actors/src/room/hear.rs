//! Reads what was said in a room and takes every command down before anything is done about it.
//!
//! In: the place up to which everything was taken, and the news of the stream. Out: durable rows, one for each event, and
//! the place moved on in the same transaction. Live news, a restart and a gap take the same way: the room is read on from
//! the last place, and an event that was taken before is not taken again. Whoever may steer and has come or gone is told to the
//! task: while one of them is there, its requests wait for an answer.

use std::sync::Arc;
use std::time::Duration;

use crate::command::{Attendance, Identity};
use crate::crash::CrashPoint;
use crate::error::TreeError;
use crate::id::{TaskId, WallTime};
use crate::ports::{Heard, Person, RoomError, Rooms, TakenCommand};
use crate::tree::TreeHandle;
use crate::wiring::Wires;

use super::command::{Ground, Verdict, Wish, bound, judge, kind, may};
use super::record::Record;

/// Between two tries of telling a task that nobody watches it.
const AGAIN: Duration = Duration::from_secs(5);
/// What an origin begins with when the command came from a room.
const ORIGIN: &str = "matrix ";

/// The origin of a command that somebody gave with this event.
pub(super) fn origin_of(event: &str) -> String {
    format!("{ORIGIN}{event}")
}

/// The event behind such an origin.
pub(super) fn event_of(origin: &str) -> Option<&str> {
    origin.strip_prefix(ORIGIN)
}

/// What a row says, as JSON: the wish, and the thread that it stands in.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Taken {
    pub(super) wish: Wish,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) thread: Option<String>,
}

/// Reads on from the last place; with `upto`, everything before it is taken afterwards. Whether somebody came or went.
pub(super) async fn hear(
    wires: Wires,
    task: TaskId,
    upto: Option<String>,
) -> Result<bool, RoomError> {
    let rooms: &Arc<dyn Rooms> = &wires.ports.rooms;
    let memory = rooms.memory();
    let row = memory.row(task).await?;
    let (Some(room), None) = (row.room, row.closed) else {
        return Ok(false);
    };
    let mut from = row.heard;
    let mut people_changed = false;
    loop {
        let page = rooms.read(room.clone(), from).await?;
        // Posts that were made meanwhile may have buttons.
        let record = Record::read(&memory.row(task).await?.record)?;
        let ground = Ground {
            task: Some(task),
            statuses: &record.statuses,
            requests: &record.requests,
            allowed: &wires.settings.rooms.allowed,
        };
        let mut commands = Vec::new();
        for heard in &page.heard {
            if let Verdict::Take(wish) = judge(heard, &ground) {
                let wish = meant(&wires, task, wish, heard.at).await?;
                commands.extend(taken(heard, wish));
            }
        }
        people_changed |= page.people_changed;
        let last = page.next.is_none();
        let place = if last { upto.clone() } else { None };
        if !commands.is_empty() || place.is_some() {
            CrashPoint::BeforeRoomTake.pass();
            memory.take(task, commands, place).await?;
            CrashPoint::AfterRoomTake.pass();
        }
        if last {
            break;
        }
        from = page.next;
    }
    Ok(people_changed)
}

/// Binds a command that names no request to one, as it stood when it was said: when it is done, another may be open.
async fn meant(
    wires: &Wires,
    task: TaskId,
    wish: Wish,
    said_at: WallTime,
) -> Result<Wish, RoomError> {
    if kind(&wish).is_none() {
        return Ok(wish);
    }
    let view = wires.ports.journal.task(task).await?;
    let open = view.map(|view| view.requests).unwrap_or_default();
    Ok(bound(wish, &open, said_at))
}

/// Says to the task who watches it and may steer. Where the room cannot be seen any more, that is nobody.
pub(super) async fn tell_attendance(wires: Wires, task: TaskId) -> Result<(), RoomError> {
    let row = wires.ports.rooms.memory().row(task).await?;
    let (Some(room), None) = (row.room, row.closed) else {
        return Ok(());
    };
    let allowed = &wires.settings.rooms.allowed;
    let attends =
        |person: &Person| person.joined && !person.own && may(person.power, &person.id, allowed);
    let people = match wires.ports.rooms.people(room).await {
        Ok(people) => people,
        Err(error @ (RoomError::Permanent(_) | RoomError::LoginLost(_))) => {
            tracing::debug!(%task, %error, "who watches the task cannot be seen: nobody is waited for");
            Vec::new()
        }
        Err(error @ (RoomError::Later(_) | RoomError::Transient(_))) => return Err(error),
    };
    let mut people: Vec<String> = people
        .into_iter()
        .filter(attends)
        .map(|person| person.id)
        .collect();
    people.sort();
    attended_by(&wires, task, people).await
}

/// Says so to the task; one that has ended asks nothing any more.
async fn attended_by(wires: &Wires, task: TaskId, people: Vec<String>) -> Result<(), RoomError> {
    let tree = TreeHandle {
        wires: Arc::clone(wires),
    };
    let attendance = Attendance { task, people };
    match tree.attendance(&Identity::inside("room"), attendance).await {
        Ok(()) | Err(TreeError::WrongPhase { .. } | TreeError::TaskNotFound(_)) => Ok(()),
        Err(error) => Err(RoomError::Transient(error.to_string())),
    }
}

/// Says to tasks that were attended when rooms were on last that nobody watches them now: their requests would wait for nobody.
pub(crate) async fn nobody_watches(wires: Wires, tasks: Vec<TaskId>) {
    for task in tasks {
        while let Err(error) = attended_by(&wires, task, Vec::new()).await {
            tracing::debug!(%task, %error, "that nobody watches the task is told later");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn taken(heard: &Heard, wish: Wish) -> Option<TakenCommand> {
    let taken = Taken {
        wish,
        thread: heard.thread.clone(),
    };
    Some(TakenCommand {
        event: heard.event.clone(),
        sender: heard.sender.clone(),
        wish: serde_json::to_string(&taken).ok()?,
        begun: false,
    })
}
