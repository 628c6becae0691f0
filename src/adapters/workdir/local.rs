//! The port `Workdirs` on the local disk.
//!
//! In: calls of the port. Out: its answers. Here is only who waits for whom: one change at a time per task (prepare,
//! collect, remove), readers at any time, and what is remembered between listings, for a few tasks.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chargehand_actors::command::Source;
use chargehand_actors::event::Changes;
use chargehand_actors::id::{AttemptId, TaskId};
use chargehand_actors::ports::{
    FileContent, FileList, PortFuture, Prepared, TextChunk, WorkdirError, Workdirs,
};
use futures_util::FutureExt as _;

use super::blocking::{Hold, blocking};
use super::compare::{Compare, compare};
use super::confined::open_asked;
use super::git::Git;
use super::layout::{Place, State, disk, latest, missing, place};
use super::listing::{Memory, Page};
use super::manifest::Manifest;
use super::names::show;
use super::prepare::prepare;
use super::reading::read_content;
use super::remove::remove_tree;
use super::settings::WorkdirSettings;
use super::text::text_chunk;

/// Tasks of which something is remembered between two listings.
const REMEMBERED: usize = 16;

/// Workdirs on the local disk.
#[derive(Clone, Debug)]
pub struct LocalWorkdirs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: WorkdirSettings,
    locks: Mutex<HashMap<TaskId, Arc<tokio::sync::Mutex<()>>>>,
    /// The most recently used last.
    memories: Mutex<Vec<(TaskId, Arc<Memory>)>>,
}

impl LocalWorkdirs {
    /// Workdirs as set. Nothing is touched before the first call.
    pub fn new(settings: WorkdirSettings) -> Self {
        Self {
            inner: Arc::new(Inner {
                settings,
                locks: Mutex::new(HashMap::new()),
                memories: Mutex::new(Vec::new()),
            }),
        }
    }

    /// The bare repository that holds an attempt's baseline and, after `collect`, its branch:
    /// `git fetch <this> chargehand/<first 8 digits of the task id>`.
    pub fn repository(&self, attempt: AttemptId) -> PathBuf {
        place(&self.inner.settings, attempt).repository
    }
}

impl Workdirs for LocalWorkdirs {
    fn prepare(
        &self,
        attempt: AttemptId,
        source: Source,
    ) -> PortFuture<'_, Result<Prepared, WorkdirError>> {
        async move {
            let hold = self.inner.lock(attempt.task).await;
            self.inner.forget(attempt.task);
            prepare(&self.inner.settings, hold, attempt, source).await
        }
        .boxed()
    }

    fn collect(&self, attempt: AttemptId) -> PortFuture<'_, Result<Changes, WorkdirError>> {
        async move {
            let hold = self.inner.lock(attempt.task).await;
            self.inner.collect(hold, attempt).await
        }
        .boxed()
    }

    fn list(
        &self,
        task: TaskId,
        prefix: String,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<FileList, WorkdirError>> {
        async move {
            let memory = self.inner.memory(task).await?;
            let limits = self.inner.settings.limits;
            blocking(None, move |stop| {
                let page = Page {
                    prefix: memory.place.components(&prefix)?,
                    offset,
                    limit,
                };
                let root = memory.place.open()?;
                memory.list(&root, &limits, &page, stop)
            })
            .await
        }
        .boxed()
    }

    fn read(
        &self,
        task: TaskId,
        path: String,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<FileContent, WorkdirError>> {
        async move {
            let settings = self.inner.settings.clone();
            blocking(None, move |_| {
                let (place, _) = found(&settings, task)?;
                let parts = place.components(&path)?;
                let root = place.open()?;
                let (file, _) = open_asked(&root, &parts, &path)?;
                let limit = limit.min(settings.limits.piece_bytes);
                read_content(&file, show(&parts.join(&b'/')), offset, limit)
            })
            .await
        }
        .boxed()
    }

    fn patch(
        &self,
        task: TaskId,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<TextChunk, WorkdirError>> {
        async move {
            let settings = self.inner.settings.clone();
            blocking(None, move |_| {
                let (place, _) = found(&settings, task)?;
                let file = std::fs::File::open(&place.patch).map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => WorkdirError::NotFound(format!(
                        "task {task} has no patch: nothing was changed, or its result is not there yet"
                    )),
                    _ => disk("the patch file could not be read", &error),
                })?;
                text_chunk(&file, offset, limit.min(settings.limits.piece_bytes))
                    .map_err(|error| disk("the patch file could not be read", &error))
            })
            .await
        }
        .boxed()
    }

    fn remove(&self, task: TaskId) -> PortFuture<'_, Result<(), WorkdirError>> {
        async move {
            let hold = self.inner.lock(task).await;
            self.inner.forget(task);
            let name = task.to_string();
            let store = self.inner.settings.store.join(&name);
            let workdirs = self.inner.settings.root.join(&name);
            blocking(Some(hold), move |stop| {
                remove_tree(&store, stop)?;
                remove_tree(&workdirs, stop)
            })
            .await
        }
        .boxed()
    }
}

