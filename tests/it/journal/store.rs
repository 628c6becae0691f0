//! What the port promises: append, repeat, read, list, keys, cursors, load.

use chargehand_actors::command::Identity;
use chargehand_actors::event::{Event, Failure, FailureKind, Phase};
use chargehand_actors::id::{BatchId, EventNumber, WallTime};
use chargehand_actors::ports::{
    EVENTS_AT_ONCE, JournalError, JournalStore, KeyRow, ListFilter, LoadedTask,
};
use uuid::Uuid;

use super::support::{Desk, accepted, caller, remark, spec, task_id, view};

fn started(attempt: u32) -> Event {
    Event::AttemptStarted {
        attempt,
        engine: chargehand_actors::id::EngineName::new("local"),
    }
}

fn failed() -> Event {
    Event::TaskFailed {
        failure: Failure {
            kind: FailureKind::Engine,
            message: "it broke".to_owned(),
        },
        result: None,
        running_ms: 5,
    }
}

#[tokio::test]
async fn what_is_appended_is_read_back_also_after_reopening() {
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Queued, 100);
    row.usage.cost = 0.1 + 0.2;
    let first = desk.accept(&mut row).await;
    row.phase = Phase::Starting;
    row.attempt = 1;
    let second = desk
        .append(
            vec![started(1), remark("a \u{0} \u{1F41F} b")],
            Some(&mut row),
        )
        .await;
    let whole_instance = desk.append(vec![remark("for all")], None).await;
    let all: Vec<_> = [first.events, second.events].concat();
    for reopened in [false, true] {
        if reopened {
            desk.reopen_after(&[]).await.unwrap();
        }
        let j = &desk.journal;
        let events = j.events(row.id, EventNumber::ZERO, 0, u64::MAX).await;
        assert_eq!(events.unwrap(), all);
        assert_eq!(j.task(row.id).await.unwrap(), Some(row.clone()));
        let after = j.events(row.id, EventNumber(1), 1, 1).await.unwrap();
        assert_eq!(after, all[2..]);
        let newest = j.newest_events(row.id, 2).await.unwrap();
        assert_eq!(newest, all[1..]);
        let loaded = j.load(WallTime(0)).await.unwrap();
        assert_eq!(loaded.last_event, whole_instance.events[0].number);
        assert_eq!(
            loaded.tasks,
            [LoadedTask {
                id: row.id,
                events: all.clone()
            }]
        );
    }
    assert_eq!(desk.journal.task(task_id(2)).await.unwrap(), None);
}

#[tokio::test]
async fn a_repeated_batch_changes_nothing_and_its_company_is_still_written() {
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Queued, 100);
    let first = desk.accept(&mut row).await;
    let second = desk.batch(vec![remark("two")], Some(&mut row));
    desk.journal
        .append(vec![first.clone(), second.clone(), first, second])
        .await
        .unwrap();
    let events = desk.journal.newest_events(row.id, 10).await.unwrap();
    let numbers: Vec<_> = events.iter().map(|e| e.number.0).collect();
    assert_eq!(numbers, [1, 2]);
}

#[tokio::test]
async fn a_repeat_is_known_however_large_the_append_was() {
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Queued, 100);
    desk.accept(&mut row).await;
    for _ in 0..2 {
        let many: Vec<_> = (0..1_500)
            .map(|_| desk.batch(vec![remark("x")], Some(&mut row)))
            .collect();
        desk.journal.append(many.clone()).await.unwrap();
        desk.journal.append(many).await.unwrap();
    }
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM batches")
        .fetch_one(&mut desk.raw().await)
        .await
        .unwrap();
    assert_eq!(kept, 1_500);
}

#[tokio::test]
async fn a_number_that_is_not_the_next_is_refused_with_everything_beside_it() {
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Queued, 100);
    desk.accept(&mut row).await;
    let good = desk.batch(vec![remark("good")], Some(&mut row));
    for wrong in [1, 2, 4] {
        let mut bad = good.clone();
        bad.id = BatchId(Uuid::new_v4());
        bad.events[0].number = EventNumber(wrong);
        let problem = desk.journal.append(vec![good.clone(), bad]).await;
        let Err(JournalError::Write(text)) = problem else {
            panic!("{wrong} was taken: {problem:?}");
        };
        assert!(text.contains("was to follow event 2"), "{text}");
    }
    let events = desk.journal.newest_events(row.id, 10).await.unwrap();
    assert_eq!(events.len(), 1);
    desk.journal.append(vec![good]).await.unwrap();
}

