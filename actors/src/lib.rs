//! Chargehand's supervision tree. Engine-free: everything outside is a port ([`ports`]).
//!
//! ```text
//! root                 rebuilds the core when one of it dies
//! ├─ reaper            removes what a committed release or a reconciliation left without owner
//! ├─ journal           the only writer; numbers events, makes them durable, hands them on in one order
//! ├─ admission         idempotency, queue, limits, fairness
//! ├─ registry          the read model: status, history, list, files, waits
//! ├─ tasks             one task actor per live task
//! │  └─ task …         owns its attempt; runs what the machine decides
//! ├─ engines           one engine actor per configured engine
//! │  └─ engine …       health, the one event stream, reconciliation
//! ├─ retention         removes the files of tasks that ended long ago, later their records
//! ├─ workspace-sync    the planner's memory    ┐
//! ├─ rooms             Matrix rooms            ├ only when configured; one child actor per task
//! │  ├─ link           the homeserver's stream │
//! │  └─ room …         one task's room         │
//! └─ notifier          completion notices      ┘
//! ```
//!
//! | actor | comes in | goes out |
//! |---|---|---|
//! | root | ends of its children, a journal that cannot be written | a rebuilt core, or the failure of the whole |
//! | reaper | releases, stale leftovers, engines whose reconciliation is committed | `AttemptRemoved` to the journal |
//! | journal | batches of events with an acknowledgement | each committed event to registry, admission, outward actors; then the acknowledgement |
//! | admission | submits, committed events, engines ready or down | `TaskAccepted` to the journal, new tasks and slots to the task supervisor, the queue's view |
//! | registry | committed events, queries with a reply | answers; which of an engine's attempts are live |
//! | tasks | tasks, slots, commands, engines that came up | messages to task actors; a task failed whose actor fails for good |
//! | task | commands, job results, signals, alarms, acknowledgements | batches to the journal; jobs on the engine and workdir ports; releases to the reaper |
//! | engine | job results, the stream, routes | signals to tasks, up/ready/down, stale leftovers to the reaper |
//! | retention | time | `FilesCleared` to the journal; tasks to be forgotten to the registry |
//! | outward | committed events | calls of the memory and notices ports |
//! | rooms | committed events, news of the homeserver | "there is something new" to the task's room actor |
//! | link | the homeserver's stream | its signals to rooms |
//! | room | "there is something new", what people say in the room | posts, answers; commands to the tree in a person's name |
//!
//! The way in is [`tree::TreeHandle`]; the way to look on is [`board::Board`]. Decisions are made by [`machine`] alone.
mod admission;
pub mod board;
pub mod command;
pub mod crash;
mod engine;
mod engines;
pub mod error;
pub mod event;
#[cfg(feature = "fakes")]
pub mod fakes;
pub mod handle;
pub mod id;
pub mod jobs;
mod journal;
mod lifelog;
pub mod machine;
mod memory_calls;
pub mod metrics;
mod notice;
pub mod outcome;
mod outward;
mod outward_child;
mod parts;
mod patience;
pub mod phase;
mod places;
pub mod ports;
mod queue;
mod reads;
mod reaper;
mod registry;
pub mod request;
mod retention;
mod room;
mod room_link;
mod rooms;
mod root;
mod space;
pub mod supervision;
mod task;
mod task_memory;
mod task_supervisor;
pub mod tree;
mod tree_handle;
pub mod view;
mod wiring;
mod workspace_sync;
