//! Compares a workdir with its baseline: the result of a task.
//!
//! In: a prepared attempt. Out: the changed files, the start of the diff, the patch file, and a branch in our bare
//! repository whose parent is the baseline. Repeatable: the same workdir gives the same branch and patch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chargehand_actors::crash::CrashPoint;
use chargehand_actors::event::{Changes, FileChange, FileMark};
use chargehand_actors::ports::WorkdirError;
use tokio::process::Command;

use super::blocking::{Hold, blocking};
use super::git::{Git, run, start, succeed};
use super::import::{IMPORT_REF, Import, Imported, import, in_words};
use super::layout::{Baseline, Place, disk};
use super::manifest::Manifest;
use super::names::{is_below_any, parse, show};
use super::prepare::{commit, set_ref};
use super::settings::WorkdirSettings;

/// Changed files listed in the result.
const LISTED: usize = 1000;
/// The raw list of changes is read up to this size.
const RAW: u64 = 256 * 1024 * 1024;

/// Everything that a comparison works on.
pub(super) struct Compare<'a> {
    /// The program.
    pub(super) git: &'a Git,
    /// Where.
    pub(super) place: &'a Place,
    /// Bounds.
    pub(super) settings: &'a WorkdirSettings,
    /// Against what.
    pub(super) baseline: &'a Baseline,
    /// Its files.
    pub(super) manifest: Arc<Manifest>,
    /// The task's lock.
    pub(super) hold: Hold,
}

/// Compares.
pub(super) async fn compare(job: Compare<'_>) -> Result<Changes, WorkdirError> {
    forget_broken_off_calls(&job).await?;
    let imported = import(Import {
        git: job.git,
        place: job.place,
        limits: job.settings.limits,
        against: Arc::clone(&job.manifest),
        hold: Hold::clone(&job.hold),
    })
    .await?;
    let mut changes = Changes::default();
    let mut files = BTreeMap::new();
    if imported.tree == job.baseline.tree {
        set_ref(job.git, job.place, &branch_ref(job.place), None).await?;
        remove_patch(job.place).await?;
    } else {
        files = changed_files(&job, &imported.tree).await?;
        (changes.diff, changes.diff_bytes) = diff_text(&job, &imported.tree).await?;
        (changes.patch_file, changes.note) = write_patch(&job, &imported.tree).await?;
        CrashPoint::PatchWritten.pass();
        changes.branch = Some(write_branch(&job, &imported.tree).await?);
        CrashPoint::BranchWritten.pass();
    }
    set_ref(job.git, job.place, IMPORT_REF, None).await?;
    add_what_no_tree_holds(&mut files, &job, &imported);
    changes.files_total = files.len() as u64;
    changes.additions = files.values().map(|file| file.additions).sum();
    changes.deletions = files.values().map(|file| file.deletions).sum();
    changes.files = files.into_values().take(LISTED).collect();
    let before = job.baseline.incomplete.clone();
    changes.note = notes([changes.note, before, incomplete(&imported)]);
    changes.left_out = imported.left_out;
    Ok(changes)
}

fn branch_ref(place: &Place) -> String {
    format!("refs/heads/{}", place.branch())
}

/// Locks of a call that was killed in the middle would stop every later one. The task's lock is held: nobody else works here.
async fn forget_broken_off_calls(job: &Compare<'_>) -> Result<(), WorkdirError> {
    let locks = [
        format!("{IMPORT_REF}.lock"),
        format!("{}.lock", branch_ref(job.place)),
        "refs/chargehand/baseline.lock".to_owned(),
        "packed-refs.lock".to_owned(),
    ]
    .map(|name| job.place.repository.join(name));
    blocking(Some(Hold::clone(&job.hold)), move |_| {
        for lock in &locks {
            match std::fs::remove_file(lock) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(disk("a left-over lock could not be removed", &error));
                }
                _ => {}
            }
        }
        Ok(())
    })
    .await
}

fn diff_tree(job: &Compare<'_>) -> Command {
    let mut command = job.git.bare(&job.place.repository);
    command
        // Larger files are compared as binary: their line diff could take minutes.
        .args(["-c", "core.bigFileThreshold=5m"])
        .args(["-c", "core.quotePath=false", "diff-tree", "-r"])
        .args([
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--no-renames",
        ])
        // Between two trees of a bare repository no submodule is looked into.
        .args(["--ignore-submodules=none", "--submodule=short"]);
    command
}