#[tokio::test]
async fn events_of_a_task_without_a_row_are_refused() {
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Queued, 100);
    let event = accepted(&row, None);
    let mut batch = desk.batch(vec![event], Some(&mut row));
    batch.row = None;
    let problem = desk.journal.append(vec![batch]).await;
    assert!(
        matches!(problem, Err(JournalError::Write(_))),
        "{problem:?}"
    );
    assert_eq!(
        desk.journal.load(WallTime(0)).await.unwrap().last_event,
        EventNumber::ZERO
    );
}

#[tokio::test]
async fn an_append_whose_caller_left_is_written_whole_and_can_be_repeated() {
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Queued, 100);
    let event = accepted(&row, None);
    let batch = desk.batch(vec![event], Some(&mut row));
    // Polled once, then dropped.
    let append = desk.journal.append(vec![batch.clone()]);
    tokio::select! {
        biased;
        _ = append => panic!("a commit takes longer than one poll"),
        () = std::future::ready(()) => {}
    }
    let loaded = desk.journal.load(WallTime(0)).await.unwrap();
    assert_eq!(loaded.tasks.len(), 1);
    desk.journal.append(vec![batch]).await.unwrap();
    assert_eq!(desk.journal.load(WallTime(0)).await.unwrap(), loaded);
}

#[tokio::test]
async fn a_start_loads_what_is_not_final_or_may_still_own_something() {
    let mut desk = Desk::new().await;
    let mut rows: Vec<_> = (1..=5)
        .map(|n| view(task_id(n), Phase::Queued, 100))
        .collect();
    for row in &mut rows {
        desk.accept(row).await;
    }
    // 1 waits; 2 failed before any attempt; 3 failed, removed; 4 failed in attempt 2, only 1 removed; 5 runs.
    for (at, attempts) in [(1, 0), (2, 1), (3, 2), (4, 1)] {
        for attempt in 1..=attempts {
            rows[at].attempt = attempt;
            rows[at].phase = Phase::Starting;
            desk.append(vec![started(attempt)], Some(&mut rows[at]))
                .await;
        }
    }
    for row in &mut rows[1..4] {
        row.phase = Phase::Failed;
        desk.append(vec![failed()], Some(row)).await;
    }
    for row in &mut rows[2..4] {
        desk.append(vec![Event::AttemptRemoved { attempt: 1 }], Some(row))
            .await;
    }
    let ids = async |desk: &Desk| -> Vec<u128> {
        let loaded = desk.journal.load(WallTime(0)).await.unwrap();
        assert_eq!(loaded.unreadable, []);
        let tasks = loaded.tasks.iter();
        tasks.map(|t| t.id.uuid().as_u128()).collect()
    };
    assert_eq!(ids(&desk).await, [1, 4, 5]);
    let removed = Event::AttemptRemoved { attempt: 2 };
    desk.append(vec![removed], Some(&mut rows[3])).await;
    assert_eq!(ids(&desk).await, [1, 5]);
}

#[tokio::test]
async fn keys_come_back_while_they_count_and_the_newest_use_wins() {
    let mut desk = Desk::new().await;
    for (n, key) in [(1, "a"), (2, "b"), (3, "a")] {
        let mut row = view(task_id(n), Phase::Queued, 100);
        let event = accepted(&row, Some(key));
        desk.append(vec![event], Some(&mut row)).await;
    }
    let key = |n: u128, key: &str, at| KeyRow {
        token: "planner".to_owned(),
        agent_id: "agent-1".to_owned(),
        key: key.to_owned(),
        fingerprint: "f1".to_owned(),
        task: task_id(n),
        at: WallTime(at),
    };
    let keys = async |since| desk.journal.load(WallTime(since)).await.unwrap().keys;
    assert_eq!(keys(0).await, [key(2, "b", 1_002), key(3, "a", 1_003)]);
    assert_eq!(keys(1_003).await, [key(3, "a", 1_003)]);
    assert_eq!(keys(1_004).await, []);
}

