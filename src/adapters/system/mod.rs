//! What the machine itself gives: wall clock, identifiers, room on disks, the locked data directory.
//!
//! In: the system's clock, its random numbers, paths. Out: the clock, ids and space ports, and the instance.

mod clock;
mod ids;
mod instance;
mod space;

pub use clock::SystemClock;
pub use ids::SystemIds;
pub use instance::{DataDir, DataDirError};
pub use space::DiskSpace;
