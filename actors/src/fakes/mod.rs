//! Scripted ports: the outside world as tests and the simulation of the tree see it (feature `fakes`).
//!
//! In: a seed, scripts in task descriptions ([`engine`]), troubles ([`Trouble`]). Out: the ports of a tree, what really
//! happened behind them, and a [`World`] that starts, crashes and stops trees on them. Nothing random but the seed;
//! time is tokio's, so that a paused clock drives everything.

mod clock;
pub mod engine;
mod files;
mod journal;
mod outward;
mod random;
mod rooms;
mod trouble;
mod watch;
mod world;

pub use clock::{FakeClock, SeededIds};
pub use engine::FakeEngine;
pub use files::{FakeOutput, FakeSpace, FakeWorkdirs};
pub use journal::MemoryJournal;
pub use outward::{FakeOutward, OutwardMode};
pub use random::Random;
pub use rooms::FakeRooms;
pub use trouble::{Fate, Fuse, Rates, Trace, Trouble};
pub use watch::{PortCall, Watch, Watcher};
pub use world::World;
