//! A task that waits: its command has begun, and goes on when the test lets it.
//!
//! In: a product. Out: a task in its command, for as long as a test wants.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::PathBuf;

use serde_json::json;

use crate::harness::bash;
use crate::harness_product::{Product, lines, turns, until, wait_for};

/// A task in its command.
pub(crate) struct Gated {
    pub(crate) id: String,
    effects: PathBuf,
    gate: PathBuf,
}

impl Gated {
    /// Delegates one and waits until its command has begun; the task says `text` when the command is over. Files of the test are
    /// called by `name`.
    pub(crate) async fn begin(product: &Product, name: &str, text: &str) -> Self {
        let place = product.directory.path();
        let effects = place.join(format!("effects-{name}"));
        let gate = place.join(format!("gate-{name}"));
        let command = format!("echo begun >> {}; {}", effects.display(), wait_for(&gate));
        let script = turns(json!([bash(&command), {"text": text}]));
        let id = product.client.submit(script, json!({})).await;
        until("the command has begun", || async {
            (lines(&effects) == 1).then_some(())
        })
        .await;
        product.client.until_phase(&id, "running").await;
        Self { id, effects, gate }
    }

    /// Lets the command go on.
    pub(crate) fn open(&self) {
        std::fs::write(&self.gate, "").unwrap();
    }

    /// How often the command has begun.
    pub(crate) fn times(&self) -> usize {
        lines(&self.effects)
    }
}
