//! A start on a journal of 10,000 finished tasks.
//!
//! In: a journal written by its own adapter. Out: time until the server answers, memory, time of reads of what is long past.

use std::path::Path;

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand_actors::event::CommittedEvent;
use chargehand_actors::id::{BatchId, EventNumber, WallTime};
use chargehand_actors::ports::{Batch, JournalStore as _};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::history::{TASKS, TOKEN, finished};
use crate::process::resident_mb;
use crate::server::{Server, folder, nothing_runs};
use crate::table::{row, section};

const STARTS: usize = 5;
const READS: usize = 200;
const PAGE: usize = 50;

/// Measures and prints.
pub(crate) async fn measure() {
    section("Start with a long journal");
    let place = folder();
    let events = fill(&place.path().join("data")).await;
    let size = std::fs::metadata(place.path().join("data/journal.db")).unwrap();
    let conditions = format!(
        "{TASKS} finished tasks, {events} events, {} MB",
        size.len() / 1_048_576
    );
    let settings = nothing_runs();
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for _ in 1..STARTS {
        let mut server = Server::spawn(place.path(), &settings);
        times.push(server.answers().await);
        memory.push(resident_mb(server.pid()));
        server.stop().await;
    }
    let mut server = Server::spawn(place.path(), &settings);
    times.push(server.answers().await);
    memory.push(resident_mb(server.pid()));
    row("start until /health answers", "ms", &times, &conditions);
    row("RSS then", "MB", &memory, "server process");
    reads(&server).await;
    let now = resident_mb(server.pid());
    row("RSS after these reads", "MB", &[now], "server process");
    server.stop().await;

    let place = folder();
    let mut times = Vec::new();
    for n in 0..STARTS {
        let fresh = place.path().join(n.to_string());
        std::fs::create_dir(&fresh).unwrap();
        let mut server = Server::spawn(&fresh, &settings);
        times.push(server.answers().await);
        server.stop().await;
    }
    let conditions = "the same with a new data directory";
    row("start until /health answers", "ms", &times, conditions);
}

async fn reads(server: &Server) {
    let client = server.client();
    client.call("ping", json!({})).await;
    let (mut first, mut deep) = (Vec::new(), Vec::new());
    let mut cursor = Value::Null;
    for _ in 0..READS {
        let (time, page) = client.timed("list_tasks", json!({"limit": PAGE})).await;
        first.push(time);
        assert_eq!(page["count"], PAGE);
        let mut asked = json!({"limit": PAGE});
        if !cursor.is_null() {
            asked["cursor"] = cursor;
        }
        let (time, page) = client.timed("list_tasks", asked).await;
        deep.push(time);
        cursor = page["next_cursor"].clone();
    }
    row("list_tasks, first page", "ms", &first, "50 tasks");
    let conditions = "50 tasks each, from the newest to the oldest";
    row("list_tasks, page by page", "ms", &deep, conditions);
    let (mut status, mut events) = (Vec::new(), Vec::new());
    for n in 0..READS as u128 {
        let asked = json!({"task_id": Uuid::from_u128(1 + n * (TASKS / READS as u128))});
        let (time, answer) = client.timed("get_task_status", asked.clone()).await;
        assert_eq!(answer["status"], "failed", "{TOKEN} owns {answer}");
        status.push(time);
        events.push(client.timed("get_task_history", asked).await.0);
    }
    row("get_task_status", "ms", &status, "a different task each");
    row("get_task_history", "ms", &events, "the same, 30 events");
}

/// Writes the journal; gives the number of events.
async fn fill(data: &Path) -> u64 {
    std::fs::create_dir_all(data).unwrap();
    let settings = JournalSettings::at(data.join("journal.db"));
    let journal = SqliteJournal::open(settings).await.unwrap();
    let mut last = 0;
    for start in (0..TASKS).step_by(500) {
        let batches = (start..start + 500).map(|n| {
            let (row, events) = finished(n);
            let events = events.into_iter().map(|event| {
                last += 1;
                CommittedEvent {
                    number: EventNumber(last),
                    at: row.created_at,
                    task: Some(row.id),
                    event,
                }
            });
            Batch {
                id: BatchId(Uuid::new_v4()),
                events: events.collect(),
                row: Some(row),
            }
        });
        journal.append(batches.collect()).await.unwrap();
    }
    let loaded = journal.load(WallTime(0)).await.unwrap();
    assert!(loaded.tasks.is_empty(), "all tasks have ended");
    journal.close().await;
    last
}
