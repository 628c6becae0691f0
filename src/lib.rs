//! Chargehand's process edge: everything that touches the outside, around the tree of `chargehand-actors`.
//!
//! In: a command line ([`cli`]), settings ([`config`]), HTTP requests ([`mcp`], [`operator`]). Out: [`run`] holds them together.
//! Foreign systems live behind the ports of the tree, in [`adapters`].
pub mod adapters;
mod audit;
pub mod cli;
pub mod config;
mod counters;
mod http;
mod labels;
pub mod mcp;
mod nearest;
pub mod operator;
mod rate;
mod run;
pub mod scripted_model;
mod who;
pub mod words;

pub use http::{ReloadError, Tokens};
pub use run::{Adapters, RunError, run, run_with};
