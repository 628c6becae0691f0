//! `[auth]`: tokens with their roles, agents and limits.
//!
//! In: the reader. Out: [`AuthSettings`]; what is wrong with a token is a problem that names it, never its value.

use std::path::Path;

use toml::{Table, Value};

use super::Secret;
use super::reader::Reader;
use super::settings::{AuthSettings, CallerLimitSettings, TokenRole, TokenSettings};

/// Everything that a token may say.
const FIELDS: &str = "name, token, token_file, role, agents, max_running, max_queued, calls_per_minute, max_sessions";

pub(super) fn auth(reader: &mut Reader, defaults: &AuthSettings) -> AuthSettings {
    let mut tokens: Vec<TokenSettings> = reader
        .tables("auth.tokens")
        .into_iter()
        .enumerate()
        .filter_map(|(index, table)| token(reader, index, table))
        .collect();
    if let Some((secret, file)) = reader.secret_and_file("auth.token", "auth.token_file") {
        tokens.push(TokenSettings {
            name: "default".to_owned(),
            token: secret,
            file,
            role: TokenRole::Operator,
            agents: Vec::new(),
            limits: CallerLimitSettings::default(),
        });
    }
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    AuthSettings {
        tokens,
        calls_per_minute: small(reader.number(
            "auth.calls_per_minute",
            0..=1_000_000,
            defaults.calls_per_minute.into(),
        )),
        max_sessions_per_token: small(reader.number(
            "auth.max_sessions_per_token",
            1..=100_000,
            defaults.max_sessions_per_token.into(),
        )),
    }
}

fn token(reader: &mut Reader, index: usize, mut table: Table) -> Option<TokenSettings> {
    let at = |field: &str| format!("auth.tokens[{index}].{field}");
    let mut text = |field: &str| match table.remove(field) {
        Some(Value::String(text)) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        _ => None,
    };
    let (name, token, file, role) = (
        text("name"),
        text("token"),
        text("token_file"),
        text("role"),
    );
    let agents = agents(reader, &at("agents"), table.remove("agents"));
    let limits = limits(reader, index, &mut table);
    let name = name.filter(|name| name.chars().count() <= 64 && !name.contains('/'));
    if name.is_none() {
        reader.problem(
            at("name"),
            "is missing",
            "a text of 1 to 64 characters without /",
        );
    }
    let path = file.as_ref().map(|file| reader.at_home(file));
    let token = match (token, file) {
        (Some(token), None) => Some(Secret::new(token)),
        (None, Some(file)) => reader.secret_file(&at("token_file"), Path::new(&file)),
        _ => {
            reader.problem(
                at("token"),
                "is missing, or given twice",
                "exactly one of token and token_file",
            );
            None
        }
    };
    let role = match role.as_deref() {
        None | Some("caller") => Some(TokenRole::Caller),
        Some("operator") => Some(TokenRole::Operator),
        Some(other) => {
            reader.problem(at("role"), format!("is \"{other}\""), "caller or operator");
            None
        }
    };
    for field in table.keys() {
        reader.problem(at(field), "is no setting", FIELDS);
    }
    Some(TokenSettings {
        name: name?,
        token: token?,
        file: path,
        role: role?,
        agents,
        limits,
    })
}

fn agents(reader: &mut Reader, at: &str, value: Option<Value>) -> Vec<String> {
    let Some(value) = value else {
        return Vec::new();
    };
    let texts = value.as_array().and_then(|items| {
        let text = |item: &Value| item.as_str().map(str::trim).map(str::to_owned);
        items.iter().map(text).collect::<Option<Vec<String>>>()
    });
    match texts.filter(|texts| !texts.is_empty() && texts.iter().all(|text| !text.is_empty())) {
        Some(texts) => texts,
        None => {
            reader.problem(
                at,
                "is no list of agent ids",
                "[\"agent-1\", …], or leave it out for any",
            );
            Vec::new()
        }
    }
}

fn limits(reader: &mut Reader, index: usize, table: &mut Table) -> CallerLimitSettings {
    let mut limit = |field: &str, fewest: i64| match table.remove(field) {
        None => None,
        Some(Value::Integer(number)) if (fewest..=1_000_000).contains(&number) => {
            u32::try_from(number).ok()
        }
        Some(other) => {
            reader.problem(
                format!("auth.tokens[{index}].{field}"),
                format!("is {other}"),
                format!("a whole number from {fewest} to 1000000"),
            );
            None
        }
    };
    CallerLimitSettings {
        max_running: limit("max_running", 1),
        max_queued: limit("max_queued", 1),
        calls_per_minute: limit("calls_per_minute", 0),
        max_sessions: limit("max_sessions", 1),
    }
}
