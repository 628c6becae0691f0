//! `ping` and `health`: is Chargehand there, and does each part of it work.
//!
//! In: nothing. Out: a time stamp; the checked state of journal, engines and configured backends.

use chargehand_actors::view::{HealthReport, HealthState};
use schemars::JsonSchema;
use serde::Serialize;

use super::table::{Effect, Tool};
use crate::mcp::answer::{Refusal, output_schema, result};
use crate::mcp::call::Call;

/// `ping`.
pub(crate) const PING: Tool = Tool {
    name: "ping",
    title: "Ping",
    about: "Check that Chargehand answers. Takes no arguments. For the state of its parts call health.",
    args: &[],
    effect: Effect::Reads,
    open_world: false,
    output: output_schema::<Pong>,
    run: |call, _| Box::pin(async move { result("ping", Ok(pong(&call))) }),
};

/// `health`.
pub(crate) const HEALTH: Tool = Tool {
    name: "health",
    title: "Health",
    about: "Check every part of Chargehand now: the journal, each engine and each configured backend, with its state, since when and why; and whether a new task would be accepted. Takes no arguments. Call it when opencode_execute_task is refused or a task stays queued.",
    args: &[],
    effect: Effect::Reads,
    open_world: false,
    output: output_schema::<HealthOut>,
    run: |call, _| Box::pin(async move { result("health", health(&call).await) }),
};

#[derive(Debug, Serialize, JsonSchema)]
struct Pong {
    /// Always ok.
    status: &'static str,
    /// Milliseconds since 1970.
    timestamp: i64,
    /// Version of Chargehand.
    version: &'static str,
}

fn pong(call: &Call) -> Pong {
    Pong {
        status: "ok",
        timestamp: call.now().0,
        version: env!("CARGO_PKG_VERSION"),
    }
}

#[derive(Debug, Serialize, JsonSchema)]
struct HealthOut {
    /// healthy: all parts work. degraded: a part does not. unhealthy: nothing can run.
    status: &'static str,
    /// Milliseconds since 1970.
    timestamp: i64,
    /// Version of Chargehand.
    version: &'static str,
    /// How it is set up.
    environment: Environment,
    /// Load.
    metrics: Metrics,
    /// Every part.
    parts: Vec<PartOut>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Environment {
    /// Port that it listens on.
    mcp_port: u16,
    /// The engine of tasks that name none.
    default_engine: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Metrics {
    /// Tasks that hold a slot.
    active_tasks: u32,
    /// Tasks that wait.
    queued_tasks: u32,
    /// Slots.
    max_running: u32,
    /// Places in the queue.
    max_queued: u32,
    /// A new task would be accepted now.
    can_accept_task: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PartOut {
    /// Such as journal or engine local.
    name: String,
    /// ok, starting, degraded, down or off (not configured).
    state: &'static str,
    /// In this state since, milliseconds since 1970.
    since: i64,
    /// Why, or what it is.
    detail: String,
}

async fn health(call: &Call) -> Result<HealthOut, Refusal> {
    let report = call.edge.tree.health().await?;
    Ok(HealthOut {
        status: overall(&report),
        timestamp: call.now().0,
        version: env!("CARGO_PKG_VERSION"),
        environment: Environment {
            mcp_port: call.edge.port,
            default_engine: call.edge.settings.engine.default.clone(),
        },
        metrics: Metrics {
            active_tasks: report.active,
            queued_tasks: report.queued,
            max_running: report.limit,
            max_queued: report.queue_limit,
            can_accept_task: report.accepting && call.open_for_work().is_ok(),
        },
        parts: report
            .parts
            .iter()
            .map(|part| PartOut {
                name: part.name.clone(),
                state: state_word(part.state),
                since: part.since.0,
                detail: part.detail.clone(),
            })
            .collect(),
    })
}

// The original's word `healthy` is kept for the case in which it is true.
fn overall(report: &HealthReport) -> &'static str {
    let fine = |state: HealthState| matches!(state, HealthState::Ok | HealthState::Off);
    let mut engines = report
        .parts
        .iter()
        .filter(|part| part.name.starts_with("engine "))
        .peekable();
    let no_engine = engines.peek().is_some() && engines.all(|part| part.state == HealthState::Down);
    let journal_down = report
        .parts
        .iter()
        .any(|part| part.name == "journal" && part.state == HealthState::Down);
    if journal_down || no_engine {
        "unhealthy"
    } else if report.parts.iter().all(|part| fine(part.state)) {
        "healthy"
    } else {
        "degraded"
    }
}

const fn state_word(state: HealthState) -> &'static str {
    match state {
        HealthState::Ok => "ok",
        HealthState::Starting => "starting",
        HealthState::Degraded => "degraded",
        HealthState::Down => "down",
        HealthState::Off => "off",
    }
}

#[cfg(test)]
mod tests {
    use chargehand_actors::id::{EventNumber, WallTime};
    use chargehand_actors::view::{HealthReport, HealthState, PartHealth};

    use super::overall;

    fn report(parts: &[(&str, HealthState)]) -> HealthReport {
        HealthReport {
            parts: parts
                .iter()
                .map(|(name, state)| PartHealth {
                    name: (*name).to_owned(),
                    state: *state,
                    since: WallTime(0),
                    detail: String::new(),
                })
                .collect(),
            active: 0,
            queued: 0,
            limit: 3,
            queue_limit: 100,
            accepting: true,
            last_event: EventNumber::ZERO,
        }
    }

    #[test]
    fn one_dead_engine_degrades_and_all_dead_engines_do_not_run_anything() {
        use HealthState::{Down, Off, Ok, Starting};
        for (parts, word) in [
            (
                vec![("journal", Ok), ("engine local", Ok), ("memory", Off)],
                "healthy",
            ),
            (
                vec![("journal", Ok), ("engine local", Starting)],
                "degraded",
            ),
            (
                vec![
                    ("journal", Ok),
                    ("engine local", Ok),
                    ("engine remote", Down),
                ],
                "degraded",
            ),
            (vec![("journal", Ok), ("engine local", Down)], "unhealthy"),
            (vec![("journal", Down), ("engine local", Ok)], "unhealthy"),
            (
                vec![("journal", Ok), ("engine local", Ok), ("rooms", Down)],
                "degraded",
            ),
        ] {
            assert_eq!(overall(&report(&parts)), word, "{parts:?}");
        }
    }
}
