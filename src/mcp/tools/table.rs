//! The table of tools: what `tools/list` shows and what `tools/call` runs.
//!
//! In: a tool's name. Out: its [`Tool`] entry.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use futures_util::future::BoxFuture;
use rmcp::model::{JsonObject, ToolAnnotations};

use super::{
    answer_request, control, execute, files, health, history, list, message, rooms, status,
};
use crate::mcp::answer::Done;
use crate::mcp::args::{Arg, Args, input_schema};
use crate::mcp::call::Call;
use crate::nearest::nearest;

/// Hints for clients about what a call does.
#[derive(Clone, Copy)]
pub(crate) enum Effect {
    /// Reads only.
    Reads,
    /// Adds something; a repeat adds again.
    Adds,
    /// Settles something for good (ends work, lets the worker do what it asked for); a repeat changes nothing more.
    Decides,
}

/// One tool.
pub(crate) struct Tool {
    /// Its name.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    /// For the model.
    pub(crate) about: &'static str,
    /// Its arguments.
    pub(crate) args: &'static [Arg],
    /// What a call does.
    pub(crate) effect: Effect,
    /// The work reaches outside (a worker with a shell and the network).
    pub(crate) open_world: bool,
    /// Schema of its answer.
    pub(crate) output: fn() -> JsonObject,
    /// Runs it on checked arguments.
    pub(crate) run: fn(Call, Args) -> BoxFuture<'static, Done>,
}

/// All of them, in the order shown.
pub(crate) static TOOLS: [Tool; 15] = [
    execute::TOOL,
    status::TOOL,
    message::TOOL,
    control::TOOL,
    answer_request::TOOL,
    history::TOOL,
    files::LIST,
    files::READ,
    list::TOOL,
    rooms::ADD,
    rooms::REMOVE,
    rooms::LIST,
    rooms::ARCHIVE,
    health::PING,
    health::HEALTH,
];

/// The tool of this name, or what to say instead.
pub(crate) fn find(name: &str) -> Result<&'static Tool, String> {
    TOOLS.iter().find(|tool| tool.name == name).ok_or_else(|| {
        let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
        match nearest(name, &names) {
            Some(near) => format!("there is no tool of this name; did you mean {near}?"),
            None => format!(
                "there is no tool of this name; the tools are {}",
                names.join(", ")
            ),
        }
    })
}

/// As `tools/list` shows them.
pub(crate) fn listed() -> &'static [rmcp::model::Tool] {
    static LISTED: LazyLock<Vec<rmcp::model::Tool>> =
        LazyLock::new(|| TOOLS.iter().map(Tool::listed).collect());
    &LISTED
}

impl Tool {
    fn listed(&self) -> rmcp::model::Tool {
        let mut tool = rmcp::model::Tool::new(
            Cow::Borrowed(self.name),
            Cow::Borrowed(self.about),
            Arc::new(input_schema(self.args)),
        );
        tool.title = Some(self.title.to_owned());
        tool.output_schema = Some(Arc::new((self.output)()));
        let hints = ToolAnnotations::with_title(self.title).open_world(self.open_world);
        tool.annotations = Some(match self.effect {
            Effect::Reads => hints.read_only(true).destructive(false).idempotent(true),
            Effect::Adds => hints.read_only(false).destructive(false).idempotent(false),
            Effect::Decides => hints.read_only(false).destructive(true).idempotent(true),
        });
        tool
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
