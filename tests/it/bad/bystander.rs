//! A task that runs while bad input is thrown at its server, and what must be as before when that is over.
//!
//! In: a server. Out: [`Bystander`], which holds what the server knew before.

use std::time::Duration;

use chargehand::config::Settings;
use serde_json::{Value, json};

use crate::mcp::client::Client;
use crate::mcp::server::Server;

/// A server whose tasks are left alone by the watchdog, so that nothing happens to them but what a test does.
pub(super) async fn server(change: impl FnOnce(&mut Settings)) -> Server {
    Server::with(|settings| {
        settings.watchdog.silence_warn = Duration::ZERO;
        settings.watchdog.silence_nudge = Duration::ZERO;
        settings.watchdog.silence_fail = Duration::ZERO;
        change(settings);
    })
    .await
}

/// A running task and everything that can be read of all tasks.
pub(super) struct Bystander {
    client: Client,
    task: String,
    before: Value,
}

impl Bystander {
    /// Starts the task.
    pub(super) async fn at(server: &Server) -> Self {
        let client = Client::stateless(&server.url);
        Self::with(client).await
    }

    /// Starts the task as this client.
    pub(super) async fn with(client: Client) -> Self {
        let task = client.task_in("HANG beside it all.", "running").await;
        settled(&client, &task).await;
        let before = known(&client).await;
        Self {
            client,
            task,
            before,
        }
    }

    /// Its id.
    pub(super) fn task(&self) -> &str {
        &self.task
    }

    /// The client that it was started with.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// No task came, went or changed, and no event was added; `after` says what had been thrown.
    pub(super) async fn unchanged(&self, after: &str) {
        let now = known(&self.client).await;
        assert_eq!(now, self.before, "something was done by: {after}");
    }

    /// The task still runs, can be told something, and ends when it is told to.
    pub(super) async fn goes_on(self) {
        let task = json!({"task_id": self.task});
        let status = self.client.ok("get_task_status", task).await;
        assert_eq!(status["phase"], "running", "{status:#}");
        let cancel = json!({"task_id": self.task, "control": "cancel"});
        let ended = self.client.ok("send_task_control", cancel).await;
        assert_eq!(ended["phase"], "cancelled");
    }
}

/// Waits for the last event of a task at work that comes by itself: it comes after the answer that says `running`.
pub(super) async fn settled(client: &Client, task: &str) {
    for _ in 0..1_000 {
        let events = client.ok("get_task_status", json!({"task_id": task})).await;
        if events["recent_events"]
            .to_string()
            .contains("prompt_taken_up")
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the worker never began");
}

/// Every task with all of its events.
async fn known(client: &Client) -> Value {
    let list = client.ok("list_tasks", json!({"limit": 200})).await;
    let mut all = Vec::new();
    for task in list["tasks"].as_array().unwrap() {
        let asked = json!({"task_id": task["task_id"], "events_limit": -1});
        let history = client.ok("get_task_history", asked).await;
        all.push(json!({"task": task, "events": history["events"]}));
    }
    Value::Array(all)
}
