//! Generations of the engine `local`: a new worker beside the one that is beyond its limits, and the end of the old one.
//!
//! In: that a new one is wanted, the signals of both. Out: the engine's stream of signals; which place takes new sessions is written down
//! before it holds. States and failures: docs/design/local-engine.md, "Generations".

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chargehand_actors::id::WorkerId;
use chargehand_actors::ports::{EngineError, EngineSignal, SignalSink, StopHow};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::local::{LocalEngine, OPENINGS_LIMIT, slow};
use super::place::Place;
use super::record::{Seat, Standing};

/// How often it is looked whether the old worker has drained; also after each removal.
const DRAIN_EVERY: Duration = Duration::from_secs(15);

/// How long a new worker may take to start beside the current one: less than an opening may.
const NEXT_LIMIT: Duration = Duration::from_secs(45);

/// When that is tried again after it failed.
const ADD_AGAIN: Duration = Duration::from_secs(300);

/// The pause before an old worker is looked at whose stream broke.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The pause before an old worker is started again that could not be started.
const START_AGAIN: Duration = Duration::from_secs(5);

impl LocalEngine {
    /// Starts a worker in the other place, which takes new sessions from then on. Where that fails, the current one is used on, and it is
    /// not tried again for a while: each opening would wait for it.
    pub(super) async fn next_generation(
        &self,
        standing: Standing,
    ) -> Result<&Arc<Place>, EngineError> {
        let seat = standing.current.other();
        let next = self.place(seat);
        // Before the opening itself is given up, which would end this here.
        let started = tokio::time::timeout(NEXT_LIMIT, next.start_or_adopt()).await;
        if let Err(error) = started.unwrap_or_else(|_| Err(slow())) {
            tracing::warn!(%error, "no new worker can be started beside the one that is beyond its limits; it is used on");
            self.add_not_before(Instant::now() + ADD_AGAIN);
            if let Err(error) = next.end(StopHow::EndWorkers).await {
                tracing::warn!(%error, "what is left of the new worker is ended before the next one");
            }
            return Ok(self.place(standing.current));
        }
        self.stand(Standing {
            current: seat,
            draining: true,
        })?;
        tracing::info!(
            "a new worker takes new sessions; the old one, beyond its limits, finishes its own"
        );
        Ok(next)
    }

    pub(super) fn may_add(&self) -> bool {
        let not_before = self
            .not_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        not_before.is_none_or(|moment| Instant::now() >= moment)
    }

    fn add_not_before(&self, moment: Instant) {
        let mut not_before = self
            .not_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *not_before = Some(moment);
    }

    /// Ends the old worker when it has no session any more.
    async fn end_if_drained(&self) -> Result<(), EngineError> {
        let standing = self.standing()?;
        // Asked before anything is held up.
        if !standing.draining || !self.has_drained(standing).await? {
            return Ok(());
        }
        let alone = tokio::time::timeout(OPENINGS_LIMIT, self.opening.write());
        let Ok(_alone) = alone.await else {
            return Ok(());
        };
        let _choosing = self.choosing.lock().await;
        let standing = self.standing()?;
        if !standing.draining || !self.has_drained(standing).await? {
            return Ok(());
        }
        self.stand(Standing {
            draining: false,
            ..standing
        })?;
        let old = self.place(standing.current.other());
        old.end(StopHow::EndWorkers).await?;
        tracing::info!("the old worker had no session left and was ended");
        Ok(())
    }

    /// Whether the old worker has no session of ours and works on none. In doubt not.
    async fn has_drained(&self, standing: Standing) -> Result<bool, EngineError> {
        let old = self.place(standing.current.other()).running()?;
        let drained = async { Ok(old.driver.owns_nothing().await? && old.driver.is_idle().await?) };
        let drained = tokio::time::timeout(OPENINGS_LIMIT, drained).await;
        drained.unwrap_or_else(|_| Err(slow()))
    }

