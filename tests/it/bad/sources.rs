//! Sources that cannot be used: the task fails with the reason, nothing is left of it, and no secret is shown.

use std::path::Path;

use serde_json::{Value, json};

use super::bystander::Bystander;
use crate::mcp::client::Client;
use crate::mcp::server::Server;
use crate::workdir::support::{git, upstream};

/// Delegates a task with this source and waits for its end.
async fn failed(client: &Client, source: &Value) -> Value {
    let mut arguments = json!({"agent_id": "a", "task_description": "Never begun."});
    for (name, value) in source.as_object().unwrap() {
        arguments[name] = value.clone();
    }
    let accepted = client.ok("opencode_execute_task", arguments).await;
    client
        .until(accepted["task_id"].as_str().unwrap(), "failed")
        .await
}

/// Files in the workdirs and the store, without the marks that say whose a task's directory is.
fn leftovers(place: &Path) -> usize {
    let mut open = vec![place.join("workdirs"), place.join("store")];
    let mut files = 0;
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if entry.file_name() != "instance" {
                files += 1;
            }
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_used_fails_its_task_with_the_reason_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let server = Server::on_disk(place, None).await;
    let bystander = Bystander::at(&server).await;
    let client = server.client().await;
    let good = place.join("good");
    upstream(&good, &[("a", "1")]);
    let file = place.join("file");
    std::fs::write(&file, "no repository").unwrap();
    let empty = place.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let broken = place.join("broken");
    upstream(&broken, &[("a", "1")]);
    std::fs::remove_dir_all(broken.join(".git/objects")).unwrap();
    let url = |path: &Path| format!("file://{}", path.display());
    let from = |url: String| json!({"repository": {"url": url}});
    let at = |reference: &str| json!({"repository": {"url": url(&good), "ref": reference}});
    let closed = "https://127.0.0.1:9/a.git";
    let before = leftovers(place);
    for (name, source, says) in [
        (
            "a repository that is missing",
            from(url(&place.join("nothing"))),
            "there is no such repository",
        ),
        (
            "a repository that is a file",
            from(url(&file)),
            "repository",
        ),
        (
            "a repository that is a device",
            from("file:///dev/zero".to_owned()),
            "repository",
        ),
        (
            "a repository that is an empty directory",
            from(url(&empty)),
            "repository",
        ),
        (
            "a repository without its objects",
            from(url(&broken)),
            "repository",
        ),
        (
            "a repository that nobody serves",
            from(closed.to_owned()),
            "127.0.0.1",
        ),
        (
            "a branch that is missing",
            at("nothing"),
            "no branch, tag or commit \"nothing\"",
        ),
        (
            "a commit that is missing",
            at(&"ab".repeat(20)),
            "has no commit",
        ),
        (
            "a reference that is an expression",
            at("main~1"),
            "is refused",
        ),
        (
            "a directory that is missing",
            json!({"directory": place.join("nothing")}),
            "does not exist",
        ),
        (
            "a directory that is a file",
            json!({"directory": file}),
            "not a directory",
        ),
        (
            "Chargehand's own data",
            json!({"directory": place.join("workdirs")}),
            "Chargehand's own data",
        ),
    ] {
        let status = failed(&client, &source).await;
        let error = status["error"].as_str().unwrap();
        assert_eq!(status["error_kind"], "workdir", "{name}: {error}");
        assert!(error.contains(says), "{name}: {error}");
        let asked =
            json!({"task_id": status["task_id"], "events_limit": -1, "include_artifacts": true});
        let history = client.ok("get_task_history", asked).await;
        for told in [status.to_string(), history.to_string()] {
            assert!(!told.contains("hunter2"), "{name}: {told}");
        }
        assert_eq!(leftovers(place), before, "{name} left something behind");
    }
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_would_run_something_is_never_tried() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let server = Server::on_disk(place, None).await;
    let bystander = Bystander::at(&server).await;
    let client = bystander.client();
    let trap = place.join("ran");
    let touch = format!("touch {}", trap.display());
    for (name, url) in [
        ("ext::", format!("ext::sh -c '{touch}'")),
        (
            "ext:: without blanks",
            format!("ext::{touch}").replace(' ', "${IFS}"),
        ),
        ("fd::", "fd::17/foo".to_owned()),
        ("an option as URL", format!("--upload-pack={touch}")),
        (
            "an option as URL without blanks",
            "-oProxyCommand=id".to_owned(),
        ),
        (
            "an option as ssh host",
            "ssh://-oProxyCommand=id/x".to_owned(),
        ),
        (
            "an option as scp host",
            "git@-oProxyCommand=id:x".to_owned(),
        ),
        (
            "an option as scp user",
            "-oProxyCommand=id@host:x".to_owned(),
        ),
        ("a blank in a URL", "https://example.org/a b".to_owned()),
        ("a newline in a URL", "https://example.org/a\nb".to_owned()),
        ("http", "http://example.org/a".to_owned()),
        ("git", "git://example.org/a".to_owned()),
        ("ftp", "ftp://example.org/a".to_owned()),
        ("a path as URL", "/etc".to_owned()),
        ("a password", "https://bob:hunter2@example.org/a".to_owned()),
        (
            "a token in a query",
            "https://example.org/a?private_token=hunter2".to_owned(),
        ),
        (
            "a token as user",
            "https://hunter2token@example.org/a".to_owned(),
        ),
        (
            "an ssh password",
            "ssh://git:hunter2@example.org/a".to_owned(),
        ),
    ] {
        let arguments = json!({"agent_id": "a", "task_description": "Never accepted.", "repository": {"url": url}});
        let told = match client.call("opencode_execute_task", arguments).await {
            refusal if refusal.refused => {
                assert_eq!(refusal.body["code"], "INVALID_ARGUMENT", "{name}");
                bystander.unchanged(name).await;
                refusal.body["error"].as_str().unwrap().to_owned()
            }
            accepted => {
                let id = accepted.body["task_id"].as_str().unwrap().to_owned();
                panic!(
                    "{name} was accepted: {}",
                    client.until(&id, "failed").await["error"]
                );
            }
        };
        assert!(
            told.contains("repository.url") && told.contains("https://"),
            "{name}: {told}"
        );
        assert!(!told.contains("hunter2"), "{name}: {told}");
        assert!(!trap.exists(), "{name} ran");
    }
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_git_a_clone_fails_with_what_to_install_and_other_tasks_are_done() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let server = Server::on_disk(place, Some(place.join("no-git"))).await;
    let client = server.client().await;
    let status = failed(
        &client,
        &json!({"repository": {"url": "https://example.org/a.git"}}),
    )
    .await;
    let error = status["error"].as_str().unwrap();
    assert!(
        error.contains("git was not found") && error.contains("install git 2.32"),
        "{error}"
    );
    let other = client.task_in("Without a source.", "completed").await;
    let status = client
        .ok("get_task_status", json!({"task_id": other}))
        .await;
    let note = status["changes"]["note"].as_str().unwrap_or_default();
    assert!(note.contains("install git 2.32"), "{status:#}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_for_workdirs_that_went_away_fails_the_task_and_not_the_server() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let server = Server::on_disk(place, None).await;
    let bystander = Bystander::at(&server).await;
    let client = server.client().await;
    std::fs::rename(place.join("workdirs"), place.join("away")).unwrap();
    std::fs::write(place.join("workdirs"), "a file in its place").unwrap();
    let status = failed(&client, &json!({})).await;
    let error = status["error"].as_str().unwrap();
    assert_eq!(status["error_kind"], "workdir", "{error}");
    assert!(error.contains("workdir"), "{error}");
    std::fs::remove_file(place.join("workdirs")).unwrap();
    std::fs::rename(place.join("away"), place.join("workdirs")).unwrap();
    client.task_in("It is there again.", "completed").await;
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_of_a_hostile_repository_is_what_it_says_and_nothing_of_it_runs() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let server = Server::on_disk(place, None).await;
    let client = server.client().await;
    let from = place.join("hostile");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    upstream(
        &from,
        &[
            (
                ".gitattributes",
                "*.bin filter=lfs diff=lfs merge=lfs -text\n* diff=evil\n",
            ),
            (
                ".gitmodules",
                "[submodule \"x\"]\n\tpath = x\n\turl = ext::sh -c 'touch ran'\n\tupdate = !touch ran\n",
            ),
            ("big.bin", pointer),
            ("opencode.json", "{\"plugin\": [\"./evil.js\"]}\n"),
            (".lfsconfig", "[lfs]\n\turl = http://127.0.0.1:9/\n"),
        ],
    );
    std::os::unix::fs::symlink("loop-b", from.join("loop-a")).unwrap();
    std::os::unix::fs::symlink("loop-a", from.join("loop-b")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", from.join("passwd")).unwrap();
    git(&from, &["add", "-A"]);
    git(&from, &["commit", "-q", "-m", "links"]);
    let arguments = json!({"agent_id": "a", "task_description": "Look.", "sync": true,
        "repository": {"url": format!("file://{}", from.display())}});
    let done = client.ok("opencode_execute_task", arguments).await;
    assert_eq!(done["status"], "completed", "{done:#}");
    assert_eq!(done["changes"]["files_total"], 0, "{done:#}");
    let task = done["task_id"].clone();
    let read = |path: &str| json!({"task_id": task, "file_path": path});
    let file = client.ok("read_task_file", read("big.bin")).await;
    assert_eq!(file["content"], pointer);
    for link in ["loop-a", "passwd"] {
        let refusal = client.refused("read_task_file", read(link)).await;
        assert!(
            refusal["error"].as_str().unwrap().contains("symbolic link"),
            "{refusal}"
        );
    }
    server.stop().await;
}
