//! Ending a recorded worker and whatever else an instance left running.
//!
//! In: an engine's directory and the owner's mark. Out: how many processes were ended, or which could not be. Nothing may use
//! the data of a worker before this has succeeded.

use std::path::Path;
use std::time::Duration;

use chargehand_actors::id::{EngineName, InstanceId};
use chargehand_actors::ports::EngineError;
use rustix::process::Signal;

use super::orphans::{Process, boot_id, end_all, marked};
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
    end_owned(&files, format!("{instance}/")).await
}

/// Ends the recorded worker, lets its guard clean up, then ends whatever still carries the owner's mark.
pub(super) async fn end_owned(files: &Files, owner: String) -> Result<usize, EngineError> {
    let files = files.clone();
    let ended = tokio::task::spawn_blocking(move || {
        let recorded: Option<ProcessRecord> = read(&files.process());
        let recorded = recorded.filter(|process| Some(&process.boot_id) == boot_id().as_ref());
        if let Some(process) = recorded {
            end_guarded(&process);
        }
        let ended = end_all(|| marked(&owner));
        if ended.is_ok() {
            // The record stays: its generation is counted on. Without process.json it leads to nothing.
            drop(forget(&files.process()));
        }
        ended
    })
    .await
    .map_err(|error| EngineError::Fault(format!("ending the old worker failed: {error}")))?;
    ended.map_err(|left| {
        EngineError::Fault(format!(
            "processes of an earlier worker cannot be ended (pids {}); end them, the engine tries again",
            pids(&left)
        ))
    })
}

/// Ends what a task left running in its workdir: a server started in the background outlives its session otherwise. The worker
/// itself works elsewhere; what went to another directory is ended with the worker.
pub(super) async fn end_in(directory: String, owner: String) -> Result<(), EngineError> {
    let ended = tokio::task::spawn_blocking(move || {
        let scan = || -> Vec<Process> {
            let all = marked(&owner).into_iter();
            all.filter(|process| process.works_in(Path::new(&directory)))
                .collect()
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
