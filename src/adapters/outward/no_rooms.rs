//! The rooms of a Chargehand without a homeserver.
//!
//! In: calls that nobody should make. Out: a permanent refusal, so that a mistake shows instead of looking delivered.

use std::sync::Arc;
use std::time::Duration;

use chargehand_actors::id::{EventNumber, TaskId};
use chargehand_actors::ports::{
    Attachment, Dress, OpenRoom, Page, Person, PortFuture, Post, RoomError, RoomMemory,
    RoomMemoryError, RoomRow, RoomSink, Rooms, Sign, TakenCommand,
};
use chargehand_actors::view::HealthState;

const WHY: &str = "no homeserver is configured";

/// No homeserver is configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRooms;

fn refused<T: Send + 'static>() -> PortFuture<'static, Result<T, RoomError>> {
    Box::pin(async { Err(RoomError::Permanent(WHY.to_owned())) })
}

fn forgotten<T: Send + 'static>() -> PortFuture<'static, Result<T, RoomMemoryError>> {
    Box::pin(async { Err(RoomMemoryError(WHY.to_owned())) })
}

impl Rooms for NoRooms {
    fn name(&self) -> String {
        "none".to_owned()
    }

    fn enabled(&self) -> bool {
        false
    }

    fn health(&self) -> (HealthState, String) {
        (HealthState::Off, WHY.to_owned())
    }

    fn memory(&self) -> Arc<dyn RoomMemory> {
        Arc::new(Self)
    }

    fn pace(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn listen(&self, _sink: RoomSink) -> PortFuture<'_, Result<(), RoomError>> {
        refused()
    }

    fn open(&self, _room: OpenRoom) -> PortFuture<'_, Result<String, RoomError>> {
        refused()
    }

    fn post(&self, _room: String, _post: Post) -> PortFuture<'_, Result<String, RoomError>> {
        refused()
    }

    fn attach(&self, _room: String, _file: Attachment) -> PortFuture<'_, Result<(), RoomError>> {
        refused()
    }

    fn react(&self, _room: String, _sign: Sign) -> PortFuture<'_, Result<(), RoomError>> {
        refused()
    }

    fn dress(&self, _room: String, _dress: Dress) -> PortFuture<'_, Result<(), RoomError>> {
        refused()
    }

    fn close(&self, _room: String) -> PortFuture<'_, Result<(), RoomError>> {
        refused()
    }

    fn leave(&self, _room: String) -> PortFuture<'_, Result<(), RoomError>> {
        refused()
    }

    fn read(
        &self,
        _room: String,
        _from: Option<String>,
    ) -> PortFuture<'_, Result<Page, RoomError>> {
        refused()
    }

    fn people(&self, _room: String) -> PortFuture<'_, Result<Vec<Person>, RoomError>> {
        refused()
    }

    fn invite(&self, _room: String, _user: String) -> PortFuture<'_, Result<(), RoomError>> {
        refused()
    }

    fn empower(
        &self,
        _room: String,
        _user: String,
        _power: i64,
    ) -> PortFuture<'_, Result<(), RoomError>> {
        refused()
    }

    fn remove(
        &self,
        _room: String,
        _user: String,
        _reason: String,
    ) -> PortFuture<'_, Result<(), RoomError>> {
        refused()
    }
}

impl RoomMemory for NoRooms {
    fn all(&self) -> PortFuture<'_, Result<Vec<(TaskId, RoomRow)>, RoomMemoryError>> {
        forgotten()
    }

    fn row(&self, _task: TaskId) -> PortFuture<'_, Result<RoomRow, RoomMemoryError>> {
        forgotten()
    }

    fn save(
        &self,
        _task: TaskId,
        _row: RoomRow,
        _cursor: (String, EventNumber),
    ) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        forgotten()
    }

    fn take(
        &self,
        _task: TaskId,
        _commands: Vec<TakenCommand>,
        _heard: Option<String>,
    ) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        forgotten()
    }

    fn open(&self, _task: TaskId) -> PortFuture<'_, Result<Vec<TakenCommand>, RoomMemoryError>> {
        forgotten()
    }

    fn begin(&self, _event: String) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        forgotten()
    }

    fn done(
        &self,
        _event: String,
        _outcome: String,
    ) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        forgotten()
    }

    fn keep_archive(
        &self,
        _task: TaskId,
        _json: String,
    ) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        forgotten()
    }

    fn archive(&self, _task: TaskId) -> PortFuture<'_, Result<Option<String>, RoomMemoryError>> {
        forgotten()
    }

    fn forget(&self, _task: TaskId) -> PortFuture<'_, Result<(), RoomMemoryError>> {
        forgotten()
    }
}
