//! Finds processes that still belong to a directory: the proof that a command stopped everything that it started.
//!
//! In: the private data directory of an embedded server. Out: the processes that name it in their environment or
//! command line, or work in it. Reads `/proc`; elsewhere than on Linux there is no answer.

use std::path::Path;

/// A process that should be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its command line, for a person.
    pub(crate) command: String,
}

/// Everything that belongs to `directory`, without this process; `None` where that cannot be found out.
pub(crate) fn processes_of(directory: &Path) -> Option<Vec<Leftover>> {
    let own = std::process::id();
    let needle = directory.as_os_str().as_encoded_bytes();
    let entries = std::fs::read_dir("/proc").ok()?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if pid == own {
            continue;
        }
        let process = entry.path();
        // A process that ends meanwhile, or belongs to somebody else, cannot be read: it is not ours.
        let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let works_in_it =
            std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
        if works_in_it || contains(&environment, needle) || contains(&command, needle) {
            found.push(Leftover {
                pid,
                command: String::from_utf8_lossy(&command).replace('\0', " "),
            });
        }
    }
    Some(found)
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && hay.windows(needle.len()).any(|window| window == needle)
}

#[cfg(all(test, target_os = "linux"))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_environment_and_by_where_it_works() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        assert_eq!(processes_of(&path), Some(Vec::new()));
        let mut by_environment = std::process::Command::new("sleep")
            .arg("30")
            .env("SOME_HOME", path.join("data"))
            .spawn()
            .unwrap();
        let mut by_place = std::process::Command::new("sleep")
            .arg("30")
            .current_dir(&path)
            .spawn()
            .unwrap();
        let mut pids: Vec<u32> = processes_of(&path)
            .unwrap()
            .into_iter()
            .map(|leftover| leftover.pid)
            .collect();
        pids.sort_unstable();
        let mut wanted = [by_environment.id(), by_place.id()];
        wanted.sort_unstable();
        for child in [&mut by_environment, &mut by_place] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(pids, wanted);
        assert_eq!(processes_of(&path), Some(Vec::new()));
    }
}
