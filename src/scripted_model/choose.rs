//! Finds the turn that a request gets. Pure: everything is read from the request.
//!
//! In: the body of a chat request and the scenarios. Out: a [`Choice`], or why an inline script cannot be read.
//!
//! The rule, for a request that offers tools:
//! 1. The newest user message with an inline script is the anchor. So a prompt without a script (a planner's message, a
//!    resume, a nudge) goes on with the script of an earlier one.
//! 2. Without any, the newest user message that contains a scenario's `contains` is the anchor; without that, the first
//!    user message with the first scenario that has no `contains`.
//! 3. User messages after the anchor are taken in order: one that contains the text of an `on_message` of the script in
//!    force becomes the anchor, with that entry's turns.
//! 4. The turn number is the count of assistant messages after the anchor; past the end the last turn is repeated.
//!    (OpenCode leaves out an answer that broke before it said anything: its turn is given again.)
//!
//! A request without tools wants a title or a summary, and gets a plain one.

use serde_json::Value;

use super::script::{OnMessage, Scenario, Turn};

const OPEN: &str = "<script>";
const CLOSE: &str = "</script>";

/// What a request says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Model id asked for.
    pub(super) model: String,
    /// Working directory by the system prompt; empty when it names none.
    pub(super) cwd: String,
    /// Newest tool result.
    pub(super) last_tool: String,
    /// Tools are offered.
    pub(super) tools: bool,
    /// User messages in order, each with the number of assistant messages after it.
    pub(super) users: Vec<(String, usize)>,
}

/// The turn to play.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    /// Name of the scenario.
    pub(super) scenario: String,
    /// Its turn, from 0, after the repeat of the last one is taken into account.
    pub(super) number: usize,
    /// What to play.
    pub(super) turn: Turn,
    /// The same for every request of this session that reaches this turn.
    pub(super) key: String,
}

/// Reads the facts of a chat request.
pub(super) fn facts(body: &Value) -> Facts {
    let mut facts = Facts {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        tools: body["tools"].as_array().is_some_and(|t| !t.is_empty()),
        ..Facts::default()
    };
    for message in body["messages"].as_array().into_iter().flatten() {
        let text = text_of(&message["content"]);
        match message["role"].as_str().unwrap_or_default() {
            "user" => facts.users.push((text, 0)),
            "assistant" => facts.users.iter_mut().for_each(|user| user.1 += 1),
            "tool" => facts.last_tool = text,
            "system" | "developer" if facts.cwd.is_empty() => {
                facts.cwd = working_directory(&text).unwrap_or_default().to_owned();
            }
            _ => {}
        }
    }
    facts
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}

fn working_directory(system: &str) -> Option<&str> {
    system
        .lines()
        .find_map(|line| line.trim().strip_prefix("Working directory:"))
        .map(str::trim)
}

/// Finds the turn. `Err` says what is wrong with an inline script.
pub(super) fn choose(facts: &Facts, scenarios: &[Scenario]) -> Result<Choice, String> {
    if !facts.tools {
        return Ok(plain("title", "Scripted task"));
    }
    let Some((anchor, scenario)) = find_script(facts, scenarios)? else {
        return Ok(plain(
            "none",
            "No script: put one between the script tags of the prompt, or give the model a scenario that fits.",
        ));
    };
    let (anchor, turns) = follow_messages(facts, anchor, &scenario);
    let (text, answered) = &facts.users[anchor];
    let number = (*answered).min(turns.len().saturating_sub(1));
    Ok(Choice {
        number,
        turn: turns.get(number).cloned().unwrap_or_default(),
        key: format!("{}\n{number}\n{}\n{text}", scenario.name, facts.cwd),
        scenario: scenario.name,
    })
}

fn plain(name: &str, text: &str) -> Choice {
    Choice {
        scenario: name.to_owned(),
        number: 0,
        turn: Turn {
            text: text.to_owned(),
            ..Turn::default()
        },
        key: String::new(),
    }
}

/// Rules 1 and 2: the script and the place of its user message.
fn find_script(facts: &Facts, scenarios: &[Scenario]) -> Result<Option<(usize, Scenario)>, String> {
    let newest_first = || facts.users.iter().enumerate().rev();
    for (place, (text, _)) in newest_first() {
        if let Some(json) = inline(text) {
            let mut scenario: Scenario = serde_json::from_str(json)
                .map_err(|e| format!("the script in the prompt cannot be read: {e}"))?;
            if scenario.name.is_empty() {
                scenario.name = "inline".to_owned();
            }
            return Ok(Some((place, scenario)));
        }
    }
    let of_model = |s: &&Scenario| s.matches.model.as_ref().is_none_or(|m| *m == facts.model);
    for (place, (text, _)) in newest_first() {
        let hit = scenarios.iter().filter(of_model).find(|s| {
            s.matches
                .contains
                .as_ref()
                .is_some_and(|part| text.contains(part))
        });
        if let Some(scenario) = hit {
            return Ok(Some((place, scenario.clone())));
        }
    }
    let any = scenarios
        .iter()
        .filter(of_model)
        .find(|s| s.matches.contains.is_none());
    Ok(any
        .filter(|_| !facts.users.is_empty())
        .map(|scenario| (0, scenario.clone())))
}

/// The text between the first opening and the first closing tag.
fn inline(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(OPEN)?;
    rest.split_once(CLOSE).map(|(json, _)| json)
}

/// Rule 3: where later user messages lead.
fn follow_messages<'a>(
    facts: &Facts,
    mut anchor: usize,
    scenario: &'a Scenario,
) -> (usize, &'a [Turn]) {
    let mut turns: &[Turn] = &scenario.turns;
    let mut branches: &[OnMessage] = &scenario.on_message;
    for (place, (text, _)) in facts.users.iter().enumerate().skip(anchor + 1) {
        if let Some(branch) = branches.iter().find(|b| text.contains(&b.contains)) {
            anchor = place;
            turns = &branch.turns;
            branches = &branch.on_message;
        }
    }
    (anchor, turns)
}
