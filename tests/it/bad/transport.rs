//! Requests that are no proper HTTP, no proper JSON-RPC or no proper MCP, and connections that never become requests.

use std::time::Duration;

use serde_json::{Value, json};

use super::bystander::{Bystander, server};
use super::raw::{Raw, post};

/// How long a client of these tests may take to send.
const SHORT: Duration = Duration::from_secs(3);

const PING: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ping","arguments":{}}}"#;

/// Name, bytes on the connection, statuses of the answers, a part of the last answer.
type Wrong = (&'static str, Vec<u8>, Vec<u16>, &'static str);

/// A POST with a right `Content-Length`, after which the connection closes.
fn full(host: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let length = format!(
        "Connection: close\r\n{more}Content-Length: {}\r\n",
        body.len()
    );
    let mut all = post(host, &length, "").into_bytes();
    all.extend_from_slice(body);
    all
}

fn get(host: &str, target: &str, more: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n").into_bytes()
}

/// What is no HTTP, or HTTP with a wrong name or size.
fn no_http(host: &str) -> Vec<Wrong> {
    let pipelined = format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\nGARBAGE \x00\x01\r\n\r\n");
    let posted = |more: &str, body: &str| post(host, more, body).into_bytes();
    let huge = "x".repeat(400_000);
    vec![
        (
            "bytes of TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\xff\xfe hello\r\n\r\n".to_vec(),
            vec![400],
            "",
        ),
        (
            "HTTP/2",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            vec![],
            "",
        ),
        (
            "HTTP/1.0 without Host",
            b"GET /health HTTP/1.0\r\n\r\n".to_vec(),
            vec![403],
            "server.allowed_hosts",
        ),
        (
            "no Host",
            b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(),
            vec![403],
            "server.allowed_hosts",
        ),
        (
            "two Hosts",
            get(host, "/health", "Host: evil.example\r\n"),
            vec![403],
            "server.allowed_hosts",
        ),
        (
            "a foreign URL as target",
            get(host, "http://evil.example/health", ""),
            vec![403],
            "server.allowed_hosts",
        ),
        (
            "two Origins",
            get(
                host,
                "/health",
                &format!("Origin: http://{host}\r\nOrigin: http://evil.example\r\n"),
            ),
            vec![403],
            "server.allowed_origins",
        ),
        (
            "CONNECT",
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n".to_vec(),
            vec![403],
            "server.allowed_hosts",
        ),
        (
            "pipelined garbage",
            pipelined.into_bytes(),
            vec![200, 400],
            "",
        ),
        (
            "a URL of 70 KB",
            get(host, &format!("/{}", "x".repeat(70_000)), ""),
            vec![414],
            "",
        ),
        (
            "a header of 400 KB",
            get(host, "/health", &format!("X: {huge}\r\n")),
            vec![431],
            "",
        ),
        (
            "200 headers",
            get(host, "/health", &"X: y\r\n".repeat(200)),
            vec![431],
            "",
        ),
        (
            "two lengths",
            posted("Content-Length: 5\r\nContent-Length: 6\r\n", "12345"),
            vec![400],
            "",
        ),
        (
            "a negative length",
            posted("Content-Length: -5\r\n", "12345"),
            vec![400],
            "",
        ),
        (
            "a length with chunks",
            posted(
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n",
                "0\r\n\r\n",
            ),
            vec![400],
            "no JSON",
        ),
        (
            "a broken chunk",
            posted("Transfer-Encoding: chunked\r\n", "zz\r\nhello\r\n"),
            vec![400],
            "no valid HTTP; nothing was done",
        ),
        (
            "10 MB announced",
            posted("Content-Length: 10000000\r\n", ""),
            vec![413],
            "larger than 4194304 bytes (server.max_body_bytes); nothing was done",
        ),
        (
            "a body that never comes",
            posted("Content-Length: 50\r\n", "{"),
            vec![408],
            "within 3 s (server.read_timeout_s); nothing was done, send it again",
        ),
        (
            "headers that never end",
            format!("GET /health HTTP/1.1\r\nHost: {host}\r\nX: y").into_bytes(),
            vec![],
            "",
        ),
        ("silence", vec![], vec![], ""),
        (
            "POST to nowhere",
            format!(
                "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            .into_bytes(),
            vec![404],
            "Not Found",
        ),
    ]
}

/// HTTP whose body is no JSON-RPC message.
fn no_message(host: &str) -> Vec<Wrong> {
    let body = |body: &str| full(host, "", body.as_bytes());
    let unread = "no JSON that can be read";
    let no_rpc = "send each in a request of its own. Nothing was done";
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    vec![
        ("nothing", body(""), vec![400], unread),
        ("half a message", body(&PING[..40]), vec![400], unread),
        (
            "a message and more",
            body(&format!("{PING}{PING}")),
            vec![400],
            unread,
        ),
        (
            "a byte order mark",
            body(&format!("\u{feff}{PING}")),
            vec![400],
            unread,
        ),
        (
            "no UTF-8",
            full(host, "", b"{\"jsonrpc\":\"\xff\"}"),
            vec![400],
            unread,
        ),
        (
            "half of a surrogate pair",
            body(&PING.replace("{}", r#"{"a":"\ud800"}"#)),
            vec![400],
            unread,
        ),
        (
            "NaN",
            body(&PING.replace("{}", r#"{"a":NaN}"#)),
            vec![400],
            unread,
        ),
        (
            "1e999",
            body(&PING.replace("{}", r#"{"a":1e999}"#)),
            vec![400],
            "number out of range",
        ),
        ("10000 levels", body(&deep), vec![400], "recursion limit"),
        (
            "a batch",
            body(&format!("[{PING},{PING}]")),
            vec![400],
            no_rpc,
        ),
        ("an empty batch", body("[]"), vec![400], no_rpc),
        ("a text", body("\"ping\""), vec![400], no_rpc),
        (
            "no method",
            body(r#"{"jsonrpc":"2.0","id":1}"#),
            vec![400],
            no_rpc,
        ),
        (
            "JSON-RPC 1.0",
            body(&PING.replace("2.0", "1.0")),
            vec![400],
            no_rpc,
        ),
        (
            "an id that is null",
            body(&PING.replace("\"id\":1", "\"id\":null")),
            vec![400],
            no_rpc,
        ),
        (
            "an id that is an object",
            body(&PING.replace("\"id\":1", "\"id\":{}")),
            vec![400],
            no_rpc,
        ),
        (
            "params that are a list",
            body(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}"#),
            vec![400],
            no_rpc,
        ),
        (
            "a body as text/plain",
            post(
                host,
                &format!(
                    "Content-Type: text/plain\r\nConnection: close\r\nContent-Length: {}\r\n",
                    PING.len()
                ),
                PING,
            )
            .replacen("Content-Type: application/json\r\n", "", 1)
            .into_bytes(),
            vec![415],
            "Content-Type must be application/json",
        ),
    ]
}

/// JSON-RPC that MCP's transport has no place for.
fn no_mcp(host: &str) -> Vec<Wrong> {
    let ping = |more: &str| full(host, more, PING.as_bytes());
    let stream = |more: &str| {
        get(
            host,
            "/mcp",
            &format!("Accept: text/event-stream\r\n{more}"),
        )
    };
    let delete = |more: &str| {
        format!("DELETE /mcp HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n")
            .into_bytes()
    };
    let gone = "send initialize for a new one. Tasks are not affected";
    let first = "send initialize first";
    let versions = "this server speaks 2024-11-05";
    let stateless = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n";
    vec![
        ("no session", ping(""), vec![400], first),
        (
            "an unknown session",
            ping("Mcp-Session-Id: nope\r\n"),
            vec![404],
            gone,
        ),
        (
            "a session id of 5000 characters",
            ping(&format!("Mcp-Session-Id: {}\r\n", "x".repeat(5_000))),
            vec![404],
            gone,
        ),
        ("a stream without session", stream(""), vec![400], first),
        (
            "a stream of an unknown session",
            stream("Mcp-Session-Id: nope\r\n"),
            vec![404],
            gone,
        ),
        ("the end of no session", delete(""), vec![400], first),
        (
            "the end of an unknown session",
            delete("Mcp-Session-Id: nope\r\n"),
            vec![204],
            "",
        ),
        (
            "a protocol version of the past",
            ping("MCP-Protocol-Version: 1999-01-01\r\n"),
            vec![400],
            versions,
        ),
        (
            "a protocol version that is none",
            ping("MCP-Protocol-Version: banana\r\n"),
            vec![400],
            versions,
        ),
        (
            "a stateless call without its metadata",
            ping(&format!("{stateless}Mcp-Name: ping\r\n")),
            vec![400],
            "io.modelcontextprotocol/protocolVersion",
        ),
        (
            "an answer that is HTML only",
            post(
                host,
                &format!(
                    "Accept: text/html\r\nConnection: close\r\nContent-Length: {}\r\n",
                    PING.len()
                ),
                PING,
            )
            .replacen("Accept: application/json, text/event-stream\r\n", "", 1)
            .into_bytes(),
            vec![406],
            "must accept both",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_answered_or_closed_and_changes_nothing() {
    let server = server(|settings| settings.server.read_timeout = SHORT).await;
    let bystander = Bystander::at(&server).await;
    let host = server.url.strip_prefix("http://").unwrap();
    let mut all = no_http(host);
    all.extend(no_message(host));
    all.extend(no_mcp(host));
    assert_eq!(all.len(), 50);
    for (name, bytes, statuses, says) in all {
        let mut raw = Raw::to(&server.url).await;
        raw.send(&bytes).await;
        let said = raw.until_closed().await;
        assert!(said.closed, "{name} holds its connection: {said:?}");
        assert_eq!(said.statuses(), statuses, "{name}: {said:?}");
        if !says.is_empty() {
            let body = said.json();
            let error = body["error"]["message"].as_str().or(body["error"].as_str());
            let error = error.unwrap_or_else(|| panic!("{name}: {body}"));
            assert!(error.contains(says), "{name}: {error}");
            assert!(!error.contains("deserialize"), "{name}: {error}");
        }
        bystander.unchanged(name).await;
    }
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_grows_beyond_the_limit_is_cut_off() {
    let server = server(|_| {}).await;
    let bystander = Bystander::at(&server).await;
    let mut raw = Raw::to(&server.url).await;
    let head = post(raw.host(), "Transfer-Encoding: chunked\r\n", "");
    assert!(raw.send(head).await);
    let megabyte = format!("100000\r\n{}\r\n", "y".repeat(1 << 20));
    let mut taken = 0;
    while taken < 10 && raw.send(&megabyte).await {
        taken += 1;
    }
    let said = raw.until_closed().await;
    assert!(said.closed, "{said:?}");
    // The answer may be lost with the connection that is closed while megabytes are under way; it is never a success.
    assert!(said.text.is_empty() || said.statuses() == [413], "{said:?}");
    bystander.unchanged("10 MB in chunks").await;
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_slow_clients_hold_up_nobody_and_are_closed() {
    let server = server(|settings| settings.server.read_timeout = SHORT).await;
    let bystander = Bystander::at(&server).await;
    let mut slow = Vec::new();
    for number in 0..500 {
        let mut raw = Raw::to(&server.url).await;
        let head = match number % 3 {
            0 => String::new(),
            1 => format!("POST /mcp HTTP/1.1\r\nHost: {}\r\nX-Slow: ", raw.host()),
            _ => post(raw.host(), "Content-Length: 100000\r\n", "{"),
        };
        raw.send(head).await;
        slow.push(raw);
    }
    bystander.unchanged("500 slow clients").await;
    // A byte now and then does not help: the time is for the whole.
    for raw in slow.iter_mut().take(50) {
        raw.send("a").await;
    }
    for raw in slow {
        let said = raw.until_closed().await;
        assert!(said.closed, "{said:?}");
    }
    bystander.unchanged("the end of 500 slow clients").await;
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_the_middle_of_a_request_changes_nothing() {
    let server = server(|_| {}).await;
    let bystander = Bystander::at(&server).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "opencode_execute_task",
        "arguments": {"agent_id": "a", "task_description": "Never whole."}}})
    .to_string();
    for part in [1, call.len() / 2, call.len() - 1] {
        let mut raw = Raw::to(&server.url).await;
        let head = post(
            raw.host(),
            &format!("Content-Length: {}\r\n", call.len()),
            &call[..part],
        );
        assert!(raw.send(head).await);
        raw.finish().await;
        let said = raw.until_closed().await;
        assert!(said.closed && !said.text.contains("200 OK"), "{said:?}");
        bystander.unchanged("a client that left").await;
    }
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_call_that_asks_for_no_answer_is_not_made() {
    let server = server(|_| {}).await;
    let bystander = Bystander::at(&server).await;
    let client = server.client().await;
    let notification = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "opencode_execute_task",
        "arguments": {"agent_id": "a", "task_description": "By notification."}}});
    let response = client.post(&notification).send().await.unwrap();
    assert!(response.status().as_u16() < 500, "{response:?}");
    client.ok("ping", json!({})).await;
    bystander.unchanged("a tool call without id").await;
    for (method, says) in [
        ("resources/list", "resources/list"),
        ("tools/run", "has tools only"),
        ("", "has tools only"),
    ] {
        let said = client.ask(method, json!({})).await;
        assert_eq!(said["error"]["code"], -32601, "{method}: {said}");
        let text = said["error"]["message"].as_str().unwrap();
        assert!(text.contains(says), "{method}: {text}");
    }
    bystander.unchanged("methods that are not served").await;
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_hundred_sessions_are_no_more_than_a_thousand() {
    let server = server(|settings| settings.server.max_sessions = 1_000).await;
    let bystander = Bystander::at(&server).await;
    let first = server.client().await;
    let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-06-18",
        "capabilities": {}, "clientInfo": {"name": "one of many", "version": "0"}}})
    .to_string();
    for number in 0..1_200 {
        let mut raw = Raw::to(&server.url).await;
        let request = full(raw.host(), "", initialize.as_bytes());
        raw.send(request).await;
        let said = raw.until_closed().await;
        assert_eq!(said.statuses(), [200], "session {number}: {said:?}");
    }
    let gone = first.request("tools/list", json!({})).send().await.unwrap();
    assert_eq!(gone.status().as_u16(), 404);
    let said: Value = gone.json().await.unwrap();
    let text = said["error"]["message"].as_str().unwrap();
    assert!(text.contains("Tasks are not affected"), "{text}");
    server.client().await.ok("ping", json!({})).await;
    bystander.unchanged("1200 sessions").await;
    bystander.goes_on().await;
    server.stop().await;
}
