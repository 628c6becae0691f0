//! What ended long ago: found in order, deleted in pieces, forgotten by every read; numbers are never given again.

use chargehand::adapters::journal::{Depth, inspect};
use chargehand_actors::event::{Event, Phase};
use chargehand_actors::id::{EventNumber, TaskId, WallTime};
use chargehand_actors::ports::{
    Batch, EndedFilter, EndedTask, JournalError, JournalStore, ListFilter,
};
use chargehand_actors::view::TaskView;

use super::support::{Desk, accepted, caller, remark, task_id, view};

/// A task that ended at `at`, its attempt removed.
async fn ended(desk: &mut Desk, n: u128, at: i64) -> TaskView {
    let mut row = view(task_id(n), Phase::Queued, at - 10);
    row.spec.labels = vec!["old".to_owned()];
    let key = format!("k{n}");
    desk.append(vec![accepted(&row, Some(&key))], Some(&mut row))
        .await;
    row.phase = Phase::Completed;
    row.ended_at = Some(WallTime(at));
    row.attempt = 1;
    desk.append(vec![remark("the end")], Some(&mut row)).await;
    after(desk, row.id, Event::AttemptRemoved { attempt: 1 }).await;
    row
}

/// Appends bookkeeping of an ended task: without a row.
async fn after(desk: &mut Desk, task: TaskId, event: Event) {
    let mut batch = desk.batch(vec![event], None);
    batch.events[0].task = Some(task);
    desk.journal.append(vec![batch]).await.unwrap();
}

fn filter(before: i64, with_files: bool) -> EndedFilter {
    EndedFilter {
        before: WallTime(before),
        with_files,
        after: None,
        limit: 10,
    }
}

async fn due(desk: &Desk, filter: EndedFilter) -> Vec<TaskId> {
    let found: Vec<EndedTask> = desk.journal.ended(filter).await.unwrap();
    found.into_iter().map(|task| task.view.id).collect()
}

async fn listed(desk: &Desk, label: Option<&str>) -> usize {
    let filter = ListFilter {
        label: label.map(str::to_owned),
        limit: 100,
        ..ListFilter::default()
    };
    desk.journal.list(filter).await.unwrap().len()
}

