//! The operator's routes.
//!
//! In: the tree's handle. Out: a router.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use chargehand_actors::ports::Clock;
use chargehand_actors::tree::TreeHandle;

use super::{debug, health};

/// What the handlers need.
#[derive(Clone)]
pub(super) struct Operator {
    pub(super) tree: TreeHandle,
    pub(super) clock: Arc<dyn Clock>,
}

/// `/health`, `/ready`, `/debug/…`.
pub(crate) fn routes(tree: TreeHandle, clock: Arc<dyn Clock>) -> Router {
    Router::new()
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/debug/tree", get(debug::tree))
        .route("/debug/tasks/{id}", get(debug::task))
        .route("/debug/tasks/{id}/output", get(debug::output))
        .route("/debug/tasks/{id}/patch", get(debug::patch))
        .with_state(Operator { tree, clock })
}
