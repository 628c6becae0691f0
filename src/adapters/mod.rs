//! Everything that touches a foreign API, one folder a system. Adapters do not know each other, nor `mcp`, nor `operator`.
pub mod journal;
pub mod opencode;
pub mod outward;
pub mod system;
pub mod workdir;
