//! The task machine: pure decisions. (state, input) -> (events, effects).
//!
//! In: [`Input`]s (commands, job results, signals, ticks) with the time and fresh ids of a [`Context`].
//! Out: [`Step`]s: events, already folded into the state, and effects that wait until those events are durable.
//! Nothing here waits, reads a clock, sends, or knows an actor. Recovery folds the same events with the same code.

mod advance;
mod alarm;
mod command;
mod decide;
#[cfg(test)]
mod decide_tests;
mod engine_input;
mod input;
mod observe;
mod policy;
mod prompt;
mod reading;
mod requests;
mod state;
mod step;
mod view;
mod watchdog;

pub use input::{Context, Effect, Input, ReadResult, Refusal, Reply, Step, Ticket};
pub use policy::Grant;
pub use state::{PromptRecord, TaskState};
pub use step::{Limits, Machine};