#[tokio::test]
async fn cursors_start_before_everything_and_stay() {
    let mut desk = Desk::new().await;
    let name = || "rooms".to_owned();
    assert_eq!(desk.journal.cursor(name()).await, Ok(EventNumber::ZERO));
    for at in [5, 9] {
        let moved = desk.journal.set_cursor(name(), EventNumber(at)).await;
        moved.unwrap();
    }
    desk.reopen_after(&[]).await.unwrap();
    assert_eq!(desk.journal.cursor(name()).await, Ok(EventNumber(9)));
    let other = desk.journal.cursor("memory".to_owned()).await;
    assert_eq!(other, Ok(EventNumber::ZERO));
    let health = desk.journal.check().await.unwrap();
    assert!(health.starts_with("SQLite 3."), "{health}");
}

#[tokio::test]
async fn lists_show_each_caller_its_own_and_filter_by_everything() {
    let mut desk = Desk::new().await;
    let make = [
        (1, "t1", "a", Phase::Completed, &["x"][..]),
        (2, "t1", "b", Phase::Queued, &["x", "y"][..]),
        (3, "t2", "a", Phase::Running, &[][..]),
        (4, "t1", "a", Phase::Failed, &["x"][..]),
    ];
    for (n, token, agent, phase, labels) in make {
        let mut row = view(task_id(n), phase, 100 * n.cast_signed() as i64);
        row.caller = caller(token, agent);
        row.spec = spec(labels);
        desk.accept(&mut row).await;
    }
    let token = |agent: Option<&str>| {
        Some(Identity::Caller {
            token: "t1".to_owned(),
            agent_id: agent.map(str::to_owned),
            from: Default::default(),
        })
    };
    let all = || ListFilter {
        limit: 10,
        ..ListFilter::default()
    };
    let phases = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let word = |w: &str| Some(w.to_owned());
    #[rustfmt::skip]
    let cases: Vec<(ListFilter, &[u128])> = vec![
        (all(), &[4, 3, 2, 1]),
        (ListFilter { identity: Some(Identity::inside("me")), ..all() }, &[4, 3, 2, 1]),
        (ListFilter { identity: token(None), ..all() }, &[4, 2, 1]),
        (ListFilter { identity: token(Some("a")), ..all() }, &[4, 1]),
        (ListFilter { identity: token(Some("a")), agent_id: word("b"), ..all() }, &[]),
        (ListFilter { agent_id: word("a"), ..all() }, &[4, 3, 1]),
        (ListFilter { phases: phases(&["failed", "running", "queued", "failed"]), ..all() }, &[4, 3, 2]),
        (ListFilter { phases: phases(&["nonsense"]), ..all() }, &[]),
        (ListFilter { label: word("x"), ..all() }, &[4, 2, 1]),
        (ListFilter { label: word("x"), identity: token(Some("b")), ..all() }, &[2]),
        (ListFilter { label: word("'"), ..all() }, &[]),
        (ListFilter { created_after: Some(WallTime(200)), created_before: Some(WallTime(400)), ..all() }, &[3, 2]),
        (ListFilter { before: Some((WallTime(300), task_id(3))), ..all() }, &[2, 1]),
        (ListFilter { before: Some((WallTime(300), task_id(3))), created_before: Some(WallTime(200)), ..all() }, &[1]),
        (ListFilter { limit: 2, phases: phases(&["queued", "completed", "failed"]), ..all() }, &[4, 2]),
        (ListFilter { limit: 0, ..all() }, &[]),
    ];
    for (filter, want) in cases {
        let found = desk.journal.list(filter.clone()).await.unwrap();
        let ids: Vec<_> = found.iter().map(|v| v.id.uuid().as_u128()).collect();
        assert_eq!(ids, want, "{filter:?}");
    }
}

#[tokio::test]
async fn a_record_has_no_bound_and_a_page_has_one() {
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Running, 1);
    desk.accept(&mut row).await;
    let more = usize::try_from(EVENTS_AT_ONCE).unwrap() + 5;
    desk.append(vec![remark("one of many"); more], Some(&mut row))
        .await;
    let record = desk.journal.record(task_id(1)).await.unwrap().unwrap();
    assert_eq!(record.len(), 1 + more);
    assert_eq!(record.last().unwrap().number, row.last_event);
    let page = desk
        .journal
        .events(task_id(1), EventNumber::ZERO, 0, u64::MAX >> 1);
    assert_eq!(page.await.unwrap().len() as u64, EVENTS_AT_ONCE);
}
