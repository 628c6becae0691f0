//! Workdirs on a real disk with a real git.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod confined;
mod hostile;
mod life;
mod marks;
mod sources;
pub(crate) mod support;
