//! The files and diffs of the scripted OpenCode.
//!
//! In: files by path, diffs by message, and faults set by a test. Out: the routes that answer with them.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::opencode_fake::FakeState;

/// What stands in the one directory that the server has, `/w`.
#[derive(Default)]
pub(crate) struct FakeFiles {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Entries added to every listing, whatever its path.
    pub(crate) everywhere: Vec<Value>,
    /// Diffs by message id.
    pub(crate) diffs: HashMap<String, Value>,
    /// The next so many diffs are asked for too early: they are empty.
    pub(crate) early: u32,
    /// No repository.
    pub(crate) plain: bool,
    /// The version has no route for exact bytes.
    pub(crate) only_trimmed: bool,
    /// Listings asked for.
    pub(crate) listings: u32,
}

type Shared = State<Arc<Mutex<FakeState>>>;
type Asked = Query<HashMap<String, String>>;

pub(crate) fn routes() -> Router<Arc<Mutex<FakeState>>> {
    Router::new()
        .route("/path", get(paths))
        .route("/file", get(list))
        .route("/file/content", get(trimmed))
        .route("/api/fs/read/{*path}", get(raw))
        .route("/session/{id}/diff", get(diff))
}

fn fails() -> Response {
    let body = json!({"name": "UnknownError", "data": {"message": "Unexpected server error."}});
    (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
}

async fn paths(State(state): Shared, Query(asked): Asked) -> Json<Value> {
    let directory = asked.get("directory").map_or("/w", String::as_str);
    let plain = state.lock().unwrap().disk.plain;
    Json(json!({"directory": directory, "worktree": if plain { "/" } else { "/w" }}))
}

async fn list(State(state): Shared, Query(asked): Asked) -> Response {
    if asked.get("directory").map(String::as_str) != Some("/w") {
        return fails();
    }
    let mut state = state.lock().unwrap();
    state.disk.listings += 1;
    let above = match asked.get("path").map(String::as_str) {
        None | Some("") => String::new(),
        Some(path) => format!("{path}/"),
    };
    let below = state.disk.files.keys();
    let below = below.filter_map(|path| path.strip_prefix(&above));
    let names: BTreeSet<(&str, &str)> = below
        .map(|rest| match rest.split_once('/') {
            Some((name, _)) => (name, "directory"),
            None => (rest, "file"),
        })
        .collect();
    let node = |(name, kind)| json!({"name": name, "type": kind, "ignored": name == "target"});
    let mut nodes: Vec<Value> = names.into_iter().map(node).collect();
    nodes.extend(state.disk.everywhere.clone());
    if nodes.is_empty() && !above.is_empty() {
        return fails();
    }
    Json(json!(nodes)).into_response()
}

/// As OpenCode does: text without the space around it, nothing for a file that is not there.
async fn trimmed(State(state): Shared, Query(asked): Asked) -> Json<Value> {
    let state = state.lock().unwrap();
    let bytes = state.disk.files.get(&asked["path"]);
    match String::from_utf8(bytes.cloned().unwrap_or_default()) {
        Ok(text) => Json(json!({"type": "text", "content": text.trim()})),
        Err(error) => {
            let content = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
            Json(json!({"type": "binary", "content": content, "encoding": "base64"}))
        }
    }
}

async fn raw(State(state): Shared, Path(path): Path<String>, Query(asked): Asked) -> Response {
    let state = state.lock().unwrap();
    if state.disk.only_trimmed {
        return Html("<html>the web interface</html>").into_response();
    }
    if asked.get("location[directory]").map(String::as_str) != Some("/w") {
        return fails();
    }
    let kind = if path.ends_with(".html") {
        "text/html"
    } else {
        "text/plain"
    };
    match state.disk.files.get(&path) {
        Some(bytes) => ([(header::CONTENT_TYPE, kind)], bytes.clone()).into_response(),
        None => fails(),
    }
}

async fn diff(State(state): Shared, Query(asked): Asked) -> Json<Value> {
    let mut state = state.lock().unwrap();
    let known = asked
        .get("messageID")
        .and_then(|message| state.disk.diffs.get(message).cloned());
    if state.disk.early > 0 {
        state.disk.early -= 1;
        return Json(json!([]));
    }
    Json(known.unwrap_or_else(|| json!([])))
}
