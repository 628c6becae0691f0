//! OpenCode's configuration for the scripted model.
//!
//! In: the base URL of a running server. Out: JSON to merge into OpenCode's configuration.

use serde_json::{Value, json};

/// The provider's id in OpenCode.
pub const PROVIDER: &str = "scripted";

/// The provider's only model id; OpenCode writes it `scripted/worker`.
pub const MODEL: &str = "worker";

/// The keys `provider`, `model`, `small_model` and `enabled_providers` of an OpenCode configuration, so that nothing but
/// the scripted model is ever asked. Silence of the model is given up after 60 s (OpenCode's own default is 5 minutes).
pub fn opencode_provider_config(base_url: &str) -> Value {
    let full = format!("{PROVIDER}/{MODEL}");
    json!({
        "model": full,
        "small_model": full,
        "enabled_providers": [PROVIDER],
        "provider": {PROVIDER: {
            "npm": "@ai-sdk/openai-compatible",
            "name": "Scripted model",
            "options": {
                "baseURL": base_url,
                // The provider package insists on one; the server does not look at it.
                "apiKey": "none",
                "headerTimeout": 60_000,
                "chunkTimeout": 60_000,
            },
            "models": {MODEL: {
                "name": "Scripted worker",
                "tool_call": true,
                "limit": {"context": 128_000, "output": 8_192},
            }},
        }},
    })
}
