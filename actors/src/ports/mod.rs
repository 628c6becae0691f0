//! The outside world as this crate needs it: small traits, owned here, implemented by the adapters and by the fakes.
//!
//! Every call returns a boxed future that is run by [`crate::jobs::Jobs`] with a deadline; an adapter may also hang.

mod clock;
mod engine;
mod journal;
mod memory;
mod notices;
mod output;
mod planner;
mod rooms;
mod space;
mod workdir;

pub use clock::{Clock, Ids};
pub use engine::{
    Activity, AnswerOutcome, Engine, EngineError, EngineHealth, EngineNumbers, EngineReady,
    EngineSignal, LastMessage, OpenSession, OwnedAttempt, PauseAbility, PromptState, SendPrompt,
    SessionReport, SessionSignal, Signal, SignalSink, StopHow,
};
pub use journal::{
    Batch, EVENTS_AT_ONCE, EndedFilter, EndedTask, JournalError, JournalStore, KeyRow, ListFilter,
    Loaded, LoadedTask,
};
pub use memory::{LeftMemory, Memory, MemoryPage, MemoryPlace, Written};
pub use notices::{Delivered, Notice, NoticeAbout, Notices};
pub use output::{OutputError, OutputStore, TextChunk};
pub use planner::PlannerError;
pub use rooms::{
    Attachment, Dress, Heard, OpenRoom, Page, Person, Piece, Place, Post, RoomError, RoomMemory,
    RoomMemoryError, RoomRow, RoomSignal, RoomSink, Rooms, STEER, Said, Sign, TakenCommand,
};
pub use space::Space;
pub use workdir::{FileContent, FileEntry, FileKind, FileList, Prepared, WorkdirError, Workdirs};

/// What every port method returns.
pub type PortFuture<'a, T> = futures_util::future::BoxFuture<'a, T>;
