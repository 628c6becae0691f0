//! What `chargehand serve` does, callable from tests: the tree, the server, and their ordered end.
//!
//! In: settings, the outside world, a bound listener, a future that ends the run. Out: why it ended.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use chargehand_actors::id::InstanceId;
use chargehand_actors::ports::StopHow;
use chargehand_actors::tree::{self, Ports, TreeFailure};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::http::{Tokens, serve};
use crate::mcp::Edge;

/// The outside world, as a run uses it.
#[derive(Clone)]
pub struct Adapters {
    /// The id of the data directory.
    pub instance: InstanceId,
    /// What the tree reaches the world through.
    pub ports: Ports,
}

/// Why a run ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The listener has no address.
    #[error("the listener cannot be used; nothing was started")]
    Listener(#[source] std::io::Error),
    /// The listener is reachable from other machines and no token is configured.
    #[error(
        "{0} can be reached by others and no token is configured; bind to 127.0.0.1, or configure a token in [auth]; nothing was started"
    )]
    Open(SocketAddr),
    /// The tree did not start.
    #[error("the supervision tree did not start; no task was touched")]
    Start(#[source] TreeFailure),
    /// The tree ended by itself.
    #[error("the supervision tree ended; tasks are recovered at the next start")]
    Tree(#[source] TreeFailure),
    /// The server ended by itself.
    #[error("the HTTP server ended; tasks are recovered at the next start")]
    Server(#[source] std::io::Error),
}

/// Runs until `shutdown` completes, or until the tree or the server ends by itself.
pub async fn run(
    settings: Settings,
    adapters: Adapters,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let tokens = Tokens::new(&settings.auth);
    run_with(settings, tokens, adapters, listener, shutdown).await
}

/// The same with tokens that the caller made from these settings, and may replace meanwhile ([`Tokens::reload`]).
pub async fn run_with(
    settings: Settings,
    tokens: Tokens,
    adapters: Adapters,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let address = listener.local_addr().map_err(RunError::Listener)?;
    if tokens.open_to_all() && !address.ip().is_loopback() {
        return Err(RunError::Open(address));
    }
    let clock = Arc::clone(&adapters.ports.clock);
    let tree = tree::start(settings.tree(adapters.instance), adapters.ports)
        .await
        .map_err(RunError::Start)?;
    let how = settings.engine.on_stop;
    let edge = Edge {
        tree: tree.handle(),
        settings: Arc::new(settings),
        clock,
        counters: Arc::default(),
        port: address.port(),
        stopping: CancellationToken::new(),
    };
    let stopping = edge.stopping.clone();
    let mut serving = serve(listener, address, &edge, tokens);
    tracing::info!(%address, "serving MCP at /mcp");
    let (ended, serving) = tokio::select! {
        () = shutdown => (Ok(()), Some(serving)),
        failure = tree.failed() => (Err(RunError::Tree(failure)), Some(serving)),
        end = serving.ended() => (end.map_err(RunError::Server), None),
    };
    stopping.cancel();
    say_what_becomes_of_tasks(tree.handle().load(), how);
    if let Some(serving) = serving {
        serving.stop().await;
    }
    tree.stop(how).await;
    ended
}

/// Tells what a stop does with the tasks that there are.
fn say_what_becomes_of_tasks((started, queued): (u32, u32), how: StopHow) {
    let becomes = match how {
        StopHow::LeaveRunning => "go on in their workers and are taken over by the next start",
        StopHow::EndWorkers => "are cancelled and their workers ended",
    };
    tracing::info!(
        started,
        queued,
        "tasks that have started {becomes}; queued ones wait for the next start"
    );
}
