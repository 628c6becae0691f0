//! OpenCode: one driver for all engines, and the engines `local` and `remote`.
//!
//! `local` and `remote` make a server reachable and know whose process it is; `driver` (with `ending` and `watching`) drives
//! sessions on it; `client`, `stream` and `wire` speak its protocol; `report` and `translate` are pure and say what was read.
//! `rest_workdirs` (with `rest_files` and `session_diff`) are the workdirs of a server without a common disk. `guard` is a small process of its own between Chargehand and a local worker.

mod client;
mod config_content;
mod driver;
mod ending;
mod gate;
mod guard;
mod install;
mod leftovers;
mod local;
mod orphans;
mod process;
mod record;
mod recycle;
mod remote;
mod report;
mod rest_files;
mod rest_workdirs;
mod session_diff;
mod settings;
mod stream;
mod translate;
mod version;
mod watching;
mod wire;

pub use guard::guard_main;
pub use install::{InstallProgress, find_or_install};
pub use leftovers::end_leftovers;
pub use local::{LocalEngine, LocalSettings, WorkerSettings};
pub use remote::{PathMapping, RemoteEngine, RemoteSettings};
pub use settings::{OpencodeSettings, PermissionRule, ProviderKey, Secret};
pub use version::PINNED;
