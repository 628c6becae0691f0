//! Whether the disks have room for new work.

use super::PortFuture;

/// The disks that tasks and their records are written to.
pub trait Space: Send + Sync + 'static {
    /// Whether anybody wants to know: `false` means that [`Self::low`] always says that there is room.
    fn watched(&self) -> bool;

    /// Why nothing new should begin, for a person: which disk, how much is free, how much must be. `None` = there is
    /// room, or it cannot be found out.
    fn low(&self) -> PortFuture<'_, Option<String>>;
}
