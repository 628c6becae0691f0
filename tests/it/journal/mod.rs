//! The journal in SQLite, through its port, on real files.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod crash;
mod faults;
mod fixtures;
mod paging;
mod store;
pub(crate) mod support;
