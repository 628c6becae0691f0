//! Who speaks over HTTP: plain data that the token check makes and that both front-ends read.
//!
//! In: a bearer token, or the absence of any configured one. Out: the [`Identity`] that the tree checks, and the right to operate.

use chargehand_actors::command::Identity;

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    /// Name of the token; `local` where none is configured.
    pub(crate) token: String,
    /// What it may do.
    pub(crate) role: Role,
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
    /// Whoever reaches a loopback server without tokens.
    pub(crate) fn local() -> Self {
        Self {
            token: "local".to_owned(),
            role: Role::Local,
        }
    }

    /// For tool calls.
    pub(crate) fn identity(&self) -> Identity {
        match self.role {
            Role::Local | Role::Caller => Identity::Caller {
                token: self.token.clone(),
                agent_id: None,
            },
            Role::Operator => Identity::Operator {
                name: self.token.clone(),
            },
        }
    }

    /// For the debug endpoint; none when it is not allowed there.
    pub(crate) fn operator(&self) -> Option<Identity> {
        match self.role {
            Role::Local | Role::Operator => Some(Identity::Operator {
                name: self.token.clone(),
            }),
            Role::Caller => None,
        }
    }
}
