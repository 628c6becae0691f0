//! A scripted OpenCode over HTTP: as much of it as the driver talks to, and the faults that the real one shows only rarely.
//!
//! In: sessions and faults set by a test. Out: a URL; what was created, aborted and deleted stands in its state.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::opencode_fake_files::{FakeFiles, routes};

/// What the fake does wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Its version; 1.18.33 when empty.
    pub(crate) version: String,
    /// Prompts are taken (204) and forgotten.
    pub(crate) lose_prompts: bool,
    /// A run begins this long after its prompt; aborts before that are lost.
    pub(crate) lag: Duration,
    /// Every answer comes this late.
    pub(crate) slow: Duration,
    /// These paths answer with a web page.
    pub(crate) web_pages: Vec<&'static str>,
    /// Sessions keep no metadata.
    pub(crate) drops_metadata: bool,
    /// The next so many requests are answered with 500.
    pub(crate) failures: u32,
    /// The next so many requests are answered with 503.
    pub(crate) unavailable: u32,
}

#[derive(Default)]
pub(crate) struct FakeState {
    pub(crate) faults: Faults,
    pub(crate) sessions: Vec<Value>,
    pub(crate) messages: HashMap<String, Vec<Value>>,
    /// When the run of a session begins; it goes on until it is aborted.
    pub(crate) begins: HashMap<String, Instant>,
    pub(crate) aborts: u32,
    pub(crate) permissions: Vec<Value>,
    pub(crate) disk: FakeFiles,
    streams: Vec<mpsc::UnboundedSender<Bytes>>,
    made: u32,
}

/// A running fake.
pub(crate) struct Fake {
    pub(crate) url: String,
    state: Arc<Mutex<FakeState>>,
    serving: tokio::task::JoinHandle<()>,
}

type Shared = State<Arc<Mutex<FakeState>>>;

pub(crate) const PASSWORD: &str = "secret-of-the-fake";

