//! The checker: holds what Chargehand says against what really happened. It uses none of Chargehand's code.
//!
//! In: [`Evidence`], gathered elsewhere: Chargehand's public answers, OpenCode's own records of every session, message and tool call
//! (also of those deleted since), the lines that commands wrote, what is left on the machine. Out: every contradiction, in words.
//! What counts as right is written down in docs/design/crash-points.md.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// How often a cut run is continued before its task fails.
const CONTINUED_AT_MOST: usize = 2;

/// The outcome that a task must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Completed with one of these texts.
    Says(Vec<String>),
    Cancelled,
    TimedOut,
}

/// A task and what Chargehand says about it.
#[derive(Clone, Debug)]
pub(crate) struct Delegated {
    pub(crate) tag: String,
    pub(crate) id: String,
    /// What its idempotency key gave at the end.
    pub(crate) id_again: String,
    pub(crate) wanted: Wanted,
    /// Its run was ended by its planner: by a pause, a cancel or its time.
    pub(crate) meddled: bool,
    /// How many commands its script asks for.
    pub(crate) steps: u32,
    pub(crate) status: Value,
    pub(crate) history: Vec<Value>,
    /// How often its worker was killed while it lived.
    pub(crate) worker_deaths: usize,
}

/// A session as OpenCode stored it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) task: String,
    pub(crate) attempt: u64,
}

/// A message as OpenCode stored it last.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) session: String,
    pub(crate) data: Value,
}

/// A part of a message as OpenCode stored it last.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) message: String,
    pub(crate) session: String,
    pub(crate) data: Value,
}

/// What is left on the machine after everything has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Left {
    /// Sessions that OpenCode still lists.
    pub(crate) sessions: Vec<String>,
    /// Processes that carry the mark or work in a workdir, and should not.
    pub(crate) processes: Vec<String>,
    /// Names below the directories of workdirs and baselines: task, then attempt.
    pub(crate) workdirs: Vec<(String, String)>,
}

/// Everything that is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) tasks: Vec<Delegated>,
    /// Ids of all tasks that Chargehand lists.
    pub(crate) listed: Vec<String>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) messages: Vec<Message>,
    pub(crate) parts: Vec<Part>,
    /// `begun:<tag>:<step>` and `ended:<tag>:<step>`.
    pub(crate) lines: Vec<String>,
    pub(crate) left: Left,
}

/// Every contradiction.
pub(crate) fn violations(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    for task in &evidence.tasks {
        found.extend(of_outcome(task));
        found.extend(of_sessions(evidence, task));
        found.extend(of_prompts(evidence, task));
        found.extend(of_steps(evidence, task));
    }
    found.extend(of_the_whole(evidence));
    found
}

/// One terminal state, the true one, told the same everywhere.
fn of_outcome(task: &Delegated) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |what: String| found.push(format!("{} ({}): {what}", task.tag, task.id));
    let finals: Vec<&str> = task
        .history
        .iter()
        .filter_map(|event| match event["event"].as_str()? {
            "task_completed" => Some("completed"),
            "task_failed" => Some("failed"),
            "task_timed_out" => Some("timeout"),
            "task_cancelled" => Some("cancelled"),
            _ => None,
        })
        .collect();
    let status = task.status["status"].as_str().unwrap_or_default();
    if finals != [status] {
        say(format!("is {status}, its history ends as {finals:?}"));
    }
    let output = task.status["output"].as_str().unwrap_or_default();
    let right = match &task.wanted {
        Wanted::Says(texts) => status == "completed" && texts.iter().any(|text| text == output),
        Wanted::Cancelled => status == "cancelled",
        Wanted::TimedOut => status == "timeout",
    };
    // Chargehand says so when a worker dies again and again under a task; that is then the truth.
    let lost = status == "failed"
        && task.worker_deaths > CONTINUED_AT_MOST
        && task.status.to_string().contains("worker_lost");
    if !right && !lost {
        say(format!(
            "should be {:?}, is {status} and says {output:?} ({} worker deaths): {}",
            task.wanted, task.worker_deaths, task.status["error"]
        ));
    }
    if task.id != task.id_again {
        say(format!("its key also led to {}", task.id_again));
    }
    found
}

fn ids_of<'a>(evidence: &'a Evidence, task: &'a Delegated) -> impl Iterator<Item = &'a Session> {
    evidence.sessions.iter().filter(|s| s.task == task.id)
}

fn role(message: &Message) -> &str {
    message.data["role"].as_str().unwrap_or_default()
}

/// At most one session of an attempt was ever given a prompt.
fn of_sessions(evidence: &Evidence, task: &Delegated) -> Vec<String> {
    let mut used: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for session in ids_of(evidence, task) {
        let prompted = evidence
            .messages
            .iter()
            .any(|m| m.session == session.id && role(m) == "user");
        if prompted {
            used.entry(session.attempt).or_default().push(&session.id);
        }
    }
    let twice = used.into_iter().filter(|(_, ids)| ids.len() > 1);
    twice
        .map(|(attempt, ids)| format!("{}: attempt {attempt} ran in {ids:?}", task.tag))
        .collect()
}

