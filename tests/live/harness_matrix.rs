//! A real homeserver (Synapse) and people with plain HTTP clients: what a room's members see and do.
//!
//! In: limits of the homeserver. Out: a [`Homeserver`] that can be stopped and started, and [`Human`]s in it. Dropping it ends
//! the process. A missing Synapse is a printed skip, and a failure where `CHARGEHAND_REQUIRE_LIVE=1`.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Of everybody.
pub(crate) const PASSWORD: &str = "a long password";

/// Limits that no test meets.
const NO_LIMITS: &str = "
rc_message: {per_second: 1000, burst_count: 1000}
rc_joins: {local: {per_second: 1000, burst_count: 1000}, remote: {per_second: 1000, burst_count: 1000}}
rc_joins_per_room: {per_second: 1000, burst_count: 1000}
rc_invites: {per_room: {per_second: 1000, burst_count: 1000}, per_user: {per_second: 1000, burst_count: 1000}, per_issuer: {per_second: 1000, burst_count: 1000}}
rc_room_creation: {per_second: 1000, burst_count: 1000}
";

/// A Synapse of this test.
pub(crate) struct Homeserver {
    directory: TempDir,
    python: PathBuf,
    port: u16,
    child: Option<Child>,
    http: reqwest::Client,
}

impl Homeserver {
    /// Starts one without limits; `None` when there is no Synapse and it is not required.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(NO_LIMITS).await
    }

    /// Starts one with these limits; empty = Synapse's own.
    pub(crate) async fn start_with(limits: &str) -> Option<Self> {
        let python = match std::env::var_os("CHARGEHAND_TEST_SYNAPSE") {
            Some(python) => PathBuf::from(python),
            None if std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_some_and(|v| v == "1") => {
                panic!("Synapse is required here; CHARGEHAND_TEST_SYNAPSE is not set")
            }
            None => {
                println!("SKIPPED, no Synapse: CHARGEHAND_TEST_SYNAPSE is not set");
                return None;
            }
        };
        let directory = tempfile::Builder::new()
            .prefix("chargehand-synapse-")
            .tempdir()
            .unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let generated = Command::new(&python)
            .current_dir(directory.path())
            .args(["-m", "synapse.app.homeserver", "--server-name", "localhost"])
            .args(["--config-path", "homeserver.yaml", "--generate-config"])
            .arg("--report-stats=no")
            .output()
            .unwrap();
        assert!(generated.status.success(), "{generated:?}");
        let overrides = format!(
            "enable_registration: true
enable_registration_without_verification: true
trusted_key_servers: []
suppress_key_server_warning: true
listeners: [{{bind_addresses: [\"127.0.0.1\"], port: {port}, type: http, tls: false, x_forwarded: false, resources: [{{names: [client], compress: false}}]}}]
presence: {{enabled: false}}
url_preview_enabled: false
federation_domain_whitelist: []
caches: {{sync_response_cache_duration: 0s}}
rc_registration: {{per_second: 1000, burst_count: 1000}}
rc_login: {{address: {{per_second: 1000, burst_count: 1000}}, account: {{per_second: 1000, burst_count: 1000}}, failed_attempts: {{per_second: 1000, burst_count: 1000}}}}
{limits}"
        );
        std::fs::write(directory.path().join("test.yaml"), overrides).unwrap();
        let mut this = Self {
            directory,
            python,
            port,
            child: None,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(40))
                .build()
                .unwrap(),
        };
        this.run().await;
        Some(this)
    }

    /// Starts the process and waits until it answers.
    pub(crate) async fn run(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("synapse.log"))
            .unwrap();
        let child = Command::new(&self.python)
            .current_dir(self.directory.path())
            .args(["-m", "synapse.app.homeserver"])
            .args(["-c", "homeserver.yaml", "-c", "test.yaml"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let end = Instant::now() + PATIENCE;
        let versions = format!("{}/_matrix/client/versions", self.url());
        while self.http.get(&versions).send().await.is_err() {
            assert!(Instant::now() < end, "Synapse does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends the process.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A new user.
    pub(crate) async fn human(&self, name: &str) -> Human {
        let body =
            json!({"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}});
        let address = format!("{}/_matrix/client/v3/register", self.url());
        let answer = self.http.post(address).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let token = answer["access_token"].as_str();
        Human {
            id: format!("@{name}:localhost"),
            token: token.unwrap_or_else(|| panic!("{answer}")).to_owned(),
            url: self.url(),
            http: self.http.clone(),
            next: AtomicU64::new(0),
        }
    }
}

impl Drop for Homeserver {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Somebody with a Matrix client.
pub(crate) struct Human {
    pub(crate) id: String,
    pub(crate) token: String,
    url: String,
    http: reqwest::Client,
    next: AtomicU64,
}

impl Human {
    async fn call(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let address = format!("{}/_matrix/client/v3/{path}", self.url);
        let mut request = self.http.request(method, address).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    /// The id of the task's room, once it exists.
    pub(crate) async fn room_of(&self, task: &str) -> String {
        self.room_within(task, PATIENCE).await
    }

    /// The same, with more patience.
    pub(crate) async fn room_within(&self, task: &str, limit: Duration) -> String {
        let end = Instant::now() + limit;
        loop {
            let path = format!("directory/room/%23task-{task}%3Alocalhost");
            let (status, answer) = self.call(reqwest::Method::GET, &path, None).await;
            if status == 200 {
                return answer["room_id"].as_str().unwrap().to_owned();
            }
            assert!(Instant::now() < end, "no room: {answer}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Joins; waits for the invitation if need be.
    pub(crate) async fn join(&self, room: &str) {
        self.join_within(room, PATIENCE).await;
    }

    /// The same, with more patience.
    pub(crate) async fn join_within(&self, room: &str, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let path = format!("join/{room}");
            let (status, answer) = self
                .call(reqwest::Method::POST, &path, Some(json!({})))
                .await;
            if status == 200 {
                return;
            }
            assert!(Instant::now() < end, "cannot join: {answer}");
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    /// Sends an event; gives the status and the event's id or the error.
    pub(crate) async fn send(&self, room: &str, kind: &str, content: Value) -> (u16, String) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = format!("rooms/{room}/send/{kind}/t{number}");
        let (status, answer) = self.call(reqwest::Method::PUT, &path, Some(content)).await;
        let told = answer["event_id"].as_str().or(answer["errcode"].as_str());
        (status, told.unwrap_or_default().to_owned())
    }

    /// Types a message; the event's id.
    pub(crate) async fn types(&self, room: &str, text: &str) -> String {
        let content = json!({"msgtype": "m.text", "body": text});
        let (status, event) = self.send(room, "m.room.message", content).await;
        assert_eq!(status, 200, "{event}");
        event
    }

    /// Puts a sign under an event.
    pub(crate) async fn reacts(&self, room: &str, to: &str, sign: &str) -> String {
        let relates = json!({"rel_type": "m.annotation", "event_id": to, "key": sign});
        let content = json!({ "m.relates_to": relates });
        let (status, event) = self.send(room, "m.reaction", content).await;
        assert_eq!(status, 200, "{event}");
        event
    }

    /// Everything that was said in the room, oldest first.
    pub(crate) async fn events(&self, room: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut from = String::new();
        loop {
            let path = format!("rooms/{room}/messages?dir=f&limit=500{from}");
            let (status, page) = self.call(reqwest::Method::GET, &path, None).await;
            assert_eq!(status, 200, "{page}");
            let chunk = page["chunk"].as_array().unwrap();
            all.extend(chunk.iter().cloned());
            match page["end"].as_str() {
                Some(end) if !chunk.is_empty() => from = format!("&from={end}"),
                _ => return all,
            }
        }
    }

    /// Waits for an event that fits; gives it.
    pub(crate) async fn sees(
        &self,
        room: &str,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        self.sees_within(room, what, PATIENCE, fits).await
    }

    /// The same, with more patience.
    pub(crate) async fn sees_within(
        &self,
        room: &str,
        what: &str,
        limit: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        let end = Instant::now() + limit;
        loop {
            let events = self.events(room).await;
            if let Some(found) = events.iter().find(|event| fits(event)) {
                return found.clone();
            }
            if Instant::now() > end {
                for event in &events {
                    eprintln!("{event}");
                }
                panic!("{what} is not seen in the room");
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    /// Tries to set state; the status and the error.
    pub(crate) async fn send_state(&self, room: &str, kind: &str, content: Value) -> (u16, String) {
        let path = format!("rooms/{room}/state/{kind}/");
        let (status, answer) = self.call(reqwest::Method::PUT, &path, Some(content)).await;
        (status, answer.to_string())
    }
}

/// What a message says, its newest edit if it has one.
pub(crate) fn text_of(event: &Value) -> String {
    let newest = &event["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"]["body"];
    let body = newest.as_str().or(event["content"]["body"].as_str());
    body.unwrap_or_default().to_owned()
}

/// Whether this is a sign under that event.
pub(crate) fn is_sign(event: &Value, to: &str, sign: &str) -> bool {
    let relates = &event["content"]["m.relates_to"];
    event["type"] == "m.reaction" && relates["event_id"] == to && relates["key"] == sign
}
