//! Commands in a running container that are found again by their id, whoever began them.
//!
//! In: a container's name and a shell command; later the id. Out: how the command ended and what of its output was seen.

use std::time::Duration;

use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use chargehand_actors::ports::EngineError;
use futures_util::StreamExt;

use super::daemon::{CALL, Daemon, call, failed, is_missing, within};
use super::spec::WORKSPACE;

const WHAT: &str = "run a command in the container";
/// How much of a command's output is kept, in bytes.
const KEPT_OUTPUT: usize = 16 << 10;
/// How often a command that somebody else began is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a command ended.
pub(super) struct Ran {
    pub(super) code: i64,
    /// The end of its output, or why that is not known.
    pub(super) output: String,
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
            // Nothing else tells on both engines whether it was begun: one that was cannot be begun again.
            return match within(CALL, self.docker.start_exec(id, None)).await? {
                Ok(started) => self.follow_command(id, started).await.map(Some),
                Err(error) => match code {
                    Some(code) => Ok(Some(Ran {
                        code,
                        output: format!("its output is not known any more ({error})"),
                    })),
                    None => Err(failed(WHAT, &error)),
                },
            };
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
            }),
            Some(_) | None => Err(EngineError::Unreachable(
                "the command in the container was cut".to_owned(),
            )),
        }
    }
}
