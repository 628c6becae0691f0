//! The event store in SQLite: one file, one writer, readers beside it.
//!
//! In: batches of numbered events with the task's row, from the journal actor; reads of the registry and the outward
//! actors. Out: durable batches (one transaction for all of a call), pages of events and tasks, what a start needs.
//!
//! `store` is the port; `write` the only way to change anything; `append`, `load`, `read` the statements, `forget` those of
//! retention, in SQL that PostgreSQL understands too; `dialect` all that is special to SQLite; `payload` how events become text and come back;
//! `reserve` the disk space kept for the last words; `maintenance` copies and exports, `inspect` looks for damage.

mod append;
mod dialect;
mod forget;
mod inspect;
mod load;
mod maintenance;
mod payload;
mod read;
mod reserve;
mod rooms;
mod store;
mod write;

pub use inspect::{Depth, Finding, JournalReport, inspect};
pub use maintenance::{StoredEvent, backup, export, tasks_like};
pub use store::{JournalSettings, SqliteJournal};
