//! Everything that touches a foreign API, one folder a system. Adapters do not know each other, nor `mcp`, nor `operator`.
mod cause;
pub mod docker;
pub mod journal;
pub mod letta;
#[cfg(feature = "matrix")]
pub mod matrix;
pub mod opencode;
pub mod outward;
pub mod system;
pub mod workdir;
