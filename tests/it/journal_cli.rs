//! `chargehand journal`: what it finds, copies and prints; and that a start refuses what it finds damaged.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
use chargehand_actors::event::{CommittedEvent, Event, Failure, FailureKind};
use chargehand_actors::id::{BatchId, EngineName, EventNumber, TaskId, WallTime};
use chargehand_actors::machine::TaskState;
use chargehand_actors::ports::{Batch, JournalStore};
use serde_json::Value;
use sqlx::ConnectOptions;
use tempfile::TempDir;
use uuid::Uuid;

use crate::cli_support::{Finished, chargehand};
use crate::journal::support::{accepted, remark, task_id, view};

/// A data directory with a journal that the machine's own fold has written.
struct Data {
    folder: TempDir,
    journal: SqliteJournal,
    last: u64,
}

impl Data {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = open(&folder.path().join("journal.db")).await;
        Self {
            folder,
            journal,
            last: 0,
        }
    }

    /// Three tasks: completed long ago, failed, waiting.
    async fn with_tasks() -> Self {
        let mut data = Self::new().await;
        let begun = Event::AttemptStarted {
            attempt: 1,
            engine: EngineName::new("local"),
        };
        let failed = Event::TaskFailed {
            failure: Failure {
                kind: FailureKind::Model,
                message: "no key \u{1b}[31m".to_owned(),
            },
            result: None,
            running_ms: 5,
        };
        let removed = Event::AttemptRemoved { attempt: 1 };
        let cancelled = Event::TaskCancelled {
            reason: None,
            by: "planner".to_owned(),
            from: Default::default(),
            running_ms: 0,
        };
        data.task(task_id(1), vec![begun, failed], vec![removed])
            .await;
        data.task(task_id(2), vec![cancelled], vec![]).await;
        data.task(task_id(0xABC), vec![remark("waits")], vec![])
            .await;
        data
    }

    /// Accepts a task and appends its events: first with its row, then `bare` ones without, as the reaper does.
    async fn task(&mut self, id: TaskId, events: Vec<Event>, bare: Vec<Event>) {
        let mut first = view(id, chargehand_actors::event::Phase::Queued, 0);
        first.spec.labels = vec!["night".to_owned()];
        let mut committed = Vec::new();
        for event in [accepted(&first, Some("key"))].into_iter().chain(events) {
            committed.push(self.next(id, event));
        }
        let row = TaskState::replay(id, &committed).unwrap().view();
        self.append(committed, Some(row)).await;
        for event in bare {
            let event = self.next(id, event);
            self.append(vec![event], None).await;
        }
    }

    fn next(&mut self, id: TaskId, event: Event) -> CommittedEvent {
        self.last += 1;
        CommittedEvent {
            number: EventNumber(self.last),
            at: WallTime(1_000 + self.last.cast_signed()),
            task: Some(id),
            event,
        }
    }

    async fn append(
        &self,
        events: Vec<CommittedEvent>,
        row: Option<chargehand_actors::view::TaskView>,
    ) {
        let batch = Batch {
            id: BatchId(Uuid::new_v4()),
            events,
            row,
        };
        self.journal.append(vec![batch]).await.unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("journal.db")
    }

    /// Closes the journal and changes its file by plain SQL.
    async fn spoil(&self, sql: &'static str) {
        self.journal.close().await;
        let mut raw = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.path())
            .foreign_keys(false)
            .connect()
            .await
            .unwrap();
        sqlx::raw_sql(sql).execute(&mut raw).await.unwrap();
        sqlx::Connection::close(raw).await.unwrap();
    }

    /// `chargehand journal …` on this data directory.
    async fn run(&self, args: &[&str]) -> Finished {
        let folder = self.folder.path().to_str().unwrap();
        let mut all = vec!["journal"];
        all.extend_from_slice(args);
        all.extend_from_slice(&["--data-dir", folder]);
        chargehand(&all, "").await
    }
}

async fn open(path: &Path) -> SqliteJournal {
    let settings = JournalSettings {
        path: path.to_owned(),
        reserve_bytes: 0,
    };
    SqliteJournal::open(settings).await.unwrap()
}

#[tokio::test]
async fn a_sound_journal_is_said_to_be_sound_while_it_is_open_and_after() {
    let data = Data::with_tasks().await;
    for _ in 0..2 {
        let ended = data.run(&["check"]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.contains("is sound"), "{}", ended.out);
        assert!(ended.out.contains("3 tasks, 8 events"), "{}", ended.out);
        data.journal.close().await;
    }
    let ended = data.run(&["check", "--json"]).await;
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["findings"], serde_json::json!([]));
}

