//! Ending a recorded worker and whatever else an instance left running.
//!
//! In: an engine's directory and the owner's mark. Out: how many processes were ended, or which could not be. Nothing may use
//! the data of a worker before this has succeeded.

use std::path::Path;
use std::time::Duration;

use chargehand_actors::id::{EngineName, InstanceId};
use chargehand_actors::ports::EngineError;
use rustix::process::Signal;

use super::orphans::{Owner, Process, boot_id, end_all};
use super::record::{Files, ProcessRecord, forget, read};

/// Ends everything that the engine `local` of this data directory left running: for programs that clean up after a run
/// without starting the engine. Gives the number of processes ended.
///
/// # Errors
/// `Fault` names the processes that could not be ended.
pub async fn end_leftovers(
    data_dir: &Path,
    name: &EngineName,
    instance: &InstanceId,
) -> Result<usize, EngineError> {
    let files = Files {
        directory: data_dir.join(name.as_str()),
    };
    let (second, ()) = end_owned(&files.second(), Owner::second(instance), ()).await?;
    let (ended, ()) = end_owned(&files, Owner::instance(instance), ()).await?;
    Ok(ended + second)
}

/// Ends the recorded worker, lets its guard clean up, then ends whatever still carries the owner's mark. `held` is what keeps the
/// next start away: it goes with the work, which runs to its end also when nobody waits for it any more.
pub(super) async fn end_owned<Held: Send + 'static>(
    files: &Files,
    owner: Owner,
    held: Held,
) -> Result<(usize, Held), EngineError> {
    let files = files.clone();
    let (ended, held) = tokio::task::spawn_blocking(move || {
        let recorded: Option<ProcessRecord> = read(&files.process());
        let recorded = recorded.filter(|process| Some(&process.boot_id) == boot_id().as_ref());
        if let Some(process) = recorded {
            end_guarded(&process);
        }
        let ended = end_all(|| owner.processes());
        if ended.is_ok() {
            // The record stays: its generation is counted on. Without process.json it leads to nothing.
            drop(forget(&files.process()));
        }
        (ended, held)
    })
    .await
    .map_err(|error| EngineError::Fault(format!("ending the old worker failed: {error}")))?;
    ended.map(|ended| (ended, held)).map_err(|left| {
        EngineError::Fault(format!(
            "processes of an earlier worker cannot be ended (pids {}); end them, the engine tries again",
            pids(&left)
        ))
    })
}

/// Ends what a task left running in its workdir: a server started in the background outlives its session otherwise. The worker
/// itself works elsewhere; what went to another directory is ended with the worker.
pub(super) async fn end_in(directory: String, owner: Owner) -> Result<(), EngineError> {
    let ended = tokio::task::spawn_blocking(move || {
        // The kernel tells real paths: one that leads through a link, as a data directory may, would match none of them.
        let directory = Path::new(&directory);
        let real = directory.canonicalize();
        let directory = real.as_deref().unwrap_or(directory);
        let scan = || -> Vec<Process> {
            let all = owner.processes().into_iter();
            all.filter(|process| process.works_in(directory)).collect()
        };
        if scan().is_empty() {
            return Ok(0);
        }
        end_all(scan)
    })
    .await
    .map_err(|error| EngineError::Fault(format!("ending the task's processes failed: {error}")))?;
    match ended {
        Ok(_) => Ok(()),
        Err(left) => Err(EngineError::Fault(format!(
            "processes that the task left running cannot be ended (pids {})",
            pids(&left)
        ))),
    }
}

fn pids(processes: &[Process]) -> String {
    let pids: Vec<String> = processes.iter().map(|one| one.pid.to_string()).collect();
    pids.join(", ")
}

/// The worker first: its guard sees the end, ends every orphan (also one that cleaned its environment), and goes.
fn end_guarded(process: &ProcessRecord) {
    if !process.guard.is_alive() {
        return;
    }
    process.worker.signal(Signal::TERM);
    for step in 0..120 {
        if !process.guard.is_alive() {
            return;
        }
        if step == 40 {
            process.worker.signal(Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::super::orphans::MARK;
    use super::*;

    #[tokio::test]
    async fn what_works_in_a_directory_is_found_behind_a_link_too() {
        let place = tempfile::tempdir().unwrap();
        let (real, link) = (place.path().join("real"), place.path().join("data"));
        std::fs::create_dir_all(real.join("task/below")).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let owner = Owner::instance(&InstanceId(format!("leftovers-{}", std::process::id())));
        let sleep = |below: &str| {
            Command::new("sleep")
                .arg("300")
                .env(MARK, owner.mark(1))
                .current_dir(link.join(below))
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        };
        let (mut inside, mut outside) = (sleep("task/below"), sleep(""));
        let task = link.join("task").to_str().unwrap().to_owned();
        end_in(task, owner.clone()).await.unwrap();
        let ended = inside.try_wait().unwrap();
        let other = outside.try_wait().unwrap();
        for child in [&mut inside, &mut outside] {
            drop(child.kill());
            child.wait().unwrap();
        }
        assert_eq!(ended.and_then(|status| status.signal()), Some(15));
        assert_eq!(other, None, "it does not work in the directory");
    }
}