/// The changed files by path.
async fn changed_files(
    job: &Compare<'_>,
    now: &str,
) -> Result<BTreeMap<Vec<u8>, FileChange>, WorkdirError> {
    let mut command = diff_tree(job);
    command.args(["--raw", "--numstat", "-z", &job.baseline.tree, now]);
    let listing = succeed(command, RAW, "compare with the baseline").await?;
    read_changes(&listing)
        .ok_or_else(|| WorkdirError::Fault("git listed the changes in an unknown form".to_owned()))
}

/// `:<mode> <mode> <id> <id> <letter>\0<path>\0 …`, then `<added>\t<deleted>\t<path>\0 …`
fn read_changes(listing: &[u8]) -> Option<BTreeMap<Vec<u8>, FileChange>> {
    let mut files = BTreeMap::new();
    let mut records = listing.split(|byte| *byte == 0).filter(|r| !r.is_empty());
    while let Some(record) = records.next() {
        if record.starts_with(b":") {
            let mark = match record.last()? {
                b'A' => FileMark::Added,
                b'D' => FileMark::Deleted,
                _ => FileMark::Modified,
            };
            let path = records.next()?;
            files.insert(path.to_vec(), change(path, mark));
            continue;
        }
        let mut parts = record.splitn(3, |byte| *byte == b'\t');
        let (added, deleted, path) = (parts.next()?, parts.next()?, parts.next()?);
        let file = files.get_mut(path)?;
        if added == b"-" {
            file.binary = true;
        } else {
            file.additions = std::str::from_utf8(added).ok()?.parse().ok()?;
            file.deletions = std::str::from_utf8(deleted).ok()?.parse().ok()?;
        }
    }
    Some(files)
}

fn change(path: &[u8], mark: FileMark) -> FileChange {
    FileChange {
        path: show(path),
        mark,
        additions: 0,
        deletions: 0,
        binary: false,
    }
}

/// Files that are in no tree as they are: too large, not readable, now or at the baseline.
fn add_what_no_tree_holds(
    files: &mut BTreeMap<Vec<u8>, FileChange>,
    job: &Compare<'_>,
    imported: &Imported,
) {
    let manifest = &job.manifest;
    for (path, stamp) in &imported.unread {
        if manifest.is_as_unrecorded(path, stamp) {
            continue;
        }
        let known =
            manifest.files.contains_key(path) || manifest.unrecorded.contains_key(&show(path));
        let mark = if known {
            FileMark::Modified
        } else {
            FileMark::Added
        };
        let mut file = change(path, mark);
        file.binary = true;
        files.insert(path.clone(), file);
    }
    let unread: BTreeSet<String> = imported.unread.iter().map(|(path, _)| show(path)).collect();
    for shown in manifest.unrecorded.keys() {
        let path = parse(shown);
        if manifest.files.contains_key(&path) || unread.contains(shown) {
            continue;
        }
        match files.get_mut(&path) {
            Some(file) => file.mark = FileMark::Modified,
            // Where nobody looked, absence says nothing.
            None if imported.cut.is_some() || is_below_any(&path, &imported.closed) => {}
            None => {
                let mut file = change(&path, FileMark::Deleted);
                file.binary = true;
                files.insert(path, file);
            }
        }
    }
}

/// The start of the diff for people, and its whole size.
async fn diff_text(job: &Compare<'_>, now: &str) -> Result<(String, u64), WorkdirError> {
    let most = job.settings.limits.diff_bytes;
    let mut command = diff_tree(job);
    command.args(["-p", &job.baseline.tree, now]);
    let mut kept = Vec::new();
    let finished = start(command)?.finish(&mut kept, most as u64).await?;
    if !finished.success {
        return Err(finished.fault("make the diff"));
    }
    let whole = finished.printed <= most as u64;
    Ok((cut_lines(&kept, whole, most), finished.printed))
}

/// Whole lines only, at most `most` bytes.
fn cut_lines(bytes: &[u8], whole: bool, most: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    if whole && text.len() <= most {
        return text.into_owned();
    }
    let text = &text[..text.floor_char_boundary(most)];
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    text[..end].to_owned()
}