#[tokio::test]
async fn records_that_contradict_each_other_are_found() {
    for (sql, words) in [
        (
            "UPDATE tasks SET phase = 'running', view = replace(view, '\"phase\":\"failed\"', '\"phase\":\"running\"'), final = 0
             WHERE id LIKE '%1'",
            "its row and its events differ in phase",
        ),
        (
            "UPDATE tasks SET phase = 'queued' WHERE id LIKE '%2'",
            "contradicts itself: phase",
        ),
        (
            "UPDATE tasks SET removed = 0 WHERE id LIKE '%1'",
            "contradicts itself: removed",
        ),
        (
            "UPDATE events SET payload = '{\"type\":\"from_the_future\"}' WHERE type = 'remark'",
            "cannot be read: unknown variant",
        ),
        (
            "DELETE FROM events WHERE number = (SELECT MIN(number) FROM events WHERE task LIKE '%2')",
            "not with its acceptance",
        ),
        (
            "DELETE FROM events WHERE task LIKE '%2'",
            "has a row, but no events",
        ),
        (
            "INSERT INTO events SELECT 99, at, task, type, version, payload FROM events WHERE type = 'task_failed'",
            "has ended 2 times",
        ),
        (
            "INSERT INTO events SELECT 99, at, task, type, version, payload FROM events WHERE number = 1",
            "is accepted a second time by event 99",
        ),
        (
            "DELETE FROM events WHERE type = 'task_cancelled'",
            "differ in phase, end, failure",
        ),
        (
            "DELETE FROM task_labels; DELETE FROM keys; DELETE FROM events WHERE task LIKE '%2';
             INSERT INTO keys VALUES ('t', 'a', 'k', 'f', 'nobody', 1)",
            "of keys belongs to a row of tasks that is not there",
        ),
        (
            "INSERT INTO cursors VALUES ('notices', 4000)",
            "has read up to event 4000",
        ),
        (
            "UPDATE tasks SET view = '{}' WHERE id LIKE '%2'",
            "its row cannot be read",
        ),
        (
            "DROP INDEX tasks_live",
            "tasks_live is missing or is not as this program makes it",
        ),
    ] {
        let data = Data::with_tasks().await;
        data.spoil(sql).await;
        let ended = data.run(&["check"]).await;
        assert_eq!(ended.code, Some(1), "{sql}: {ended:?}");
        assert!(ended.out.contains(words), "{sql}: {}", ended.out);
        assert!(ended.out.contains("is not sound"), "{}", ended.out);
        // One task that is not right does not leave the others without a backup; a file that is not right does.
        let copy = data.folder.path().join("copy.db");
        let ended = data.run(&["backup", copy.to_str().unwrap()]).await;
        let of_the_file = ended.code != Some(0);
        assert_eq!(of_the_file, words.contains("tasks_live"), "{sql}: {ended:?}");
        assert_eq!(copy.exists(), !of_the_file, "{sql}");
        if !of_the_file {
            assert!(ended.err.contains("copied as it is, with"), "{ended:?}");
        }
    }
}

#[tokio::test]
async fn what_retention_has_deleted_or_is_deleting_is_not_missed() {
    let data = Data::with_tasks().await;
    data.spoil(
        "UPDATE tasks SET forgotten = 1 WHERE id LIKE '%1';
         DELETE FROM events WHERE number IN (2, 3, 4);
         UPDATE high_water SET event = 500;
         INSERT INTO cursors VALUES ('notices', 400)",
    )
    .await;
    let ended = data.run(&["check"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// A journal with some pages of text, closed.
async fn large() -> Data {
    let mut data = Data::new().await;
    let long = (0..40).map(|_| remark(&"long ".repeat(500))).collect();
    data.task(task_id(1), long, vec![]).await;
    data.journal.close().await;
    data
}

#[tokio::test]
async fn damage_of_the_file_is_found_and_a_start_refuses_it() {
    type Harm = fn(&Path);
    let page: Harm = |path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 8192].fill(0xA5);
        fs::write(path, bytes).unwrap();
    };
    let cut: Harm = |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2 / 4096 * 4096]).unwrap();
    };
    let foreign: Harm = |path| fs::write(path, "Dear diary, ".repeat(1_000)).unwrap();
    let empty: Harm = |path| fs::write(path, "").unwrap();
    for (what, harm, check, start) in [
        ("a page", page, "found: file", "is damaged"),
        ("half of it", cut, "", "is damaged"),
        (
            "another file",
            foreign,
            "is no Chargehand journal",
            "is no Chargehand journal",
        ),
        (
            "emptied",
            empty,
            "is no Chargehand journal",
            "has lost its content",
        ),
    ] {
        let data = large().await;
        // A journal that was in use has its reserve.
        fs::write(data.folder.path().join("journal.db.reserve"), "x").unwrap();
        harm(&data.path());
        let ended = data.run(&["check"]).await;
        let said = format!("{}{}", ended.out, ended.err);
        assert_eq!(ended.code, Some(1), "{what}: {said}");
        assert!(said.contains(check), "{what}: {said}");
        let copy = data.folder.path().join("copy.db");
        let ended = data.run(&["backup", copy.to_str().unwrap()]).await;
        assert_eq!(ended.code, Some(1), "{what}: {ended:?}");
        assert!(!copy.exists(), "{what}");

        let before = fs::read(data.path()).unwrap();
        let folder = data.folder.path().to_str().unwrap();
        let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", folder];
        let ended = chargehand(&args, "").await;
        assert_eq!(ended.code, Some(1), "{what}: {ended:?}");
        assert!(ended.err.contains(start), "{what}: {}", ended.err);
        assert!(ended.err.contains("backup"), "{what}: {}", ended.err);
        assert!(
            before == fs::read(data.path()).unwrap(),
            "{what}: the file was changed"
        );
    }
}

