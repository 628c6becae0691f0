//! Draws the supervision tree with box characters.
//!
//! In: the board of the running server. Out: a table, one actor a line, children below their supervisor.

use std::collections::BTreeMap;
use std::fmt::Write;

use chargehand_actors::board::{ActorKind, ActorView, BoardSnapshot};
use chargehand_actors::id::WallTime;

use super::terminal::{BOLD, DIM, RED, YELLOW, clean, duration, one_line, paint, phase_style};

/// The whole tree as of `now`.
pub(crate) fn render(board: &BoardSnapshot, now: WallTime) -> String {
    let mut children: BTreeMap<Option<u64>, Vec<&ActorView>> = BTreeMap::new();
    let known: std::collections::BTreeSet<u64> = board.actors.iter().map(|a| a.id).collect();
    for actor in &board.actors {
        // A supervisor that is gone must not hide its children.
        let parent = actor.parent.filter(|parent| known.contains(parent));
        children.entry(parent).or_default().push(actor);
    }
    let mut lines = Vec::new();
    for root in children.get(&None).into_iter().flatten() {
        collect(root, "", "", &children, &mut lines);
    }
    draw(&lines, now)
}

struct Line<'a> {
    branch: String,
    actor: &'a ActorView,
}

fn collect<'a>(
    actor: &'a ActorView,
    own: &str,
    below: &str,
    children: &BTreeMap<Option<u64>, Vec<&'a ActorView>>,
    lines: &mut Vec<Line<'a>>,
) {
    lines.push(Line {
        branch: own.to_owned(),
        actor,
    });
    let under = children.get(&Some(actor.id)).map_or(&[][..], Vec::as_slice);
    for (index, child) in under.iter().enumerate() {
        let last = index + 1 == under.len();
        let (own, more) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        collect(
            child,
            &format!("{below}{own}"),
            &format!("{below}{more}"),
            children,
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
            count(u64::from(actor.restarts), 8, 1),
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

fn name(actor: &ActorView) -> String {
    let kind = kind(actor.kind);
    let label = one_line(&actor.label, 40);
    if label.is_empty() || label == kind {
        kind.to_owned()
    } else {
        format!("{kind} {label}")
    }
}

const fn kind(kind: ActorKind) -> &'static str {
    match kind {
        ActorKind::Root => "root",
        ActorKind::Reaper => "reaper",
        ActorKind::Journal => "journal",
        ActorKind::Admission => "admission",
        ActorKind::Registry => "registry",
        ActorKind::Engines => "engines",
        ActorKind::Engine => "engine",
        ActorKind::WorkspaceSync => "workspace-sync",
        ActorKind::TaskMemory => "memory",
        ActorKind::Rooms => "rooms",
        ActorKind::Room => "room",
        ActorKind::Notifier => "notifier",
        ActorKind::Tasks => "tasks",
        ActorKind::Task => "task",
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

fn jobs(actor: &ActorView, now: WallTime) -> String {
    let jobs: Vec<String> = actor
        .jobs
        .iter()
        .map(|(name, since)| format!("{} {}", one_line(name, 30), duration(now.ms_since(*since))))
        .collect();
    jobs.join(", ")
}
