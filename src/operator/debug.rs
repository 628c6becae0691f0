//! The debug endpoint: what every actor is doing, what a task's record says, its output and its patch.
//!
//! In: GET by an operator. Out: JSON. The board part needs no actor's answer, so it is there while any of them is stuck.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chargehand_actors::board::BoardSnapshot;
use chargehand_actors::command::{Identity, StatusQuery, TextKind, TextQuery, WaitFor};
use chargehand_actors::error::TreeError;
use chargehand_actors::id::TaskId;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::routes::Operator;
use super::tree_view::nested;
use crate::who::Who;

/// How long the registry may take; it is asked only for what the board does not know.
const REGISTRY: Duration = Duration::from_secs(1);
/// Newest events shown.
const EVENTS: usize = 50;
/// Bytes of a text shown when no limit is given, and at most.
const TEXT_BYTES: u64 = 65_536;
const MOST_TEXT_BYTES: u64 = 1_048_576;

/// `/debug/tree`
pub(super) async fn tree(
    State(operator): State<Operator>,
    Extension(who): Extension<Who>,
) -> Response {
    if let Err(refusal) = allowed(&who) {
        return refusal.into_response();
    }
    let snapshot = operator.tree.board();
    let body = json!({
        "now": operator.clock.now().0,
        "version": env!("CARGO_PKG_VERSION"),
        "actors": snapshot.actors.len(),
        "tree": nested(snapshot),
    });
    Json(body).into_response()
}

/// `/debug/tasks/{id}`
pub(super) async fn task(
    State(operator): State<Operator>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Response {
    let (who, id) = match checked(&who, &id) {
        Ok(checked) => checked,
        Err(refusal) => return refusal.into_response(),
    };
    let actors = actors_of(operator.tree.board(), id);
    let query = StatusQuery {
        task: id,
        since: None,
        events_limit: EVENTS,
        wait_for: WaitFor::Nothing,
        wait_ms: 0,
    };
    let read = tokio::time::timeout(REGISTRY, operator.tree.status(&who, query)).await;
    let (registry, status) = match read {
        Ok(Ok(status)) => ("answered".to_owned(), json!(status)),
        Ok(Err(TreeError::TaskNotFound(_))) if actors == json!([]) => {
            return refused(StatusCode::NOT_FOUND, "there is no such task");
        }
        Ok(Err(error)) => (error.to_string(), Value::Null),
        Err(_) => ("no answer within 1 s".to_owned(), Value::Null),
    };
    let body = json!({
        "now": operator.clock.now().0,
        "task_id": id.to_string(),
        "actors": actors,
        "registry": registry,
        "status": status,
    });
    Json(body).into_response()
}

/// The actors that work for a task: itself, its memory, its room.
fn actors_of(snapshot: BoardSnapshot, id: TaskId) -> Value {
    let label = id.to_string();
    let actors = snapshot
        .actors
        .into_iter()
        .filter(|actor| actor.label == label)
        .collect();
    json!(nested(BoardSnapshot { actors }))
}

/// `?offset=&limit=`
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    offset: u64,
    limit: Option<u64>,
}

/// `/debug/tasks/{id}/output`
pub(super) async fn output(
    State(operator): State<Operator>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Response {
    text(&operator, &who, &id, TextKind::Output, &page).await
}

/// `/debug/tasks/{id}/patch`
pub(super) async fn patch(
    State(operator): State<Operator>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Response {
    text(&operator, &who, &id, TextKind::Patch, &page).await
}

async fn text(operator: &Operator, who: &Who, id: &str, text: TextKind, page: &Page) -> Response {
    let (who, task) = match checked(who, id) {
        Ok(checked) => checked,
        Err(refusal) => return refusal.into_response(),
    };
    let query = TextQuery {
        task,
        text,
        offset: page.offset,
        limit: page.limit.unwrap_or(TEXT_BYTES).clamp(1, MOST_TEXT_BYTES),
    };
    match operator.tree.text(&who, query).await {
        Ok(chunk) => Json(json!({
            "offset": chunk.offset,
            "text": chunk.text,
            "next_offset": chunk.next_offset,
            "total": chunk.total,
        }))
        .into_response(),
        Err(error @ (TreeError::TaskNotFound(_) | TreeError::File(_))) => {
            refused(StatusCode::NOT_FOUND, &error.to_string())
        }
        Err(error @ TreeError::FilesCleared { .. }) => {
            refused(StatusCode::GONE, &error.to_string())
        }
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// Why a request is not served.
struct Refusal(StatusCode, &'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        refused(self.0, self.1)
    }
}

fn allowed(who: &Who) -> Result<Identity, Refusal> {
    who.operator().ok_or(Refusal(
        StatusCode::FORBIDDEN,
        "only an operator may look here: a token with role operator, or without tokens a request that names no agent",
    ))
}

fn checked(who: &Who, id: &str) -> Result<(Identity, TaskId), Refusal> {
    let identity = allowed(who)?;
    let id = id.parse().map_err(|_| {
        Refusal(
            StatusCode::BAD_REQUEST,
            "this is no task id (a UUID); list_tasks shows them",
        )
    })?;
    Ok((identity, id))
}

fn refused(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": message}))).into_response()
}
