//! The command line: everything that a person types and sees.
//!
//! In: `argv`, the environment, signals, the answers of a server. Out: text or JSON on standard output, progress and
//! errors on standard error, an exit code.
//!
//! - `args` declares the commands, `entry` runs them, `error` turns failures into messages and exit codes.
//! - `client` and `rpc` talk to a server, `answers` is what it says, `bridge` passes MCP on for clients that want stdio.
//! - `read` and `control` are the commands that only talk to a server; `serve` is the server in the foreground.
//! - `assembly` puts the adapters of a server together.
//! - `embedded` is a server of our own for one command; `run` and `demo` use it; `leftovers` proves that it is gone.
//! - `follow` watches a task; `progress`, `report`, `diff`, `tree`, `table` draw what is seen; `terminal` prints it.
//! - `doctor` checks the prerequisites.

mod answers;
mod args;
mod assembly;
mod bridge;
mod client;
mod control;
mod demo;
mod diff;
mod doctor;
mod embedded;
mod entry;
mod error;
mod follow;
mod leftovers;
mod logging;
mod progress;
mod read;
mod report;
mod rpc;
mod run;
mod sample;
mod serve;
mod table;
mod terminal;
mod tree;

pub use args::{Cli, Command};
pub use entry::main;
pub use error::{CliError, Exit};
