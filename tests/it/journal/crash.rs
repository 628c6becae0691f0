//! A program that is killed while it writes: what it was told to be durable is there, and nothing is half there.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand_actors::event::Phase;
use chargehand_actors::id::{EventNumber, WallTime};
use chargehand_actors::ports::JournalStore;

use super::support::{Desk, accepted, remark, task_id, view};

const JOURNAL: &str = "CHARGEHAND_TEST_JOURNAL";
/// Events in each append of the child.
const GROUP: u64 = 3;

async fn open(path: &Path) -> SqliteJournal {
    let settings = JournalSettings {
        path: path.to_owned(),
        reserve_bytes: 0,
    };
    SqliteJournal::open(settings).await.unwrap()
}

/// Appends `groups` groups of events to the journal at `path`, telling on stdout what is durable.
async fn write(path: &Path, groups: u64) -> u64 {
    let mut desk = Desk::new().await;
    desk.journal = open(path).await;
    let mut row = match desk.journal.task(task_id(1)).await.unwrap() {
        Some(row) => row,
        None => {
            let mut row = view(task_id(1), Phase::Running, 1);
            let event = accepted(&row, None);
            desk.append(vec![event], Some(&mut row)).await;
            row
        }
    };
    desk.last = row.last_event.0;
    for _ in 0..groups {
        let text = "x".repeat(usize::try_from(desk.last % 50).unwrap() * 200);
        let events = (0..GROUP).map(|_| remark(&text)).collect();
        desk.append(events, Some(&mut row)).await;
        println!("\ndurable {}", desk.last);
    }
    desk.journal.close().await;
    desk.last
}

/// Also the program that the test below starts and kills: it then writes to the journal that it is given, without end.
#[tokio::test]
async fn a_writer_goes_on_where_it_stopped() {
    if let Some(path) = std::env::var_os(JOURNAL) {
        write(Path::new(&path), u64::MAX).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    assert_eq!(write(&path, 5).await, 1 + 5 * GROUP);
    assert_eq!(write(&path, 2).await, 1 + 7 * GROUP);
    let loaded = open(&path).await.load(WallTime(0)).await.unwrap();
    assert_eq!(loaded.last_event, EventNumber(1 + 7 * GROUP));
}

#[tokio::test]
async fn a_killed_writer_leaves_all_that_was_durable_and_nothing_by_halves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    for round in 1..=4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "journal::crash::a_writer_goes_on_where_it_stopped",
                "--exact",
                "--nocapture",
            ])
            .env(JOURNAL, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut durable = lines.map_while(Result::ok).filter_map(|line| {
            line.strip_prefix("durable ")
                .map(|n| n.parse::<u64>().unwrap())
        });
        let seen = durable.nth(20 * round).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said between our last look and its end.
        let told = durable.last().unwrap_or(seen);

        let journal = open(&path).await;
        let loaded = journal.load(WallTime(0)).await.unwrap();
        let last = loaded.last_event.0;
        assert!(
            last == told || last == told + GROUP,
            "{told} told, {last} there"
        );
        let numbers: Vec<_> = loaded.tasks[0].events.iter().map(|e| e.number.0).collect();
        assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
        let row = journal.task(task_id(1)).await.unwrap().unwrap();
        assert_eq!(
            (row.last_event, row.events_total),
            (EventNumber(last), last)
        );
        journal.close().await;
    }
}
