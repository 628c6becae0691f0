//! Chargehand's process edge: everything that touches the outside, around the tree of `chargehand-actors`.
//!
//! In: a command line ([`cli`]), settings ([`config`]), HTTP requests ([`mcp`], [`operator`]). Out: [`run`] holds them together.
//! Foreign systems live behind the ports of the tree, in [`adapters`].
pub mod adapters;
pub mod cli;
pub mod config;
mod http;
pub mod mcp;
mod nearest;
pub mod operator;
mod run;
pub mod scripted_model;
mod who;

pub use run::{Adapters, RunError, run};
