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

#[tokio::test]
#[ignore = "not a test of its own: the program that the test below starts and kills"]
async fn writes_until_killed() {
    let Some(path) = std::env::var_os(JOURNAL) else {
        return;
    };
    let mut desk = Desk::new().await;
    desk.journal = open(Path::new(&path)).await;
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
    loop {
        let text = "x".repeat(usize::try_from(desk.last % 50).unwrap() * 200);
        let events = (0..GROUP).map(|_| remark(&text)).collect();
        desk.append(events, Some(&mut row)).await;
        println!("\ndurable {}", desk.last);
    }
}

#[tokio::test]
async fn a_killed_writer_leaves_all_that_was_durable_and_nothing_by_halves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    for round in 1..=4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "journal::crash::writes_until_killed",
                "--exact",
                "--ignored",
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
