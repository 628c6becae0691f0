//! The judge of a simulated history: compares the record and what clients were told with what really happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chargehand_actors::command::ControlSignal;
use chargehand_actors::event::{CommittedEvent, Event, FailureKind, Phase};
use chargehand_actors::fakes::World;
use chargehand_actors::fakes::engine::{RunCause, Script, ScriptStep, Tallies, Truth};
use chargehand_actors::id::TaskId;
use chargehand_actors::machine::TaskState;
use chargehand_actors::tree::TreeHandle;

use crate::clients::{Ledger, Told};
use crate::observer::ACTORS;
use crate::stage::sleep;

/// Everything that is wrong with the record.
pub(crate) fn of(world: &World, told: &Told, forgotten: &BTreeSet<TaskId>) -> Vec<String> {
    let mut wrong = told.bad.clone();
    let all = world.journal.all();
    if all.windows(2).any(|pair| pair[0].number >= pair[1].number) {
        wrong.push("event numbers are out of order".to_owned());
    }
    for (_, submitted) in &told.submits {
        let is_there = !world.journal.of(submitted.task).is_empty();
        if !is_there && !forgotten.contains(&submitted.task) {
            wrong.push(format!(
                "{} was told accepted and is not durable",
                submitted.task
            ));
        }
    }
    for task in world.journal.tasks() {
        let events = world.journal.of(task);
        wrong.extend(of_task(world, told, task, &events));
    }
    for engine in [&world.engine, &world.freezer] {
        wrong.extend(of_runs(&engine.tallies()));
        for truth in engine.truths() {
            wrong.push(format!("left in the engine: {truth:?}"));
        }
    }
    wrong
}

fn of_task(world: &World, told: &Told, task: TaskId, events: &[CommittedEvent]) -> Vec<String> {
    let mut wrong = Vec::new();
    let finals = events.iter().filter(|e| e.event.is_final()).count();
    if finals != 1 {
        wrong.push(format!("{task} has {finals} final events"));
    }
    let after = events.iter().skip_while(|e| !e.event.is_final()).skip(1);
    for late in after {
        let bookkeeping = matches!(
            late.event,
            Event::AttemptRemoved { .. }
                | Event::AttemptRemovalDelayed { .. }
                | Event::FilesCleared
                | Event::LateArrival { .. }
        );
        if !bookkeeping {
            wrong.push(format!("{task}: after its end {:?}", late.event));
        }
    }
    let Some(state) = TaskState::replay(task, events) else {
        wrong.push(format!("{task}: its record does not fold"));
        return wrong;
    };
    let row = world.journal.row(task);
    if row
        .as_ref()
        .map(|row| (row.phase, &row.result, &row.failure))
        != Some((state.phase, &state.result, &state.failure))
    {
        wrong.push(format!(
            "{task}: row {row:?} is not its record {:?}",
            state.phase
        ));
    }
    if state.attempt > 0 && !state.removed && state.phase.is_final() {
        wrong.push(format!("{task}: its attempt was never removed"));
    }
    wrong.extend(of_telling(told, &state));
    wrong.extend(of_messages(&state, events));
    wrong.extend(of_requests(&state, events));
    if state.attempt > 0 {
        wrong.extend(of_truth(world, &state, events));
    }
    wrong
}

/// What was told as final stays so.
fn of_telling(told: &Told, state: &TaskState) -> Vec<String> {
    let controls = told.controls.iter().filter(|(task, ..)| *task == state.id);
    let read = told.phases.iter().filter(|(task, _)| *task == state.id);
    let phases = controls
        .clone()
        .map(|(_, _, outcome)| outcome.phase)
        .chain(read.map(|(_, phase)| *phase));
    let mut wrong: Vec<String> = phases
        .filter(|phase| phase.is_final() && *phase != state.phase)
        .map(|phase| format!("{}: told {phase:?}, is {:?}", state.id, state.phase))
        .collect();
    for (task, signal, outcome) in controls {
        if *signal == ControlSignal::Cancel && outcome.phase != Phase::Cancelled {
            wrong.push(format!("{task}: its cancel was told {:?}", outcome.phase));
        }
    }
    wrong
}

