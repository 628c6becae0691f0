//! The MCP front-end and the operator's routes, over real HTTP, on a real tree with the real journal; engine and workdirs
//! are doubles.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what is wrong by failing"
)]

mod agents;
mod arguments;
mod audit;
pub(crate) mod client;
mod defects;
pub(crate) mod double_engine;
pub(crate) mod double_workdirs;
mod limits;
mod logs;
mod metrics;
mod official;
mod operator;
mod reload;
mod requests;
pub(crate) mod server;
mod sources;
mod tools;
mod transport;
mod wrong_calls;