/// No prompt is stored twice, none is answered to the end twice.
fn of_prompts(evidence: &Evidence, task: &Delegated) -> Vec<String> {
    let mut found = Vec::new();
    let sessions: BTreeSet<&str> = ids_of(evidence, task).map(|s| s.id.as_str()).collect();
    let messages = || {
        evidence
            .messages
            .iter()
            .filter(|m| sessions.contains(m.session.as_str()))
    };
    let mut firsts = 0;
    for prompt in messages().filter(|m| role(m) == "user") {
        let texts: Vec<&str> = evidence
            .parts
            .iter()
            .filter(|part| part.message == prompt.id && part.data["type"] == "text")
            .filter_map(|part| part.data["text"].as_str())
            .collect();
        if texts.len() > 1 {
            found.push(format!(
                "{}: the prompt {} has {} texts",
                task.tag,
                prompt.id,
                texts.len()
            ));
        }
        firsts += texts
            .iter()
            .filter(|text| text.contains("<script>"))
            .count();
        let answers = messages()
            .filter(|m| m.data["parentID"] == prompt.id.as_str() && m.data["finish"] == "stop")
            .count();
        if answers > 1 {
            found.push(format!(
                "{}: the prompt {} was answered {answers} times",
                task.tag, prompt.id
            ));
        }
    }
    if firsts > 1 {
        found.push(format!(
            "{}: the task was given to the worker {firsts} times",
            task.tag
        ));
    }
    found
}

/// Each command ran as often as OpenCode's records say, and none that was done was done again.
fn of_steps(evidence: &Evidence, task: &Delegated) -> Vec<String> {
    let mut found = Vec::new();
    let mut calls: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let sessions: BTreeSet<&str> = ids_of(evidence, task).map(|s| s.id.as_str()).collect();
    let ours =
        |part: &&Part| sessions.contains(part.session.as_str()) && part.data["type"] == "tool";
    for part in evidence.parts.iter().filter(ours) {
        let state = &part.data["state"];
        let command = state["input"]["command"].as_str().unwrap_or_default();
        let Some((_, rest)) = command.split_once("step:") else {
            continue;
        };
        let name = rest.split(';').next().unwrap_or_default().to_owned();
        let cut = state["output"]
            .as_str()
            .is_some_and(|text| text.contains("aborted the command"));
        let call = calls.entry(name).or_default();
        call.0 += 1;
        call.1 += usize::from(state["status"] == "completed" && !cut);
    }
    let count = |word: &str, name: &str| {
        let line = format!("{word}:{name}");
        evidence.lines.iter().filter(|one| **one == line).count()
    };
    let mut names: BTreeSet<String> = calls.keys().cloned().collect();
    let calm = task.worker_deaths == 0 && !task.meddled;
    if calm {
        names.extend((1..=task.steps).map(|step| format!("{}:{step}", task.tag)));
    }
    let prefix = format!("begun:{}:", task.tag);
    names.extend(
        evidence
            .lines
            .iter()
            .filter(|line| line.starts_with(&prefix))
            .map(|line| line["begun:".len()..].to_owned()),
    );
    for name in names {
        let (asked, done) = calls.get(&name).copied().unwrap_or_default();
        let (begun, ended) = (count("begun", &name), count("ended", &name));
        if !(done <= ended && ended <= begun && begun <= asked) {
            found.push(format!(
                "{name}: asked for {asked} times, {done} completed, but {begun} begun and {ended} ended; OpenCode's record: {}",
                record(evidence, task)
            ));
        }
        if done > 1 {
            found.push(format!("{name}: done {done} times"));
        }
        if calm && (asked, begun, ended) != (1, 1, 1) {
            found.push(format!(
                "{name}: nothing disturbed its worker, but it was asked for {asked} times, begun {begun} times, ended {ended} times"
            ));
        }
    }
    found
}

/// Sessions, messages and tool calls of a task as OpenCode kept them, for whoever has to find out why they do not fit.
fn record(evidence: &Evidence, task: &Delegated) -> String {
    let mut lines = Vec::new();
    for session in ids_of(evidence, task) {
        lines.push(format!(
            "session {} of attempt {}",
            session.id, session.attempt
        ));
        for message in evidence.messages.iter().filter(|m| m.session == session.id) {
            let (finish, error) = (&message.data["finish"], &message.data["error"]);
            lines.push(format!(
                "  {} {} finish {finish} error {error}",
                role(message),
                message.id
            ));
            let parts = evidence
                .parts
                .iter()
                .filter(|part| part.message == message.id);
            for part in parts.filter(|part| part.data["type"] == "tool") {
                lines.push(format!("    {} {}", part.data["tool"], part.data["state"]));
            }
        }
    }
    lines.join("\n")
}

/// What cannot be said of one task alone.
fn of_the_whole(evidence: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let known: BTreeSet<&str> = evidence.tasks.iter().map(|task| task.id.as_str()).collect();
    let listed: BTreeSet<&str> = evidence.listed.iter().map(String::as_str).collect();
    if known.len() != evidence.tasks.len() {
        found.push("two keys led to one task".to_owned());
    }
    for id in listed.symmetric_difference(&known) {
        let who = if known.contains(id) {
            "the planner"
        } else {
            "Chargehand"
        };
        found.push(format!("only {who} knows task {id}"));
    }
    for session in &evidence.left.sessions {
        found.push(format!("session {session} is left"));
    }
    for process in &evidence.left.processes {
        found.push(format!("a process is left: {process}"));
    }
    for (task, attempt) in &evidence.left.workdirs {
        if !known.contains(task.as_str()) {
            found.push(format!("directory {task}/{attempt} is of no task"));
        }
        if attempt.parse::<u32>().is_err() {
            found.push(format!("directory {task}/{attempt} is half-made"));
        }
    }
    found
}
