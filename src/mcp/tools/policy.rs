//! The permission policy of a new task: its own rules joined with the configuration's.
//!
//! In: argument `permissions`. Out: rules of which the last that matches holds, ordered so that a denial beats a question
//! and a question beats a grant, whoever said them: a task cannot loosen what the configuration forbids or asks for.

use chargehand_actors::command::{PermissionAction, PermissionRule};

use crate::config::PermissionSettings;
use crate::mcp::args::{Arg, Args, BadArguments, Kind, Problem};

const RULES: Kind = Kind::Texts {
    max_items: 100,
    max_chars: 500,
};

/// Fields of `permissions`.
pub(crate) const PERMISSIONS: [Arg; 3] = [
    Arg::optional("allow", RULES, "May be done without asking."),
    Arg::optional(
        "ask",
        RULES,
        "Must be asked for; refused at once unless the task is attended.",
    ),
    Arg::optional("deny", RULES, "May not be done."),
];

/// The policy of a task.
pub(crate) fn join(
    args: &Args,
    configured: &PermissionSettings,
) -> Result<Vec<PermissionRule>, BadArguments> {
    let own = args.fields("permissions");
    let mut wrong = Vec::new();
    let mut rules = |name: &str, action| match &own {
        Some(own) => parsed(name, &own.texts(name), action, &mut wrong),
        None => Vec::new(),
    };
    let (allow, ask, deny) = (
        rules("allow", PermissionAction::Allow),
        rules("ask", PermissionAction::Ask),
        rules("deny", PermissionAction::Deny),
    );
    if !wrong.is_empty() {
        return Err(BadArguments(wrong));
    }
    Ok([
        configured.allow.clone(),
        allow,
        ask,
        configured.ask.clone(),
        deny,
        configured.deny.clone(),
    ]
    .concat())
}

fn parsed(
    name: &str,
    texts: &[String],
    action: PermissionAction,
    wrong: &mut Vec<Problem>,
) -> Vec<PermissionRule> {
    let mut rules = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match PermissionRule::parse(text, action) {
            Some(rule) => rules.push(rule),
            None => wrong.push(Problem::new(
                format!("permissions.{name}"),
                format!("entry {index} is no rule"),
                "permission or permission:pattern, such as webfetch or bash:git push*",
            )),
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use chargehand_actors::command::{PermissionAction, PermissionRule};
    use serde_json::{Value, json};

    use super::{PERMISSIONS, join};
    use crate::config::PermissionSettings;
    use crate::mcp::args::{Arg, Args, Kind};

    const ARGS: [Arg; 1] = [Arg::optional("permissions", Kind::Fields(&PERMISSIONS), "")];

    fn args(permissions: &Value) -> Args {
        let given = json!({"permissions": permissions});
        Args::check(&ARGS, given.as_object().unwrap().clone()).unwrap()
    }

    #[test]
    fn denials_come_last_then_questions_then_grants() {
        let rule = |text: &str, action| PermissionRule::parse(text, action).unwrap();
        let configured = PermissionSettings {
            allow: vec![rule("edit", PermissionAction::Allow)],
            ask: vec![rule("webfetch", PermissionAction::Ask)],
            deny: vec![rule("bash:rm *", PermissionAction::Deny)],
        };
        let own = json!({"allow": ["*", "bash: ls *"], "ask": "edit:secret/*", "deny": ["task"]});
        let joined = join(&args(&own), &configured).unwrap();
        let words: Vec<String> = joined
            .iter()
            .map(|rule| {
                format!(
                    "{} {}:{}",
                    rule.action.as_str(),
                    rule.permission,
                    rule.pattern
                )
            })
            .collect();
        assert_eq!(
            words,
            [
                "allow edit:*",
                "allow *:*",
                "allow bash:ls *",
                "ask edit:secret/*",
                "ask webfetch:*",
                "deny task:*",
                "deny bash:rm *",
            ]
        );
        let only = join(&args(&Value::Null), &configured).unwrap();
        assert_eq!(only.len(), 3);
    }

    #[test]
    fn every_wrong_rule_is_named() {
        let own = json!({"allow": ["bash", ":x"], "deny": ["a b:c"]});
        let wrong = join(&args(&own), &PermissionSettings::default()).unwrap_err();
        let fields: Vec<&str> = wrong.0.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["permissions.allow", "permissions.deny"]);
    }
}
