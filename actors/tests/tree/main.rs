//! Tests of the whole tree on scripted ports, with a paused clock.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod bench;
mod life;
mod machine;
mod walks;
