//! One stream of signals for the engine actor, out of the daemon's events and the stream of every worker's OpenCode.
//!
//! In: workers as they become known, the daemon's events, what is used of disk and memory. Out: signals. Whatever happens to a container or
//! breaks a worker's stream becomes a hint to read the session there; only a daemon that is gone breaks the whole.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chargehand_actors::id::WorkerId;
use chargehand_actors::ports::{EngineError, EngineSignal, SessionSignal, Signal, SignalSink};
use futures_util::StreamExt;
use tokio::task::JoinSet;

use super::containers::Containers;
use super::daemon::Daemon;
use super::disk;
use super::memory;
use super::worker::Worker;
use crate::adapters::opencode::watching::watch;

/// The longest pause before a worker's stream is opened again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked whether what new containers need is there.
const LOOK_AGAIN: Duration = Duration::from_secs(6);
/// The daemon's clock may be behind ours by that many seconds; an event that is told twice does no harm.
const CLOCKS_DIFFER: u64 = 5;

/// Delivers until the daemon's events end (`Err`) or nobody listens (`Ok`).
pub(super) async fn watch_all(
    containers: &Arc<Containers>,
    sink: SignalSink,
) -> Result<(), EngineError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = now.map_or(0, |now| now.as_secs().saturating_sub(CLOCKS_DIFFER));
    let daemon = containers.daemon()?;
    let mut events = Box::pin(daemon.events(&containers.instance(), since));
    containers.listens(&sink);
    let (known, mut fresh) = containers.followed();
    if !sink(EngineSignal::Open {
        worker: engine_id(),
    }) {
        return Ok(());
    }
    // Ends with this call: dropping the set ends every stream in it.
    let mut streams = JoinSet::new();
    for worker in known {
        streams.spawn(follow(worker, Arc::clone(&sink)));
    }
    streams.spawn(disk::watch(Arc::clone(containers)));
    streams.spawn(memory::watch(Arc::clone(containers)));
    let mut unblocked = pin!(unblocked(containers, &daemon));
    loop {
        tokio::select! {
            () = &mut unblocked => {
                return Err(EngineError::Unreachable("new containers can be made again".to_owned()));
            }
            Some(worker) = fresh.recv() => {
                streams.spawn(follow(worker, Arc::clone(&sink)));
            }
            Some(_ended) = streams.join_next() => {}
            event = events.next() => match event {
                Some(Ok(name)) => {
                    let worker = containers.known(&name);
                    if worker.is_some_and(|worker| !hint(&worker, &sink)) {
                        return Ok(());
                    }
                }
                Some(Err(error)) => return Err(error),
                None => return Err(EngineError::Unreachable("the daemon's events ended".to_owned())),
            },
        }
    }
}

/// Ends when new containers can be made that could not be made before; never when they can be made now.
async fn unblocked(containers: &Containers, daemon: &Daemon) {
    if !containers.is_blocked() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        // A daemon that is gone ends its events.
        if let Ok(None) = containers.missing(daemon).await {
            return;
        }
    }
}

/// The engine has a worker per attempt; for the engine actor it is always the same.
pub(super) fn engine_id() -> WorkerId {
    WorkerId("docker".to_owned())
}

/// Follows one worker's OpenCode for as long as somebody holds the worker.
async fn follow(worker: Arc<Worker>, sink: SignalSink) {
    let name = worker.name.clone();
    let held = Arc::downgrade(&worker);
    drop(worker);
    let mut pause = Duration::from_millis(200);
    while let Some(worker) = held.upgrade() {
        let sink = through(&worker, &sink);
        let ended = watch(&worker.driver, &worker.translator, &sink).await;
        match ended {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(container = %name, %error, "the worker's event stream broke");
                if !hint(&worker, &sink) {
                    return;
                }
            }
        }
        drop(worker);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What a worker's stream says, for the engine's: its opening is a hint to read what was missed.
fn through(worker: &Arc<Worker>, sink: &SignalSink) -> SignalSink {
    let held = Arc::downgrade(worker);
    let sink = Arc::clone(sink);
    Arc::new(move |signal| match signal {
        EngineSignal::Open { .. } => held.upgrade().is_none_or(|worker| hint(&worker, &sink)),
        EngineSignal::Session(_) | EngineSignal::Unknown(_) => sink(signal),
    })
}

/// Makes the task read its session. False when nobody listens.
fn hint(worker: &Worker, sink: &SignalSink) -> bool {
    worker.session().is_none_or(|session| {
        sink(EngineSignal::Session(SessionSignal {
            session,
            child: false,
            signal: Signal::Idle,
        }))
    })
}
