//! An event store in memory that keeps the contract of [`JournalStore`] strictly and outlives the trees that use it.
//!
//! In: batches. Out: what was appended. Numbers must be exact, a repeated batch changes nothing, a batch is all or
//! nothing; an append that is dropped half-way was either written or not, as its fate says.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::PortCall;
use super::trouble::{Trouble, lock};
use crate::event::{CommittedEvent, Event};
use crate::id::{BatchId, EventNumber, TaskId, WallTime};
use crate::ports::{
    Batch, EVENTS_AT_ONCE, EndedFilter, EndedTask, JournalError, JournalStore, KeyRow, ListFilter,
    Loaded, LoadedTask, PortFuture,
};
use crate::view::TaskView;

#[derive(Default)]
struct Store {
    events: Vec<CommittedEvent>,
    rows: BTreeMap<TaskId, TaskView>,
    batches: HashSet<BatchId>,
    cursors: HashMap<String, EventNumber>,
    poisoned: HashMap<TaskId, String>,
    /// The highest number ever given to an event.
    high: EventNumber,
}

/// The store. Cheap to clone; clones share the content.
#[derive(Clone)]
pub struct MemoryJournal {
    store: Arc<Mutex<Store>>,
    trouble: Trouble,
}

impl std::fmt::Debug for MemoryJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryJournal")
            .field("events", &lock(&self.store).events.len())
            .finish()
    }
}

impl Store {
    fn of(&self, task: TaskId) -> impl DoubleEndedIterator<Item = &CommittedEvent> {
        self.events.iter().filter(move |e| e.task == Some(task))
    }

    /// Gives the batches that are new.
    fn append(&mut self, batches: Vec<Batch>) -> Result<Vec<Batch>, JournalError> {
        let mut next = self.high.next();
        let fresh: Vec<Batch> = batches
            .into_iter()
            .filter(|batch| !self.batches.contains(&batch.id))
            .collect();
        for event in fresh.iter().flat_map(|batch| &batch.events) {
            if event.number != next {
                return Err(JournalError::Unusable(format!(
                    "event {} comes where {next} is due",
                    event.number
                )));
            }
            next = next.next();
        }
        for batch in &fresh {
            self.batches.insert(batch.id);
            if let Some(last) = batch.events.last() {
                self.high = last.number;
            }
            if let Some(row) = &batch.row {
                self.rows.insert(row.id, row.clone());
            }
            for event in &batch.events {
                self.keep(event.clone());
            }
        }
        Ok(fresh)
    }

    /// Nothing is kept of a task that was forgotten.
    fn keep(&mut self, event: CommittedEvent) {
        if let Some(task) = event.task {
            let Some(row) = self.rows.get_mut(&task) else {
                return;
            };
            if event.event == Event::FilesCleared {
                row.files_cleared = Some(event.at);
            }
        }
        self.events.push(event);
    }

    fn is_removed(&self, row: &TaskView) -> bool {
        let gone = |e: &CommittedEvent| matches!(e.event, Event::AttemptRemoved { attempt } if attempt >= row.attempt);
        row.attempt == 0 || self.of(row.id).any(gone)
    }

    fn ended(&self, filter: &EndedFilter) -> Vec<EndedTask> {
        let mut found: Vec<EndedTask> = self
            .rows
            .values()
            .filter(|row| row.phase.is_final())
            .filter(|row| !filter.with_files || (row.attempt > 0 && row.files_cleared.is_none()))
            .map(|row| EndedTask {
                ended_at: row.ended_at.unwrap_or(row.phase_since),
                attempt_removed: self.is_removed(row),
                view: row.clone(),
            })
            .filter(|task| task.ended_at < filter.before)
            .filter(|task| {
                let at = (task.ended_at, task.view.id);
                filter.after.is_none_or(|after| at > after)
            })
            .collect();
        found.sort_by_key(|task| (task.ended_at, task.view.id));
        found.truncate(filter.limit as usize);
        found
    }

    fn forget(&mut self, task: TaskId, cursors: &[String]) -> Result<(), JournalError> {
        if let Some(row) = self.rows.get(&task)
            && !row.phase.is_final()
        {
            return Err(JournalError::Write(format!("task {task} has not ended")));
        }
        self.rows.remove(&task);
        self.events.retain(|event| event.task != Some(task));
        self.cursors.retain(|name, _| !cursors.contains(name));
        Ok(())
    }

