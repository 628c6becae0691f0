//! What a worker must know and inspect must not show: a directory of files on tmpfs per attempt, mounted read-only.
//!
//! In: the settings. Out: the directory with `password`, `env` (shell assignments), `limits.md` (what the worker is told about
//! its limits) and `first.sh` (what its commands begin with), readable by the worker's user alone. It is made once per attempt,
//! found again after a restart, and removed with the container.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use uuid::Uuid;

use super::settings::DockerSettings;
use super::spec::{HOME, SECRETS};
use crate::adapters::opencode::environment::{NO_REGISTRY, NPM_REGISTRY, server_environment};
use crate::adapters::opencode::{OpencodeSettings, PermissionRule, Secret};

/// What the worker is told about its limits.
const LIMITS: &str = "limits.md";
/// What each command of the worker's shell begins with. When the memory of the container is used up, the kernel ends the process
/// with the highest score: a greedy command, not the OpenCode that would tell of it. The score is inherited, and anybody may
/// raise his own. The registry that OpenCode is kept from is none for the worker's own `npm install`.
const FIRST: &str = "first.sh";
const EXPENDABLE: &str = "{ echo 800 >/proc/self/oom_score_adj; } 2>/dev/null || :\n";
/// What a secret is told as.
const HIDDEN: &str = "[secret]";
/// What is shorter is no secret: `1` and `true` are told.
const SHORTEST_SECRET: usize = 8;

/// The directory of a container's secrets.
pub(super) fn directory(settings: &DockerSettings, name: &str) -> PathBuf {
    settings.secrets_dir.join(name)
}

/// The password of the OpenCode in the container; none when its secrets are gone, or are not ours.
pub(super) fn password(settings: &DockerSettings, name: &str) -> Option<Secret> {
    let file = directory(settings, name).join("password");
    check(&settings.secrets_dir).ok()?;
    let meta = fs::symlink_metadata(&file).ok()?;
    let owners = [rustix::process::geteuid().as_raw(), settings.user.0];
    if !meta.is_file() || !owners.contains(&meta.uid()) {
        return None;
    }
    Some(Secret::new(fs::read_to_string(file).ok()?))
}

/// Makes the directory that the secrets of all attempts are kept in, or makes sure that it is ours alone: `/dev/shm` is everybody's, and
/// whoever was there first could read what is put there, or put something else there.
pub(super) fn make_sure(settings: &DockerSettings) -> io::Result<()> {
    let place = &settings.secrets_dir;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(place)?;
    check(place)
}

fn check(place: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(place)?;
    let us = rustix::process::geteuid().as_raw();
    let wrong = if !meta.is_dir() {
        "is not a directory".to_owned()
    } else if meta.uid() != us {
        format!(
            "belongs to user {} instead of {us}, as whom Chargehand runs",
            meta.uid()
        )
    } else if meta.mode() & 0o077 != 0 {
        format!("can be used by others (mode {:o})", meta.mode() & 0o777)
    } else {
        return Ok(());
    };
    let place = place.display();
    Err(io::Error::other(format!(
        "{place} {wrong}, so no secret is put there; remove it, give it to that user alone (mode 700), or name another directory in \
         engines.docker.secrets_dir"
    )))
}

/// The text without the container's secrets: its password, and what the operator gave it as variables or keys.
pub(super) fn hidden(settings: &DockerSettings, name: &str, text: &str) -> String {
    let OpencodeSettings {
        environment,
        providers,
        config,
        ..
    } = &settings.opencode;
    let password = password(settings, name);
    let mut secrets: Vec<String> = environment
        .values()
        .chain(providers.iter().map(|provider| &provider.key))
        .chain(&password)
        .map(|secret| secret.reveal().to_owned())
        .collect();
    config
        .iter()
        .for_each(|config| keys_in(config, &mut secrets));
    hide(text, secrets)
}

