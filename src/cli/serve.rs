//! `chargehand serve`: the server in the foreground.
//!
//! In: configuration, flags, signals. Out: log lines on standard error, an exit code. The first SIGINT or SIGTERM stops in
//! order; the second ends at once (what ran is found again at the next start).

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;

use chargehand_actors::ports::StopHow;
use tokio_util::sync::CancellationToken;

use super::args::{LogFormat, ServeArgs};
use super::assembly::World;
use super::embedded::{serve_until, settings};
use super::error::{CliError, Exit};
use super::follow::Interrupts;
use super::logging;
use super::terminal::{BOLD, CYAN, DIM, paint, say};
use crate::adapters::opencode::WorkerSettings;
use crate::config::{self, Settings};

/// `serve`.
pub(crate) async fn serve(args: &ServeArgs) -> Result<Exit, CliError> {
    let mut flags = BTreeMap::new();
    if let Some(address) = args.listen {
        flags.insert("server.bind".to_owned(), address.to_string());
    }
    if let Some(level) = &args.log {
        flags.insert("log.level".to_owned(), level.clone());
    }
    let settings = settings(&args.config, flags)?;
    logging::to_stderr(log_format(args, &settings), &settings.log.level)?;
    let mut interrupts = Interrupts::listen()?;
    let address = settings.server.bind;
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
        CliError::Server(format!(
            "{address} cannot be listened on ({error}); end what uses it (`chargehand health` tells whether it is \
             another Chargehand), or choose another address with --listen"
        ))
    })?;
    let address = listener.local_addr()?;
    let progress = Arc::new(|text: &str| tracing::info!("{text}"));
    let world = World::open(&settings, progress, WorkerSettings::default()).await?;
    let shutdown = CancellationToken::new();
    let mut server = tokio::spawn(serve_until(
        settings.clone(),
        world,
        listener,
        shutdown.clone(),
    ));
    introduce(address, &settings);
    let ended = tokio::select! {
        ended = &mut server => ended,
        () = interrupts.next() => {
            let workers = match settings.engine.on_stop {
                StopHow::LeaveRunning => "a worker that runs goes on and is taken over by the next start",
                StopHow::EndWorkers => "tasks that have started are cancelled and their workers ended; queued tasks wait for the next start",
            };
            tracing::info!("stopping: {workers}; a second signal ends at once");
            shutdown.cancel();
            tokio::select! {
                ended = &mut server => ended,
                () = interrupts.next() => return Err(CliError::Interrupted),
            }
        }
    };
    match ended {
        Ok(ended) => ended.map(|()| Exit::Ok),
        Err(error) => Err(CliError::Server(format!("the server ended badly: {error}"))),
    }
}

/// The flag decides, then what is configured; text on a pipe becomes JSON because a program reads it.
fn log_format(args: &ServeArgs, settings: &Settings) -> config::LogFormat {
    match (args.log_format, settings.log.format) {
        (Some(LogFormat::Text), _) => config::LogFormat::Text,
        (Some(LogFormat::Json), _) | (None, config::LogFormat::Json) => config::LogFormat::Json,
        (None, config::LogFormat::Text) if std::io::stderr().is_terminal() => {
            config::LogFormat::Text
        }
        (None, config::LogFormat::Text) => config::LogFormat::Json,
    }
}

/// What to do next, for a person; programs read the log.
fn introduce(address: SocketAddr, settings: &Settings) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let url = format!("http://{address}");
    let server = if address.port() == 3500 && address.ip().is_loopback() {
        String::new()
    } else {
        format!(" --server {url}")
    };
    say(&format!(
        "{} listens on {}, engines: {}",
        paint(BOLD, "Chargehand"),
        paint(CYAN, &url),
        settings.engine_names().join(", ")
    ));
    for (what, command) in [
        (
            "connect Claude Code",
            format!("claude mcp add --transport http chargehand {url}/mcp"),
        ),
        (
            "try a task",
            format!("chargehand run{server} \"TASK\" --dir ."),
        ),
        ("look inside", format!("chargehand{server} tree")),
    ] {
        say(&format!(
            "  {} {command}",
            paint(DIM, format!("{what:<20}"))
        ));
    }
    say(&paint(
        DIM,
        "  Ctrl-C stops; tasks that run are found again at the next start",
    )
    .to_string());
}
