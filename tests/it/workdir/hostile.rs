//! A worker that leaves every trap behind that is known: nothing of it runs, and the result is right.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use chargehand_actors::event::{Changes, FileMark};
use chargehand_actors::ports::{FileKind, Workdirs as _};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::support::{
    Disk, TASK, changed, git, marks, patch_gives_the_branch, try_git, upstream, write,
};

/// Makes a file when it is executed.
fn trap(marker: &Path, name: &str) -> String {
    format!("#!/bin/sh\ntouch '{}/{name}'\ncat\n", marker.display())
}

fn executable(dir: &Path, path: &str, text: &str) {
    write(dir, path, text);
    std::fs::set_permissions(dir.join(path), PermissionsExt::from_mode(0o755)).unwrap();
}

/// Fills a repository's configuration and hooks with traps.
fn arm(repository: &Path, git_dir: &str, marker: &Path, who: &str) {
    let script = format!("{git_dir}/trap");
    executable(repository, &script, &trap(marker, who));
    let run = repository.join(&script);
    let run = run.display();
    let config = format!(
        "[core]\n\trepositoryformatversion = 0\n\tfsmonitor = {run}\n\thooksPath = {git_dir}/hooks\n\tpager = {run}\n\
         \teditor = {run}\n\tsshCommand = {run}\n\tattributesFile = {git_dir}/attributes\n\
         [filter \"evil\"]\n\tclean = {run}\n\tsmudge = {run}\n\tprocess = {run}\n\trequired = true\n\
         [diff]\n\texternal = {run}\n[diff \"evil\"]\n\ttextconv = {run}\n\tcommand = {run}\n\
         [merge \"evil\"]\n\tdriver = {run}\n[alias]\n\tdiff-tree = !{run}\n\tstatus = !{run}\n\
         [credential]\n\thelper = !{run}\n[uploadpack]\n\tpackObjectsHook = {run}\n"
    );
    write(repository, format!("{git_dir}/config"), config);
    write(
        repository,
        format!("{git_dir}/attributes"),
        "* filter=evil diff=evil\n",
    );
    for hook in [
        "post-checkout",
        "post-index-change",
        "fsmonitor-watchman",
        "pre-commit",
        "reference-transaction",
        "post-commit",
    ] {
        executable(
            repository,
            &format!("{git_dir}/hooks/{hook}"),
            &trap(marker, hook),
        );
    }
}