/// Of a completed task, every message was read or is said to be dropped.
fn of_messages(state: &TaskState, events: &[CommittedEvent]) -> Vec<String> {
    if state.phase != Phase::Completed {
        return Vec::new();
    }
    let received = events.iter().filter_map(|e| match &e.event {
        Event::MessageReceived { message_id, .. } => Some(message_id),
        _ => None,
    });
    let settled = |id: &String| {
        events.iter().any(|e| match &e.event {
            Event::MessageTakenUp { message_id } | Event::MessageDropped { message_id, .. } => {
                message_id == id
            }
            _ => false,
        })
    };
    received
        .filter(|id| !settled(id))
        .map(|id| format!("{}: nothing is known of message {id}", state.id))
        .collect()
}

/// A request waits for somebody only while there is somebody.
fn of_requests(state: &TaskState, events: &[CommittedEvent]) -> Vec<String> {
    let mut attended = state.spec.attended;
    let mut wrong = Vec::new();
    for committed in events {
        match &committed.event {
            Event::AttendanceChanged { people } => {
                attended = state.spec.attended || !people.is_empty();
            }
            Event::RequestOpened { expires_at, .. } if !attended && *expires_at > committed.at => {
                wrong.push(format!(
                    "{}: event {} waits for nobody",
                    state.id, committed.number.0
                ));
            }
            _ => {}
        }
    }
    wrong
}

/// The end told is the end that happened.
fn of_truth(world: &World, state: &TaskState, events: &[CommittedEvent]) -> Vec<String> {
    let engine = if state.spec.engine.as_str() == "frozen" {
        &world.freezer
    } else {
        &world.engine
    };
    let truth = engine.truth(World::attempt(state.id));
    let mut wrong = Vec::new();
    let mut say = |what: String| wrong.push(format!("{}: {what}; {truth:?}", state.id));
    let succeeded = truth.as_ref().is_some_and(|truth: &Truth| truth.succeeded);
    match state.phase {
        Phase::Completed if !succeeded => say("completed, but its run did not succeed".to_owned()),
        Phase::Completed => {
            let (did, least, most) = work_done(&engine.tallies(), state, events);
            if did < least || did > most {
                say(format!("did {did} pieces of work, not {least} to {most}"));
            }
        }
        Phase::Failed if succeeded => {
            let kind = state.failure.as_ref().map(|failure| failure.kind);
            let limit = world.settings.max_steps;
            let too_long = limit > 0 && state.steps > limit && kind == Some(FailureKind::Watchdog);
            // Chargehand may give up on its own actor; it says so. And what took too many steps has failed, however it ended.
            if kind != Some(FailureKind::Internal) && !too_long {
                say(format!(
                    "its run succeeded and it is failed: {:?}",
                    state.failure
                ));
            }
        }
        Phase::Failed if state.failure.is_none() => say("failed without a reason".to_owned()),
        Phase::Timeout
            if truth.as_ref().is_some_and(|truth| truth.frozen) && !pause_is_fresh(events) =>
        {
            say("timed out because it was left frozen".to_owned());
        }
        Phase::Timeout if state.running_ms < state.spec.timeout_ms => {
            say(format!("timed out after {} ms", state.running_ms));
        }
        _ => {}
    }
    wrong
}

/// A pause was asked for shortly before the end: how it went was not known yet.
fn pause_is_fresh(events: &[CommittedEvent]) -> bool {
    let at = |wanted: fn(&Event) -> bool| {
        let found = events.iter().rev().find(|e| wanted(&e.event));
        found.map(|e| e.at)
    };
    let paused = at(|event| {
        let signal = ControlSignal::Pause;
        matches!(event, Event::ControlReceived { signal: s, .. } if *s == signal)
    });
    let ended = at(Event::is_final);
    paused
        .zip(ended)
        .is_some_and(|(paused, ended)| ended.ms_since(paused) < 120_000)
}

