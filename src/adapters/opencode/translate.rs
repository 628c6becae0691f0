//! From OpenCode's events to the tree's signals. Pure: time comes in as a value.
//!
//! In: events of `GET /global/event`, in order. Out: [`EngineSignal`]s that carry the task's own session, also for what happens
//! in child sessions. Text is put together to at most ten pieces a second, repeated tool events are dropped, unknown
//! event types are counted. Nothing here is fatal: signals are hints, the records are read anyway.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use chargehand_actors::id::RequestId;
use chargehand_actors::ports::{EngineSignal, SessionSignal, Signal};
use serde::Deserialize;
use serde_json::Value;

use super::report::{permission_request, question_request, todo, tool_run, usage};
use super::wire::{GlobalEvent, MessageInfo, Part, Session, Status, WireError, WireTodo};

/// Text of one session is told at most this often.
const TEXT_EVERY: Duration = Duration::from_millis(100);

/// Sessions remembered at once; a shared server may have any number.
const SESSIONS_KEPT: usize = 4096;

/// Event types that are known and say nothing that a task needs.
const SILENT: [&str; 12] = [
    "server.connected",
    "server.heartbeat",
    "server.instance.disposed",
    "global.disposed",
    "sync",
    "session.diff",
    "session.compacted",
    "session.idle",
    "file.edited",
    "file.watcher.updated",
    "message.removed",
    "message.part.removed",
];

/// Beginnings of event types of the same kind.
const SILENT_FAMILIES: [&str; 13] = [
    "session.next.",
    "plugin.",
    "catalog.",
    "reference.",
    "integration.",
    "installation.",
    "lsp.",
    "mcp.",
    "pty.",
    "tui.",
    "project.",
    "vcs.",
    "command.",
];

/// What is remembered of a session while it works.
#[derive(Default)]
struct Seen {
    /// Parts by id: whether they are reasoning, and how many bytes of text were told.
    texts: HashMap<String, Text>,
    started_tools: HashSet<String>,
    ended_parts: HashSet<String>,
    assistants: HashSet<String>,
    users: HashSet<String>,
    pending: Vec<(bool, String)>,
    told_at: Option<Instant>,
}

#[derive(Default)]
struct Text {
    reasoning: bool,
    told: usize,
}

/// Translates the events of one server. Kept over a gap of the stream.
#[derive(Default)]
pub(in crate::adapters) struct Translator {
    /// Session to its parent; a root has none.
    parents: HashMap<String, Option<String>>,
    sessions: HashMap<String, Seen>,
    unknown: u32,
}

impl Translator {
    /// The session of the event if nothing is known about its parent yet: the caller looks it up and says [`Self::learn`].
    pub(super) fn stranger(&self, event: &GlobalEvent) -> Option<String> {
        let properties = &event.payload.properties;
        if event.payload.kind.starts_with("session.") && properties.get("info").is_some() {
            return None;
        }
        let session = session_of(properties)?;
        (!self.knows(session)).then(|| session.to_owned())
    }

    /// Whether the parent of a session is known.
    pub(super) fn knows(&self, session: &str) -> bool {
        self.parents.contains_key(session)
    }

    /// Remembers the parent of a session.
    pub(super) fn learn(&mut self, session: &str, parent: Option<String>) {
        if self.parents.len() > SESSIONS_KEPT {
            // Forgotten ones are looked up again.
            self.parents.clear();
            self.sessions.clear();
        }
        self.parents.insert(session.to_owned(), parent);
    }

    /// The task's own session above `session`, and whether that is another one.
    pub(super) fn root(&self, session: &str) -> (String, bool) {
        let mut at = session;
        // Bounded: a circle in the records must not hold the stream.
        for _ in 0..16 {
            match self.parents.get(at) {
                Some(Some(parent)) => at = parent,
                Some(None) | None => break,
            }
        }
        (at.to_owned(), at != session)
    }

    /// One event to its signals.
    pub(super) fn translate(&mut self, event: &GlobalEvent, now: Instant) -> Vec<EngineSignal> {
        let properties = &event.payload.properties;
        let kind = event.payload.kind.as_str();
        if let Some(info) = properties
            .get("info")
            .filter(|_| kind.starts_with("session."))
            && let Ok(session) = Session::deserialize(info)
        {
            self.learn(&session.id, session.parent_id);
        }
        let Some(session) = session_of(properties).map(str::to_owned) else {
            self.count_unknown(kind);
            return Vec::new();
        };
        let signals = self.signals(kind, &session, properties, &event.directory, now);
        let mut out = Vec::new();
        if !signals.is_empty() {
            let only_text = signals
                .iter()
                .all(|signal| matches!(signal, Signal::Text { .. }));
            if !only_text {
                self.flush_session(&session, now, &mut out);
            }
            out.extend(
                signals
                    .into_iter()
                    .map(|signal| self.wrap(&session, signal)),
            );
        }
        out
    }

