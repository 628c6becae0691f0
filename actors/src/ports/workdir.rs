//! The directories that tasks work in: made, compared with their baseline, read. Hostile content is expected.

use serde::{Deserialize, Serialize};

use super::{PortFuture, TextChunk};
use crate::command::Source;
use crate::event::{Changes, FileMark};
use crate::id::{AttemptId, TaskId};

/// A workdir that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Absolute path on the machine that the workdirs are on: Chargehand's, or that of an engine that keeps them itself.
    pub directory: String,
    /// What is different from an ordinary workdir, if anything: no diff, shared with other tasks, …
    pub note: Option<String>,
}

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Regular file.
    File,
    /// Symbolic link (never followed).
    Symlink,
    /// Anything else: listed, never opened.
    Other,
}

/// One file of a workdir.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the workdir; bytes that are not UTF-8 are shown as `\xNN`.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes; none = not known without reading the file.
    pub size: Option<u64>,
    /// Changed against the baseline; none = as it was, unless the list's note says that changes are not known.
    pub mark: Option<FileMark>,
}

/// A page of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    /// Sorted by path; deleted files included, with their mark.
    pub files: Vec<FileEntry>,
    /// How many match in all.
    pub total: u64,
    /// Skipped before this page.
    pub offset: u64,
    /// The workdir has more than the walker looks at.
    pub cut: bool,
    /// What a reader must know to understand the list, such as marks that are missing.
    pub note: Option<String>,
}

/// Content of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// Relative to the workdir.
    pub path: String,
    /// Text, or base64 when `binary`.
    pub content: String,
    /// The content is base64.
    pub binary: bool,
    /// A guess at the type, such as `image/png`, `text/plain`.
    pub media_type: String,
    /// Size of the whole file in bytes.
    pub size: u64,
    /// First byte returned.
    pub offset: u64,
    /// Bytes returned.
    pub length: u64,
    /// Where to read on; absent at the end.
    pub next_offset: Option<u64>,
    /// Said when the content may differ from the file.
    pub note: Option<String>,
}

/// Why it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkdirError {
    /// The source cannot be used: the text says what and why.
    #[error("{0}")]
    BadSource(String),
    /// The path is not allowed: outside, a link, a device, …
    #[error("{0}")]
    Refused(String),
    /// There is no such file or workdir.
    #[error("{0}")]
    NotFound(String),
    /// Too large for one answer.
    #[error("{0}")]
    TooLarge(String),
    /// The disk or git failed; trying again may help.
    #[error("{0}")]
    Fault(String),
}

/// The workdirs.
pub trait Workdirs: Send + Sync + 'static {
    /// Makes the attempt's workdir and takes its baseline. Repeatable: a finished preparation is found again,
    /// a half-made one is thrown away.
    fn prepare(
        &self,
        attempt: AttemptId,
        source: Source,
    ) -> PortFuture<'_, Result<Prepared, WorkdirError>>;

    /// Compares with the baseline, writes the patch file and the branch. Repeatable.
    fn collect(&self, attempt: AttemptId) -> PortFuture<'_, Result<Changes, WorkdirError>>;

    /// Lists files with their marks.
    fn list(
        &self,
        task: TaskId,
        prefix: String,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<FileList, WorkdirError>>;

    /// Reads a file, confined to the workdir.
    fn read(
        &self,
        task: TaskId,
        path: String,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<FileContent, WorkdirError>>;

    /// Reads the patch file.
    fn patch(
        &self,
        task: TaskId,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<TextChunk, WorkdirError>>;

    /// Removes the workdirs of a task with their baselines and patches. Nothing there is fine.
    fn remove(&self, task: TaskId) -> PortFuture<'_, Result<(), WorkdirError>>;
}
