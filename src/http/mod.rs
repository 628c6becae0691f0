//! What every HTTP route shares: who asks, which hosts and origins are served, errors as JSON, serving and stopping.
//!
//! In: a bound listener and the tree's handle. Out: a running server, and its ordered end.

mod auth;
mod connections;
mod counted;
mod guard;
mod json_errors;
mod serve;
mod tokens;

pub(crate) use serve::serve;
pub use tokens::{ReloadError, Tokens};
