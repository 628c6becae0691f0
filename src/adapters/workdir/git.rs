//! Running git so that nothing but git itself runs.
//!
//! In: arguments, the bare repository. Out: what git printed, or an error with git's own last words. The environment is
//! emptied, no configuration of the user or the system is read, no hook, filter, pager, editor, askpass, fsmonitor or
//! protocol can be reached; a process group of its own is killed as a whole when nobody waits any more.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use chargehand_actors::ports::WorkdirError;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};

/// At most this much of what git says on stderr is kept.
const STDERR_KEPT: u64 = 16 * 1024;

/// Settings of every call, whatever the repository says.
const ALWAYS: [&str; 16] = [
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.autocrlf=false",
    "core.safecrlf=false",
    "core.protectHFS=false",
    "core.protectNTFS=false",
    "diff.external=",
    "diff.ignoreSubmodules=all",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
];

/// The git program.
#[derive(Clone, Debug)]
pub(super) struct Git {
    program: PathBuf,
}

/// What a call ended with.
#[derive(Debug)]
pub(super) struct Finished {
    /// Exit status 0.
    pub(super) success: bool,
    /// Bytes of standard output, also those that were not kept.
    pub(super) printed: u64,
    /// The start of standard error.
    pub(super) stderr: String,
}

/// A git that runs; killed with everything it started when this is dropped.
pub(super) struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // The id is gone once the process was waited for: then there is nothing left to kill.
        let group = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(group) = group {
            // It may have ended by itself in this moment.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Git {
    /// The program that was set, or the first one in `PATH`.
    pub(super) fn locate(set: Option<&Path>) -> Option<Self> {
        let is_program = |path: &Path| {
            std::fs::metadata(path)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        let program = match set {
            Some(path) => path.to_path_buf(),
            None => std::env::split_paths(&std::env::var_os("PATH")?)
                .map(|dir| dir.join("git"))
                .find(|path| path.is_absolute() && is_program(path))?,
        };
        is_program(&program).then_some(Self { program })
    }

    /// A call in no repository.
    pub(super) fn call(&self) -> Command {
        let mut command = Command::new(&self.program);
        let path = match self.program.parent() {
            Some(dir) => format!("{}:/usr/local/bin:/usr/bin:/bin", dir.display()),
            None => "/usr/local/bin:/usr/bin:/bin".to_owned(),
        };
        command
            .env_clear()
            .env("PATH", path)
            .envs([
                ("HOME", "/nonexistent"),
                ("LC_ALL", "C"),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_SYSTEM", "/dev/null"),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_ATTR_NOSYSTEM", "1"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_ASKPASS", "/bin/false"),
                ("SSH_ASKPASS", "/bin/false"),
                ("GIT_NO_REPLACE_OBJECTS", "1"),
                ("GIT_NO_LAZY_FETCH", "1"),
                ("GIT_ALLOW_PROTOCOL", ""),
                ("GIT_LFS_SKIP_SMUDGE", "1"),
                ("GIT_PAGER", "cat"),
                ("GIT_EDITOR", "/bin/false"),
                ("GIT_LITERAL_PATHSPECS", "1"),
                ("GIT_AUTHOR_NAME", "Chargehand"),
                ("GIT_AUTHOR_EMAIL", "chargehand@localhost"),
                ("GIT_COMMITTER_NAME", "Chargehand"),
                ("GIT_COMMITTER_EMAIL", "chargehand@localhost"),
            ])
            .current_dir("/")
            .arg("--no-pager")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0);
        for setting in ALWAYS {
            command.arg("-c").arg(setting);
        }
        command
    }

    /// A call in a bare repository of ours.
    pub(super) fn bare(&self, repository: &Path) -> Command {
        let mut command = self.call();
        let mut git_dir = OsStr::new("--git-dir=").to_owned();
        git_dir.push(repository);
        command.arg(git_dir).current_dir(repository);
        command
    }
}

/// Starts git.
pub(super) fn start(mut command: Command) -> Result<Running, WorkdirError> {
    let child = command
        .spawn()
        .map_err(|error| WorkdirError::Fault(format!("git could not be started: {error}")))?;
    Ok(Running { child })
}

impl Running {
    /// Where git reads from.
    pub(super) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Copies at most `most` bytes of standard output to `sink`, counts the rest, and waits for the exit.
    pub(super) async fn finish<W: AsyncWrite + Unpin>(
        mut self,
        sink: &mut W,
        most: u64,
    ) -> Result<Finished, WorkdirError> {
        let stdout = self.child.stdout.take();
        let stderr = self.child.stderr.take();
        let mut said = Vec::new();
        let (printed, _) = tokio::try_join!(
            pump(stdout, sink, most),
            pump(stderr, &mut said, STDERR_KEPT)
        )
        .map_err(|error| {
            WorkdirError::Fault(format!("what git printed could not be kept: {error}"))
        })?;
        let status = self
            .child
            .wait()
            .await
            .map_err(|error| WorkdirError::Fault(format!("git was lost: {error}")))?;
        Ok(Finished {
            success: status.success(),
            printed,
            stderr: String::from_utf8_lossy(&said).into_owned(),
        })
    }
}

/// Runs git and gives its output, which must not be longer than `most` bytes.
pub(super) async fn run(command: Command, most: u64) -> Result<(Finished, Vec<u8>), WorkdirError> {
    let mut stdout = Vec::new();
    let finished = start(command)?.finish(&mut stdout, most).await?;
    if finished.printed > most {
        return Err(WorkdirError::Fault(format!(
            "git printed more than {most} bytes where less was expected"
        )));
    }
    Ok((finished, stdout))
}

/// Runs git, which must succeed; `what` completes "git could not …".
pub(super) async fn succeed(
    command: Command,
    most: u64,
    what: &str,
) -> Result<Vec<u8>, WorkdirError> {
    let (finished, stdout) = run(command, most).await?;
    if finished.success {
        Ok(stdout)
    } else {
        Err(finished.fault(what))
    }
}

/// Runs git, which must print one word.
pub(super) async fn word(command: Command, what: &str) -> Result<String, WorkdirError> {
    let printed = succeed(command, 64 * 1024, what).await?;
    Ok(String::from_utf8_lossy(&printed).trim().to_owned())
}

impl Finished {
    /// A fault with git's own words.
    pub(super) fn fault(&self, what: &str) -> WorkdirError {
        WorkdirError::Fault(format!("git could not {what}: {}", self.words()))
    }

    /// What git said, in a line or two, without its general advice.
    pub(super) fn words(&self) -> String {
        let lines: Vec<&str> = self
            .stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("hint:"))
            .filter(|line| {
                !line.starts_with("Please make sure you have the correct access rights")
                    && !line.starts_with("and the repository exists")
            })
            .collect();
        let last = lines.len().saturating_sub(2);
        let text = lines.get(last..).unwrap_or_default().join("; ");
        if text.is_empty() {
            "it gave no reason".to_owned()
        } else {
            text.chars().filter(|c| !c.is_control()).take(400).collect()
        }
    }
}

async fn pump<R, W>(from: Option<R>, to: &mut W, most: u64) -> std::io::Result<u64>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Some(mut from) = from else { return Ok(0) };
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0_u64;
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            to.flush().await?;
            return Ok(total);
        }
        let room = usize::try_from(most.saturating_sub(total)).unwrap_or(usize::MAX);
        to.write_all(&buffer[..read.min(room)]).await?;
        total += read as u64;
    }
}
