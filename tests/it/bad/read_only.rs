//! A disk that may only be read, with the real program: from the start, or from an error of the disk on. Nothing is accepted that
//! is not on record, and with the disk back everything that was accepted is there.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use super::full_disk::serving;
use crate::cli_support::command;
use crate::journal::faults::SmallDisk;
use crate::mcp::client::{Client, message};

const SERVE: [&str; 6] = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--log-format",
    "json",
    "--data-dir",
];

fn ran(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn did(program: &str, arguments: &[&str]) {
    let done = ran(program, arguments);
    assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
}

/// A disk that can have errors: a file system in a file, which its kernel makes read-only at the first error.
struct Disk {
    place: tempfile::TempDir,
}

impl Disk {
    /// None where the kernel lets nobody do that: said, because machines differ in it.
    fn mount() -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let disk = Self { place };
        std::fs::create_dir(disk.path()).unwrap();
        std::fs::File::create(disk.image())
            .unwrap()
            .set_len(48 << 20)
            .unwrap();
        let made = Command::new("mkfs.ext4")
            .arg("-q")
            .arg(disk.image())
            .status();
        if !made.is_ok_and(|made| made.success()) {
            eprintln!("skipped: no mkfs.ext4 here");
            return None;
        }
        if !disk.attach() || !disk.switch().exists() {
            eprintln!("skipped: a file cannot be mounted as a disk with errors here");
            return None;
        }
        Some(disk)
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("disk")
    }

    fn image(&self) -> PathBuf {
        self.place.path().join("image")
    }

    fn attach(&self) -> bool {
        let done = Command::new("mount")
            .args(["-o", "loop,errors=remount-ro"])
            .arg(self.image())
            .arg(self.path())
            .output();
        done.is_ok_and(|done| done.status.success())
    }

    /// Where the kernel is told that the file system has an error.
    fn switch(&self) -> PathBuf {
        let path = self.path();
        let device = ran("findmnt", &["-no", "SOURCE", path.to_str().unwrap()]);
        let device = String::from_utf8_lossy(&device.stdout).trim().to_owned();
        let name = device.rsplit('/').next().unwrap().to_owned();
        PathBuf::from(format!("/sys/fs/ext4/{name}/trigger_fs_error"))
    }

    fn breaks(&self) {
        std::fs::write(self.switch(), "1").unwrap();
        let tried = std::fs::write(self.path().join("probe"), "x").unwrap_err();
        assert_eq!(tried.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }

    /// As an operator repairs it.
    fn is_repaired(&self) {
        did("umount", &[self.path().to_str().unwrap()]);
        // Says 1 where it mended something.
        let checked = ran("fsck.ext4", &["-fy", self.image().to_str().unwrap()]);
        assert!(checked.status.code().unwrap() < 2, "{checked:?}");
        assert!(self.attach());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Fails where it is not mounted.
        drop(Command::new("umount").arg("-l").arg(self.path()).output());
    }
}

async fn submit(client: &Client, words: &str) -> Value {
    let arguments = json!({"agent_id": "a", "task_description": words});
    let call = json!({"name": "opencode_execute_task", "arguments": arguments});
    message(client.request("tools/call", call).send().await.unwrap()).await
}

fn id_of(said: &Value) -> Option<String> {
    let id = &said["result"]["structuredContent"]["task_id"];
    id.as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_read_only_ends_it_with_the_reason_and_keeps_what_was_accepted() {
    let Some(disk) = Disk::mount() else {
        return;
    };
    let data = disk.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let (mut child, url, mut lines) = serving(command(&SERVE), &data).await;
    let client = Client::stateless(&url);
    let accepted = id_of(&submit(&client, "Before.").await).unwrap();
    disk.breaks();
    let refused = submit(&client, "After.").await;
    assert_eq!(id_of(&refused), None, "{refused:#}");
    let words = refused.to_string();
    assert!(
        words.contains("look with list_tasks") || words.contains("can only be read"),
        "{refused:#}"
    );
    let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(1));
    let mut log = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        log.push_str(&line);
    }
    for part in [
        "can only be read",
        "journal.db",
        "tasks are recovered at the next start",
    ] {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
    assert!(!log.contains("no space left"), "not what is wrong: {log}");

    disk.is_repaired();
    let (mut child, url, _lines) = serving(command(&SERVE), &data).await;
    let client = Client::stateless(&url);
    let list = client.ok("list_tasks", json!({})).await;
    assert_eq!(list["count"], 1, "{list:#}");
    assert_eq!(list["tasks"][0]["task_id"], accepted, "{list:#}");
    assert!(id_of(&submit(&client, "Again.").await).is_some());
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_disk_that_is_read_only_says_so_and_changes_nothing() {
    let Some(disk) = SmallDisk::mount("48m") else {
        return;
    };
    let place = disk.path().to_str().unwrap().to_owned();
    let data = disk.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let (mut child, url, _lines) = serving(command(&SERVE), &data).await;
    let client = Client::stateless(&url);
    let accepted = id_of(&submit(&client, "Before.").await).unwrap();
    child.kill().await.unwrap();

    did("mount", &["-o", "remount,ro", &place]);
    let mut again = command(&SERVE);
    again
        .arg(&data)
        .env("HOME", &data)
        .env("XDG_CONFIG_HOME", &data);
    let output = tokio::time::timeout(Duration::from_secs(60), again.output());
    let output = output.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.to_lowercase().contains("read-only"), "{said}");
    assert!(said.contains(&place), "{said}");

    did("mount", &["-o", "remount,rw", &place]);
    let (mut child, url, _lines) = serving(command(&SERVE), &data).await;
    let list = Client::stateless(&url).ok("list_tasks", json!({})).await;
    assert_eq!(list["tasks"][0]["task_id"], accepted, "{list:#}");
    child.kill().await.unwrap();
}
