//! Tests with the real OpenCode.

mod cli_demo;
mod engine_control;
mod engine_recovery;
mod engine_turns;
mod harness;
