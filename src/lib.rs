//! Chargehand's process edge: everything that touches the outside, around the tree of `chargehand-actors`.
pub mod adapters;
pub mod cli;
pub mod config;
pub mod mcp;
pub mod operator;
pub mod scripted_model;
