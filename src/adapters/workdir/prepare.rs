//! Makes a workdir and takes its baseline.
//!
//! In: an attempt and what its workdir is filled with. Out: a filled workdir, and in the store a commit of what was in
//! it before any worker came. All of it is made beside its final place and moved there when it is finished: what is not
//! there is made anew, and a git that outlived a killed Chargehand writes to a place that nobody looks at.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use chargehand_actors::command::Source;
use chargehand_actors::crash::CrashPoint;
use chargehand_actors::id::AttemptId;
use chargehand_actors::ports::{Prepared, WorkdirError};

use super::blocking::{Hold, blocking};
use super::clone::{clone, init_workdir};
use super::copy::{check_directory, copy_directory};
use super::git::{Git, run, succeed, word};
use super::import::{IMPORT_REF, Import, import};
use super::layout::{Baseline, Place, State, Unrecorded, disk, making_place, place};
use super::manifest::Manifest;
use super::names::show;
use super::owner::mark;
use super::remove::remove_tree;
use super::settings::WorkdirSettings;

/// Holds against any `.gitattributes` in a tree: content is content.
const ATTRIBUTES: &str =
    "* !text !eol !crlf !ident !filter !working-tree-encoding !diff !merge !whitespace\n";
const NO_GIT: &str = "git was not found on Chargehand's machine, so there is no diff, patch or branch; install git 2.32 \
     or newer, or set its path";

/// Makes the workdir of an attempt, or finds it again.
pub(super) async fn prepare(
    settings: &WorkdirSettings,
    hold: Hold,
    attempt: AttemptId,
    source: Source,
) -> Result<Prepared, WorkdirError> {
    let place = place(settings, attempt);
    if let Some(found) = find_again(&place, &hold).await? {
        return Ok(found);
    }
    let made = make(settings, &place, &hold, source).await;
    if made.is_err() {
        // Nothing half-made stays. If this fails too, the next preparation does it; the first error is the one to tell.
        let _ = clear(&place, &hold).await;
    }
    made
}

/// Removes what an attempt has in the workdirs and in the store.
async fn clear(place: &Place, hold: &Hold) -> Result<(), WorkdirError> {
    let place = place.clone();
    blocking(Some(Hold::clone(hold)), move |stop| {
        for path in place.remains()? {
            remove_tree(&path, stop)?;
        }
        Ok(())
    })
    .await
}

async fn find_again(place: &Place, hold: &Hold) -> Result<Option<Prepared>, WorkdirError> {
    let at = place.clone();
    blocking(Some(Hold::clone(hold)), move |_| {
        let there = std::fs::symlink_metadata(&at.workdir).is_ok_and(|meta| meta.is_dir());
        let state = if there { at.load()? } else { None };
        Ok(state.map(|state| prepared(&at, state.note)))
    })
    .await
}

fn prepared(place: &Place, note: Option<String>) -> Prepared {
    Prepared {
        directory: place.workdir.to_string_lossy().into_owned(),
        note,
    }
}

async fn make(
    settings: &WorkdirSettings,
    last: &Place,
    hold: &Hold,
    source: Source,
) -> Result<Prepared, WorkdirError> {
    clear(last, hold).await?;
    let place = &making_place(settings, last.attempt);
    let at = place.clone();
    let (set, to_mark) = (settings.git.clone(), settings.clone());
    let git = blocking(Some(Hold::clone(hold)), move |_| {
        at.make()?;
        mark(&to_mark, at.attempt.task)?;
        Ok(Git::locate(set.as_deref()))
    })
    .await?;
    CrashPoint::WorkdirPlaceMade.pass();
    if let Some(git) = &git {
        init_store(git, place).await?;
    }
    let (start, told) = fill(settings, place, hold, git.as_ref(), source).await?;
    CrashPoint::WorkdirFilled.pass();
    let (baseline, note) = match &git {
        None => (None, Some(NO_GIT.to_owned())),
        Some(git) => {
            let (baseline, cut) = take(settings, place, hold, git, start).await?;
            (Some(baseline), cut)
        }
    };
    let notes: Vec<String> = [note, told].into_iter().flatten().collect();
    let note = (!notes.is_empty()).then(|| notes.join("; "));
    let state = State::new(baseline, note.clone());
    CrashPoint::WorkdirBaseline.pass();
    let (at, to) = (place.clone(), last.clone());
    blocking(Some(Hold::clone(hold)), move |_| {
        at.save(&state)?;
        CrashPoint::WorkdirSaved.pass();
        at.settle(&to)
    })
    .await?;
    Ok(prepared(last, note))
}

/// Our bare repository, which looks at no attributes of any tree.
async fn init_store(git: &Git, place: &Place) -> Result<(), WorkdirError> {
    let mut command = git.call();
    command
        .args(["init", "--quiet", "--bare", "--template="])
        .args(["--object-format=sha1", "--initial-branch=unused", "--"])
        .arg(&place.repository);
    succeed(command, 4096, "make the baseline repository").await?;
    let info = place.repository.join("info");
    let write = async {
        tokio::fs::create_dir_all(&info).await?;
        tokio::fs::write(info.join("attributes"), ATTRIBUTES).await
    };
    write
        .await
        .map_err(|error| disk("the baseline repository could not be written", &error))
}

