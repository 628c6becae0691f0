//! Connections: accepted, bounded in number, and closed when a client sends too slowly.
//!
//! In: the bound listener, the routes. Out: HTTP/1.1 on each connection. A client that opens connections and says little
//! (or nothing) holds a place no longer than the read timeout; beyond the places that there are, a client is told so.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt;
use http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::json_errors::error;

/// Connections at once, at the most; half of the files that the process may open when that is less.
const MOST_CONNECTIONS: usize = 4_096;
/// Never fewer than this.
const LEAST_CONNECTIONS: usize = 64;
/// The largest head of a request (line and headers) in bytes; hyper answers 431 beyond it.
const MOST_HEAD_BYTES: usize = 64 * 1024;
/// How long to wait when no connection can be accepted (no file handle is free).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A client that pauses longer than this with a body that is too large has probably sent what it will.
const DISCARD_PAUSE: Duration = Duration::from_millis(500);

/// Serves until `closing` is cancelled and every open connection has ended.
pub(super) async fn serve(
    listener: TcpListener,
    app: Router,
    read_timeout: Duration,
    closing: CancellationToken,
) {
    serve_at_most(places(), listener, app, read_timeout, closing).await;
}

async fn serve_at_most(
    places: usize,
    listener: TcpListener,
    app: Router,
    read_timeout: Duration,
    closing: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(places));
    let open = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if of_the_client(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted; those that are open go on");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Without it every streamed answer costs 40 ms: two small writes meet a delayed ACK.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            open.spawn(turn_away(stream, peer));
            continue;
        };
        let served = one((stream, peer), app.clone(), read_timeout, closing.clone());
        open.spawn(async move {
            served.await;
            drop(place);
        });
    }
    // Who connects from here on is refused at once, not kept waiting for an answer.
    drop(listener);
    open.close();
    open.wait().await;
}

/// As many connections as leave enough files for workers, journal and workdirs.
fn places() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files / 2)
        .unwrap_or(usize::MAX)
        .clamp(LEAST_CONNECTIONS, MOST_CONNECTIONS)
}

fn of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// Serves one connection; every request on it knows the peer's address.
fn one(
    (stream, peer): (TcpStream, SocketAddr),
    app: Router,
    read_timeout: Duration,
    closing: CancellationToken,
) -> impl Future<Output = ()> {
    let app = TowerToHyperService::new(app);
    let service = hyper::service::service_fn(move |mut request| {
        let _ = request.extensions_mut().insert(ConnectInfo(peer));
        app.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(read_timeout)
        .max_buf_size(MOST_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    async move {
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended badly");
        }
    }
}

async fn turn_away(mut stream: TcpStream, peer: SocketAddr) {
    const BODY: &str =
        "{\"error\":\"too many connections are open; close some, or try again in 5 seconds\"}\n";
    tracing::warn!(%peer, "turned away: too many connections are open");
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let told = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    // A client that does not read it is left alone.
    let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
}

/// What a request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Largest body in bytes.
    pub(super) bytes: usize,
    /// Longest time for the whole body.
    pub(super) time: Duration,
}

/// Reads a request's whole body before anything looks at it: 413 when it is too large, 408 when it takes too long.
pub(super) async fn whole(State(bounds): State<Bounds>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let waits = parts.headers.contains_key(http::header::EXPECT);
    let mut pieces = body.into_data_stream();
    let collected = collect(&mut pieces, announced, bounds.bytes);
    let refusal = match tokio::time::timeout(bounds.time, collected).await {
        Ok(Ok(bytes)) => {
            return next
                .run(Request::from_parts(parts, Body::from(bytes)))
                .await;
        }
        Ok(Err(refusal)) => refusal,
        Err(_) => Unread::Late,
    };
    // A client that waits to be asked for its body is not asked.
    if refusal == Unread::Large && !waits {
        discard(pieces, bounds.bytes.saturating_mul(4)).await;
    }
    closing(refusal.answer(bounds))
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unread {
    Large,
    Broken,
    Late,
}

impl Unread {
    fn answer(self, bounds: Bounds) -> Response {
        match self {
            Self::Large => error(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!(
                    "the request is larger than {} bytes (server.max_body_bytes); nothing was done",
                    bounds.bytes
                ),
            ),
            Self::Broken => error(
                StatusCode::BAD_REQUEST,
                "the request's body ended early or is no valid HTTP; nothing was done",
            ),
            Self::Late => error(
                StatusCode::REQUEST_TIMEOUT,
                &format!(
                    "the request did not arrive within {} s (server.read_timeout_s); nothing was done, send it again",
                    bounds.time.as_secs_f32()
                ),
            ),
        }
    }
}

async fn collect(
    pieces: &mut BodyDataStream,
    announced: usize,
    most: usize,
) -> Result<Vec<u8>, Unread> {
    let mut collected = Vec::new();
    loop {
        if announced.max(collected.len()) > most {
            return Err(Unread::Large);
        }
        match pieces.next().await {
            None => return Ok(collected),
            Some(Ok(piece)) => collected.extend_from_slice(&piece),
            Some(Err(_)) => return Err(Unread::Broken),
        }
    }
}

/// Reads on for a while what nobody keeps: a client that is still sending when the connection closes never sees the answer.
async fn discard(mut pieces: BodyDataStream, most: usize) {
    let mut read = 0;
    while read < most
        && let Ok(Some(Ok(piece))) = tokio::time::timeout(DISCARD_PAUSE, pieces.next()).await
    {
        read += piece.len();
    }
}

/// What is left of the body is not read, so the connection cannot be used again.
fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(
        http::header::CONNECTION,
        http::HeaderValue::from_static("close"),
    );
    response
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

    use tokio::io::AsyncReadExt;

    use super::*;

    /// What the server says on a new connection that asks for `/`; the connection stays open.
    async fn ask(address: SocketAddr) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let mut bytes = vec![0; 4_096];
        let length = stream.read(&mut bytes).await.unwrap();
        bytes.truncate(length);
        (stream, String::from_utf8(bytes).unwrap())
    }

    #[tokio::test]
    async fn beyond_its_places_a_client_is_told_so_and_a_place_that_is_free_again_is_given() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = CancellationToken::new();
        let app = Router::new().route("/", axum::routing::get(async || "served"));
        let time = Duration::from_secs(30);
        let served = tokio::spawn(serve_at_most(2, listener, app, time, closing.clone()));
        let (first, said) = ask(address).await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        let (_second, _) = ask(address).await;
        let (_, said) = ask(address).await;
        assert!(said.starts_with("HTTP/1.1 503"), "{said}");
        assert!(said.contains("retry-after: 5"), "{said}");
        assert!(said.contains("too many connections are open"), "{said}");
        drop(first);
        let mut said = String::new();
        for _ in 0..500 {
            said = ask(address).await.1;
            if said.starts_with("HTTP/1.1 200") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        closing.cancel();
        served.await.unwrap();
    }
}
