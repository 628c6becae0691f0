//! The board as a tree: every live actor under its supervisor.
//!
//! In: a [`BoardSnapshot`]. Out: nested nodes in the order of their slots. Pure.

use std::collections::{BTreeMap, BTreeSet};

use chargehand_actors::board::{ActorKind, ActorView, BoardSnapshot};
use serde::Serialize;

/// One actor and those that it supervises.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Node {
    /// Number of its slot.
    id: u64,
    /// What it is.
    kind: ActorKind,
    /// For a person: a task id, an engine's name.
    label: String,
    /// What it is in.
    phase: String,
    /// Since when, milliseconds since 1970.
    since: i64,
    /// How often it was restarted.
    restarts: u32,
    /// Why, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_restart: Option<String>,
    /// Messages sent to it and not yet handled.
    waiting: u64,
    /// Number of the newest event that it handled or made.
    last_event: u64,
    /// Jobs in flight.
    jobs: Vec<Job>,
    /// Those that it supervises.
    children: Vec<Self>,
}

/// A piece of I/O in flight.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Job {
    name: String,
    /// Milliseconds since 1970.
    since: i64,
}

/// The roots. An actor whose supervisor has left the board in between is a root of its own: nothing is left out.
pub(super) fn nested(snapshot: BoardSnapshot) -> Vec<Node> {
    let present: BTreeSet<u64> = snapshot.actors.iter().map(|actor| actor.id).collect();
    let mut roots = Vec::new();
    let mut children: BTreeMap<u64, Vec<Node>> = BTreeMap::new();
    // A child's slot is younger than its parent's, so from the youngest on every node finds its children complete.
    let mut actors = snapshot.actors;
    actors.sort_by_key(|actor| std::cmp::Reverse(actor.id));
    for actor in actors {
        let parent = actor
            .parent
            .filter(|parent| *parent < actor.id && present.contains(parent));
        let mut below = children.remove(&actor.id).unwrap_or_default();
        below.reverse();
        let node = node(actor, below);
        match parent {
            Some(parent) => children.entry(parent).or_default().push(node),
            None => roots.push(node),
        }
    }
    roots.reverse();
    roots
}

fn node(actor: ActorView, children: Vec<Node>) -> Node {
    Node {
        id: actor.id,
        kind: actor.kind,
        label: actor.label,
        phase: actor.phase,
        since: actor.since.0,
        restarts: actor.restarts,
        last_restart: actor.last_restart,
        waiting: actor.waiting,
        last_event: actor.last_event.0,
        jobs: actor
            .jobs
            .into_iter()
            .map(|(name, since)| Job {
                name,
                since: since.0,
            })
            .collect(),
        children,
    }
}

#[cfg(test)]
mod tests {
    use chargehand_actors::board::{ActorKind, ActorView, BoardSnapshot};
    use chargehand_actors::id::{EventNumber, WallTime};

    use super::{Node, nested};

    fn actor(id: u64, parent: Option<u64>) -> ActorView {
        ActorView {
            id,
            parent,
            kind: ActorKind::Task,
            label: format!("a{id}"),
            phase: "ready".to_owned(),
            since: WallTime(1),
            restarts: 0,
            last_restart: None,
            waiting: 0,
            last_event: EventNumber(0),
            jobs: Vec::new(),
        }
    }

    fn drawn(nodes: &[Node]) -> String {
        let below: Vec<String> = nodes
            .iter()
            .map(|node| match node.children.is_empty() {
                true => node.label.clone(),
                false => format!("{}({})", node.label, drawn(&node.children)),
            })
            .collect();
        below.join(" ")
    }

    #[test]
    fn children_stand_under_their_supervisor_in_order() {
        let tree = nested(BoardSnapshot {
            actors: vec![
                actor(1, None),
                actor(2, Some(1)),
                actor(3, Some(1)),
                actor(4, Some(2)),
                actor(5, Some(2)),
                actor(6, Some(1)),
            ],
        });
        assert_eq!(drawn(&tree), "a1(a2(a4 a5) a3 a6)");
    }

    #[test]
    fn nobody_is_left_out_and_nothing_loops() {
        let tree = nested(BoardSnapshot {
            actors: vec![
                actor(2, Some(99)),
                actor(3, Some(2)),
                actor(4, Some(4)),
                actor(5, Some(7)),
                actor(7, Some(5)),
            ],
        });
        assert_eq!(drawn(&tree), "a2(a3) a4 a5(a7)");
        assert_eq!(nested(BoardSnapshot::default()), Vec::new());
    }
}
