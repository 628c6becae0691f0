//! `chargehand run`: a task from the command line, on the running server or on one of its own.
//!
//! In: the task and where it starts from. Out: live progress on standard error, the result and its diff on standard
//! output, an exit code that says how the task ended.

use std::path::PathBuf;

use serde_json::{Value, json};
use url::Url;

use super::answers::Accepted;
use super::args::{ConfigArgs, GlobalArgs, RunArgs};
use super::client::Client;
use super::embedded::{ModelChoice, OwnServer};
use super::error::{CliError, Exit};
use super::follow::{Followed, Interrupts, follow};
use super::prompt::Prompt;
use super::terminal::{BOLD, DIM, Screen, YELLOW, paint, print, print_json};
use super::{diff, read, report};

/// Bytes of a diff that are put on the screen; `chargehand diff` has the whole.
const DIFF_SHOWN: u64 = 200_000;

/// `run`.
pub(crate) async fn run(global: &GlobalArgs, args: &RunArgs) -> Result<Exit, CliError> {
    let request = request(args)?;
    match running_server(global, args).await? {
        Some(client) => on_running_server(&client, args, request, global.json).await,
        None if args.no_watch => Err(CliError::Usage(
            "--no-watch hands the task to a running server, and none answers; start one with `chargehand serve`"
                .to_owned(),
        )),
        None => on_own_server(global, args, request).await,
    }
}

async fn on_running_server(
    client: &Client,
    args: &RunArgs,
    request: Value,
    json: bool,
) -> Result<Exit, CliError> {
    if !args.pass_env.is_empty() {
        return Err(CliError::Usage(format!(
            "the server at {} has an environment of its own, --pass-env cannot change it; set engines.local.env there, \
             or add --own-server",
            client.url()
        )));
    }
    if let Some(flag) = of_a_server(&args.config) {
        return Err(CliError::Usage(format!(
            "the server at {} has its own settings, {flag} cannot change them; set them there, or add --own-server",
            client.url()
        )));
    }
    let screen = Screen::new(!args.no_watch, false);
    if args.dir.is_some() && !client.is_loopback() {
        let text = "the server is on another machine; --dir names a directory there";
        screen.line(&paint(YELLOW, text).to_string());
    }
    let answer = submit(client, request).await?;
    let task: Accepted = client.decode(answer.clone())?;
    if args.no_watch {
        if json {
            print_json(&answer)?;
        } else {
            print(&task.task_id)?;
        }
        return Ok(Exit::Ok);
    }
    let known = if task.existing {
        " (the key was used before)"
    } else {
        ""
    };
    let text = format!("task {} on {}{known}", task.task_id, client.url());
    screen.line(&paint(BOLD, text).to_string());
    let mut interrupts = Interrupts::listen()?;
    let prompt = Prompt::new(args.attended);
    watch(client, &task.task_id, screen, &mut interrupts, prompt, json).await
}

async fn on_own_server(
    global: &GlobalArgs,
    args: &RunArgs,
    request: Value,
) -> Result<Exit, CliError> {
    let mut interrupts = Interrupts::listen()?;
    let screen = Screen::new(true, false);
    let text = if args.own_server {
        "starting a server for this task"
    } else {
        "no server is running; starting one for this task"
    };
    screen.line(&paint(DIM, text).to_string());
    let own = OwnServer::start(
        &args.config,
        ModelChoice::Configured {
            pass: args.pass_env.clone(),
            engine: args.engine.clone(),
        },
        &screen,
        &mut interrupts,
    )
    .await?;
    let result = async {
        let task: Accepted = own.client().decode(submit(own.client(), request).await?)?;
        screen.line(&paint(BOLD, format!("task {}", task.task_id)).to_string());
        watch(
            own.client(),
            &task.task_id,
            screen,
            &mut interrupts,
            Prompt::new(args.attended),
            global.json,
        )
        .await
    }
    .await;
    let at_once = matches!(result, Err(CliError::Interrupted));
    own.stop(&mut interrupts, at_once).await;
    result
}

/// A flag given here that says how a server is configured. A variable is no such flag: it may be there for the server.
fn of_a_server(config: &ConfigArgs) -> Option<&'static str> {
    let flag = |given: Option<&PathBuf>, variable| {
        given.is_some_and(|path| std::env::var_os(variable).as_deref() != Some(path.as_os_str()))
    };
    if !config.set.is_empty() {
        Some("--set")
    } else if flag(config.config.as_ref(), "CHARGEHAND_CONFIG") {
        Some("--config")
    } else if flag(config.data_dir.as_ref(), "CHARGEHAND_DATA_DIR") {
        Some("--data-dir")
    } else {
        None
    }
}