    fn load(&self, keys_since: WallTime) -> Loaded {
        let mut loaded = Loaded {
            last_event: self.high,
            ..Loaded::default()
        };
        for event in &self.events {
            if let (Some(task), Event::TaskAccepted { .. }) = (event.task, &event.event) {
                self.load_task(task, event, keys_since, &mut loaded);
            }
        }
        loaded
    }

    fn load_task(
        &self,
        task: TaskId,
        accepted: &CommittedEvent,
        keys_since: WallTime,
        loaded: &mut Loaded,
    ) {
        if let Event::TaskAccepted {
            caller,
            idempotency_key: Some(key),
            fingerprint,
            ..
        } = &accepted.event
            && accepted.at >= keys_since
        {
            loaded.keys.push(KeyRow {
                token: caller.token.clone(),
                agent_id: caller.agent_id.clone(),
                key: key.clone(),
                fingerprint: fingerprint.clone(),
                task,
                at: accepted.at,
            });
        }
        let owes = self.rows.get(&task).is_none_or(|row| {
            let removed = self
                .of(task)
                .any(|e| matches!(e.event, Event::AttemptRemoved { .. }));
            !row.phase.is_final() || (row.attempt > 0 && !removed)
        });
        if let Some(why) = self.poisoned.get(&task).filter(|_| owes) {
            loaded.unreadable.push((task, why.clone()));
        } else if owes {
            loaded.tasks.push(LoadedTask {
                id: task,
                events: self.of(task).cloned().collect(),
            });
        }
    }

    fn list(&self, filter: &ListFilter) -> Vec<TaskView> {
        let mut rows: Vec<&TaskView> = self
            .rows
            .values()
            .filter(|row| {
                filter
                    .identity
                    .as_ref()
                    .is_none_or(|who| who.may_see(&row.caller))
                    && (filter.phases.is_empty()
                        || filter
                            .phases
                            .iter()
                            .any(|phase| phase == row.phase.as_str()))
                    && filter
                        .agent_id
                        .as_ref()
                        .is_none_or(|agent| *agent == row.caller.agent_id)
                    && filter
                        .label
                        .as_ref()
                        .is_none_or(|label| row.spec.labels.contains(label))
                    && filter.created_after.is_none_or(|at| row.created_at >= at)
                    && filter.created_before.is_none_or(|at| row.created_at < at)
                    && filter
                        .before
                        .is_none_or(|(at, id)| (row.created_at, row.id) < (at, id))
            })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));
        rows.into_iter()
            .take(filter.limit as usize)
            .cloned()
            .collect()
    }
}

impl MemoryJournal {
    /// An empty store.
    pub fn new(trouble: Trouble) -> Self {
        Self {
            store: Arc::default(),
            trouble,
        }
    }

    /// Everything that is durable, in order.
    pub fn all(&self) -> Vec<CommittedEvent> {
        lock(&self.store).events.clone()
    }

    /// Everything that is durable about one task, in order.
    pub fn of(&self, task: TaskId) -> Vec<CommittedEvent> {
        lock(&self.store).of(task).cloned().collect()
    }

    /// Every task ever accepted, oldest first.
    pub fn tasks(&self) -> Vec<TaskId> {
        let store = lock(&self.store);
        let accepted = store
            .events
            .iter()
            .filter(|e| matches!(e.event, Event::TaskAccepted { .. }));
        accepted.filter_map(|e| e.task).collect()
    }

    /// Newest row of a task.
    pub fn row(&self, task: TaskId) -> Option<TaskView> {
        lock(&self.store).rows.get(&task).cloned()
    }

    /// Makes the events of a task unreadable; its row stays.
    pub fn poison(&self, task: TaskId, why: &str) {
        lock(&self.store).poisoned.insert(task, why.to_owned());
    }

    async fn read<T>(
        &self,
        what: &'static str,
        read: impl FnOnce(&Store) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        self.trouble
            .call(what, "", |_| read(&lock(&self.store)))
            .await
            .map_err(JournalError::Read)?
    }

    fn readable(store: &Store, task: TaskId) -> Result<(), JournalError> {
        match store.poisoned.get(&task) {
            Some(why) => Err(JournalError::Read(why.clone())),
            None => Ok(()),
        }
    }
}

/// As many events as one page holds.
fn page(limit: u64) -> usize {
    usize::try_from(limit.min(EVENTS_AT_ONCE)).unwrap_or(usize::MAX)
}

