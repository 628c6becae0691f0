//! The registry actor: the read model. Answers status, history, list, files and waits; never asks a task.
//!
//! In: committed events; queries with a reply. Out: answers; for engines, which of their attempts are still owned.
//! Live tasks are answered from memory, ended ones from the journal by a job, so cost does not grow with history.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::board::{ActorKind, Slot};
use crate::command::{
    FilesQuery, HistoryQuery, Identity, ListQuery, ReadFileQuery, StatusQuery, TextQuery, WaitFor,
};
use crate::error::TreeError;
use crate::event::{CommittedEvent, Phase};
use crate::handle::Inbox;
use crate::id::{AttemptId, EngineName, EventNumber, JobId, TaskId};
use crate::jobs::Jobs;
use crate::machine::TaskState;
use crate::ports::{FileContent, FileList, OwnedAttempt, TextChunk};
use crate::reads;
use crate::view::{HealthReport, HistoryPage, ListPage, TaskStatus};
use crate::wiring::Wires;

/// Events kept in memory for each task that is answered from memory.
const RING: usize = 256;
/// Ended tasks kept in memory, for those who ask right after the end.
const ENDED_KEPT: usize = 256;
/// A read that needs the disk may take this long.
pub(crate) const READ_DEADLINE: Duration = Duration::from_secs(20);

pub(crate) type Answer<T> = oneshot::Sender<Result<T, TreeError>>;
/// Told which owned attempts are still live and which are stale.
pub(crate) type ReconcileReply = Box<dyn FnOnce(Vec<AttemptId>, Vec<OwnedAttempt>) + Send>;

pub(crate) enum RegistryMsg {
    Committed(Arc<[CommittedEvent]>),
    Status {
        who: Identity,
        query: StatusQuery,
        reply: Answer<TaskStatus>,
    },
    History {
        who: Identity,
        query: HistoryQuery,
        reply: Answer<HistoryPage>,
    },
    List {
        who: Identity,
        query: ListQuery,
        reply: Answer<ListPage>,
    },
    Files {
        who: Identity,
        query: FilesQuery,
        reply: Answer<FileList>,
    },
    ReadFile {
        who: Identity,
        query: ReadFileQuery,
        reply: Answer<FileContent>,
    },
    Text {
        who: Identity,
        query: TextQuery,
        reply: Answer<TextChunk>,
    },
    Health {
        reply: Answer<HealthReport>,
    },
    /// Which of what an engine holds belongs to live attempts?
    Reconcile {
        engine: EngineName,
        owned: Vec<OwnedAttempt>,
        reply: ReconcileReply,
    },
    /// The task is about to be deleted from the journal.
    Forget(TaskId),
    /// A wait is over.
    WaitOver(u64),
    JobEnded(JobId),
}

/// A task answered from memory.
struct Entry {
    state: TaskState,
    recent: VecDeque<CommittedEvent>,
}

impl Entry {
    /// Whether every event after `after` is in memory.
    fn covers(&self, after: EventNumber) -> bool {
        self.recent.len() as u64 == self.state.events_total
            || self
                .recent
                .front()
                .is_some_and(|first| first.number <= after.next())
    }
}

struct Waiter {
    id: u64,
    task: TaskId,
    who: Identity,
    query: StatusQuery,
    from: Phase,
    reply: Answer<TaskStatus>,
}

pub(crate) struct Registry;

pub(crate) struct RegistryArgs {
    pub(crate) wires: Wires,
    pub(crate) parent: u64,
    pub(crate) restarts: (u32, Option<String>),
    pub(crate) tasks: Vec<(TaskState, Vec<CommittedEvent>)>,
}

pub(crate) struct RegistryState {
    wires: Wires,
    slot: Slot,
    inbox: Inbox,
    jobs: Jobs<RegistryMsg>,
    entries: HashMap<TaskId, Entry>,
    ended: VecDeque<TaskId>,
    waiters: Vec<Waiter>,
    next_waiter: u64,
}