/// The provider's keys in a configuration.
fn keys_in(config: &Value, found: &mut Vec<String>) {
    match config {
        Value::Object(entries) => {
            for (name, value) in entries {
                match value {
                    Value::String(key) if name.eq_ignore_ascii_case("apikey") => {
                        found.push(key.clone());
                    }
                    other => keys_in(other, found),
                }
            }
        }
        Value::Array(entries) => entries.iter().for_each(|entry| keys_in(entry, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Hides secrets as they are, and as they stand in the files of the worker (quoted for a shell, in JSON) or line by line.
fn hide(text: &str, secrets: Vec<String>) -> String {
    let mut forms: Vec<String> = secrets
        .iter()
        .flat_map(|secret| {
            let json = Value::String(secret.clone()).to_string();
            let lines = secret.lines().map(str::to_owned);
            [
                secret.clone(),
                quoted(secret),
                json.trim_matches('"').to_owned(),
            ]
            .into_iter()
            .chain(lines)
        })
        .filter(|form| form.len() >= SHORTEST_SECRET)
        .collect();
    // One may be a part of another.
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    forms
        .iter()
        .fold(text.to_owned(), |text, form| text.replace(form, HIDDEN))
}

/// Makes the secrets of an attempt, or finds those that were made before.
pub(super) fn prepare(settings: &DockerSettings, name: &str) -> io::Result<PathBuf> {
    let directory = directory(settings, name);
    make_sure(settings)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)?;
    let password = match password(settings, name) {
        Some(password) => password,
        None => {
            let password = Uuid::new_v4().simple().to_string();
            write(&directory, "password", &password)?;
            Secret::new(password)
        }
    };
    let mut environment = server_environment(&in_a_container(settings), &password);
    // What bash reads before a command that it was given on its command line.
    environment
        .entry("BASH_ENV".to_owned())
        .or_insert_with(|| format!("{SECRETS}/{FIRST}"));
    write(&directory, "env", &shell(&environment))?;
    write(&directory, FIRST, &first())?;
    write(&directory, LIMITS, &limits(settings))?;
    give(&directory, settings.user)?;
    for file in ["env", "password", LIMITS, FIRST] {
        give(&directory.join(file), settings.user)?;
    }
    Ok(directory)
}

/// What is different there: OpenCode reads the limits with every prompt, and the places that belong to this worker alone may be used
/// unless a rule of the operator says otherwise.
fn in_a_container(settings: &DockerSettings) -> OpencodeSettings {
    let mut opencode = settings.opencode.clone();
    let own = ["/tmp/*".to_owned(), format!("{HOME}/*")];
    let own = own.into_iter().map(|pattern| PermissionRule {
        permission: "external_directory".to_owned(),
        pattern: Some(pattern),
        action: "allow".to_owned(),
    });
    opencode.permissions.splice(0..0, own);
    let config = opencode.config.get_or_insert_with(|| json!({}));
    let mut instructions = match config["instructions"].take() {
        Value::Array(instructions) => instructions,
        _ => Vec::new(),
    };
    instructions.push(json!(format!("{SECRETS}/{LIMITS}")));
    config["instructions"] = Value::Array(instructions);
    opencode
}

fn first() -> String {
    format!("{EXPENDABLE}[ \"${NPM_REGISTRY}\" != {NO_REGISTRY} ] || unset {NPM_REGISTRY}\n")
}

fn limits(settings: &DockerSettings) -> String {
    let limits = settings.limits;
    let disk = match limits.disk {
        0 => String::new(),
        bytes => format!(
            " The task ends if the working directory grows over {} MB.",
            bytes >> 20
        ),
    };
    format!(
        "You work in a container with {memory} MB of memory in all (what takes more is killed), {cpus} CPUs and at most {pids} \
         processes. Only the working directory is kept; HOME and /tmp hold {tmpfs} MB each, in memory; everything else is \
         read-only.{disk}\n",
        memory = limits.memory >> 20,
        cpus = limits.cpus,
        pids = limits.pids,
        tmpfs = limits.tmpfs >> 20,
    )
}

/// Removes them. `Ok` also when there are none.
pub(super) fn remove(settings: &DockerSettings, name: &str) -> io::Result<()> {
    match fs::remove_dir_all(directory(settings, name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Written beside and renamed, so that a crash leaves no half of it.
fn write(directory: &Path, file: &str, text: &str) -> io::Result<()> {
    let beside = directory.join(format!(".{file}"));
    drop(fs::remove_file(&beside));
    let mut open = fs::OpenOptions::new();
    let mut new = open
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(&beside)?;
    new.write_all(text.as_bytes())?;
    fs::rename(&beside, directory.join(file))
}

/// Makes it the worker's, where we may; where we may not, the worker's user is ours.
fn give(path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Assignments that a POSIX shell reads back exactly.
fn shell(variables: &BTreeMap<String, String>) -> String {
    variables
        .iter()
        .map(|(name, value)| format!("{name}='{}'\n", quoted(value)))
        .collect()
}

/// What stands between single quotes of a shell for a value.
fn quoted(value: &str) -> String {
    value.replace('\'', r"'\''")
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
