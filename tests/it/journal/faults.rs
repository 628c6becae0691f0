//! A journal that cannot be trusted, or cannot be written: refused, quarantined or told, never guessed.

use std::fs;
use std::path::Path;
use std::process::Command;

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand_actors::event::{Event, Phase};
use chargehand_actors::id::{EventNumber, WallTime};
use chargehand_actors::ports::{JournalError, JournalStore, ListFilter};

use super::support::{Desk, remark, settings, task_id, view};

fn unusable<T>(result: Result<T, JournalError>) -> String {
    match result {
        Err(JournalError::Unusable(text)) => text,
        Err(other) => panic!("not refused as unusable: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let mut desk = Desk::new().await;
    let newer = desk
        .reopen_after(&[
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'later', 1, x'00', 0)",
        ])
        .await;
    let text = unusable(newer);
    assert!(text.contains("newer Chargehand (schema 9999"), "{text}");
    assert!(text.contains("another data directory"), "{text}");
}

#[tokio::test]
async fn a_schema_changed_by_another_build_is_refused() {
    let mut desk = Desk::new().await;
    let changed = desk
        .reopen_after(&["UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1"])
        .await;
    let text = unusable(changed);
    assert!(text.contains("another build"), "{text}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = settings(&folder).path;
    fs::write(&path, "Dear diary, ".repeat(1_000)).unwrap();
    let text = unusable(SqliteJournal::open(settings(&folder)).await);
    assert!(text.contains("is no Chargehand journal"), "{text}");
    assert!(fs::read_to_string(&path).unwrap().starts_with("Dear diary"));
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let mut desk = Desk::new().await;
    let mut row = view(task_id(1), Phase::Queued, 1);
    desk.accept(&mut row).await;
    for _ in 0..20 {
        desk.append(vec![remark(&"long ".repeat(500))], Some(&mut row))
            .await;
    }
    desk.journal.close().await;
    let path = desk.path();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 8192].fill(0xA5);
    fs::write(&path, bytes).unwrap();
    let text = unusable(desk.reopen_after(&[]).await);
    assert!(
        text.contains("put the last good backup in its place"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unreadable_payload_quarantines_its_task_alone() {
    let mut desk = Desk::new().await;
    for n in 1..=4 {
        let mut row = view(task_id(n), Phase::Running, 1);
        desk.accept(&mut row).await;
        desk.append(vec![remark("fine")], Some(&mut row)).await;
    }
    desk.reopen_after(&[
        "UPDATE events SET payload = '{\"type\":\"from_the_future\"}' WHERE number = 4",
        "UPDATE events SET version = 7 WHERE number = 6",
        "DELETE FROM events WHERE number = 7",
        "UPDATE tasks SET view = '{}' WHERE id LIKE '%2'",
    ])
    .await
    .unwrap();
    let loaded = desk.journal.load(WallTime(0)).await.unwrap();
    assert_eq!(loaded.last_event, EventNumber(8));
    let sound: Vec<_> = loaded.tasks.iter().map(|t| t.id).collect();
    assert_eq!(sound, [task_id(1)]);
    let reasons: Vec<_> = loaded
        .unreadable
        .iter()
        .map(|(id, r)| (*id, r.as_str()))
        .collect();
    assert_eq!(reasons[0].0, task_id(2));
    assert!(
        reasons[0]
            .1
            .starts_with("event 4 (remark) cannot be read: unknown variant"),
        "{reasons:?}"
    );
    assert_eq!(
        reasons[1],
        (
            task_id(3),
            "event 6 (remark) cannot be read: its version is 7, which this program does not know"
        )
    );
    assert_eq!(reasons[2], (task_id(4), "its first event is missing"));

    // A record is whole or it is none.
    let record = desk.journal.record(task_id(1)).await.unwrap().unwrap();
    assert_eq!(record, loaded.tasks[0].events);
    for (task, reason) in &loaded.unreadable {
        let refused = desk.journal.record(*task).await.unwrap().unwrap_err();
        assert_eq!(&refused, reason);
    }

    // Readers still get a page: the event says what is wrong, the row is made from its columns.
    let events = desk.journal.newest_events(task_id(2), 5).await.unwrap();
    let Event::Remark { message } = &events[1].event else {
        panic!("{events:?}");
    };
    assert!(message.contains("cannot be read"), "{message}");
    let filter = ListFilter {
        limit: 10,
        ..ListFilter::default()
    };
    assert_eq!(desk.journal.list(filter).await.unwrap().len(), 4);
    let row = desk.journal.task(task_id(2)).await.unwrap().unwrap();
    assert_eq!(
        (row.phase, row.last_event),
        (Phase::Running, EventNumber(4))
    );
    assert!(
        row.doing.contains("cannot be read in full"),
        "{}",
        row.doing
    );
}

#[tokio::test]
async fn the_journal_is_private_and_its_reserve_is_really_there() {
    use std::os::unix::fs::MetadataExt;
    let desk = Desk::new().await;
    for (suffix, least) in [("", 1), (".reserve", 64 * 1024)] {
        let mut path = desk.path().into_os_string();
        path.push(suffix);
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600, "{path:?}");
        assert!(meta.blocks() * 512 >= least, "{path:?} is sparse");
    }
}

/// A file system of its own, so that it can be filled.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where mounting is not allowed.
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        let mounted = done.is_ok_and(|out| out.status.success());
        if !mounted {
            assert!(
                std::env::var_os("CHARGEHAND_REQUIRE_LIVE").is_none(),
                "a small file system must be mountable here"
            );
            eprintln!("skipped: mounting a small file system is not allowed here");
        }
        mounted.then(|| Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all space but `keep` bytes.
    pub(super) fn fill(&self, keep: usize) {
        use std::io::Write;
        let mut out = fs::File::create(self.0.path().join("ballast")).unwrap();
        let mut size = 0_u64;
        while out.write_all(&[7; 4096]).is_ok() {
            size += 4096;
        }
        out.set_len(size - keep as u64).unwrap();
    }

    pub(super) fn clear(&self) {
        fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(done.is_ok_and(|s| s.success()));
    }
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}

#[tokio::test]
async fn on_a_full_disk_the_reserve_takes_the_last_events_and_comes_back_with_space() {
    let Some(disk) = SmallDisk::mount("16m") else {
        return;
    };
    let path = disk.0.path().join("journal.db");
    let reserve = disk.0.path().join("journal.db.reserve");
    let mut desk = Desk::new().await;
    let small = JournalSettings {
        path,
        reserve_bytes: 512 * 1024,
    };
    desk.journal = SqliteJournal::open(small.clone()).await.unwrap();
    let mut row = view(task_id(1), Phase::Queued, 1);
    desk.accept(&mut row).await;
    assert!(exists(&reserve));
    disk.fill(0);

    // Neither a cursor nor a health check may eat the reserve.
    let big = "x".repeat(70 * 1024);
    let cursor = desk.journal.set_cursor(big.clone(), EventNumber(1)).await;
    let Err(JournalError::Write(text)) = cursor else {
        panic!("{cursor:?}");
    };
    assert!(text.contains("no space left for"), "{text}");
    assert!(exists(&reserve));

    // An event may.
    desk.append(vec![remark(&big)], Some(&mut row)).await;
    assert!(!exists(&reserve));
    let health = desk.journal.check().await;
    let Err(JournalError::Write(text)) = health else {
        panic!("{health:?}");
    };
    assert!(text.contains("nearly full"), "{text}");

    // Nothing of an append that fails for good is there, and the journal goes on when there is space.
    let too_big = desk.batch(vec![remark(&"y".repeat(2 * 1024 * 1024))], Some(&mut row));
    let refused = desk.journal.append(vec![too_big.clone()]).await;
    assert!(
        matches!(refused, Err(JournalError::Write(_))),
        "{refused:?}"
    );
    assert_eq!(
        desk.journal.newest_events(row.id, 9).await.unwrap().len(),
        2
    );
    disk.clear();
    desk.journal.append(vec![too_big]).await.unwrap();
    assert_eq!(
        desk.journal.newest_events(row.id, 9).await.unwrap().len(),
        3
    );
    desk.journal.check().await.unwrap();
    assert!(exists(&reserve));

    // A start on a full disk, too.
    desk.journal.close().await;
    disk.fill(0);
    desk.journal = SqliteJournal::open(small).await.unwrap();
    assert!(!exists(&reserve));
    row.phase = Phase::Cancelled;
    desk.append(vec![remark("the last words")], Some(&mut row))
        .await;
    desk.journal.close().await;
}
