//! `chargehand reap`: what instances left behind whose data directory is lost.
//!
//! In: `/proc`, the configured workdirs, remote server and container daemon, an instance. Out: what carries which instance; with consent the
//! end of what carries the given one. An instance whose data directory is there is refused: the next `chargehand serve`
//! recovers it. What carries no instance is never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use chargehand_actors::id::{InstanceId, TaskId};
use serde_json::json;

use super::args::{GlobalArgs, ReapArgs};
use super::assembly::remote_settings;
use super::config::settings;
use super::docker::docker_settings;
use super::error::{CliError, Exit, chain};
use super::terminal::{BOLD, one_line, paint, print, print_json, say};
use crate::adapters::docker::{DockerSettings, Labelled, labelled, remove_labelled};
use crate::adapters::opencode::{
    MarkedProcess, MarkedSession, end_processes_of, is_data_dir_of, marked_processes,
    marked_sessions, remove_sessions_of, running_for,
};
use crate::adapters::workdir::{marked_workdirs, remove_marked};
use crate::config::Settings;

/// Characters of a command line that are shown.
const COMMAND_WIDTH: usize = 90;

/// Everything found of one instance.
#[derive(Debug, Default)]
struct Belongings {
    processes: Vec<MarkedProcess>,
    sessions: Vec<MarkedSession>,
    workdirs: Vec<TaskId>,
    /// Containers and networks of a container daemon.
    containers: Vec<Labelled>,
    /// Where its data directory is or was, as far as is known.
    data_dirs: BTreeSet<PathBuf>,
}

impl Belongings {
    fn is_empty(&self) -> bool {
        self.processes.is_empty()
            && self.sessions.is_empty()
            && self.workdirs.is_empty()
            && self.containers.is_empty()
    }

    /// Its data directory, if one of those known still is.
    fn data_dir(&self, instance: &InstanceId) -> Option<&PathBuf> {
        let mut known = self.data_dirs.iter();
        known.find(|directory| is_data_dir_of(directory, instance))
    }
}

/// What was found, and where looking failed.
struct Found {
    instances: BTreeMap<InstanceId, Belongings>,
    problems: Vec<String>,
}

/// `reap`.
pub(crate) async fn reap(global: &GlobalArgs, args: &ReapArgs) -> Result<Exit, CliError> {
    let settings = settings(&args.config, BTreeMap::new())?;
    let found = look(&settings).await;
    for problem in &found.problems {
        say(problem);
    }
    let looked = if found.problems.is_empty() {
        Exit::Ok
    } else {
        Exit::Failed
    };
    let Some(instance) = args.instance.clone().map(InstanceId) else {
        list(global, &found)?;
        return Ok(looked);
    };
    let none = Belongings::default();
    let of = found.instances.get(&instance).unwrap_or(&none);
    refuse_the_living(&settings, &instance, of)?;
    show(global, &instance, of)?;
    if of.is_empty() {
        return Ok(looked);
    }
    if !args.yes && !consents()? {
        return Err(CliError::Refused(
            "nothing was removed; repeat it with --yes to remove all of the above".to_owned(),
        ));
    }
    remove(&settings, &instance, of).await?;
    Ok(looked)
}

async fn look(settings: &Settings) -> Found {
    let mut instances: BTreeMap<InstanceId, Belongings> = BTreeMap::new();
    let mut problems = Vec::new();
    for process in marked_processes() {
        let of = instances.entry(process.instance.clone()).or_default();
        of.data_dirs.extend(process.data_dir.clone());
        of.processes.push(process);
    }
    match marked_workdirs(&settings.data.workdirs) {
        Ok(workdirs) => {
            for (instance, task) in workdirs {
                instances.entry(instance).or_default().workdirs.push(task);
            }
        }
        Err(error) => problems.push(format!(
            "the workdirs in {} were not looked at: {error}",
            settings.data.workdirs.display()
        )),
    }
    if let Some(remote) = &settings.engines.remote {
        let whose = InstanceId(String::new());
        match marked_sessions(remote_settings(remote, whose)).await {
            Ok(sessions) => {
                for session in sessions {
                    let of = instances.entry(session.instance.clone()).or_default();
                    of.sessions.push(session);
                }
            }
            Err(error) => problems.push(format!(
                "the sessions on the remote server were not looked at: {}",
                chain(&error)
            )),
        }
    }
    if let Some(docker) = docker_of(settings, InstanceId(String::new())) {
        match labelled(&docker).await {
            Ok(found) => {
                for one in found {
                    let of = instances.entry(one.instance.clone()).or_default();
                    of.data_dirs.extend(one.data_dir.clone());
                    of.containers.push(one);
                }
            }
            Err(error) => problems.push(format!(
                "the containers were not looked at: {}",
                chain(&error)
            )),
        }
    }
    for of in instances.values_mut() {
        of.data_dirs.insert(settings.data.dir.clone());
    }
    Found {
        instances,
        problems,
    }
}

/// The engine's settings for that instance, if it is configured.
fn docker_of(settings: &Settings, instance: InstanceId) -> Option<DockerSettings> {
    let docker = settings.engines.docker.as_ref()?;
    Some(docker_settings(
        docker,
        settings,
        &settings.data.dir,
        instance,
    ))
}

