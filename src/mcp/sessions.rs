//! Sessions of older MCP clients: rmcp's local ones, bounded in number, each the property of the token that opened it.
//!
//! In: what rmcp asks of a session manager, and [`CURRENT`] for who asks. Out: the same, with caps: beyond them the session
//! that was idle longest (of the token, or of all) is closed; when every one has a call in flight, the new one is refused.
//! A session is not found by another token, and is closed when its token is removed.

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
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::who::{CURRENT, Who};

use crate::counters::Counters;

/// Said to a client that gets no session; [`crate::http`] makes it a 503.
pub(crate) const NO_SESSION_FREE: &str = "every MCP session is busy";

/// Said to a client whose token has no session left; [`crate::http`] makes it a 429.
pub(crate) const NO_SESSION_LEFT: &str = "every MCP session of this token is busy";

/// How often sessions that ended by themselves are looked for, at least.
const LOOK: Duration = Duration::from_secs(60);

/// Why a session manager call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionsError {
    /// The cap is reached and nothing is idle.
    #[error("{NO_SESSION_FREE} ({0} sessions); close one or try again later")]
    NoneFree(usize),
    /// The token's own cap is reached and none of its sessions is idle.
    #[error(
        "{NO_SESSION_LEFT} ({0} sessions, auth.max_sessions_per_token); close one or try again later"
    )]
    NoneLeft(usize),
    /// A request that went around the token check.
    #[error("the request carries no identity")]
    Nobody,
    /// rmcp's own.
    #[error(transparent)]
    Local(#[from] LocalSessionManagerError),
}

struct Use {
    last: Instant,
    in_flight: usize,
    /// Name of the token that opened it.
    token: String,
    /// Cancelled when that token is no longer valid.
    revoked: CancellationToken,
}

type Uses = Arc<Mutex<HashMap<SessionId, Use>>>;

/// The bounded session manager.
pub(crate) struct Sessions {
    local: LocalSessionManager,
    uses: Uses,
    most: usize,
    /// How often sessions that ended by themselves are looked for.
    look: Duration,
    counters: Arc<Counters>,
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
    /// At most `most` at once; one that is silent for `idle` is closed.
    pub(crate) fn new(most: usize, idle: Duration, counters: Arc<Counters>) -> Self {
        let mut local = LocalSessionManager::default();
        local.session_config.keep_alive = Some(idle);
        // rmcp keeps each answered call for a minute for clients that reconnect, and looks through all kept ones at every
        // message: a busy session would get slower with each call. A client that lost an answer asks again.
        local.session_config.completed_cache_ttl = Duration::ZERO;
        local.session_config.sse_retry = None;
        Self {
            local,
            uses: Uses::default(),
            most,
            look: idle.min(LOOK),
            counters,
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

    fn count(&self) {
        self.counters.set_sessions(lock(&self.uses).len());
    }

    fn touch(&self, id: &SessionId) {
        if let Some(seen) = lock(&self.uses).get_mut(id) {
            seen.last = Instant::now();
        }
    }

    /// Closes the longest idle session when there is no place for another one of this token.
    async fn make_room(&self, who: &Who) -> Result<(), SessionsError> {
        let own = who
            .max_sessions
            .map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        if self.has_room(who, own) {
            return Ok(());
        }
        self.forget_ended().await;
        for (most, token) in [(own, Some(who.token.as_str())), (Some(self.most), None)] {
            let Some(most) = most else { continue };
            if let Some(victim) = self.surplus(most, token)? {
                tracing::info!(
                    limit = most,
                    token,
                    "closed the longest idle MCP session to make room"
                );
                self.local.close_session(&victim).await?;
            }
        }
        Ok(())
    }

    /// Sessions that ended by themselves (idle, dead worker) leave rmcp's map without telling us.
    async fn forget_ended(&self) {
        let alive = self.local.sessions.read().await;
        lock(&self.uses).retain(|id, _| alive.contains_key(id));
    }

    fn has_room(&self, who: &Who, own: Option<usize>) -> bool {
        let uses = lock(&self.uses);
        let of_token = || uses.values().filter(|seen| seen.token == who.token).count();
        uses.len() < self.most && own.is_none_or(|most| of_token() < most)
    }

    /// Takes the longest idle session (of `token`, or of all) out when there are `most` of them.
    fn surplus(
        &self,
        most: usize,
        token: Option<&str>,
    ) -> Result<Option<SessionId>, SessionsError> {
        let mut uses = lock(&self.uses);
        let counts = |seen: &Use| token.is_none_or(|token| seen.token == token);
        if uses.values().filter(|seen| counts(seen)).count() < most {
            return Ok(None);
        }
        let victim = uses
            .iter()
            .filter(|(_, seen)| seen.in_flight == 0 && counts(seen))
            .min_by_key(|(_, seen)| seen.last)
            .map(|(id, _)| id.clone())
            .ok_or(match token {
                Some(_) => SessionsError::NoneLeft(most),
                None => SessionsError::NoneFree(most),
            })?;
        uses.remove(&victim);
        Ok(Some(victim))
    }

    /// Whether whoever asks now may use a session. Code of ours that asks outside of a request may.
    fn is_theirs(&self, id: &SessionId) -> bool {
        let Ok(token) = CURRENT.try_with(|who| who.token.clone()) else {
            return true;
        };
        lock(&self.uses)
            .get(id)
            .is_some_and(|seen| seen.token == token && !seen.revoked.is_cancelled())
    }

    /// Closes the sessions of removed tokens at each change and counts those that ended by themselves, until the server ends.
    pub(crate) async fn tidy(
        self: Arc<Self>,
        mut changes: watch::Receiver<u64>,
        end: CancellationToken,
    ) {
        loop {
            let changed = tokio::time::timeout(self.look, changes.changed());
            match end.run_until_cancelled(changed).await {
                Some(Ok(Ok(())) | Err(_)) => {}
                // Nobody can change the tokens any more, or the server ends.
                Some(Ok(Err(_))) | None => return,
            }
            self.forget_ended().await;
            let revoked: Vec<SessionId> = lock(&self.uses)
                .iter()
                .filter(|(_, seen)| seen.revoked.is_cancelled())
                .map(|(id, _)| id.clone())
                .collect();
            for id in revoked {
                lock(&self.uses).remove(&id);
                if let Err(error) = self.local.close_session(&id).await {
                    tracing::warn!(%error, "a session of a removed token could not be closed");
                }
            }
            self.count();
        }
    }
}

impl SessionManager for Sessions {
    type Error = SessionsError;
    type Transport = WorkerTransport<LocalSessionWorker>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), SessionsError> {
        let who = CURRENT
            .try_with(Who::clone)
            .map_err(|_| SessionsError::Nobody)?;
        self.make_room(&who).await?;
        let (id, transport) = self.local.create_session().await?;
        lock(&self.uses).insert(
            id.clone(),
            Use {
                last: Instant::now(),
                in_flight: 0,
                token: who.token,
                revoked: who.revoked,
            },
        );
        self.count();
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
        Ok(self.is_theirs(id) && self.local.has_session(id).await?)
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), SessionsError> {
        // rmcp does not ask whether the session is there before it ends it.
        if !self.is_theirs(id) {
            return Ok(());
        }
        lock(&self.uses).remove(id);
        self.count();
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
