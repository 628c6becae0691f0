//! Draws the supervision tree with box characters.
//!
//! In: the board of the running server. Out: a table, one actor a line, children below their supervisor.

use std::fmt::Write;

use chargehand_actors::id::WallTime;
use serde::Deserialize;

use super::terminal::{BOLD, DIM, RED, YELLOW, clean, duration, one_line, paint, phase_style};

/// `/debug/tree`.
#[derive(Debug, Deserialize)]
pub(crate) struct ActorTree {
    /// The server's clock when it was read.
    now: WallTime,
    tree: Vec<Actor>,
}

/// A live actor and those that it supervises.
#[derive(Debug, Deserialize)]
struct Actor {
    kind: String,
    #[serde(default)]
    label: String,
    phase: String,
    since: WallTime,
    #[serde(default)]
    restarts: u64,
    last_restart: Option<String>,
    #[serde(default)]
    waiting: u64,
    #[serde(default)]
    jobs: Vec<Job>,
    #[serde(default)]
    children: Vec<Self>,
}

#[derive(Debug, Deserialize)]
struct Job {
    name: String,
    since: WallTime,
}

/// The whole tree.
pub(crate) fn render(tree: &ActorTree) -> String {
    let mut lines = Vec::new();
    for root in &tree.tree {
        collect(root, "", "", &mut lines);
    }
    draw(&lines, tree.now)
}

struct Line<'a> {
    branch: String,
    actor: &'a Actor,
}

fn collect<'a>(actor: &'a Actor, own: &str, below: &str, lines: &mut Vec<Line<'a>>) {
    lines.push(Line {
        branch: own.to_owned(),
        actor,
    });
    for (index, child) in actor.children.iter().enumerate() {
        let last = index + 1 == actor.children.len();
        let (own, more) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        collect(
            child,
            &format!("{below}{own}"),
            &format!("{below}{more}"),
            lines,
        );
    }
}

fn draw(lines: &[Line<'_>], now: WallTime) -> String {
    let names: Vec<String> = lines.iter().map(|line| name(line.actor)).collect();
    let width = lines
        .iter()
        .zip(&names)
        .map(|(line, name)| line.branch.chars().count() + name.chars().count())
        .max()
        .unwrap_or(0)
        .max("ACTOR".len());
    let phases = lines
        .iter()
        .map(|line| line.actor.phase.chars().count())
        .max()
        .unwrap_or(0)
        .max("PHASE".len());
    let mut out = String::new();
    let heading = format!(
        "{:width$}  {:phases$}  {:>12}  {:>8}  {:>7}  JOBS",
        "ACTOR", "PHASE", "SINCE", "RESTARTS", "WAITING"
    );
    let _ = writeln!(out, "{}", paint(BOLD, heading));
    for (line, name) in lines.iter().zip(&names) {
        let actor = line.actor;
        let pad = width.saturating_sub(line.branch.chars().count() + name.chars().count());
        let phase = clean(&actor.phase);
        let phase_pad = phases.saturating_sub(phase.chars().count());
        let _ = write!(
            out,
            "{}{name}{:pad$}  {}{:phase_pad$}  {:>12}  {}  {}  {}",
            paint(DIM, &line.branch),
            "",
            paint(phase_style(&actor.phase), &phase),
            "",
            duration(now.ms_since(actor.since)),
            count(actor.restarts, 8, 1),
            count(actor.waiting, 7, 50),
            jobs(actor, now),
        );
        // A line without jobs ends at its last number.
        let kept = out.trim_end_matches(' ').len();
        out.truncate(kept);
        out.push('\n');
        if let Some(reason) = &actor.last_restart {
            let text = format!("last restart: {}", one_line(reason, 100));
            let _ = writeln!(out, "{:width$}  {}", "", paint(YELLOW, text));
        }
    }
    out
}

fn name(actor: &Actor) -> String {
    let kind = one_line(&actor.kind, 20).replace('_', "-");
    let label = one_line(&actor.label, 40);
    if label.is_empty() || label == kind {
        kind
    } else {
        format!("{kind} {label}")
    }
}

/// A number that stands out from `notable` on.
fn count(n: u64, width: usize, notable: u64) -> String {
    let text = format!("{n:>width$}");
    if n >= notable {
        paint(RED, text).to_string()
    } else {
        text
    }
}

fn jobs(actor: &Actor, now: WallTime) -> String {
    let jobs: Vec<String> = actor
        .jobs
        .iter()
        .map(|job| {
            format!(
                "{} {}",
                one_line(&job.name, 30),
                duration(now.ms_since(job.since))
            )
        })
        .collect();
    jobs.join(", ")
}