/// An instance that has its data directory recovers by itself; one that runs is nobody's leftover.
fn refuse_the_living(
    settings: &Settings,
    instance: &InstanceId,
    of: &Belongings,
) -> Result<(), CliError> {
    let mut data_dirs = of.data_dirs.clone();
    data_dirs.insert(settings.data.dir.clone());
    let data_dirs: Vec<PathBuf> = data_dirs.into_iter().collect();
    if let Some(pid) = running_for(instance, &data_dirs) {
        return Err(CliError::Refused(format!(
            "nothing was removed: a Chargehand still runs for instance {} (process {pid}); stop it first",
            instance.0
        )));
    }
    match data_dirs.iter().find(|dir| is_data_dir_of(dir, instance)) {
        Some(directory) => Err(CliError::Refused(format!(
            "nothing was removed: instance {} has its data directory, {}; `chargehand serve --data-dir {}` takes over or \
             removes what it left",
            instance.0,
            directory.display(),
            directory.display()
        ))),
        None => Ok(()),
    }
}

fn list(global: &GlobalArgs, found: &Found) -> Result<(), CliError> {
    if global.json {
        let all: Vec<_> = found
            .instances
            .iter()
            .map(|(instance, of)| as_json(instance, of))
            .collect();
        return print_json(&all);
    }
    if found.instances.is_empty() {
        return print("Nothing here carries the mark of a Chargehand.\n");
    }
    for (instance, of) in &found.instances {
        let data = match of.data_dir(instance) {
            Some(directory) => format!("data directory {}", directory.display()),
            None => "data directory not found".to_owned(),
        };
        print(&format!(
            "{}  processes {} · sessions {} · workdirs {} · containers {} · {data}\n",
            paint(BOLD, &instance.0),
            of.processes.len(),
            of.sessions.len(),
            of.workdirs.len(),
            of.containers.len(),
        ))?;
    }
    print(
        "An instance whose data directory is there recovers by itself. Sessions, workdirs and containers may also belong to a Chargehand on \
         another machine.\nWhat is lost for good: chargehand reap --instance ID\n",
    )
}

fn show(global: &GlobalArgs, instance: &InstanceId, of: &Belongings) -> Result<(), CliError> {
    if global.json {
        return print_json(&as_json(instance, of));
    }
    if of.is_empty() {
        return print(&format!("Nothing carries instance {}.\n", instance.0));
    }
    for process in &of.processes {
        let command = one_line(&process.command, COMMAND_WIDTH);
        print(&format!("process  {}  {command}\n", process.pid))?;
    }
    for session in &of.sessions {
        print(&format!(
            "session  {}  task {}\n",
            one_line(&session.session, COMMAND_WIDTH),
            session.attempt.task
        ))?;
    }
    for task in &of.workdirs {
        print(&format!("workdir  task {task}\n"))?;
    }
    for one in &of.containers {
        print(&format!(
            "container  {}\n",
            one_line(&one.name, COMMAND_WIDTH)
        ))?;
    }
    Ok(())
}

fn as_json(instance: &InstanceId, of: &Belongings) -> serde_json::Value {
    let processes = of.processes.iter();
    let sessions = of.sessions.iter();
    json!({
        "instance": instance.0,
        "data_dir": of.data_dir(instance),
        "processes": processes.map(|p| json!({"pid": p.pid, "command": p.command})).collect::<Vec<_>>(),
        "sessions": sessions.map(|s| json!({"session": s.session, "task": s.attempt.task})).collect::<Vec<_>>(),
        "workdirs": of.workdirs,
        "containers": of.containers.iter().map(|one| &one.name).collect::<Vec<_>>(),
    })
}

/// Asks on a terminal; without one nobody consents.
fn consents() -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(false);
    }
    say("Remove all of this? Work that was not fetched is lost. [y/N]");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Processes first: nothing writes to what is removed then.
async fn remove(
    settings: &Settings,
    instance: &InstanceId,
    of: &Belongings,
) -> Result<(), CliError> {
    let failed = |error: &dyn std::error::Error| CliError::Server(chain(error));
    let processes = end_processes_of(instance).await.map_err(|e| failed(&e))?;
    let sessions = match &settings.engines.remote {
        Some(remote) => remove_sessions_of(remote_settings(remote, instance.clone()))
            .await
            .map_err(|e| failed(&e))?,
        None => 0,
    };
    let containers = match docker_of(settings, instance.clone()) {
        Some(docker) if !of.containers.is_empty() => {
            remove_labelled(&docker).await.map_err(|e| failed(&e))?
        }
        Some(_) | None => 0,
    };
    let (root, whose, tasks) = (
        settings.data.workdirs.clone(),
        instance.clone(),
        of.workdirs.clone(),
    );
    let workdirs = tasks.len();
    let removing = tokio::task::spawn_blocking(move || {
        let mut tasks = tasks.into_iter();
        tasks.try_for_each(|task| remove_marked(&root, &whose, task))
    });
    match removing.await {
        Ok(removed) => removed.map_err(|e| failed(&e))?,
        Err(error) => return Err(failed(&error)),
    }
    say(&format!(
        "removed: {processes} processes, {sessions} sessions, {containers} containers, {workdirs} workdirs of instance {}",
        instance.0
    ));
    Ok(())
}
