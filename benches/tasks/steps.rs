//! Where the time of a task goes, from the times of its events.
//!
//! In: a task that has ended. Out: its [`Steps`]: named moments in milliseconds since 1970, and the time between them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::life::Life;
use crate::server::{Client, PATIENCE};
use crate::table::wall_ms;

/// Moments that are no events: the caller's, and the worker's own end of the run.
const CALLED: &str = "called";
const ANSWERED: &str = "answered";
const IDLE: &str = "idle";

/// From the call to the answer without a gap: what, from, to.
pub(crate) const SPANS: [(&str, &str, &str); 10] = [
    ("call -> accepted", CALLED, "task_accepted"),
    ("accepted -> slot", "task_accepted", "attempt_started"),
    ("slot -> workdir", "attempt_started", "workdir_prepared"),
    ("workdir -> session", "workdir_prepared", "session_opened"),
    (
        "session -> prompt taken by OpenCode",
        "session_opened",
        "prompt_accepted",
    ),
    ("OpenCode and model", "prompt_accepted", IDLE),
    ("OpenCode idle -> end believed", IDLE, "run_ended"),
    ("end believed -> completed", "run_ended", "task_completed"),
    (
        "completed -> answer to the caller",
        "task_completed",
        ANSWERED,
    ),
    (
        "afterwards: completed -> session removed",
        "task_completed",
        "attempt_removed",
    ),
];

/// A task's moments, in the order in which they became known.
pub(crate) struct Steps(Vec<(String, f64)>);

impl Steps {
    /// Delegates a task with `sync`, waits for its end and until its session is removed.
    pub(crate) async fn delegate(life: &Life, description: &str) -> Self {
        let called = wall_ms();
        let asked = json!({"agent_id": "bench", "task_description": description, "sync": true});
        let answer = life.client.call("opencode_execute_task", asked).await;
        let answered = wall_ms();
        assert_eq!(answer["status"], "completed", "{answer:#}");
        let task = answer["task_id"].as_str().unwrap();
        let mut steps = Self::ended(&life.client, task).await;
        let status = life
            .client
            .call("get_task_status", json!({"task_id": task}));
        let session = status.await["session_id"].as_str().unwrap().to_owned();
        let idle = life.ends.of(&session).await;
        for (what, at) in [(CALLED, called), (ANSWERED, answered), (IDLE, idle)] {
            steps.0.push((what.to_owned(), at));
        }
        steps
    }

    /// The events of a task, once its session is removed.
    pub(crate) async fn ended(client: &Client, task: &str) -> Self {
        Self::reached(client, task, "attempt_removed").await
    }

    /// The events of a task, once this one is there.
    pub(crate) async fn reached(client: &Client, task: &str, event: &str) -> Self {
        let end = Instant::now() + PATIENCE;
        loop {
            let asked = json!({"task_id": task, "events_limit": -1});
            let history = client.call("get_task_history", asked).await;
            let events = history["events"].as_array().unwrap();
            if events.iter().any(|one| one["event"] == event) {
                return Self(events.iter().map(moment).collect());
            }
            assert!(
                Instant::now() < end && history["status"] != "failed",
                "{event} of {task} does not come: {history:#}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Milliseconds between two moments, the first of their name.
    pub(crate) fn between(&self, from: &str, to: &str) -> f64 {
        self.after(to, f64::MIN) - self.after(from, f64::MIN)
    }

    /// Milliseconds from a moment to the next one of another name.
    pub(crate) fn until_next(&self, from: &str, to: &str) -> f64 {
        let began = self.after(from, f64::MIN);
        self.after(to, began) - began
    }

    /// From the call to its answer.
    pub(crate) fn all(&self) -> f64 {
        self.between(CALLED, ANSWERED)
    }

    /// What OpenCode and the model needed, from the prompt taken to the end of the run.
    pub(crate) fn run(&self) -> f64 {
        self.between("prompt_accepted", IDLE)
    }

    fn after(&self, name: &str, since: f64) -> f64 {
        let found = self.0.iter().find(|(one, at)| one == name && *at >= since);
        found.unwrap_or_else(|| panic!("no {name}: {:?}", self.0)).1
    }
}

fn moment(event: &Value) -> (String, f64) {
    let name = event["event"].as_str().unwrap().to_owned();
    (name, event["timestamp"].as_f64().unwrap())
}
