//! The whole configuration of a local worker, as one JSON text in its environment. Pure.
//!
//! In: [`OpencodeSettings`]. Out: the value of `OPENCODE_CONFIG_CONTENT`. A task runs without a person at a terminal, so
//! what OpenCode would ask by default and nobody could answer is denied, unless the operator says otherwise.

use chargehand_actors::command::ModelRef;
use serde_json::{Map, Value, json};

use super::settings::OpencodeSettings;

/// Builds the configuration: our defaults, then the typed settings, then the operator's own JSON, then what must hold.
pub(super) fn config_content(settings: &OpencodeSettings) -> Value {
    let mut config = json!({
        "share": "disabled",
        "permission": {"external_directory": "deny", "doom_loop": "deny"},
    });
    if let Some(model) = &settings.model {
        config["model"] = json!(model_word(model));
    }
    if let Some(model) = &settings.small_model {
        config["small_model"] = json!(model_word(model));
    }
    for provider in &settings.providers {
        let mut options = json!({"apiKey": provider.key.reveal()});
        if let Some(url) = &provider.base_url {
            options["baseURL"] = json!(url);
        }
        let stanza = json!({"provider": {provider.provider.as_str(): {"options": options}}});
        merge(&mut config, stanza);
    }
    for rule in &settings.permissions {
        let value = match &rule.pattern {
            Some(pattern) => json!({pattern.as_str(): rule.action}),
            None => json!(rule.action),
        };
        add_rule(&mut config, &rule.permission, value);
    }
    if let Some(own) = &settings.config {
        merge(&mut config, own.clone());
    }
    // A worker that replaces itself would no longer be the version that was checked.
    config["autoupdate"] = json!(false);
    config
}

fn model_word(model: &ModelRef) -> String {
    format!("{}/{}", model.provider, model.model)
}

/// A rule for all and rules for some stand together: the one for all becomes the pattern `*`, which sorts first and
/// therefore loses against the others.
fn add_rule(config: &mut Value, permission: &str, value: Value) {
    let place = &mut config["permission"][permission];
    match (&mut *place, value) {
        (Value::Object(rules), Value::String(action)) => {
            rules.insert("*".to_owned(), Value::String(action));
        }
        (Value::String(action), Value::Object(mut rules)) => {
            rules
                .entry("*")
                .or_insert_with(|| Value::String(action.clone()));
            *place = Value::Object(rules);
        }
        (_, value) => merge(place, value),
    }
}

/// Lays `over` on `under`: objects are merged, everything else is replaced.
fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => merge_maps(under, over),
        (under, over) => *under = over,
    }
}

fn merge_maps(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        merge(under.entry(key).or_insert(Value::Null), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::opencode::settings::{PermissionRule, ProviderKey, Secret};

    #[test]
    fn nothing_set_denies_what_nobody_could_answer() {
        let config = config_content(&OpencodeSettings::default());
        assert_eq!(
            config,
            json!({"autoupdate": false, "share": "disabled",
                   "permission": {"external_directory": "deny", "doom_loop": "deny"}})
        );
    }

    #[test]
    fn the_operators_json_wins_except_over_the_pinned_version() {
        let settings = OpencodeSettings {
            model: Some(ModelRef {
                provider: "p".to_owned(),
                model: "m".to_owned(),
            }),
            providers: vec![ProviderKey {
                provider: "p".to_owned(),
                key: Secret::new("k"),
                base_url: Some("http://127.0.0.1:1/v1".to_owned()),
            }],
            config: Some(
                json!({"autoupdate": true, "model": "q/n", "permission": {"doom_loop": "ask"},
                                "provider": {"p": {"npm": "x"}}}),
            ),
            ..OpencodeSettings::default()
        };
        let config = config_content(&settings);
        assert_eq!(config["autoupdate"], json!(false));
        assert_eq!(config["model"], json!("q/n"));
        assert_eq!(
            config["permission"],
            json!({"external_directory": "deny", "doom_loop": "ask"})
        );
        assert_eq!(
            config["provider"]["p"],
            json!({"npm": "x", "options": {"apiKey": "k", "baseURL": "http://127.0.0.1:1/v1"}})
        );
        assert!(!format!("{settings:?}").contains("\"k\""));
    }

    #[test]
    fn rules_for_all_and_for_some_stand_together() {
        let rule = |pattern: Option<&str>, action: &str| PermissionRule {
            permission: "bash".to_owned(),
            pattern: pattern.map(str::to_owned),
            action: action.to_owned(),
        };
        let orders = [
            vec![rule(None, "allow"), rule(Some("git push *"), "ask")],
            vec![rule(Some("git push *"), "ask"), rule(None, "allow")],
        ];
        for permissions in orders {
            let settings = OpencodeSettings {
                permissions,
                ..OpencodeSettings::default()
            };
            assert_eq!(
                config_content(&settings)["permission"]["bash"],
                json!({"*": "allow", "git push *": "ask"})
            );
        }
    }
}
