//! What the workdirs are told at the start: where they lie and how much of a hostile tree is looked at.

use std::path::PathBuf;

use chargehand_actors::id::InstanceId;

/// Where workdirs and their baselines lie.
#[derive(Clone, Debug)]
pub struct WorkdirSettings {
    /// Absolute path; `<root>/<task>/<attempt>/work` is a workdir.
    pub root: PathBuf,
    /// Absolute path outside `root`; baselines, patches and branches, never shown to a worker.
    pub store: PathBuf,
    /// The git program; looked up in `PATH` when absent.
    pub git: Option<PathBuf>,
    /// Stamped on the directory of each task.
    pub instance: InstanceId,
    /// How much is looked at, copied and answered.
    pub limits: WorkdirLimits,
}

/// Bounds that hold whatever a worker leaves behind. All sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkdirLimits {
    /// Entries (files, links, directories) that a walk looks at.
    pub entries: u64,
    /// Directories below one another.
    pub depth: usize,
    /// A larger file is no part of a baseline or diff.
    pub file_bytes: u64,
    /// All files of a baseline together.
    pub total_bytes: u64,
    /// A larger patch is not written.
    pub patch_bytes: u64,
    /// The part of the diff that stands in the result.
    pub diff_bytes: usize,
    /// The largest piece of a file or text in one answer.
    pub piece_bytes: u64,
    /// Entries that are copied from a given directory.
    pub source_entries: u64,
    /// Bytes that are copied from a given directory.
    pub source_bytes: u64,
}

impl Default for WorkdirLimits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            entries: 100_000,
            depth: 256,
            file_bytes: 20 * MIB,
            total_bytes: 1024 * MIB,
            patch_bytes: 100 * MIB,
            diff_bytes: 50 * 1024,
            piece_bytes: 4 * MIB,
            source_entries: 500_000,
            source_bytes: 10 * 1024 * MIB,
        }
    }
}
