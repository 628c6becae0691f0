//! Fills a workdir from a git repository.
//!
//! In: a checked URL and a reference. Out: a workdir with the history and a checkout, and the checked-out commit in the
//! bare repository of ours, which is where the history was fetched to. Credentials of the URL reach only git's
//! credential lookup: no argument list, no configuration file, no message holds them. Hooks, filters, submodules and LFS
//! stay off.

use chargehand_actors::ports::WorkdirError;
use tokio::process::Command;

use super::git::{Git, run, succeed, word};
use super::layout::Place;
use super::source::{Protocol, Repository, check_reference};

/// The listing of a remote's references is read up to this size.
const REFERENCES: u64 = 64 * 1024 * 1024;
/// Answers the credential lookup from two variables.
const HELPER: &str = "!f() { test \"$1\" = get && printf 'username=%s\\npassword=%s\\n' \
     \"$CHARGEHAND_GIT_USER\" \"$CHARGEHAND_GIT_PASSWORD\"; }; f";
/// What a network transport may take from our own environment.
const FROM_OUTSIDE: [&str; 10] = [
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
];

/// What the reference leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// The repository has no commits.
    Nothing,
    /// A branch, by its short name.
    Branch(String),
    /// A tag, by its short name.
    Tag(String),
    /// A commit, by its full or shortened id.
    Commit(String),
}

/// Clones `url` at `reference` into the place; gives the checked-out commit, none for an empty repository.
pub(super) async fn clone(
    git: &Git,
    place: &Place,
    url: &str,
    reference: Option<&str>,
) -> Result<Option<String>, WorkdirError> {
    let remote = Repository::parse(url)?;
    if let Some(reference) = reference {
        check_reference(reference)?;
    }
    let target = look_up(git, place, &remote, reference).await?;
    if target == Target::Nothing {
        init_workdir(git, place, "main").await?;
        set_origin(git, place, &remote).await?;
        return Ok(None);
    }
    fetch(git, place, &remote, &target).await?;
    let commit = resolve(git, place, &remote, &target).await?;
    fill(git, place, &remote, &target, &commit).await?;
    Ok(Some(commit))
}

/// `git init` in a new workdir, without hooks.
pub(super) async fn init_workdir(
    git: &Git,
    place: &Place,
    branch: &str,
) -> Result<(), WorkdirError> {
    let mut command = git.call();
    command
        .args(["init", "--quiet", "--template=", "--object-format=sha1"])
        .arg(format!("--initial-branch={branch}"))
        .arg("--")
        .arg(&place.workdir);
    succeed(command, 4096, "make a repository in the workdir")
        .await
        .map(drop)
}

/// Asks the remote for its references and finds what is meant.
async fn look_up(
    git: &Git,
    place: &Place,
    remote: &Repository,
    reference: Option<&str>,
) -> Result<Target, WorkdirError> {
    let mut command = reaching(git, place, remote);
    command.args(["ls-remote", "--symref", "--quiet", "--", &remote.url]);
    let (finished, listing) = run(command, REFERENCES).await?;
    if !finished.success {
        return Err(unreachable(remote, &finished.words()));
    }
    let listing = String::from_utf8_lossy(&listing);
    let names: Vec<&str> = listing
        .lines()
        .filter(|line| !line.starts_with("ref: "))
        .filter_map(|line| line.split_once('\t').map(|(_, name)| name))
        .collect();
    let head = listing
        .lines()
        .find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
    let Some(reference) = reference.filter(|name| *name != "HEAD") else {
        return Ok(
            match head.and_then(|head| head.strip_prefix("refs/heads/")) {
                Some(branch) if names.contains(&"HEAD") => Target::Branch(branch.to_owned()),
                _ => match listing.lines().find_map(|line| line.strip_suffix("\tHEAD")) {
                    Some(commit) => Target::Commit(commit.to_owned()),
                    None if names.is_empty() => Target::Nothing,
                    None => return Err(no_default(remote, &names)),
                },
            },
        );
    };
    let has = |prefix: &str, name: &str| names.contains(&format!("{prefix}{name}").as_str());
    let branch = reference.strip_prefix("refs/heads/").unwrap_or(reference);
    let tag = reference.strip_prefix("refs/tags/").unwrap_or(reference);
    if has("refs/heads/", branch) {
        Ok(Target::Branch(branch.to_owned()))
    } else if has("refs/tags/", tag) {
        Ok(Target::Tag(tag.to_owned()))
    } else if (7..=40).contains(&reference.len())
        && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        Ok(Target::Commit(reference.to_ascii_lowercase()))
    } else {
        Err(no_such_reference(remote, reference, &names))
    }
}

