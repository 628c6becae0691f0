//! Watches a world step by step and says what breaks an invariant, at the step that breaks it.
//!
//! In: every port call as the tree asks for it, every batch that becomes durable, every answer that a client gets.
//! Out: sentences about what was wrong. It keeps its own fold of the journal and knows nothing of the actors.

mod calls;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chargehand_actors::board::BoardSnapshot;
use chargehand_actors::command::{ControlSignal, Identity};
use chargehand_actors::event::{CommittedEvent, Event, FailureKind, Phase};
use chargehand_actors::fakes::{FakeClock, PortCall, World};
use chargehand_actors::id::{EngineName, EventNumber, RequestId, TaskId};
use chargehand_actors::machine::TaskState;
use chargehand_actors::ports::{Batch, Clock};
use chargehand_actors::tree::TreeSettings;
use chargehand_actors::view::{ControlOutcome, HistoryPage, TaskView};

/// No actor of a tree with a few dozen tasks has a reason to let more messages wait.
const MOST_WAITING: u64 = 2_000;
/// Actors besides those of tasks; a task has one of its own and one of each projection.
pub(crate) const ACTORS: usize = 16;

/// What is known of one task.
struct Known {
    state: TaskState,
    /// Each phase with the number of the event that began it.
    phases: Vec<(EventNumber, Phase)>,
    /// Its record was given up on: the row alone says how it ended.
    quarantined: bool,
}

struct Seen {
    settings: TreeSettings,
    clock: Arc<FakeClock>,
    tasks: BTreeMap<TaskId, Known>,
    durable: Vec<CommittedEvent>,
    sessions: HashMap<(EngineName, String), TaskId>,
    /// Answers that were ever wanted.
    answers: HashSet<(RequestId, String)>,
    /// Engines reconciled since the tree (or its core) began.
    reconciled: BTreeSet<EngineName>,
    /// The newest event of each task that a client was told of.
    told: HashMap<TaskId, EventNumber>,
    /// Tasks whose attempts hold a slot.
    holds: BTreeSet<TaskId>,
    /// Tasks that were deleted when their time was over.
    forgotten: BTreeSet<TaskId>,
    wrong: Vec<String>,
    steps: u64,
}

/// The observer. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Observer {
    seen: Arc<Mutex<Seen>>,
}

impl Observer {
    /// Watches this world from now on.
    pub(crate) fn of(world: &World) -> Self {
        let seen = Seen::new(world.settings.clone(), Arc::clone(&world.clock));
        let observer = Self {
            seen: Arc::new(Mutex::new(seen)),
        };
        let (watcher, trace) = (observer.clone(), world.trouble.trace.clone());
        world.trouble.watch.set(Arc::new(move |call| {
            let mut seen = watcher.seen.lock().unwrap();
            let known = seen.wrong.len();
            seen.steps += 1;
            seen.call(call);
            for wrong in &seen.wrong[known..] {
                trace.note(format!("**** {wrong}"));
            }
        }));
        observer
    }