    /// Text that has waited long enough, and the count of unknown events since the last call.
    pub(super) fn flush(&mut self, now: Instant) -> Vec<EngineSignal> {
        let due: Vec<String> = self
            .sessions
            .iter()
            .filter(|(_, seen)| !seen.pending.is_empty() && seen.is_due(now))
            .map(|(session, _)| session.clone())
            .collect();
        let mut out = Vec::new();
        for session in due {
            self.flush_session(&session, now, &mut out);
        }
        if self.unknown > 0 {
            out.push(EngineSignal::Unknown(std::mem::take(&mut self.unknown)));
        }
        out
    }

    fn flush_session(&mut self, session: &str, now: Instant, out: &mut Vec<EngineSignal>) {
        let Some(seen) = self.sessions.get_mut(session) else {
            return;
        };
        let pending = std::mem::take(&mut seen.pending);
        if !pending.is_empty() {
            seen.told_at = Some(now);
        }
        for (reasoning, text) in pending {
            out.push(self.wrap(session, Signal::Text { text, reasoning }));
        }
    }

    fn wrap(&self, session: &str, signal: Signal) -> EngineSignal {
        let (root, child) = self.root(session);
        EngineSignal::Session(SessionSignal {
            session: root,
            child,
            signal,
        })
    }

    fn count_unknown(&mut self, kind: &str) {
        let known = SILENT.contains(&kind)
            || SILENT_FAMILIES
                .iter()
                .any(|family| kind.starts_with(family))
            || kind.ends_with(".updated") && !kind.contains("message");
        if !known {
            self.unknown = self.unknown.saturating_add(1);
        }
    }

    fn signals(
        &mut self,
        kind: &str,
        session: &str,
        properties: &Value,
        directory: &str,
        now: Instant,
    ) -> Vec<Signal> {
        match kind {
            "session.status" => status_signal(properties).into_iter().collect(),
            "session.error" => error_signal(properties).into_iter().collect(),
            "session.deleted" => {
                self.sessions.remove(session);
                vec![Signal::Deleted]
            }
            "session.created" | "session.updated" => Vec::new(),
            "message.updated" => self.message(session, properties).into_iter().collect(),
            "message.part.delta" => {
                self.delta(session, properties, now);
                self.due_text(session, now)
            }
            "message.part.updated" => self.part(session, properties, directory),
            "todo.updated" => todos(properties).into_iter().collect(),
            "permission.asked" => parsed(properties)
                .map(|asked| Signal::RequestAsked(permission_request(&asked)))
                .into_iter()
                .collect(),
            "question.asked" => parsed(properties)
                .map(|asked| Signal::RequestAsked(question_request(&asked)))
                .into_iter()
                .collect(),
            "permission.replied" | "question.replied" | "question.rejected" => {
                closed(properties).into_iter().collect()
            }
            other => {
                self.count_unknown(other);
                Vec::new()
            }
        }
    }

    fn seen(&mut self, session: &str) -> &mut Seen {
        self.sessions.entry(session.to_owned()).or_default()
    }

    fn message(&mut self, session: &str, properties: &Value) -> Option<Signal> {
        let info: MessageInfo = parsed(properties.get("info")?)?;
        let seen = self.seen(session);
        if !info.is_assistant() {
            seen.users.insert(info.id);
            return None;
        }
        seen.assistants
            .insert(info.id)
            .then_some(Signal::AssistantStarted)
    }

    fn delta(&mut self, session: &str, properties: &Value, now: Instant) {
        let field = |name: &str| properties.get(name).and_then(Value::as_str);
        if field("field").is_some_and(|field| field != "text") {
            return;
        }
        let (Some(part), Some(delta)) = (field("partID"), field("delta")) else {
            return;
        };
        let seen = self.seen(session);
        let text = seen.texts.entry(part.to_owned()).or_default();
        text.told += delta.len();
        let reasoning = text.reasoning;
        seen.add_text(reasoning, delta, now);
    }

    fn due_text(&mut self, session: &str, now: Instant) -> Vec<Signal> {
        let seen = self.seen(session);
        if !seen.is_due(now) {
            return Vec::new();
        }
        seen.told_at = Some(now);
        std::mem::take(&mut seen.pending)
            .into_iter()
            .map(|(reasoning, text)| Signal::Text { text, reasoning })
            .collect()
    }

