//! Wall time and fresh identifiers. Elapsed time comes from tokio, which tests can pause.

use uuid::Uuid;

use crate::id::WallTime;

/// The wall clock.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> WallTime;
}

/// Fresh identifiers and randomness.
pub trait Ids: Send + Sync + 'static {
    /// A random (version 4) UUID.
    fn uuid(&self) -> Uuid;

    /// 26 characters `[0-9a-f]` that sort after every earlier one of this process and, by time, of earlier ones:
    /// the tail of message and part ids (OpenCode before 1.18.15 compares them).
    fn ascending(&self) -> String;

    /// A number in `0.0..1.0` for back-off jitter.
    fn jitter(&self) -> f64;
}
