//! The one event stream of a server, from bytes to the tree's signals.
//!
//! In: a driver and the sink of the engine actor. Out: `Open`, then signals until the stream breaks or nobody listens. The
//! translator outlives the stream, so that what was told before a gap is not told again after it.

use std::time::{Duration, Instant};

use chargehand_actors::ports::{EngineError, EngineSignal, SignalSink};
use tokio::sync::Mutex;

use super::driver::Driver;
use super::stream::{EventStream, SILENCE_LIMIT};
use super::translate::Translator;
use super::wire::GlobalEvent;

/// How often waiting text is looked at.
const TICK: Duration = Duration::from_millis(100);

/// A lookup must not hold the stream for long.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// Delivers the server's events until its stream breaks (`Err`) or the sink says that nobody listens (`Ok`).
pub(in crate::adapters) async fn watch(
    driver: &Driver,
    translator: &Mutex<Translator>,
    sink: &SignalSink,
) -> Result<(), EngineError> {
    let mut translator = translator.lock().await;
    let mut stream = EventStream::new(driver.client.events().await?, SILENCE_LIMIT);
    // The first event proves that the server has subscribed us: nothing after it is missed.
    stream.next().await?;
    if !sink(EngineSignal::Open {
        worker: driver.worker.clone(),
    }) {
        return Ok(());
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let signals = tokio::select! {
            event = stream.next() => {
                let event = event?;
                if let Some(session) = translator.stranger(&event) {
                    look_up(driver, &mut translator, &session, &event).await;
                }
                translator.translate(&event, Instant::now())
            }
            _ = tick.tick() => translator.flush(Instant::now()),
        };
        for signal in signals {
            if !sink(signal) {
                return Ok(());
            }
        }
    }
}

/// Learns to which task's session an unseen session belongs, up to the root.
async fn look_up(driver: &Driver, translator: &mut Translator, session: &str, event: &GlobalEvent) {
    let mut at = session.to_owned();
    for _ in 0..16 {
        let found = tokio::time::timeout(LOOKUP_LIMIT, driver.session(&at, &event.directory)).await;
        let parent = match found {
            Ok(Ok(found)) => found.and_then(|session| session.parent_id),
            // Taken for a root of its own; the records tell its requests anyway.
            Ok(Err(_)) | Err(_) => None,
        };
        translator.learn(&at, parent.clone());
        match parent {
            Some(parent) if !translator.knows(&parent) => at = parent,
            Some(_) | None => return,
        }
    }
}
