//! Setup commands: what an operator has run in the container before the first prompt of a task.
//!
//! In: the settings' rules and where the workdir came from; later the container. Out: every command's run as a tool call of the task,
//! or the reason why the task cannot begin. How far it came is kept on disk, with the id of the command that runs: after a crash its end
//! is waited for; it is run again only where the container was started again. A failure is kept, too, but not one that came with the end of
//! the container.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chargehand_actors::command::Source;
use chargehand_actors::event::ToolRun;
use chargehand_actors::ports::{EngineError, Signal};
use serde::{Deserialize, Serialize};

use super::containers::Containers;
use super::exec::Ran;
use super::place::{self, on_disk};
use super::secrets;
use super::worker::worker_id;

/// How much of a failed command's output is told.
const TOLD: usize = 600;

/// Commands for the tasks whose source fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupRule {
    /// The URL of a repository or the path of a directory; `*` stands for any text, alone for every task.
    pub source: String,
    /// Shell commands, run one after the other in the workdir.
    pub commands: Vec<String>,
}

/// The commands for a source: of every rule that fits, in order.
pub(super) fn commands_for(rules: &[SetupRule], source: &Source) -> Vec<String> {
    let from = match source {
        Source::Empty => "",
        Source::Repository { url, .. } => url,
        Source::Directory { path } => path,
    };
    rules
        .iter()
        .filter(|rule| fits(&rule.source, from))
        .flat_map(|rule| rule.commands.clone())
        .collect()
}

/// Whether the pattern, in which `*` is any text, is the whole of `text`.
fn fits(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = rest.get(at + piece.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// How far the setup of a container has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    /// Commands that have not ended well yet, in order.
    left: Vec<String>,
    /// The daemon's id of the first of them, once it may have been begun.
    #[serde(default)]
    running: Option<String>,
    /// The start of the container that it belongs to; not known in records of earlier versions.
    #[serde(default)]
    start: Option<String>,
    /// Why the setup failed for good.
    #[serde(default)]
    failed: Option<String>,
}

/// Writes down what is to be run in a container that is about to be made.
pub(super) fn plan(place: &Path, commands: &[String]) -> io::Result<()> {
    if commands.is_empty() {
        return Ok(());
    }
    let left = commands.to_vec();
    write(
        place,
        &Plan {
            left,
            ..Plan::default()
        },
    )
}

fn file(place: &Path) -> PathBuf {
    place.join("setup.json")
}

fn write(place: &Path, plan: &Plan) -> io::Result<()> {
    let beside = place.join(".setup.json");
    std::fs::write(&beside, serde_json::to_vec(plan)?)?;
    std::fs::rename(beside, file(place))
}

fn read(place: &Path) -> io::Result<Plan> {
    match std::fs::read(file(place)) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Plan::default()),
        Err(error) => Err(error),
    }
}

const PROBLEM: &str = "the record of the setup cannot be used";

async fn keep(place: &Path, plan: &Plan) -> Result<(), EngineError> {
    let (at, plan) = (place.to_owned(), plan.clone());
    on_disk(PROBLEM, move || write(&at, &plan)).await
}

/// Runs what is left of a container's setup. `tell` gets every command's run.
pub(super) async fn run(
    containers: &Containers,
    name: &str,
    tell: impl Fn(Signal),
) -> Result<(), EngineError> {
    let place = place::of(&containers.settings, name);
    let at = place.clone();
    let mut plan = on_disk(PROBLEM, move || read(&at)).await?;
    loop {
        if let Some(why) = plan.failed {
            return Err(EngineError::Refused(why));
        }
        let Some(command) = plan.left.first().cloned() else {
            return Ok(());
        };
        let began = Instant::now();
        let run = |failed, ms| ToolRun {
            tool: "setup".to_owned(),
            title: command.clone(),
            failed,
            ms,
        };
        tell(Signal::ToolStarted(run(false, 0)));
        let ran = finish(containers, name, &place, &mut plan).await?;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tell(Signal::ToolFinished(run(ran.code != 0, ms)));
        plan.running = None;
        plan.start = None;
        if ran.code == 0 {
            plan.left.remove(0);
        } else {
            let said = tail(&secrets::hidden(&containers.settings, name, &ran.output));
            // Kept: who waits for it may have given up long ago, and asks again.
            plan.failed = Some(format!(
                "the setup command `{command}` ended with {}: {said}",
                ran.code
            ));
        }
        keep(&place, &plan).await?;
    }
}

