//! Files are read and listed inside of the workdir only.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chargehand::adapters::workdir::WorkdirLimits;
use chargehand_actors::command::Source;
use chargehand_actors::event::FileMark;
use chargehand_actors::ports::{FileKind, WorkdirError, Workdirs as _};

use super::support::{Disk, TASK, marks, write};

fn fifo(path: &Path) {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
}

#[tokio::test]
async fn paths_that_lead_out_are_refused_by_name_and_reason() {
    let disk = Disk::new();
    let work = disk.prepare(Source::Empty).await;
    let secret = disk.dir.path().join("secret");
    write(disk.dir.path(), "secret/key", "do not show");
    write(&work, "dir/file", "fine");
    symlink(&secret, work.join("out")).unwrap();
    symlink(secret.join("key"), work.join("key")).unwrap();
    symlink("dir/file", work.join("inner")).unwrap();
    symlink("dir", work.join("inner_dir")).unwrap();
    symlink("loop", work.join("loop")).unwrap();
    fifo(&work.join("pipe"));
    let _socket = std::os::unix::net::UnixListener::bind(work.join("socket")).unwrap();
    let absolute = secret.join("key");
    let up = "../".repeat(20) + "etc/passwd";
    for (path, reason) in [
        ("out/key", "\"out\" is a symbolic link"),
        ("key", "is a symbolic link"),
        ("inner", "is a symbolic link"),
        ("inner_dir/file", "\"inner_dir\" is a symbolic link"),
        ("loop", "is a symbolic link"),
        ("pipe", "a FIFO"),
        ("pipe/x", "a FIFO"),
        ("socket", "a socket"),
        ("dir", "is a directory"),
        ("", "the workdir itself"),
        ("dir/file/x", "is a file, not a directory"),
        ("../secret/key", "\"..\" is not allowed"),
        ("dir/../../secret/key", "\"..\" is not allowed"),
        (&up, "\"..\" is not allowed"),
        (absolute.to_str().unwrap(), "outside of the workdir"),
        ("/etc/passwd", "outside of the workdir"),
        ("a\0b", "NUL"),
    ] {
        let error = disk
            .workdirs
            .read(TASK, path.to_owned(), 0, 100)
            .await
            .unwrap_err();
        assert!(
            matches!(error, WorkdirError::Refused(_)),
            "{path}: {error:?}"
        );
        let text = error.to_string();
        assert!(text.contains(reason), "{path}: {text}");
        assert!(!text.contains("do not show") && !text.contains('\0'));
    }
    for path in ["nothing", "dir/nothing", &"x".repeat(300)] {
        let error = disk
            .workdirs
            .read(TASK, path.to_owned(), 0, 100)
            .await
            .unwrap_err();
        assert!(
            !matches!(error, WorkdirError::Refused(_)),
            "{path}: {error:?}"
        );
    }
    let inside = work.join("dir/file").to_str().unwrap().to_owned();
    let read = disk.workdirs.read(TASK, inside, 0, 100).await.unwrap();
    assert_eq!(
        (read.path.as_str(), read.content.as_str()),
        ("dir/file", "fine")
    );
    let error = disk
        .workdirs
        .list(TASK, "../..".to_owned(), 0, 10)
        .await
        .unwrap_err();
    assert!(matches!(error, WorkdirError::Refused(_)), "{error:?}");
}

#[tokio::test]
async fn a_link_swapped_in_during_the_read_gains_nothing() {
    let disk = Disk::new();
    let work = disk.prepare(Source::Empty).await;
    write(disk.dir.path(), "secret/key", "SECRET");
    write(&work, "d/key", "fine");
    write(&work, "real/key", "fine");
    let end = Arc::new(AtomicBool::new(false));
    let swapping = {
        let (end, work, secret) = (
            Arc::clone(&end),
            work.clone(),
            disk.dir.path().join("secret"),
        );
        std::thread::spawn(move || {
            symlink(&secret, work.join("link")).unwrap();
            symlink(secret.join("key"), work.join("file_link")).unwrap();
            let swap = |a: &str, b: &str| {
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    work.join(a),
                    rustix::fs::CWD,
                    work.join(b),
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            };
            while !end.load(Ordering::Relaxed) {
                swap("d", "link");
                swap("real/key", "file_link");
            }
        })
    };
    let (mut fine, mut refused) = (0, 0);
    for _ in 0..1500 {
        for path in ["d/key", "real/key"] {
            match disk.workdirs.read(TASK, path.to_owned(), 0, 100).await {
                Ok(read) => {
                    assert_eq!(read.content, "fine");
                    fine += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().contains("SECRET"));
                    refused += 1;
                }
            }
        }
        if fine > 200 && refused > 200 {
            break;
        }
    }
    for _ in 0..20 {
        let changes = disk.collect().await;
        assert!(!changes.diff.contains("SECRET"), "{}", changes.diff);
    }
    end.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    assert!(
        fine > 0 && refused > 0,
        "the race never happened: {fine} {refused}"
    );
}

