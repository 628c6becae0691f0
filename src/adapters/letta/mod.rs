//! Letta, the planner's home: its memory of tasks and notices to its agents.
//!
//! In: calls of the memory and notices ports. Out: requests to a classic server (REST, memory blocks) or to Letta Code's App
//! Server (WebSocket, memory files). `planner` holds the ports and finds out which it is; `classic` speaks through `rest`,
//! `app_server` through `socket`, and `app_server_turn` reads what became of a message; `text` and `json_block` make what the
//! agent reads. The contract, with what each failure means, is in docs/design/letta.md.

mod app_server;
mod app_server_turn;
mod classic;
mod json_block;
mod planner;
mod rest;
mod settings;
mod socket;
mod text;

pub use planner::Letta;
pub use rest::{Answer, Rest};
pub use settings::{EventWords, Format, Kind, LettaSettings, Role, Token};

/// A task for the tests of the texts.
#[cfg(test)]
fn sample(phase: chargehand_actors::event::Phase) -> chargehand_actors::view::TaskView {
    let file = include_str!("../../../tests/fixtures/view_v1.json");
    let fixture = serde_json::from_str::<chargehand_actors::view::TaskView>(file);
    #[expect(
        clippy::unwrap_used,
        reason = "a fixture that cannot be read fails the test"
    )]
    let mut view = fixture.unwrap();
    view.phase = phase;
    view.requests.clear();
    view.todos.clear();
    view.files_touched.clear();
    view.failure = None;
    view.result = None;
    view
}