fn before(dir: &Path) {
    for (path, text) in [
        ("kept.txt", "same\n"),
        ("text.txt", "one\ntwo\n"),
        ("gone.txt", "gone\n"),
        ("to_fifo", "was a file\n"),
        ("to_link", "was a file\n"),
        ("dir_to_link/inner.txt", "inner\n"),
        ("dir_to_repository/inner.txt", "inner\n"),
        ("closed/inner.txt", "closed\n"),
        ("run.sh", "#!/bin/sh\n"),
    ] {
        write(dir, path, text);
    }
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

/// Everything that a worker can do to the one who looks at its work.
fn worker(work: &Path, marker: &Path) {
    arm(work, ".git", marker, "own");
    write(work, ".gitconfig", "[core]\n\tfsmonitor = touch /tmp/x\n");
    write(
        work,
        ".gitattributes",
        "* filter=evil diff=evil -text ident\n*.txt -diff\n",
    );
    write(
        work,
        ".gitmodules",
        "[submodule \"x\"]\n\tpath = nested\n\turl = ../../\n\tupdate = !touch x\n[broken\n",
    );

    write(work, "text.txt", "one\nTWO $Id$\n");
    std::fs::remove_file(work.join("gone.txt")).unwrap();
    std::fs::set_permissions(work.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::remove_file(work.join("to_fifo")).unwrap();
    fifo(&work.join("to_fifo"));
    std::fs::remove_file(work.join("to_link")).unwrap();
    symlink("/etc/shadow", work.join("to_link")).unwrap();
    std::fs::remove_dir_all(work.join("dir_to_link")).unwrap();
    symlink("/etc", work.join("dir_to_link")).unwrap();
    write(work, "dir_to_repository/new.txt", "new\n");
    upstream(&work.join("dir_to_repository"), &[]);
    arm(&work.join("dir_to_repository"), ".git", marker, "converted");

    upstream(&work.join("nested"), &[("inside.txt", "inside\n")]);
    arm(&work.join("nested"), ".git", marker, "nested");
    write(work, "git_file/.git", "gitdir: ../nested/.git\n");
    write(work, "git_file/inside.txt", "inside\n");
    std::fs::create_dir(work.join("git_link")).unwrap();
    symlink("../nested/.git", work.join("git_link/.git")).unwrap();
    write(work, "upper/.GIT/config", "x");
    git(
        work.parent().unwrap(),
        &[
            "init",
            "-q",
            "--bare",
            work.join("bare.git").to_str().unwrap(),
        ],
    );
    arm(&work.join("bare.git"), ".", marker, "bare");

    fifo(&work.join("fifo"));
    let _listener = std::os::unix::net::UnixListener::bind(work.join("socket")).unwrap();
    std::fs::File::create(work.join("huge"))
        .unwrap()
        .set_len(20 << 30)
        .unwrap();
    for name in [
        &b"latin\xff"[..],
        b"new\nline",
        b"esc\x1b[31m",
        b"-rf",
        b":(glob)x",
        b"\"q\\uote",
        b"git~1",
    ] {
        write(work, name, "strange\n");
    }
    let mut deep = PathBuf::from("deep");
    for _ in 0..200 {
        deep.push("d");
    }
    write(work, deep.as_os_str().as_bytes(), "deep\n");
    write(work, "secret", "mode 000\n");
    std::fs::set_permissions(work.join("secret"), PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::set_permissions(work.join("closed"), PermissionsExt::from_mode(0o000)).unwrap();
}

#[tokio::test]
async fn nothing_of_a_hostile_tree_runs_and_the_result_is_right() {
    let disk = Disk::new();
    let marker = disk.dir.path().join("marker");
    std::fs::create_dir(&marker).unwrap();
    let work = disk.prepare_with(before).await;
    worker(&work, &marker);
    let root = rustix::process::geteuid().is_root();
    if root {
        // A device that would never end.
        let device = mknodat(
            CWD,
            work.join("zero"),
            FileType::CharacterDevice,
            Mode::RWXU,
            (1 << 8) | 5,
        );
        assert!(device.is_ok() || !cfg!(target_os = "linux"));
    }
    // Whatever the worker's own git calls did is not Chargehand's doing.
    std::fs::remove_dir_all(&marker).unwrap();
    std::fs::create_dir(&marker).unwrap();

    let changes = disk.collect().await;
    let list = disk.list().await;
    disk.workdirs
        .read(TASK, "text.txt".to_owned(), 0, 100)
        .await
        .unwrap();
    patch_gives_the_branch(&disk, &changes);
    assert_eq!(disk.collect().await, changes);

    let ran: Vec<_> = std::fs::read_dir(&marker).unwrap().collect();
    assert!(ran.is_empty(), "executed: {ran:?}");
    check_changes(&changes, root);
    for (path, kind) in [
        ("to_link", FileKind::Symlink),
        ("fifo", FileKind::Other),
        ("socket", FileKind::Other),
        ("huge", FileKind::File),
        ("nested/inside.txt", FileKind::File),
    ] {
        let found = list.files.iter().find(|file| file.path == path).unwrap();
        assert_eq!(found.kind, kind, "{path}");
    }
    assert!(!list.files.iter().any(|file| file.path.contains("/.git/")));
    for (path, mark) in changed(&changes) {
        // Of what is no file any more, the list says that it is something else now.
        if path != "to_fifo" {
            assert!(marks(&list).contains(&(path.clone(), mark)), "{path}");
        }
    }
    // The traps are real: an ordinary git runs into them.
    std::fs::remove_file(work.join(".gitmodules")).unwrap();
    let _ = try_git(&work, &["status"]);
    let _ = try_git(&work.join("nested"), &["status"]);
    for who in ["own", "nested"] {
        assert!(marker.join(who).exists(), "the trap of {who} is none");
    }
    disk.workdirs.remove(TASK).await.unwrap();
    assert!(!work.exists());
}

fn check_changes(changes: &Changes, root: bool) {
    let files = changed(changes);
    let mark = |path: &str| files.iter().find(|(p, _)| p == path).map(|(_, mark)| *mark);
    for path in ["text.txt", "run.sh", "to_link"] {
        assert_eq!(mark(path), Some(FileMark::Modified), "{path}");
    }
    for path in ["gone.txt", "to_fifo", "dir_to_link/inner.txt"] {
        assert_eq!(mark(path), Some(FileMark::Deleted), "{path}");
    }
    let deep = format!("deep{}", "/d".repeat(200));
    for path in [
        "dir_to_link",
        "dir_to_repository/new.txt",
        "nested/inside.txt",
        "git_file/inside.txt",
        "huge",
        "latin\\xff",
        "new\\x0aline",
        "esc\\x1b[31m",
        "-rf",
        ":(glob)x",
        "\"q\\uote",
        "git~1",
        ".gitattributes",
        ".gitmodules",
        "bare.git/HEAD",
        "secret",
        &deep,
    ] {
        assert_eq!(mark(path), Some(FileMark::Added), "{path}");
    }
    for path in [
        "kept.txt",
        "closed/inner.txt",
        "dir_to_repository/inner.txt",
    ] {
        assert_eq!(mark(path), None, "{path}");
    }
    assert!(!files.iter().any(|(path, _)| {
        OsStr::new(path)
            .as_bytes()
            .windows(5)
            .any(|w| w == b".git/")
            && !path.starts_with("bare.git/")
    }));
    // Attributes of the tree hide nothing and change nothing.
    assert!(
        changes.diff.contains("-two\n+TWO $Id$\n"),
        "{}",
        changes.diff
    );
    let reason = |path: &str| {
        let found = changes.left_out.iter().find(|left| left.path == path);
        found.map_or("nothing", |left| left.reason.as_str())
    };
    for (path, why) in [
        ("to_fifo", "a FIFO"),
        ("fifo", "a FIFO"),
        ("socket", "a socket"),
        ("huge", "larger than 20 MB"),
        ("nested/.git", "nested repository"),
        ("dir_to_repository/.git", "nested repository"),
        ("git_file/.git", "nested repository"),
        ("git_link/.git", "nested repository"),
        ("upper/.GIT", "nested repository"),
    ] {
        assert!(reason(path).contains(why), "{path}: {}", reason(path));
    }
    if root {
        assert!(reason("zero").contains("a device"));
    } else {
        assert!(reason("secret").contains("cannot be read"));
        assert!(reason("closed").contains("cannot be read"));
    }
}
