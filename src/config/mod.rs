//! Settings: a TOML file, then the environment, then flags; typed, validated once, secrets redacted.
//!
//! In: [`Sources`]. Out: [`Settings`], or [`ConfigError`] that names every wrong setting, its value and what is allowed;
//! with [`Checked`] also where each value came from and what to know about it.
//! Every setting is explained in `config/chargehand.toml`.

mod callers;
mod checked;
mod docker;
mod letta;
mod load;
mod matrix;
mod original;
mod reader;
mod secret;
mod settings;
mod shown;
mod sources;
mod upkeep;
mod variables;

pub use checked::{Checked, Note, Origin, Weight};
pub use docker::DockerEngineSettings;
pub(crate) use letta::NOTIFY;
pub use letta::{LettaKind, LettaSettings, MemoryFormat, NoticeRole};
pub use matrix::MatrixSettings;
pub use reader::{ConfigError, SettingProblem};
pub use secret::Secret;
pub use settings::{
    AuthSettings, CallerLimitSettings, DataSettings, EngineSettings, EnginesSettings,
    LocalEngineSettings, LogFormat, LogSettings, PermissionSettings, RemoteEngineSettings,
    RetentionSettings, ServerSettings, Settings, TaskSettings, TokenRole, TokenSettings,
    WatchdogSettings,
};
pub use shown::{REDACTED, SECRETS};
pub use sources::Sources;
