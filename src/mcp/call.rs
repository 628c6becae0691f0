//! One tool call: who makes it, and the way to the tree that ends its waits politely.
//!
//! In: the edge's shared state and the identity of a request. Out: [`Call`], which a tool uses and drops.

use std::sync::Arc;

use chargehand_actors::command::{Caller, Identity, StatusQuery, WaitFor};
use chargehand_actors::error::TreeError;
use chargehand_actors::id::WallTime;
use chargehand_actors::ports::Clock;
use chargehand_actors::tree::TreeHandle;
use chargehand_actors::view::TaskStatus;
use tokio_util::sync::CancellationToken;

use super::args::BadArguments;
use crate::config::Settings;
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
    /// Header `X-Agent-Id`, as sent.
    pub(crate) agent_header: Option<String>,
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

    /// The owner of a new task: argument `agent_id`, else header `X-Agent-Id`; both must agree.
    pub(crate) fn caller(&self, argument: Option<&str>) -> Result<Caller, BadArguments> {
        const ALLOWED: &str =
            "1 to 200 characters, given as argument agent_id or as header X-Agent-Id";
        let header = self
            .agent_header
            .as_deref()
            .map(str::trim)
            .filter(|h| !h.is_empty());
        let agent_id = match (argument.map(str::trim), header) {
            (Some(argument), Some(header)) if argument != header => {
                return Err(BadArguments::one(
                    "agent_id",
                    "contradicts the header X-Agent-Id of the request",
                    "the same id as in the header, or leave the argument out",
                ));
            }
            (Some(agent), _) | (None, Some(agent)) => agent,
            (None, None) => return Err(BadArguments::one("agent_id", "is missing", ALLOWED)),
        };
        if agent_id.chars().count() > 200 || agent_id.chars().any(char::is_control) {
            return Err(BadArguments::one(
                "agent_id",
                "is too long or contains control characters",
                ALLOWED,
            ));
        }
        Ok(Caller {
            token: self.who.token.clone(),
            agent_id: agent_id.to_owned(),
        })
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
