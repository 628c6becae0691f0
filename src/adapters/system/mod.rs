//! What the machine itself gives: wall clock, identifiers, the locked data directory.
//!
//! In: the system's clock, its random numbers, a path. Out: the clock and ids ports, and the instance.

mod clock;
mod ids;
mod instance;

pub use clock::SystemClock;
pub use ids::SystemIds;
pub use instance::{DataDir, DataDirError};
