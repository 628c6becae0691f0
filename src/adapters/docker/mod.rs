//! The engine `docker`: one hardened container per attempt, with OpenCode's server in it.
//!
//! `names` and `spec` are pure: what a container is called and how it is made. `daemon` speaks to Docker or Podman (`exec`: commands in a container), `secrets` keeps
//! what must not be seen in inspect, `setup` runs what comes before the first prompt, `place` is what an attempt has on disk, `worker` is
//! a container whose OpenCode answers, `containers` are all of them, `disk` watches what they write, `memory` tells what they hold, `watching` makes one stream of all,
//! `engine` is the port, `survey` looks at a daemon for `doctor` (docs/design/docker-engine.md).

mod containers;
mod daemon;
mod disk;
mod engine;
mod exec;
mod memory;
mod names;
mod place;
mod reap;
mod secrets;
mod settings;
mod setup;
mod spec;
mod survey;
mod watching;
mod worker;

pub use daemon::reach;
pub use engine::DockerEngine;
pub use reap::{Labelled, labelled, remove_labelled};
pub use settings::{DockerLimits, DockerSettings, Endpoint, Network, TlsFiles};
pub use setup::SetupRule;
pub use survey::{Survey, survey};
