//! What a workdir can be filled with, and what is refused.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use chargehand_actors::command::Source;
use chargehand_actors::event::FileMark;
use chargehand_actors::ports::{WorkdirError, Workdirs as _};

use super::support::{
    ATTEMPT, Disk, changed, directory, git, patch_gives_the_branch, repository, try_git, upstream,
    write,
};

async fn refusal(disk: &Disk, source: Source) -> String {
    let error = disk.workdirs.prepare(ATTEMPT, source).await.unwrap_err();
    let leftover = disk.dir.path().join("workdirs").join(ATTEMPT.to_string());
    assert!(!leftover.exists(), "a refused source leaves nothing behind");
    match error {
        WorkdirError::BadSource(text) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_repository_is_cloned_changed_and_the_branch_stands_on_its_history() {
    let disk = Disk::new();
    let from = disk.dir.path().join("upstream");
    upstream(&from, &[("a.txt", "one\n"), ("dir/b.txt", "b\n")]);
    let first = git(&from, &["rev-parse", "HEAD"]);
    git(&from, &["tag", "v1"]);
    write(&from, "a.txt", "two\n");
    git(&from, &["commit", "-q", "-am", "second"]);
    let head = git(&from, &["rev-parse", "HEAD"]);
    let work = disk.prepare(repository(&from, None)).await;
    assert_eq!(git(&work, &["log", "--format=%s", "main"]), "second\nfirst");
    assert_eq!(git(&work, &["status", "--porcelain"]), "");
    assert_eq!(
        git(&work, &["rev-parse", "--abbrev-ref", "main@{upstream}"]),
        "origin/main"
    );
    assert!(!work.join(".git/hooks").exists());
    write(&work, "a.txt", "three\n");
    let changes = disk.collect().await;
    assert_eq!(
        changed(&changes),
        [("a.txt".to_owned(), FileMark::Modified)]
    );
    patch_gives_the_branch(&disk, &changes);
    let branch = changes.branch.clone().unwrap();
    assert_eq!(
        git(&disk.repository(), &["rev-parse", &format!("{branch}^")]),
        head
    );
    // A user takes it into the original.
    let store = disk.repository();
    git(
        &from,
        &[
            "fetch",
            "-q",
            store.to_str().unwrap(),
            &format!("{branch}:{branch}"),
        ],
    );
    assert_eq!(
        git(&from, &["diff", "--stat", "main", &branch, "--name-only"]),
        "a.txt"
    );

    for reference in ["v1", "refs/tags/v1", &first, &first[..10]] {
        let disk = Disk::new();
        let work = disk.prepare(repository(&from, Some(reference))).await;
        assert_eq!(git(&work, &["rev-parse", "HEAD"]), first, "{reference}");
        assert_eq!(
            std::fs::read_to_string(work.join("a.txt")).unwrap(),
            "one\n"
        );
    }
    git(&from, &["branch", "feature/x", &first]);
    for reference in ["feature/x", "refs/heads/feature/x", "HEAD"] {
        let disk = Disk::new();
        disk.prepare(repository(&from, Some(reference))).await;
    }
}

#[tokio::test]
async fn a_repository_that_cannot_be_used_is_refused_with_the_reason() {
    let disk = Disk::new();
    let from = disk.dir.path().join("upstream");
    upstream(&from, &[("a", "1")]);
    let missing = refusal(&disk, repository(&disk.dir.path().join("nothing"), None)).await;
    assert!(missing.contains("there is no such repository"), "{missing}");
    let reference = refusal(&disk, repository(&from, Some("nothing"))).await;
    assert!(
        reference.contains("no branch, tag or commit \"nothing\""),
        "{reference}"
    );
    assert!(reference.contains("main"), "{reference}");
    let commit = refusal(&disk, repository(&from, Some(&"ab".repeat(20)))).await;
    assert!(commit.contains("has no commit"), "{commit}");
    for reference in ["--upload-pack=touch x", "-x", "a..b", "a:b"] {
        let text = refusal(&disk, repository(&from, Some(reference))).await;
        assert!(text.contains("is refused"), "{text}");
    }
    for url in [
        "--upload-pack=x",
        "/srv/x",
        "http://h/x",
        "ext::sh -c id",
        "git@-oProxyCommand=x:y",
    ] {
        let source = Source::Repository {
            url: url.to_owned(),
            reference: None,
        };
        let text = refusal(&disk, source).await;
        assert!(text.contains("is refused"), "{text}");
    }
}

#[tokio::test]
async fn an_empty_repository_and_one_with_submodules() {
    let disk = Disk::new();
    let empty = disk.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    git(&empty, &["init", "-q"]);
    let work = disk.prepare(repository(&empty, None)).await;
    write(&work, "a", "1\n");
    assert_eq!(
        changed(&disk.collect().await),
        [("a".to_owned(), FileMark::Added)]
    );

    let disk = Disk::new();
    let inner = disk.dir.path().join("inner");
    upstream(&inner, &[("x", "x")]);
    let from = disk.dir.path().join("upstream");
    upstream(
        &from,
        &[
            ("a", "1\n"),
            (
                ".gitattributes",
                "*.u text working-tree-encoding=UTF-16\n* filter=lfs\n",
            ),
        ],
    );
    git(
        &from,
        &["submodule", "add", "-q", inner.to_str().unwrap(), "sub"],
    );
    write(&from, "b.u", "\u{feff}h\0i\0".as_bytes());
    let _ = try_git(&from, &["add", "-A"]);
    git(&from, &["commit", "-q", "-m", "second"]);
    let work = disk.prepare(repository(&from, None)).await;
    assert!(!work.join("sub/x").exists(), "submodules are not cloned");
    assert!(disk.collect().await.files.is_empty());
    write(&work, "sub/y", "1");
    write(&work, "a", "2\n");
    let changes = disk.collect().await;
    assert_eq!(changed(&changes), [("a".to_owned(), FileMark::Modified)]);
    assert!(
        changes
            .left_out
            .iter()
            .any(|left| left.path == "sub" && left.reason.contains("submodule"))
    );
    std::fs::remove_dir_all(work.join("sub")).unwrap();
    let files = changed(&disk.collect().await);
    assert!(
        files.contains(&("sub".to_owned(), FileMark::Deleted)),
        "{files:?}"
    );
}

#[tokio::test]
async fn hooks_and_filters_of_a_repository_do_not_run_while_it_is_cloned() {
    let disk = Disk::new();
    let marker = disk.dir.path().join("marker");
    let from = disk.dir.path().join("upstream");
    upstream(
        &from,
        &[("a", "1\n"), (".gitattributes", "* filter=evil\n")],
    );
    let trap = format!("#!/bin/sh\ntouch '{}'\ncat\n", marker.display());
    for hook in [
        "post-checkout",
        "post-upload-pack",
        "reference-transaction",
        "pre-auto-gc",
    ] {
        let path = from.join(".git/hooks").join(hook);
        write(&from, format!(".git/hooks/{hook}"), &trap);
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let run = from.join(".git/hooks/post-checkout");
    for key in [
        "filter.evil.smudge",
        "filter.evil.process",
        "core.fsmonitor",
        "uploadpack.packObjectsHook",
    ] {
        git(&from, &["config", key, run.to_str().unwrap()]);
    }
    let work = disk.prepare(repository(&from, None)).await;
    assert_eq!(std::fs::read_to_string(work.join("a")).unwrap(), "1\n");
    assert!(!marker.exists());
    let _ = try_git(&from, &["checkout", "-q", "--detach"]);
    assert!(marker.exists(), "the traps are none");
}

#[tokio::test]
async fn a_directory_is_copied_with_its_repository_and_the_original_stays_as_it_is() {
    let disk = Disk::new();
    let from = disk.dir.path().join("source");
    upstream(&from, &[("a.txt", "one\n"), ("run.sh", "#!/bin/sh\n")]);
    std::fs::set_permissions(from.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("/etc", from.join("link")).unwrap();
    std::fs::create_dir(from.join("empty")).unwrap();
    git(&from, &["config", "core.worktree", from.to_str().unwrap()]);
    write(
        &from,
        "tree/.git",
        format!("gitdir: {}/.git/worktrees/x\n", from.display()),
    );
    let prepared = disk
        .workdirs
        .prepare(ATTEMPT, directory(&from))
        .await
        .unwrap();
    assert!(
        prepared
            .note
            .unwrap()
            .contains("tree/.git (leads to a repository elsewhere)")
    );
    let work = Path::new(&prepared.directory);
    assert_eq!(
        std::fs::read_link(work.join("link")).unwrap(),
        Path::new("/etc")
    );
    assert!(work.join("empty").is_dir() && !work.join("tree/.git").exists());
    let mode = std::fs::metadata(work.join("run.sh"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
    write(work, "a.txt", "two\n");
    git(work, &["commit", "-q", "-am", "of the worker"]);
    assert_eq!(
        std::fs::read_to_string(from.join("a.txt")).unwrap(),
        "one\n"
    );
    assert_eq!(git(&from, &["log", "--format=%s"]), "first");
    assert_eq!(
        changed(&disk.collect().await),
        [("a.txt".to_owned(), FileMark::Modified)]
    );
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused_with_the_reason() {
    let disk = Disk::new();
    let dir = disk.dir.path();
    write(dir, "file", "x");
    std::fs::create_dir(dir.join("workdirs")).unwrap();
    symlink(dir, dir.join("link_to_all")).unwrap();
    for (path, reason) in [
        (Path::new("relative"), "absolute path"),
        (&dir.join("nothing"), "does not exist"),
        (&dir.join("file"), "not a directory"),
        (dir, "Chargehand's own data"),
        (&dir.join("link_to_all"), "Chargehand's own data"),
        (&dir.join("workdirs"), "Chargehand's own data"),
    ] {
        let text = refusal(&disk, directory(path)).await;
        assert!(text.contains(reason), "{path:?}: {text}");
    }
}
