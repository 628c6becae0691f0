//! Output files and workdirs without a disk. In: scripted troubles. Out: results, and what was asked for.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::PortCall;
use super::trouble::{Trouble, lock};
use crate::command::Source;
use crate::event::Changes;
use crate::id::{AttemptId, TaskId};
use crate::ports::{
    FileContent, FileList, OutputError, OutputStore, PortFuture, Prepared, Space, TextChunk,
    WorkdirError, Workdirs,
};

/// Output files in memory.
#[derive(Debug)]
pub struct FakeOutput {
    texts: Mutex<BTreeMap<TaskId, String>>,
    trouble: Trouble,
}

impl FakeOutput {
    /// No output yet.
    pub fn new(trouble: Trouble) -> Self {
        Self {
            texts: Mutex::default(),
            trouble,
        }
    }

    /// What is kept of a task.
    pub fn of(&self, task: TaskId) -> String {
        lock(&self.texts).get(&task).cloned().unwrap_or_default()
    }
}

fn chunk(text: &str, offset: u64, limit: u64) -> TextChunk {
    let total = text.len() as u64;
    let from = usize::try_from(offset.min(total)).unwrap_or(text.len());
    let to = usize::try_from(offset.saturating_add(limit).min(total)).unwrap_or(text.len());
    let bytes = text.as_bytes().get(from..to).unwrap_or_default();
    TextChunk {
        offset: from as u64,
        text: String::from_utf8_lossy(bytes).into_owned(),
        next_offset: to as u64,
        total,
    }
}

impl OutputStore for FakeOutput {
    fn append(&self, task: TaskId, text: String) -> PortFuture<'_, Result<(), OutputError>> {
        Box::pin(async move {
            let write = |_: &mut super::Random| {
                lock(&self.texts).entry(task).or_default().push_str(&text);
            };
            self.trouble
                .call("output.append", "", write)
                .await
                .map_err(OutputError)
        })
    }

    fn read(
        &self,
        task: TaskId,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<TextChunk, OutputError>> {
        Box::pin(async move {
            self.trouble
                .call("output.read", "", |_| chunk(&self.of(task), offset, limit))
                .await
                .map_err(OutputError)
        })
    }

    fn remove(&self, task: TaskId) -> PortFuture<'_, Result<(), OutputError>> {
        Box::pin(async move {
            let remove = |_: &mut super::Random| {
                lock(&self.texts).remove(&task);
            };
            self.trouble
                .call("output.remove", &task.to_string(), remove)
                .await
                .map_err(OutputError)
        })
    }
}

/// Disks with a switch.
#[derive(Debug)]
pub struct FakeSpace {
    low: Mutex<Option<String>>,
    trouble: Trouble,
}

impl FakeSpace {
    /// There is room.
    pub fn new(trouble: Trouble) -> Self {
        Self {
            low: Mutex::default(),
            trouble,
        }
    }

    /// From now on there is none, and why; or there is again.
    pub fn set_low(&self, why: Option<&str>) {
        *lock(&self.low) = why.map(str::to_owned);
    }
}

impl Space for FakeSpace {
    fn watched(&self) -> bool {
        true
    }

    fn low(&self) -> PortFuture<'_, Option<String>> {
        Box::pin(async move {
            let looked = self
                .trouble
                .call("space.low", "", |_| lock(&self.low).clone())
                .await;
            // What fails is a look without an answer.
            looked.unwrap_or_default()
        })
    }
}

/// Workdirs without a disk. A source whose path or URL is `missing` cannot be used.
#[derive(Debug)]
pub struct FakeWorkdirs {
    made: Mutex<BTreeMap<AttemptId, u32>>,
    collected: Mutex<BTreeMap<AttemptId, u32>>,
    trouble: Trouble,
}

impl FakeWorkdirs {
    /// No workdirs yet.
    pub fn new(trouble: Trouble) -> Self {
        Self {
            made: Mutex::default(),
            collected: Mutex::default(),
            trouble,
        }
    }

