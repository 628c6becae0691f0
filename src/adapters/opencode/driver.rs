//! The one driver of OpenCode: sessions, prompts and readings over REST, for every engine.
//!
//! In: calls of an engine whose server is up. Out: what the server's records say. All calls may be repeated. Every call names
//! the session's directory: versions before 1.17 run a session in the directory of the request, not in its own.
//! Answers are in `answering`, ending runs and removing sessions in `ending`, the event stream in `watching`, the rules of a session in `rules`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chargehand_actors::command::ModelRef;
use chargehand_actors::crash::CrashPoint;
use chargehand_actors::event::SessionRef;
use chargehand_actors::id::{AttemptId, InstanceId, WorkerId};
use chargehand_actors::ports::{EngineError, OpenSession, OwnedAttempt, SendPrompt, SessionReport};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Client, Reply};
use super::ending::has_answer;
use super::gate::ColdGate;
use super::report::{Child, Records, SUB_AGENT, report};
use super::version::Version;
use super::wire::{Message, Owner, Permission, Questions, Session, StatusMap, WireTodo};

/// How many messages of a child session are read.
const NEWEST: u32 = 4;
/// Where a server lists the sessions of all directories.
const ALL_SESSIONS: &str = "/experimental/session";
/// How long a directory counts as starting after its prompt was taken.
const COLD_LIMIT: Duration = Duration::from_secs(20);

/// Drives one life of one server.
#[derive(Clone, Debug)]
pub(in crate::adapters) struct Driver {
    pub(super) client: Client,
    pub(super) instance: InstanceId,
    pub(in crate::adapters) worker: WorkerId,
    pub(super) version: Version,
    /// Model for tasks that name none, where the server's own configuration is not ours.
    pub(super) model: Option<ModelRef>,
    /// Name of the engine, written into session references.
    pub(super) engine: String,
    pub(super) gate: ColdGate,
    /// The last prompt sent to each session.
    sent: Arc<Mutex<HashMap<String, Sent>>>,
    /// Prompts of an earlier Chargehand may be on their way until then.
    pub(super) doubt_until: Instant,
}

/// A prompt on its way or arrived.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) message: String,
    pub(super) directory: String,
    pub(super) at: Instant,
}

/// What a driver is made for.
pub(in crate::adapters) struct DriverSettings {
    pub(in crate::adapters) client: Client,
    pub(in crate::adapters) instance: InstanceId,
    pub(in crate::adapters) worker: WorkerId,
    pub(in crate::adapters) version: Version,
    pub(in crate::adapters) model: Option<ModelRef>,
    pub(in crate::adapters) engine: String,
    /// The server was there before: it may hold prompts that we know nothing of.
    pub(in crate::adapters) adopted: bool,
}

impl Driver {
    pub(in crate::adapters) fn new(settings: DriverSettings) -> Self {
        let now = Instant::now();
        let doubt = if settings.adopted {
            COLD_LIMIT
        } else {
            Duration::ZERO
        };
        Self {
            client: settings.client,
            instance: settings.instance,
            worker: settings.worker,
            version: settings.version,
            model: settings.model,
            engine: settings.engine,
            gate: ColdGate::new(),
            sent: Arc::default(),
            doubt_until: now + doubt,
        }
    }

    pub(super) fn owner(&self, attempt: AttemptId) -> Owner {
        Owner {
            instance: self.instance.0.clone(),
            task: attempt.task.to_string(),
            attempt: attempt.number,
        }
    }

    /// Finds the session that carries the attempt, or makes it.
    pub(in crate::adapters) async fn open(
        &self,
        request: OpenSession,
    ) -> Result<SessionRef, EngineError> {
        let owner = self.owner(request.attempt);
        let mut found = self.find(&request.directory, &owner).await?;
        let id = match found.len() {
            0 => {
                CrashPoint::SessionMissing.pass();
                self.create(&request, &owner).await?
            }
            1 => found.remove(0).id,
            _ => self.keep_one(found, &request.directory).await?,
        };
        Ok(self.session_ref(id, request.directory))
    }

    pub(super) fn session_ref(&self, id: String, directory: String) -> SessionRef {
        SessionRef {
            id,
            directory,
            server: self.engine.clone(),
        }
    }