/// The server to use, if one is there: the one named must answer, the default one may.
async fn running_server(global: &GlobalArgs, args: &RunArgs) -> Result<Option<Client>, CliError> {
    if args.own_server {
        return Ok(None);
    }
    let client = Client::new(global)?;
    match client.probe().await {
        Ok(_) => Ok(Some(client)),
        Err(error) if global.server.is_some() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Hands the task over; the answer of `opencode_execute_task`.
pub(crate) async fn submit(client: &Client, request: Value) -> Result<Value, CliError> {
    client.call("opencode_execute_task", request).await
}

/// Watches a task to its end and prints what came out.
async fn watch(
    client: &Client,
    task: &str,
    screen: Screen,
    interrupts: &mut Interrupts,
    prompt: Prompt,
    json: bool,
) -> Result<Exit, CliError> {
    let followed = follow(client, task, &screen, interrupts, prompt).await?;
    drop(screen);
    show_result(client, &followed, json).await?;
    Ok(Exit::of_status(&followed.status.status))
}

/// Prints what came out of a task: its answer, its changes, its diff.
pub(crate) async fn show_result(
    client: &Client,
    followed: &Followed,
    json: bool,
) -> Result<(), CliError> {
    let status = &followed.status;
    let task = &status.task_id;
    // A token that is no operator's may not read the stored diff; the result itself does not depend on it.
    let patch = match status.changes {
        Some(_) => read::patch(client, task, DIFF_SHOWN).await,
        None => Ok(String::new()),
    };
    if json {
        let mut answer = client
            .call("get_task_status", json!({ "task_id": task }))
            .await?;
        if let Ok(patch) = patch {
            answer["diff"] = json!(patch);
        }
        return print_json(&answer);
    }
    let mut text = report::outcome(status);
    match patch {
        Ok(patch) if patch.is_empty() => {}
        Ok(patch) => {
            text.push_str(&report::diff_heading());
            text.push_str(&diff::render(&patch));
            if patch.len() as u64 >= DIFF_SHOWN {
                let more =
                    format!("… the diff goes on; `chargehand diff {task}` prints the whole\n");
                text.push_str(&paint(YELLOW, more).to_string());
            }
        }
        Err(error) => {
            let note = format!("\nthe diff could not be read: {}\n", error.report());
            text.push_str(&paint(YELLOW, note).to_string());
        }
    }
    text.push_str(&report::closing(status, followed.tools));
    print(&text)
}

/// The arguments of `opencode_execute_task`.
fn request(args: &RunArgs) -> Result<Value, CliError> {
    let mut request = json!({ "agent_id": args.agent_id, "task_description": args.task });
    if let Some(repo) = &args.repo {
        let mut repository = json!({ "url": repository_url(repo)? });
        if let Some(reference) = &args.reference {
            repository["ref"] = json!(reference);
        }
        request["repository"] = repository;
    }
    if let Some(dir) = &args.dir {
        request["directory"] = json!(absolute(dir)?);
    }
    let words = [
        ("model", args.model.as_deref()),
        ("agent", args.agent.as_deref()),
        ("engine", args.engine.as_deref()),
        ("idempotency_key", args.key.as_deref()),
        ("priority", args.priority.map(super::args::Priority::as_str)),
    ];
    for (name, value) in words {
        if let Some(value) = value {
            request[name] = json!(value);
        }
    }
    if let Some(timeout) = args.timeout {
        request["timeout_ms"] = json!(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    }
    if args.attended {
        request["attended"] = json!(true);
    }
    if let Some(steps) = args.max_steps {
        request["max_steps"] = json!(steps);
    }
    for (name, rules) in [
        ("allow", &args.allow),
        ("ask", &args.ask),
        ("deny", &args.deny),
    ] {
        if !rules.is_empty() {
            request["permissions"][name] = json!(rules);
        }
    }
    if !args.label.is_empty() {
        request["labels"] = json!(args.label);
    }
    Ok(request)
}

/// A repository as the server wants it: a path on this machine becomes a file URL.
fn repository_url(repo: &str) -> Result<String, CliError> {
    let path = std::path::Path::new(repo);
    if repo.contains("://") || !path.exists() {
        return Ok(repo.to_owned());
    }
    let path = absolute(path)?;
    Url::from_file_path(&path)
        .map(|url| url.to_string())
        .map_err(|()| CliError::Usage(format!("{path} cannot be written as a URL")))
}

fn absolute(path: &std::path::Path) -> Result<String, CliError> {
    let absolute = path.canonicalize().map_err(|source| CliError::File {
        what: "cannot find",
        path: path.to_owned(),
        source,
    })?;
    absolute
        .into_os_string()
        .into_string()
        .map_err(|path| CliError::Usage(format!("{} is not valid UTF-8", path.display())))
}
