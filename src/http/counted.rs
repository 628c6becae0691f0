//! Counts refused requests.
//!
//! In: every response. Out: the same. A 503 of `/health` and `/ready` is their answer, not a refusal.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::counters::Counters;

/// Counts what was refused.
pub(super) async fn count(
    State(counters): State<Arc<Counters>>,
    request: Request,
    next: Next,
) -> Response {
    let is_answer = matches!(request.uri().path(), "/health" | "/ready");
    let response = next.run(request).await;
    if !is_answer {
        counters.answered(response.status());
    }
    response
}