    /// Sessions of the directory that carry the owner, oldest first.
    pub(super) async fn find(
        &self,
        directory: &str,
        owner: &Owner,
    ) -> Result<Vec<Session>, EngineError> {
        let query = [("directory", directory), ("limit", "10000")];
        let mut sessions: Vec<Session> = json_list(self.client.get("/session", &query).await?)?;
        sessions.retain(|session| {
            session.parent_id.is_none() && session.owner().as_ref() == Some(owner)
        });
        sessions.sort_by(|a, b| (a.time.created, &a.id).cmp(&(b.time.created, &b.id)));
        Ok(sessions)
    }

    async fn create(&self, request: &OpenSession, owner: &Owner) -> Result<String, EngineError> {
        let title = if self.version.keeps_metadata() {
            request.title.clone()
        } else {
            format!("{} {}", request.title, owner.title_mark())
        };
        let mut body = json!({"title": title, "metadata": {"chargehand": owner}});
        let rules = self.session_rules(request).await?;
        if !rules.is_empty() {
            body["permission"] = json!(rules);
        }
        let query = [("directory", request.directory.as_str())];
        let reply = self
            .client
            .call(Method::POST, "/session", &query, &body)
            .await?;
        let session: Session = json_one(reply, "POST /session")?;
        if session.owner().as_ref() == Some(owner) {
            Ok(session.id)
        } else {
            Err(EngineError::Fault(
                "the new session does not carry its owner; without that it could not be found again".to_owned(),
            ))
        }
    }

    /// Several sessions carry one attempt after a crash between request and answer: the oldest with messages is kept.
    async fn keep_one(&self, found: Vec<Session>, directory: &str) -> Result<String, EngineError> {
        let mut kept: Option<String> = None;
        for session in &found {
            if !self
                .messages(&session.id, directory, Some(1))
                .await?
                .is_empty()
            {
                kept = Some(session.id.clone());
                break;
            }
        }
        let kept = kept
            .or_else(|| found.first().map(|session| session.id.clone()))
            .ok_or(EngineError::SessionGone)?;
        for session in found.into_iter().filter(|session| session.id != kept) {
            self.end_and_delete(&session.id, directory).await?;
        }
        Ok(kept)
    }

    /// Sends a prompt exactly as recorded. A 204 only says that it was heard.
    pub(in crate::adapters) async fn prompt(&self, request: SendPrompt) -> Result<(), EngineError> {
        let session = &request.session;
        let permit = self.gate.enter(&session.directory).await;
        let path = format!("/session/{}/prompt_async", session.id);
        let query = [("directory", session.directory.as_str())];
        self.remember_sent(session, &request.prompt.message_id);
        let body = prompt_body(&request, self.model.as_ref());
        if !self.client.act(Method::POST, &path, &query, &body).await? {
            return Err(EngineError::SessionGone);
        }
        if let Some(permit) = permit {
            let driver = self.clone();
            tokio::spawn(async move {
                driver.wait_until_begun(&request).await;
                drop(permit);
            });
        }
        Ok(())
    }

