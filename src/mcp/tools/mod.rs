//! The ten tools, one file a family. Each decodes its arguments, sends one command to the tree and shapes the reply.

mod control;
mod execute;
mod files;
mod health;
mod history;
mod list;
mod message;
mod source;
mod status;
mod table;

pub(crate) use table::{find, listed};
