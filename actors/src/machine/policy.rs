//! The permission policy of a task: what becomes of a permission that the worker asks for.
//!
//! In: the task's rules, what was granted for good, and what is asked. Out: a [`Ruling`]. Pure. Rules are read as OpenCode
//! reads them: the last one that matches holds, `*` stands for any text, `?` for one character, and `git *` also matches
//! `git` alone.

use crate::command::{PermissionAction, PermissionRule};

/// What somebody allowed with "always": valid for the rest of the task, and never against a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What for.
    pub permission: String,
    /// The commands, paths or addresses that it covers; wildcards as in rules.
    pub patterns: Vec<String>,
}

/// What the policy says about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// Every part of it is allowed.
    Allow,
    /// A person decides: a rule says so, or none matches.
    Ask,
    /// This rule forbids a part of it.
    Deny(PermissionRule),
}

/// Rules on a request that concerns all of `patterns` at once: allowed when every pattern is, denied when one is.
pub(super) fn rule_on(
    rules: &[PermissionRule],
    granted: &[Grant],
    permission: &str,
    patterns: &[String],
) -> Ruling {
    // A request that names nothing is covered only by rules for everything.
    let nothing = [String::new()];
    let patterns = if patterns.is_empty() {
        &nothing[..]
    } else {
        patterns
    };
    let mut all_allowed = true;
    for pattern in patterns {
        match last_match(rules, permission, pattern) {
            Some(rule) if rule.action == PermissionAction::Deny => {
                return Ruling::Deny(rule.clone());
            }
            Some(rule) if rule.action == PermissionAction::Allow => {}
            Some(_) | None => all_allowed &= is_granted(granted, permission, pattern),
        }
    }
    if all_allowed {
        Ruling::Allow
    } else {
        Ruling::Ask
    }
}

fn last_match<'a>(
    rules: &'a [PermissionRule],
    permission: &str,
    pattern: &str,
) -> Option<&'a PermissionRule> {
    rules
        .iter()
        .rev()
        .find(|rule| covers(&rule.permission, permission) && covers(&rule.pattern, pattern))
}

fn is_granted(granted: &[Grant], permission: &str, pattern: &str) -> bool {
    granted.iter().any(|grant| {
        grant.permission == permission && grant.patterns.iter().any(|like| covers(like, pattern))
    })
}

/// Whether `wildcard` matches the whole of `text`.
pub(super) fn covers(wildcard: &str, text: &str) -> bool {
    let of = |text: &str| -> Vec<char> {
        text.chars()
            .map(|c| if c == '\\' { '/' } else { c })
            .collect()
    };
    let (wildcard, text) = (of(wildcard), of(text));
    // "git *" is "git", alone or with anything behind a space.
    let bare = wildcard.strip_suffix(&[' ', '*']);
    bare.is_some_and(|bare| glob(bare, &text)) || glob(&wildcard, &text)
}

