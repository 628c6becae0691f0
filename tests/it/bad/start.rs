//! A start that cannot succeed, with the real program: it ends at once, says why and what to do, and leaves what was there
//! as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use sqlx::{Connection as _, SqliteConnection};
use tempfile::TempDir;

use crate::cli_support::command;

/// How long a start that cannot succeed may take to say so.
const AT_ONCE: Duration = Duration::from_secs(60);

/// Prepares a place; gives the arguments after `serve`, and variables of the environment.
type Prepare = fn(&Path) -> (Vec<String>, Vec<(&'static str, String)>);

/// Name, what is wrong, exit code, parts of what is said.
type Start = (&'static str, Prepare, i32, &'static [&'static str]);

fn at(place: &Path, name: &str) -> String {
    place.join(name).display().to_string()
}

fn config(place: &Path, text: impl AsRef<[u8]>) -> Vec<String> {
    fs::write(place.join("bad.toml"), text).unwrap();
    vec!["--config".to_owned(), at(place, "bad.toml")]
}

fn data(place: &Path, make: impl FnOnce(&Path)) -> Vec<String> {
    let directory = place.join("data");
    fs::create_dir(&directory).unwrap();
    make(&directory);
    vec!["--data-dir".to_owned(), directory.display().to_string()]
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

const NOT_STARTED: &str = "nothing was started";

/// Settings and addresses.
const SETTINGS: &[Start] = &[
    (
        "the settings file is missing",
        |p| (vec!["--config".into(), at(p, "nothing.toml")], vec![]),
        2,
        &["nothing.toml", "cannot be read", NOT_STARTED],
    ),
    (
        "the settings file is a directory",
        |p| (vec!["--config".into(), p.display().to_string()], vec![]),
        2,
        &["cannot be read", NOT_STARTED],
    ),
    (
        "the settings file is no text",
        |p| (config(p, b"a = \"\xff\""), vec![]),
        2,
        &["bad.toml", NOT_STARTED],
    ),
    (
        "the settings file is no TOML",
        |p| (config(p, "[server\nbind = 3"), vec![]),
        2,
        &["no TOML", NOT_STARTED],
    ),
    (
        "a setting that does not exist",
        |p| (config(p, "[server]\nbnid = \"x\""), vec![]),
        2,
        &["server.bnid", "server.bind", NOT_STARTED],
    ),
    (
        "a setting of another type",
        |p| (config(p, "[tasks]\nmax_running = [3]"), vec![]),
        2,
        &["tasks.max_running", "1 to 1000", NOT_STARTED],
    ),
    (
        "a number out of its range",
        |p| (config(p, "[tasks]\nmax_running = -1"), vec![]),
        2,
        &["tasks.max_running", "1 to 1000", NOT_STARTED],
    ),
    (
        "two settings that contradict",
        |p| (config(p, "[tasks]\nmax_timeout_ms = 2000"), vec![]),
        2,
        &["tasks.default_timeout_ms", "max_timeout_ms", NOT_STARTED],
    ),
    (
        "a variable that is no number",
        |_| {
            (
                vec![],
                vec![("CHARGEHAND_TASKS_MAX_RUNNING", "many".into())],
            )
        },
        2,
        &["CHARGEHAND_TASKS_MAX_RUNNING", "many", "1 to 1000"],
    ),
    (
        "a token that is too short",
        |_| (vec![], vec![("CHARGEHAND_AUTH_TOKEN", "hunter2".into())]),
        2,
        &["shorter than 16 bytes", "openssl rand"],
    ),
    (
        "a token file that is missing",
        |p| {
            (
                vec![],
                vec![("CHARGEHAND_AUTH_TOKEN_FILE", at(p, "no-token"))],
            )
        },
        2,
        &["no-token", "cannot be read"],
    ),
    (
        "an engine that is not configured",
        |p| (config(p, "[engine]\ndefault = \"moon\""), vec![]),
        2,
        &["engine.default", "moon"],
    ),
    (
        "open to others without a token",
        |_| (vec!["--listen".into(), "0.0.0.0:0".into()], vec![]),
        2,
        &["server.bind", "no token is configured", NOT_STARTED],
    ),
    (
        "an address that is none",
        |_| (vec!["--listen".into(), "banana".into()], vec![]),
        2,
        &["banana", "--listen"],
    ),
    // 192.0.2.0/24 is kept for documentation: no machine has it.
    (
        "an address of another machine",
        |_| {
            (
                vec!["--listen".into(), "192.0.2.1:3500".into()],
                vec![("CHARGEHAND_AUTH_TOKEN", "0123456789abcdef".into())],
            )
        },
        1,
        &["192.0.2.1:3500", "no interface of this machine", "--listen"],
    ),
    (
        "a log filter that is none",
        |_| (vec!["--log".into(), "chargehand=loud".into()], vec![]),
        2,
        &["chargehand=loud", "info,chargehand=debug"],
    ),
];

/// The data directory and what is in it.
const DATA: &[Start] = &[
    (
        "the data directory is a file",
        |p| {
            fs::write(p.join("file"), "mine").unwrap();
            (vec!["--data-dir".into(), at(p, "file")], vec![])
        },
        1,
        &["cannot be made", "--data-dir"],
    ),
    (
        "the data directory is below a file",
        |p| {
            fs::write(p.join("file"), "mine").unwrap();
            (vec!["--data-dir".into(), at(p, "file/data")], vec![])
        },
        1,
        &["cannot be made", "--data-dir"],
    ),
    (
        "the data directory is a link to nowhere",
        |p| {
            std::os::unix::fs::symlink("/nothing/here", p.join("link")).unwrap();
            (vec!["--data-dir".into(), at(p, "link")], vec![])
        },
        1,
        &["cannot be made", "--data-dir"],
    ),
    // Nobody can make a directory there, root included.
    (
        "the data directory cannot be written",
        |_| (vec!["--data-dir".into(), "/proc/chargehand".into()], vec![]),
        1,
        &["/proc/chargehand", "cannot be made", "--data-dir"],
    ),
    (
        "the name of the data directory is too long",
        |_| {
            (
                vec!["--data-dir".into(), format!("/tmp/{}", "x".repeat(5_000))],
                vec![],
            )
        },
        1,
        &["cannot be made"],
    ),
    (
        "the lock is a directory",
        |p| (data(p, |d| fs::create_dir(d.join("lock")).unwrap()), vec![]),
        1,
        &["lock file cannot be opened", "--data-dir"],
    ),
    (
        "the instance id is none",
        |p| {
            (
                data(p, |d| fs::write(d.join("instance"), "zz\n").unwrap()),
                vec![],
            )
        },
        1,
        &["12 hexadecimal digits", "put the right ones back"],
    ),
    (
        "the instance id is a FIFO",
        |p| (data(p, |d| fifo(&d.join("instance"))), vec![]),
        1,
        &["12 hexadecimal digits"],
    ),
    (
        "the journal is a directory",
        |p| {
            (
                data(p, |d| fs::create_dir(d.join("journal.db")).unwrap()),
                vec![],
            )
        },
        1,
        &["journal.db cannot be opened", "another data directory"],
    ),
    (
        "the journal is a FIFO",
        |p| (data(p, |d| fifo(&d.join("journal.db"))), vec![]),
        1,
        &["journal.db cannot be opened", "another data directory"],
    ),
    (
        "the journal is a text",
        |p| {
            (
                data(p, |d| {
                    fs::write(d.join("journal.db"), "Dear diary, ".repeat(999)).unwrap()
                }),
                vec![],
            )
        },
        1,
        &["no Chargehand journal", "keep a copy"],
    ),
    (
        "the place of the workdirs is a file",
        |p| {
            (
                data(p, |d| fs::write(d.join("workdirs"), "mine").unwrap()),
                vec![],
            )
        },
        1,
        &["data.workdirs", NOT_STARTED],
    ),
];

/// Every file below `place` with its bytes, without those that a start is right to make.
fn contents(place: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![place.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap();
                all.insert(path, bytes);
            }
        }
    }
    all
}

/// Runs `serve`, which must end by itself.
async fn ended(
    place: &Path,
    arguments: &[String],
    environment: &[(&str, String)],
) -> (i32, String) {
    let child = command(&["serve"])
        .args(arguments)
        .envs([
            ("HOME", place.join("home")),
            ("XDG_CONFIG_HOME", place.join("home")),
            ("XDG_DATA_HOME", place.join("home")),
        ])
        .env("CHARGEHAND_SERVER_BIND", "127.0.0.1:0")
        // No engine that would install something.
        .env("CHARGEHAND_ENGINES_REMOTE_URL", "http://127.0.0.1:9")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = tokio::time::timeout(AT_ONCE, child.wait_with_output())
        .await
        .expect("it neither starts nor ends")
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap_or(-1), said)
}

async fn refused(all: &[Start]) {
    for (name, prepare, code, parts) in all {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("home")).unwrap();
        let (arguments, environment) = prepare(place.path());
        let before = contents(place.path());
        let (ended_with, said) = ended(place.path(), &arguments, &environment).await;
        assert_eq!(ended_with, *code, "{name}: {said}");
        for part in *parts {
            assert!(said.contains(part), "{name}: no {part:?} in: {said}");
        }
        assert!(
            !said.contains("hunter2") && !said.contains("panicked"),
            "{name}: {said}"
        );
        let after = contents(place.path());
        for (path, bytes) in &before {
            assert_eq!(
                after.get(path),
                Some(bytes),
                "{name}: {} was changed",
                path.display()
            );
        }
    }
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_named_with_what_is_allowed() {
    refused(SETTINGS).await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_named_with_what_to_do() {
    refused(DATA).await;
}

/// A data directory whose journal was made by a start that went well.
async fn with_journal() -> TempDir {
    use chargehand::adapters::journal::{JournalSettings, SqliteJournal};
    let place = tempfile::tempdir().unwrap();
    let settings = JournalSettings::at(place.path().join("journal.db"));
    SqliteJournal::open(settings).await.unwrap().close().await;
    place
}

#[tokio::test]
async fn a_journal_that_another_program_holds_is_waited_for_a_moment_and_then_told() {
    let place = with_journal().await;
    let path = place.path().join("journal.db");
    let mut other = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    sqlx::raw_sql("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
        .execute(&mut other)
        .await
        .unwrap();
    let arguments = ["--data-dir".to_owned(), place.path().display().to_string()];
    let (code, said) = ended(place.path(), &arguments, &[]).await;
    assert_eq!(code, 1, "{said}");
    for part in [
        "another program holds",
        "journal.db locked",
        "stop it and start again",
    ] {
        assert!(said.contains(part), "{said}");
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert!(tables > 3, "the journal was emptied");
}

#[tokio::test]
async fn a_journal_with_a_damaged_page_is_kept_and_refused() {
    let place = with_journal().await;
    let path = place.path().join("journal.db");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xA5);
    fs::write(&path, &bytes).unwrap();
    let arguments = ["--data-dir".to_owned(), place.path().display().to_string()];
    let (code, said) = ended(place.path(), &arguments, &[]).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("put the last good backup in its place"),
        "{said}"
    );
    assert!(said.contains("keep a copy of it"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
