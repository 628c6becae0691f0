//! The variables that every OpenCode server of ours is started with, wherever it runs. Pure.
//!
//! In: [`OpencodeSettings`] and the server's password. Out: names and values; they hold secrets. Paths are the engine's own to add.

use std::collections::BTreeMap;

use super::config_content::config_content;
use super::settings::{OpencodeSettings, Secret};

/// Where npm and its like find packages.
pub(in crate::adapters) const NPM_REGISTRY: &str = "npm_config_registry";
/// An address where nothing is.
pub(in crate::adapters) const NO_REGISTRY: &str = "http://127.0.0.1:9";
/// User name of the server.
pub(in crate::adapters) const USERNAME: &str = "opencode";

/// Configuration, password, and the switches that keep a server from the network and from code of the repositories.
pub(in crate::adapters) fn server_environment(
    settings: &OpencodeSettings,
    password: &Secret,
) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = settings
        .environment
        .iter()
        .map(|(name, value)| (name.clone(), value.reveal().to_owned()))
        .collect();
    let mut set = |name: &str, value: String| drop(all.insert(name.to_owned(), value));
    set("LANG", "C.UTF-8".to_owned());
    set(
        "OPENCODE_CONFIG_CONTENT",
        config_content(settings).to_string(),
    );
    set("OPENCODE_SERVER_USERNAME", USERNAME.to_owned());
    set("OPENCODE_SERVER_PASSWORD", password.reveal().to_owned());
    for name in [
        "OPENCODE_DISABLE_AUTOUPDATE",
        "OPENCODE_DISABLE_MODELS_FETCH",
        "OPENCODE_DISABLE_LSP_DOWNLOAD",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS",
    ] {
        set(name, "1".to_owned());
    }
    if !settings.project_config {
        set("OPENCODE_DISABLE_PROJECT_CONFIG", "1".to_owned());
    }
    // OpenCode installs a plugin package in the background of every directory; without a registry that fails at once. An operator's own
    // registry is there for that, too.
    all.entry(NPM_REGISTRY.to_owned())
        .or_insert_with(|| NO_REGISTRY.to_owned());
    all
}
