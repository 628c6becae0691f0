//! The journal in SQLite, through its port, on real files.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod crash;
pub(crate) mod faults;
mod fixtures;
mod full_disk;
mod paging;
mod retention;
mod store;
pub(crate) mod support;