    /// How often the workdir of an attempt was asked for and made or found.
    pub fn prepared(&self, attempt: AttemptId) -> u32 {
        lock(&self.made).get(&attempt).copied().unwrap_or(0)
    }

    /// How often the changes of an attempt were taken.
    pub fn collected(&self, attempt: AttemptId) -> u32 {
        lock(&self.collected).get(&attempt).copied().unwrap_or(0)
    }

    async fn gone<T>(&self, what: &'static str, task: TaskId) -> Result<T, WorkdirError> {
        let about = task.to_string();
        self.trouble
            .call(what, &about, |_| {
                Err(WorkdirError::NotFound(format!(
                    "the fake workdir of {task} holds no files"
                )))
            })
            .await
            .map_err(WorkdirError::Fault)?
    }
}

impl Workdirs for FakeWorkdirs {
    fn prepare(
        &self,
        attempt: AttemptId,
        source: Source,
    ) -> PortFuture<'_, Result<Prepared, WorkdirError>> {
        Box::pin(async move {
            let make = |_: &mut super::Random| {
                let named = match &source {
                    Source::Empty => "",
                    Source::Repository { url, .. } => url,
                    Source::Directory { path } => path,
                };
                if named == "missing" {
                    return Err(WorkdirError::BadSource(
                        "there is no such source".to_owned(),
                    ));
                }
                *lock(&self.made).entry(attempt).or_default() += 1;
                Ok(Prepared {
                    directory: format!("/fake/{attempt}"),
                    note: None,
                })
            };
            self.trouble.watch.saw(PortCall::Prepare(attempt));
            self.trouble
                .call("workdirs.prepare", &attempt.to_string(), make)
                .await
                .map_err(WorkdirError::Fault)?
        })
    }

    fn collect(&self, attempt: AttemptId) -> PortFuture<'_, Result<Changes, WorkdirError>> {
        Box::pin(async move {
            let take = |_: &mut super::Random| {
                *lock(&self.collected).entry(attempt).or_default() += 1;
                Changes {
                    files_total: 1,
                    ..Changes::default()
                }
            };
            self.trouble.watch.saw(PortCall::Collect(attempt));
            self.trouble
                .call("workdirs.collect", &attempt.to_string(), take)
                .await
                .map_err(WorkdirError::Fault)
        })
    }

    fn list(
        &self,
        _task: TaskId,
        _prefix: String,
        offset: u64,
        _limit: u64,
    ) -> PortFuture<'_, Result<FileList, WorkdirError>> {
        Box::pin(async move {
            let empty = FileList {
                files: Vec::new(),
                total: 0,
                offset,
                cut: false,
                note: None,
            };
            self.trouble
                .call("workdirs.list", "", |_| empty)
                .await
                .map_err(WorkdirError::Fault)
        })
    }

    fn read(
        &self,
        task: TaskId,
        _path: String,
        _offset: u64,
        _limit: u64,
    ) -> PortFuture<'_, Result<FileContent, WorkdirError>> {
        Box::pin(self.gone("workdirs.read", task))
    }

    fn patch(
        &self,
        task: TaskId,
        _offset: u64,
        _limit: u64,
    ) -> PortFuture<'_, Result<TextChunk, WorkdirError>> {
        Box::pin(self.gone("workdirs.patch", task))
    }

    fn remove(&self, task: TaskId) -> PortFuture<'_, Result<(), WorkdirError>> {
        Box::pin(async move {
            let remove = |_: &mut super::Random| {
                lock(&self.made).retain(|attempt, _| attempt.task != task);
            };
            self.trouble.watch.saw(PortCall::RemoveWorkdir(task));
            self.trouble
                .call("workdirs.remove", &task.to_string(), remove)
                .await
                .map_err(WorkdirError::Fault)
        })
    }
}
