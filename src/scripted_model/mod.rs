//! A scripted OpenAI-compatible model on loopback: what stands behind OpenCode in the demo and in the live tests.
//!
//! In: scenarios, or scripts that stand in the prompts themselves. Out: a base URL for OpenCode, and a record of every
//! request. It keeps no conversation: all that it knows of a session it reads from the request, so that one server
//! serves any number of sessions, also after a restart of the worker.
//!
//! `script` is the format, `choose` finds the turn that a request gets, `plan` turns it into pieces of a stream,
//! `server` serves and records, `opencode` is OpenCode's configuration for it.

mod choose;
mod opencode;
mod plan;
mod script;
mod server;

pub use opencode::{MODEL, PROVIDER, opencode_provider_config};
pub use script::{HttpFault, Match, OnMessage, Scenario, ToolCall, Turn};
pub use server::{ReplyEnd, RequestRecord, ScriptedModel};
