//! Who speaks over HTTP: plain data that the token check makes and that both front-ends read.
//!
//! In: a token (or the absence of any configured one), the header `X-Agent-Id`, where the request came from. Out: the
//! [`Identity`] that the tree checks, the owner of new tasks, the right to operate, and the limits that hold for the token.

use std::sync::Arc;

use chargehand_actors::command::{Identity, Origin};
use tokio_util::sync::CancellationToken;

use crate::rate::CallLimit;

tokio::task_local! {
    /// Who sent the request that is being answered, for code that is reached through a library.
    pub(crate) static CURRENT: Who;
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    /// Name of the token; `local` where none is configured.
    pub(crate) token: String,
    /// What it may do.
    pub(crate) role: Role,
    /// Header `X-Agent-Id`: it narrows everybody but operators to this agent.
    pub(crate) header: Option<String>,
    /// The only agents that may speak through the token; empty = any.
    pub(crate) agents: Arc<[String]>,
    /// From where, for the record.
    pub(crate) from: Origin,
    /// Cancelled when the token stops being valid.
    pub(crate) revoked: CancellationToken,
    /// MCP sessions that the token may have at once; none = only the server's own limit.
    pub(crate) max_sessions: Option<u32>,
    /// Tool calls that the token may make; none = no limit.
    pub(crate) calls: Option<Arc<CallLimit>>,
}

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// No token is configured and the server listens on loopback only: whoever reaches it owns this machine's account.
    Local,
    /// Tasks of its own token.
    Caller,
    /// Every task, and the debug endpoint.
    Operator,
}

impl Who {
    /// The one agent that this request speaks for, if it is known without asking: the header's, or the token's only one.
    pub(crate) fn agent(&self) -> Option<&str> {
        self.header.as_deref().or(match self.agents.as_ref() {
            [only] => Some(only.as_str()),
            _ => None,
        })
    }

    /// Whether the token may speak for this agent.
    pub(crate) fn may_name(&self, agent: &str) -> bool {
        self.agents.is_empty() || self.agents.iter().any(|allowed| allowed == agent)
    }

    /// For tool calls.
    pub(crate) fn identity(&self) -> Identity {
        match self.role {
            Role::Local | Role::Caller => Identity::Caller {
                token: self.token.clone(),
                agent_id: self.agent().map(str::to_owned),
                from: self.from.clone(),
            },
            Role::Operator => self.as_operator(),
        }
    }

    /// For the debug endpoint; none when it is not allowed there. A header that narrows to an agent narrows this too.
    pub(crate) fn operator(&self) -> Option<Identity> {
        match self.role {
            Role::Operator => Some(self.as_operator()),
            Role::Local if self.header.is_none() => Some(self.as_operator()),
            Role::Local | Role::Caller => None,
        }
    }

    fn as_operator(&self) -> Identity {
        Identity::Operator {
            name: self.name(),
            from: self.from.clone(),
        }
    }

    /// The token, and the agent where one is named: as events and the audit log record it.
    pub(crate) fn name(&self) -> String {
        match self.agent() {
            Some(agent) => format!("{}/{agent}", self.token),
            None => self.token.clone(),
        }
    }
}