/// Writes the patch file; a patch beyond the limit is not kept, and the note says so.
async fn write_patch(
    job: &Compare<'_>,
    now: &str,
) -> Result<(Option<String>, Option<String>), WorkdirError> {
    let most = job.settings.limits.patch_bytes;
    let failed = |error: std::io::Error| disk("the patch file could not be written", &error);
    let new = job.place.store.join("changes.patch.new");
    let mut file = tokio::fs::File::create(&new).await.map_err(failed)?;
    let mut command = diff_tree(job);
    command.args(["-p", "--binary", "--full-index", &job.baseline.tree, now]);
    let finished = start(command)?.finish(&mut file, most).await?;
    if !finished.success {
        return Err(finished.fault("make the patch"));
    }
    if finished.printed > most {
        drop(file);
        tokio::fs::remove_file(&new).await.map_err(failed)?;
        remove_patch(job.place).await?;
        let note = format!(
            "the patch is larger than {} and was not written; the branch holds all changes",
            in_words(most)
        );
        return Ok((None, Some(note)));
    }
    file.sync_all().await.map_err(failed)?;
    tokio::fs::rename(&new, &job.place.patch)
        .await
        .map_err(failed)?;
    Ok((Some(job.place.patch.to_string_lossy().into_owned()), None))
}

async fn remove_patch(place: &Place) -> Result<(), WorkdirError> {
    match tokio::fs::remove_file(&place.patch).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(disk("an old patch file could not be removed", &error))
        }
        _ => Ok(()),
    }
}

/// A commit on top of the baseline; the one that is there when it holds the same.
async fn write_branch(job: &Compare<'_>, now: &str) -> Result<String, WorkdirError> {
    let name = job.place.branch();
    let full = branch_ref(job.place);
    let mut command = job.git.bare(&job.place.repository);
    command.args(["rev-parse", "--quiet", "--verify"]);
    command.arg(format!("{full}^{{tree}}"));
    let (finished, tree) = run(command, 4096).await?;
    if finished.success && String::from_utf8_lossy(&tree).trim() == now {
        return Ok(name);
    }
    let message = format!("Changes of task {}", job.place.attempt);
    let parent = Some(job.baseline.commit.as_str());
    let commit = commit(job.git, job.place, now, parent, &message).await?;
    set_ref(job.git, job.place, &full, Some(&commit)).await?;
    Ok(name)
}

fn incomplete(imported: &Imported) -> Option<String> {
    let listed = imported.left_out.len() as u64;
    let more = (imported.left_out_total > listed).then(|| {
        format!(
            "{} things were left out, the first {listed} are listed",
            imported.left_out_total
        )
    });
    let cut = imported
        .cut
        .as_ref()
        .map(|cut| format!("the changes are not complete: {cut}"));
    notes([cut, more, None])
}

fn notes(parts: [Option<String>; 3]) -> Option<String> {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::{cut_lines, read_changes};
    use chargehand_actors::event::FileMark;

    #[test]
    fn the_list_of_changes_is_read_with_any_path() {
        let listing = b":100644 000000 a b D\0gone\0:000000 100644 a b A\0x\ty\nz\0\
            0\t3\tgone\0-\t-\tx\ty\nz\0";
        let files = read_changes(listing).unwrap_or_default();
        let seen: Vec<_> = files
            .values()
            .map(|f| (f.path.as_str(), f.mark, f.deletions, f.binary))
            .collect();
        assert_eq!(
            seen,
            [
                ("gone", FileMark::Deleted, 3, false),
                ("x\\x09y\\x0az", FileMark::Added, 0, true)
            ]
        );
        assert!(read_changes(b"nonsense\0").is_none());
    }

    #[test]
    fn a_long_diff_is_cut_between_lines() {
        assert_eq!(cut_lines(b"one\ntwo\nthr", false, 11), "one\ntwo\n");
        assert_eq!(cut_lines(b"one\ntwo\n", true, 8), "one\ntwo\n");
        // Replaced bytes make the text longer than its bytes.
        assert_eq!(cut_lines(b"a\n\xff\xff\xff\n", true, 6), "a\n");
    }
}
