//! The outward ports of a Chargehand without a memory service or an agent to notify.
//!
//! In: calls that nobody should make. Out: a permanent refusal, so that a mistake shows instead of looking delivered.

use chargehand_actors::ports::{
    Delivered, LeftMemory, Memory, MemoryPage, MemoryPlace, Notice, Notices, PlannerError,
    PortFuture, Written,
};
use chargehand_actors::view::TaskView;

const NAME: &str = "none";

/// No memory service is configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMemory;

/// No completion notices are configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNotices;

fn no_planner<T: Send + 'static>() -> PortFuture<'static, Result<T, PlannerError>> {
    Box::pin(async { Err(PlannerError::Gone("nothing configured".to_owned())) })
}

impl Memory for NoMemory {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn enabled(&self) -> bool {
        false
    }

    fn wants(&self, _view: &TaskView) -> bool {
        false
    }

    fn events_wanted(&self) -> u64 {
        0
    }

    fn probe(&self) -> PortFuture<'_, Result<String, PlannerError>> {
        no_planner()
    }

    fn write(
        &self,
        _page: MemoryPage,
        _at: Option<MemoryPlace>,
        _fresh: bool,
    ) -> PortFuture<'_, Result<Written, PlannerError>> {
        no_planner()
    }

    fn archives(&self) -> bool {
        false
    }

    fn archive(
        &self,
        _view: TaskView,
        _in_doubt: bool,
    ) -> PortFuture<'_, Result<(), PlannerError>> {
        no_planner()
    }

    fn close(
        &self,
        _view: TaskView,
        _at: Option<MemoryPlace>,
    ) -> PortFuture<'_, Result<(), PlannerError>> {
        no_planner()
    }

    fn left(&self) -> PortFuture<'_, Result<Vec<LeftMemory>, PlannerError>> {
        no_planner()
    }

    fn remove(&self, _left: LeftMemory) -> PortFuture<'_, Result<(), PlannerError>> {
        no_planner()
    }
}

impl Notices for NoNotices {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn enabled(&self) -> bool {
        false
    }

    fn reaches(&self, _view: &TaskView) -> bool {
        false
    }

    fn notify(
        &self,
        _notice: Notice,
        _in_doubt: bool,
    ) -> PortFuture<'_, Result<Delivered, PlannerError>> {
        no_planner()
    }
}
