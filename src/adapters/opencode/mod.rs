//! OpenCode: one driver for all engines, and the engines `local` and `remote`.
//!
//! `local` (with `place`, `generations` and `recycle`) and `remote` make a server reachable and know whose process it is; `driver` (with `answering`, `ending` and `watching`) drives
//! sessions on it; `client`, `stream` and `wire` speak its protocol; `report` and `translate` are pure and say what was read, `rules` what a session may do.
//! `rest_workdirs` (with `rest_files` and `session_diff`) are the workdirs of a server without a common disk. `guard` is a small process of its own between Chargehand and a local worker.

mod answering;
pub(super) mod client;
mod config_content;
pub(super) mod driver;
mod ending;
pub(super) mod environment;
mod gate;
mod generations;
mod guard;
mod install;
mod leftovers;
pub(super) mod local;
mod orphans;
mod place;
mod process;
mod reap;
mod record;
mod recycle;
mod remote;
mod report;
mod rest_files;
mod rest_workdirs;
mod rules;
mod session_diff;
mod settings;
mod stream;
pub(super) mod translate;
pub(super) mod version;
pub(super) mod watching;
mod wire;

pub use guard::guard_main;
pub use install::{InstallProgress, Proof, find_or_install};
pub use leftovers::end_leftovers;
pub use local::{LocalEngine, LocalSettings, WorkerSettings};
pub use reap::{
    MarkedProcess, MarkedSession, end_processes_of, is_data_dir_of, marked_processes,
    marked_sessions, remove_sessions_of, running_for,
};
pub use remote::{PathMapping, RemoteEngine, RemoteSettings};
pub use settings::{OpencodeSettings, PermissionRule, ProviderKey, Secret};
pub use version::PINNED;
