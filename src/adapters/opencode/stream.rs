//! The event stream of one server: bytes in, JSON payloads out.
//!
//! OpenCode sends `data: {json}` lines, a heartbeat every 10 s, and repeats nothing. There is no reconnecting here: a gap must be
//! seen by the caller, who reads the records afterwards. A stream that is silent for [`SILENCE_LIMIT`] is broken.

use std::time::Duration;

use chargehand_actors::ports::EngineError;
use reqwest::Response;
use tokio::time::Instant;

use super::client::unreachable;
use super::wire::GlobalEvent;

/// Three missed heartbeats.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Longest event that is read; a longer one ends the stream, and the records are read instead.
const EVENT_LIMIT: usize = 16 * 1024 * 1024;

/// Reads events from an open response.
pub(super) struct EventStream {
    response: Response,
    lines: Lines,
    silence: Duration,
    /// When the last bytes came. Kept here, so that a caller that looks elsewhere in between does not reset it.
    heard: Instant,
}

impl EventStream {
    /// Reads from `response`; `silence` is how long nothing may come.
    pub(super) fn new(response: Response, silence: Duration) -> Self {
        Self {
            response,
            lines: Lines::default(),
            silence,
            heard: Instant::now(),
        }
    }

    /// The next event. `Err` when the stream ended, broke or fell silent. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<GlobalEvent, EngineError> {
        loop {
            if let Some(event) = self.lines.next_event() {
                return Ok(event);
            }
            let piece = tokio::time::timeout_at(self.heard + self.silence, self.response.chunk())
                .await
                .map_err(|_| {
                    EngineError::Unreachable(format!(
                        "the event stream was silent for {} s",
                        self.silence.as_secs()
                    ))
                })?
                .map_err(|error| unreachable(&error))?
                .ok_or_else(|| EngineError::Unreachable("the event stream ended".to_owned()))?;
            self.heard = Instant::now();
            self.lines.push(&piece)?;
        }
    }
}

/// Cuts bytes into events: `data:` lines up to an empty line.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Where the part of the buffer begins that has not been searched for a line end.
    searched: usize,
    data: Vec<u8>,
}

impl Lines {
    fn push(&mut self, piece: &[u8]) -> Result<(), EngineError> {
        if self.buffer.len() + self.data.len() + piece.len() > EVENT_LIMIT {
            return Err(EngineError::Fault(
                "an event of more than 16 MB came on the stream".to_owned(),
            ));
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    /// The next whole event that is JSON; what is not JSON is skipped.
    fn next_event(&mut self) -> Option<GlobalEvent> {
        while let Some(line) = self.next_line() {
            if line.is_empty() {
                let data = std::mem::take(&mut self.data);
                if let Ok(event) = serde_json::from_slice(&data) {
                    return Some(event);
                }
            } else if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data
                    .extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            }
        }
        None
    }

    fn next_line(&mut self) -> Option<Vec<u8>> {
        let fresh = self.buffer.get(self.searched..)?;
        let Some(end) = fresh.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let end = self.searched + end;
        let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
        self.searched = 0;
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

    use super::*;

    fn kinds(pieces: &[&str]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            assert!(lines.push(piece.as_bytes()).is_ok());
            while let Some(event) = lines.next_event() {
                found.push(event.payload.kind);
            }
        }
        found
    }

    #[test]
    fn events_survive_any_cut_of_the_bytes() {
        let text = "data: {\"payload\":{\"type\":\"ä\"}}\r\n\r\n: note\nid: 7\ndata:{\"payload\":\ndata: {\"type\":\"b\"}}\n\ndata: junk\n\n";
        for at in 0..text.len() {
            if text.is_char_boundary(at) {
                assert_eq!(
                    kinds(&[&text[..at], &text[at..]]),
                    ["ä", "b"],
                    "cut at {at}"
                );
            }
        }
    }

    /// A server that sends `text` as an event stream, then nothing for ever (`hold`) or the end.
    async fn stream_of(text: &'static str, hold: bool, silence: Duration) -> EventStream {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 2048];
            assert!(socket.read(&mut request).await.unwrap() > 0);
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            socket.write_all(head.as_bytes()).await.unwrap();
            socket.write_all(text.as_bytes()).await.unwrap();
            if hold {
                std::future::pending::<()>().await;
            }
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client
            .get(format!("http://{address}/"))
            .send()
            .await
            .unwrap();
        EventStream::new(response, silence)
    }

    #[tokio::test]
    async fn a_stream_that_ends_or_falls_silent_is_broken() {
        let event = "data: {\"payload\":{\"type\":\"x\"}}\n\n";
        for hold in [false, true] {
            let mut stream = stream_of(event, hold, Duration::from_millis(300)).await;
            assert_eq!(stream.next().await.unwrap().payload.kind, "x");
            // A reader that looks away all the time must notice the silence too.
            let error = loop {
                match tokio::time::timeout(Duration::from_millis(50), stream.next()).await {
                    Ok(Ok(event)) => panic!("from nowhere: {event:?}"),
                    Ok(Err(error)) => break error,
                    Err(_) => {}
                }
            };
            let words = if hold { "silent" } else { "ended" };
            assert!(
                error.is_transient() && error.to_string().contains(words),
                "{error}"
            );
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; EVENT_LIMIT];
        assert!(lines.push(&piece).is_ok());
        assert!(lines.next_event().is_none());
        assert!(lines.push(b"y").is_err());
    }
}
