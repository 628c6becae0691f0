//! The engine `remote` without a path mapping: its workdirs over REST, against a server that is slow, old, foreign or hostile.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::Arc;

use chargehand::adapters::opencode::{PathMapping, RemoteEngine, RemoteSettings, Secret};
use chargehand_actors::command::Source;
use chargehand_actors::event::FileMark;
use chargehand_actors::id::{AttemptId, EngineName, InstanceId, TaskId};
use chargehand_actors::ports::{Engine, FileList, WorkdirError, Workdirs};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::opencode_fake::{Fake, Faults, PASSWORD};

const TASK: TaskId = TaskId::new(Uuid::from_u128(7));
const ATTEMPT: AttemptId = AttemptId {
    task: TASK,
    number: 1,
};

fn settings(url: &str) -> RemoteSettings {
    RemoteSettings {
        name: EngineName::new("remote"),
        url: url.to_owned(),
        username: "opencode".to_owned(),
        password: Some(Secret::new(PASSWORD)),
        path_map: None,
        directory: None,
        instance: InstanceId("i1".to_owned()),
        model: None,
    }
}

async fn started() -> (Fake, RemoteEngine, Arc<dyn Workdirs>) {
    let fake = Fake::start(Faults::default()).await;
    let engine = RemoteEngine::new(settings(&fake.url)).unwrap();
    engine.start().await.unwrap();
    let workdirs = engine.workdirs().unwrap();
    (fake, engine, workdirs)
}

fn session(id: &str, owner: &str, attempt: u32) -> Value {
    json!({"id": id, "directory": "/w", "title": "x", "time": {"created": 1},
           "metadata": {"chargehand": {"instance": owner, "task": TASK.to_string(), "attempt": attempt}}})
}

fn user(id: &str) -> Value {
    json!({"info": {"id": id, "role": "user"}, "parts": [{"type": "text"}]})
}

fn wrote(files: &[&str]) -> Value {
    json!({"info": {"id": "msg_a", "role": "assistant"}, "parts": [{"type": "patch", "files": files}]})
}

fn diff(file: &str, status: &str) -> Value {
    json!({"file": file, "patch": format!("--- {file}\n+++ {file}\n+line\n"), "additions": 1, "deletions": 0, "status": status})
}

/// A session of two prompts.
fn two_turns(fake: &Fake) {
    let mut state = fake.state();
    state.sessions = vec![session("ses_x", "i2", 1), session("ses_a", "i1", 1)];
    let messages = vec![
        user("msg_1"),
        wrote(&["/w/a.txt", "/w/gone.txt"]),
        user("msg_2"),
        wrote(&["/w/a.txt"]),
    ];
    state.messages.insert("ses_a".to_owned(), messages);
    let first = json!([diff("a.txt", "added"), diff("gone.txt", "deleted")]);
    state.disk.diffs.insert("msg_1".to_owned(), first);
    let second = json!([diff("a.txt", "modified")]);
    state.disk.diffs.insert("msg_2".to_owned(), second);
    for path in ["a.txt", "kept.txt", "target/built", ".git/config"] {
        state.disk.files.insert(path.to_owned(), b"x".to_vec());
    }
}

fn marked(list: &FileList) -> Vec<(&str, Option<FileMark>)> {
    let files = list.files.iter();
    files.map(|file| (file.path.as_str(), file.mark)).collect()
}

#[tokio::test]
async fn with_a_path_map_the_workdirs_are_chargehands() {
    let mut settings = settings("http://127.0.0.1:9");
    settings.path_map = Some(PathMapping {
        ours: "/w".into(),
        theirs: "/w".to_owned(),
    });
    assert!(RemoteEngine::new(settings).unwrap().workdirs().is_none());
}

