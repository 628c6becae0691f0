//! Serves all routes on one listener and ends in order.
//!
//! In: the bound listener, the edge's state. Out: [`Serving`], whose `stop` lets running calls end, then closes what is open.
//! Order of the end: waits answer and new tasks are refused, with words, also to whoever connects now; running calls end (bounded);
//! no new connections; streams close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::auth::Auth;
use super::connections::Bounds;
use super::guard::Served;
use super::{Tokens, auth, connections, counted, guard, json_errors};
use crate::mcp::{self, Edge, InFlight};
use crate::operator;

/// How long running calls may take to end.
const CALLS_END: Duration = Duration::from_secs(10);
/// How long their answers may take to leave. Without open streams it is over as soon as they have left.
const ANSWERS_LEAVE: Duration = Duration::from_millis(500);
/// How long connections may take to close after that.
const CONNECTIONS_END: Duration = Duration::from_secs(2);

/// A running server.
pub(crate) struct Serving {
    server: JoinHandle<()>,
    in_flight: InFlight,
    no_more_connections: CancellationToken,
    close_streams: CancellationToken,
}

/// Starts to serve.
pub(crate) fn serve(
    listener: TcpListener,
    address: SocketAddr,
    edge: &Edge,
    tokens: Tokens,
) -> Serving {
    let in_flight = InFlight::new();
    let close_streams = CancellationToken::new();
    let no_more_connections = CancellationToken::new();
    let read_timeout = edge.settings.server.read_timeout;
    let app = routes(
        address,
        edge,
        tokens,
        in_flight.clone(),
        close_streams.clone(),
    );
    let server = connections::serve(listener, app, read_timeout, no_more_connections.clone());
    Serving {
        server: tokio::spawn(server),
        in_flight,
        no_more_connections,
        close_streams,
    }
}

fn routes(
    address: SocketAddr,
    edge: &Edge,
    tokens: Tokens,
    in_flight: InFlight,
    close_streams: CancellationToken,
) -> Router {
    let served = Arc::new(Served::new(&edge.settings.server, address));
    let bounds = Bounds {
        bytes: edge.settings.server.max_body_bytes,
        time: edge.settings.server.read_timeout,
    };
    let mcp = mcp::service(edge.clone(), in_flight, tokens.changes(), close_streams);
    Router::new()
        .route_service("/mcp", mcp)
        .merge(operator::routes(
            edge.tree.clone(),
            edge.clock.clone(),
            edge.counters.clone(),
            &edge.settings.data,
        ))
        .layer(from_fn_with_state(bounds, connections::whole))
        .layer(from_fn_with_state(Auth::new(tokens), auth::check))
        .layer(from_fn_with_state(served, guard::check))
        .layer(from_fn(json_errors::rewrite))
        .layer(from_fn_with_state(edge.counters.clone(), counted::count))
}

impl Serving {
    /// Completes when the server ended by itself.
    pub(crate) async fn ended(&mut self) -> std::io::Result<()> {
        match (&mut self.server).await {
            Ok(()) => Ok(()),
            Err(error) => Err(std::io::Error::other(error)),
        }
    }

    /// Ends in order. The caller has cancelled [`Edge::stopping`] before.
    pub(crate) async fn stop(mut self) {
        if tokio::time::timeout(CALLS_END, self.in_flight.none())
            .await
            .is_err()
        {
            tracing::warn!("some tool calls did not end in time; their connections are closed");
        }
        self.no_more_connections.cancel();
        // The last answers leave before the streams of idle sessions close.
        let all_closed = tokio::time::timeout(ANSWERS_LEAVE, &mut self.server)
            .await
            .is_ok();
        self.close_streams.cancel();
        if !all_closed
            && tokio::time::timeout(CONNECTIONS_END, &mut self.server)
                .await
                .is_err()
        {
            self.server.abort();
        }
    }
}
