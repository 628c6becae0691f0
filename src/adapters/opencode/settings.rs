//! What an operator sets about OpenCode. Plain data, secrets redacted; nothing of Chargehand's own environment reaches a worker
//! unless it is named here.

use std::collections::BTreeMap;

use std::fmt;

use chargehand_actors::command::ModelRef;
use serde::Deserialize;
use serde_json::Value;

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A provider's key, handed to the worker in its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ProviderKey {
    /// OpenCode's provider id, such as `anthropic`.
    pub provider: String,
    /// The key.
    pub key: Secret,
    /// Another address of the provider's API.
    #[serde(default)]
    pub base_url: Option<String>,
}

/// One rule of OpenCode's `permission` section.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PermissionRule {
    /// What for: `bash`, `edit`, `webfetch`, …
    pub permission: String,
    /// Which commands or paths; none = all.
    #[serde(default)]
    pub pattern: Option<String>,
    /// `allow`, `ask` or `deny`.
    pub action: String,
}

/// How OpenCode is configured by Chargehand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpencodeSettings {
    /// Model for tasks that name none; none = OpenCode's own choice.
    pub model: Option<ModelRef>,
    /// Model for small chores such as summaries.
    pub small_model: Option<ModelRef>,
    /// Anything of OpenCode's own configuration (`opencode.json`), merged over what Chargehand sets.
    pub config: Option<Value>,
    /// Keys of providers.
    pub providers: Vec<ProviderKey>,
    /// Permission rules, in order of meaning: later ones win.
    pub permissions: Vec<PermissionRule>,
    /// Variables that the worker and its shells get. Nothing of Chargehand's own environment reaches them otherwise.
    pub environment: BTreeMap<String, Secret>,
    /// Read `opencode.json`, plugins and MCP entries of the repositories worked on. They run code in the worker.
    pub project_config: bool,
}
