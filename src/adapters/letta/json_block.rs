//! The original system's memory block (version 1.0.0), for deployments whose programs read it. Pure.
//!
//! In: a task and its newest events. Out: the JSON, within the limit whatever the task says: the server does not enforce
//! one, and the whole block goes into the agent's prompt.

use chargehand_actors::event::Phase;
use chargehand_actors::ports::MemoryPage;
use serde_json::{Value, json};

use super::settings::EventWords;
use super::text::cut;
use chargehand_actors::event::CommittedEvent;

/// The block's value.
pub(super) fn block(
    page: &MemoryPage,
    most_events: u32,
    limit: usize,
    words: fn(&CommittedEvent) -> EventWords,
) -> String {
    // Long texts give way first, then old events.
    let mut text_chars = limit / 2;
    let mut events = usize::try_from(most_events).unwrap_or(usize::MAX);
    loop {
        let value = untagged(&value(page, events, text_chars, words));
        if value.chars().count() <= limit || (text_chars == 0 && events == 0) {
            return value;
        }
        if text_chars > 200 {
            text_chars /= 2;
        } else if events > 0 {
            events /= 2;
        } else {
            text_chars = 0;
        }
    }
}

/// JSON in which nothing ends the tag of the prompt that it stands in. Brackets stand in texts only, where they may be escaped.
fn untagged(value: &Value) -> String {
    let text = value.to_string();
    text.replace('<', "\\u003c").replace('>', "\\u003e")
}

fn value(
    page: &MemoryPage,
    most_events: usize,
    text_chars: usize,
    words: fn(&CommittedEvent) -> EventWords,
) -> Value {
    let view = &page.view;
    let shown = page.events.len().min(most_events);
    let newest = &page.events[page.events.len() - shown..];
    let mut events: Vec<Value> = Vec::with_capacity(shown + 1);
    let before = view.events_total.saturating_sub(shown as u64);
    if before > 0 {
        let at = newest.first().map_or(view.created_at, |first| first.at);
        events.push(json!({
            "timestamp": at.0, "type": "task_progress",
            "message": format!("{before} earlier events are in the task's history"),
        }));
    }
    for committed in newest {
        let EventWords { kind, sentence } = words(committed);
        events.push(json!({
            "timestamp": committed.at.0, "type": kind, "message": cut(&sentence, text_chars.min(1_000)),
        }));
    }
    let status = match view.phase {
        Phase::Queued => "pending",
        other => other.status(),
    };
    json!({
        "version": "1.0.0",
        "task_id": view.id.to_string(),
        "agent_id": view.caller.agent_id,
        "status": status,
        "created_at": view.created_at.0,
        // Of what is told here, not of the telling: the same state is the same text.
        "updated_at": newest.last().map_or(view.phase_since, |last| last.at).0,
        "events": events,
        "artifacts": artifacts(page, text_chars),
        "metadata": {
            "task_description": cut(&view.spec.description, text_chars.min(2_000)),
            "idempotency_key": view.idempotency_key.as_deref().map(|key| cut(key, 200)),
        },
    })
}

fn artifacts(page: &MemoryPage, text_chars: usize) -> Vec<Value> {
    let view = &page.view;
    let Some(at) = view.ended_at else {
        return Vec::new();
    };
    let artifact = |kind: &str, name: &str, text: &str| json!({"timestamp": at.0, "type": kind, "name": name, "content": cut(text, text_chars)});
    let output = view
        .result
        .as_ref()
        .filter(|result| !result.text.is_empty());
    let output = output.map(|result| artifact("output", "execution_output", &result.text));
    let error = view.failure.as_ref();
    let error = error.map(|failure| artifact("error", "execution_error", &failure.message));
    output.into_iter().chain(error).collect()
}

#[cfg(test)]
#[path = "json_block_tests.rs"]
mod tests;
