//! Chargehand's supervision tree.
pub mod board;
pub mod command;
pub mod error;
pub mod event;
pub mod id;
pub mod ports;
pub mod tree;
pub mod view;
