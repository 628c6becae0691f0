//! Calls a second at the edge, next to a bare axum handler in the same process: `cargo bench --bench edge`.
//!
//! In: a whole server on fake ports, on loopback. Out: for `ping` and `get_task_status` with 1 and 16 connections calls a
//! second, p50 and p99; then 50,000 calls in one session, by 10,000, with the memory of the process.
#![expect(clippy::unwrap_used, reason = "a bench ends when something is wrong")]

use std::time::{Duration, Instant};

use axum::routing::post;
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use chargehand::config::Settings;
use chargehand::{Adapters, run};
use chargehand_actors::fakes::World;
use chargehand_actors::id::InstanceId;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const MEASURED: Duration = Duration::from_secs(3);
const CONNECTIONS: [usize; 2] = [1, 16];
const SESSION_CALLS: u32 = 50_000;
const SESSION_STEP: u32 = 10_000;

/// A connection that sends the same request again and again.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(host: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Self {
        let stream = TcpStream::connect(host).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let body = body.to_string();
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(&body);
        Self {
            stream,
            request: request.into_bytes(),
            buffer: Vec::with_capacity(65_536),
        }
    }

    /// Sends and reads the whole answer.
    async fn call(&mut self) -> &str {
        self.stream.write_all(&self.request).await.unwrap();
        self.buffer.clear();
        while !complete(&self.buffer) {
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert_ne!(read, 0, "the connection was closed");
        }
        std::str::from_utf8(&self.buffer).unwrap()
    }
}

/// Whether an HTTP answer is there as a whole: by its length, or by the last chunk.
fn complete(buffer: &[u8]) -> bool {
    let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    match head.split("content-length: ").nth(1) {
        Some(rest) => {
            let length: usize = rest.lines().next().unwrap().trim().parse().unwrap();
            buffer.len() >= end + 4 + length
        }
        None => buffer.ends_with(b"0\r\n\r\n"),
    }
}

fn tool_call(tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments,
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}}})
}

/// What is measured: where, and with what.
#[derive(Clone)]
struct Target {
    name: &'static str,
    host: String,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Value,
}

impl Target {
    fn tool(host: &str, name: &'static str, arguments: Value) -> Self {
        Self {
            name,
            host: host.to_owned(),
            path: "/mcp",
            headers: vec![
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "tools/call"),
                ("mcp-name", name),
            ],
            body: tool_call(name, arguments),
        }
    }

    async fn open(&self) -> Connection {
        Connection::open(&self.host, self.path, &self.headers, &self.body).await
    }

    async fn measure(&self, connections: usize) {
        let until = Instant::now() + MEASURED;
        let mut workers = Vec::new();
        for _ in 0..connections {
            let mut connection = self.open().await;
            workers.push(tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let before = Instant::now();
                    let answer = connection.call().await;
                    times.push(before.elapsed());
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    assert!(!answer.contains("\"isError\":true"), "{answer}");
                }
                times
            }));
        }
        let mut times = Vec::new();
        for worker in workers {
            times.extend(worker.await.unwrap());
        }
        times.sort_unstable();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "{:18} {connections:>2} connections {:>8.0} calls/s  p50 {:>7.3} ms  p99 {:>7.3} ms",
            self.name,
            times.len() as f64 / MEASURED.as_secs_f64(),
            at(0.5),
            at(0.99)
        );
    }
}

async fn bare() -> String {
    let app = Router::new().route(
        "/",
        post(|Json(body): Json<Value>| async move {
            Json(json!({"jsonrpc": "2.0", "id": body["id"], "result": {"status": "ok"}}))
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    host
}

/// A finished task to ask for.
async fn task(host: &str) -> String {
    let arguments =
        json!({"agent_id": "bench", "task_description": "script: finish stop", "sync": true});
    let target = Target::tool(host, "opencode_execute_task", arguments);
    let mut connection = target.open().await;
    let answer = connection.call().await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let said: Value = serde_json::from_str(body).unwrap();
    let content = &said["result"]["structuredContent"];
    assert_eq!(content["status"], "completed", "{said}");
    content["task_id"].as_str().unwrap().to_owned()
}

/// A session as older clients have it.
async fn session(host: &str) -> String {
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "0"}}});
    let mut connection = Connection::open(host, "/mcp", &[], &initialize).await;
    let answer = connection.call().await;
    answer
        .lines()
        .find_map(|line| line.strip_prefix("mcp-session-id: "))
        .unwrap()
        .trim()
        .to_owned()
}

fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse::<f64>().ok())
        .map_or(0.0, |kb| kb / 1024.0)
}

async fn one_session(host: &str) {
    let id = session(host).await;
    let ping =
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ping"}});
    let mut connection = Connection::open(host, "/mcp", &[("mcp-session-id", &id)], &ping).await;
    println!("one session, ping: {:.0} MB resident before", resident_mb());
    for done in 1..=SESSION_CALLS / SESSION_STEP {
        let before = Instant::now();
        for _ in 0..SESSION_STEP {
            let answer = connection.call().await;
            assert!(answer.contains("structuredContent"), "{answer}");
        }
        println!(
            "  after {:>6} calls {:>8.0} calls/s  {:.0} MB resident",
            done * SESSION_STEP,
            f64::from(SESSION_STEP) / before.elapsed().as_secs_f64(),
            resident_mb()
        );
    }
}

async fn measure_all() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let adapters = Adapters {
        instance: InstanceId("bench".to_owned()),
        ports: World::new(1).ports(),
    };
    let asked = stop.clone().cancelled_owned();
    let server = tokio::spawn(run(Settings::default(), adapters, listener, asked));
    let task = task(&host).await;
    let bare = Target {
        name: "bare axum JSON",
        host: bare().await,
        path: "/",
        headers: Vec::new(),
        body: tool_call("ping", json!({})),
    };
    let ping = Target::tool(&host, "ping", json!({}));
    let status = Target::tool(&host, "get_task_status", json!({"task_id": task}));
    for connections in CONNECTIONS {
        for target in [&bare, &ping, &status] {
            target.measure(connections).await;
        }
    }
    one_session(&host).await;
    stop.cancel();
    server.await.unwrap().unwrap();
}

fn main() {
    // `cargo test --benches` only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(measure_all());
}