/// Brings the first command of the plan to its end, which may have been begun before.
async fn finish(
    containers: &Containers,
    name: &str,
    place: &Path,
    plan: &mut Plan,
) -> Result<Ran, EngineError> {
    let daemon = containers.daemon()?;
    let network = containers.network();
    let state = daemon.inspect(name, &network).await?;
    let state = state.ok_or(EngineError::SessionGone)?;
    let began = worker_id(&state).0;
    forget_other_start(plan, &began);
    let known = match &plan.running {
        Some(id) => daemon.finish_command(id).await?,
        None => None,
    };
    let ran = match known {
        Some(ran) => Some(ran),
        None => {
            let command = plan.left.first().cloned().unwrap_or_default();
            let id = daemon.make_command(name, &command).await?;
            plan.running = Some(id.clone());
            plan.start = Some(began.clone());
            // Before it is begun, so that nobody begins another beside it.
            keep(place, plan).await?;
            daemon.finish_command(&id).await?
        }
    };
    if let Some(ran) = ran {
        if daemon.is_own_end(&ran, (name, &network), &began).await? {
            return Ok(ran);
        }
        plan.running = None;
        plan.start = None;
        keep(place, plan).await?;
    }
    Err(EngineError::Unreachable(
        "the container ended while the command ran in it; it is begun anew".to_owned(),
    ))
}

/// Forgets a command that was begun in another start of the container than `now`: it ended with that one, whatever the daemon still knows
/// of it.
fn forget_other_start(plan: &mut Plan, now: &str) {
    if plan.start.as_ref().is_some_and(|start| start != now) {
        plan.running = None;
        plan.start = None;
    }
}

/// The end of a command's output.
fn tail(output: &str) -> String {
    let skipped = output.chars().count().saturating_sub(TOLD);
    let tail: String = output.chars().skip(skipped).collect();
    tail.trim().to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rules_fit_as_a_whole() {
        for (pattern, text, fit) in [
            ("*", "", true),
            ("*", "https://x/y", true),
            ("", "", true),
            ("https://x/y", "https://x/y", true),
            ("https://x/y", "https://x/y2", false),
            ("https://x/*", "https://x/y", true),
            ("*/y", "https://x/y", true),
            ("*/y", "https://x/y/z", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(fits(pattern, text), fit, "{pattern} on {text}");
        }
    }

    #[test]
    fn every_rule_that_fits_adds_its_commands() {
        let rule = |source: &str, command: &str| SetupRule {
            source: source.to_owned(),
            commands: vec![command.to_owned()],
        };
        let rules = [
            rule("*", "all"),
            rule("https://x/*", "x"),
            rule("/src/*", "dir"),
        ];
        let url = "https://x/y".to_owned();
        let repository = Source::Repository {
            url,
            reference: None,
        };
        assert_eq!(commands_for(&rules, &repository), ["all", "x"]);
        assert_eq!(commands_for(&rules, &Source::Empty), ["all"]);
    }

    #[test]
    fn a_command_of_another_start_of_the_container_is_begun_anew() {
        let old: Plan = serde_json::from_str(r#"{"left":["a"],"running":"id"}"#).unwrap();
        let known = |start: &str| Plan {
            start: Some(start.to_owned()),
            ..old.clone()
        };
        // An earlier version did not note the start.
        for (mut plan, running) in [
            (old.clone(), true),
            (known("c@1"), false),
            (known("c@2"), true),
        ] {
            forget_other_start(&mut plan, "c@2");
            assert_eq!(plan.running.is_some(), running, "{plan:?}");
            assert_eq!(plan.left, ["a"]);
        }
    }

    #[test]
    fn what_was_run_is_not_in_the_plan_any_more() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(read(place.path()).unwrap(), Plan::default());
        let both = ["a".to_owned(), "b".to_owned()];
        plan(place.path(), &both).unwrap();
        let mut planned = read(place.path()).unwrap();
        assert_eq!(planned.left, both);
        planned.left.remove(0);
        planned.running = Some("id".to_owned());
        planned.failed = Some("why".to_owned());
        write(place.path(), &planned).unwrap();
        assert_eq!(read(place.path()).unwrap(), planned);
    }
}
