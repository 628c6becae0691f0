//! What becomes of a message that an App Server accepted: read from what it tells a connection of the conversation.
//!
//! In: the acceptance, then every frame heard after it. Out: whether the message's turn has begun, waits, or will not be.
//! Pure; the frames are those of Letta Code 0.34.12.

use serde_json::Value;

/// What is known of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing that decides it.
    Open,
    /// The agent has it: its turn has begun.
    Begun,
    /// Its turn ended without having begun, for this reason; nothing of it is kept.
    Lost(String),
}

/// A message on its way to its turn.
#[derive(Debug)]
pub(super) struct Turn {
    message: String,
    conversation: Value,
    waits: bool,
}

impl Turn {
    /// Of the message with this id, or with it and `:` and more, in the conversation of this runtime.
    pub(super) fn new(message: &str, runtime: &Value) -> Self {
        Self {
            message: message.to_owned(),
            conversation: runtime["conversation_id"].clone(),
            waits: false,
        }
    }

    /// Whether it is in the queue behind another turn. A server takes a client's message out of the queue only while some
    /// client listens to the conversation.
    pub(super) const fn waits(&self) -> bool {
        self.waits
    }

    /// The acceptance: a turn that begins, or a place in the queue.
    pub(super) fn accepted(&mut self, said: &Value) {
        self.waits = said["disposition"] == "queued";
    }

    /// One more frame.
    pub(super) fn hears(&mut self, said: &Value) -> Fate {
        let of = &said["runtime"]["conversation_id"];
        if *of != self.conversation {
            return Fate::Open;
        }
        match said["type"].as_str().unwrap_or_default() {
            "update_queue" => {
                self.waits = self.is_in(&said["queue"]);
                Fate::Open
            }
            // Until it leaves the queue everything else is of the turn before it.
            _ if self.waits => Fate::Open,
            "update_loop_status" if is_some(&said["loop_status"]["active_run_ids"][0]) => {
                Fate::Begun
            }
            "stream_delta" if is_some(&said["delta"]["run_id"]) => Fate::Begun,
            "turn_finished" => said["error"]
                .as_str()
                .map_or(Fate::Begun, |error| Fate::Lost(error.to_owned())),
            _ => Fate::Open,
        }
    }

    fn is_in(&self, queue: &Value) -> bool {
        let items = queue.as_array().into_iter().flatten();
        items
            .filter_map(|item| item["client_message_id"].as_str())
            .any(|id| {
                let rest = id.strip_prefix(&self.message);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            })
    }
}

fn is_some(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(kind: &str, more: Value) -> Value {
        let mut said = json!({"type": kind, "runtime": {"agent_id": "a", "conversation_id": "c"}});
        for (name, value) in more.as_object().into_iter().flatten() {
            said[name] = value.clone();
        }
        said
    }

    fn turn(disposition: &str) -> Turn {
        let mut turn = Turn::new("task:7", &json!({"conversation_id": "c"}));
        turn.accepted(&of("input_accepted", json!({"disposition": disposition})));
        turn
    }

    fn status(runs: Value) -> Value {
        of(
            "update_loop_status",
            json!({"loop_status": {"status": "PROCESSING_API_RESPONSE", "active_run_ids": runs}}),
        )
    }

    #[test]
    fn a_turn_has_begun_with_its_first_run() {
        let mut turn = turn("started");
        assert_eq!(turn.hears(&status(json!([]))), Fate::Open);
        let other = json!({"type": "stream_delta", "delta": {"run_id": "run-1"},
            "runtime": {"conversation_id": "another"}});
        assert_eq!(turn.hears(&other), Fate::Open);
        assert_eq!(turn.hears(&status(json!(["run-1"]))), Fate::Begun);
    }

    #[test]
    fn a_turn_that_ends_before_it_began_is_lost() {
        let error = "Conversation c already has an active run (run-1)";
        let end = of(
            "turn_finished",
            json!({"error": error, "stop_reason": "error"}),
        );
        assert_eq!(turn("started").hears(&end), Fate::Lost(error.to_owned()));
        let end = of("turn_finished", json!({"stop_reason": "end_turn"}));
        assert_eq!(turn("started").hears(&end), Fate::Begun);
    }

    #[test]
    fn what_waits_is_not_taken_for_the_turn_before_it() {
        let mut turn = turn("queued");
        let queue = |ids: &[&str]| {
            let items: Vec<Value> = ids
                .iter()
                .map(|id| json!({"client_message_id": id}))
                .collect();
            of("update_queue", json!({"queue": items}))
        };
        assert!(turn.waits());
        turn.hears(&queue(&["task:70"]));
        assert!(!turn.waits(), "of another");
        turn.hears(&queue(&["task:7:again"]));
        assert!(turn.waits(), "sent again");
        assert_eq!(turn.hears(&queue(&["other", "task:7"])), Fate::Open);
        assert_eq!(turn.hears(&status(json!(["run-1"]))), Fate::Open);
        let end = of("turn_finished", json!({"stop_reason": "end_turn"}));
        assert_eq!(turn.hears(&end), Fate::Open);
        assert!(turn.waits());
        assert_eq!(turn.hears(&queue(&[])), Fate::Open);
        assert!(!turn.waits());
        assert_eq!(turn.hears(&status(json!(["run-2"]))), Fate::Begun);
    }
}
