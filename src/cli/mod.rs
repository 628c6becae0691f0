//! The command line: everything that a person types and sees.
//!
//! In: `argv`, the environment, signals, the answers of a server. Out: text or JSON on standard output, progress and
//! errors on standard error, an exit code.
//!
//! - `args` declares the commands, `entry` runs them, `error` turns failures into messages and exit codes.
//! - `client` and `rpc` talk to a server, `answers` is what it says, `bridge` passes MCP on for clients that want stdio.
//! - `read`, `control` and `answer` are the commands that only talk to a server; `serve` is the server in the foreground, `reload` its SIGHUP.
//! - `assembly` puts the adapters of a server together.
//! - `embedded` is a server of our own for one command; `run` and `demo` use it; `leftovers` proves that it is gone.
//! - `follow` watches a task, `prompt` asks the person there what the worker asks; `progress`, `report`, `diff`, `tree`,
//!   `table` draw what is seen; `terminal` prints it.
//! - `config` reads, checks and shows the settings; `doctor` checks the prerequisites, `home` the place where
//!   Chargehand lives; `journal` looks after the journal.

mod answer;
mod answers;
mod args;
mod assembly;
mod bridge;
mod client;
mod config;
mod control;
mod demo;
mod diff;
mod docker;
mod doctor;
mod doctor_docker;
#[cfg(feature = "matrix")]
mod doctor_matrix;
mod embedded;
mod entry;
mod error;
mod follow;
mod home;
mod journal;
mod leftovers;
mod letta;
mod log_line;
mod logging;
mod matrix;
mod progress;
mod prompt;
mod read;
mod reap;
mod register;
mod reload;
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