    /// Delivers what the workers' streams say, until the current one's breaks (`Err`) or nobody listens (`Ok`). An older one that breaks is
    /// started again beside it; whenever a stream opens, the engine's is open anew: what was missed is read.
    pub(super) async fn watch_all(&self, sink: SignalSink) -> Result<(), EngineError> {
        let mut changed = self.changed.subscribe();
        // Ends with this call: dropping the set ends every stream in it.
        let mut streams = Streams {
            sink,
            followed: BTreeSet::new(),
            deeds: JoinSet::new(),
        };
        let mut tick = tokio::time::interval(DRAIN_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.follow_wanted(&mut streams)?;
            tokio::select! {
                Some(deed) = streams.deeds.join_next() => {
                    let (seat, deed) = deed.map_err(|error| EngineError::Fault(error.to_string()))?;
                    if let Deed::Watched(Ok(())) = deed {
                        return Ok(());
                    }
                    self.after(seat, deed, &mut streams).await?;
                }
                _ = changed.changed() => {}
                _ = tick.tick() => {}
            }
            if let Err(error) = self.end_if_drained().await {
                tracing::debug!(%error, "the old worker is not ended yet");
            }
        }
    }

    /// Follows the places that may hold sessions and are not followed yet.
    fn follow_wanted(&self, streams: &mut Streams) -> Result<(), EngineError> {
        for seat in self.wanted()? {
            if streams.followed.insert(seat) {
                let place = Arc::clone(self.place(seat));
                if place.running().is_ok() {
                    streams.watch(seat, place, self.current()?.driver.worker);
                } else {
                    streams.start(seat, place, Duration::ZERO);
                }
            }
        }
        Ok(())
    }

    /// What follows when a stream has broken or a worker was started: an error when it is the current one's.
    async fn after(
        &self,
        seat: Seat,
        deed: Deed,
        streams: &mut Streams,
    ) -> Result<(), EngineError> {
        let standing = self.standing()?;
        let place = Arc::clone(self.place(seat));
        match deed {
            Deed::Watched(Err(error)) | Deed::Started(Err(error)) if seat == standing.current => {
                return Err(error);
            }
            Deed::Started(Ok(())) if standing.wants(seat) => {
                streams.watch(seat, place, self.current()?.driver.worker);
            }
            // It had drained before it was started again.
            Deed::Started(Ok(())) => {
                streams.followed.remove(&seat);
                place.end(StopHow::EndWorkers).await?;
            }
            // It has drained.
            Deed::Watched(_) | Deed::Started(Err(_)) if !standing.wants(seat) => {
                streams.followed.remove(&seat);
            }
            Deed::Watched(_) => streams.start(seat, place, LOOK_AGAIN),
            Deed::Started(Err(error)) => {
                tracing::warn!(%error, "the older worker cannot be started; its tasks wait, and it is tried again");
                streams.start(seat, place, START_AGAIN);
            }
        }
        Ok(())
    }
}

/// The places that are followed.
struct Streams {
    /// Where their signals go.
    sink: SignalSink,
    followed: BTreeSet<Seat>,
    deeds: JoinSet<(Seat, Deed)>,
}

impl Streams {
    /// Follows a worker's stream, as a part of the engine's, whose worker is `current`.
    fn watch(&mut self, seat: Seat, place: Arc<Place>, current: WorkerId) {
        let sink = as_engine(current, &self.sink);
        self.deeds
            .spawn(async move { (seat, Deed::Watched(place.watch(&sink).await)) });
    }

    /// Starts a place's worker, or takes it over, after a pause.
    fn start(&mut self, seat: Seat, place: Arc<Place>, after: Duration) {
        self.deeds.spawn(async move {
            tokio::time::sleep(after).await;
            (seat, Deed::Started(place.start_or_adopt().await.map(drop)))
        });
    }
}

/// What was done for a place, and how it ended.
enum Deed {
    /// Its stream was followed.
    Watched(Result<(), EngineError>),
    /// Its worker was started or taken over.
    Started(Result<(), EngineError>),
}

/// One worker's signals, for the engine's stream, whose worker is the current one.
fn as_engine(worker: WorkerId, sink: &SignalSink) -> SignalSink {
    let sink = Arc::clone(sink);
    Arc::new(move |signal| match signal {
        EngineSignal::Open { .. } => sink(EngineSignal::Open {
            worker: worker.clone(),
        }),
        EngineSignal::Session(_) | EngineSignal::Unknown(_) => sink(signal),
    })
}
