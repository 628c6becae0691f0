//! Tasks on a real OpenCode: the start, the idle product, the way to the worker, and what Chargehand adds to it.
//!
//! In: nothing. Out: figures of several lives of the product, each on a new data directory, so that no worker gets old.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::life::{Life, MODEL_MS, World, description, one_answer};
use crate::opencode::Direct;
use crate::process::{cpu_ms, resident_mb, threads};
use crate::steps::{SPANS, Steps};
use crate::table::{row, section};

const LIVES: usize = 4;
/// In each life: a task, the same prompt to OpenCode in a new directory and in a used one, by turns.
const ROUNDS: usize = 3;
/// In each life: tasks that get a message while they run.
const MESSAGES: usize = 2;
const IDLE: Duration = Duration::from_secs(10);

/// What the lives gave.
#[derive(Default)]
struct Seen {
    answered: Vec<f64>,
    ready: Vec<f64>,
    stopped: Vec<f64>,
    first: Vec<Steps>,
    first_direct: Vec<Direct>,
    later: Vec<Steps>,
    messages: Vec<Steps>,
    cold: Vec<Direct>,
    warm: Vec<Direct>,
}

/// Measures and prints.
pub(crate) async fn measure() {
    section("Start and rest");
    let world = World::new().await;
    let mut seen = Seen::default();
    for number in 0..LIVES {
        let life = world.life().await;
        seen.answered.push(life.answered);
        seen.ready.push(life.ready);
        if number == 0 {
            rest(&life).await;
        }
        first(&life, number, &mut seen).await;
        tasks(&life, &mut seen).await;
        seen.stopped.push(life.server.stop().await);
    }
    let conditions = "new data directory; spawn of the program to HTTP 200";
    row(
        "start until /health answers",
        "ms",
        &seen.answered,
        conditions,
    );
    let conditions = "the same; OpenCode listens and its stream is open";
    row(
        "start until the engine is ready",
        "ms",
        &seen.ready,
        conditions,
    );
    let conditions = "SIGTERM to exit; OpenCode is ended with it";
    row("stop", "ms", &seen.stopped, conditions);
    way_to_the_worker(&seen);
    overhead(&seen);
    for (whose, tasks) in [
        ("tasks in a new directory", &seen.later),
        ("the first task of a new OpenCode", &seen.first),
    ] {
        section(&format!("Where the time goes: {whose} (times of events)"));
        for (what, from, to) in SPANS {
            let times: Vec<f64> = tasks.iter().map(|one| one.between(from, to)).collect();
            row(what, "ms", &times, &format!("{from} -> {to}"));
        }
    }
}

/// Nothing is asked of it for a while.
async fn rest(life: &Life) {
    let parts = [
        ("server", life.server.pid()),
        ("its guard", life.worker.guard),
        ("OpenCode", life.worker.pid),
    ];
    // What the start set in motion comes to an end first.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = parts.map(|(_, pid)| cpu_ms(pid));
    tokio::time::sleep(IDLE).await;
    for ((name, pid), before) in parts.into_iter().zip(before) {
        let spent = cpu_ms(pid) - before;
        row(
            &format!("RSS of {name}"),
            "MB",
            &[resident_mb(pid)],
            "idle, engine ready",
        );
        row(
            &format!("threads of {name}"),
            "",
            &[threads(pid)],
            "the same",
        );
        let conditions = format!("user and system, in {} s", IDLE.as_secs());
        row(&format!("CPU time of {name}"), "ms", &[spent], &conditions);
    }
}

/// The very first prompt of a new OpenCode costs more than all later ones: delegated in one life, direct in the next.
async fn first(life: &Life, number: usize, seen: &mut Seen) {
    if number.is_multiple_of(2) {
        seen.first.push(Steps::delegate(life, &one_answer()).await);
    } else {
        let place = directory(life, "first");
        let answer = life.worker.answer(&place, &one_answer(), &life.ends).await;
        seen.first_direct.push(answer);
    }
}

async fn tasks(life: &Life, seen: &mut Seen) {
    let asked = one_answer();
    let used = directory(life, "used");
    life.worker.answer(&used, &asked, &life.ends).await;
    for round in 0..ROUNDS {
        seen.later.push(Steps::delegate(life, &asked).await);
        let new = directory(life, &format!("new-{round}"));
        let cold = life.worker.answer(&new, &asked, &life.ends);
        seen.cold.push(cold.await);
        let warm = life.worker.answer(&used, &asked, &life.ends);
        seen.warm.push(warm.await);
    }
    for _ in 0..MESSAGES {
        seen.messages.push(with_message(life).await);
    }
}