/// Effects of the attempt; least and most pieces of work in the texts that its worker took up.
fn work_done(tallies: &Tallies, state: &TaskState, events: &[CommittedEvent]) -> (u32, u32, u32) {
    let Some(session) = &state.session else {
        return (0, 0, 0);
    };
    let did = tallies
        .effects
        .iter()
        .filter(|((id, _), _)| *id == session.id);
    let mut texts: Vec<&str> = Vec::new();
    for committed in events {
        if let Event::PromptTakenUp { number } = &committed.event
            && let Some(record) = state.prompts.iter().find(|r| r.prompt.number == *number)
        {
            texts.push(&record.prompt.text);
        }
    }
    let works = |text: &&str| {
        let steps = Script::of(text).unwrap_or_default().steps;
        let works = steps
            .iter()
            .filter(|step| matches!(step, ScriptStep::Work(_)));
        u32::try_from(works.count()).unwrap()
    };
    let most = texts.iter().map(works).sum();
    // The same text twice may be taken for one thing to do.
    texts.sort_unstable();
    texts.dedup();
    let least = texts.iter().map(works).sum();
    (did.map(|(_, count)| count).sum(), least, most)
}

/// No prompt ran twice, unless its worker died.
fn of_runs(tallies: &Tallies) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((message, cause), count) in &tallies.runs {
        let allowed = match cause {
            RunCause::Fresh => 1 + tallies.deaths,
            RunCause::Resumed => tallies.deaths,
            // An answer was lost and the prompt not yet stored: it had to be sent again.
            RunCause::Copied => u32::MAX,
            RunCause::Again | RunCause::Older => 0,
        };
        if *count > allowed {
            wrong.push(format!("{message} ran {count} times as {cause:?}"));
        }
    }
    for ((session, step), count) in &tallies.effects {
        if *count > 1 {
            wrong.push(format!(
                "step {step} of {session} had its effect {count} times"
            ));
        }
    }
    wrong
}

/// Keys still answer with the task that they made, as long as they are kept.
pub(crate) async fn of_keys(world: &World, handle: &TreeHandle, told: &Ledger) -> Vec<String> {
    if world.settings.idempotency_keep < Duration::from_secs(3_600) {
        return Vec::new();
    }
    let submits: BTreeMap<_, _> = {
        let told = told.lock().unwrap();
        let keyed = told
            .submits
            .iter()
            .filter(|(s, _)| s.idempotency_key.is_some());
        keyed
            .map(|(submit, submitted)| {
                let key = (submit.caller.clone(), submit.idempotency_key.clone());
                (key, (submit.clone(), submitted.task))
            })
            .collect()
    };
    let mut wrong = Vec::new();
    for (key, (submit, task)) in submits {
        match handle.submit(submit).await {
            Ok(repeat) if repeat.task == task && repeat.existing => {}
            other => wrong.push(format!("{key:?} made {task} and answers {other:?}")),
        }
    }
    wrong
}

/// All slots are back, nobody waits; some hours later no actor is left that belonged to a task.
pub(crate) async fn of_rest(world: &World, handle: &TreeHandle) -> Vec<String> {
    let mut wrong = match handle.health().await {
        Ok(health) if (health.active, health.queued) == (0, 0) => Vec::new(),
        other => vec![format!("not at rest: {other:?}, {:?}", world.settings)],
    };
    sleep(3_600_000).await;
    // Old files were removed meanwhile, which is news; whoever tells it may need some time to give up.
    let rest = async || {
        for _ in 0..60 {
            if handle.board().actors.len() <= ACTORS {
                return true;
            }
            sleep(60_000).await;
        }
        false
    };
    if !rest().await {
        let left = handle.board().actors.into_iter();
        let left: Vec<_> = left.map(|actor| (actor.kind, actor.label)).collect();
        wrong.push(format!("(10) actors are left of ended tasks: {left:?}"));
    }
    wrong
}
