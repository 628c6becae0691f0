//! The way in: parses the command line, runs the command, turns its result into an exit code.
//!
//! In: `argv`, the environment. Out: the process's exit code; errors on standard error with what to do.

use std::process::ExitCode;

use clap::Parser;

use super::args::{Cli, Color, Command, GlobalArgs, LettaCommand, Talk};
use super::client::{Client, endpoint};
use super::error::{CliError, Exit};
use super::terminal::{RED, paint, say};
use super::{
    answer, bridge, config, control, demo, doctor, journal, read, reap, register, run, serve,
};

/// Does what the command line asks for.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help and version to standard output with 0, mistakes to standard error with 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.global.color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&CliError::Server(format!("cannot start: {error}"))),
    };
    let result = runtime.block_on(execute(cli));
    // Reading standard input blocks a thread that nothing can end; do not wait for it.
    runtime.shutdown_background();
    match result {
        Ok(exit) => exit.into(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &CliError) -> ExitCode {
    if error.exit() != Exit::Ok {
        say(&format!("{} {}", paint(RED, "error:"), error.report()));
    }
    error.exit().into()
}

async fn execute(cli: Cli) -> Result<Exit, CliError> {
    let global = &cli.global;
    match &cli.command {
        Command::Serve(args) => serve::serve(args).await,
        Command::Run(args) => run::run(global, args).await,
        Command::Demo(args) => demo::demo(global, args).await,
        Command::Doctor(args) => doctor::doctor(global, args).await,
        Command::Reap(args) => reap::reap(global, args).await,
        Command::Config(command) => config::config(command, global.json),
        Command::Journal(command) => journal::journal(command, global.json).await,
        Command::Letta(LettaCommand::Register(args)) => register::register(global, args).await,
        Command::Mcp => {
            let input = tokio::io::BufReader::new(tokio::io::stdin());
            bridge::bridge(endpoint(global)?.of_bridge(), input, tokio::io::stdout()).await?;
            Ok(Exit::Ok)
        }
        Command::Talk(command) => talk(global, command).await,
    }
}

/// The commands that only talk to a running server.
async fn talk(global: &GlobalArgs, command: &Talk) -> Result<Exit, CliError> {
    let client = Client::new(global)?;
    let json = global.json;
    match command {
        Talk::Tasks(args) => read::tasks(&client, args, json).await,
        Talk::Show(args) => read::show(&client, args, json).await,
        Talk::Logs(args) => read::logs(&client, args, json).await,
        Talk::Diff(args) => read::diff(&client, args, json).await,
        Talk::Files(args) => read::files(&client, args, json).await,
        Talk::Cat(args) => read::cat(&client, args, json).await,
        Talk::Cancel(args) => control::control(&client, "cancel", args, json).await,
        Talk::Pause(args) => control::control(&client, "pause", args, json).await,
        Talk::Resume(args) => control::control(&client, "resume", args, json).await,
        Talk::Message(args) => control::message(&client, args, json).await,
        Talk::Answer(args) => answer::answer(&client, args, json).await,
        Talk::Tree => read::tree(&client, json).await,
        Talk::Health => read::health(&client, json).await,
    }
}
