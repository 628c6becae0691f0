//! What a session changed, as OpenCode itself recorded it: the diffs of its turns, put together.
//!
//! In: a session. Out: [`SessionDiff`]. OpenCode compares snapshots of the repository per turn, and gives a diff only for the
//! message that began the turn; asked for the whole session it answers with nothing. [`merge`] is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chargehand_actors::event::{FileChange, FileMark};
use chargehand_actors::ports::EngineError;

use super::client::Reply;
use super::driver::{Driver, json_list};
use super::wire::{FileDiff, Message, ServerPaths, Session};

/// The part of the diff that is kept in a result, in bytes.
const DIFF_LIMIT: usize = 50 * 1024;

/// A diff may be written after the run has ended: how often, and how far apart, it is asked for again.
const TRIES: u32 = 5;
const EVERY: Duration = Duration::from_millis(400);

/// What a session changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SessionDiff {
    /// By path, relative to the directory. Files outside of it keep their absolute path.
    pub(super) files: BTreeMap<String, FileChange>,
    /// The diffs of the turns one after the other, at most 50 KB, cut at a line.
    pub(super) text: String,
    /// Bytes of all of them.
    pub(super) bytes: u64,
    /// Files that several turns changed: their lines are counted once per turn.
    pub(super) repeated: u64,
    /// The directory is in no repository: OpenCode records nothing there.
    pub(super) unrecorded: bool,
}

impl Driver {
    /// Where a directory lies in its repository, as the server says.
    pub(super) async fn paths(&self, directory: Option<&str>) -> Result<ServerPaths, EngineError> {
        let query = directory.map(|directory| ("directory", directory));
        match self.client.get("/path", query.as_slice()).await? {
            Reply::Json(paths) => Ok(paths),
            Reply::Missing | Reply::NoRoute => Err(EngineError::Unreachable(
                "the server does not say where it works: it has no GET /path".to_owned(),
            )),
        }
    }

    /// Reads what a session changed so far; a session whose run has ended is given the time to write it down.
    pub(super) async fn session_diff(
        &self,
        session: &Session,
        ended: bool,
    ) -> Result<SessionDiff, EngineError> {
        let directory = session.directory.as_str();
        let paths = self.paths(Some(directory)).await?;
        if paths.worktree.is_empty() || paths.worktree == "/" {
            return Ok(SessionDiff {
                unrecorded: true,
                ..SessionDiff::default()
            });
        }
        let mut found = SessionDiff::default();
        for attempt in 0..if ended { TRIES } else { 1 } {
            if attempt > 0 {
                tokio::time::sleep(EVERY).await;
            }
            let messages = self.messages(&session.id, directory, None).await?;
            let turns = self.turns(session, &messages).await?;
            found = merge(&turns, directory, &paths.worktree);
            // A file that was changed and changed back stays missing: then the last reading counts.
            if touched(&messages, directory).is_subset(&found.files.keys().cloned().collect()) {
                break;
            }
        }
        Ok(found)
    }

    async fn turns(
        &self,
        session: &Session,
        messages: &[Message],
    ) -> Result<Vec<Vec<FileDiff>>, EngineError> {
        let path = format!("/session/{}/diff", session.id);
        let mut turns = Vec::new();
        for message in messages
            .iter()
            .filter(|message| message.info.role == "user")
        {
            let query = [
                ("directory", session.directory.as_str()),
                ("messageID", message.info.id.as_str()),
            ];
            turns.push(json_list(self.client.get(&path, &query).await?)?);
        }
        Ok(turns)
    }
}

/// Files that the session's messages say were written, relative to the directory.
fn touched(messages: &[Message], directory: &str) -> BTreeSet<String> {
    let parts = messages.iter().flat_map(|message| &message.parts);
    parts
        .filter(|part| part.kind == "patch")
        .flat_map(|part| &part.files)
        .map(|file| below(file, directory))
        .collect()
}

/// Puts the diffs of turns together, oldest first. Their paths are relative to the repository.
fn merge(turns: &[Vec<FileDiff>], directory: &str, worktree: &str) -> SessionDiff {
    let mut merged = SessionDiff::default();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for diff in turns.iter().flatten() {
        let path = below(
            &format!("{}/{}", worktree.trim_end_matches('/'), diff.file),
            directory,
        );
        *seen.entry(path.clone()).or_default() += 1;
        let now = mark_of(&diff.status);
        let before = merged.files.remove(&path);
        let mark = match before.as_ref().map(|file| file.mark) {
            None => Some(now),
            Some(then) => joined(then, now),
        };
        if let Some(mark) = mark {
            let (additions, deletions) = before.map_or((0, 0), |b| (b.additions, b.deletions));
            let change = FileChange {
                path: path.clone(),
                mark,
                additions: additions.saturating_add(diff.additions),
                deletions: deletions.saturating_add(diff.deletions),
                binary: is_binary(diff),
            };
            merged.files.insert(path, change);
        }
        add_text(&mut merged, &diff.patch);
    }
    merged.repeated = seen.values().filter(|turns| **turns > 1).count() as u64;
    merged
}

