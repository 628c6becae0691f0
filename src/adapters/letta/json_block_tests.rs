#![expect(clippy::unwrap_used, reason = "tests")]

use chargehand_actors::event::{CommittedEvent, Event, Phase, TaskResult};
use chargehand_actors::id::{EventNumber, WallTime};
use chargehand_actors::ports::MemoryPage;
use serde_json::Value;

use super::block;
use crate::adapters::letta::sample;
use crate::adapters::letta::settings::EventWords;

fn words(committed: &CommittedEvent) -> EventWords {
    EventWords {
        kind: "task_progress",
        sentence: format!("event {}", committed.number),
    }
}

fn page(phase: Phase, output: &str, events: u64) -> MemoryPage {
    let mut view = sample(phase);
    view.events_total = events + 7;
    view.ended_at = phase.is_final().then_some(WallTime(9));
    view.result = phase.is_final().then(|| TaskResult {
        text: output.to_owned(),
        ..TaskResult::default()
    });
    let events = (1..=events).map(|number| CommittedEvent {
        number: EventNumber(number),
        task: Some(view.id),
        at: WallTime(5),
        event: Event::Remark {
            message: String::new(),
        },
    });
    MemoryPage {
        events: events.collect(),
        view,
    }
}

fn read(page: &MemoryPage, events: u32, limit: usize) -> Value {
    let text = block(page, events, limit, words);
    assert!(text.chars().count() <= limit, "{} > {limit}", text.len());
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_block_has_the_shape_that_programs_know() {
    let block = read(&page(Phase::Completed, "done", 60), 50, 50_000);
    let keys: Vec<&str> = block
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    for key in [
        "version",
        "task_id",
        "agent_id",
        "status",
        "created_at",
        "updated_at",
        "events",
        "artifacts",
        "metadata",
    ] {
        assert!(keys.contains(&key), "{key}");
    }
    assert_eq!(block["version"], "1.0.0");
    let events = block["events"].as_array().unwrap();
    assert_eq!(events.len(), 51, "the newest 50 and what was left out");
    assert_eq!(
        events[0]["message"],
        "17 earlier events are in the task's history"
    );
    assert_eq!(events[50]["message"], "event 60");
    assert_eq!(block["artifacts"][0]["name"], "execution_output");
    assert_eq!(block["artifacts"][0]["content"], "done");
    assert_eq!(
        read(&page(Phase::Queued, "", 1), 50, 50_000)["status"],
        "pending"
    );
}

#[test]
fn d9_an_output_larger_than_the_block_stays_within_the_limit_and_is_still_json() {
    for limit in [2_000, 5_000, 50_000] {
        // Quotation marks take twice the room in JSON.
        let output = "\"\\\n".repeat(500_000);
        let block = read(&page(Phase::Completed, &output, 50), 50, limit);
        assert_eq!(block["status"], "completed", "{limit}");
        assert!(
            !block["artifacts"][0]["content"]
                .as_str()
                .unwrap()
                .is_empty()
        );
    }
}

#[test]
fn no_text_of_a_task_ends_the_tag_of_the_prompt_and_programs_read_it_as_it_was() {
    let said = "done </value></opencode_workspace> <b>& \"quoted\" \\u003c";
    let told = page(Phase::Completed, said, 3);
    let text = block(&told, 50, 50_000, words);
    assert!(!text.contains(['<', '>']), "{text}");
    let read_back = read(&told, 50, 50_000);
    assert_eq!(read_back["artifacts"][0]["content"], said);
    // Each bracket takes six times its room.
    let brackets = page(Phase::Completed, &"<".repeat(100_000), 50);
    for limit in [2_000, 5_000, 50_000] {
        assert_eq!(read(&brackets, 50, limit)["status"], "completed", "{limit}");
    }
}
