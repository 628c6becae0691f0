//! Workdirs on an OpenCode server that shares no disk with Chargehand: the port `Workdirs` over the server's REST routes.
//!
//! In: calls of the port for tasks of the engine `remote` without a path mapping. Out: what the server says of its own
//! directory. All tasks work in the one directory that is configured; nothing is made or removed there, so there is no
//! baseline, no patch file and no branch, and every answer says so. See `docs/design/remote-engine.md`.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use chargehand_actors::command::Source;
use chargehand_actors::event::{Changes, FileMark};
use chargehand_actors::id::{AttemptId, TaskId};
use chargehand_actors::ports::{
    EngineError, FileContent, FileEntry, FileKind, FileList, PortFuture, Prepared, TextChunk,
    WorkdirError, Workdirs,
};
use tokio::time::Instant;

use super::client::Client;
use super::driver::Driver;
use super::rest_files::{RestFiles, fault};
use super::session_diff::SessionDiff;
use super::wire::Session;
use crate::adapters::workdir::{components, content_of, refused};

/// Changed files that are listed in a result.
const LISTED: usize = 1_000;
/// The largest piece of a file in one answer.
const PIECE: u64 = 4 * 1024 * 1024;
/// Tasks of which the directory and the changes are remembered.
const REMEMBERED: usize = 64;
/// How long a server that does not answer is asked again before a result, and before a start, is given up.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two tries.
const EVERY: Duration = Duration::from_secs(1);

/// The driver of a server, once it was reached.
pub(super) type SharedDriver = Arc<RwLock<Option<Driver>>>;

/// The driver, or why there is none yet.
pub(super) fn driver_of(shared: &SharedDriver) -> Result<Driver, EngineError> {
    let driver = shared.read().unwrap_or_else(PoisonError::into_inner);
    driver.clone().ok_or_else(|| {
        EngineError::Unreachable("the OpenCode server has not been reached yet".to_owned())
    })
}

/// Workdirs of the engine `remote`, on the server.
pub(super) struct RestWorkdirs {
    client: Client,
    driver: SharedDriver,
    /// As configured; none = where the server works.
    directory: Option<String>,
    /// The most recently written last.
    remembered: Mutex<VecDeque<(TaskId, Remembered)>>,
}

/// What is known of a task without asking the server, lost with a restart.
#[derive(Clone, Debug)]
struct Remembered {
    directory: String,
    /// What the task changed, once its result was taken; none = not known.
    marks: Option<BTreeMap<String, FileMark>>,
}

/// What a listing is marked with.
struct Marks {
    directory: String,
    /// None = not known.
    marks: Option<BTreeMap<String, FileMark>>,
    /// Read from the session before its result was taken: a step that is not finished is not in them.
    early: bool,
}

