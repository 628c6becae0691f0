//! What an attempt has on disk beside its workdir: OpenCode's records, its secrets, and why its worker must not go on.
//!
//! In: a container's name. Out: directories that the worker's user owns; kept until the attempt is removed, so that a container that
//! died can be continued or its record read.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use chargehand_actors::ports::EngineError;

use super::secrets;
use super::settings::DockerSettings;
use crate::adapters::workdir::remove_all;

/// Which starts were ended by Chargehand.
const OUR_KILLS: &str = "ended-by-us";

/// Directories of an attempt.
pub(super) struct Place {
    pub(super) data: PathBuf,
    pub(super) secrets: PathBuf,
}

/// Where all attempts of the engine are.
pub(super) fn all(settings: &DockerSettings) -> PathBuf {
    settings
        .data_dir
        .join(settings.name.as_str())
        .join("attempts")
}

/// Where an attempt is.
pub(super) fn of(settings: &DockerSettings, name: &str) -> PathBuf {
    all(settings).join(name)
}

/// OpenCode's records of the attempt.
pub(super) fn data(settings: &DockerSettings, name: &str) -> PathBuf {
    of(settings, name).join("data")
}

/// Makes the directories, or finds them, and gives them (and the workdir, where one is named) to the worker's user.
pub(super) async fn prepare(
    settings: &DockerSettings,
    name: &str,
    workdir: Option<PathBuf>,
) -> Result<Place, EngineError> {
    let (settings, name) = (settings.clone(), name.to_owned());
    on_disk("the container's directories cannot be made", move || {
        let data = data(&settings, &name);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&data)?;
        let secrets = secrets::prepare(&settings, &name)?;
        if rustix::process::geteuid().is_root() {
            for tree in workdir.iter().chain([&data]) {
                give_all(tree, settings.user)?;
            }
        }
        Ok(Place { data, secrets })
    })
    .await
}

/// Why the attempt's worker must not go on, if that was found out before.
pub(super) fn ended(settings: &DockerSettings, name: &str) -> Option<String> {
    std::fs::read_to_string(of(settings, name).join("ended")).ok()
}

/// Remembers why the attempt's worker must not go on: the container alone does not tell after it was killed.
pub(super) async fn end(
    settings: &DockerSettings,
    name: &str,
    why: &str,
) -> Result<(), EngineError> {
    let (place, why) = (of(settings, name), why.to_owned());
    on_disk("the worker's end cannot be recorded", move || {
        std::fs::create_dir_all(&place)?;
        let beside = place.join(".ended");
        std::fs::write(&beside, why)?;
        std::fs::rename(beside, place.join("ended"))
    })
    .await
}

/// Counts a kill of the attempt's worker, in the start that `started_at` names, once however often it is looked at; gives how many starts
/// ended so.
pub(super) async fn count_kill(
    settings: &DockerSettings,
    name: &str,
    started_at: &str,
) -> Result<usize, EngineError> {
    let (place, started_at) = (of(settings, name), started_at.to_owned());
    on_disk("the worker's kills cannot be counted", move || {
        note(&place, "kills", &started_at)
    })
    .await
}

/// Remembers, before it is done, that the end of that start is Chargehand's own doing and says nothing about the worker. Where the disk
/// takes no record (that worker may have filled it), it is kept beside the secrets, on tmpfs.
pub(super) async fn kill_is_ours(
    settings: &DockerSettings,
    name: &str,
    started_at: &str,
) -> Result<(), EngineError> {
    let places = places_of_our_kills(settings, name);
    let started_at = started_at.to_owned();
    on_disk("the worker's end cannot be recorded", move || {
        note_our_kill(&places, &started_at)
    })
    .await
}

/// Whether that start was ended by Chargehand.
pub(super) fn is_kill_ours(settings: &DockerSettings, name: &str, started_at: &str) -> bool {
    is_noted(&places_of_our_kills(settings, name), started_at)
}