impl JournalStore for MemoryJournal {
    fn load(&self, keys_since: WallTime) -> PortFuture<'_, Result<Loaded, JournalError>> {
        self.trouble.watch.saw(PortCall::Load);
        Box::pin(self.read("journal.load", move |store| Ok(store.load(keys_since))))
    }

    fn append(&self, batches: Vec<Batch>) -> PortFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            let notes: Vec<String> = batches
                .iter()
                .flat_map(|batch| &batch.events)
                .map(|event| format!("{event:?}"))
                .collect();
            let write = |_: &mut super::Random| {
                let written = lock(&self.store).append(batches);
                for note in notes {
                    self.trouble.trace.note(note);
                }
                written.map(|fresh| self.trouble.watch.saw(PortCall::Appended(&fresh)))
            };
            self.trouble
                .call("journal.append", "", write)
                .await
                .map_err(JournalError::Write)?
        })
    }

    fn task(&self, task: TaskId) -> PortFuture<'_, Result<Option<TaskView>, JournalError>> {
        Box::pin(self.read("journal.task", move |store| {
            Ok(store.rows.get(&task).cloned())
        }))
    }

    fn record(
        &self,
        task: TaskId,
    ) -> PortFuture<'_, Result<Result<Vec<CommittedEvent>, String>, JournalError>> {
        Box::pin(self.read("journal.record", move |store| {
            Ok(match store.poisoned.get(&task) {
                Some(why) => Err(why.clone()),
                None => Ok(store.of(task).cloned().collect()),
            })
        }))
    }

    fn events(
        &self,
        task: TaskId,
        after: EventNumber,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<Vec<CommittedEvent>, JournalError>> {
        Box::pin(self.read("journal.events", move |store| {
            Self::readable(store, task)?;
            Ok(store
                .of(task)
                .filter(|event| event.number > after)
                .skip(usize::try_from(offset).unwrap_or(usize::MAX))
                .take(page(limit))
                .cloned()
                .collect())
        }))
    }

    fn newest_events(
        &self,
        task: TaskId,
        limit: u64,
    ) -> PortFuture<'_, Result<Vec<CommittedEvent>, JournalError>> {
        Box::pin(self.read("journal.newest_events", move |store| {
            Self::readable(store, task)?;
            let mut events: Vec<_> = store.of(task).rev().take(page(limit)).cloned().collect();
            events.reverse();
            Ok(events)
        }))
    }

    fn list(&self, filter: ListFilter) -> PortFuture<'_, Result<Vec<TaskView>, JournalError>> {
        Box::pin(self.read("journal.list", move |store| Ok(store.list(&filter))))
    }

    fn cursor(&self, name: String) -> PortFuture<'_, Result<EventNumber, JournalError>> {
        Box::pin(self.read("journal.cursor", move |store| {
            Ok(store.cursors.get(&name).copied().unwrap_or_default())
        }))
    }

    fn set_cursor(
        &self,
        name: String,
        at: EventNumber,
    ) -> PortFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            let write = |_: &mut super::Random| {
                lock(&self.store).cursors.insert(name, at);
            };
            self.trouble
                .call("journal.set_cursor", "", write)
                .await
                .map_err(JournalError::Write)
        })
    }

    fn ended(&self, filter: EndedFilter) -> PortFuture<'_, Result<Vec<EndedTask>, JournalError>> {
        Box::pin(self.read("journal.ended", move |store| Ok(store.ended(&filter))))
    }

    fn forget(
        &self,
        task: TaskId,
        cursors: Vec<String>,
    ) -> PortFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            self.trouble.watch.saw(PortCall::Forget(task));
            let forget = |_: &mut super::Random| lock(&self.store).forget(task, &cursors);
            self.trouble
                .call("journal.forget", &task.to_string(), forget)
                .await
                .map_err(JournalError::Write)?
        })
    }

    fn tidy(
        &self,
        events_before: WallTime,
        _keys_before: WallTime,
    ) -> PortFuture<'_, Result<(), JournalError>> {
        Box::pin(async move {
            let tidy = |_: &mut super::Random| {
                let keep = |e: &CommittedEvent| e.task.is_some() || e.at >= events_before;
                lock(&self.store).events.retain(keep);
            };
            self.trouble
                .call("journal.tidy", "", tidy)
                .await
                .map_err(JournalError::Write)
        })
    }

    fn check(&self) -> PortFuture<'_, Result<String, JournalError>> {
        Box::pin(self.read("journal.check", |store| {
            Ok(format!("{} events", store.events.len()))
        }))
    }
}
