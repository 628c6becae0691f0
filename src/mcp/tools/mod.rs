//! The fifteen tools, one file a family. Each decodes its arguments, sends one command to the tree and shapes the reply.

mod allowed;
mod answer_request;
mod control;
mod execute;
mod files;
mod health;
mod history;
mod list;
mod message;
mod policy;
mod rooms;
mod source;
mod status;
mod table;

#[cfg(test)]
pub(crate) use table::{TOOLS, Tool};
pub(crate) use table::{find, listed};
