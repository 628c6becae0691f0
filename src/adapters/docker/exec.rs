//! Commands in a running container that are found again by their id, whoever began them.
//!
//! In: a container's name and a shell command; later the id. Out: how the command ended and what of its output was seen.

use std::time::Duration;

use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use chargehand_actors::ports::EngineError;
use futures_util::StreamExt;

use super::daemon::{CALL, Daemon, Flavor, Phase, State, call, failed, is_missing, within};
use super::spec::WORKSPACE;
use super::worker::worker_id;

const WHAT: &str = "run a command in the container";
/// How much of a command's output is kept, in bytes.
const KEPT_OUTPUT: usize = 16 << 10;
/// How often a command that somebody else began is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// From here on an exit code may say that a signal ended it.
const SIGNALLED: i64 = 128;
/// How long a daemon may take to tell that a container ended whose commands it has told of.
const SETTLED: Duration = Duration::from_secs(5);
/// What Docker and Podman say to a command that is to be begun a second time.
const BEGUN_BEFORE: [&str; 3] = [
    "has already run",
    "already running",
    "can only start created exec sessions",
];

/// How a command ended.
pub(super) struct Ran {
    pub(super) code: i64,
    /// The end of its output, or why that is not known.
    pub(super) output: String,
    /// Whether it was followed from its beginning to its end.
    pub(super) followed: bool,
}

impl Ran {
    /// Whether the end may be another's doing: of what ended the container.
    const fn is_doubtful(&self) -> bool {
        self.code != 0 || !self.followed
    }
}

/// Whether the container still is in the start that `began` names: only then a doubtful end of a command is the command's own.
fn is_same_start(state: Option<&State>, began: &str) -> bool {
    state.is_some_and(|state| {
        matches!(state.phase, Phase::Running | Phase::Paused) && worker_id(state).0 == began
    })
}

/// Whether what the daemon says to a begin means that the command was begun before. `code` is the one that it has for it: Docker has none
/// before the end, Podman says 0 from the first.
fn was_begun(error: &bollard::errors::Error, code: Option<i64>, flavor: Flavor) -> bool {
    let bollard::errors::Error::DockerResponseServerError { message, .. } = error else {
        return false;
    };
    let is_told = BEGUN_BEFORE.iter().any(|words| message.contains(words));
    match (flavor, code) {
        (Flavor::Docker, Some(_)) => true,
        (Flavor::Podman, Some(code)) => is_told || code != 0,
        (_, None) => is_told,
    }
}

