//! The tasks that are under way while something is killed: what is delegated, what the planner does then, and what must come out.
//!
//! In: a planner that does not give up, a place for files. Out: for each job what it wanted and which task it became. The right outcome
//! follows from the script alone, or from what the server has answered.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::checker::Wanted;
use crate::harness::bash;
use crate::harness_client::{task, turns, wait_for};
use crate::kills_planner::Planner;

/// How long one task may take in all, with everything that is done to it.
const PATIENCE: Duration = Duration::from_secs(600);

/// What kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One answer.
    Plain,
    /// Two commands, each with an effect before and after a pause; the first changes a file.
    Steps,
    /// A long answer in small pieces.
    Stream,
    /// A message during a command decides the outcome.
    Message,
    /// Paused in a command, then resumed.
    Pause,
    /// Paused as soon as it may be, wherever it is, then resumed.
    Hold,
    /// Would never end; cancelled after a while, wherever it is.
    Cancel,
    /// A command that runs out of its time.
    Timeout,
    /// Asks for a permission that nobody gives.
    Denied,
    /// Asks for a permission and gets it.
    Asked,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Plain,
        Self::Steps,
        Self::Stream,
        Self::Message,
        Self::Pause,
        Self::Hold,
        Self::Cancel,
        Self::Timeout,
        Self::Denied,
        Self::Asked,
    ];
}

/// One task to delegate.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    /// Names it in every line and text; also its idempotency key.
    pub(crate) tag: String,
    /// Where effects and gates are.
    pub(crate) place: PathBuf,
    /// How long the planner waits before it meddles.
    pub(crate) patience: Duration,
}

/// What became of a job.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) kind: Kind,
    pub(crate) tag: String,
    pub(crate) task: String,
    /// The id that the same key gave when it was asked again at the end.
    pub(crate) task_again: String,
    pub(crate) wanted: Wanted,
    pub(crate) from: Instant,
    pub(crate) to: Instant,
}

/// The file that all effects go to.
pub(crate) fn effects(place: &Path) -> PathBuf {
    place.join("effects")
}

impl Job {
    /// As [`Self::step`], behind something that needs a permission.
    fn asking_step(&self) -> Value {
        let mut step = self.step(1, "sleep 0.3");
        let command = &mut step["tools"][0]["args"]["command"];
        *command = json!(format!("ask-first; {}", command.as_str().unwrap()));
        step
    }

    /// A command with an effect at its beginning and at its end. The word `step:` leads the checker to it.
    fn step(&self, number: u32, between: &str) -> Value {
        let (tag, file) = (&self.tag, effects(&self.place));
        let file = file.display();
        bash(&format!(
            ": step:{tag}:{number}; echo begun:{tag}:{number} >> {file}; {between}; echo ended:{tag}:{number} >> {file}"
        ))
    }

    fn gate(&self) -> PathBuf {
        self.place.join(format!("gate-{}", self.tag))
    }

    fn arguments(&self) -> Value {
        let tag = &self.tag;
        let done = json!({"text": format!("{tag} done.")});
        let for_ever = "sleep 600";
        let (script, more) = match self.kind {
            Kind::Plain => (turns(json!([done])), json!({})),
            Kind::Steps => {
                let first = self.step(1, &format!("echo {tag} >> result.txt; sleep 0.3"));
                let second = self.step(2, "sleep 0.3");
                (turns(json!([first, second, done])), json!({}))
            }
            Kind::Stream => {
                let text = stream_text(tag);
                let slow = json!({"text": text, "chunk": 4, "chunk_delay_ms": 50});
                (turns(json!([slow])), json!({}))
            }
            Kind::Message => {
                let first = self.step(1, &wait_for(&self.gate()));
                let script = json!({
                    "turns": [first, {"text": format!("{tag} red.")}],
                    "on_message": [{"contains": "blue", "turns": [{"text": format!("{tag} blue.")}]}]});
                (script, json!({}))
            }
            Kind::Pause | Kind::Hold => {
                let first = self.step(1, &wait_for(&self.gate()));
                let second = self.step(2, "true");
                (turns(json!([first, second, done])), json!({}))
            }
            Kind::Cancel => (turns(json!([self.step(1, for_ever)])), json!({})),
            Kind::Timeout => (
                turns(json!([self.step(1, for_ever)])),
                json!({"timeout_ms": 3_000}),
            ),
            Kind::Asked => (
                turns(json!([self.asking_step(), done])),
                json!({"attended": true}),
            ),
            Kind::Denied => {
                let asks = bash(&format!(
                    "ask-first; echo begun:{tag}:asked >> {}",
                    effects(&self.place).display()
                ));
                (turns(json!([asks, done])), json!({}))
            }
        };
        let mut all = task(script, more);
        // The time that a worker is away counts: a run that is cut again and again must not run out of it.
        if self.kind != Kind::Timeout {
            all["timeout_ms"] = json!(3_600_000);
        }
        all["idempotency_key"] = json!(tag);
        all
    }