    /// Everything that was wrong so far.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.seen.lock().unwrap().wrong.clone()
    }

    /// Whether attempts of ended tasks are not yet said to be removed.
    pub(crate) fn awaits_removal(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        let mut states = seen.tasks.values().map(|known| &known.state);
        states.any(|state| state.phase.is_final() && state.attempt > 0 && !state.removed)
    }

    /// Tasks that were deleted when their time was over.
    pub(crate) fn forgotten(&self) -> BTreeSet<TaskId> {
        self.seen.lock().unwrap().forgotten.clone()
    }

    /// How many steps were checked.
    pub(crate) fn steps(&self) -> u64 {
        self.seen.lock().unwrap().steps
    }

    /// What a client that asks from now on must be told at least.
    pub(crate) fn floor(&self, task: TaskId) -> EventNumber {
        let seen = self.seen.lock().unwrap();
        seen.told.get(&task).copied().unwrap_or_default()
    }

    fn say(&self, check: impl FnOnce(&mut Seen)) {
        let mut seen = self.seen.lock().unwrap();
        seen.steps += 1;
        check(&mut seen);
    }

    /// A client was told that its task is accepted.
    pub(crate) fn accepted(&self, task: TaskId) {
        self.say(|seen| {
            if !seen.tasks.contains_key(&task) {
                seen.is_wrong(format!("(1) {task} was told accepted before it is durable"));
            }
        });
    }

    /// A client was told that a task is not there.
    pub(crate) fn not_found(&self, who: &Identity, task: TaskId) {
        self.say(|seen| {
            let known = seen.tasks.get(&task);
            let known = known.filter(|_| !seen.forgotten.contains(&task));
            if known.is_some_and(|known| who.may_see(&known.state.caller)) {
                seen.is_wrong(format!("(1) {task} is durable and {who:?} did not find it"));
            }
        });
    }

    /// A client saw the task in a list.
    pub(crate) fn listed(&self, view: &TaskView) {
        self.say(|seen| seen.view("listed", view));
    }

    /// A client was shown a task; when it asked, `floor` had been told. Of an ended task the row is shown, which leaves out
    /// what is written down after the end.
    pub(crate) fn shown(&self, view: &TaskView, floor: EventNumber) {
        self.say(|seen| {
            seen.view("shown", view);
            if view.last_event < floor && !view.phase.is_final() {
                seen.is_wrong(format!(
                    "(3) {} was shown as of event {} after event {floor} had been told",
                    view.id, view.last_event
                ));
            }
            seen.tell(view.id, view.last_event);
        });
    }

    /// A client was told what its control signal did.
    pub(crate) fn controlled(&self, task: TaskId, signal: ControlSignal, outcome: &ControlOutcome) {
        self.say(|seen| {
            let phases = seen.phases(task);
            let Some((number, _)) = phases.iter().rev().find(|(_, p)| *p == outcome.phase) else {
                let phase = outcome.phase;
                seen.is_wrong(format!(
                    "(1) {signal:?} of {task} was told {phase:?}, which is not durable: {phases:?}"
                ));
                return;
            };
            if outcome.phase.is_final() || signal != ControlSignal::Resume {
                seen.tell(task, *number);
            }
        });
    }

    /// A client read a page of a task's events.
    pub(crate) fn read(&self, task: TaskId, page: &HistoryPage) {
        self.say(|seen| {
            seen.view("read", &page.view);
            let durable = seen.durable.iter().filter(|e| e.task == Some(task));
            let skip = usize::try_from(page.offset).unwrap();
            let same = durable.skip(skip).zip(&page.events).all(|(a, b)| a == b);
            if !same {
                seen.is_wrong(format!("(3) the history read of {task} is not its record"));
            }
        });
    }

    /// The board as it stands: everything is bounded.
    pub(crate) fn board(&self, board: &BoardSnapshot) {
        self.say(|seen| {
            let most = ACTORS + 4 * seen.tasks.len();
            if board.actors.len() > most {
                let n = board.actors.len();
                seen.is_wrong(format!(
                    "(10) {n} actors are live, at most {most} have work"
                ));
            }
            for actor in &board.actors {
                if actor.waiting > MOST_WAITING {
                    seen.is_wrong(format!("(10) messages pile up: {actor:?}"));
                }
            }
        });
    }
}

impl Seen {
    fn new(settings: TreeSettings, clock: Arc<FakeClock>) -> Self {
        Self {
            settings,
            clock,
            tasks: BTreeMap::new(),
            durable: Vec::new(),
            sessions: HashMap::new(),
            answers: HashSet::new(),
            reconciled: BTreeSet::new(),
            told: HashMap::new(),
            holds: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            wrong: Vec::new(),
            steps: 0,
        }
    }

    fn is_wrong(&mut self, what: String) {
        // The first few say it all.
        if self.wrong.len() < 20 {
            self.wrong.push(what);
        }
    }

    fn tell(&mut self, task: TaskId, number: EventNumber) {
        let told = self.told.entry(task).or_default();
        *told = number.max(*told);
    }

    fn phases(&self, task: TaskId) -> Vec<(EventNumber, Phase)> {
        self.tasks
            .get(&task)
            .map_or_else(Vec::new, |known| known.phases.clone())
    }

    fn call(&mut self, call: &PortCall<'_>) {
        match *call {
            PortCall::Load => self.reconciled.clear(),
            PortCall::Appended(batches) => self.appended(batches),
            PortCall::Forget(task) => self.forget(task),
            PortCall::Prepare(attempt) => {
                self.attempt("prepare", attempt, &[Phase::Starting]);
            }
            PortCall::Collect(attempt) => {
                self.attempt("collect", attempt, &[Phase::Finishing]);
            }
            PortCall::RemoveWorkdir(task) => self.remove_workdir(task),
            PortCall::Open(engine, open) => self.open(engine, open),
            PortCall::Prompt(engine, session, prompt) => self.prompt(engine, session, prompt),
            PortCall::Read(engine, session) => {
                self.session("read", engine, session);
            }
            PortCall::Abort(engine, session) => self.abort(engine, session),
            PortCall::Freeze(engine, session) => {
                self.session("freeze", engine, session);
            }
            PortCall::Answer(engine, session, request, answer) => {
                let task = self.session("answer", engine, session);
                let wanted = (request.clone(), format!("{answer:?}"));
                if task.is_some() && !self.answers.contains(&wanted) {
                    let text = format!("(1) {answer:?} to {request} is given and not durable");
                    self.is_wrong(text);
                }
            }
            PortCall::Remove(engine, attempt) => self.remove(engine, attempt),
            PortCall::Memory(view) => self.view("memory", view),
            PortCall::Room(_, post) => self.posted(post),
            PortCall::Notice(view) => {
                self.view("notice", view);
                if !view.phase.is_final() {
                    self.is_wrong(format!("(1) a notice of {} in {:?}", view.id, view.phase));
                }
            }
        }
    }

