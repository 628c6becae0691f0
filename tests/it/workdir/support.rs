//! A disk with workdirs, and git as a user would call it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use chargehand::adapters::workdir::{LocalWorkdirs, WorkdirLimits, WorkdirSettings};
use chargehand_actors::command::Source;
use chargehand_actors::event::{Changes, FileMark};
use chargehand_actors::id::{AttemptId, TaskId};
use chargehand_actors::ports::{FileList, Workdirs as _};
use uuid::Uuid;

/// The task of every test.
pub(crate) const TASK: TaskId =
    TaskId::new(Uuid::from_u128(0x1234_5678_9abc_4def_8000_0000_0000_0001));
/// Its first attempt.
pub(crate) const ATTEMPT: AttemptId = AttemptId {
    task: TASK,
    number: 1,
};

/// Workdirs in a directory of their own.
pub(crate) struct Disk {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) workdirs: LocalWorkdirs,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self::with(WorkdirLimits::default(), None)
    }

    pub(crate) fn with(limits: WorkdirLimits, git: Option<PathBuf>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workdirs = LocalWorkdirs::new(WorkdirSettings {
            root: dir.path().join("workdirs"),
            store: dir.path().join("store"),
            git,
            instance: chargehand_actors::id::InstanceId("test".to_owned()),
            limits,
        });
        Self { dir, workdirs }
    }

    /// Prepares the attempt; its workdir.
    pub(crate) async fn prepare(&self, source: Source) -> PathBuf {
        let prepared = self.workdirs.prepare(ATTEMPT, source).await.unwrap();
        assert_eq!(prepared.note, None);
        PathBuf::from(prepared.directory)
    }

    /// Prepares the attempt with a copy of what `fill` puts into a directory.
    pub(crate) async fn prepare_with(&self, fill: impl FnOnce(&Path)) -> PathBuf {
        let source = self.dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        fill(&source);
        self.prepare(directory(&source)).await
    }

    pub(crate) async fn collect(&self) -> Changes {
        self.workdirs.collect(ATTEMPT).await.unwrap()
    }

    pub(crate) async fn list(&self) -> FileList {
        self.workdirs
            .list(TASK, String::new(), 0, 10_000)
            .await
            .unwrap()
    }

    /// Our bare repository.
    pub(crate) fn repository(&self) -> PathBuf {
        self.workdirs.repository(ATTEMPT)
    }
}

pub(crate) fn directory(path: &Path) -> Source {
    Source::Directory {
        path: path.to_str().unwrap().to_owned(),
    }
}

pub(crate) fn repository(path: &Path, reference: Option<&str>) -> Source {
    Source::Repository {
        url: format!("file://{}", path.to_str().unwrap()),
        reference: reference.map(str::to_owned),
    }
}

/// Runs git as a user with an empty configuration; what it printed.
pub(crate) fn git(dir: &Path, arguments: &[&str]) -> String {
    let (success, text) = try_git(dir, arguments);
    assert!(success, "git {arguments:?}: {text}");
    text
}

pub(crate) fn try_git(dir: &Path, arguments: &[&str]) -> (bool, String) {
    let out = Command::new("git")
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .envs([
            ("GIT_AUTHOR_NAME", "Ann"),
            ("GIT_AUTHOR_EMAIL", "ann@example.org"),
            ("GIT_COMMITTER_NAME", "Ann"),
            ("GIT_COMMITTER_EMAIL", "ann@example.org"),
        ])
        .args([
            "-c",
            "protocol.file.allow=always",
            "-c",
            "core.protectNTFS=false",
        ])
        .args(arguments)
        .output()
        .unwrap();
    let text = [out.stdout, out.stderr].concat();
    (
        out.status.success(),
        String::from_utf8_lossy(&text).trim().to_owned(),
    )
}

/// A repository with one commit of `files`.
pub(crate) fn upstream(at: &Path, files: &[(&str, &str)]) {
    std::fs::create_dir_all(at).unwrap();
    git(at, &["init", "-q", "-b", "main"]);
    for (path, text) in files {
        write(at, path, text);
    }
    git(at, &["add", "-A"]);
    git(at, &["commit", "-q", "-m", "first"]);
}

/// Writes a file, and the directories above it.
pub(crate) fn write(dir: &Path, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) {
    let path = dir.join(OsStr::from_bytes(path.as_ref()));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Path and mark of every listed file that has one.
pub(crate) fn marks(list: &FileList) -> Vec<(String, FileMark)> {
    list.files
        .iter()
        .filter_map(|file| Some((file.path.clone(), file.mark?)))
        .collect()
}

/// Path and mark of every changed file.
pub(crate) fn changed(changes: &Changes) -> Vec<(String, FileMark)> {
    changes
        .files
        .iter()
        .map(|file| (file.path.clone(), file.mark))
        .collect()
}

/// Applies the patch to a fresh clone of the baseline and compares the outcome with the branch.
pub(crate) fn patch_gives_the_branch(disk: &Disk, changes: &Changes) {
    let at = disk.dir.path().join("applied");
    let _ = std::fs::remove_dir_all(&at);
    std::fs::create_dir(&at).unwrap();
    let store = disk.repository();
    let store = store.to_str().unwrap();
    git(&at, &["init", "-q"]);
    git(&at, &["fetch", "-q", store, "refs/chargehand/baseline"]);
    git(&at, &["checkout", "-q", "--detach", "FETCH_HEAD"]);
    let branch = changes.branch.as_deref().unwrap();
    // Fetched first: git refuses to work at all above some of the trees that a worker leaves behind.
    git(&at, &["fetch", "-q", store, &format!("{branch}:result")]);
    let patch = changes.patch_file.as_deref().unwrap();
    git(&at, &["apply", "--index", "--whitespace=nowarn", patch]);
    let applied = git(&at, &["write-tree"]);
    assert_eq!(applied, git(&at, &["rev-parse", "result^{tree}"]));
    assert_eq!(
        git(&at, &["rev-parse", "result^"]),
        git(&at, &["rev-parse", "HEAD"])
    );
}