impl Inner {
    /// Waits until nothing else changes the task's directories.
    async fn lock(&self, task: TaskId) -> Hold {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            // Locks that nobody holds or waits for are forgotten.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(task).or_default())
        };
        Arc::new(lock.lock_owned().await)
    }

    async fn collect(&self, hold: Hold, attempt: AttemptId) -> Result<Changes, WorkdirError> {
        let place = place(&self.settings, attempt);
        let at = place.clone();
        let set = self.settings.git.clone();
        let (state, git) = blocking(Some(Hold::clone(&hold)), move |_| {
            at.open()?;
            let state = at.load()?.ok_or_else(|| missing(attempt.task))?;
            Ok((state, Git::locate(set.as_deref())))
        })
        .await?;
        let (Some(baseline), Some(git)) = (state.baseline, git) else {
            let without_git = "git was not found, so the changes could not be compared";
            return Ok(Changes {
                note: Some(state.note.unwrap_or_else(|| without_git.to_owned())),
                ..Changes::default()
            });
        };
        let manifest = Manifest::of(&git, &place.repository, &baseline).await?;
        compare(Compare {
            git: &git,
            place: &place,
            settings: &self.settings,
            baseline: &baseline,
            manifest: Arc::new(manifest),
            hold,
        })
        .await
    }

    /// What is remembered of the task's latest attempt, read anew when it is not.
    async fn memory(&self, task: TaskId) -> Result<Arc<Memory>, WorkdirError> {
        let known = {
            let mut memories = self.memories();
            let at = memories.iter().position(|(of, _)| *of == task);
            at.map(|at| {
                let entry = memories.remove(at);
                let memory = Arc::clone(&entry.1);
                memories.push(entry);
                memory
            })
        };
        if let Some(memory) = known {
            return Ok(memory);
        }
        let settings = self.settings.clone();
        let ((place, state), git) = blocking(None, move |_| {
            let found = found(&settings, task)?;
            Ok((found, Git::locate(settings.git.as_deref())))
        })
        .await?;
        let manifest = match (&state.baseline, git) {
            (Some(baseline), Some(git)) => {
                let read = Manifest::of(&git, &place.repository, baseline).await?;
                Some(Arc::new(read))
            }
            (None, _) | (_, None) => None,
        };
        let memory = Arc::new(Memory::new(place, manifest));
        let mut memories = self.memories();
        memories.retain(|(of, _)| *of != task);
        if memories.len() >= REMEMBERED {
            memories.remove(0);
        }
        memories.push((task, Arc::clone(&memory)));
        Ok(memory)
    }

    fn forget(&self, task: TaskId) {
        self.memories().retain(|(of, _)| *of != task);
    }

    fn memories(&self) -> MutexGuard<'_, Vec<(TaskId, Arc<Memory>)>> {
        // Entries are whole whatever happened to another thread.
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn found(settings: &WorkdirSettings, task: TaskId) -> Result<(Place, State), WorkdirError> {
    latest(settings, task)?.ok_or_else(|| missing(task))
}
