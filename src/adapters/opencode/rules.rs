//! The permission rules that a session is created with.
//!
//! In: the rules of a task, the version, the server's own configuration. Out: the rules for `POST /session`. OpenCode reads
//! them as Chargehand does (the last one that matches holds), after those of its configuration. What reaches the child
//! sessions of a sub-agent is less: see [`reaches_children`]. Rules that would not are kept by giving the session no sub-agents.

use chargehand_actors::command::{PermissionAction, PermissionRule};
use chargehand_actors::ports::{EngineError, OpenSession};
use serde_json::Value;

use super::driver::{Driver, json_one};
use super::report::SUB_AGENT;
use super::version::Version;

/// Permission to leave the workdir; its rules are inherited whatever they say.
const OUTSIDE: &str = "external_directory";

impl Driver {
    /// The rules that the session of a task is created with.
    pub(super) async fn session_rules(
        &self,
        request: &OpenSession,
    ) -> Result<Vec<PermissionRule>, EngineError> {
        let mut rules = request.permissions.clone();
        if rules
            .iter()
            .all(|rule| reaches_children(rule, self.version))
        {
            return Ok(rules);
        }
        let query = [("directory", request.directory.as_str())];
        let config = self.client.get::<Value>("/config", &query).await?;
        let config = json_one(config, "GET /config")?;
        if !children_obey(&rules, self.version, &config["permission"]) {
            rules.push(PermissionRule {
                permission: SUB_AGENT.to_owned(),
                pattern: "*".to_owned(),
                action: PermissionAction::Deny,
            });
        }
        Ok(rules)
    }
}

/// Whether OpenCode hands a rule of a session down to its child sessions, or child sessions need no such rule. Grants are not
/// handed down, which is stricter and does no harm. Questions are not (measured with 1.3.0, 1.17.0 and 1.18.33).
fn reaches_children(rule: &PermissionRule, version: Version) -> bool {
    let inherits = version.inherits_rules();
    match rule.action {
        PermissionAction::Allow => true,
        PermissionAction::Deny => inherits || rule.permission == SUB_AGENT,
        PermissionAction::Ask => {
            rule.permission == SUB_AGENT || (inherits && rule.permission == OUTSIDE)
        }
    }
}

/// Whether child sessions obey every rule: it is handed down, or the server's configuration holds the same one.
fn children_obey(rules: &[PermissionRule], version: Version, config: &Value) -> bool {
    rules
        .iter()
        .all(|rule| reaches_children(rule, version) || is_configured(rule, config))
}

fn is_configured(rule: &PermissionRule, config: &Value) -> bool {
    let place = &config[rule.permission.as_str()];
    let action = if rule.pattern == "*" && place.is_string() {
        place
    } else {
        &place[rule.pattern.as_str()]
    };
    action.as_str() == Some(rule.action.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(text: &str, action: PermissionAction) -> PermissionRule {
        PermissionRule::parse(text, action).unwrap_or_else(|| panic!("bad rule {text}"))
    }

    #[test]
    fn sub_agents_are_kept_only_where_they_obey_every_rule() {
        use PermissionAction::{Allow, Ask, Deny};
        let old = Version::parse("1.3.0");
        let new = Version::parse("1.18.33");
        let config =
            json!({"bash": {"*": "allow", "git push*": "ask"}, "webfetch": "ask", "edit": "deny"});
        let table = [
            ("bash:git push*", Allow, [true, true]),
            ("bash:rm *", Deny, [false, true]),
            ("edit", Deny, [true, true]),
            ("task", Deny, [true, true]),
            ("task", Ask, [true, true]),
            ("bash:rm *", Ask, [false, false]),
            ("bash:git push*", Ask, [true, true]),
            ("bash", Ask, [false, false]),
            ("webfetch", Ask, [true, true]),
            ("webfetch:https://*", Ask, [false, false]),
            ("external_directory:/tmp/*", Ask, [false, true]),
            ("*", Ask, [false, false]),
        ];
        for (text, action, obeyed) in table {
            for (version, obeyed) in [old, new].into_iter().flatten().zip(obeyed) {
                let rules = [rule(text, action)];
                assert_eq!(
                    children_obey(&rules, version, &config),
                    obeyed,
                    "{text} {action:?} with {version}"
                );
            }
        }
        assert!(old.is_some() && new.is_some());
    }
}
