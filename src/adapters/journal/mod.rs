//! The event store in SQLite: one file, one writer, readers beside it.
//!
//! In: batches of numbered events with the task's row, from the journal actor; reads of the registry and the outward
//! actors. Out: durable batches (one transaction for all of a call), pages of events and tasks, what a start needs.
//!
//! `store` is the port; `write` the only way to change anything; `append`, `load`, `read` the statements, in SQL that
//! PostgreSQL understands too; `dialect` all that is special to SQLite; `payload` how events become text and come back;
//! `reserve` the disk space kept for the last words.

mod append;
mod dialect;
mod load;
mod payload;
mod read;
mod reserve;
mod store;
mod write;

pub use store::{JournalSettings, SqliteJournal};