impl Actor for Registry {
    type Msg = RegistryMsg;
    type State = RegistryState;
    type Arguments = RegistryArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RegistryMsg>,
        args: RegistryArgs,
    ) -> Result<RegistryState, ActorProcessingErr> {
        let handle = args.wires.registry.clone();
        handle.fill(myself);
        let slot = args.wires.slot(
            Some(args.parent),
            ActorKind::Registry,
            "registry",
            args.restarts,
            &handle,
        );
        let mut state = RegistryState {
            inbox: handle.inbox(),
            jobs: Jobs::new(handle),
            slot,
            entries: HashMap::new(),
            ended: VecDeque::new(),
            waiters: Vec::new(),
            next_waiter: 0,
            wires: args.wires,
        };
        for (task, events) in args.tasks {
            let keep = events.len().saturating_sub(RING);
            let entry = Entry {
                recent: events.into_iter().skip(keep).collect(),
                state: task,
            };
            state.insert(entry);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<RegistryMsg>,
        message: RegistryMsg,
        state: &mut RegistryState,
    ) -> Result<(), ActorProcessingErr> {
        state.inbox.took();
        match message {
            RegistryMsg::Committed(events) => state.committed(&events),
            RegistryMsg::Status { who, query, reply } => state.status(who, query, reply),
            RegistryMsg::History { who, query, reply } => {
                let known = state.known(query.task);
                let read = reads::history(Arc::clone(&state.wires), known, who, query);
                state.read("history", read, reply);
            }
            RegistryMsg::List { who, query, reply } => {
                let read = reads::list(Arc::clone(&state.wires), who, query);
                state.read("list", read, reply);
            }
            RegistryMsg::Files { who, query, reply } => {
                let known = state.known(query.task);
                let read = reads::files(Arc::clone(&state.wires), known, who, query);
                state.read("files", read, reply);
            }
            RegistryMsg::ReadFile { who, query, reply } => {
                let known = state.known(query.task);
                let read = reads::read_file(Arc::clone(&state.wires), known, who, query);
                state.read("read file", read, reply);
            }
            RegistryMsg::Text { who, query, reply } => {
                let known = state.known(query.task);
                let read = reads::text(Arc::clone(&state.wires), known, who, query);
                state.read("text", read, reply);
            }
            RegistryMsg::Health { reply } => {
                let read = reads::health(Arc::clone(&state.wires), state.slot.last_event());
                state.read("health", read, reply);
            }
            RegistryMsg::Reconcile {
                engine,
                owned,
                reply,
            } => {
                let (live, stale) = state.reconcile(&engine, owned);
                reply(live, stale);
            }
            RegistryMsg::Forget(task) => {
                state.entries.remove(&task);
                state.ended.retain(|ended| *ended != task);
            }
            RegistryMsg::WaitOver(id) => state.wait_over(id),
            RegistryMsg::JobEnded(id) => state.slot.job_ended(id.0),
        }
        Ok(())
    }
}

