//! Whose workdirs they are: a file beside them names the instance.
//!
//! In: the workdirs' root. Out: the mark of each task's directory; tasks by instance; their removal. A worker can reach
//! the file of its own task: it is written once, read without following a link, and decides nothing but what an operator
//! removes with `chargehand reap`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use chargehand_actors::id::{InstanceId, TaskId};
use chargehand_actors::ports::WorkdirError;
use rustix::fs::OFlags;

use super::blocking::Stop;
use super::layout::disk;
use super::remove::remove_tree;
use super::settings::WorkdirSettings;

const MARK: &str = "instance";
/// An instance id is shorter.
const LONGEST: u64 = 64;

/// Marks the directory of a task, which is there.
pub(super) fn mark(settings: &WorkdirSettings, task: TaskId) -> Result<(), WorkdirError> {
    let path = settings.root.join(task.to_string()).join(MARK);
    let write = || {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        match made {
            Ok(mut file) => writeln!(file, "{}", settings.instance.0),
            // Of an earlier attempt.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    };
    write().map_err(|error| disk("the workdir could not be marked as ours", &error))
}

/// The tasks whose directories below `root` carry a mark. What carries none is not mentioned.
///
/// # Errors
/// When the directory cannot be listed; one that is not there is empty.
pub fn marked_workdirs(root: &Path) -> io::Result<Vec<(InstanceId, TaskId)>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let task = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(task) = task
            && entry.file_type()?.is_dir()
            && let Some(instance) = read_mark(&entry.path())
        {
            found.push((instance, task));
        }
    }
    Ok(found)
}

/// Removes the directory of a task below `root`, if it carries this instance's mark. Blocks.
///
/// # Errors
/// When something of it cannot be removed.
pub fn remove_marked(root: &Path, instance: &InstanceId, task: TaskId) -> Result<(), WorkdirError> {
    let path = root.join(task.to_string());
    if read_mark(&path).as_ref() == Some(instance) {
        remove_tree(&path, &Stop::default())?;
    }
    Ok(())
}

fn read_mark(directory: &Path) -> Option<InstanceId> {
    let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(careful.bits()).ok()?)
        .open(directory.join(MARK))
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    let id = text.trim();
    (!id.is_empty()).then(|| InstanceId(id.to_owned()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use uuid::Uuid;

    #[test]
    fn only_what_carries_the_mark_is_named_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let settings = |instance: &str| WorkdirSettings {
            root: root.path().to_owned(),
            store: root.path().join("store"),
            git: None,
            instance: InstanceId(instance.to_owned()),
            limits: Default::default(),
        };
        let task = |n| TaskId::new(Uuid::from_u128(n));
        for n in 1..=5 {
            fs::create_dir(root.path().join(task(n).to_string())).unwrap();
        }
        fs::create_dir(root.path().join("somebody's")).unwrap();
        mark(&settings("a"), task(1)).unwrap();
        mark(&settings("b"), task(2)).unwrap();
        // Written once: a later instance does not take it over, and a link in its place is not followed.
        mark(&settings("b"), task(1)).unwrap();
        let outside = root.path().join("outside");
        fs::write(&outside, "a\n").unwrap();
        symlink(&outside, root.path().join(task(3).to_string()).join(MARK)).unwrap();
        mark(&settings("b"), task(3)).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "a\n");
        fs::create_dir(root.path().join(task(4).to_string()).join(MARK)).unwrap();

        let (a, b) = (InstanceId("a".to_owned()), InstanceId("b".to_owned()));
        let mut found = marked_workdirs(root.path()).unwrap();
        found.sort();
        assert_eq!(found, [(a.clone(), task(1)), (b, task(2))]);
        for n in 1..=5 {
            remove_marked(root.path(), &a, task(n)).unwrap();
        }
        let left = |n| root.path().join(task(n).to_string()).exists();
        assert_eq!([1, 2, 3, 4, 5].map(left), [false, true, true, true, true]);
        assert_eq!(marked_workdirs(&root.path().join("none")).unwrap(), []);
    }
}