/// A new git repository, as Chargehand makes one for each task.
fn directory(life: &Life, name: &str) -> PathBuf {
    let path = life.place.path().join("direct").join(name);
    let made = Command::new("git").args(["init", "-q"]).arg(&path).status();
    assert!(made.unwrap().success());
    path
}

/// A task that is told something while the model thinks: the worker knows its directory by then.
async fn with_message(life: &Life) -> Steps {
    let script = json!({"turns": [{"delay_ms": 1_500, "text": "First."}],
        "on_message": [{"contains": "go on", "turns": [{"text": "Second."}]}]});
    let asked = json!({"agent_id": "bench", "task_description": description(&script)});
    let client = &life.client;
    let answer = client.call("opencode_execute_task", asked).await;
    let task = answer["task_id"].as_str().unwrap();
    Steps::reached(client, task, "prompt_taken_up").await;
    let message = json!({"task_id": task, "message": "go on", "message_type": "update"});
    client.call("send_task_message", message).await;
    Steps::ended(client, task).await
}

fn way_to_the_worker(seen: &Seen) {
    section("Execute to prompt accepted by OpenCode (task_accepted -> prompt_accepted)");
    let accepted = |steps: &Steps| steps.between("task_accepted", "prompt_accepted");
    let times: Vec<f64> = seen.first.iter().map(accepted).collect();
    let conditions = "first task of a new OpenCode, new directory";
    row("execute -> prompt accepted", "ms", &times, conditions);
    let times: Vec<f64> = seen.later.iter().map(accepted).collect();
    let conditions = "later tasks, each in a new directory";
    row("execute -> prompt accepted", "ms", &times, conditions);
    let told = |steps: &Steps| steps.until_next("message_received", "prompt_accepted");
    let times: Vec<f64> = seen.messages.iter().map(told).collect();
    let conditions = "directory and session in use";
    row("message -> prompt accepted", "ms", &times, conditions);
}

fn overhead(seen: &Seen) {
    section("Own overhead on a task whose model answers in 100 ms (sync=true, one turn, no tools)");
    let first: Vec<f64> = seen.first.iter().map(Steps::all).collect();
    let later: Vec<f64> = seen.later.iter().map(Steps::all).collect();
    let part =
        |all: &[Direct], which: fn(&Direct) -> f64| all.iter().map(which).collect::<Vec<_>>();
    let cold = part(&seen.cold, |one| one.all);
    let less = |whole: &[f64], part: &[f64]| -> Vec<f64> {
        whole.iter().zip(part).map(|(a, b)| a - b).collect()
    };
    let model = vec![MODEL_MS; later.len()];
    let conditions = "call -> completed, first task of a new OpenCode";
    row("delegated to Chargehand", "ms", &first, conditions);
    let conditions = "session to messages, first prompt of a new OpenCode";
    let first = part(&seen.first_direct, |one| one.all);
    row(
        "the same prompt directly to OpenCode",
        "ms",
        &first,
        conditions,
    );
    let conditions = "call -> completed, new directory";
    row("delegated to Chargehand", "ms", &later, conditions);
    let conditions = "session, prompt, idle event, messages; new directory";
    row(
        "the same prompt directly to OpenCode",
        "ms",
        &cold,
        conditions,
    );
    let warm = part(&seen.warm, |one| one.all);
    row(
        "the same prompt directly to OpenCode",
        "ms",
        &warm,
        "used directory",
    );
    for (what, which) in [
        (
            "  of it: POST /session",
            (|one| one.session) as fn(&Direct) -> f64,
        ),
        ("  of it: POST prompt_async", |one| one.prompt),
        ("  of it: until idle, with the model's 100 ms", |one| {
            one.run
        }),
    ] {
        row(what, "ms", &part(&seen.cold, which), "new directory");
        row(what, "ms", &part(&seen.warm, which), "used directory");
    }
    let conditions = "delegated - 100 ms";
    row(
        "OpenCode and Chargehand",
        "ms",
        &less(&later, &model),
        conditions,
    );
    let conditions = "delegated - direct, both in new directories, by pairs";
    row("OWN OVERHEAD", "ms", &less(&later, &cold), conditions);
    // OpenCode's run varies more than our part of it, so the two are also told apart.
    let runs: Vec<f64> = seen.later.iter().map(Steps::run).collect();
    let direct_runs = part(&seen.cold, |one| one.run);
    let outside = less(&less(&later, &runs), &less(&cold, &direct_runs));
    let conditions = "the same without the runs (prompt taken -> idle)";
    row(
        "  of it: outside OpenCode's run",
        "ms",
        &outside,
        conditions,
    );
    let longer = less(&runs, &direct_runs);
    let conditions = "run delegated - run direct, by pairs; mostly noise";
    row(
        "  of it: a longer run of OpenCode",
        "ms",
        &longer,
        conditions,
    );
}
