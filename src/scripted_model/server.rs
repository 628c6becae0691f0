//! The server: answers chat requests by script and records each one.
//!
//! In: `POST /v1/chat/completions` (streams only), `GET /v1/models`, `GET /__script/requests`; loopback only.
//! Out: server-sent events, and [`RequestRecord`]s through the handle and over HTTP.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::choose::{Choice, Facts, choose, facts};
use super::opencode::MODEL;
use super::plan::{Piece, plan};
use super::script::{HttpFault, Scenario};

/// Requests kept; older ones are forgotten.
const KEEP: usize = 2_000;
/// A long session with large tool results stays well below.
const BODY_LIMIT: usize = 64 * 1024 * 1024;
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyEnd {
    /// Not yet.
    Open,
    /// Sent to the end.
    Done,
    /// Sent without finish, as scripted.
    Cut,
    /// An HTTP error, as scripted, or because the request or its script cannot be read.
    Error,
    /// The client went away, or the server was stopped, before the end.
    Aborted,
}

/// A request as it came, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestRecord {
    /// 1, 2, … in the order of arrival.
    pub number: u64,
    /// Name of the scenario: `inline`, `title`, `none`, `unreadable`, or its own.
    pub scenario: String,
    /// Which turn of it, from 0.
    pub turn: usize,
    /// The working directory that the worker named.
    pub cwd: String,
    /// How the answer ended.
    pub end: ReplyEnd,
    /// The whole body.
    pub body: Value,
}

/// A running server. Dropping it ends it; [`ScriptedModel::stop`] also waits for the end.
pub struct ScriptedModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<io::Result<()>>,
    stop: DropGuard,
}

struct Shared {
    scenarios: Vec<Scenario>,
    book: Mutex<Book>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Book {
    arrived: u64,
    records: VecDeque<RequestRecord>,
    /// How often each turn with a limited error was reached.
    faults: HashMap<String, u32>,
}

impl ScriptedModel {
    /// Listens on `address` (port 0 = any free one) and serves `scenarios`, and inline scripts before them.
    ///
    /// # Errors
    /// The address is not a loopback address, or cannot be bound.
    pub async fn start(address: SocketAddr, scenarios: Vec<Scenario>) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the scripted model listens on loopback only, not on {address}"),
            ));
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            scenarios,
            book: Mutex::default(),
            stop: stop.clone(),
        });
        let router = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/models", get(models))
            .route("/__script/requests", get(recorded))
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .with_state(Arc::clone(&shared));
        let ended = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(ended)
                .await
        });
        Ok(Self {
            address,
            shared,
            serving,
            stop: stop.drop_guard(),
        })
    }

    /// What OpenCode calls `baseURL`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The newest requests (at most 2,000), oldest first.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.shared.book().records.iter().cloned().collect()
    }

    /// Ends every stream and waits until the port is free.
    pub async fn stop(self) {
        drop(self.stop);
        let abort = self.serving.abort_handle();
        if tokio::time::timeout(STOP_TIMEOUT, self.serving)
            .await
            .is_err()
        {
            abort.abort();
        }
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the request down.
    fn record(self: &Arc<Self>, scenario: &str, turn: usize, cwd: &str, body: Value) -> Reply {
        let mut book = self.book();
        book.arrived += 1;
        let number = book.arrived;
        if book.records.len() == KEEP {
            book.records.pop_front();
        }
        book.records.push_back(RequestRecord {
            number,
            scenario: scenario.to_owned(),
            turn,
            cwd: cwd.to_owned(),
            end: ReplyEnd::Open,
            body,
        });
        drop(book);
        Reply {
            shared: Arc::clone(self),
            number,
            end: ReplyEnd::Aborted,
        }
    }

    /// Whether the turn's error is still due.
    fn fault_due(&self, fault: &HttpFault, key: &str) -> bool {
        let Some(times) = fault.times else {
            return true;
        };
        let mut book = self.book();
        let seen = book.faults.entry(key.to_owned()).or_default();
        *seen = seen.saturating_add(1);
        *seen <= times
    }
}

/// An answer under way. Writes its end into the record when dropped, so that a client's disappearance is recorded too.
struct Reply {
    shared: Arc<Shared>,
    number: u64,
    end: ReplyEnd,
}

impl Reply {
    fn finish(mut self, end: ReplyEnd) {
        self.end = end;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let mut book = self.shared.book();
        let mut newest_first = book.records.iter_mut().rev();
        if let Some(record) = newest_first.find(|r| r.number == self.number) {
            record.end = self.end;
        }
    }
}

async fn models() -> Json<Value> {
    Json(json!({"object": "list", "data": [{"id": MODEL, "object": "model"}]}))
}

async fn recorded(State(shared): State<Arc<Shared>>) -> Json<Vec<RequestRecord>> {
    Json(shared.book().records.iter().cloned().collect())
}

async fn chat(State(shared): State<Arc<Shared>>, Json(body): Json<Value>) -> Response {
    let facts = facts(&body);
    let chosen = if body["stream"] == Value::Bool(true) {
        choose(&facts, &shared.scenarios)
    } else {
        Err("only streamed answers are served: send \"stream\": true".to_owned())
    };
    let choice = match chosen {
        Ok(choice) => choice,
        Err(problem) => {
            shared
                .record("unreadable", 0, &facts.cwd, body)
                .finish(ReplyEnd::Error);
            let error = json!({"error": {"message": problem, "type": "invalid_request_error"}});
            return (StatusCode::BAD_REQUEST, Json(error)).into_response();
        }
    };
    let reply = shared.record(&choice.scenario, choice.number, &facts.cwd, body);
    let delay = tokio::time::sleep(Duration::from_millis(choice.turn.delay_ms));
    tokio::select! {
        () = delay => answer(&shared, choice, &facts, reply),
        () = shared.stop.cancelled() => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn answer(shared: &Shared, choice: Choice, facts: &Facts, reply: Reply) -> Response {
    if let Some(fault) = &choice.turn.error
        && shared.fault_due(fault, &choice.key)
    {
        reply.finish(ReplyEnd::Error);
        return fault_response(fault);
    }
    let pieces = plan(&choice.turn, facts, reply.number);
    let body = Body::from_stream(pieces_stream(pieces, choice.turn.cut, reply));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn fault_response(fault: &HttpFault) -> Response {
    let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = fault
        .body
        .clone()
        .unwrap_or_else(|| json!({"error": {"message": "scripted error", "type": "server_error"}}));
    let mut headers = HeaderMap::new();
    for (name, value) in &fault.headers {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(&text),
        ) {
            headers.insert(name, value);
        }
    }
    (status, headers, Json(body)).into_response()
}

fn pieces_stream(
    pieces: Vec<Piece>,
    cut: bool,
    reply: Reply,
) -> impl futures_util::Stream<Item = Result<Bytes, io::Error>> {
    let end = if cut { ReplyEnd::Cut } else { ReplyEnd::Done };
    stream::unfold(
        (VecDeque::from(pieces), reply),
        move |(mut pieces, reply)| async move {
            loop {
                match pieces.pop_front() {
                    Some(Piece::Send(bytes)) => return Some((Ok(bytes), (pieces, reply))),
                    Some(Piece::Wait(time)) => {
                        let stop = reply.shared.stop.clone();
                        tokio::select! {
                            () = tokio::time::sleep(time) => {}
                            () = stop.cancelled() => return None,
                        }
                    }
                    None => {
                        reply.finish(end);
                        return None;
                    }
                }
            }
        },
    )
}