async fn count(desk: &Desk, table: &'static str) -> i64 {
    let sql = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
    sqlx::query_scalar(sql)
        .fetch_one(&mut desk.raw().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn what_ended_is_found_in_order_and_page_by_page() {
    let mut desk = Desk::new().await;
    let (late, early) = (
        ended(&mut desk, 1, 900).await,
        ended(&mut desk, 2, 500).await,
    );
    let mut live = view(task_id(3), Phase::Running, 1);
    desk.accept(&mut live).await;
    let mut never_started = view(task_id(4), Phase::Cancelled, 1);
    never_started.ended_at = Some(WallTime(700));
    desk.accept(&mut never_started).await;
    let all = [early.id, never_started.id, late.id];
    assert_eq!(due(&desk, filter(901, false)).await, all);
    assert_eq!(due(&desk, filter(900, false)).await, all[..2]);
    assert_eq!(due(&desk, filter(901, true)).await, [early.id, late.id]);
    let next = EndedFilter {
        after: Some((WallTime(500), early.id)),
        limit: 1,
        ..filter(901, false)
    };
    assert_eq!(due(&desk, next).await, [never_started.id]);

    // What an engine may still hold is told apart.
    let mut held = view(task_id(5), Phase::Failed, 1);
    held.ended_at = Some(WallTime(1));
    held.attempt = 2;
    desk.accept(&mut held).await;
    after(&mut desk, held.id, Event::AttemptRemoved { attempt: 1 }).await;
    let found = desk.journal.ended(filter(2, false)).await.unwrap();
    assert_eq!(
        (found[0].view.id, found[0].attempt_removed),
        (held.id, false)
    );

    // Cleared files are told by the row that readers get, and are not due again.
    after(&mut desk, early.id, Event::FilesCleared).await;
    let row = desk.journal.task(early.id).await.unwrap().unwrap();
    assert_eq!(
        row.files_cleared,
        Some(WallTime(1_000 + desk.last.cast_signed()))
    );
    assert_eq!(due(&desk, filter(901, true)).await, [held.id, late.id]);
    assert_eq!(due(&desk, filter(901, false)).await.len(), 4);
}

#[tokio::test]
async fn a_forgotten_task_is_gone_everywhere_and_its_numbers_stay_used() {
    let mut desk = Desk::new().await;
    let kept = ended(&mut desk, 1, 100).await;
    let gone = ended(&mut desk, 2, 100).await;
    // A newer task has taken over the key of the kept one.
    let mut newer = view(task_id(3), Phase::Queued, 200);
    desk.append(vec![accepted(&newer, Some("k1"))], Some(&mut newer))
        .await;
    for name in ["rooms:2", "rooms:1"] {
        let at = EventNumber(1);
        desk.journal.set_cursor(name.to_owned(), at).await.unwrap();
    }
    let cursors = vec!["rooms:2".to_owned()];
    for _ in 0..2 {
        desk.journal.forget(gone.id, cursors.clone()).await.unwrap();
    }
    let j = &desk.journal;
    assert_eq!(j.task(gone.id).await.unwrap(), None);
    assert_eq!(j.newest_events(gone.id, 9).await.unwrap(), []);
    assert_eq!(j.cursor("rooms:2".to_owned()).await.unwrap().0, 0);
    assert_eq!(j.cursor("rooms:1".to_owned()).await.unwrap().0, 1);
    assert_eq!(
        (listed(&desk, None).await, listed(&desk, Some("old")).await),
        (2, 1)
    );
    assert_eq!(count(&desk, "task_labels").await, 1);
    let keys = j.load(WallTime(0)).await.unwrap().keys;
    let keys: Vec<_> = keys
        .iter()
        .map(|key| (key.key.as_str(), key.task))
        .collect();
    assert_eq!(keys, [("k1", newer.id)]);

    // All of it, the newest event included.
    for n in [kept.id, gone.id] {
        desk.journal.forget(n, Vec::new()).await.unwrap();
    }
    newer.phase = Phase::Cancelled;
    newer.ended_at = Some(WallTime(300));
    desk.append(vec![remark("the very last")], Some(&mut newer))
        .await;
    desk.journal.forget(newer.id, Vec::new()).await.unwrap();
    for table in ["tasks", "events", "keys", "task_labels"] {
        assert_eq!(count(&desk, table).await, 0, "{table}");
    }
    for _ in 0..2 {
        let loaded = desk.journal.load(WallTime(0)).await.unwrap();
        assert_eq!(loaded.last_event, EventNumber(desk.last));
        let checked = inspect(&desk.path(), Depth::Full).await.unwrap();
        assert_eq!(
            (checked.findings, checked.last_event),
            (vec![], desk.last.cast_signed())
        );
        desk.reopen_after(&[]).await.unwrap();
    }
    let mut row = view(task_id(9), Phase::Queued, 1);
    desk.accept(&mut row).await;
    let used_before = desk.last;
    let mut again = desk.batch(vec![remark("x")], Some(&mut row));
    again.events[0].number = EventNumber(1);
    assert!(desk.journal.append(vec![again]).await.is_err());
    let events = desk.journal.newest_events(row.id, 9).await.unwrap();
    assert_eq!(events[0].number, EventNumber(used_before));
}

#[tokio::test]
async fn a_live_task_is_not_forgotten() {
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Running, 1);
    desk.accept(&mut row).await;
    let refused = desk.journal.forget(row.id, Vec::new()).await;
    let Err(JournalError::Write(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("has not ended"), "{text}");
    assert_eq!(
        desk.journal.newest_events(row.id, 9).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn what_comes_late_for_a_forgotten_task_uses_its_number_and_stops_nobody() {
    let mut desk = Desk::new().await;
    let gone = ended(&mut desk, 1, 100).await;
    desk.journal.forget(gone.id, Vec::new()).await.unwrap();
    for reopened in [false, true] {
        if reopened {
            desk.reopen_after(&[]).await.unwrap();
        }
        after(&mut desk, gone.id, Event::AttemptRemoved { attempt: 1 }).await;
        let loaded = desk.journal.load(WallTime(0)).await.unwrap();
        assert_eq!(loaded.last_event, EventNumber(desk.last));
    }
    let mut row = view(task_id(2), Phase::Queued, 1);
    desk.accept(&mut row).await;
    assert_eq!(count(&desk, "events").await, 1);
}

#[tokio::test]
async fn an_interrupted_deletion_is_hidden_at_once_and_finished_later() {
    let mut desk = Desk::new().await;
    let gone = ended(&mut desk, 1, 100).await;
    // As the first piece leaves it; and the task's removal from its engine was never recorded.
    desk.reopen_after(&[
        "UPDATE tasks SET forgotten = 1, removed = attempt",
        "DELETE FROM events WHERE number = 1",
    ])
    .await
    .unwrap();
    let j = &desk.journal;
    assert_eq!(j.task(gone.id).await.unwrap(), None);
    assert_eq!(j.newest_events(gone.id, 9).await.unwrap(), []);
    let after = j.events(gone.id, EventNumber::ZERO, 0, 9).await;
    assert_eq!(after.unwrap(), []);
    assert_eq!(
        (listed(&desk, None).await, listed(&desk, Some("old")).await),
        (0, 0)
    );
    let loaded = j.load(WallTime(0)).await.unwrap();
    assert_eq!((loaded.tasks.len(), loaded.unreadable.len()), (0, 0));
    assert_eq!(due(&desk, filter(999, false)).await, []);
    let checked = inspect(&desk.path(), Depth::Full).await.unwrap();
    assert_eq!(checked.findings, [], "a check takes it for what it is");
    j.tidy(WallTime(0), WallTime(0)).await.unwrap();
    for table in ["tasks", "events", "keys", "task_labels"] {
        assert_eq!(count(&desk, table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn old_events_of_the_instance_and_old_keys_are_tidied_away() {
    let mut desk = Desk::new().await;
    // The desk's clock: event n at 1000 + n.
    for _ in 0..1_200 {
        desk.append(vec![remark("engine reconciled")], None).await;
    }
    let row = ended(&mut desk, 1, 5_000).await;
    desk.journal
        .tidy(WallTime(1_000 + 1_100), WallTime(0))
        .await
        .unwrap();
    assert_eq!(count(&desk, "events").await, 101 + 3);
    assert_eq!(count(&desk, "keys").await, 1);
    let last = WallTime(i64::MAX);
    desk.journal.tidy(last, last).await.unwrap();
    assert_eq!(
        count(&desk, "events").await,
        3,
        "a task's events are its own"
    );
    assert_eq!(count(&desk, "keys").await, 0);
    assert!(desk.journal.task(row.id).await.unwrap().is_some());
}

#[tokio::test]
async fn appends_go_on_while_a_long_record_is_deleted() {
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Completed, 1);
    row.ended_at = Some(WallTime(2));
    desk.accept(&mut row).await;
    let many: Vec<Batch> = (0..40)
        .map(|_| desk.batch((0..250).map(|_| remark("x")).collect(), Some(&mut row)))
        .collect();
    desk.journal.append(many).await.unwrap();
    let journal = desk.journal.clone();
    let mut forgetting = tokio::spawn(async move { journal.forget(task_id(1), Vec::new()).await });
    let mut live = view(task_id(2), Phase::Running, 1);
    live.caller = caller("t", "a");
    desk.accept(&mut live).await;
    let mut between = 0;
    while !forgetting.is_finished() {
        desk.append(vec![remark("goes on")], Some(&mut live)).await;
        between += 1;
    }
    (&mut forgetting).await.unwrap().unwrap();
    // 10,000 events are 20 pieces; a writer that waits gets its turn after one.
    assert!(between >= 5, "{between} appends in the meantime");
    assert_eq!(desk.journal.task(task_id(1)).await.unwrap(), None);
}

#[tokio::test]
async fn the_file_does_not_grow_with_tasks_that_come_and_go() {
    let mut desk = Desk::new().await;
    let mut sizes = Vec::new();
    for round in 0..6_u128 {
        let tasks: Vec<TaskId> = (0..40).map(|n| task_id(round * 100 + n)).collect();
        for task in &tasks {
            let mut row = view(*task, Phase::Completed, 1);
            row.ended_at = Some(WallTime(2));
            let filling = (0..20).map(|_| remark(&"text ".repeat(40))).collect();
            let batch = desk.batch(vec![accepted(&row, None)], Some(&mut row));
            let rest = desk.batch(filling, Some(&mut row));
            desk.journal.append(vec![batch, rest]).await.unwrap();
        }
        for task in tasks {
            desk.journal.forget(task, Vec::new()).await.unwrap();
        }
        desk.journal.close().await;
        sizes.push(std::fs::metadata(desk.path()).unwrap().len());
    }
    let (second, last) = (sizes[1], sizes[5]);
    assert!(last <= second + second / 10, "{sizes:?}");
}