fn places_of_our_kills(settings: &DockerSettings, name: &str) -> [PathBuf; 2] {
    [of(settings, name), secrets::directory(settings, name)]
}

fn note_our_kill([place, secrets]: &[PathBuf; 2], started_at: &str) -> io::Result<()> {
    match note(place, OUR_KILLS, started_at) {
        // The directory is never made here: who may look into it is decided where the secrets are.
        Err(_) if secrets.is_dir() => note(secrets, OUR_KILLS, started_at).map(drop),
        noted => noted.map(drop),
    }
}

fn is_noted(places: &[PathBuf], started_at: &str) -> bool {
    places.iter().any(|place| {
        let noted = std::fs::read_to_string(place.join(OUR_KILLS));
        noted.is_ok_and(|noted| noted.lines().any(|line| line == started_at))
    })
}

/// Adds a line to a file of the place, unless it is there; gives how many lines it has.
fn note(place: &Path, file: &str, line: &str) -> io::Result<usize> {
    let text = match std::fs::read_to_string(place.join(file)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut lines: Vec<&str> = text.lines().collect();
    if !lines.contains(&line) {
        lines.push(line);
        let beside = place.join(format!(".{file}"));
        std::fs::create_dir_all(place)?;
        std::fs::write(&beside, lines.join("\n"))?;
        std::fs::rename(beside, place.join(file))?;
    }
    Ok(lines.len())
}

/// Removes all of it. Nothing there is fine.
pub(super) async fn remove(settings: &DockerSettings, name: &str) -> Result<(), EngineError> {
    let (settings, name) = (settings.clone(), name.to_owned());
    on_disk("what the container left cannot be removed", move || {
        secrets::remove(&settings, &name)?;
        // A worker of our own user may have left directories that it has no rights to.
        remove_all(&of(&settings, &name)).map_err(io::Error::other)
    })
    .await
}

/// Names of attempts that have something here.
pub(super) async fn names(settings: &DockerSettings) -> Result<Vec<String>, EngineError> {
    let places = [all(settings), settings.secrets_dir.clone()];
    on_disk("the attempts' directories cannot be listed", move || {
        let mut names = Vec::new();
        for place in places {
            match std::fs::read_dir(place) {
                Ok(entries) => {
                    for entry in entries {
                        names.extend(entry?.file_name().into_string());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    })
    .await
}

/// Work on the disk, on a thread of its own.
pub(super) async fn on_disk<T: Send + 'static>(
    problem: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| EngineError::Fault(format!("{problem}: {error}"))),
        Err(error) => Err(EngineError::Fault(format!("{problem}: {error}"))),
    }
}

/// Gives a tree to the worker's user, following no link.
fn give_all(root: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid))?;
        if std::fs::symlink_metadata(&path)?.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_kill_of_ours_is_known_although_the_disk_took_no_record() {
        let around = tempfile::tempdir().unwrap();
        let places = [around.path().join("place"), around.path().join("secrets")];
        // Nothing can be written below a file, by root neither.
        std::fs::write(&places[0], "").unwrap();
        assert!(note_our_kill(&places, "1").is_err());
        assert!(!places[1].exists());
        std::fs::create_dir(&places[1]).unwrap();
        note_our_kill(&places, "1").unwrap();
        std::fs::remove_file(&places[0]).unwrap();
        note_our_kill(&places, "2").unwrap();
        for (start, ours) in [("1", true), ("2", true), ("3", false)] {
            assert_eq!(is_noted(&places, start), ours, "{start}");
        }
    }

    #[test]
    fn a_start_is_noted_once_however_often_it_is_looked_at() {
        let place = tempfile::tempdir().unwrap();
        for (start, count) in [("1", 1), ("1", 1), ("2", 2), ("1", 2), ("2", 2)] {
            assert_eq!(note(place.path(), "kills", start).unwrap(), count);
        }
    }
}
