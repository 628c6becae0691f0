//! The event store in SQLite.
