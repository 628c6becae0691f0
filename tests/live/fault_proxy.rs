//! A TCP proxy that misbehaves as networks and servers do, between Chargehand and an OpenCode server.
//!
//! In: the server's address, which may change, and faults that a test switches on and off. Out: an address. It knows of HTTP
//! only what it needs: the first line of a request, and the chunks of an event stream.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What goes wrong now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Connections are accepted and nothing is ever answered, on old ones too.
    pub(crate) half_open: bool,
    /// New connections are closed at once.
    pub(crate) refuse: bool,
    /// Each piece of an answer comes this late.
    pub(crate) slow: Duration,
    /// Each piece of the event stream comes this late.
    pub(crate) stream_lag: Duration,
    /// Each chunk of the event stream comes so many times more.
    pub(crate) repeats: usize,
    /// The next answer to a request whose first line holds this is lost with its connection, though the request was done.
    pub(crate) lose: Vec<&'static str>,
}

struct Shared {
    upstream: Mutex<String>,
    faults: Mutex<Faults>,
    /// Answers that were lost.
    lost: Mutex<Vec<String>>,
    /// Raised to cut every event stream.
    cuts: watch::Sender<u32>,
    streams: Mutex<u32>,
    /// Chunks of event streams that were sent more than once.
    repeated: AtomicUsize,
}

/// A running proxy.
pub(crate) struct FaultProxy {
    pub(crate) url: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl FaultProxy {
    /// In front of `upstream`, a URL.
    pub(crate) async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            upstream: Mutex::default(),
            faults: Mutex::default(),
            lost: Mutex::default(),
            cuts: watch::Sender::new(0),
            streams: Mutex::default(),
            repeated: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        let proxy = Self {
            url,
            shared,
            accepting,
        };
        proxy.lead_to(upstream);
        proxy
    }

    /// The server is elsewhere from now on.
    pub(crate) fn lead_to(&self, upstream: &str) {
        let address = upstream.strip_prefix("http://").unwrap();
        *self.shared.upstream.lock().unwrap() = address.to_owned();
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.shared.faults.lock().unwrap()
    }

    /// Closes every event stream that is open.
    pub(crate) fn cut_streams(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Event streams opened so far.
    pub(crate) fn streams(&self) -> u32 {
        *self.shared.streams.lock().unwrap()
    }

    /// How many chunks of event streams came more than once.
    pub(crate) fn repeated(&self) -> usize {
        self.shared.repeated.load(Ordering::Relaxed)
    }

    /// First lines of the requests whose answer was lost.
    pub(crate) fn lost(&self) -> Vec<String> {
        self.shared.lost.lock().unwrap().clone()
    }
}

impl Shared {
    fn now(&self) -> Faults {
        self.faults.lock().unwrap().clone()
    }

    /// Whether the answer to this request is to be lost; only once.
    fn loses(&self, line: &str) -> bool {
        let lose = &mut self.faults.lock().unwrap().lose;
        let Some(at) = lose.iter().position(|part| line.contains(part)) else {
            return false;
        };
        lose.remove(at);
        self.lost.lock().unwrap().push(line.to_owned());
        true
    }

    /// Waits while nothing passes.
    async fn passable(&self) {
        while self.now().half_open {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        tokio::spawn(connection(client, Arc::clone(&shared)));
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    if shared.now().refuse {
        return;
    }
    shared.passable().await;
    let upstream = shared.upstream.lock().unwrap().clone();
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // What the newest request on this connection is.
    let (asked, asks) = watch::channel(String::new());
    let mut there = tokio::spawn(requests(from_client, to_server, asked, Arc::clone(&shared)));
    let mut back = tokio::spawn(answers(from_server, to_client, asks, shared));
    tokio::select! {
        _ = &mut there => back.abort(),
        _ = &mut back => there.abort(),
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    asked: watch::Sender<String>,
    shared: Arc<Shared>,
) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(size @ 1..) = from.read(&mut piece).await {
        let text = String::from_utf8_lossy(&piece[..size]);
        let line = text.lines().next().unwrap_or_default();
        if line.ends_with("HTTP/1.1") {
            asked.send_replace(line.to_owned());
        }
        shared.passable().await;
        if to.write_all(&piece[..size]).await.is_err() {
            return;
        }
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    asks: watch::Receiver<String>,
    shared: Arc<Shared>,
) {
    let mut cuts = shared.cuts.subscribe();
    cuts.mark_unchanged();
    let mut chunks = Chunks::default();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let is_stream = asks.borrow().contains("/global/event");
        let size = tokio::select! {
            read = from.read(&mut piece) => match read {
                Ok(size @ 1..) => size,
                Ok(0) | Err(_) => return,
            },
            _ = cuts.changed(), if is_stream => return,
        };
        let asked = asks.borrow().clone();
        let is_stream = asked.contains("/global/event");
        if is_stream && piece.starts_with(b"HTTP/1.1 200") {
            *shared.streams.lock().unwrap() += 1;
        }
        if piece.starts_with(b"HTTP/1.1 ") && shared.loses(&asked) {
            return;
        }
        let faults = shared.now();
        let lag = if is_stream {
            faults.stream_lag
        } else {
            faults.slow
        };
        tokio::time::sleep(lag).await;
        shared.passable().await;
        let out = if is_stream {
            let (out, repeated) = chunks.repeated(&piece[..size], faults.repeats);
            shared.repeated.fetch_add(repeated, Ordering::Relaxed);
            out
        } else {
            piece[..size].to_vec()
        };
        if to.write_all(&out).await.is_err() {
            return;
        }
        piece[..16].fill(0);
    }
}

/// Finds the chunks of a chunked body.
#[derive(Default)]
struct Chunks {
    waiting: Vec<u8>,
    in_body: bool,
}

impl Chunks {
    /// What can be passed on: the head, then whole chunks, each so many times more; and how many were repeated.
    fn repeated(&mut self, piece: &[u8], repeats: usize) -> (Vec<u8>, usize) {
        self.waiting.extend_from_slice(piece);
        let (mut out, mut repeated) = (Vec::new(), 0);
        if !self.in_body {
            let Some(end) = find(&self.waiting, b"\r\n\r\n") else {
                return (out, 0);
            };
            out.extend(self.waiting.drain(..end + 4));
            self.in_body = true;
        }
        while let Some(end) = find(&self.waiting, b"\r\n") {
            let size = std::str::from_utf8(&self.waiting[..end]).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let whole = end + 2 + size + 2;
            if self.waiting.len() < whole {
                break;
            }
            let chunk: Vec<u8> = self.waiting.drain(..whole).collect();
            // The empty chunk is the end, and comes once.
            let times = if size == 0 { 1 } else { repeats + 1 };
            repeated += usize::from(times > 1);
            for _ in 0..times {
                out.extend_from_slice(&chunk);
            }
        }
        (out, repeated)
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[test]
fn chunks_are_found_at_any_cut() {
    let text =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\n\n\r\n0\r\n\r\n";
    let twice = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\nabc\r\n1\r\n\n\r\n1\r\n\n\r\n0\r\n\r\n";
    for at in 0..text.len() {
        let mut chunks = Chunks::default();
        let (mut out, _) = chunks.repeated(&text[..at], 1);
        out.extend(chunks.repeated(&text[at..], 1).0);
        assert_eq!(out, twice, "cut at {at}");
    }
}