impl RegistryState {
    /// Runs a read as a job that answers by itself; a missed deadline or panic drops the reply, which says so.
    fn read<T: Send + 'static>(
        &mut self,
        name: &str,
        read: impl Future<Output = Result<T, TreeError>> + Send + 'static,
        reply: Answer<T>,
    ) {
        let id = self.jobs.start(
            READ_DEADLINE,
            async move {
                let _ = reply.send(read.await);
            },
            |id, _| RegistryMsg::JobEnded(id),
        );
        self.slot.job_started(id.0, name);
    }

    fn known(&self, task: TaskId) -> Option<crate::view::TaskView> {
        self.entries.get(&task).map(|entry| entry.state.view())
    }

    fn insert(&mut self, entry: Entry) {
        let task = entry.state.id;
        if entry.state.phase.is_final() {
            self.keep_ended(task);
        }
        self.entries.insert(task, entry);
    }

    fn keep_ended(&mut self, task: TaskId) {
        self.ended.push_back(task);
        if self.ended.len() > ENDED_KEPT
            && let Some(oldest) = self.ended.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    fn committed(&mut self, events: &[CommittedEvent]) {
        let mut changed: HashSet<TaskId> = HashSet::new();
        for committed in events {
            self.slot.set_last_event(committed.number);
            let Some(task) = committed.task else { continue };
            self.fold(task, committed);
            changed.insert(task);
        }
        for task in changed {
            self.wake(task);
        }
    }

    fn fold(&mut self, task: TaskId, committed: &CommittedEvent) {
        match self.entries.get_mut(&task) {
            Some(entry) => {
                let was_final = entry.state.phase.is_final();
                entry.state.fold_committed(committed);
                entry.recent.push_back(committed.clone());
                if entry.recent.len() > RING {
                    entry.recent.pop_front();
                }
                if !was_final && entry.state.phase.is_final() {
                    self.keep_ended(task);
                }
            }
            None => {
                let replayed = TaskState::replay(task, std::slice::from_ref(committed));
                if let Some(state) = replayed {
                    self.insert(Entry {
                        state,
                        recent: VecDeque::from([committed.clone()]),
                    });
                }
            }
        }
    }

    fn status(&mut self, who: Identity, query: StatusQuery, reply: Answer<TaskStatus>) {
        let Some(entry) = self.entries.get(&query.task) else {
            let read = reads::status(Arc::clone(&self.wires), who, query);
            self.read("status", read, reply);
            return;
        };
        if !who.may_see(&entry.state.caller) {
            let _ = reply.send(Err(TreeError::TaskNotFound(query.task)));
            return;
        }
        let from = entry.state.phase;
        if query.wait_ms == 0 || is_due(entry, query.wait_for, from) {
            self.answer_status(who, query, reply);
            return;
        }
        self.next_waiter += 1;
        let id = self.next_waiter;
        self.jobs.after(
            Duration::from_millis(query.wait_ms),
            RegistryMsg::WaitOver(id),
        );
        self.waiters.push(Waiter {
            id,
            task: query.task,
            who,
            query,
            from,
            reply,
        });
    }

    fn answer_status(&mut self, who: Identity, query: StatusQuery, reply: Answer<TaskStatus>) {
        let Some(entry) = self.entries.get(&query.task) else {
            let read = reads::status(Arc::clone(&self.wires), who, query);
            self.read("status", read, reply);
            return;
        };
        let in_memory = query.since.is_none_or(|since| entry.covers(since));
        if !in_memory {
            let known = entry.state.view();
            let read = reads::status_with_old_events(Arc::clone(&self.wires), known, query);
            self.read("status", read, reply);
            return;
        }
        let (events, more_events) = pick(&entry.recent, query.since, query.events_limit);
        let status = reads::with_queue(&self.wires, entry.state.view(), events, more_events);
        let _ = reply.send(Ok(status));
    }

    fn wake(&mut self, task: TaskId) {
        let Some(entry) = self.entries.get(&task) else {
            return;
        };
        let (due, rest): (Vec<Waiter>, Vec<Waiter>) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| {
                waiter.task == task && is_due(entry, waiter.query.wait_for, waiter.from)
            });
        self.waiters = rest;
        for waiter in due {
            self.answer_status(waiter.who, waiter.query, waiter.reply);
        }
    }

    fn wait_over(&mut self, id: u64) {
        if let Some(at) = self.waiters.iter().position(|waiter| waiter.id == id) {
            let waiter = self.waiters.swap_remove(at);
            self.answer_status(waiter.who, waiter.query, waiter.reply);
        }
    }

    /// An attempt is live when its task is, and it is the task's current one on that engine. A second session of a live
    /// attempt is neither adopted nor stale: it is removed with the attempt, for an attempt is removed as a whole.
    fn reconcile(
        &self,
        engine: &EngineName,
        owned: Vec<OwnedAttempt>,
    ) -> (Vec<AttemptId>, Vec<OwnedAttempt>) {
        let mut live = Vec::new();
        let mut stale = Vec::new();
        for attempt in owned {
            let is_live = self
                .entries
                .get(&attempt.attempt.task)
                .is_some_and(|entry| {
                    !entry.state.phase.is_final()
                        && entry.state.spec.engine == *engine
                        && entry.state.attempt == attempt.attempt.number
                });
            if !is_live {
                stale.push(attempt);
            } else if !live.contains(&attempt.attempt) {
                live.push(attempt.attempt);
            }
        }
        (live, stale)
    }
}

fn is_due(entry: &Entry, wait_for: WaitFor, from: Phase) -> bool {
    let phase = entry.state.phase;
    phase.is_final()
        || match wait_for {
            WaitFor::Nothing => true,
            WaitFor::EventAfter(number) => entry.state.last_event > number,
            WaitFor::PhaseChange => phase != from,
            WaitFor::Final => false,
        }
}

/// Events after `since` (the first `limit`), or the newest `limit`.
fn pick(
    recent: &VecDeque<CommittedEvent>,
    since: Option<EventNumber>,
    limit: usize,
) -> (Vec<CommittedEvent>, bool) {
    match since {
        Some(since) => {
            let mut after = recent.iter().filter(|event| event.number > since);
            let events: Vec<_> = after.by_ref().take(limit).cloned().collect();
            (events, after.next().is_some())
        }
        None => {
            let skip = recent.len().saturating_sub(limit);
            (recent.iter().skip(skip).cloned().collect(), false)
        }
    }
}