impl Fake {
    pub(crate) async fn start(faults: Faults) -> Self {
        let state = Arc::new(Mutex::new(FakeState {
            faults,
            ..FakeState::default()
        }));
        let app = Router::new()
            .route("/global/health", get(health))
            .route("/global/event", get(events))
            .route("/session", get(list).post(create))
            .route("/experimental/session", get(list))
            .route("/session/status", get(status))
            .route("/session/{id}", get(session).delete(delete))
            .route("/session/{id}/message", get(messages))
            .route("/session/{id}/todo", get(|| async { Json(json!([])) }))
            .route("/session/{id}/prompt_async", post(prompt))
            .route("/session/{id}/abort", post(abort))
            .route("/permission", get(permissions))
            .route("/question", get(|| async { Json(json!([])) }))
            .merge(routes())
            .layer(from_fn_with_state(Arc::clone(&state), gate))
            .fallback(|| async { Html("<html>the web interface</html>") })
            .with_state(Arc::clone(&state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            state,
            serving,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap()
    }

    /// Event streams that somebody listens to.
    pub(crate) fn open_streams(&self) -> usize {
        let state = self.state();
        state.streams.iter().filter(|one| !one.is_closed()).count()
    }

    /// Sends an event to every open stream.
    pub(crate) fn send(&self, event: &Value) {
        let line = Bytes::from(format!("data: {event}\n\n"));
        self.state()
            .streams
            .retain(|stream| stream.send(line.clone()).is_ok());
    }

    /// Ends every open stream.
    pub(crate) fn cut(&self) {
        self.state().streams.clear();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Password, slowness, failures and web pages, before any route.
async fn gate(State(state): Shared, request: Request, next: Next) -> Response {
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("opencode:{PASSWORD}"));
    let given = request.headers().get(header::AUTHORIZATION);
    if given.and_then(|value| value.to_str().ok()) != Some(&format!("Basic {expected}")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (slow, fails, web_page) = {
        let mut state = state.lock().unwrap();
        if state.faults.unavailable > 0 {
            state.faults.unavailable -= 1;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let fails = state.faults.failures > 0;
        state.faults.failures = state.faults.failures.saturating_sub(1);
        let web_page = state.faults.web_pages.contains(&request.uri().path());
        (state.faults.slow, fails, web_page)
    };
    tokio::time::sleep(slow).await;
    if fails {
        let body = json!({"name": "UnknownError", "data": {"message": "bad day"}});
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response();
    }
    if web_page {
        return Html("<html>the web interface</html>").into_response();
    }
    next.run(request).await
}

fn not_found() -> Response {
    let body = json!({"name": "NotFoundError", "data": {"message": "Session not found"}});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

async fn health(State(state): Shared) -> Json<Value> {
    let version = state.lock().unwrap().faults.version.clone();
    let version = if version.is_empty() {
        "1.18.33".to_owned()
    } else {
        version
    };
    Json(json!({"healthy": true, "version": version}))
}

async fn events(State(state): Shared) -> Response {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let first = Bytes::from_static(
        b"data: {\"payload\":{\"type\":\"server.connected\",\"properties\":{}}}\n\n",
    );
    sender.send(first).unwrap();
    state.lock().unwrap().streams.push(sender);
    let stream = futures_util::stream::poll_fn(move |context| {
        receiver
            .poll_recv(context)
            .map(|piece| piece.map(Ok::<_, std::io::Error>))
    });
    (
        [(header::CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(stream),
    )
        .into_response()
}

async fn list(State(state): Shared, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let state = state.lock().unwrap();
    let found: Vec<&Value> = state
        .sessions
        .iter()
        .rev()
        .filter(|one| {
            query
                .get("directory")
                .is_none_or(|directory| one["directory"] == **directory)
        })
        .collect();
    Json(json!(found))
}

async fn create(
    State(state): Shared,
    Query(query): Query<HashMap<String, String>>,
    Json(body): Json<Value>,
) -> Json<Value> {
    let mut state = state.lock().unwrap();
    state.made += 1;
    let mut session = json!({
        "id": format!("ses_made{}", state.made),
        "directory": query.get("directory"),
        "title": body["title"],
        "time": {"created": 1000 + state.made},
    });
    if !state.faults.drops_metadata {
        session["metadata"] = body["metadata"].clone();
    }
    state.sessions.push(session.clone());
    Json(session)
}

async fn session(State(state): Shared, Path(id): Path<String>) -> Response {
    let state = state.lock().unwrap();
    match state.sessions.iter().find(|one| one["id"] == *id) {
        Some(found) => Json(found.clone()).into_response(),
        None => not_found(),
    }
}

async fn delete(State(state): Shared, Path(id): Path<String>) -> Json<Value> {
    state
        .lock()
        .unwrap()
        .sessions
        .retain(|one| one["id"] != *id);
    Json(json!(true))
}

async fn messages(State(state): Shared, Path(id): Path<String>) -> Response {
    let mut state = state.lock().unwrap();
    if !state.sessions.iter().any(|one| one["id"] == *id) {
        return not_found();
    }
    state.begin(&id);
    Json(json!(state.messages.get(&id).cloned().unwrap_or_default())).into_response()
}

impl FakeState {
    fn runs(&self, id: &str) -> bool {
        self.begins
            .get(id)
            .is_some_and(|begin| Instant::now() >= *begin)
    }

    /// A run that has begun shows an assistant message without end.
    fn begin(&mut self, id: &str) {
        if self.runs(id) {
            let messages = self.messages.entry(id.to_owned()).or_default();
            if messages
                .last()
                .is_some_and(|last| last["info"]["role"] == "user")
            {
                messages.push(json!({"info": {"id": "msg_answer", "role": "assistant", "time": {"created": 2}}, "parts": []}));
            }
        }
    }
}

async fn status(State(state): Shared) -> Json<Value> {
    let state = state.lock().unwrap();
    let busy: HashMap<&String, Value> = state
        .begins
        .keys()
        .filter(|id| state.runs(id))
        .map(|id| (id, json!({"type": "busy"})))
        .collect();
    Json(json!(busy))
}

async fn prompt(State(state): Shared, Path(id): Path<String>, Json(body): Json<Value>) -> Response {
    let mut state = state.lock().unwrap();
    if !state.sessions.iter().any(|one| one["id"] == *id) {
        return not_found();
    }
    if !state.faults.lose_prompts {
        let message = json!({"info": {"id": body["messageID"], "role": "user", "time": {"created": 1}}, "parts": body["parts"]});
        let begin = Instant::now() + state.faults.lag;
        state.messages.entry(id.clone()).or_default().push(message);
        state.begins.insert(id, begin);
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn abort(State(state): Shared, Path(id): Path<String>) -> Json<Value> {
    let mut state = state.lock().unwrap();
    state.aborts += 1;
    state.begin(&id);
    if state.runs(&id) {
        state.begins.remove(&id);
        if let Some(last) = state.messages.get_mut(&id).and_then(|all| all.last_mut()) {
            last["info"]["time"]["completed"] = json!(3);
            last["info"]["error"] =
                json!({"name": "MessageAbortedError", "data": {"message": "Aborted"}});
        }
    }
    Json(json!(true))
}

async fn permissions(State(state): Shared) -> Json<Value> {
    Json(json!(state.lock().unwrap().permissions))
}
