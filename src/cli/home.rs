//! What `doctor` says about the place where Chargehand lives: settings, callers, data directory, disks, journal.
//!
//! In: the settings and what is on the disk. Out: one [`Check`] each. Changes nothing.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::doctor::{Check, State};
use super::terminal::bytes;
use crate::adapters::journal::{Depth, inspect};
use crate::config::{Note, Settings, TokenRole, Weight};

/// Below this, tasks may soon fail for want of space.
const LOW_SPACE: u64 = 2 * 1024 * 1024 * 1024;
/// Below this, nothing is started.
const NO_SPACE: u64 = 100 * 1024 * 1024;
/// How long the journal is looked through; `journal check` looks at everything.
const JOURNAL_WITHIN: Duration = Duration::from_secs(3);

/// Settings that can be used, with what weakens them.
pub(crate) fn configuration(settings: &Settings, notes: &[Note]) -> Check {
    const NAME: &str = "configuration";
    let engines = settings.engine_names().join(", ");
    let default = &settings.engine.default;
    let found = format!("valid; engines: {engines}; default: {default}");
    let warnings: Vec<String> = notes
        .iter()
        .filter(|note| note.weight == Weight::Warning)
        .map(|note| format!("{} {}", note.about, note.text))
        .collect();
    if warnings.is_empty() {
        Check::ok(NAME, found)
    } else {
        Check::bad(NAME, State::Warn, found, warnings.join("; "))
    }
}

/// Settings that cannot be used.
pub(crate) fn configuration_problem(problems: String) -> Check {
    Check::bad(
        "configuration",
        State::Fail,
        problems,
        "correct what is named; config/chargehand.toml explains every setting, `chargehand config check` lists all problems",
    )
}

/// Who may call.
pub(crate) fn callers(settings: &Settings) -> Check {
    const NAME: &str = "callers";
    let tokens = &settings.auth.tokens;
    if tokens.is_empty() {
        return Check::bad(
            NAME,
            State::Warn,
            "no token: every user and program of this machine may call, and is an operator",
            "on a machine with other users name tokens in [auth] (`openssl rand -hex 32` makes one)",
        );
    }
    let operators = tokens
        .iter()
        .filter(|token| token.role == TokenRole::Operator)
        .count();
    let plain = settings.server.bind.ip().is_loopback();
    let found = format!("{} tokens, {operators} of an operator", tokens.len());
    if plain {
        Check::ok(NAME, found)
    } else {
        Check::bad(
            NAME,
            State::Warn,
            format!("{found}; tokens go over the network as they are"),
            "let a proxy with TLS stand before it, or use a network that nobody else listens to",
        )
    }
}

/// Whether it can be written, or made.
pub(crate) fn data_directory(wanted: &Path) -> Check {
    const NAME: &str = "data directory";
    let Some(existing) = nearest_directory(wanted) else {
        return Check::bad(
            NAME,
            State::Fail,
            format!("{} cannot be made", wanted.display()),
            "choose another with --data-dir",
        );
    };
    match tempfile::tempfile_in(existing) {
        Ok(_) if existing == wanted => Check::ok(NAME, wanted.display().to_string()),
        Ok(_) => Check::ok(
            NAME,
            format!("{} is made by the first start", wanted.display()),
        ),
        Err(error) => Check::bad(
            NAME,
            State::Fail,
            format!("{} is not writable: {error}", existing.display()),
            "give this user the right to write there, or choose another with --data-dir",
        ),
    }
}

/// The directory itself, or what it will be made in.
fn nearest_directory(wanted: &Path) -> Option<&Path> {
    wanted.ancestors().find(|path| path.is_dir())
}

/// That nobody else can read what tasks say and do. Nothing to say before the first start.
pub(crate) fn rights(data: &Path) -> Option<Check> {
    const NAME: &str = "rights";
    let own = std::fs::metadata(data).ok()?;
    let us = rustix::process::geteuid().as_raw();
    let foreign = |meta: &Metadata| meta.uid() != us;
    let open = |meta: &Metadata| meta.mode() & 0o077 != 0;
    let mut wrong = Vec::new();
    if foreign(&own) {
        wrong.push(format!("{} belongs to another user", data.display()));
    }
    if open(&own) {
        wrong.push(format!("{} is open to others", data.display()));
    }
    // They are made for their owner alone; somebody has changed them, or put a copy there.
    for name in ["journal.db", "journal.db-wal", "instance", "lock", "local"] {
        if let Ok(meta) = std::fs::symlink_metadata(data.join(name)) {
            if foreign(&meta) {
                wrong.push(format!("{name} belongs to another user"));
            } else if open(&meta) && open(&own) {
                wrong.push(format!("{name} is open to others"));
            }
        }
    }
    Some(if wrong.is_empty() {
        Check::ok(NAME, "the data directory is this user's alone")
    } else {
        Check::bad(
            NAME,
            State::Warn,
            wrong.join(", "),
            format!(
                "chmod -R go-rwx {0}, and chown -R it to the user that runs Chargehand",
                data.display()
            ),
        )
    })
}

