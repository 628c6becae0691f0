//! The judge of a simulated history: compares the record and what clients were told with what really happened.

use std::collections::BTreeMap;

use chargehand_actors::command::ControlSignal;
use chargehand_actors::event::{CommittedEvent, Event, FailureKind, Phase};
use chargehand_actors::fakes::World;
use chargehand_actors::fakes::engine::{RunCause, Script, ScriptStep, Tallies, Truth};
use chargehand_actors::id::TaskId;
use chargehand_actors::machine::TaskState;
use chargehand_actors::tree::TreeHandle;

use crate::simulation::{Ledger, Told};

/// Everything that is wrong with the record.
pub(crate) fn of(world: &World, told: &Told) -> Vec<String> {
    let mut wrong = told.slow.clone();
    let all = world.journal.all();
    if all.iter().zip(1..).any(|(event, n)| event.number.0 != n) {
        wrong.push("event numbers have gaps or repeats".to_owned());
    }
    for (_, submitted) in &told.submits {
        if world.journal.of(submitted.task).is_empty() {
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
            let (did, ordered) = work_done(&engine.tallies(), state, events);
            if did != ordered {
                say(format!("did {did} of {ordered} pieces of work"));
            }
        }
        Phase::Failed if succeeded => {
            let kind = state.failure.as_ref().map(|failure| failure.kind);
            // Chargehand may give up on its own actor; it says so.
            if kind != Some(FailureKind::Internal) {
                say(format!(
                    "its run succeeded and it is failed: {:?}",
                    state.failure
                ));
            }
        }
        Phase::Failed if state.failure.is_none() => say("failed without a reason".to_owned()),
        Phase::Timeout if state.running_ms < state.spec.timeout_ms => {
            say(format!("timed out after {} ms", state.running_ms));
        }
        _ => {}
    }
    wrong
}

/// Effects of the attempt, and pieces of work in the texts that its worker took up.
fn work_done(tallies: &Tallies, state: &TaskState, events: &[CommittedEvent]) -> (u32, u32) {
    let Some(session) = &state.session else {
        return (0, 0);
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
    (
        did.map(|(_, count)| count).sum(),
        texts.iter().map(works).sum(),
    )
}

/// No prompt ran twice, unless its worker died.
fn of_runs(tallies: &Tallies) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((message, cause), count) in &tallies.runs {
        let allowed = match cause {
            RunCause::Fresh => 1 + tallies.deaths,
            RunCause::Resumed => tallies.deaths,
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

/// Keys still answer with the task that they made.
pub(crate) async fn of_keys(handle: &TreeHandle, told: &Ledger) -> Vec<String> {
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

/// All slots are back, nobody waits.
pub(crate) async fn of_rest(world: &World, handle: &TreeHandle) -> Vec<String> {
    match handle.health().await {
        Ok(health) if (health.active, health.queued) == (0, 0) => Vec::new(),
        other => vec![format!("not at rest: {other:?}, {:?}", world.settings)],
    }
}