#[tokio::test]
async fn a_newer_or_missing_journal_is_refused_by_every_command() {
    let data = Data::with_tasks().await;
    data.spoil(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', 1, x'00', 0)",
    )
    .await;
    let copy = data.folder.path().join("copy.db");
    let copy = copy.to_str().unwrap();
    for args in [&["check"][..], &["backup", copy], &["export"]] {
        let ended = data.run(args).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains("schema 9999"), "{}", ended.err);
    }
    fs::remove_file(data.path()).unwrap();
    for args in [&["check"][..], &["backup", copy], &["export"]] {
        let ended = data.run(args).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains("No such file"), "{}", ended.err);
    }
    assert!(!data.path().exists() && !Path::new(copy).exists());
}

#[tokio::test]
async fn a_backup_is_whole_private_and_never_written_over_something() {
    let mut data = Data::with_tasks().await;
    let copy = data.folder.path().join("copy.db");
    let name = copy.to_str().unwrap();
    let ended = data.run(&["backup", name]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("3 tasks and 8 events"), "{}", ended.out);
    let mode = fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // The journal goes on; the copy stays what it was, and is a journal of its own.
    data.task(task_id(7), vec![], vec![]).await;
    let check = chargehand(&["journal", "check", name], "").await;
    assert!(check.out.contains("3 tasks, 8 events"), "{check:?}");
    let loaded = open(&copy).await.load(WallTime(0)).await.unwrap();
    assert_eq!(loaded.last_event, EventNumber(8));
    assert_eq!(loaded.keys.len(), 1);

    let before = fs::read(&copy).unwrap();
    let again = data.run(&["backup", name]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("is not overwritten"), "{}", again.err);
    assert_eq!(fs::read(&copy).unwrap(), before);
    let link = data.folder.path().join("link.db");
    std::os::unix::fs::symlink("/nowhere", &link).unwrap();
    let linked = data.run(&["backup", link.to_str().unwrap()]).await;
    assert!(linked.err.contains("is not overwritten"), "{linked:?}");
    let lost = data.run(&["backup", "/nowhere/at/all/copy.db"]).await;
    assert!(lost.err.contains("cannot be made"), "{lost:?}");
    let left: Vec<_> = fs::read_dir(data.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".chargehand"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn an_export_has_every_event_in_order_and_nothing_that_acts_on_a_terminal() {
    let mut data = Data::with_tasks().await;
    for n in 0..600 {
        let event = data.next(task_id(0xABC), remark(&format!("{n} \u{9b}2J\u{202e}")));
        data.append(vec![event], None).await;
    }
    data.spoil("UPDATE events SET payload = '{\"type\":\"odd\"}' WHERE number = 20")
        .await;
    let ended = data.run(&["export"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        !ended
            .out
            .chars()
            .any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'),
        "controls are escaped"
    );
    let lines: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let numbers: Vec<u64> = lines
        .iter()
        .map(|line| line["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=608).collect::<Vec<_>>());
    assert_eq!(lines[0]["type"], "task_accepted");
    assert_eq!(lines[0]["task"], task_id(1).to_string());
    assert_eq!(lines[0]["time"], "1970-01-01T00:00:01.001Z");
    assert_eq!(lines[2]["event"]["failure"]["message"], "no key \u{1b}[31m");
    assert_eq!(lines[607]["event"]["message"], "599 \u{9b}2J\u{202e}");
    assert_eq!(lines[19]["stored"], "{\"type\":\"odd\"}");
    assert!(lines[19]["unreadable"].as_str().unwrap().contains("odd"));

    let one = data
        .run(&["export", "--task", "00000000-0000-0000-0000-000000000ABC"])
        .await;
    assert_eq!(one.out.lines().count(), 602, "{}", one.err);
    let several = data.run(&["export", "--task", "0000"]).await;
    assert_eq!(several.code, Some(5), "{several:?}");
    let none = data.run(&["export", "--task", "f"]).await;
    assert_eq!(none.code, Some(5), "{none:?}");
}