/// Free space of every disk in use, against what new tasks need.
pub(crate) fn free_space(settings: &Settings) -> Check {
    const NAME: &str = "disk space";
    let refused_below = settings.retention.min_free_bytes;
    let mut found = Vec::new();
    let mut least = u64::MAX;
    for path in [&settings.data.dir, &settings.data.workdirs] {
        let Some(existing) = nearest_directory(path) else {
            continue;
        };
        match rustix::fs::statvfs(existing) {
            Ok(stat) => {
                let free = stat.f_bavail.saturating_mul(stat.f_frsize);
                let line = format!("{} free for {}", bytes(free), path.display());
                if free != least {
                    found.push(line);
                }
                least = least.min(free);
            }
            Err(error) => found.push(format!(
                "free space of {} is not known: {error}",
                existing.display()
            )),
        }
    }
    let found = found.join(", ");
    if least < NO_SPACE {
        Check::bad(
            NAME,
            State::Fail,
            found,
            "make space: nothing can be recorded safely",
        )
    } else if least < refused_below {
        Check::bad(
            NAME,
            State::Fail,
            found,
            format!(
                "make space: below {} no new task is accepted (retention.min_free_mb)",
                bytes(refused_below)
            ),
        )
    } else if least < LOW_SPACE {
        Check::bad(
            NAME,
            State::Warn,
            found,
            "make space: OpenCode and a few workdirs take about 2 GB",
        )
    } else {
        Check::ok(NAME, found)
    }
}

/// Whether the journal is there and its file sound, as far as a few seconds tell.
pub(crate) async fn journal(file: &Path) -> Check {
    const NAME: &str = "journal";
    if !file.exists() {
        return Check::ok(NAME, "none yet; the first start makes it");
    }
    match inspect(file, Depth::Structure(JOURNAL_WITHIN)).await {
        Ok(report) => match report.findings.first() {
            None => Check::ok(
                NAME,
                format!(
                    "{} tasks, {} events; `chargehand journal check` looks at everything",
                    report.tasks, report.events
                ),
            ),
            Some(finding) => Check::bad(
                NAME,
                State::Fail,
                finding.to_string(),
                "stop the server, keep a copy of the file and of its -wal file, put the last good backup in its place \
                 (docs/operations.md)",
            ),
        },
        Err(error) => Check::bad(
            NAME,
            State::Fail,
            error.to_string(),
            "`chargehand journal check` tells more; a server does not start on it",
        ),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_can_read_is_told() {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("journal.db"), "").unwrap();
        let state = |mode| {
            std::fs::set_permissions(data.path(), Permissions::from_mode(mode)).unwrap();
            let check = rights(data.path()).unwrap();
            (check.state, check.found)
        };
        assert_eq!(state(0o700).0, State::Ok);
        let (state, found) = state(0o755);
        assert_eq!(state, State::Warn);
        assert!(found.contains("journal.db is open"), "{found}");
        assert_eq!(rights(&data.path().join("none")), None);
    }

    #[test]
    fn space_is_judged_by_what_new_tasks_need() {
        let data = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.data.dir = data.path().join("data");
        settings.data.workdirs = data.path().join("workdirs");
        settings.retention.min_free_bytes = 0;
        assert_ne!(free_space(&settings).state, State::Fail);
        settings.retention.min_free_bytes = u64::MAX;
        let check = free_space(&settings);
        assert_eq!(check.state, State::Fail);
        assert!(check.mend.contains("retention.min_free_mb"), "{check:?}");
    }

    #[test]
    fn who_may_call_is_told() {
        let mut settings = Settings::default();
        assert!(callers(&settings).found.contains("no token"));
        settings.auth.tokens = vec![crate::config::TokenSettings {
            name: "a".to_owned(),
            token: crate::config::Secret::new("0123456789abcdef".to_owned()),
            file: None,
            role: TokenRole::Caller,
            agents: Vec::new(),
            limits: Default::default(),
        }];
        assert_eq!(callers(&settings).state, State::Ok);
        settings.server.bind = ([0, 0, 0, 0], 3500).into();
        assert_eq!(callers(&settings).state, State::Warn);
    }

    #[tokio::test]
    async fn a_journal_that_is_none_is_told() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("journal.db");
        assert_eq!(journal(&file).await.state, State::Ok);
        std::fs::write(&file, "Dear diary, ".repeat(1_000)).unwrap();
        let check = journal(&file).await;
        assert_eq!(check.state, State::Fail);
        assert!(check.found.contains("no Chargehand journal"), "{check:?}");
    }
}