    fn part(&mut self, session: &str, properties: &Value, directory: &str) -> Vec<Signal> {
        let Some(part) = properties.get("part").and_then(parsed::<Part>) else {
            return Vec::new();
        };
        let seen = self.seen(session);
        match part.kind.as_str() {
            "text" | "reasoning" => seen.text_part(&part).into_iter().collect(),
            "tool" => seen.tool_part(&part, directory),
            "step-finish" if seen.ended_parts.insert(part.id.clone()) => {
                vec![Signal::StepFinished {
                    usage: usage(&part.tokens, part.cost),
                    reason: part.reason,
                }]
            }
            "patch" if seen.ended_parts.insert(part.id.clone()) && !part.files.is_empty() => {
                let files = part.files.iter().map(|file| relative(file, directory));
                vec![Signal::FilesTouched(files.collect())]
            }
            _ => Vec::new(),
        }
    }
}

impl Seen {
    fn is_due(&self, now: Instant) -> bool {
        self.told_at
            .is_none_or(|told| now.saturating_duration_since(told) >= TEXT_EVERY)
    }

    /// Adds to the waiting text; the kinds stay in the order in which they came.
    fn add_text(&mut self, reasoning: bool, more: &str, now: Instant) {
        if self.told_at.is_none() {
            // The first piece waits for company like every other.
            self.told_at = Some(now);
        }
        match self.pending.last_mut() {
            Some((kind, text)) if *kind == reasoning => text.push_str(more),
            Some(_) | None => self.pending.push((reasoning, more.to_owned())),
        }
    }

    /// Learns the kind of a part; at its end tells what no delta told (a gap of the stream, a server without deltas).
    fn text_part(&mut self, part: &Part) -> Option<Signal> {
        let reasoning = part.kind == "reasoning";
        let of_user = self.users.contains(&part.message_id) || part.synthetic;
        if of_user || !self.assistants.contains(&part.message_id) {
            return None;
        }
        let text = self.texts.entry(part.id.clone()).or_default();
        text.reasoning = reasoning;
        part.time.end?;
        let rest = part.text.get(text.told..).unwrap_or_default().to_owned();
        text.told = text.told.max(part.text.len());
        (!rest.is_empty()).then_some(Signal::Text {
            text: rest,
            reasoning,
        })
    }

    fn tool_part(&mut self, part: &Part, directory: &str) -> Vec<Signal> {
        match part.state.status.as_str() {
            "running" => {
                let fresh = !self.ended_parts.contains(&part.id)
                    && self.started_tools.insert(part.id.clone());
                if fresh {
                    vec![Signal::ToolStarted(tool_run(part))]
                } else {
                    Vec::new()
                }
            }
            "completed" | "error" if self.ended_parts.insert(part.id.clone()) => {
                self.started_tools.remove(&part.id);
                let written = matches!(part.tool.as_str(), "write" | "edit")
                    .then(|| part.state.input.get("filePath").and_then(Value::as_str))
                    .flatten()
                    .filter(|_| part.state.status == "completed")
                    .map(|file| Signal::FilesTouched(vec![relative(file, directory)]));
                std::iter::once(Signal::ToolFinished(tool_run(part)))
                    .chain(written)
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

fn parsed<'a, T: Deserialize<'a>>(value: &'a Value) -> Option<T> {
    T::deserialize(value).ok()
}

fn session_of(properties: &Value) -> Option<&str> {
    ["/sessionID", "/info/sessionID", "/part/sessionID"]
        .iter()
        .find_map(|path| properties.pointer(path).and_then(Value::as_str))
        .or_else(|| {
            properties
                .pointer("/info/id")
                .and_then(Value::as_str)
                .filter(|id| id.starts_with("ses_"))
        })
}

fn status_signal(properties: &Value) -> Option<Signal> {
    let status: Status = parsed(properties.get("status")?)?;
    Some(match status.kind.as_str() {
        "idle" => Signal::Idle,
        "retry" => Signal::Retrying {
            attempt: status.attempt,
            message: status.message,
        },
        _ => Signal::Busy,
    })
}

fn error_signal(properties: &Value) -> Option<Signal> {
    let error: WireError = parsed(properties.get("error")?)?;
    Some(Signal::Error {
        message: error.message(),
        name: error.name,
    })
}

fn todos(properties: &Value) -> Option<Signal> {
    let list: Vec<WireTodo> = parsed(properties.get("todos")?)?;
    Some(Signal::Todos(list.iter().map(todo).collect()))
}

fn closed(properties: &Value) -> Option<Signal> {
    ["requestID", "permissionID", "id"]
        .iter()
        .find_map(|name| properties.get(name).and_then(Value::as_str))
        .map(|id| Signal::RequestClosed(RequestId(id.to_owned())))
}

/// The path below the workdir; a path elsewhere stays as it is.
fn relative(file: &str, directory: &str) -> String {
    file.strip_prefix(directory)
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(file)
        .to_owned()
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
