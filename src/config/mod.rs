//! Settings: a TOML file, then the environment, then flags; typed, validated once, secrets redacted.
//!
//! In: [`Sources`]. Out: [`Settings`], or [`ConfigError`] that names every wrong setting, its value and what is allowed.
//! Every setting is explained in `config/chargehand.toml`.

mod load;
mod original;
mod reader;
mod secret;
mod settings;

pub use load::Sources;
pub use reader::{ConfigError, SettingProblem};
pub use secret::Secret;
pub use settings::{
    AuthSettings, DataSettings, EngineSettings, EnginesSettings, LocalEngineSettings, LogFormat,
    LogSettings, RemoteEngineSettings, ServerSettings, Settings, TaskSettings, TokenRole,
    TokenSettings,
};