/// What two turns did to a file, seen from before the first; none = it is as it was.
fn joined(then: FileMark, now: FileMark) -> Option<FileMark> {
    match (then, now) {
        (FileMark::Added, FileMark::Deleted) => None,
        (FileMark::Added, FileMark::Added | FileMark::Modified) => Some(FileMark::Added),
        (FileMark::Modified | FileMark::Deleted, FileMark::Deleted) => Some(FileMark::Deleted),
        (FileMark::Modified | FileMark::Deleted, FileMark::Added | FileMark::Modified) => {
            Some(FileMark::Modified)
        }
    }
}

fn mark_of(status: &str) -> FileMark {
    match status {
        "added" => FileMark::Added,
        "deleted" => FileMark::Deleted,
        _ => FileMark::Modified,
    }
}

/// A binary file has a patch without hunks, or none.
fn is_binary(diff: &FileDiff) -> bool {
    diff.additions == 0 && diff.deletions == 0 && diff.patch.contains("Binary files")
}

fn add_text(merged: &mut SessionDiff, patch: &str) {
    for line in patch.split_inclusive('\n') {
        let whole = merged.bytes == merged.text.len() as u64;
        let ended = if line.ends_with('\n') { "" } else { "\n" };
        let size = line.len() + ended.len();
        merged.bytes = merged.bytes.saturating_add(size as u64);
        if whole && merged.text.len() + size <= DIFF_LIMIT {
            merged.text.push_str(line);
            merged.text.push_str(ended);
        }
    }
}

/// A path relative to the directory, when it is below it.
fn below(path: &str, directory: &str) -> String {
    path.strip_prefix(directory.trim_end_matches('/'))
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(path)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(file: &str, status: &str, patch: &str) -> FileDiff {
        FileDiff {
            file: file.to_owned(),
            patch: patch.to_owned(),
            additions: 2,
            deletions: 1,
            status: status.to_owned(),
        }
    }

    #[test]
    fn turns_are_joined_as_seen_from_before_the_first() {
        let table = [
            (vec!["added"], Some(FileMark::Added)),
            (vec!["added", "modified"], Some(FileMark::Added)),
            (vec!["added", "deleted"], None),
            (vec!["added", "deleted", "added"], Some(FileMark::Added)),
            (vec!["modified", "deleted"], Some(FileMark::Deleted)),
            (vec!["deleted", "added"], Some(FileMark::Modified)),
            (vec!["modified", "modified"], Some(FileMark::Modified)),
        ];
        for (statuses, mark) in table {
            let turns: Vec<Vec<FileDiff>> = statuses
                .iter()
                .map(|status| vec![diff("a", status, "")])
                .collect();
            let merged = merge(&turns, "/w", "/w");
            let found = merged.files.get("a").map(|file| file.mark);
            assert_eq!(found, mark, "{statuses:?}");
            assert_eq!(merged.repeated, u64::from(statuses.len() > 1));
        }
    }

    #[test]
    fn paths_are_relative_to_the_directory_and_others_are_absolute() {
        let turns = [vec![diff("sub/a", "added", ""), diff("b", "added", "")]];
        let merged = merge(&turns, "/repo/sub", "/repo");
        let paths: Vec<&String> = merged.files.keys().collect();
        assert_eq!(paths, ["/repo/b", "a"]);
    }

    #[test]
    fn a_long_diff_is_cut_at_a_line_and_counted_whole() {
        let patch = format!("{}\nlast line", "x".repeat(999)).repeat(60);
        let turns = [vec![diff("a", "added", &patch), diff("b", "added", "tail")]];
        let merged = merge(&turns, "/w", "/w");
        assert!(merged.text.len() <= DIFF_LIMIT && merged.text.len() > DIFF_LIMIT - 1100);
        assert!(merged.text.ends_with('\n') && !merged.text.contains("tail"));
        assert_eq!(merged.bytes, patch.len() as u64 + 1 + 5);
    }
}
