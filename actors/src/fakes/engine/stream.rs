//! The engine's event stream: signals that may be missing, late or repeated. In: what happens in sessions. Out: hints.

use std::time::Duration;

use tokio::sync::oneshot;

use super::FakeEngine;
use crate::fakes::Random;
use crate::fakes::trouble::lock;
use crate::ports::{EngineError, EngineSignal, SessionSignal, Signal, SignalSink};

/// How often signals go wrong, in 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalRates {
    /// Never delivered.
    pub missing: u32,
    /// Delivered twice.
    pub repeated: u32,
    /// Delivered late: some milliseconds, so that the next ones overtake it, or up to 3 s.
    pub late: u32,
    /// Preceded by one that is not true: idle while it works, busy when it has ended, of the session or of a child.
    pub lies: u32,
    /// Readings whose parts are not of one moment: first whether it works, up to 3 s later what stands in it.
    pub torn: u32,
    /// The stream breaks after it.
    pub breaks: u32,
}

pub(super) struct Stream {
    pub(super) number: u64,
    pub(super) sink: SignalSink,
    pub(super) cut: oneshot::Sender<Result<(), EngineError>>,
}

impl FakeEngine {
    /// Delivers a signal of a session, as the rates want it.
    pub(super) fn signal(&self, session: &str, signal: Signal) {
        let rates = *lock(&self.0.signals);
        let (number, sink) = {
            let mut records = lock(&self.0.records);
            let Some(stream) = &records.stream else {
                return;
            };
            let (number, sink) = (stream.number, stream.sink.clone());
            records.streams += 1;
            (number + (records.streams << 32), sink)
        };
        let mut random = Random::keyed(self.0.seed, "signal", number);
        let message = EngineSignal::Session(SessionSignal {
            session: session.to_owned(),
            child: false,
            signal,
        });
        if random.chance(rates.lies) {
            let lie = if random.chance(500) {
                Signal::Idle
            } else {
                Signal::Busy
            };
            sink(EngineSignal::Session(SessionSignal {
                session: session.to_owned(),
                child: random.chance(300),
                signal: lie,
            }));
        }
        if random.chance(rates.missing) {
            return;
        }
        if random.chance(rates.late) {
            let most = if random.chance(500) { 20 } else { 3_000 };
            let wait = Duration::from_millis(random.between(1, most));
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                sink(message);
            });
            return;
        }
        if random.chance(rates.repeated) {
            sink(message.clone());
        }
        if !sink(message) {
            self.end_stream(Ok(()));
        } else if random.chance(rates.breaks) {
            self.break_stream();
        }
    }

    /// Cuts the event stream; everything else goes on.
    pub fn break_stream(&self) {
        self.end_stream(Err(EngineError::Unreachable(
            "scripted: the stream broke".to_owned(),
        )));
    }

    /// Ends the event stream as if everything were in order; everything else goes on.
    pub fn close_stream(&self) {
        self.end_stream(Ok(()));
    }

    pub(super) fn end_stream(&self, how: Result<(), EngineError>) {
        let stream = lock(&self.0.records).stream.take();
        if let Some(stream) = stream {
            let _ = stream.cut.send(how);
        }
    }
}
