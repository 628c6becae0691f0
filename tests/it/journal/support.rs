//! Tasks and batches to put into a journal.

use std::path::PathBuf;

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand_actors::command::{Caller, Notify, TaskSpec};
use chargehand_actors::event::{CommittedEvent, Event, Phase, Usage};
use chargehand_actors::id::{BatchId, EngineName, EventNumber, TaskId, WallTime};
use chargehand_actors::ports::{Batch, JournalError, JournalStore};
use chargehand_actors::view::TaskView;
use sqlx::{ConnectOptions, SqliteConnection};
use tempfile::TempDir;
use uuid::Uuid;

/// A journal in a directory of its own, and the numbers it gives.
pub(crate) struct Desk {
    pub(crate) journal: SqliteJournal,
    pub(crate) last: u64,
    folder: TempDir,
}

pub(crate) fn task_id(n: u128) -> TaskId {
    TaskId::new(Uuid::from_u128(n))
}

pub(crate) fn caller(token: &str, agent: &str) -> Caller {
    Caller {
        token: token.to_owned(),
        agent_id: agent.to_owned(),
    }
}

pub(crate) fn spec(labels: &[&str]) -> TaskSpec {
    TaskSpec {
        description: "count the stars".to_owned(),
        engine: EngineName::new("local"),
        model: None,
        agent: None,
        source: Default::default(),
        timeout_ms: 300_000,
        priority: Default::default(),
        labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        observers: Vec::new(),
        attended: false,
        permissions: Vec::new(),
        max_steps: None,
        notify: Notify::default(),
        conversation: None,
    }
}

pub(crate) fn view(id: TaskId, phase: Phase, created_at: i64) -> TaskView {
    TaskView {
        id,
        phase,
        phase_since: WallTime(created_at),
        spec: spec(&[]),
        caller: caller("planner", "agent-1"),
        idempotency_key: None,
        created_at: WallTime(created_at),
        started_at: None,
        ended_at: None,
        attempt: 0,
        running_ms: 0,
        running_since: None,
        doing: "waits for a slot".to_owned(),
        steps: 0,
        usage: Usage::default(),
        todos: Vec::new(),
        files_touched: Vec::new(),
        requests: Vec::new(),
        pause: None,
        directory: None,
        session: None,
        messages_waiting: 0,
        result: None,
        failure: None,
        files_cleared: None,
        last_event: EventNumber::ZERO,
        events_total: 0,
    }
}

pub(crate) fn accepted(view: &TaskView, key: Option<&str>) -> Event {
    Event::TaskAccepted {
        spec: Box::new(view.spec.clone()),
        caller: view.caller.clone(),
        idempotency_key: key.map(str::to_owned),
        fingerprint: "f1".to_owned(),
        from: Default::default(),
    }
}

pub(crate) fn remark(message: &str) -> Event {
    Event::Remark {
        message: message.to_owned(),
    }
}

impl Desk {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = SqliteJournal::open(settings(&folder)).await.unwrap();
        Self {
            journal,
            last: 0,
            folder,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        settings(&self.folder).path
    }

    /// A batch with the next numbers; the row's `last_event` and total follow.
    pub(crate) fn batch(&mut self, events: Vec<Event>, row: Option<&mut TaskView>) -> Batch {
        let task = row.as_ref().map(|row| row.id);
        let events: Vec<_> = events
            .into_iter()
            .map(|event| {
                self.last += 1;
                CommittedEvent {
                    number: EventNumber(self.last),
                    at: WallTime(1_000 + self.last.cast_signed()),
                    task,
                    event,
                }
            })
            .collect();
        let row = row.map(|row| {
            row.last_event = EventNumber(self.last);
            row.events_total += events.len() as u64;
            row.clone()
        });
        Batch {
            id: BatchId(Uuid::new_v4()),
            events,
            row,
        }
    }

    pub(crate) async fn append(&mut self, events: Vec<Event>, row: Option<&mut TaskView>) -> Batch {
        let batch = self.batch(events, row);
        self.journal.append(vec![batch.clone()]).await.unwrap();
        batch
    }

    /// Accepts a task.
    pub(crate) async fn accept(&mut self, view: &mut TaskView) -> Batch {
        let event = accepted(view, None);
        self.append(vec![event], Some(view)).await
    }

    /// Closes the journal, lets `with` change its file by plain SQL, and opens it again.
    pub(crate) async fn reopen_after(&mut self, sql: &[&'static str]) -> Result<(), JournalError> {
        self.journal.close().await;
        let mut raw = self.raw().await;
        for statement in sql {
            sqlx::query(*statement).execute(&mut raw).await.unwrap();
        }
        drop(raw);
        self.journal = SqliteJournal::open(settings(&self.folder)).await?;
        Ok(())
    }

    pub(crate) async fn raw(&self) -> SqliteConnection {
        sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.path())
            .foreign_keys(false)
            .connect()
            .await
            .unwrap()
    }
}

/// Small reserve: tests are many.
pub(crate) fn settings(folder: &TempDir) -> JournalSettings {
    JournalSettings {
        path: folder.path().join("journal.db"),
        reserve_bytes: 64 * 1024,
    }
}