#[tokio::test]
async fn a_task_gets_the_servers_directory_and_no_source() {
    let (fake, _engine, workdirs) = started().await;
    let prepared = workdirs.prepare(ATTEMPT, Source::Empty).await.unwrap();
    assert_eq!(prepared.directory, "/w");
    assert!(prepared.note.unwrap().contains("share"));
    let sources = [
        Source::Repository {
            url: "https://example.org/a".to_owned(),
            reference: None,
        },
        Source::Directory {
            path: "/w".to_owned(),
        },
    ];
    for source in sources {
        let error = workdirs.prepare(ATTEMPT, source).await.unwrap_err();
        assert!(
            matches!(&error, WorkdirError::BadSource(text) if text.contains("path_map")),
            "{error:?}"
        );
    }
    let mut elsewhere = settings(&fake.url);
    elsewhere.directory = Some("/nowhere".to_owned());
    let engine = RemoteEngine::new(elsewhere).unwrap();
    engine.start().await.unwrap();
    let workdirs = engine.workdirs().unwrap();
    let error = workdirs.prepare(ATTEMPT, Source::Empty).await.unwrap_err();
    assert!(error.to_string().contains("must exist there"), "{error}");
}

#[tokio::test]
async fn the_diffs_of_all_turns_are_put_together_also_when_they_come_late() {
    let (fake, _engine, workdirs) = started().await;
    two_turns(&fake);
    fake.state().disk.early = 2;
    fake.state().faults.unavailable = 1;
    let changes = workdirs.collect(ATTEMPT).await.unwrap();
    let files: Vec<(&str, FileMark, u64)> = changes
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.mark, file.additions))
        .collect();
    let expected = [
        ("a.txt", FileMark::Added, 2),
        ("gone.txt", FileMark::Deleted, 1),
    ];
    assert_eq!(files, expected);
    assert_eq!((changes.files_total, changes.additions), (2, 3));
    assert_eq!(changes.diff.matches("+++ a.txt").count(), 2);
    assert_eq!(changes.diff_bytes, changes.diff.len() as u64);
    assert_eq!((changes.patch_file, changes.branch), (None, None));
    assert!(changes.note.unwrap().contains("one diff for each"));
    assert_eq!(fake.state().aborts, 0);

    // The marks outlive the session, in this process.
    fake.state().sessions.clear();
    let list = workdirs.list(TASK, String::new(), 0, 10).await.unwrap();
    let expected = [
        ("a.txt", Some(FileMark::Added)),
        ("gone.txt", Some(FileMark::Deleted)),
        ("kept.txt", None),
    ];
    assert_eq!(marked(&list), expected);
    assert!(list.cut && list.note.unwrap().contains("git ignores"));
    let page = workdirs.list(TASK, String::new(), 1, 1).await.unwrap();
    assert_eq!(
        (marked(&page), page.total),
        (vec![("gone.txt", Some(FileMark::Deleted))], 3)
    );
    let below = workdirs
        .list(TASK, "target".to_owned(), 0, 10)
        .await
        .unwrap();
    assert_eq!(marked(&below), [("target/built", None)]);
    let patch = workdirs.patch(TASK, 0, 10).await.unwrap_err();
    assert!(matches!(patch, WorkdirError::NotFound(_)));
    workdirs.remove(TASK).await.unwrap();
    assert_eq!(fake.state().disk.files.len(), 4, "nothing is removed there");

    // What was remembered is gone: nothing is made up.
    let list = workdirs
        .list(TASK, "a.txt".to_owned(), 0, 10)
        .await
        .unwrap();
    assert_eq!(marked(&list), [("a.txt", None)]);
    assert!(list.note.unwrap().contains("no file is marked"));
    let error = workdirs.collect(ATTEMPT).await.unwrap_err();
    assert!(matches!(error, WorkdirError::Fault(_)), "{error:?}");
}