/// Fetches all branches and tags into our bare repository.
async fn fetch(
    git: &Git,
    place: &Place,
    remote: &Repository,
    target: &Target,
) -> Result<(), WorkdirError> {
    let mut command = reaching(git, place, remote);
    command
        .args(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"])
        .args(["--no-write-fetch-head", "--no-auto-gc", "--", &remote.url])
        .arg("+refs/heads/*:refs/source/heads/*")
        .arg("+refs/tags/*:refs/source/tags/*");
    let (finished, _) = run(command, REFERENCES).await?;
    if !finished.success {
        return Err(unreachable(remote, &finished.words()));
    }
    let Target::Commit(id) = target else {
        return Ok(());
    };
    if id.len() == 40 && commit_of(git, place, id).await?.is_none() {
        // On no branch or tag: many servers give it when asked by its full id. If not, resolving says so.
        let mut command = reaching(git, place, remote);
        command
            .args(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"])
            .args(["--no-write-fetch-head", "--no-auto-gc", "--", &remote.url])
            .arg(format!("+{id}:refs/source/commit"));
        run(command, REFERENCES).await?;
    }
    Ok(())
}

async fn resolve(
    git: &Git,
    place: &Place,
    remote: &Repository,
    target: &Target,
) -> Result<String, WorkdirError> {
    let name = match target {
        Target::Nothing => String::new(),
        Target::Branch(name) => format!("refs/source/heads/{name}"),
        Target::Tag(name) => format!("refs/source/tags/{name}"),
        Target::Commit(id) => id.clone(),
    };
    commit_of(git, place, &name).await?.ok_or_else(|| {
        let asked = name.rsplit('/').next().unwrap_or(&name);
        WorkdirError::BadSource(format!(
            "repository {} has no commit \"{asked}\" on any branch or tag; check the reference",
            remote.shown()
        ))
    })
}

/// The commit that a name leads to in our bare repository.
async fn commit_of(git: &Git, place: &Place, name: &str) -> Result<Option<String>, WorkdirError> {
    let mut command = git.bare(&place.repository);
    command.args(["rev-parse", "--quiet", "--verify", "--end-of-options"]);
    command.arg(format!("{name}^{{commit}}"));
    let (finished, id) = run(command, 4096).await?;
    let id = String::from_utf8_lossy(&id).trim().to_owned();
    Ok((finished.success && !id.is_empty()).then_some(id))
}

/// Copies the history from our repository into the workdir's own and checks out.
async fn fill(
    git: &Git,
    place: &Place,
    remote: &Repository,
    target: &Target,
    commit: &str,
) -> Result<(), WorkdirError> {
    let branch = match target {
        Target::Branch(name) => name.as_str(),
        Target::Nothing | Target::Tag(_) | Target::Commit(_) => "main",
    };
    init_workdir(git, place, branch).await?;
    set_origin(git, place, remote).await?;
    let mut command = in_workdir(git, place);
    command
        .env("GIT_ALLOW_PROTOCOL", Protocol::File.name())
        .args(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"])
        .args(["--no-write-fetch-head", "--no-auto-gc", "--"])
        .arg(&place.repository)
        .arg("+refs/source/heads/*:refs/remotes/origin/*")
        .arg("+refs/source/tags/*:refs/tags/*")
        .arg(format!("+{commit}:refs/chargehand/start"));
    succeed(command, REFERENCES, "copy the history into the workdir").await?;
    let mut command = in_workdir(git, place);
    command.args(["checkout", "--quiet", "--force", "--no-recurse-submodules"]);
    match target {
        Target::Branch(name) => command
            .args(["--track", "-B", name])
            .arg(format!("refs/remotes/origin/{name}")),
        Target::Nothing | Target::Tag(_) | Target::Commit(_) => command.args(["--detach", commit]),
    };
    succeed(command, 4096, "check out the repository")
        .await
        .map(drop)
}

/// Lets the worker see where the repository comes from, without credentials.
async fn set_origin(git: &Git, place: &Place, remote: &Repository) -> Result<(), WorkdirError> {
    for (key, value) in [
        ("remote.origin.url", remote.shown()),
        (
            "remote.origin.fetch",
            "+refs/heads/*:refs/remotes/origin/*".to_owned(),
        ),
    ] {
        let mut command = in_workdir(git, place);
        command.args(["config", key, &value]);
        word(command, "write the workdir's configuration").await?;
    }
    Ok(())
}

/// A call in a workdir that no worker has been in yet.
fn in_workdir(git: &Git, place: &Place) -> Command {
    let mut command = git.call();
    command
        .current_dir(&place.workdir)
        .env("GIT_DIR", place.workdir.join(".git"))
        .env("GIT_WORK_TREE", &place.workdir);
    command
}

/// A call in our bare repository that may reach the remote, by its protocol only.
fn reaching(git: &Git, place: &Place, remote: &Repository) -> Command {
    let mut command = git.bare(&place.repository);
    command
        .env("GIT_ALLOW_PROTOCOL", remote.protocol.name())
        .env("GIT_SSH_VARIANT", "ssh")
        .env(
            "GIT_SSH_COMMAND",
            "ssh -oBatchMode=yes -oControlMaster=no -oControlPath=none",
        );
    if remote.protocol != Protocol::File {
        command.envs(FROM_OUTSIDE.iter().filter_map(|name| {
            let value = std::env::var_os(name)?;
            Some((*name, value))
        }));
    }
    if let Some(credentials) = &remote.credentials {
        command
            .env("CHARGEHAND_GIT_USER", &credentials.user)
            .env("CHARGEHAND_GIT_PASSWORD", &credentials.password)
            .arg("-c")
            .arg(format!(
                "credential.{}.helper={HELPER}",
                origin_of(&remote.url)
            ));
    }
    command
}

/// Scheme and host, so that credentials go nowhere else after a redirect.
fn origin_of(url: &str) -> String {
    url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

fn unreachable(remote: &Repository, words: &str) -> WorkdirError {
    let words = remote.hide(words);
    let lower = words.to_ascii_lowercase();
    let any = |signs: &[&str]| signs.iter().any(|sign| lower.contains(sign));
    let shown = remote.shown();
    if any(&[
        "could not resolve host",
        "connection timed out",
        "connection refused",
        "failed to connect",
        "network is unreachable",
        "temporary failure",
    ]) {
        return WorkdirError::Fault(format!(
            "repository {shown} cannot be reached now: {words}; check the network and try again"
        ));
    }
    let advice = if any(&[
        "authentication failed",
        "could not read username",
        "permission denied",
        "host key",
        "403",
    ]) {
        "access was refused; give credentials that may read it, or a key to Chargehand's user"
    } else if any(&[
        "not found",
        "does not exist",
        "not appear to be a git repository",
        "404",
    ]) {
        "there is no such repository, or it is not visible without credentials"
    } else if any(&["dubious ownership"]) {
        "it belongs to another user; give it as a directory instead"
    } else {
        "check the URL"
    };
    WorkdirError::BadSource(format!(
        "repository {shown} cannot be cloned: {words}; {advice}"
    ))
}

fn no_default(remote: &Repository, names: &[&str]) -> WorkdirError {
    WorkdirError::BadSource(format!(
        "repository {} has no default branch; name one as reference ({})",
        remote.shown(),
        branches(names)
    ))
}

fn no_such_reference(remote: &Repository, reference: &str, names: &[&str]) -> WorkdirError {
    WorkdirError::BadSource(format!(
        "repository {} has no branch, tag or commit \"{reference}\"; {}",
        remote.shown(),
        branches(names)
    ))
}

fn branches(names: &[&str]) -> String {
    let all: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_prefix("refs/heads/"))
        .collect();
    let first = all.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    format!("it has {} branches: {first}", all.len())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Git, Repository, reaching, unreachable};
    use crate::adapters::workdir::layout::place;
    use crate::adapters::workdir::settings::{WorkdirLimits, WorkdirSettings};
    use chargehand_actors::id::{AttemptId, TaskId};
    use chargehand_actors::ports::WorkdirError;
    use std::process::Stdio;
    use tokio::io::AsyncWriteExt as _;
    use uuid::Uuid;

    #[tokio::test]
    async fn credentials_reach_git_for_their_host_only_and_stand_in_no_argument() {
        let dir = tempfile::tempdir().unwrap();
        let settings = WorkdirSettings {
            root: dir.path().join("w"),
            store: dir.path().join("s"),
            git: None,
            instance: chargehand_actors::id::InstanceId("test".to_owned()),
            limits: WorkdirLimits::default(),
        };
        let attempt = AttemptId {
            task: TaskId::new(Uuid::from_u128(1)),
            number: 1,
        };
        let place = place(&settings, attempt);
        std::fs::create_dir_all(&place.repository).unwrap();
        let git = Git::locate(None).unwrap();
        let remote = Repository::parse("https://bob:s3cr%20t'\"@example.org/a/b").unwrap();
        for (host, given) in [("example.org", true), ("example.com", false)] {
            let mut command = reaching(&git, &place, &remote);
            command.args(["credential", "fill"]).stdin(Stdio::piped());
            let arguments = format!("{:?}", command.as_std().get_args().collect::<Vec<_>>());
            assert!(
                !arguments.contains("s3cr") && !arguments.contains("bob"),
                "{arguments}"
            );
            let mut child = command.spawn().unwrap();
            let asked = format!("protocol=https\nhost={host}\n\n");
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(asked.as_bytes()).await.unwrap();
            drop(stdin);
            let answer = child.wait_with_output().await.unwrap().stdout;
            let answer = String::from_utf8(answer).unwrap();
            assert_eq!(
                answer.contains("password=s3cr t'\""),
                given,
                "{host}: {answer}"
            );
        }
    }

    #[test]
    fn what_a_person_can_do_stands_in_the_error() {
        let remote = Repository::parse("https://token12345@example.org/a?key=abc").unwrap();
        for (words, bad_source, advice) in [
            (
                "fatal: could not read Username for 'https://example.org'",
                true,
                "give credentials",
            ),
            (
                "fatal: Authentication failed for token12345",
                true,
                "give credentials",
            ),
            (
                "fatal: repository 'https://example.org/a/' not found",
                true,
                "no such repository",
            ),
            (
                "fatal: unable to access: Could not resolve host: example.org",
                false,
                "try again",
            ),
        ] {
            let error = unreachable(&remote, words);
            assert_eq!(
                matches!(error, WorkdirError::BadSource(_)),
                bad_source,
                "{error}"
            );
            let text = error.to_string();
            assert!(text.contains(advice), "{text}");
            assert!(
                !text.contains("token12345") && !text.contains("abc"),
                "{text}"
            );
        }
    }
}
