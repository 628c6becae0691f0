//! `chargehand doctor`: checks each prerequisite and says how to mend what is missing.
//!
//! In: the machine, the configuration, the server if one runs. Out: one line a check (`ok`, `warn`, `fail`) with what
//! was found and what to do; exit code 1 when something failed. Changes nothing, starts nothing that stays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;

use super::args::{ConfigArgs, GlobalArgs};
use super::client::Client;
use super::config::checked;
use super::doctor_docker;
use super::embedded::provider_keys;
use super::error::{CliError, Exit};
use super::home::{
    callers, configuration, configuration_problem, data_directory, free_space, journal, rights,
};
use super::journal::JOURNAL;
use super::table::{self, Cell};
use super::terminal::{CYAN, one_line, paint, phase_style, print, print_json};
use crate::config::LocalEngineSettings;

/// How long a program may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(20);

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// Works, with a drawback.
    Warn,
    /// Tasks will not run.
    Fail,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One checked thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was checked.
    pub(crate) name: &'static str,
    /// How it came out.
    pub(crate) state: State,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it; empty when it is ok.
    pub(crate) mend: String,
}

impl Check {
    pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.into(),
            mend: String::new(),
        }
    }

    pub(crate) fn bad(
        name: &'static str,
        state: State,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self {
            name,
            state,
            found: found.into(),
            mend: mend.into(),
        }
    }
}

/// `doctor`.
pub(crate) async fn doctor(global: &GlobalArgs, args: &ConfigArgs) -> Result<Exit, CliError> {
    let checks = checks(global, args).await;
    let failed = checks.iter().any(|check| check.state == State::Fail);
    if global.json {
        print_json(&serde_json::json!({ "ok": !failed, "checks": checks }))?;
    } else {
        print(&render(&checks))?;
    }
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

/// The checks as a table, each drawback with what to do below it.
pub(crate) fn render(checks: &[Check]) -> String {
    let rows: Vec<Vec<Cell>> = checks
        .iter()
        .map(|check| {
            let state = check.state.as_str();
            vec![
                Cell::styled(state, phase_style(state)),
                Cell::plain(check.name),
                Cell::plain(one_line(&check.found, 160)),
            ]
        })
        .collect();
    let mut out = table::render(&["", "CHECK", "FOUND"], &rows);
    let mends: Vec<&Check> = checks.iter().filter(|c| !c.mend.is_empty()).collect();
    if !mends.is_empty() {
        out.push('\n');
    }
    for check in mends {
        let name = paint(phase_style(check.state.as_str()), check.name);
        out.push_str(&format!("{name}: {}\n", check.mend));
    }
    let failed = checks.iter().filter(|c| c.state == State::Fail).count();
    if failed == 0 {
        let next = paint(CYAN, "chargehand demo");
        out.push_str(&format!(
            "\nTasks can run. `{next}` shows one from beginning to end.\n"
        ));
    }
    out
}

async fn checks(global: &GlobalArgs, args: &ConfigArgs) -> Vec<Check> {
    let mut checks = Vec::new();
    let server = running_server(global).await;
    let checked = match checked(args, BTreeMap::new()) {
        Ok(checked) => checked,
        Err(error) => return vec![configuration_problem(error.report()), server],
    };
    match checked.settings {
        Ok(settings) => {
            checks.push(configuration(&settings, &checked.notes));
            checks.push(callers(&settings));
            checks.push(data_directory(&settings.data.dir));
            checks.extend(rights(&settings.data.dir));
            checks.push(free_space(&settings));
            checks.push(journal(&settings.data.dir.join(JOURNAL)).await);
            checks.push(git().await);
            checks.push(shell().await);
            checks.push(ripgrep().await);
            if let Some(local) = &settings.engines.local {
                checks.push(opencode(local, &settings.data.dir).await);
                checks.push(model(local));
            }
            if let Some(docker) = &settings.engines.docker {
                checks.extend(doctor_docker::docker(&settings, docker).await);
            }
            #[cfg(feature = "matrix")]
            if let Some(matrix) = &settings.matrix {
                checks.extend(super::doctor_matrix::matrix(&settings, matrix).await);
            }
            checks.push(address(settings.server.bind, server.state == State::Ok));
        }
        Err(error) => checks.push(configuration_problem(error.to_string())),
    }
    checks.push(server);
    checks
}

async fn git() -> Check {
    match version_of(Path::new("git"), &["--version"]).await {
        Ok(version) => Check::ok("git", version),
        Err(error) => Check::bad(
            "git",
            State::Fail,
            error,
            "install git: workdirs and their diffs need it",
        ),
    }
}

async fn shell() -> Check {
    match version_of(Path::new("bash"), &["--version"]).await {
        Ok(version) => Check::ok("bash", version),
        Err(error) => Check::bad(
            "bash",
            State::Warn,
            error,
            "install bash; OpenCode uses sh until then",
        ),
    }
}

async fn ripgrep() -> Check {
    match version_of(Path::new("rg"), &["--version"]).await {
        Ok(version) => Check::ok("ripgrep", version),
        Err(_) => Check::bad(
            "ripgrep",
            State::Warn,
            "rg is not in PATH",
            "install ripgrep; without it OpenCode downloads one at the first search, and cannot search offline",
        ),
    }
}

/// The worker's program: the configured one, one in PATH, or the one installed before.
async fn opencode(local: &LocalEngineSettings, data: &Path) -> Check {
    const NAME: &str = "opencode";
    let version = &local.version;
    let installed = data
        .join(format!("opencode-{version}"))
        .join("node_modules/.bin/opencode");
    let program = local
        .opencode
        .clone()
        .or_else(|| in_path("opencode"))
        .or_else(|| installed.is_file().then_some(installed));
    let Some(program) = program else {
        return match version_of(Path::new("npm"), &["--version"]).await {
            Ok(npm) => Check::bad(
                NAME,
                State::Warn,
                format!(
                    "not installed; npm {npm} will install OpenCode {version} at the first start"
                ),
                "nothing to do; or install OpenCode yourself",
            ),
            Err(_) => Check::bad(
                NAME,
                State::Fail,
                "neither opencode nor npm is in PATH",
                format!(
                    "install Node.js with npm (Chargehand then installs OpenCode {version} by itself), or install OpenCode"
                ),
            ),
        };
    };
    match version_of(&program, &["--version"]).await {
        Ok(version) => judge_version(&version, &program),
        Err(error) => Check::bad(
            NAME,
            State::Fail,
            error,
            "reinstall OpenCode, or name a working one in engines.local.opencode",
        ),
    }
}

fn judge_version(version: &str, program: &Path) -> Check {
    let found = format!("{version} ({})", program.display());
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(0), _) | (Some(1), Some(0..=2)) => Check::bad(
            "opencode",
            State::Fail,
            found,
            "update OpenCode: 1.3 or newer is needed",
        ),
        (Some(1), Some(_)) => Check::ok("opencode", found),
        (Some(_), _) => Check::bad(
            "opencode",
            State::Warn,
            found,
            "this version is newer than what Chargehand was tested with",
        ),
        (None, _) => Check::bad("opencode", State::Warn, found, "its version cannot be read"),
    }
}

