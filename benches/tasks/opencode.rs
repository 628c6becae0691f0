//! The OpenCode that the engine `local` runs, spoken to past Chargehand: what it needs by itself.
//!
//! In: the engine's records of its worker. Out: a [`Worker`] that answers prompts directly, and [`Ends`]: when each session became
//! idle, from the server's own event stream.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{PATIENCE, http_client};
use crate::table::wall_ms;

/// A worker's server.
pub(crate) struct Worker {
    /// OpenCode.
    pub(crate) pid: u32,
    /// The small process beside it that ends it when Chargehand does not come back.
    pub(crate) guard: u32,
    url: String,
    password: String,
    http: reqwest::Client,
}

/// How long the parts of a direct prompt took, in milliseconds.
pub(crate) struct Direct {
    /// From before the session was made until its last message was read.
    pub(crate) all: f64,
    /// Making the session.
    pub(crate) session: f64,
    /// Until the prompt was taken.
    pub(crate) prompt: f64,
    /// From there until the session was idle.
    pub(crate) run: f64,
}

impl Worker {
    /// From the records of the engine; they are there once it is ready.
    pub(crate) fn recorded(data: &Path) -> Self {
        let json = |name: &str| -> Value {
            let text = std::fs::read(data.join("local").join(name)).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        let (record, process) = (json("record.json"), json("process.json"));
        let log = std::fs::read_to_string(record["log"].as_str().unwrap()).unwrap();
        let said = log.lines().find(|line| line.contains("listening on"));
        let (_, port) = said.unwrap().rsplit_once(':').unwrap();
        let pid = |who: &str| u32::try_from(process[who]["pid"].as_u64().unwrap()).unwrap();
        Self {
            pid: pid("worker"),
            guard: pid("guard"),
            url: format!("http://127.0.0.1:{}", port.trim()),
            password: record["password"].as_str().unwrap().to_owned(),
            http: http_client(),
        }
    }

    /// The least that a client without any caution does: make a session, send the prompt, wait for the idle event, read the
    /// messages.
    pub(crate) async fn answer(&self, directory: &Path, text: &str, ends: &Ends) -> Direct {
        let began = Instant::now();
        let so_far = || began.elapsed().as_secs_f64() * 1e3;
        let directory = directory.to_str().unwrap();
        let made = self
            .post("/session", directory, &json!({"title": "direct"}))
            .await;
        let made: Value = made.json().await.unwrap();
        let id = made["id"].as_str().unwrap();
        let session = so_far();
        let body = json!({"parts": [{"type": "text", "text": text}]});
        self.post(&format!("/session/{id}/prompt_async"), directory, &body)
            .await;
        let prompt = so_far();
        ends.of(id).await;
        let run = so_far();
        let messages = self
            .request(
                reqwest::Method::GET,
                &format!("/session/{id}/message"),
                directory,
            )
            .send()
            .await
            .unwrap();
        let messages: Value = messages.json().await.unwrap();
        let all = so_far();
        let last = messages.as_array().and_then(|all| all.last()).unwrap();
        assert_eq!(last["info"]["finish"], "stop", "{last:#}");
        Direct {
            all,
            session,
            prompt: prompt - session,
            run: run - prompt,
        }
    }

    async fn post(&self, path: &str, directory: &str, body: &Value) -> reqwest::Response {
        let request = self.request(reqwest::Method::POST, path, directory);
        let answer = request.json(body).send().await.unwrap();
        answer.error_for_status().unwrap()
    }

    fn request(
        &self,
        method: reqwest::Method,
        path: &str,
        directory: &str,
    ) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .query(&[("directory", directory)])
            .basic_auth("opencode", Some(&self.password))
    }

    /// Reads the event stream from now on.
    pub(crate) async fn watch(&self) -> Ends {
        // Without a time limit: the stream is open as long as the worker lives.
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut stream = http
            .get(format!("{}/global/event", self.url))
            .basic_auth("opencode", Some(&self.password))
            .send()
            .await
            .unwrap();
        let idle: Arc<Mutex<HashMap<String, f64>>> = Arc::default();
        let noted = Arc::clone(&idle);
        let reading = tokio::spawn(async move {
            let mut rest = Vec::new();
            while let Ok(Some(piece)) = stream.chunk().await {
                let now = wall_ms();
                rest.extend_from_slice(&piece);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if let Some(session) = idle_session(&line) {
                        noted.lock().unwrap().entry(session).or_insert(now);
                    }
                }
            }
        });
        Ends { idle, reading }
    }
}

fn idle_session(line: &[u8]) -> Option<String> {
    let event: Value = serde_json::from_slice(line.strip_prefix(b"data: ")?).ok()?;
    let payload = &event["payload"];
    (payload["type"] == "session.idle").then(|| {
        payload["properties"]["sessionID"]
            .as_str()
            .map(str::to_owned)
    })?
}

/// When sessions became idle.
pub(crate) struct Ends {
    idle: Arc<Mutex<HashMap<String, f64>>>,
    reading: tokio::task::JoinHandle<()>,
}

impl Ends {
    /// Waits until the session has become idle; gives the wall time in milliseconds.
    pub(crate) async fn of(&self, session: &str) -> f64 {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.idle.lock().unwrap().get(session) {
                return *at;
            }
            assert!(Instant::now() < end, "{session} was never idle");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.reading.abort();
    }
}