#[tokio::test]
async fn what_the_server_does_not_record_is_said() {
    let (fake, _engine, workdirs) = started().await;
    two_turns(&fake);
    fake.state().disk.plain = true;
    let changes = workdirs.collect(ATTEMPT).await.unwrap();
    assert_eq!(changes.files_total, 0);
    assert!(changes.note.unwrap().contains("no git repository"));
    let list = workdirs
        .list(TASK, "a.txt".to_owned(), 0, 10)
        .await
        .unwrap();
    assert!(list.note.unwrap().contains("never recorded"));
}

#[tokio::test]
async fn files_are_read_exactly_and_nothing_else_is() {
    let (fake, _engine, workdirs) = started().await;
    {
        let mut state = fake.state();
        let files = &mut state.disk.files;
        files.insert("text.txt".to_owned(), b" \n two lines \n\n".to_vec());
        files.insert("page.html".to_owned(), b"<html>\n".to_vec());
        files.insert("a b/#%?\u{e4}".to_owned(), b"odd name".to_vec());
        files.insert("raw.bin".to_owned(), vec![0, 255]);
        files.insert("huge".to_owned(), vec![b'x'; 21 * 1024 * 1024]);
        files.insert(".git/config".to_owned(), b"token".to_vec());
    }
    let read = |path: &str, offset, limit| workdirs.read(TASK, path.to_owned(), offset, limit);
    for (path, content) in [
        ("text.txt", " \n two lines \n\n"),
        ("/w/text.txt", " \n two lines \n\n"),
        ("page.html", "<html>\n"),
        ("a b/#%?\u{e4}", "odd name"),
        ("raw.bin", "AP8="),
    ] {
        let file = read(path, 0, 1000).await.unwrap();
        assert_eq!(
            (file.content.as_str(), file.note),
            (content, None),
            "{path}"
        );
    }
    let piece = read("text.txt", 3, 5).await.unwrap();
    assert_eq!(
        (piece.content.as_str(), piece.size, piece.next_offset),
        ("two l", 15, Some(8))
    );
    for path in ["", "../x", "/etc/passwd", "a b", ".git/config", "a\\xff"] {
        let error = read(path, 0, 10).await.unwrap_err();
        assert!(
            matches!(error, WorkdirError::Refused(_)),
            "{path}: {error:?}"
        );
    }
    for path in ["nothing", "text.txt/below", "a b/nothing", "nowhere/x"] {
        let error = read(path, 0, 10).await.unwrap_err();
        assert!(
            matches!(error, WorkdirError::NotFound(_)),
            "{path}: {error:?}"
        );
    }
    let error = read("huge", 0, 10).await.unwrap_err();
    assert!(matches!(error, WorkdirError::TooLarge(_)), "{error:?}");

    // An older server.
    fake.state().disk.only_trimmed = true;
    let file = read("text.txt", 0, 1000).await.unwrap();
    assert_eq!(file.content, "two lines");
    assert!(file.note.unwrap().contains("without the space"));
    let file = read("raw.bin", 0, 1000).await.unwrap();
    assert_eq!((file.content.as_str(), file.note), ("AP8=", None));
}

#[tokio::test]
async fn a_listing_without_end_is_cut_and_strange_names_are_left_out() {
    let (fake, _engine, workdirs) = started().await;
    let node = |name: &str, kind: &str| json!({"name": name, "type": kind});
    fake.state().disk.everywhere = vec![
        node("d", "directory"),
        node("e", "directory"),
        node("..", "directory"),
        node("a/b", "file"),
        node("", "file"),
        node("f\n", "file"),
    ];
    let list = workdirs.list(TASK, String::new(), 0, 3).await.unwrap();
    assert!(list.cut);
    assert!(list.total <= 1_000);
    for file in &list.files {
        let mut parts: Vec<&str> = file.path.split('/').collect();
        assert_eq!(parts.pop(), Some("f\\x0a"));
        assert!(
            parts.iter().all(|part| ["d", "e"].contains(part)),
            "{file:?}"
        );
    }
    assert!(fake.state().disk.listings <= 1_000);
}