#[tokio::test]
async fn pieces_types_and_names_that_are_not_text() {
    let disk = Disk::new();
    let work = disk.prepare(Source::Empty).await;
    write(&work, b"bad\xff\n", "€uro");
    write(&work, "a.bin", b"\x89PNG\r\n\x1a\n\0\x01");
    let listed = disk.list().await;
    let names: Vec<&str> = listed.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["a.bin", "bad\\xff\\x0a"]);
    let name = names[1].to_owned();
    let first = disk.workdirs.read(TASK, name.clone(), 0, 5).await.unwrap();
    assert_eq!(
        (first.content.as_str(), first.next_offset),
        ("€ur", Some(5))
    );
    assert_eq!(first.media_type, "text/plain");
    let rest = disk.workdirs.read(TASK, name, 5, 5).await.unwrap();
    assert_eq!((rest.content.as_str(), rest.next_offset), ("o", None));
    let image = disk
        .workdirs
        .read(TASK, "a.bin".to_owned(), 0, 1 << 40)
        .await
        .unwrap();
    assert!(image.binary);
    assert_eq!(
        (image.media_type.as_str(), image.size, image.length),
        ("image/png", 10, 10)
    );
}

#[tokio::test]
async fn a_huge_file_is_read_in_pieces_and_never_as_a_whole() {
    let disk = Disk::new();
    let work = disk.prepare(Source::Empty).await;
    let huge = std::fs::File::create(work.join("huge")).unwrap();
    huge.set_len(20 << 30).unwrap();
    let piece = disk
        .workdirs
        .read(TASK, "huge".to_owned(), 19 << 30, u64::MAX)
        .await
        .unwrap();
    assert_eq!(piece.size, 20 << 30);
    assert_eq!(piece.length, 4 << 20);
    assert_eq!(piece.next_offset, Some((19 << 30) + (4 << 20)));
    let changes = disk.collect().await;
    assert_eq!(changes.left_out[0].reason, "larger than 20 MB");
    assert_eq!(changes.files[0].mark, FileMark::Added);
    assert_eq!(changes.branch, None);
}

#[tokio::test]
async fn lists_are_paged_filtered_and_cut() {
    let limits = WorkdirLimits {
        entries: 40,
        ..WorkdirLimits::default()
    };
    let disk = Disk::with(limits, None);
    let work = disk
        .prepare_with(|dir| {
            for index in 0..10 {
                write(dir, format!("src/f{index}"), "x");
            }
            write(dir, "srcfile", "x");
        })
        .await;
    std::fs::remove_file(work.join("src/f3")).unwrap();
    symlink("/etc", work.join("src/link")).unwrap();
    fifo(&work.join("src/pipe"));
    let list =
        |prefix: &str, offset, limit| disk.workdirs.list(TASK, prefix.to_owned(), offset, limit);
    let page = list("src/", 2, 3).await.unwrap();
    let paths: Vec<&str> = page.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["src/f2", "src/f3", "src/f4"]);
    assert_eq!((page.total, page.offset, page.cut), (12, 2, false));
    assert_eq!(page.files[1].mark, Some(FileMark::Deleted));
    let all = list("", 0, 100).await.unwrap();
    assert_eq!(all.total, 13);
    let kinds: Vec<FileKind> = all.files.iter().map(|file| file.kind).collect();
    assert_eq!(
        &kinds[10..],
        [FileKind::Symlink, FileKind::Other, FileKind::File]
    );
    assert_eq!(list("src/f3", 0, 9).await.unwrap().total, 1);
    assert_eq!(list("nothing", 0, 9).await.unwrap().total, 0);
    let absolute = work.join("src").to_str().unwrap().to_owned();
    assert_eq!(list(&absolute, 0, 0).await.unwrap().total, 12);

    for index in 0..60 {
        write(&work, format!("more/f{index}"), "x");
    }
    let cut = list("", 0, 1000).await.unwrap();
    assert!(cut.cut);
    assert!(
        marks(&cut)
            .iter()
            .all(|(_, mark)| *mark != FileMark::Deleted)
    );
    let changes = disk.collect().await;
    assert!(
        changes.note.as_deref().unwrap().contains("not complete"),
        "{changes:?}"
    );
    assert!(
        changes
            .files
            .iter()
            .all(|file| file.mark != FileMark::Deleted)
    );
}
