//! What the workers use of the disk: watched, because the mounted directories of the host have no quota of their own.
//!
//! In: the known workers. Out: the end of a worker whose workdir and records together have grown over the limit, with the reason. Links
//! are not followed, other file systems not counted, and the counting of one ends as soon as it is over the limit.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::containers::Containers;
use super::place;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(3);

/// Looks for ever.
pub(super) async fn watch(containers: Arc<Containers>) {
    let limit = containers.settings.limits.disk;
    if limit == 0 {
        return;
    }
    loop {
        tokio::time::sleep(EVERY).await;
        for worker in containers.all_known() {
            let name = worker.name.clone();
            let Some(why) = why_to_end(&containers, &name, limit).await else {
                continue;
            };
            tracing::warn!(container = %name, limit, %why, "over its limit of disk; the worker is ended");
            if let Err(error) = containers.end(&name, &why).await {
                tracing::warn!(container = %name, %error, "the worker could not be ended, or its end not recorded; trying again");
            }
        }
    }
}

async fn why_to_end(containers: &Containers, name: &str, limit: u64) -> Option<String> {
    if let Some(why) = containers.ending(name) {
        // Found out by an earlier look. It may be frozen, so that its directories are not counted any more.
        return Some(why);
    }
    let directories = containers.directories(name).await?;
    is_over(directories, limit).await.then(|| {
        format!(
            "the worker wrote more than {} MB into its working directory and records (engines.docker.disk); raise the \
             limit, or have it write less",
            limit >> 20
        )
    })
}

async fn is_over(directories: Vec<PathBuf>, limit: u64) -> bool {
    let counted = place::on_disk("the directories cannot be read", move || {
        Ok(used(&directories, limit))
    });
    // A count that failed says nothing; the next one comes soon.
    counted.await.is_ok_and(|bytes| bytes > limit)
}

/// Bytes on disk below the directories; counted until they are over `limit`. What cannot be read counts nothing.
fn used(directories: &[PathBuf], limit: u64) -> u64 {
    let mut bytes = 0;
    // A file with several names is on the disk once.
    let mut counted = HashSet::new();
    for root in directories {
        let Ok(device) = std::fs::symlink_metadata(root).map(|meta| meta.dev()) else {
            continue;
        };
        let mut waiting = vec![root.clone()];
        while let Some(path) = waiting.pop() {
            if bytes > limit {
                return bytes;
            }
            for (path, meta) in entries(&path) {
                let named_again =
                    !meta.is_dir() && meta.nlink() > 1 && !counted.insert((meta.dev(), meta.ino()));
                if meta.dev() != device || named_again {
                    continue;
                }
                bytes += meta.blocks() * 512;
                if meta.is_dir() {
                    waiting.push(path);
                }
            }
        }
    }
    bytes
}

fn entries(path: &Path) -> Vec<(PathBuf, std::fs::Metadata)> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_disk_is_counted_and_nothing_behind_links() {
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("in/deep"), place.path().join("out"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("big"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let root = [place.path().join("in")];
        let before = used(&root, u64::MAX);
        assert!(before < 1 << 19, "{before}");
        std::fs::write(inside.join("some"), vec![1; 1 << 19]).unwrap();
        // A hole takes no place.
        std::fs::File::create(inside.join("hole"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        std::fs::hard_link(inside.join("some"), inside.join("same")).unwrap();
        let after = used(&root, u64::MAX) - before;
        assert!(((1 << 19)..(1 << 20)).contains(&after), "{after}");
        assert!(used(&root, 10) > 10);
    }
}