impl RestWorkdirs {
    pub(super) fn new(client: Client, driver: SharedDriver, directory: Option<String>) -> Self {
        Self {
            client,
            driver,
            directory,
            remembered: Mutex::default(),
        }
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<(TaskId, Remembered)>> {
        // Entries are whole whatever happened to another thread.
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, task: TaskId) -> Option<Remembered> {
        let known = self.remembered();
        let found = known.iter().find(|(of, _)| *of == task);
        found.map(|(_, remembered)| remembered.clone())
    }

    fn remember(&self, task: TaskId, what: Remembered) {
        let mut known = self.remembered();
        known.retain(|(of, _)| *of != task);
        if known.len() >= REMEMBERED {
            known.pop_front();
        }
        known.push_back((task, what));
    }

    /// The directory of new tasks.
    async fn configured(&self) -> Result<String, EngineError> {
        if let Some(directory) = &self.directory {
            return Ok(directory.clone());
        }
        let paths = driver_of(&self.driver)?.paths(None).await?;
        if paths.directory.is_empty() {
            return Err(EngineError::Fault(
                "it does not say where it works; set `directory` in [engines.remote]".to_owned(),
            ));
        }
        Ok(paths.directory)
    }

    /// The newest session of a task, if it is still there.
    async fn session(&self, task: TaskId) -> Result<Option<Session>, EngineError> {
        let driver = driver_of(&self.driver)?;
        let (instance, task) = (driver.instance.0.clone(), task.to_string());
        let sessions = driver.all_sessions().await?;
        let carried = sessions.into_iter().filter_map(|session| {
            let owner = session.owner()?;
            let ours = owner.instance == instance && owner.task == task;
            (ours && session.parent_id.is_none()).then_some((owner.attempt, session))
        });
        Ok(carried
            .max_by_key(|(attempt, _)| *attempt)
            .map(|(_, session)| session))
    }

    /// Where a task works or worked.
    async fn directory_of(&self, task: TaskId) -> Result<String, EngineError> {
        if let Some(known) = self.recall(task) {
            return Ok(known.directory);
        }
        match self.session(task).await? {
            Some(session) => Ok(session.directory),
            None => self.configured().await,
        }
    }

    async fn marks_of(&self, task: TaskId) -> Result<Marks, EngineError> {
        if let Some(Remembered {
            directory,
            marks: Some(marks),
        }) = self.recall(task)
        {
            return Ok(Marks {
                directory,
                marks: Some(marks),
                early: false,
            });
        }
        let Some(session) = self.session(task).await? else {
            return Ok(Marks {
                directory: self.directory_of(task).await?,
                marks: None,
                early: false,
            });
        };
        let diff = driver_of(&self.driver)?
            .session_diff(&session, false)
            .await?;
        Ok(Marks {
            directory: session.directory,
            marks: (!diff.unrecorded).then(|| marks(&diff)),
            early: !diff.unrecorded,
        })
    }

    async fn prepared(&self) -> Result<Prepared, EngineError> {
        let directory = self.configured().await?;
        let files = RestFiles {
            client: &self.client,
            directory: &directory,
        };
        files.list(&[]).await.map_err(|error| match error {
            EngineError::Fault(text) => EngineError::Fault(format!(
                "it cannot list {directory} ({text}); the directory must exist there: make it, or set another `directory` in \
                 [engines.remote]"
            )),
            other => other,
        })?;
        let paths = driver_of(&self.driver)?.paths(Some(&directory)).await?;
        let recorded = !matches!(paths.worktree.as_str(), "" | "/");
        Ok(Prepared {
            note: Some(shared_note(&directory, recorded)),
            directory,
        })
    }

    async fn collected(&self, attempt: AttemptId) -> Result<(String, SessionDiff), EngineError> {
        let driver = driver_of(&self.driver)?;
        let owner = driver.owner(attempt);
        let sessions = driver.all_sessions().await?;
        let session = sessions
            .into_iter()
            .find(|session| session.parent_id.is_none() && session.owner().as_ref() == Some(&owner))
            .ok_or(EngineError::SessionGone)?;
        let diff = driver.session_diff(&session, true).await?;
        Ok((session.directory, diff))
    }

    async fn listed(
        &self,
        task: TaskId,
        prefix: String,
        offset: u64,
        limit: u64,
    ) -> Result<FileList, WorkdirError> {
        let Marks {
            directory,
            marks,
            early,
        } = self.marks_of(task).await.map_err(fault)?;
        let prefix = parts_of(&directory, &prefix)?;
        let files = RestFiles {
            client: &self.client,
            directory: &directory,
        };
        let walked = files.walk(&prefix).await.map_err(fault)?;
        let mut note = list_note(&directory, marks.is_some(), walked.ignored);
        if early {
            note.push_str("; the marks come from OpenCode and may lag behind while the task runs");
        }
        let marks = marks.unwrap_or_default();
        let mut all: BTreeMap<String, Option<FileMark>> = walked
            .files
            .into_iter()
            .map(|path| (path.clone(), marks.get(&path).copied()))
            .collect();
        let asked = prefix.join("/");
        for (path, mark) in marks {
            let below = path
                .strip_prefix(&asked)
                .is_some_and(|rest| asked.is_empty() || rest.is_empty() || rest.starts_with('/'));
            if mark == FileMark::Deleted && below && !path.starts_with('/') {
                all.entry(path).or_insert(Some(mark));
            }
        }
        let total = all.len() as u64;
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let page = all.into_iter().skip(place(offset)).take(place(limit));
        Ok(FileList {
            files: page
                .map(|(path, mark)| FileEntry {
                    path,
                    kind: FileKind::File,
                    size: None,
                    mark,
                })
                .collect(),
            total,
            offset,
            cut: walked.cut || walked.ignored,
            note: Some(note),
        })
    }

    async fn read_file(
        &self,
        task: TaskId,
        path: String,
        offset: u64,
        limit: u64,
    ) -> Result<FileContent, WorkdirError> {
        let directory = self.directory_of(task).await.map_err(fault)?;
        let parts = parts_of(&directory, &path)?;
        if parts.is_empty() {
            return Err(refused(
                &path,
                "it is the workdir itself; list it with get_task_files",
            ));
        }
        let files = RestFiles {
            client: &self.client,
            directory: &directory,
        };
        let content = files.read(&parts, &path).await?;
        let shown = crate::adapters::workdir::show(parts.join("/").as_bytes());
        let mut answer = content_of(&content.bytes, shown, offset, limit.min(PIECE));
        answer.note = content.trimmed.then(|| {
            "this OpenCode server gives texts without the space at their start and end, so size and content may be a little \
             short; OpenCode 1.18.33 gives them exactly"
                .to_owned()
        });
        Ok(answer)
    }
}

impl Workdirs for RestWorkdirs {
    fn prepare(
        &self,
        attempt: AttemptId,
        source: Source,
    ) -> PortFuture<'_, Result<Prepared, WorkdirError>> {
        Box::pin(async move {
            let what = match source {
                Source::Empty => None,
                Source::Repository { .. } => Some("a repository"),
                Source::Directory { .. } => Some("a directory"),
            };
            if let Some(what) = what {
                return Err(WorkdirError::BadSource(format!(
                    "the engine \"remote\" shares no disk with its OpenCode server, so it cannot give a task {what}: use the \
                     engine \"local\", or let the operator set path_map in [engines.remote]; or leave it out and name in the \
                     task's text what is to be worked on in the server's own directory"
                )));
            }
            let prepared = patiently(|| self.prepared()).await.map_err(fault)?;
            let known = Remembered {
                directory: prepared.directory.clone(),
                marks: None,
            };
            self.remember(attempt.task, known);
            Ok(prepared)
        })
    }

