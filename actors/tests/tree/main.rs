//! Tests of the whole tree on scripted ports, with a paused clock.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod bench;
mod commands;
mod engines;
mod failures;
mod life;
mod machine;
mod outward;
mod queue;
mod simulation;
mod stage;
mod stop;
mod verdict;
mod walks;
