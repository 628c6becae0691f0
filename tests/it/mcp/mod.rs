//! The MCP front-end and the operator's routes, over real HTTP, on a real tree with the real journal; engine and workdirs
//! are doubles.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what is wrong by failing"
)]

mod arguments;
mod client;
mod double_engine;
mod double_workdirs;
mod official;
mod operator;
mod server;
mod tools;
mod transport;
mod wrong_calls;
