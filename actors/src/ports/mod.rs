//! The outside world as this crate needs it: small traits, owned here, implemented by the adapters and by the fakes.
//!
//! Every call returns a boxed future that is run by [`crate::jobs::Jobs`] with a deadline; an adapter may also hang.

mod clock;
mod engine;
mod journal;
mod output;
mod outward;
mod workdir;

pub use clock::{Clock, Ids};
pub use engine::{
    Activity, AnswerOutcome, Engine, EngineError, EngineHealth, EngineReady, EngineSignal,
    LastMessage, OpenSession, OwnedAttempt, PauseAbility, PromptState, SendPrompt, SessionReport,
    SessionSignal, Signal, SignalSink, StopHow,
};
pub use journal::{Batch, JournalError, JournalStore, KeyRow, ListFilter, Loaded, LoadedTask};
pub use output::{OutputError, OutputStore, TextChunk};
pub use outward::{Memory, Notices, OutwardError, Rooms};
pub use workdir::{FileContent, FileEntry, FileKind, FileList, Prepared, WorkdirError, Workdirs};

/// What every port method returns.
pub type PortFuture<'a, T> = futures_util::future::BoxFuture<'a, T>;
