//! The MCP front-end: decode a tool call, send one command to the tree, shape the reply. Nothing is decided or kept here.
//!
//! In: HTTP requests at `/mcp` (from [`crate::http`], already checked for host, origin and token). Out: MCP answers.
//! `server` speaks the protocol, `sessions` bounds the sessions of older clients, `tools` holds one file a tool family,
//! `args`, `values` and `answer` turn JSON into checked values and back, `shapes` and
//! `requests` say what tasks and open requests look like; [`crate::words`] puts events into words.

mod answer;
mod args;
mod call;
mod prefix;
mod requests;
mod server;
mod sessions;
mod shapes;
#[cfg(test)]
mod thrown_arguments;
#[cfg(test)]
mod thrown_tests;
mod tools;
mod values;

pub(crate) use call::Edge;
pub(crate) use server::{InFlight, service};
pub(crate) use sessions::{NO_SESSION_FREE, NO_SESSION_LEFT};