/// Fills the workdir; gives the commit that it starts from, and what a person should know.
async fn fill(
    settings: &WorkdirSettings,
    place: &Place,
    hold: &Hold,
    git: Option<&Git>,
    source: Source,
) -> Result<(Option<String>, Option<String>), WorkdirError> {
    match (source, git) {
        (Source::Empty, None) => Ok((None, None)),
        (Source::Empty, Some(git)) => {
            init_workdir(git, place, "main").await?;
            Ok((None, None))
        }
        (Source::Repository { .. }, None) => Err(WorkdirError::Fault(
            "git was not found on Chargehand's machine, so no repository can be cloned; install git 2.32 or newer, or set its path"
                .to_owned(),
        )),
        (Source::Repository { url, reference }, Some(git)) => {
            let start = clone(git, place, &url, reference.as_deref()).await?;
            Ok((start, None))
        }
        (Source::Directory { path }, git) => {
            let (settings, to) = (settings.clone(), place.workdir.clone());
            let told = blocking(Some(Hold::clone(hold)), move |stop| {
                let from = check_directory(&settings, &path)?;
                copy_directory(&from, &to, &settings.limits, stop)
            })
            .await?;
            if let Some(git) = git {
                own_repository(git, place).await?;
            }
            Ok((None, told))
        }
    }
}

/// A copied directory keeps its repository, which must not work on the original; without one it gets a new one.
async fn own_repository(git: &Git, place: &Place) -> Result<(), WorkdirError> {
    if !is_there(&place.workdir.join(".git/config")).await {
        return init_workdir(git, place, "main").await;
    }
    for file in ["config", "config.worktree"] {
        let mut command = git.call();
        command
            .args(["config", "--file"])
            .arg(place.workdir.join(".git").join(file))
            .args(["--no-includes", "--unset-all", "core.worktree"]);
        // Fails when it is not set, which is the ordinary case.
        run(command, 4096).await?;
    }
    Ok(())
}

async fn is_there(path: &Path) -> bool {
    tokio::fs::symlink_metadata(path).await.is_ok()
}

/// Takes the baseline; the second part says why it is not complete.
async fn take(
    settings: &WorkdirSettings,
    place: &Place,
    hold: &Hold,
    git: &Git,
    start: Option<String>,
) -> Result<(Baseline, Option<String>), WorkdirError> {
    let against = match &start {
        Some(commit) => Manifest::read(git, &place.repository, commit).await?,
        None => Manifest::default(),
    };
    let imported = import(Import {
        git,
        place,
        limits: settings.limits,
        against: Arc::new(against),
        hold: Hold::clone(hold),
    })
    .await?;
    let commit = match start {
        Some(start) if tree_of(git, place, &start).await? == imported.tree => start,
        parent => {
            let what = format!("Baseline of task {}", place.attempt);
            commit(git, place, &imported.tree, parent.as_deref(), &what).await?
        }
    };
    set_ref(git, place, "refs/chargehand/baseline", Some(&commit)).await?;
    set_ref(git, place, IMPORT_REF, None).await?;
    let unrecorded = imported
        .unread
        .iter()
        .map(|(path, stamp)| Unrecorded::new(path, stamp))
        .collect();
    let note = match (&imported.cut, imported.closed.first()) {
        (Some(cut), _) => Some(format!("the diff will not be complete: {cut}")),
        (None, Some(closed)) => Some(format!(
            "the diff will not be complete: \"{}\" could not be looked into",
            show(closed)
        )),
        (None, None) => None,
    };
    let baseline = Baseline {
        commit,
        tree: imported.tree,
        unrecorded,
        incomplete: note.clone(),
    };
    Ok((baseline, note))
}

async fn tree_of(git: &Git, place: &Place, commit: &str) -> Result<String, WorkdirError> {
    let mut command = git.bare(&place.repository);
    command.args(["rev-parse", "--verify", &format!("{commit}^{{tree}}")]);
    word(command, "name a tree").await
}

/// Makes a commit of a tree in our repository.
pub(super) async fn commit(
    git: &Git,
    place: &Place,
    tree: &str,
    parent: Option<&str>,
    message: &str,
) -> Result<String, WorkdirError> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let date = format!("{now} +0000");
    let mut command = git.bare(&place.repository);
    command
        .env("GIT_AUTHOR_DATE", &date)
        .env("GIT_COMMITTER_DATE", &date)
        .args(["commit-tree", "-m", message]);
    if let Some(parent) = parent {
        command.args(["-p", parent]);
    }
    command.arg(tree);
    word(command, "make a commit").await
}

/// Points a ref of our repository to a commit, or removes it.
pub(super) async fn set_ref(
    git: &Git,
    place: &Place,
    name: &str,
    commit: Option<&str>,
) -> Result<(), WorkdirError> {
    let mut command = git.bare(&place.repository);
    match commit {
        Some(commit) => command.args(["update-ref", name, commit]),
        None => command.args(["update-ref", "-d", name]),
    };
    succeed(command, 4096, "write a reference").await.map(drop)
}
