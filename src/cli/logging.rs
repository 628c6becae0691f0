//! Where log lines go: standard error for `serve`, a file for a server of our own.
//!
//! In: format and filter. Out: the process's only log subscriber. Setting it up twice is an error told to the caller.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::error::CliError;
use super::log_line::Lines;
use crate::config::LogFormat;

/// Logs to standard error.
pub(crate) fn to_stderr(format: LogFormat, level: &str) -> Result<(), CliError> {
    init(
        format,
        level,
        std::io::stderr,
        std::io::stderr().is_terminal(),
    )
}

/// Logs to a file, which is made for its owner only.
pub(crate) fn to_file(path: &Path, level: &str) -> Result<(), CliError> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| CliError::File {
            what: "cannot write",
            path: path.to_owned(),
            source,
        })?;
    init(LogFormat::Text, level, Mutex::new(file), false)
}

fn init<W>(format: LogFormat, level: &str, writer: W, colours: bool) -> Result<(), CliError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // Libraries speak only when asked to by name: an idle server is silent. rmcp calls every good-bye of a client an error.
    // matrix_sdk calls every "not found" of a homeserver one.
    let quiet = "rmcp=warn,rmcp::service=off,sqlx=warn,hyper=warn,matrix_sdk=warn,matrix_sdk::http_client=off,\
                 matrix_sdk::room::shared_room_history=error,matrix_sdk_base=warn,matrix_sdk_crypto=error";
    let filter = EnvFilter::try_new(format!("{quiet},{level}")).map_err(|error| {
        CliError::Usage(format!(
            "\"{level}\" is no log filter ({error}); such as info, debug or info,chargehand=debug"
        ))
    })?;
    let lines = Lines {
        format,
        colours: colours && std::env::var_os("NO_COLOR").is_none(),
        writer,
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    subscriber
        .try_init()
        .map_err(|error| CliError::Server(format!("logging cannot be set up: {error}")))
}
