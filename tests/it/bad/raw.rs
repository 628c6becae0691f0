//! Bytes on a connection, as no HTTP library would send them.
//!
//! In: a server's address and bytes. Out: what came back until the server closed or fell silent.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any answer takes; a server that says nothing for so long will say nothing more.
const SILENCE: Duration = Duration::from_secs(20);

/// An open connection.
pub(super) struct Raw {
    stream: TcpStream,
    host: String,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Said {
    /// All of it.
    pub(super) text: String,
    /// The server closed the connection.
    pub(super) closed: bool,
}

impl Said {
    /// Statuses of all responses, in their order.
    pub(super) fn statuses(&self) -> Vec<u16> {
        self.text
            .lines()
            .filter_map(|line| line.split_once("HTTP/1.")?.1.get(2..5)?.parse().ok())
            .collect()
    }

    /// The JSON body of the last response.
    pub(super) fn json(&self) -> Value {
        let (_, body) = self.text.rsplit_once("\r\n\r\n").expect("a response");
        serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON body: {self:?}"))
    }
}

impl Raw {
    /// Connects to `http://host:port`.
    pub(super) async fn to(url: &str) -> Self {
        let host = url.strip_prefix("http://").unwrap().to_owned();
        let stream = TcpStream::connect(&host).await.unwrap();
        Self { stream, host }
    }

    /// The right value of the `Host` header.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Sends; `false` when the server does not take it any more.
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Says that nothing more will be sent.
    pub(super) async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads until the server closes.
    pub(super) async fn until_closed(mut self) -> Said {
        let mut bytes = Vec::new();
        let ended = tokio::time::timeout(SILENCE, self.stream.read_to_end(&mut bytes)).await;
        Said {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            closed: ended.is_ok(),
        }
    }
}

/// A POST to `/mcp` with the headers that MCP asks for, and these besides.
pub(super) fn post(host: &str, more: &str, body: &str) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: {host}\r\nAccept: application/json, text/event-stream\r\n\
         Content-Type: application/json\r\n{more}\r\n{body}"
    )
}