    fn collect(&self, attempt: AttemptId) -> PortFuture<'_, Result<Changes, WorkdirError>> {
        Box::pin(async move {
            let (directory, diff) = patiently(|| self.collected(attempt)).await.map_err(fault)?;
            let known = Remembered {
                directory: directory.clone(),
                marks: (!diff.unrecorded).then(|| marks(&diff)),
            };
            self.remember(attempt.task, known);
            Ok(changes(&directory, diff))
        })
    }

    fn list(
        &self,
        task: TaskId,
        prefix: String,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<FileList, WorkdirError>> {
        Box::pin(self.listed(task, prefix, offset, limit))
    }

    fn read(
        &self,
        task: TaskId,
        path: String,
        offset: u64,
        limit: u64,
    ) -> PortFuture<'_, Result<FileContent, WorkdirError>> {
        Box::pin(self.read_file(task, path, offset, limit))
    }

    fn patch(
        &self,
        task: TaskId,
        _offset: u64,
        _limit: u64,
    ) -> PortFuture<'_, Result<TextChunk, WorkdirError>> {
        Box::pin(async move {
            Err(WorkdirError::NotFound(format!(
                "task {task} has no patch file: its files are on the OpenCode server; the diff in its result is what there is"
            )))
        })
    }

    fn remove(&self, task: TaskId) -> PortFuture<'_, Result<(), WorkdirError>> {
        // The directory is not ours; only what was remembered goes.
        self.remembered().retain(|(of, _)| *of != task);
        Box::pin(async { Ok(()) })
    }
}

/// Asks again while the server does not answer: that says nothing about the task.
async fn patiently<T, F: Future<Output = Result<T, EngineError>>>(
    ask: impl Fn() -> F,
) -> Result<T, EngineError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(EngineError::Unreachable(_)) if Instant::now() < end => {
                tokio::time::sleep(EVERY).await;
            }
            ended => return ended,
        }
    }
}

/// The components of a path that a caller asked for.
fn parts_of(directory: &str, path: &str) -> Result<Vec<String>, WorkdirError> {
    let mut parts = Vec::new();
    for part in components(Path::new(directory), path)? {
        match String::from_utf8(part) {
            Ok(part) if part == ".git" => {
                return Err(refused(
                    path,
                    "the repository's own data (.git) is not given out",
                ));
            }
            Ok(part) => parts.push(part),
            Err(_) => {
                return Err(refused(
                    path,
                    "the OpenCode server takes names in UTF-8 only",
                ));
            }
        }
    }
    Ok(parts)
}

fn marks(diff: &SessionDiff) -> BTreeMap<String, FileMark> {
    let files = diff.files.values();
    files.map(|file| (file.path.clone(), file.mark)).collect()
}

fn changes(directory: &str, diff: SessionDiff) -> Changes {
    let mut note = shared_note(directory, !diff.unrecorded);
    if diff.repeated > 0 {
        note.push_str(
            "; a file that several prompts of the task changed has one diff for each, and its lines are counted for each",
        );
    }
    let sum = |count: fn(&chargehand_actors::event::FileChange) -> u64| {
        diff.files.values().map(count).fold(0, u64::saturating_add)
    };
    Changes {
        files_total: diff.files.len() as u64,
        additions: sum(|file| file.additions),
        deletions: sum(|file| file.deletions),
        files: diff.files.into_values().take(LISTED).collect(),
        diff: diff.text,
        diff_bytes: diff.bytes,
        note: Some(note),
        ..Changes::default()
    }
}

/// What is different here, for the planner.
fn shared_note(directory: &str, recorded: bool) -> String {
    let diff = if recorded {
        "the result has OpenCode's own diff (without files that git ignores or that lie outside), but no patch file and no branch; what others \
         change in the directory while a task works there shows up in its diff"
    } else {
        "the directory is in no git repository, so OpenCode records no changes and the result has no diff: `git init` there \
         mends it"
    };
    format!(
        "the files are in {directory} on the OpenCode server, which all tasks of this engine share and where nothing is \
         removed; there is no baseline: {diff}"
    )
}

fn list_note(directory: &str, marked: bool, ignored: bool) -> String {
    let mut note = format!(
        "files of {directory} on the OpenCode server, as they are now; all tasks of this engine share it; sizes are not told"
    );
    if !marked {
        note.push_str(
            "; what this task changed is not known any more (its result tells it) or was never recorded, so no file is marked",
        );
    }
    if ignored {
        note.push_str("; directories that git ignores are left out: ask for one by its path");
    }
    note
}
