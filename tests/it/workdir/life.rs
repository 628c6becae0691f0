//! A workdir from its preparation to its removal.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chargehand::adapters::workdir::WorkdirLimits;
use chargehand_actors::command::Source;
use chargehand_actors::event::{Changes, FileMark};
use chargehand_actors::id::AttemptId;
use chargehand_actors::ports::{WorkdirError, Workdirs as _};

use super::support::{ATTEMPT, Disk, TASK, changed, git, marks, patch_gives_the_branch, write};

#[tokio::test]
async fn an_empty_workdir_is_filled_compared_and_removed() {
    let disk = Disk::new();
    let work = disk.prepare(Source::Empty).await;
    assert!(work.join(".git/HEAD").exists());
    assert!(!work.join(".git/hooks").exists());
    assert_eq!(disk.collect().await, Changes::default());
    assert!(matches!(
        disk.workdirs.patch(TASK, 0, 100).await,
        Err(WorkdirError::NotFound(_))
    ));

    write(&work, "src/main.rs", "fn main() {}\n");
    write(&work, "logo.png", b"\x89PNG\r\n\x1a\n\0\0");
    let changes = disk.collect().await;
    assert_eq!(
        changed(&changes),
        [
            ("logo.png".to_owned(), FileMark::Added),
            ("src/main.rs".to_owned(), FileMark::Added)
        ]
    );
    assert_eq!(
        (changes.additions, changes.deletions, changes.files_total),
        (1, 0, 2)
    );
    assert!(changes.files[0].binary);
    assert!(changes.diff.contains("+fn main() {}\n"));
    assert!(
        changes
            .diff
            .contains("Binary files /dev/null and b/logo.png differ")
    );
    assert_eq!(changes.diff_bytes, changes.diff.len() as u64);
    assert_eq!(changes.branch.as_deref(), Some("chargehand/12345678"));
    patch_gives_the_branch(&disk, &changes);
    let commit = git(&disk.repository(), &["rev-parse", "chargehand/12345678"]);
    assert_eq!(disk.collect().await, changes, "a repetition gives the same");
    assert_eq!(
        git(&disk.repository(), &["rev-parse", "chargehand/12345678"]),
        commit
    );
    assert_eq!(
        git(
            &disk.repository(),
            &["log", "-1", "--format=%an <%ae>", &commit]
        ),
        "Chargehand <chargehand@localhost>"
    );
    let patch = disk.workdirs.patch(TASK, 0, 10_000).await.unwrap();
    assert!(patch.text.contains("GIT binary patch"));
    assert_eq!(patch.next_offset, patch.total);

    std::fs::remove_file(work.join("logo.png")).unwrap();
    std::fs::remove_dir_all(work.join("src")).unwrap();
    assert_eq!(
        disk.collect().await,
        Changes::default(),
        "undone: no branch, no patch"
    );

    disk.workdirs.remove(TASK).await.unwrap();
    disk.workdirs.remove(TASK).await.unwrap();
    assert!(!work.exists() && !disk.repository().exists());
    for error in [
        disk.workdirs.collect(ATTEMPT).await.unwrap_err(),
        disk.workdirs
            .list(TASK, String::new(), 0, 1)
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(error, WorkdirError::NotFound(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_finished_preparation_is_found_again_and_a_half_made_one_made_anew() {
    let disk = Disk::new();
    let work = disk.prepare(Source::Empty).await;
    write(&work, "done", "by the worker");
    assert_eq!(disk.prepare(Source::Empty).await, work);
    assert!(work.join("done").exists());

    std::fs::remove_file(disk.dir.path().join(format!("store/{TASK}/1/state.json"))).unwrap();
    std::fs::write(disk.repository().join("HEAD"), "broken").unwrap();
    // What a preparation that was killed in the middle leaves behind; the second is another attempt's.
    for (area, name) in [
        ("store", "1.making-x/repo.git"),
        ("workdirs", "1.making-x/work"),
        ("workdirs", "11.making-x"),
    ] {
        std::fs::create_dir_all(disk.dir.path().join(format!("{area}/{TASK}/{name}"))).unwrap();
    }
    assert_eq!(disk.prepare(Source::Empty).await, work);
    assert!(!work.join("done").exists());
    assert_eq!(disk.collect().await, Changes::default());
    let names = |area: &str| {
        let dir = std::fs::read_dir(disk.dir.path().join(format!("{area}/{TASK}"))).unwrap();
        let mut names: Vec<_> = dir.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("store"), ["1"]);
    assert_eq!(names("workdirs"), ["1", "11.making-x", "instance"]);
}

#[tokio::test]
async fn files_beyond_the_limits_keep_a_true_mark() {
    let limits = WorkdirLimits {
        file_bytes: 1000,
        total_bytes: 5000,
        ..WorkdirLimits::default()
    };
    let disk = Disk::with(limits, None);
    let work = disk
        .prepare_with(|dir| {
            for name in ["big_changed", "big_gone", "big_same", "big_shrunk"] {
                write(dir, name, "x".repeat(2000));
            }
            for index in 0..6 {
                write(dir, format!("f{index}"), "y".repeat(900));
            }
        })
        .await;
    assert_eq!(disk.collect().await.files, []);
    assert!(marks(&disk.list().await).is_empty());
    // New content uses the whole budget; what was there before is still told right.
    for index in 0..6 {
        write(&work, format!("a{index}"), "z".repeat(1000));
    }
    write(&work, "big_changed", "w".repeat(2000));
    write(&work, "big_shrunk", "small\n");
    std::fs::remove_file(work.join("big_gone")).unwrap();
    write(&work, "f1", "Y".repeat(900));
    let expected = [
        ("a0", FileMark::Added),
        ("a1", FileMark::Added),
        ("a2", FileMark::Added),
        ("a3", FileMark::Added),
        ("a4", FileMark::Added),
        ("a5", FileMark::Added),
        ("big_changed", FileMark::Modified),
        ("big_gone", FileMark::Deleted),
        ("big_shrunk", FileMark::Modified),
        ("f1", FileMark::Modified),
    ]
    .map(|(path, mark)| (path.to_owned(), mark));
    let changes = disk.collect().await;
    assert_eq!(changed(&changes), expected);
    assert_eq!(marks(&disk.list().await), expected);
    assert!(
        changes
            .left_out
            .iter()
            .any(|left| left.path == "a5" && left.reason.contains("together"))
    );
    patch_gives_the_branch(&disk, &changes);
}

#[tokio::test]
async fn a_second_attempt_has_a_workdir_of_its_own_which_is_the_one_that_is_read() {
    let disk = Disk::new();
    let first = disk.prepare(Source::Empty).await;
    write(&first, "old", "");
    assert_eq!(disk.list().await.total, 1);
    let second = AttemptId {
        task: TASK,
        number: 2,
    };
    let prepared = disk.workdirs.prepare(second, Source::Empty).await.unwrap();
    write(Path::new(&prepared.directory), "new", "");
    assert_eq!(
        marks(&disk.list().await),
        [("new".to_owned(), FileMark::Added)]
    );
    assert_eq!(
        changed(&disk.workdirs.collect(second).await.unwrap()),
        [("new".to_owned(), FileMark::Added)]
    );
    assert_eq!(
        changed(&disk.collect().await),
        [("old".to_owned(), FileMark::Added)]
    );
}

#[tokio::test]
async fn a_deleted_moved_or_linked_repository_of_the_workdir_changes_nothing() {
    let disk = Disk::new();
    let work = disk.prepare_with(|dir| write(dir, "a", "1\n")).await;
    write(&work, "a", "2\n");
    let expected = disk.collect().await;
    assert_eq!(changed(&expected), [("a".to_owned(), FileMark::Modified)]);
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::rename(work.join(".git"), elsewhere.path().join("moved")).unwrap();
    assert_eq!(disk.collect().await, expected);
    let inside = work.join("old.git");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([elsewhere.path().join("moved"), inside.clone()])
        .status()
        .unwrap();
    assert!(copied.success());
    // Its files are files of the worker now, the history of the workdir is ours.
    let with_it = changed(&disk.collect().await);
    assert!(
        with_it.contains(&("a".to_owned(), FileMark::Modified)),
        "{with_it:?}"
    );
    std::fs::remove_dir_all(inside).unwrap();
    std::os::unix::fs::symlink("/etc", work.join(".git")).unwrap();
    assert_eq!(disk.collect().await, expected);
    std::fs::remove_file(work.join(".git")).unwrap();
    write(&work, ".git", "gitdir: /etc\n");
    assert_eq!(disk.collect().await, expected);
    std::fs::set_permissions(&work, PermissionsExt::from_mode(0o000)).unwrap();
    assert_eq!(disk.collect().await, expected);
}

#[tokio::test]
async fn a_workdir_replaced_by_a_link_is_not_followed() {
    let disk = Disk::new();
    let work = disk.prepare(Source::Empty).await;
    std::fs::remove_dir_all(&work).unwrap();
    std::os::unix::fs::symlink("/etc", &work).unwrap();
    disk.workdirs.collect(ATTEMPT).await.unwrap_err();
    disk.workdirs
        .list(TASK, String::new(), 0, 1)
        .await
        .unwrap_err();
    disk.workdirs
        .read(TASK, "hostname".to_owned(), 0, 1)
        .await
        .unwrap_err();
    disk.workdirs.remove(TASK).await.unwrap();
    assert!(Path::new("/etc/passwd").exists());
}

#[tokio::test]
async fn without_git_there_is_a_workdir_and_a_note() {
    let disk = Disk::with(
        WorkdirLimits::default(),
        Some(PathBuf::from("/nonexistent/git")),
    );
    let prepared = disk.workdirs.prepare(ATTEMPT, Source::Empty).await.unwrap();
    assert!(prepared.note.unwrap().contains("git was not found"));
    write(Path::new(&prepared.directory), "a", "1");
    assert_eq!(disk.list().await.files[0].mark, None);
    let changes = disk.collect().await;
    assert!(changes.note.unwrap().contains("git was not found"));
    let source = super::support::repository(Path::new("/nowhere"), None);
    let other = AttemptId {
        task: TASK,
        number: 2,
    };
    let error = disk.workdirs.prepare(other, source).await.unwrap_err();
    assert!(error.to_string().contains("install git"), "{error}");
}

#[tokio::test]
async fn a_preparation_given_up_leaves_no_process_behind() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("git");
    let pids = dir.path().join("pids");
    let text = format!(
        "#!/bin/sh\nsleep 600 &\necho $$ $! > {}.new\nmv {}.new {}\nwait\n",
        pids.display(),
        pids.display(),
        pids.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let disk = Disk::with(WorkdirLimits::default(), Some(script));
    let mut preparing = disk.workdirs.prepare(ATTEMPT, Source::Empty);
    while !pids.exists() {
        let step = tokio::time::timeout(Duration::from_millis(10), &mut preparing).await;
        assert!(step.is_err(), "{step:?}");
    }
    drop(preparing);
    let pids = std::fs::read_to_string(&pids).unwrap();
    for pid in pids.split_ascii_whitespace() {
        let alive = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
        };
        for _ in 0..500 {
            if !alive() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!alive(), "process {pid} still runs");
    }
}

#[tokio::test]
async fn a_collection_given_up_can_be_repeated() {
    let disk = Disk::new();
    let work = disk.prepare(Source::Empty).await;
    for index in 0..1200 {
        write(
            &work,
            format!("d{}/f{index}", index % 7),
            format!("{index}\n"),
        );
    }
    for millis in [1, 5, 10, 20, 40] {
        let _ = tokio::time::timeout(
            Duration::from_millis(millis),
            disk.workdirs.collect(ATTEMPT),
        )
        .await;
    }
    // What a killed git leaves behind.
    let lock = disk.repository().join("refs/chargehand/import.lock");
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    std::fs::write(lock, "").unwrap();
    let changes = disk.collect().await;
    assert_eq!((changes.files_total, changes.files.len()), (1200, 1000));
    assert!(changes.diff.len() <= 50 * 1024 && changes.diff.ends_with('\n'));
    assert!(changes.diff_bytes > 60_000);
    patch_gives_the_branch(&disk, &changes);
}
