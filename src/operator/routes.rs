//! The operator's routes.
//!
//! In: the tree's handle. Out: a router.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use chargehand_actors::id::WallTime;
use chargehand_actors::ports::Clock;
use chargehand_actors::tree::TreeHandle;

use super::disks::Disk;
use super::{debug, health, metrics};
use crate::config::DataSettings;
use crate::counters::Counters;

/// What the handlers need.
#[derive(Clone)]
pub(super) struct Operator {
    pub(super) tree: TreeHandle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) counters: Arc<Counters>,
    pub(super) disks: Arc<[Disk]>,
    pub(super) started: WallTime,
}

/// `/health`, `/ready`, `/metrics`, `/debug/…`.
pub(crate) fn routes(
    tree: TreeHandle,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    data: &DataSettings,
) -> Router {
    let disks = Arc::from([
        Disk::new("data", data.dir.clone()),
        Disk::new("workdirs", data.workdirs.clone()),
    ]);
    let started = clock.now();
    Router::new()
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/debug/tree", get(debug::tree))
        .route("/debug/tasks/{id}", get(debug::task))
        .route("/debug/tasks/{id}/output", get(debug::output))
        .route("/debug/tasks/{id}/patch", get(debug::patch))
        .with_state(Operator {
            tree,
            clock,
            counters,
            disks,
            started,
        })
}
