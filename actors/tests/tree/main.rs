//! Tests of the whole tree on scripted ports, with a paused clock.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod arrange;
mod bench;
mod bounds;
mod clients;
mod commands;
mod coverage;
mod disk;
mod engines;
mod failures;
mod life;
mod limits;
mod machine;
mod machine_catch_up;
mod machine_freeze;
mod machine_runs;
mod observer;
mod outward;
mod permissions;
mod queue;
mod retention;
mod rooms;
mod rooms_trouble;
mod simulation;
mod stage;
mod stop;
mod verdict;
mod walks;
mod watchdog_limits;
mod watchdogs;
