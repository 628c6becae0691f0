//! SIGHUP of `chargehand serve`: the section `[auth]` is read again from where the configuration came from.
//!
//! In: signals, the configuration. Out: the server's tokens replaced, or a log line that says what is wrong and that the
//! tokens as they were stay valid. The other sections take effect at the next start. When the terminal that the server
//! was started in is closed, the same signal ends the server.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use rustix::process::{getpid, kill_process};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::ConfigArgs;
use super::config::settings;
use super::error::CliError;
use crate::Tokens;

/// Begins to listen; from here on the signal no longer ends the program.
pub(crate) fn listen() -> Result<Signal, CliError> {
    Ok(signal(SignalKind::hangup())?)
}

/// Reloads at each signal, for ever.
pub(crate) async fn on_hangup(
    mut hangups: Signal,
    args: ConfigArgs,
    flags: BTreeMap<String, String>,
    tokens: Tokens,
) {
    let had_terminal = std::io::stderr().is_terminal();
    while hangups.recv().await.is_some() {
        if had_terminal && !std::io::stderr().is_terminal() {
            // In order, as if somebody had asked for it.
            let _ = kill_process(getpid(), rustix::process::Signal::TERM);
            continue;
        }
        let (args, flags) = (args.clone(), flags.clone());
        let read = tokio::task::spawn_blocking(move || settings(&args, flags)).await;
        let taken = match read {
            Ok(Ok(settings)) => tokens
                .reload(&settings.auth)
                .map(|()| settings.auth.tokens.len())
                .map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.report()),
            Err(error) => Err(error.to_string()),
        };
        match taken {
            Ok(count) => {
                tracing::info!(target: "audit", tokens = count, "[auth] was read again after SIGHUP");
            }
            Err(error) => tracing::error!(
                target: "audit",
                error,
                "[auth] was not read again after SIGHUP; the tokens as they were stay valid"
            ),
        }
    }
}
