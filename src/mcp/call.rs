//! One tool call: who makes it, and the way to the tree that ends its waits politely.
//!
//! In: the edge's shared state and the identity of a request. Out: [`Call`], which a tool uses and drops.

use std::sync::Arc;

use chargehand_actors::command::{Caller, Identity, StatusQuery, WaitFor};
use chargehand_actors::error::TreeError;
use chargehand_actors::id::{TaskId, WallTime};
use chargehand_actors::ports::Clock;
use chargehand_actors::tree::TreeHandle;
use chargehand_actors::view::TaskStatus;
use tokio_util::sync::CancellationToken;

use super::args::BadArguments;
use crate::config::{MemoryFormat, Settings};
use crate::counters::Counters;
use crate::labels;
use crate::who::Who;

/// The longest wait of a call, in seconds: below every known client's limit of 60.
pub(crate) const LONGEST_WAIT_S: i64 = 45;

/// What all calls share.
#[derive(Clone)]
pub(crate) struct Edge {
    /// The tree.
    pub(crate) tree: TreeHandle,
    /// Defaults and limits.
    pub(crate) settings: Arc<Settings>,
    /// Wall time.
    pub(crate) clock: Arc<dyn Clock>,
    /// What is counted for `/metrics`.
    pub(crate) counters: Arc<Counters>,
    /// The port that the server listens on.
    pub(crate) port: u16,
    /// Cancelled when the server stops: waits answer with the state now, new tasks are refused.
    pub(crate) stopping: CancellationToken,
}

/// One call.
pub(crate) struct Call {
    /// Shared state.
    pub(crate) edge: Edge,
    /// Who calls.
    pub(crate) who: Who,
    /// The agent's conversation, where the client names it.
    pub(crate) conversation: Option<String>,
    /// Cancelled when the client goes away or cancels: ends the wait, never the task.
    pub(crate) gone: CancellationToken,
}

impl Call {
    /// For the tree.
    pub(crate) fn identity(&self) -> Identity {
        self.who.identity()
    }

    /// Now.
    pub(crate) fn now(&self) -> WallTime {
        self.edge.clock.now()
    }

    /// The owner of a new task: argument `agent_id`, else header `X-Agent-Id` (both must agree), else the only agent that
    /// the token may speak for.
    pub(crate) fn caller(&self, argument: Option<&str>) -> Result<Caller, BadArguments> {
        const ALLOWED: &str =
            "1 to 200 characters, given as argument agent_id or as header X-Agent-Id";
        let argument = argument.map(str::trim);
        if let (Some(argument), Some(header)) = (argument, self.who.header.as_deref())
            && argument != header
        {
            return Err(BadArguments::one(
                "agent_id",
                "contradicts the header X-Agent-Id of the request",
                "the same id as in the header, or leave the argument out",
            ));
        }
        let agents = self.who.agents.join(", ");
        let Some(agent_id) = argument.or_else(|| self.who.agent()) else {
            return Err(if agents.is_empty() {
                BadArguments::one("agent_id", "is missing", ALLOWED)
            } else {
                let allowed = format!(
                    "an agent that this token speaks for ({agents}), as argument or as header X-Agent-Id"
                );
                BadArguments::one("agent_id", "is missing", allowed)
            });
        };
        if agent_id.chars().count() > 200 || agent_id.chars().any(char::is_control) {
            return Err(BadArguments::one(
                "agent_id",
                "is too long or contains control characters",
                ALLOWED,
            ));
        }
        if !self.who.may_name(agent_id) {
            return Err(BadArguments::one(
                "agent_id",
                "names an agent that this token may not speak for",
                agents,
            ));
        }
        Ok(Caller {
            token: self.who.token.clone(),
            agent_id: agent_id.to_owned(),
        })
    }

    /// The label of a task's memory: fixed by its id, also before the memory exists, or where there is none.
    pub(crate) fn memory_label(&self, task: TaskId) -> String {
        let letta = self.edge.settings.letta.as_ref();
        match letta.map(|letta| letta.format) {
            Some(MemoryFormat::Text) => labels::text_memory(task),
            Some(MemoryFormat::Json) | None => labels::json_memory(task),
        }
    }

    /// Refuses what would create work while the server stops.
    pub(crate) fn open_for_work(&self) -> Result<(), TreeError> {
        if self.edge.stopping.is_cancelled() {
            Err(TreeError::Closed("stopping"))
        } else {
            Ok(())
        }
    }

    /// Reads a task. A stop of the server or a client that is gone ends the wait with the state as it is then.
    pub(crate) async fn status(&self, query: StatusQuery) -> Result<TaskStatus, TreeError> {
        let who = self.identity();
        if query.wait_for == WaitFor::Nothing || query.wait_ms == 0 {
            return self.edge.tree.status(&who, query).await;
        }
        let at_once = StatusQuery {
            wait_for: WaitFor::Nothing,
            wait_ms: 0,
            ..query.clone()
        };
        tokio::select! {
            answer = self.edge.tree.status(&who, query) => return answer,
            () = self.edge.stopping.cancelled() => {}
            () = self.gone.cancelled() => {}
        }
        self.edge.tree.status(&who, at_once).await
    }
}
