//! Tests with the real OpenCode.

mod engine_control;
mod engine_recovery;
mod engine_turns;
mod harness;
