//! Files of a task that cannot be given: refused by name with the reason, through the whole server on a real disk.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use super::bystander::Bystander;
use crate::mcp::server::Server;
use crate::workdir::support::write;

/// What a worker left in its workdir.
fn traps(work: &Path, outside: &Path) {
    write(outside, "key", "hunter2");
    write(work, "dir/file", "fine");
    write(work, b"latin\xff", "not UTF-8");
    symlink(outside, work.join("out")).unwrap();
    symlink(outside.join("key"), work.join("key")).unwrap();
    symlink("self", work.join("self")).unwrap();
    mknodat(CWD, work.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    std::fs::File::create(work.join("huge"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_given_is_refused_by_name_and_reason() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let server = Server::on_disk(place, None).await;
    let bystander = Bystander::at(&server).await;
    let client = bystander.client();
    let task = json!({"task_id": bystander.task()});
    let status = client.ok("get_task_status", task.clone()).await;
    let work = PathBuf::from(status["directory"].as_str().unwrap());
    traps(&work, &place.join("outside"));
    let key = place.join("outside/key");
    for (name, path, says) in [
        ("two dots", "../../../outside/key", "\"..\" is not allowed"),
        ("two dots inside", "dir/../../key", "\"..\" is not allowed"),
        (
            "an absolute path",
            key.to_str().unwrap(),
            "outside of the workdir",
        ),
        ("a system file", "/etc/passwd", "outside of the workdir"),
        ("a link to a file", "key", "is a symbolic link"),
        (
            "a link to a directory",
            "out/key",
            "\"out\" is a symbolic link",
        ),
        ("a link to itself", "self", "is a symbolic link"),
        ("a FIFO", "pipe", "a FIFO"),
        ("a directory", "dir", "is a directory"),
        (
            "a file as directory",
            "dir/file/x",
            "is a file, not a directory",
        ),
        ("no such file", "nothing", "nothing"),
        ("a name that is too long", &"x".repeat(300), "x"),
        ("4000 directories", &"d/".repeat(1_999), "d"),
    ] {
        let refusal = client
            .refused(
                "read_task_file",
                json!({"task_id": bystander.task(), "file_path": path}),
            )
            .await;
        assert_eq!(refusal["code"], "FILE", "{name}: {refusal}");
        let error = refusal["error"].as_str().unwrap();
        assert!(error.contains(says), "{name}: {error}");
        assert!(
            !error.contains("hunter2") && error.len() < 5_000,
            "{name}: {error}"
        );
        bystander.unchanged(name).await;
    }
    let listed = client.ok("get_task_files", task).await;
    assert!(listed.to_string().contains("latin\\\\xff"), "{listed}");
    let id = bystander.task();
    let read = |mut arguments: Value| {
        arguments["task_id"] = json!(id);
        client.ok("read_task_file", arguments)
    };
    let odd = read(json!({"file_path": "latin\\xff"})).await;
    assert_eq!(odd["content"], "not UTF-8");
    let beyond = read(json!({"file_path": "dir/file", "offset": 99})).await;
    assert_eq!(
        (beyond["content"].as_str(), beyond["size"].as_u64()),
        (Some(""), Some(4)),
        "{beyond}"
    );
    let far = read(json!({"file_path": "huge", "offset": (1_u64 << 40) - 3, "limit": 10})).await;
    assert_eq!(far["size"], 1_u64 << 40, "{far}");
    let last = read(json!({"file_path": "huge", "offset": i64::MAX})).await;
    assert_eq!(last["content"], "", "{last}");
    bystander.unchanged("odd reads").await;
    bystander.goes_on().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_workdir_that_is_gone_are_told_to_be_gone() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let server = Server::on_disk(place, None).await;
    let client = server.client().await;
    let task = client.task_in("Done soon.", "completed").await;
    let status = client.ok("get_task_status", json!({"task_id": task})).await;
    std::fs::remove_dir_all(status["directory"].as_str().unwrap()).unwrap();
    for (tool, arguments) in [
        ("get_task_files", json!({"task_id": task})),
        ("read_task_file", json!({"task_id": task, "file_path": "a"})),
    ] {
        let refusal = client.refused(tool, arguments).await;
        assert_eq!(refusal["code"], "FILE", "{refusal}");
        let error = refusal["error"].as_str().unwrap();
        assert!(error.contains("workdir"), "{tool}: {error}");
    }
    // What the task left in the journal is still there.
    let status = client.ok("get_task_status", json!({"task_id": task})).await;
    assert_eq!(status["status"], "completed");
    server.stop().await;
}
