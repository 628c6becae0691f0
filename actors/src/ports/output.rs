//! The worker's output as it comes: appended to a file per task, read by offset.

use super::PortFuture;
use crate::id::TaskId;

/// A piece of a stored text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextChunk {
    /// Offset of its first byte.
    pub offset: u64,
    /// The text; cut at character boundaries, invalid bytes replaced.
    pub text: String,
    /// Offset to read on from.
    pub next_offset: u64,
    /// Size of the whole text now.
    pub total: u64,
}

/// Why it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output of the task cannot be used: {0}")]
pub struct OutputError(pub String);

/// The output files.
pub trait OutputStore: Send + Sync + 'static {
    /// Appends (up to the store's cap a task; beyond it a mark is written once and the rest dropped).
    fn append(&self, task: TaskId, text: String) -> PortFuture<'_, Result<(), OutputError>>;

    /// Reads at most `limit` bytes from `offset`.
    fn read(
        &self,
        task: TaskId,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<TextChunk, OutputError>>;

    /// Removes what is kept of a task; nothing there is fine.
    fn remove(&self, task: TaskId) -> PortFuture<'_, Result<(), OutputError>>;
}