    /// Returns when the prompt's run has begun in this worker, or after the longest time that it may take.
    async fn wait_until_begun(&self, request: &SendPrompt) {
        let session = &request.session;
        let end = Instant::now() + COLD_LIMIT;
        while Instant::now() < end {
            if self
                .has_begun(session, &request.prompt.message_id)
                .await
                .unwrap_or(false)
            {
                self.gate.warmed(&session.directory);
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn has_begun(&self, session: &SessionRef, message: &str) -> Result<bool, EngineError> {
        let query = [("directory", session.directory.as_str())];
        if let Reply::Json(statuses) = self
            .client
            .get::<StatusMap>("/session/status", &query)
            .await?
            && statuses.contains_key(&session.id)
        {
            return Ok(true);
        }
        let messages = self
            .messages(&session.id, &session.directory, Some(4))
            .await?;
        Ok(has_answer(&messages, message))
    }

    fn remember_sent(&self, session: &SessionRef, message: &str) {
        let sent = Sent {
            message: message.to_owned(),
            directory: session.directory.clone(),
            at: Instant::now(),
        };
        self.sent().insert(session.id.clone(), sent);
    }

    fn sent(&self) -> MutexGuard<'_, HashMap<String, Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last prompt sent to a session.
    pub(super) fn last_sent(&self, session: &str) -> Option<Sent> {
        self.sent().get(session).cloned()
    }

    /// Session, directory and message of the prompts sent within this time.
    pub(super) fn sent_within(&self, time: Duration) -> Vec<(String, String, String)> {
        let recent = |sent: &Sent| sent.at.elapsed() <= time;
        self.sent()
            .iter()
            .filter(|(_, sent)| recent(sent))
            .map(|(session, sent)| {
                (
                    session.clone(),
                    sent.directory.clone(),
                    sent.message.clone(),
                )
            })
            .collect()
    }

    /// The session is gone.
    pub(super) fn forget(&self, session: &str) {
        self.sent().remove(session);
    }

    /// Reads the records once. OpenCode says idle before the last message has its end: whoever judges an idle session reads
    /// it again (the task machine believes only two readings that agree).
    pub(in crate::adapters) async fn read(
        &self,
        session: &SessionRef,
        prompts: &[String],
    ) -> Result<SessionReport, EngineError> {
        let records = self.records(session).await?;
        if records.status.is_some() {
            self.gate.warmed(&session.directory);
        }
        Ok(report(&records, self.worker.clone(), prompts))
    }

    async fn records(&self, session: &SessionRef) -> Result<Records, EngineError> {
        let directory = [("directory", session.directory.as_str())];
        // Status before messages: a run that ends in between is then seen as busy and read again.
        let mut statuses: StatusMap = json_one(
            self.client.get("/session/status", &directory).await?,
            "GET /session/status",
        )?;
        let status = statuses
            .remove(&session.id)
            .filter(|status| status.kind != "idle");
        let messages = self.messages(&session.id, &session.directory, None).await?;
        let todo_path = format!("/session/{}/todo", session.id);
        let (permissions, questions, todos) = futures_util::future::try_join3(
            self.client
                .get::<Vec<Permission>>("/permission", &directory),
            self.client.get::<Vec<Questions>>("/question", &directory),
            self.client.get::<Vec<WireTodo>>(&todo_path, &directory),
        )
        .await?;
        let permissions: Vec<Permission> = json_list(permissions)?;
        let questions: Vec<Questions> = json_list(questions)?;
        // The requests of an aborted child session stay listed although it works no more.
        let works = |id: &str| id == session.id || statuses.contains_key(id);
        let permissions = permissions
            .into_iter()
            .filter(|asked| works(&asked.session_id));
        let permissions: Vec<Permission> = permissions.collect();
        let questions = questions
            .into_iter()
            .filter(|asked| works(&asked.session_id));
        let questions: Vec<Questions> = questions.collect();
        let children = if status.is_some() && runs_sub_agent(&messages) {
            self.working_children(session, statuses).await?
        } else {
            Vec::new()
        };
        let mut records = Records {
            status,
            messages,
            permissions: Vec::new(),
            questions: Vec::new(),
            todos: match todos {
                Reply::Json(todos) => todos,
                // No decision depends on them.
                Reply::Missing | Reply::NoRoute => Vec::new(),
            },
            children,
        };
        for asked in permissions {
            if self.is_below(&asked.session_id, session).await? {
                records.permissions.push(asked);
            }
        }
        for asked in questions {
            if self.is_below(&asked.session_id, session).await? {
                records.questions.push(asked);
            }
        }
        Ok(records)
    }

    /// The child sessions that work, at any depth, with their newest messages.
    async fn working_children(
        &self,
        session: &SessionRef,
        mut statuses: StatusMap,
    ) -> Result<Vec<Child>, EngineError> {
        let mut children = Vec::new();
        // In one order always: of several that wait for the provider the same one is told each time.
        let mut working: Vec<String> = statuses.keys().cloned().collect();
        working.sort_unstable();
        for id in working {
            if id == session.id || !self.is_below(&id, session).await? {
                continue;
            }
            let messages = self.messages(&id, &session.directory, Some(NEWEST)).await;
            children.push(Child {
                status: statuses.remove(&id),
                messages: match messages {
                    Ok(messages) => messages,
                    Err(EngineError::SessionGone) => Vec::new(),
                    Err(error) => return Err(error),
                },
            });
        }
        Ok(children)
    }

    /// Whether `id` is the session itself or one of its children, at any depth.
    async fn is_below(&self, id: &str, session: &SessionRef) -> Result<bool, EngineError> {
        let mut at = id.to_owned();
        for _ in 0..16 {
            if at == session.id {
                return Ok(true);
            }
            match self.session(&at, &session.directory).await? {
                Some(Session {
                    parent_id: Some(parent),
                    ..
                }) => at = parent,
                Some(_) | None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// One session; none if it does not exist.
    pub(super) async fn session(
        &self,
        id: &str,
        directory: &str,
    ) -> Result<Option<Session>, EngineError> {
        let path = format!("/session/{id}");
        let query = [("directory", directory)];
        let query = if directory.is_empty() {
            &[][..]
        } else {
            &query[..]
        };
        match self.client.get(&path, query).await? {
            Reply::Json(session) => Ok(Some(session)),
            Reply::Missing => Ok(None),
            Reply::NoRoute => Err(no_route(&path)),
        }
    }

    /// Messages, oldest first: all, or the newest few.
    pub(super) async fn messages(
        &self,
        id: &str,
        directory: &str,
        newest: Option<u32>,
    ) -> Result<Vec<Message>, EngineError> {
        let path = format!("/session/{id}/message");
        let limit = newest.map(|count| count.to_string());
        let mut query = vec![("directory", directory)];
        if let Some(limit) = &limit {
            query.push(("limit", limit));
        }
        match self.client.get(&path, &query).await? {
            Reply::Json(messages) => Ok(messages),
            Reply::Missing => Err(EngineError::SessionGone),
            Reply::NoRoute => Err(no_route(&path)),
        }
    }

    /// Everything of this instance on the server.
    pub(super) async fn owned(&self) -> Result<Vec<OwnedAttempt>, EngineError> {
        Ok(self.ours(self.all_sessions().await?))
    }

    /// Whether nothing of this instance is on the server. An error where that server cannot tell of all directories at once.
    pub(super) async fn owns_nothing(&self) -> Result<bool, EngineError> {
        let query = [("limit", "10000")];
        match self.client.get(ALL_SESSIONS, &query).await? {
            Reply::Json(sessions) => Ok(self.ours(sessions).is_empty()),
            Reply::Missing | Reply::NoRoute => Err(no_route(ALL_SESSIONS)),
        }
    }

    fn ours(&self, sessions: Vec<Session>) -> Vec<OwnedAttempt> {
        sessions
            .into_iter()
            .filter(|session| session.parent_id.is_none())
            .filter_map(|session| {
                let owner = session.owner()?;
                let attempt = AttemptId {
                    task: owner.task.parse().ok()?,
                    number: owner.attempt,
                };
                (owner.instance == self.instance.0).then(|| OwnedAttempt {
                    attempt,
                    session: Some(self.session_ref(session.id, session.directory)),
                })
            })
            .collect()
    }

    /// Sessions of all directories.
    pub(super) async fn all_sessions(&self) -> Result<Vec<Session>, EngineError> {
        let query = [("limit", "10000")];
        match self.client.get(ALL_SESSIONS, &query).await? {
            Reply::Json(sessions) => Ok(sessions),
            Reply::Missing | Reply::NoRoute => {
                json_list(self.client.get("/session", &query).await?)
            }
        }
    }
}

/// Whether a sub-agent was started and has not ended.
fn runs_sub_agent(messages: &[Message]) -> bool {
    let last = messages.iter().rfind(|message| message.info.is_assistant());
    last.filter(|message| !message.info.is_ended())
        .is_some_and(|message| {
            let mut parts = message.parts.iter();
            parts.any(|part| part.tool == SUB_AGENT && part.state.status == "running")
        })
}

fn prompt_body(request: &SendPrompt, default_model: Option<&ModelRef>) -> Value {
    let prompt = &request.prompt;
    let mut body = json!({
        "messageID": prompt.message_id,
        "parts": [{"id": prompt.part_id, "type": "text", "text": prompt.text}],
    });
    if let Some(model) = request.model.as_ref().or(default_model) {
        body["model"] = json!({"providerID": model.provider, "modelID": model.model});
    }
    if let Some(agent) = &request.agent {
        body["agent"] = json!(agent);
    }
    body
}

/// A list; of something that does not exist it is an empty one. A page in its place says nothing: every version has these routes
/// (measured on 1.3.0, 1.17.0 and 1.18.33), a proxy has pages of its own.
pub(super) fn json_list<T>(reply: Reply<Vec<T>>) -> Result<Vec<T>, EngineError> {
    match reply {
        Reply::Json(list) => Ok(list),
        Reply::Missing => Ok(Vec::new()),
        Reply::NoRoute => Err(no_route("a list")),
    }
}

pub(super) fn json_one<T>(reply: Reply<T>, what: &str) -> Result<T, EngineError> {
    match reply {
        Reply::Json(value) => Ok(value),
        Reply::Missing | Reply::NoRoute => Err(no_route(what)),
    }
}

fn no_route(what: &str) -> EngineError {
    EngineError::Unreachable(format!("{what} is not answered by this server"))
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
