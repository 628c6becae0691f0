//! The outward ports of a Chargehand without a memory service, a homeserver or an agent to notify.
//!
//! In: calls that nobody should make. Out: a permanent refusal, so that a mistake shows instead of looking delivered.

use chargehand_actors::event::CommittedEvent;
use chargehand_actors::id::TaskId;
use chargehand_actors::ports::{Memory, Notices, OutwardError, PortFuture, Rooms};
use chargehand_actors::view::TaskView;

const NAME: &str = "none";

/// No memory service is configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMemory;

/// No homeserver is configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRooms;

/// No completion notices are configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNotices;

fn refused() -> PortFuture<'static, Result<(), OutwardError>> {
    Box::pin(async { Err(OutwardError::Permanent("nothing configured".to_owned())) })
}

impl Memory for NoMemory {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn enabled(&self) -> bool {
        false
    }

    fn write(&self, _view: TaskView) -> PortFuture<'_, Result<(), OutwardError>> {
        refused()
    }
}

impl Rooms for NoRooms {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn enabled(&self) -> bool {
        false
    }

    fn post(
        &self,
        _task: TaskId,
        _key: String,
        _events: Vec<CommittedEvent>,
    ) -> PortFuture<'_, Result<(), OutwardError>> {
        refused()
    }
}

impl Notices for NoNotices {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn enabled(&self) -> bool {
        false
    }

    fn notify(&self, _view: TaskView, _key: String) -> PortFuture<'_, Result<(), OutwardError>> {
        refused()
    }
}