impl Daemon {
    /// Makes a shell command ready to be run as the container's user; gives its id.
    pub(super) async fn make_command(
        &self,
        name: &str,
        command: &str,
    ) -> Result<String, EngineError> {
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                command.to_owned(),
            ]),
            working_dir: Some(WORKSPACE.to_owned()),
            ..ExecConfig::default()
        };
        let made = call(WHAT, self.docker.create_exec(name, config)).await?;
        Ok(made.id)
    }

    /// Runs the command to its end, unless it was begun before: then its end is waited for. None = the daemon does not know it (any
    /// more), as when the container has been started again since.
    pub(super) async fn finish_command(&self, id: &str) -> Result<Option<Ran>, EngineError> {
        let mut begun_before = None;
        loop {
            let (running, code) = match within(CALL, self.docker.inspect_exec(id)).await? {
                Ok(found) => (found.running.unwrap_or(false), found.exit_code),
                Err(error) if is_missing(&error) => return Ok(None),
                Err(error) => return Err(failed(WHAT, &error)),
            };
            if running {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            if let Some(error) = begun_before {
                let code = code.ok_or_else(|| failed(WHAT, &error))?;
                return Ok(Some(Ran {
                    code,
                    output: format!("its output is not known any more ({error})"),
                    followed: false,
                }));
            }
            // Nothing else tells on both engines whether it was begun: one that was cannot be begun again.
            match within(CALL, self.docker.start_exec(id, None)).await? {
                Ok(started) => return self.follow_command(id, started).await.map(Some),
                // Its end is looked for anew: somebody may have begun it since the last look.
                Err(error) if was_begun(&error, code, self.flavor()) => begun_before = Some(error),
                Err(error) => return Err(failed(WHAT, &error)),
            }
        }
    }

    /// Whether the end of a command that began in the start `began` of the container is the command's own: when a container ends, its
    /// commands are killed with it. The daemon may tell of them first, so that it is looked again for a while.
    pub(super) async fn is_own_end(
        &self,
        ran: &Ran,
        (name, network): (&str, &str),
        began: &str,
    ) -> Result<bool, EngineError> {
        if !ran.is_doubtful() {
            return Ok(true);
        }
        let settled = tokio::time::Instant::now() + SETTLED;
        loop {
            let state = self.inspect(name, network).await?;
            if !is_same_start(state.as_ref(), began) {
                return Ok(false);
            }
            if ran.code < SIGNALLED || tokio::time::Instant::now() >= settled {
                return Ok(true);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn follow_command(
        &self,
        id: &str,
        started: StartExecResults,
    ) -> Result<Ran, EngineError> {
        let mut written = String::new();
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(piece) = output.next().await {
                let piece = piece.map_err(|error| failed(WHAT, &error))?;
                written.push_str(&String::from_utf8_lossy(&piece.into_bytes()));
                if written.len() > 2 * KEPT_OUTPUT {
                    let cut = written.ceil_char_boundary(written.len() - KEPT_OUTPUT);
                    written.drain(..cut);
                }
            }
        }
        let end = call(WHAT, self.docker.inspect_exec(id)).await?;
        match end.exit_code {
            Some(code) if end.running != Some(true) => Ok(Ran {
                code,
                output: written,
                followed: true,
            }),
            Some(_) | None => Err(EngineError::Unreachable(
                "the command in the container was cut".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::errors::Error;

    use super::*;

    fn refusal(message: &str) -> Error {
        Error::DockerResponseServerError {
            status_code: 409,
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_begin_that_failed_is_no_end_unless_the_daemon_says_that_it_was_begun_before() {
        let (docker, podman) = (Flavor::Docker, Flavor::Podman);
        let improper = "can only start created exec sessions, while container c session s state is \"stopped\"";
        let stopped = "cannot exec in a container that is not running";
        for (message, code, flavor, begun) in [
            (
                "Error: Exec command 1 has already run",
                Some(0),
                docker,
                true,
            ),
            (
                "Error: Exec command 1 is already running",
                None,
                docker,
                true,
            ),
            ("container 1 is not running", None, docker, false),
            ("container 1 is not running", Some(137), docker, true),
            (improper, Some(0), podman, true),
            (improper, Some(3), podman, true),
            (stopped, Some(0), podman, false),
            ("OCI runtime error", Some(0), podman, false),
            (stopped, Some(3), podman, true),
        ] {
            let error = refusal(message);
            assert_eq!(was_begun(&error, code, flavor), begun, "{message} {code:?}");
        }
        // Nothing came back: it may not have been begun at all.
        let lost = Error::RequestTimeoutError;
        assert!(!was_begun(&lost, Some(0), podman));
        assert!(!was_begun(&lost, Some(137), docker));
    }

    #[test]
    fn an_end_is_doubtful_unless_it_was_seen_to_be_a_success() {
        for (code, followed, doubtful) in [
            (0, true, false),
            (0, false, true),
            (1, true, true),
            (137, true, true),
            (137, false, true),
        ] {
            let ran = Ran {
                code,
                output: String::new(),
                followed,
            };
            assert_eq!(ran.is_doubtful(), doubtful, "{code} {followed}");
        }
    }

    #[test]
    fn a_start_is_the_same_while_the_container_lives_in_it() {
        let exited = Phase::Exited {
            code: 137,
            out_of_memory: false,
        };
        for (phase, started_at, same) in [
            (Phase::Running, "1", true),
            (Phase::Paused, "1", true),
            (Phase::Running, "2", false),
            (exited, "1", false),
            (Phase::Unsettled, "1", false),
        ] {
            let state = State {
                id: "0123456789abcdef".to_owned(),
                started_at: started_at.to_owned(),
                phase,
                port: None,
                address: None,
                workdir: None,
            };
            let found = is_same_start(Some(&state), "0123456789ab@1");
            assert_eq!(found, same, "{state:?}");
        }
        assert!(!is_same_start(None, "0123456789ab@1"));
    }
}