/// Goes back to the last `*` where it does not fit: at most wildcard times text steps, whatever they are.
fn glob(wildcard: &[char], text: &[char]) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while place < text.len() {
        match wildcard.get(at) {
            Some('*') => {
                star = Some((at, place));
                at += 1;
            }
            Some('?') => (at, place) = (at + 1, place + 1),
            Some(c) if text.get(place) == Some(c) => (at, place) = (at + 1, place + 1),
            Some(_) | None => match star {
                Some((from, taken)) => {
                    star = Some((from, taken + 1));
                    (at, place) = (from + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    wildcard
        .get(at..)
        .is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str, action: PermissionAction) -> PermissionRule {
        PermissionRule::parse(text, action).unwrap_or_else(|| panic!("bad rule {text}"))
    }

    fn allow(text: &str) -> PermissionRule {
        rule(text, PermissionAction::Allow)
    }

    fn ask(text: &str) -> PermissionRule {
        rule(text, PermissionAction::Ask)
    }

    fn deny(text: &str) -> PermissionRule {
        rule(text, PermissionAction::Deny)
    }

    #[test]
    fn wildcards_match_as_opencode_matches_them() {
        // As OpenCode 1.18.33 answered for these.
        let table = [
            ("*", "", true),
            ("*", "git push origin x", true),
            ("git push*", "git push", true),
            ("git push*", "git pusher", true),
            ("git push *", "git push", true),
            ("git push *", "git push origin x", true),
            ("git push *", "git pusher", false),
            ("echo", "echo hi", false),
            ("echo *", "echo", true),
            ("* secret", "cat secret", true),
            ("* secret", "cat secret ", false),
            ("rm *", "cat <<X\nrm x\nX", false),
            ("cat *", "cat <<X\nhi\nX", true),
            ("ls ?", "ls a", true),
            ("ls ?", "ls ab", false),
            ("ls ?", "ls ", false),
            ("a.b(c)+[d]$", "a.b(c)+[d]$", true),
            ("a.b", "axb", false),
            ("*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false),
            ("src/*.rs", "src\\deep\\x.rs", true),
            ("Git *", "git x", false),
            ("", "", true),
            ("", "x", false),
            (" *", "", true),
        ];
        for (wildcard, text, matches) in table {
            assert_eq!(covers(wildcard, text), matches, "{wildcard:?} on {text:?}");
        }
    }

    #[test]
    fn a_long_text_is_matched_in_reasonable_time() {
        let text = "a".repeat(20_000);
        assert!(!covers(&format!("{}b", "*a".repeat(50)), &text));
    }

    #[test]
    fn the_last_matching_rule_holds() {
        let check = |rules: &[PermissionRule], patterns: &[&str], expected: Ruling| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            assert_eq!(
                rule_on(rules, &[], "bash", &patterns),
                expected,
                "{rules:?} on {patterns:?}"
            );
        };
        check(&[], &["ls"], Ruling::Ask);
        check(&[allow("bash")], &["ls"], Ruling::Allow);
        check(&[allow("edit")], &["ls"], Ruling::Ask);
        check(&[allow("*")], &["ls"], Ruling::Allow);
        check(&[allow("*"), ask("bash:ls *")], &["ls"], Ruling::Ask);
        check(&[ask("bash:ls *"), allow("*")], &["ls"], Ruling::Allow);
        let no_push = deny("bash:git push*");
        check(
            &[allow("*"), no_push.clone()],
            &["git push x"],
            Ruling::Deny(no_push.clone()),
        );
        check(
            &[no_push.clone(), allow("*")],
            &["git push x"],
            Ruling::Allow,
        );
        // One part of a command line decides for all of it.
        let both = [allow("bash"), ask("bash:rm *"), no_push.clone()];
        check(&both, &["ls", "cat x"], Ruling::Allow);
        check(&both, &["ls", "rm x"], Ruling::Ask);
        check(&both, &["rm x", "git push", "ls"], Ruling::Deny(no_push));
        check(&[allow("bash:ls")], &["ls", "id"], Ruling::Ask);
        // Nothing named: only a rule for everything covers it.
        check(&[allow("bash:ls *")], &[], Ruling::Ask);
        check(&[allow("bash")], &[], Ruling::Allow);
    }

    #[test]
    fn what_was_granted_is_not_asked_again_and_loosens_no_denial() {
        let granted = [Grant {
            permission: "bash".to_owned(),
            patterns: vec!["git *".to_owned()],
        }];
        let no_push = deny("bash:git push*");
        let rules = [ask("bash"), no_push.clone()];
        let on = |permission: &str, pattern: &str| {
            rule_on(&rules, &granted, permission, &[pattern.to_owned()])
        };
        assert_eq!(on("bash", "git status"), Ruling::Allow);
        assert_eq!(on("bash", "git push x"), Ruling::Deny(no_push));
        assert_eq!(on("bash", "ls"), Ruling::Ask);
        assert_eq!(on("edit", "git x"), Ruling::Ask);
    }
}
