//! The command line as clap sees it: every command, flag and environment variable.
//!
//! In: `argv` and the environment. Out: a [`Cli`]; everything that can be checked without a server has been.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use url::Url;

const EXIT_CODES: &str = "\
Exit codes:
  0    done; a followed task completed
  1    a followed task failed, `doctor` found a failure, or something here went wrong
  2    the command line cannot be used
  3    no Chargehand server answers
  4    a followed task ran into its timeout or was cancelled
  5    the server refused: unknown task, wrong phase, full queue, missing token
  130  left at once after a second Ctrl-C

First steps:
  chargehand demo                     watch a task being done, without keys or set-up
  chargehand doctor                   see what is there and what is missing
  chargehand serve                    start the server that MCP clients talk to
  chargehand run \"TASK\" --dir .       do a task on a copy of this directory";

/// Delegates development tasks to OpenCode and is never wrong about them.
#[derive(Debug, Parser)]
#[command(name = "chargehand", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct GlobalArgs {
    /// Address of the running server [default: http://127.0.0.1:3500]
    #[arg(long, global = true, value_name = "URL", env = "CHARGEHAND_SERVER")]
    pub server: Option<Url>,
    /// Bearer token for the server; better given by environment, where other users cannot see it
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "CHARGEHAND_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// File that holds the bearer token
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CHARGEHAND_TOKEN_FILE",
        conflicts_with = "token"
    )]
    pub token_file: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Colours: `auto` uses them on a terminal and honours NO_COLOR
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the server that MCP clients and the other commands talk to
    Serve(ServeArgs),
    /// Do a task: on the running server if there is one, else with a server of its own
    Run(RunArgs),
    /// Watch a task being done by the real OpenCode with a scripted model: needs no keys and no set-up
    Demo(DemoArgs),
    /// Check everything that Chargehand needs and say how to mend what is missing
    Doctor(ConfigArgs),
    /// Ask or tell a running server something.
    #[command(flatten)]
    Talk(Talk),
    /// Speak MCP on standard input and output for clients that start a program; a bridge to the running server
    Mcp,
}

/// The commands that only talk to a running server.
#[derive(Debug, Subcommand)]
pub enum Talk {
    /// List tasks, newest first
    Tasks(TasksArgs),
    /// Show one task: where it stands, what it did, what came out
    Show(TaskArg),
    /// Print what the worker said and did, as it came
    Logs(LogsArgs),
    /// Print the unified diff of a task's result
    Diff(TaskArg),
    /// List the files of a task's workdir, with what was changed
    Files(FilesArgs),
    /// Print a file of a task's workdir
    Cat(CatArgs),
    /// End a task for good
    Cancel(ControlArgs),
    /// Stop working on a task until it is resumed
    Pause(ControlArgs),
    /// Go on with a paused task
    Resume(ControlArgs),
    /// Tell the worker of a task something
    Message(MessageArgs),
    /// Draw the supervision tree of the running server
    Tree,
    /// Ask the running server for the health of its parts
    Health,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file (every setting is explained in config/chargehand.toml)
    #[arg(long, value_name = "FILE", env = "CHARGEHAND_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where journal, workdirs and an installed OpenCode are kept
    #[arg(long, value_name = "DIR", env = "CHARGEHAND_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Address to listen on, such as 127.0.0.1:3500; off loopback a token is required
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    /// What to log, such as `info`, `debug` or `info,chargehand=debug`
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How to log [default: text on a terminal, JSON otherwise]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What the worker is to do
    #[arg(value_name = "TASK", value_parser = non_empty)]
    pub task: String,
    /// Git repository that the workdir is a clone of (https, ssh or file)
    #[arg(long, value_name = "URL", conflicts_with = "dir")]
    pub repo: Option<String>,
    /// Branch, tag or commit of the repository
    #[arg(long = "ref", value_name = "REF", requires = "repo")]
    pub reference: Option<String>,
    /// Directory that the workdir is a copy of; the directory itself is never touched
    #[arg(long, value_name = "PATH")]
    pub dir: Option<PathBuf>,
    /// Model, as PROVIDER/MODEL
    #[arg(long, short, value_name = "PROVIDER/MODEL", value_parser = model)]
    pub model: Option<String>,
    /// OpenCode agent, such as `build` or `plan`
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Engine that runs the task, such as `local` or `remote`
    #[arg(long, short, value_name = "NAME")]
    pub engine: Option<String>,
    /// Running time allowed, such as 90s, 5m or 1h30m
    #[arg(long, short, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Label to find the task by (may be repeated)
    #[arg(long, short, value_name = "LABEL")]
    pub label: Vec<String>,
    /// Order within the queue
    #[arg(long, value_enum, value_name = "PRIORITY")]
    pub priority: Option<Priority>,
    /// Answer with the first task if this key was used within 24 hours
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Show the live progress (the default)
    #[arg(long, overrides_with = "no_watch")]
    pub watch: bool,
    /// Only hand the task to the running server and print its id
    #[arg(long, overrides_with = "watch")]
    pub no_watch: bool,
    /// Use a server of its own even if one is running
    #[arg(long, conflicts_with_all = ["server", "no_watch"])]
    pub own_server: bool,
    /// Environment variable that the worker of its own server may see, such as ANTHROPIC_API_KEY (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub pass_env: Vec<String>,
    /// Where the configuration of its own server comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Order within the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Priority {
    /// After everything else.
    Low,
    /// The default.
    Normal,
    /// Before everything else.
    High,
}