fn model(local: &LocalEngineSettings) -> Check {
    const NAME: &str = "model";
    let handed: Vec<&str> = local.env.keys().map(String::as_str).collect();
    if let Some(model) = &local.model {
        let keys = if handed.is_empty() {
            String::new()
        } else {
            format!("; the worker gets {}", handed.join(", "))
        };
        return Check::ok(NAME, format!("{model}{keys}"));
    }
    if !handed.is_empty() {
        return Check::ok(
            NAME,
            format!("OpenCode's choice; the worker gets {}", handed.join(", ")),
        );
    }
    let found = match provider_keys().as_slice() {
        [] => "no model is configured and no provider key is in the environment".to_owned(),
        keys => format!(
            "no model is configured; {} is in the environment, but the worker inherits nothing by itself",
            keys.join(", ")
        ),
    };
    let mend = "set engines.local.model and the key in engines.local.env (or `run --pass-env NAME`); `chargehand demo` \
                needs neither";
    Check::bad(NAME, State::Warn, found, mend)
}

fn address(listen: SocketAddr, running: bool) -> Check {
    const NAME: &str = "address";
    match std::net::TcpListener::bind(listen) {
        Ok(_) => Check::ok(NAME, format!("{listen} is free")),
        Err(_) if running => Check::ok(NAME, format!("{listen} is used by the running server")),
        Err(error) => Check::bad(
            NAME,
            State::Fail,
            format!("{listen} cannot be listened on: {error}"),
            "end what uses it, or choose another with `chargehand serve --listen`",
        ),
    }
}

async fn running_server(global: &GlobalArgs) -> Check {
    const NAME: &str = "server";
    let probe = match Client::new(global) {
        Ok(client) => client.probe().await.map(|health| (client.url(), health)),
        Err(error) => Err(error),
    };
    match probe {
        Ok((url, health)) => {
            let status = health["status"].as_str().unwrap_or_default().to_owned();
            let found = format!("{url} is {status}");
            match status.as_str() {
                "ok" | "healthy" => Check::ok(NAME, found),
                _ => Check::bad(
                    NAME,
                    State::Warn,
                    found,
                    "`chargehand health` says which part, since when and why",
                ),
            }
        }
        // `run` and `demo` bring their own.
        Err(CliError::Unreachable { url, .. }) => Check::bad(
            NAME,
            State::Warn,
            format!("none answers at {url}"),
            "`chargehand serve` starts it; `run` and `demo` work without",
        ),
        Err(error) => Check::bad(
            NAME,
            State::Warn,
            error.report(),
            "see --server and --token",
        ),
    }
}

/// The first line of what a program says about its version.
async fn version_of(program: &Path, args: &[&str]) -> Result<String, String> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let shown = program.display();
    match tokio::time::timeout(VERSION_WITHIN, command.output()).await {
        Err(_) => Err(format!(
            "{shown} does not answer within {} s",
            VERSION_WITHIN.as_secs()
        )),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("{shown} is not in PATH"))
        }
        Ok(Err(error)) => Err(format!("{shown} cannot be run: {error}")),
        Ok(Ok(output)) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(text.lines().next().unwrap_or_default().trim().to_owned())
        }
        Ok(Ok(output)) => Err(format!("{shown} failed ({})", output.status)),
    }
}

/// Where a program is found in PATH.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
