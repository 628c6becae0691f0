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
  1    a followed task failed, `doctor` or a `check` found something, or something here went wrong
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
    Run(Box<RunArgs>),
    /// Watch a task being done by the real OpenCode with a scripted model: needs no keys and no set-up
    Demo(DemoArgs),
    /// Check everything that Chargehand needs and say how to mend what is missing
    Doctor(ConfigArgs),
    /// Remove what an instance left behind whose data directory is lost; without --instance: list the instances found
    Reap(ReapArgs),
    /// Check the configuration, or show what is in force and where it came from
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check, copy or export the journal, also while a server runs
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Make a Letta server know this Chargehand
    #[command(subcommand)]
    Letta(LettaCommand),
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
    /// Answer a permission or question that the worker of a task waits for
    Answer(AnswerArgs),
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
    /// Any setting, such as tasks.max_running=5; wins over file and environment (may be repeated)
    #[arg(long, value_name = "SECTION.NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

/// `letta`.
#[derive(Debug, Subcommand)]
pub enum LettaCommand {
    /// Make or bring up to date the MCP server entry in Letta, with the token given here, and give agents the tools
    Register(RegisterArgs),
}

/// `letta register`.
#[derive(Debug, Args)]
pub struct RegisterArgs {
    /// Address of Chargehand as the Letta server reaches it, with /mcp
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3500/mcp")]
    pub url: String,
    /// Name of the entry in Letta
    #[arg(long, default_value = "chargehand")]
    pub name: String,
    /// Agent that gets the tools (may be repeated)
    #[arg(long = "agent", value_name = "AGENT")]
    pub agents: Vec<String>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say everything that is wrong with the configuration, and what to know about it; exit code 1 when it cannot be used
    Check(ConfigArgs),
    /// Show the settings in force that are not the default, and where each came from
    Show(ConfigShowArgs),
}

/// `config show`.
#[derive(Debug, Args)]
pub struct ConfigShowArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Show every setting, defaults included
    #[arg(long, short)]
    pub all: bool,
}

/// `journal`.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Look for damage: of the file, and of what the records say; exit code 1 when something is found
    Check(JournalCheckArgs),
    /// Write a consistent copy for its owner alone, and check it; nothing is overwritten
    Backup(JournalBackupArgs),
    /// Print the events, one JSON object a line
    Export(JournalExportArgs),
}

/// `journal check`.
#[derive(Debug, Args)]
pub struct JournalCheckArgs {
    /// A journal or a copy of one [default: the journal of the data directory]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `journal backup`.
#[derive(Debug, Args)]
pub struct JournalBackupArgs {
    /// The copy; it must not exist
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `journal export`.
#[derive(Debug, Args)]
pub struct JournalExportArgs {
    /// A journal or a copy of one [default: the journal of the data directory]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Only the events of this task: its id, or the beginning of it
    #[arg(long, value_name = "ID", value_parser = non_empty)]
    pub task: Option<String>,
    /// How the events are printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ExportFormat::Jsonl)]
    pub format: ExportFormat,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// How exported events look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// One JSON object a line.
    Jsonl,
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
    /// Engine of tasks that name none
    #[arg(long, short, value_name = "NAME")]
    pub engine: Option<String>,
    /// Tasks that run at once
    #[arg(long, value_name = "N")]
    pub max_running: Option<u32>,
    /// At the stop, cancel the tasks that have started and end their workers, instead of leaving them to the next start
    #[arg(long)]
    pub stop_tasks: bool,
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
    /// Answer the worker's permissions and questions: here when this is a terminal, or with `chargehand answer`
    #[arg(long)]
    pub attended: bool,
    /// What the worker may do without asking: PERMISSION or PERMISSION:PATTERN, such as webfetch (may be repeated)
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<String>,
    /// What the worker must ask for, such as "bash:git push*" (may be repeated)
    #[arg(long, value_name = "RULE")]
    pub ask: Vec<String>,
    /// What the worker may not do (may be repeated)
    #[arg(long, value_name = "RULE")]
    pub deny: Vec<String>,
    /// End the task as failed after so many model steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_steps: Option<u32>,
    /// Agent that the task belongs to; a token may be bound to some
    #[arg(long, value_name = "AGENT", env = "CHARGEHAND_AGENT_ID", default_value = super::client::AGENT, value_parser = non_empty)]
    pub agent_id: String,
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

/// `reap`.
#[derive(Debug, Args)]
pub struct ReapArgs {
    /// The instance: the twelve digits that its workers, sessions and workdirs carry
    #[arg(long, value_name = "ID", value_parser = instance)]
    pub instance: Option<String>,
    /// Remove without asking
    #[arg(long, requires = "instance")]
    pub yes: bool,
    /// Where the workdirs and the remote server to look at are configured.
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

/// `answer`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct AnswerArgs {
    /// The task.
    #[command(flatten)]
    pub task: TaskArg,
    /// Request, as `chargehand show` names it; may be left out when only one is open
    #[arg(value_name = "REQUEST", value_parser = non_empty)]
    pub request: Option<String>,
    /// Allow the permission this time
    #[arg(long, group = "what")]
    pub allow: bool,
    /// Allow the permission and the like for the rest of the session
    #[arg(long, group = "what")]
    pub always: bool,
    /// Refuse; the text is what the worker is told
    #[arg(long, group = "what", value_name = "TEXT", num_args = 0..=1, default_missing_value = "")]
    pub deny: Option<String>,
    /// Choose an answer to the question (may be repeated: several answers, or one for each of several questions)
    #[arg(long, group = "what", value_name = "ANSWER", value_parser = non_empty)]
    pub choose: Vec<String>,
}

fn message_types() -> impl Iterator<Item = &'static str> {
    chargehand_actors::command::MessageType::ALL
        .into_iter()
        .map(chargehand_actors::command::MessageType::as_str)
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if name.contains('.') => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("expected SECTION.NAME=VALUE, such as tasks.max_running=5".to_owned()),
    }
}

fn non_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("must not be empty".to_owned());
    }
    Ok(text.to_owned())
}

fn instance(text: &str) -> Result<String, String> {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() == 12 && text.bytes().all(digit) {
        Ok(text.to_owned())
    } else {
        Err("expected twelve hexadecimal digits, as `chargehand reap` lists them".to_owned())
    }
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
