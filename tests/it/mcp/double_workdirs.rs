//! Workdirs and outputs in memory: every task changed `hello.txt` and left `logo.png` as it was.

use std::collections::BTreeMap;
use std::sync::Mutex;

use chargehand_actors::command::Source;
use chargehand_actors::event::{Changes, FileChange, FileMark};
use chargehand_actors::id::{AttemptId, TaskId};
use chargehand_actors::ports::{
    FileContent, FileEntry, FileKind, FileList, OutputError, OutputStore, PortFuture, Prepared,
    TextChunk, WorkdirError, Workdirs,
};

const PATCH: &str = "--- a/hello.txt\n+++ b/hello.txt\n@@ -0,0 +1 @@\n+hello\n";

/// The doubles.
pub(crate) struct DoubleWorkdirs;

fn entries() -> Vec<FileEntry> {
    vec![
        FileEntry {
            path: "hello.txt".to_owned(),
            kind: FileKind::File,
            size: Some(6),
            mark: Some(FileMark::Added),
        },
        FileEntry {
            path: "img/logo.png".to_owned(),
            kind: FileKind::File,
            size: Some(3),
            mark: None,
        },
        FileEntry {
            path: "old.txt".to_owned(),
            kind: FileKind::File,
            size: Some(0),
            mark: Some(FileMark::Deleted),
        },
    ]
}

fn slice(text: &str, offset: u64, limit: u64) -> TextChunk {
    let start = usize::try_from(offset).unwrap().min(text.len());
    let end = (start + usize::try_from(limit).unwrap()).min(text.len());
    TextChunk {
        offset,
        text: text[start..end].to_owned(),
        next_offset: end as u64,
        total: text.len() as u64,
    }
}

impl Workdirs for DoubleWorkdirs {
    fn prepare(
        &self,
        attempt: AttemptId,
        source: Source,
    ) -> PortFuture<'_, Result<Prepared, WorkdirError>> {
        Box::pin(async move {
            if let Source::Directory { path } = source
                && path == "/missing"
            {
                return Err(WorkdirError::BadSource(
                    "/missing does not exist".to_owned(),
                ));
            }
            Ok(Prepared {
                directory: format!("/double/{attempt}"),
                note: None,
            })
        })
    }

    fn collect(&self, _: AttemptId) -> PortFuture<'_, Result<Changes, WorkdirError>> {
        Box::pin(async {
            Ok(Changes {
                files: vec![FileChange {
                    path: "hello.txt".to_owned(),
                    mark: FileMark::Added,
                    additions: 1,
                    deletions: 0,
                    binary: false,
                }],
                files_total: 1,
                additions: 1,
                deletions: 0,
                diff: PATCH.to_owned(),
                diff_bytes: PATCH.len() as u64,
                ..Changes::default()
            })
        })
    }

    fn list(
        &self,
        _: TaskId,
        prefix: String,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<FileList, WorkdirError>> {
        Box::pin(async move {
            let all: Vec<FileEntry> = entries()
                .into_iter()
                .filter(|entry| entry.path.starts_with(&prefix))
                .collect();
            let total = all.len() as u64;
            let files = all
                .into_iter()
                .skip(usize::try_from(offset).unwrap())
                .take(usize::try_from(limit).unwrap())
                .collect();
            Ok(FileList {
                files,
                total,
                offset,
                cut: false,
                note: None,
            })
        })
    }

    fn read(
        &self,
        _: TaskId,
        path: String,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<FileContent, WorkdirError>> {
        Box::pin(async move {
            match path.as_str() {
                "hello.txt" => {
                    let piece = slice("hello\n", offset, limit);
                    Ok(FileContent {
                        path,
                        length: piece.text.len() as u64,
                        content: piece.text,
                        binary: false,
                        media_type: "text/plain".to_owned(),
                        size: piece.total,
                        offset,
                        next_offset: (piece.next_offset < piece.total).then_some(piece.next_offset),
                        note: None,
                    })
                }
                "img/logo.png" => Ok(FileContent {
                    path,
                    content: "/9j/".to_owned(),
                    binary: true,
                    media_type: "image/png".to_owned(),
                    size: 3,
                    offset: 0,
                    length: 3,
                    next_offset: None,
                    note: None,
                }),
                other if other.contains("..") => Err(WorkdirError::Refused(format!(
                    "{other} leads out of the workdir"
                ))),
                other => Err(WorkdirError::NotFound(format!("there is no file {other}"))),
            }
        })
    }

    fn patch(
        &self,
        _: TaskId,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<TextChunk, WorkdirError>> {
        Box::pin(async move { Ok(slice(PATCH, offset, limit)) })
    }

    fn remove(&self, _: TaskId) -> PortFuture<'_, Result<(), WorkdirError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Outputs.
#[derive(Default)]
pub(crate) struct DoubleOutput(Mutex<BTreeMap<TaskId, String>>);

impl OutputStore for DoubleOutput {
    fn append(&self, task: TaskId, text: String) -> PortFuture<'_, Result<(), OutputError>> {
        Box::pin(async move {
            self.0
                .lock()
                .unwrap()
                .entry(task)
                .or_default()
                .push_str(&text);
            Ok(())
        })
    }

    fn read(
        &self,
        task: TaskId,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<TextChunk, OutputError>> {
        Box::pin(async move {
            let texts = self.0.lock().unwrap();
            let text = texts.get(&task).map(String::as_str).unwrap_or_default();
            Ok(slice(text, offset, limit))
        })
    }

    fn remove(&self, task: TaskId) -> PortFuture<'_, Result<(), OutputError>> {
        Box::pin(async move {
            self.0.lock().unwrap().remove(&task);
            Ok(())
        })
    }
}