    // ---- what becomes durable ----

    fn appended(&mut self, batches: &[Batch]) {
        for batch in batches {
            for event in &batch.events {
                self.event(event);
            }
            let Some(row) = &batch.row else { continue };
            let Some(known) = self.tasks.get_mut(&row.id) else {
                continue;
            };
            let given_up = row
                .failure
                .as_ref()
                .is_some_and(|f| f.kind == FailureKind::Internal);
            known.quarantined |= given_up && row.doing == "was given up on";
            self.view("row", row);
        }
    }

    fn event(&mut self, committed: &CommittedEvent) {
        self.durable.push(committed.clone());
        if committed.number.0 != self.durable.len() as u64 {
            self.is_wrong(format!("(1) event {} is out of order", committed.number));
        }
        let Some(task) = committed.task else {
            if let Event::EngineReconciled { engine, .. } = &committed.event {
                self.reconciled.insert(engine.clone());
            }
            return;
        };
        let Some(known) = self.tasks.get_mut(&task) else {
            match TaskState::accepted(task, committed.at, &committed.event) {
                Some(mut state) => {
                    state.last_event = committed.number;
                    let phases = vec![(committed.number, state.phase)];
                    let known = Known {
                        state,
                        phases,
                        quarantined: false,
                    };
                    self.tasks.insert(task, known);
                }
                None => self.is_wrong(format!("(3) {task} begins with {:?}", committed.event)),
            }
            return;
        };
        let before = known.state.phase;
        known.state.fold_committed(committed);
        let state = &known.state;
        if state.phase != before {
            known.phases.push((committed.number, state.phase));
        }
        let (engine, phase) = (state.spec.engine.clone(), state.phase);
        if let Some(session) = &state.session {
            let key = (engine.clone(), session.id.clone());
            self.sessions.insert(key, task);
        }
        if before.is_final() && !committed.event.is_after_end() {
            self.is_wrong(format!(
                "(2) {task}: after {before:?} comes {:?}",
                committed.event
            ));
        }
        match &committed.event {
            Event::AttemptStarted { .. } => {
                self.holds.insert(task);
                self.slots(task);
            }
            Event::AttemptRemoved { .. } | Event::AttemptRemovalDelayed { .. } => {
                self.holds.remove(&task);
            }
            _ => {}
        }
        let expiry_ms = u64::try_from(self.settings.request_expiry.as_millis()).unwrap();
        match &committed.event {
            Event::AnswerWanted {
                request, answer, ..
            } => {
                self.answers
                    .insert((request.clone(), format!("{answer:?}")));
            }
            Event::TaskAccepted { .. } => self.is_wrong(format!("(2) {task} is accepted twice")),
            Event::AttemptStarted { .. } if !self.reconciled.contains(&engine) => {
                self.is_wrong(format!(
                    "(5) {task} is dispatched to {engine} before that is reconciled"
                ));
            }
            Event::RequestOpened { expires_at, .. }
                if expires_at.ms_since(committed.at) > expiry_ms =>
            {
                self.is_wrong(format!(
                    "(8) {task}: a request is open until {expires_at:?}"
                ));
            }
            Event::AttemptRemoved { .. } if !phase.is_final() => {
                self.is_wrong(format!(
                    "(5) {task}: its attempt is removed while it is {phase:?}"
                ));
            }
            _ => {}
        }
    }

    /// No more slots are held than are allowed, in all and by each caller.
    fn slots(&mut self, task: TaskId) {
        let settings = &self.settings;
        let caller = &self.tasks[&task].state.caller;
        let of_caller = |held: &&TaskId| self.tasks[*held].state.caller == *caller;
        let (held, own) = (
            self.holds.len(),
            self.holds.iter().filter(of_caller).count(),
        );
        let limits = settings.caller_limits.get(&caller.token);
        let most_own = limits
            .and_then(|limits| limits.running)
            .unwrap_or(settings.max_running_per_caller);
        let most = settings.max_running;
        if held > most as usize || own > most_own as usize {
            let text = format!(
                "(6) {task} starts: {held} of {most} slots, {own} of {most_own} of its caller"
            );
            self.is_wrong(text);
        }
    }

    /// Whether a task ended at least so long ago, and nothing of it is in an engine any more.
    fn is_over(&self, task: TaskId, since: Duration) -> bool {
        self.tasks.get(&task).is_some_and(|known| {
            let state = &known.state;
            let ended = state.ended_at.map(|at| self.clock.now().ms_since(at));
            let long_ago = ended.is_some_and(|ms| u128::from(ms) >= since.as_millis());
            long_ago && (state.attempt == 0 || state.removed)
        })
    }

    fn forget(&mut self, task: TaskId) {
        if !self.is_over(task, self.settings.keep_tasks) {
            self.is_wrong(format!("(1) {task} is forgotten too early"));
        }
        self.forgotten.insert(task);
    }

    // ---- what is asked of the outside ----
}
