//! Sessions of older MCP clients: rmcp's local ones, bounded in number.
//!
//! In: what rmcp asks of a session manager. Out: the same, with a cap: beyond it the session that was idle longest is
//! closed; when every session has a call in flight, the new one is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::WorkerTransport;
use rmcp::transport::common::server_side_http::{ServerSseMessage, SessionId};
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, LocalSessionWorker,
};
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionManager};
use tokio::time::Instant;

/// Said to a client that gets no session; [`crate::http`] makes it a 503.
pub(crate) const NO_SESSION_FREE: &str = "every MCP session is busy";

/// A session that was silent for this long is closed. rmcp's default of 5 minutes would also cut long silent calls.
const KEEP_ALIVE: Duration = Duration::from_secs(2 * 3600);

/// Why a session manager call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionsError {
    /// The cap is reached and nothing is idle.
    #[error("{NO_SESSION_FREE} ({0} sessions); close one or try again later")]
    NoneFree(usize),
    /// rmcp's own.
    #[error(transparent)]
    Local(#[from] LocalSessionManagerError),
}

struct Use {
    last: Instant,
    in_flight: usize,
}

type Uses = Arc<Mutex<HashMap<SessionId, Use>>>;

/// The bounded session manager.
pub(crate) struct Sessions {
    local: LocalSessionManager,
    uses: Uses,
    most: usize,
}

/// Marks a session as busy while a call's answer streams.
struct Busy {
    uses: Uses,
    id: SessionId,
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(seen) = lock(&self.uses).get_mut(&self.id) {
            seen.in_flight = seen.in_flight.saturating_sub(1);
            seen.last = Instant::now();
        }
    }
}

fn lock(uses: &Uses) -> std::sync::MutexGuard<'_, HashMap<SessionId, Use>> {
    // Held only for map operations: after a panic elsewhere the map is still whole.
    uses.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    pub(crate) fn new(most: usize) -> Self {
        let mut local = LocalSessionManager::default();
        local.session_config.keep_alive = Some(KEEP_ALIVE);
        // rmcp keeps each answered call for a minute for clients that reconnect, and looks through all kept ones at every
        // message: a busy session would get slower with each call. A client that lost an answer asks again.
        local.session_config.completed_cache_ttl = Duration::ZERO;
        local.session_config.sse_retry = None;
        Self {
            local,
            uses: Uses::default(),
            most,
        }
    }

    fn busy(&self, id: &SessionId) -> Busy {
        if let Some(seen) = lock(&self.uses).get_mut(id) {
            seen.in_flight += 1;
        }
        Busy {
            uses: Arc::clone(&self.uses),
            id: id.clone(),
        }
    }

    fn touch(&self, id: &SessionId) {
        if let Some(seen) = lock(&self.uses).get_mut(id) {
            seen.last = Instant::now();
        }
    }

    /// Closes the longest idle session when there is no place for another.
    async fn make_room(&self) -> Result<(), SessionsError> {
        if lock(&self.uses).len() < self.most {
            return Ok(());
        }
        // Sessions that ended by themselves (idle, dead worker) left rmcp's map without telling us.
        let alive = self.local.sessions.read().await;
        lock(&self.uses).retain(|id, _| alive.contains_key(id));
        drop(alive);
        let victim = {
            let mut uses = lock(&self.uses);
            if uses.len() < self.most {
                return Ok(());
            }
            let victim = uses
                .iter()
                .filter(|(_, seen)| seen.in_flight == 0)
                .min_by_key(|(_, seen)| seen.last)
                .map(|(id, _)| id.clone())
                .ok_or(SessionsError::NoneFree(self.most))?;
            uses.remove(&victim);
            victim
        };
        tracing::info!(
            limit = self.most,
            "closed the longest idle MCP session to make room"
        );
        Ok(self.local.close_session(&victim).await?)
    }
}

impl SessionManager for Sessions {
    type Error = SessionsError;
    type Transport = WorkerTransport<LocalSessionWorker>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), SessionsError> {
        self.make_room().await?;
        let (id, transport) = self.local.create_session().await?;
        lock(&self.uses).insert(
            id.clone(),
            Use {
                last: Instant::now(),
                in_flight: 0,
            },
        );
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, SessionsError> {
        let _busy = self.busy(id);
        Ok(self.local.initialize_session(id, message).await?)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, SessionsError> {
        Ok(self.local.has_session(id).await?)
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), SessionsError> {
        lock(&self.uses).remove(id);
        Ok(self.local.close_session(id).await?)
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, SessionsError> {
        let busy = self.busy(id);
        let stream = self.local.create_stream(id, message).await?;
        Ok(held(stream, busy))
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), SessionsError> {
        self.touch(id);
        Ok(self.local.accept_message(id, message).await?)
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, SessionsError> {
        self.touch(id);
        Ok(self.local.create_standalone_stream(id).await?)
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, SessionsError> {
        self.touch(id);
        Ok(self.local.resume(id, last_event_id).await?)
    }

    async fn restore_session(
        &self,
        _id: SessionId,
    ) -> Result<RestoreOutcome<Self::Transport>, SessionsError> {
        Ok(RestoreOutcome::NotSupported)
    }
}

/// A stream that keeps something alive as long as it is read.
fn held<S>(stream: S, busy: Busy) -> impl Stream<Item = S::Item> + Send + Sync + 'static
where
    S: Stream + Send + Sync + 'static,
{
    use futures_util::StreamExt;
    stream.map(move |item| {
        let _ = &busy;
        item
    })
}
