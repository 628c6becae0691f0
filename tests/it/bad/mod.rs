//! Bad input of every kind: each case gets the clear error and loses nothing. docs/design/bad-input.md is the list.
//!
//! What is thrown at the server goes to a real server on a real tree with a real journal, beside a task that runs; what it
//! had before and after is compared.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what is wrong by failing"
)]

mod bystander;
mod engine;
mod files;
mod full_disk;
mod phases;
mod raw;
mod read_only;
mod sources;
mod start;
mod transport;