impl Priority {
    /// The word in tool arguments.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Use the scripted model even if a provider key is in the environment
    #[arg(long)]
    pub scripted: bool,
    /// Model to use with the provider key in the environment, as PROVIDER/MODEL
    #[arg(long, short, value_name = "PROVIDER/MODEL", value_parser = model, conflicts_with = "scripted")]
    pub model: Option<String>,
    /// Keep the data of the demo and say where it is
    #[arg(long)]
    pub keep: bool,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `tasks`.
#[derive(Debug, Args)]
pub struct TasksArgs {
    /// Only tasks in this state (may be repeated): queued, running, paused, completed, failed, timeout, cancelled, …
    #[arg(long, short, value_name = "STATE")]
    pub state: Vec<String>,
    /// Only tasks with this label
    #[arg(long, short, value_name = "LABEL")]
    pub label: Option<String>,
    /// Only tasks of this agent
    #[arg(long, value_name = "AGENT")]
    pub agent_id: Option<String>,
    /// At most this many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub limit: u32,
}

/// A task, by its id.
#[derive(Debug, Args)]
pub struct TaskArg {
    /// Task id, or the beginning of it
    #[arg(value_name = "ID", value_parser = non_empty)]
    pub id: String,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The task.
    #[command(flatten)]
    pub task: TaskArg,
    /// Go on until the task has ended
    #[arg(long, short)]
    pub follow: bool,
}

/// `files`.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// The task.
    #[command(flatten)]
    pub task: TaskArg,
    /// Only paths that begin with this
    #[arg(value_name = "PREFIX", default_value = "")]
    pub prefix: String,
    /// Only what the worker changed
    #[arg(long, short)]
    pub changed: bool,
}

/// `cat`.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// The task.
    #[command(flatten)]
    pub task: TaskArg,
    /// Path, relative to the workdir
    #[arg(value_name = "PATH", value_parser = non_empty)]
    pub path: String,
}

/// `cancel`, `pause`, `resume`.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// The task.
    #[command(flatten)]
    pub task: TaskArg,
    /// Why, for the record
    #[arg(long, short, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `message`.
#[derive(Debug, Args)]
pub struct MessageArgs {
    /// The task.
    #[command(flatten)]
    pub task: TaskArg,
    /// What to tell the worker
    #[arg(value_name = "TEXT", value_parser = non_empty)]
    pub text: String,
    /// Kind of message
    #[arg(long = "type", short = 't', value_name = "TYPE", default_value = "update",
        value_parser = clap::builder::PossibleValuesParser::new(message_types()))]
    pub message_type: String,
}

fn message_types() -> impl Iterator<Item = &'static str> {
    chargehand_actors::command::MessageType::ALL
        .into_iter()
        .map(chargehand_actors::command::MessageType::as_str)
}

fn non_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("must not be empty".to_owned());
    }
    Ok(text.to_owned())
}

fn model(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((provider, model)) if !provider.is_empty() && !model.is_empty() => Ok(text.to_owned()),
        _ => Err("expected PROVIDER/MODEL, such as anthropic/claude-sonnet-4-5".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "expected a time such as 90s, 5m or 1h30m".to_owned())?;
    let parsed = Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())?;
    if parsed < Duration::from_secs(1) {
        return Err("must be at least 1s".to_owned());
    }
    Ok(parsed)
}
