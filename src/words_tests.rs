#![expect(clippy::unwrap_used, reason = "tests")]

use chargehand_actors::event::Event;
use serde_json::{Value, json};

use super::{cut, duration, original_type, precise_type, sentence};

/// One of every event, as it stands in the journal.
fn all() -> Vec<Value> {
    let spec = json!({"description": "d", "engine": "local", "timeout_ms": 1000,
        "source": {"kind": "repository", "url": "https://example.org/a", "reference": "main"}});
    let session = json!({"id": "ses_1", "directory": "/w", "server": "s"});
    let prompt = json!({"number": 1, "kind": "first", "message_id": "msg_1", "part_id": "prt_1", "text": "t"});
    let usage = json!({"input": 10, "output": 2, "reasoning": 1, "cache_read": 5, "cache_write": 0, "cost": 0.5});
    let changes = json!({"files": [], "files_total": 2, "additions": 3, "deletions": 1, "diff": "", "diff_bytes": 0});
    let result = json!({"text": "done", "changes": changes, "usage": usage});
    let failure = json!({"kind": "model", "message": "no key"});
    let request = json!({"id": "per_1", "session": "ses_1", "text": "May I run rm?", "kind": "permission",
        "permission": "bash", "patterns": ["rm"]});
    vec![
        json!({"type": "task_accepted", "spec": spec, "caller": {"token": "local", "agent_id": "a"}, "fingerprint": "f"}),
        json!({"type": "attempt_started", "attempt": 1, "engine": "local"}),
        json!({"type": "workdir_prepared", "directory": "/w"}),
        json!({"type": "session_wanted"}),
        json!({"type": "session_opened", "session": session, "worker": "w"}),
        json!({"type": "prompt_wanted", "prompt": prompt}),
        json!({"type": "prompt_accepted", "number": 1}),
        json!({"type": "prompt_seen", "number": 1}),
        json!({"type": "prompt_taken_up", "number": 1}),
        json!({"type": "message_received", "message_id": "m1", "message_type": "correction", "text": "no", "by": "local"}),
        json!({"type": "message_taken_up", "message_id": "m1"}),
        json!({"type": "message_dropped", "message_id": "m1", "reason": "the task ended"}),
        json!({"type": "control_received", "signal": "cancel", "reason": "enough", "by": "local"}),
        json!({"type": "task_paused", "pause": "aborted"}),
        json!({"type": "task_resumed", "pause": "aborted"}),
        json!({"type": "request_opened", "request": request, "expires_at": 5, "default": {"answer": "deny", "message": "no"}}),
        json!({"type": "answer_wanted", "request": "per_1", "answer": {"answer": "choices", "choices": [["a"]]}, "by": "ann"}),
        json!({"type": "request_closed", "request": "per_1", "end": "defaulted"}),
        json!({"type": "abort_wanted", "reason": "watchdog", "detail": "silent"}),
        json!({"type": "abort_seen"}),
        json!({"type": "worker_changed", "worker": "w2"}),
        json!({"type": "resume_wanted", "resume": 1, "reason": "the worker died"}),
        json!({"type": "run_ended", "outcome": "failed", "failure": failure, "text": "", "usage": usage}),
        json!({"type": "task_completed", "result": result, "running_ms": 61000}),
        json!({"type": "task_failed", "failure": failure, "running_ms": 100}),
        json!({"type": "task_timed_out", "message": "5 min are over", "running_ms": 300000}),
        json!({"type": "task_cancelled", "by": "local", "running_ms": 0}),
        json!({"type": "attempt_removed", "attempt": 1}),
        json!({"type": "attempt_removal_delayed", "attempt": 1, "reason": "engine is down"}),
        json!({"type": "late_arrival", "what": "a success"}),
        json!({"type": "tools_finished", "tools": [{"tool": "bash", "title": "cargo test", "failed": true},
            {"tool": "read", "title": ""}, {"tool": "edit", "title": "a.rs"}, {"tool": "edit", "title": "b.rs"}]}),
        json!({"type": "step_finished", "steps": 2, "usage": usage}),
        json!({"type": "files_touched", "files": ["a.rs"]}),
        json!({"type": "todos_changed", "todos": [{"content": "x", "status": "completed"}]}),
        json!({"type": "provider_retry", "attempt": 2, "message": "overloaded"}),
        json!({"type": "activity_changed", "doing": "runs bash: cargo test"}),
        json!({"type": "remark", "message": "silent for 5 min"}),
        json!({"type": "engine_reconciled", "engine": "local", "adopted": [], "stale": ["x"]}),
    ]
}

#[test]
fn every_event_has_its_words() {
    let mut table = Vec::new();
    for value in all() {
        let event: Event = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(
            precise_type(&event),
            value["type"],
            "the journal's word is the precise type"
        );
        let text = sentence(&event);
        assert_ne!(
            text,
            precise_type(&event).replace('_', " "),
            "no sentence of its own"
        );
        table.push(format!(
            "{:24} {:20} {text}",
            precise_type(&event),
            original_type(&event)
        ));
    }
    insta::assert_snapshot!(table.join("\n"));
}

#[test]
fn the_table_of_the_documentation_is_complete() {
    let documented = include_str!("../docs/tools.md");
    for value in all() {
        let event: Event = serde_json::from_value(value).unwrap();
        let row = format!(
            "| `{}` | `{}` |",
            precise_type(&event),
            original_type(&event)
        );
        // The nine message types share one event.
        let row = if precise_type(&event) == "message_received" {
            "| `message_received` |".to_owned()
        } else {
            row
        };
        assert!(documented.contains(&row), "docs/tools.md lacks {row}");
    }
}

#[test]
fn text_of_a_task_is_cut_and_on_one_line() {
    let event = Event::Remark {
        message: format!("a\u{1b}[31m\nb{}", "x".repeat(5_000)),
    };
    let text = sentence(&event);
    assert!(text.chars().count() <= 501, "{}", text.len());
    assert!(!text.chars().any(char::is_control));
}

#[test]
fn small_words() {
    assert_eq!(cut("  äöü  ", 2), "äö…");
    assert_eq!(cut("ab", 2), "ab");
    for (ms, text) in [
        (0, "0.0 s"),
        (1_550, "1.5 s"),
        (61_000, "1 min 1 s"),
        (3_700_000, "1 h 1 min"),
    ] {
        assert_eq!(duration(ms), text);
    }
}
