//! Ending a recorded worker and whatever else an instance left running.
//!
//! In: an engine's directory and the owner's mark. Out: how many processes were ended, or which could not be. Nothing may use
//! the data of a worker before this has succeeded.

use std::path::Path;
use std::time::Duration;

use chargehand_actors::id::{EngineName, InstanceId};
use chargehand_actors::ports::EngineError;
use rustix::process::Signal;

use super::orphans::{boot_id, end_all, marked};
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
        let pids: Vec<String> = left.iter().map(|process| process.pid.to_string()).collect();
        EngineError::Fault(format!(
            "processes of an earlier worker cannot be ended (pids {}); end them, the engine tries again",
            pids.join(", ")
        ))
    })
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