    /// From the delegation to the end.
    pub(crate) async fn run(self, planner: Planner) -> Done {
        let from = Instant::now();
        let submitted = planner.ok("opencode_execute_task", self.arguments()).await;
        let id = submitted["task_id"].as_str().unwrap().to_owned();
        let done = Wanted::Says(vec![format!("{} done.", self.tag)]);
        let wanted = match self.kind {
            Kind::Plain | Kind::Steps | Kind::Denied => done,
            Kind::Stream => Wanted::Says(vec![stream_text(&self.tag)]),
            Kind::Timeout => Wanted::TimedOut,
            Kind::Message => self.tell_it(&planner, &id).await,
            Kind::Pause => {
                working(&planner, &id).await;
                self.pause(&planner, &id).await;
                done
            }
            Kind::Hold => {
                self.pause(&planner, &id).await;
                done
            }
            Kind::Asked => {
                self.allow(&planner, &id).await;
                done
            }
            Kind::Cancel => {
                tokio::time::sleep(self.patience).await;
                planner.control(&id, "cancel").await.unwrap();
                Wanted::Cancelled
            }
        };
        ended(&planner, &id).await;
        let again = planner.ok("opencode_execute_task", self.arguments()).await;
        Done {
            kind: self.kind,
            tag: self.tag,
            task: id,
            task_again: again["task_id"].as_str().unwrap().to_owned(),
            wanted,
            from,
            to: Instant::now(),
        }
    }

    /// Sends the message that changes the outcome, before the gate is opened.
    async fn tell_it(&self, planner: &Planner, id: &str) -> Wanted {
        working(planner, id).await;
        tokio::time::sleep(self.patience).await;
        let message = json!({"task_id": id, "message": format!("Make {} blue.", self.tag)});
        let told = planner.call("send_task_message", message).await;
        std::fs::write(self.gate(), "").unwrap();
        let (red, blue) = (format!("{} red.", self.tag), format!("{} blue.", self.tag));
        match told {
            Ok(_) => Wanted::Says(vec![blue]),
            // Its command was cut off with its worker and it has ended; or an earlier, lost answer was a yes.
            Err(_) => Wanted::Says(vec![red, blue]),
        }
    }

    /// Allows whatever is asked, until the end: a worker that was killed asks again.
    async fn allow(&self, planner: &Planner, id: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = planner.status(id).await;
            if is_final(&seen) {
                return;
            }
            if let Some(request) = seen["requests"][0]["request_id"].as_str() {
                tokio::time::sleep(self.patience / 4).await;
                let answer = json!({"task_id": id, "request_id": request, "answer": "allow"});
                // It may be gone meanwhile, or have been answered by a call whose answer was lost.
                drop(planner.call("answer_task_request", answer).await);
            }
            assert!(Instant::now() < end, "{id} does not end: {seen:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn pause(&self, planner: &Planner, id: &str) {
        tokio::time::sleep(self.patience).await;
        let end = Instant::now() + PATIENCE;
        // A task that is just starting refuses; one that was cut off may have ended without us.
        while let Err(refusal) = planner.control(id, "pause").await {
            let phase = refusal["phase"].as_str().unwrap_or_default();
            if !matches!(phase, "starting" | "queued") {
                break;
            }
            assert!(Instant::now() < end, "{id} cannot be paused: {refusal:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(self.patience / 2).await;
        std::fs::write(self.gate(), "").unwrap();
        while planner.status(id).await["phase"] == "paused" {
            assert!(Instant::now() < end, "{id} cannot be resumed");
            drop(planner.control(id, "resume").await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn stream_text(tag: &str) -> String {
    format!("{tag} {}done.", "says it slowly, ".repeat(8))
}

/// Whether the phase is one after which nothing changes.
fn is_final(seen: &Value) -> bool {
    ["completed", "failed", "timeout", "cancelled"]
        .iter()
        .any(|word| seen["status"] == *word)
}

/// Waits until a command runs, or the task has ended.
async fn working(planner: &Planner, id: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = planner.status(id).await;
        let in_command = seen["doing"].as_str().unwrap_or_default().contains("bash");
        if in_command || is_final(&seen) {
            return;
        }
        assert!(Instant::now() < end, "{id} does not begin: {seen:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for the end.
async fn ended(planner: &Planner, id: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let asked = json!({"task_id": id, "wait_seconds": 5});
        let seen = planner.ok("get_task_status", asked).await;
        if is_final(&seen) {
            return;
        }
        if Instant::now() > end {
            for event in planner.history(id).await {
                eprintln!(
                    "{} {} {}",
                    event["timestamp"], event["event"], event["message"]
                );
            }
            panic!("{id} does not end: {seen:#}");
        }
    }
}
