//! `chargehand demo`: a task from beginning to end, without keys and without set-up.
//!
//! In: nothing but this program, git and a shell. Out: on the screen, the real OpenCode mending a small program, its
//! diff and the time it took; at the end everything is stopped, and that is checked. The model is the built-in scripted
//! one, said so at once, unless a provider key is in the environment.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::answers::Accepted;
use super::args::{DemoArgs, GlobalArgs};
use super::client::AGENT;
use super::embedded::{ModelChoice, OwnServer, provider_keys};
use super::error::{CliError, Exit};
use super::follow::{Interrupts, follow};
use super::leftovers;
use super::prompt::Prompt;
use super::run::{show_result, submit};
use super::sample;
use super::terminal::{BOLD, CYAN, DIM, GREEN, RED, Screen, YELLOW, duration, paint, say};

/// How long what was started may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// The label of demo tasks.
const LABEL: &str = "demo";

/// `demo`.
pub(crate) async fn demo(global: &GlobalArgs, args: &DemoArgs) -> Result<Exit, CliError> {
    let begun = Instant::now();
    let keys = if args.scripted {
        Vec::new()
    } else {
        provider_keys()
    };
    let project = sample::create()?;
    introduce(&keys, args.model.as_deref(), project.path());

    let model = if keys.is_empty() {
        ModelChoice::Scripted(vec![sample::script()])
    } else {
        ModelChoice::WithKeys(keys)
    };
    let screen = Screen::new(true, false);
    let mut interrupts = Interrupts::listen()?;
    let own = OwnServer::start(&args.config, model, &screen, &mut interrupts).await?;
    let ready = begun.elapsed();
    let result = async {
        let mut request = json!({
            "agent_id": AGENT,
            "task_description": sample::TASK,
            "directory": project.path(),
            "labels": [LABEL],
        });
        if let Some(model) = &args.model {
            request["model"] = json!(model);
        }
        let task: Accepted = own.client().decode(submit(own.client(), request).await?)?;
        let nobody = Prompt::new(false);
        let mut followed = follow(
            own.client(),
            &task.task_id,
            &screen,
            &mut interrupts,
            nobody,
        )
        .await?;
        drop(screen);
        if let (false, Some(changes)) = (args.keep, &mut followed.status.changes) {
            // They are removed in a moment.
            changes.patch_file = None;
            changes.branch = None;
        }
        show_result(own.client(), &followed, global.json).await?;
        Ok(Exit::of_status(&followed.status.status))
    }
    .await;
    let worked = begun.elapsed();
    let home = own.directory().to_owned();
    let at_once = matches!(result, Err(CliError::Interrupted));
    own.stop(&mut interrupts, at_once).await;
    let clean = all_gone(&home).await;
    farewell(args, &home, ready, worked, begun.elapsed());
    let exit = result?;
    Ok(if clean { exit } else { Exit::Failed })
}

fn introduce(keys: &[String], model: Option<&str>, project: &Path) {
    let model = match keys {
        [] => "the built-in SCRIPTED model: a fixed script, no key; nothing leaves this machine"
            .to_owned(),
        keys => format!(
            "{} (key from {}); --scripted uses the built-in script instead",
            model.unwrap_or("the provider's default model"),
            keys.join(", ")
        ),
    };
    say(&paint(
        BOLD,
        "Chargehand demo: a real OpenCode worker mends a small program",
    )
    .to_string());
    let lines = [
        ("model", model),
        ("project", project.display().to_string()),
        ("task", sample::TASK.to_owned()),
    ];
    for (name, text) in lines {
        let mut name = name;
        for line in wrapped(&text, 100) {
            say(&format!("  {} {line}", paint(CYAN, format!("{name:<8}"))));
            name = "";
        }
    }
    say("");
}

/// Breaks a text between words into lines of about `width` characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Waits until nothing belongs to `home` any more, and says what was found.
async fn all_gone(home: &Path) -> bool {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        match leftovers::processes_of(home) {
            None => {
                say(&paint(
                    DIM,
                    "stopped; whether a process is left cannot be checked on this system",
                )
                .to_string());
                return true;
            }
            Some(left) if left.is_empty() => {
                say(&format!(
                    "{} everything is stopped, no process is left",
                    paint(GREEN, "✓")
                ));
                return true;
            }
            Some(left) if Instant::now() >= until => {
                for process in left {
                    let text =
                        format!("still there: process {} ({})", process.pid, process.command);
                    say(&paint(RED, text).to_string());
                }
                return false;
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn farewell(args: &DemoArgs, home: &Path, ready: Duration, worked: Duration, all: Duration) {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    say(&paint(
        DIM,
        format!(
            "server ready after {}, task done {} later, {} in all",
            duration(ms(ready)),
            duration(ms(worked.saturating_sub(ready))),
            duration(ms(all))
        ),
    )
    .to_string());
    if args.keep {
        say(&format!("kept: {}", home.display()));
    } else if let Err(error) = std::fs::remove_dir_all(home) {
        let text = format!("{} could not be removed: {error}", home.display());
        say(&paint(YELLOW, text).to_string());
    }
    say(&format!(
        "Next: `{}` starts the server for MCP clients, `{}` does a task of yours.",
        paint(CYAN, "chargehand serve"),
        paint(CYAN, "chargehand run \"TASK\" --dir .")
    ));
}
