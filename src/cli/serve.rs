//! `chargehand serve`: the server in the foreground.
//!
//! In: configuration, flags, signals. Out: log lines on standard error, an exit code. The first SIGINT or SIGTERM stops in
//! order; the second ends at once (what ran is found again at the next start).

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::args::{LogFormat, ServeArgs};
use super::assembly::World;
use super::config::checked;
use super::embedded::serve_until;
use super::error::{CliError, Exit};
use super::follow::Interrupts;
use super::logging;
use super::reload;
use super::terminal::{BOLD, CYAN, DIM, paint, say};
use crate::Tokens;
use crate::adapters::opencode::WorkerSettings;
use crate::config::{self, Note, Settings, Weight};

/// Signals so close together are one wish.
const SAME_WISH: Duration = Duration::from_millis(300);

/// `serve`.
pub(crate) async fn serve(args: &ServeArgs) -> Result<Exit, CliError> {
    let flags = flags(args);
    let checked = checked(&args.config, flags.clone())?;
    let settings = checked
        .settings
        .map_err(|error| CliError::Usage(error.to_string()))?;
    logging::to_stderr(log_format(args, &settings), &settings.log.level)?;
    tell(&checked.notes);
    #[cfg(feature = "crash-points")]
    chargehand_actors::crash::check().map_err(CliError::Server)?;
    let mut interrupts = Interrupts::listen()?;
    let hangups = reload::listen()?;
    let address = settings.server.bind;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| cannot_listen(address, &error))?;
    let address = listener.local_addr()?;
    let progress = Arc::new(|text: &str| tracing::info!("{text}"));
    let world = tokio::select! {
        world = World::open(&settings, progress, WorkerSettings::default()) => world?,
        () = interrupts.next() => {
            tracing::info!("stopped before anything was started");
            return Ok(Exit::Ok);
        }
    };
    let shutdown = CancellationToken::new();
    let tokens = Tokens::new(&settings.auth);
    let reloads = reload::on_hangup(hangups, args.config.clone(), flags, tokens.clone());
    tokio::spawn(reloads);
    let mut server = tokio::spawn(serve_until(
        settings.clone(),
        tokens,
        world,
        listener,
        shutdown.clone(),
    ));
    introduce(address, &settings);
    let ended = tokio::select! {
        ended = &mut server => ended,
        () = interrupts.next() => {
            tracing::info!("stopping: no new tasks are taken; a second signal ends at once");
            shutdown.cancel();
            tokio::select! {
                ended = &mut server => ended,
                () = second(&mut interrupts) => {
                    tracing::warn!(
                        "ended at once by a second signal: whatever ran is taken over or ended by the next start"
                    );
                    return Err(CliError::Interrupted);
                }
            }
        }
    };
    match ended {
        Ok(Ok(())) => {
            tracing::info!("stopped; the journal is closed");
            Ok(Exit::Ok)
        }
        Ok(Err(error)) => Err(error),
        Err(error) => Err(CliError::Server(format!("the server ended badly: {error}"))),
    }
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> CliError {
    let advice = match error.kind() {
        std::io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has this address; choose one that it has"
        }
        std::io::ErrorKind::PermissionDenied => {
            "this user may not use the port; choose one from 1024 on"
        }
        _ => {
            "end what uses it (`chargehand health` tells whether it is another Chargehand), or choose another address"
        }
    };
    CliError::Server(format!(
        "{address} cannot be listened on ({error}); {advice} with --listen (setting server.bind). Nothing was started"
    ))
}

/// A second wish to end. A terminal and whatever wraps this program often pass one and the same wish on twice.
async fn second(interrupts: &mut Interrupts) {
    let first = Instant::now();
    loop {
        interrupts.next().await;
        if first.elapsed() >= SAME_WISH {
            return;
        }
    }
}

/// Settings that have a flag of their own.
fn flags(args: &ServeArgs) -> BTreeMap<String, String> {
    let end_workers = args.stop_tasks.then(|| "end_workers".to_owned());
    [
        (
            "server.bind",
            args.listen.map(|address| address.to_string()),
        ),
        ("log.level", args.log.clone()),
        ("engine.default", args.engine.clone()),
        ("engine.on_stop", end_workers),
        (
            "tasks.max_running",
            args.max_running.map(|number| number.to_string()),
        ),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

/// What is weaker than it was asked for is said at every start.
fn tell(notes: &[Note]) {
    for note in notes {
        match note.weight {
            Weight::Warning => tracing::warn!("{} {}", note.about, note.text),
            Weight::Remark => tracing::debug!("{} {}", note.about, note.text),
        }
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
