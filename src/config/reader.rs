//! Reads single settings by path from flags, environment and file, and collects every problem instead of stopping at the first.
//!
//! In: the merged sources. Out: typed values; at the end [`ConfigError`] with all that is wrong, unknown settings included.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Secret;
use crate::nearest::nearest;

/// One wrong setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingProblem {
    /// Its path, such as `server.bind`, and where its value came from.
    pub setting: String,
    /// What is wrong, with the value unless it is secret.
    pub problem: String,
    /// What is allowed, or what to do.
    pub allowed: String,
}

/// Why the settings cannot be used. Says everything at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<SettingProblem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings cannot be used; nothing was started")?;
        for problem in &self.0 {
            write!(
                f,
                "\n  {} {}; allowed: {}",
                problem.setting, problem.problem, problem.allowed
            )?;
        }
        Ok(())
    }
}

/// Settings by path.
pub(super) struct Reader {
    file: Table,
    env: BTreeMap<String, String>,
    flags: BTreeMap<String, String>,
    implied: BTreeMap<&'static str, (String, &'static str)>,
    problems: Vec<SettingProblem>,
    known: Vec<&'static str>,
}

/// A value and where it came from.
struct Found {
    value: Value,
    from: String,
}

impl Reader {
    pub(super) fn new(
        file: Table,
        env: BTreeMap<String, String>,
        flags: BTreeMap<String, String>,
    ) -> Self {
        Self {
            file,
            env,
            flags,
            implied: BTreeMap::new(),
            problems: Vec::new(),
            known: Vec::new(),
        }
    }

    /// Records a problem found by a rule that joins several settings.
    pub(super) fn problem(
        &mut self,
        setting: impl Into<String>,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        self.problems.push(SettingProblem {
            setting: setting.into(),
            problem: problem.into(),
            allowed: allowed.into(),
        });
    }

    /// An environment variable as it is.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.env
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    }

    /// Whether the setting is given anywhere.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.flags.contains_key(path)
            || self.variable(&variable_name(path)).is_some()
            || look_up(&self.file, path).is_some()
    }

    /// Sets a value below flags and `CHARGEHAND_*`, above the file; `theirs` is the variable of the original that says so.
    pub(super) fn imply(&mut self, path: &'static str, value: String, theirs: &'static str) {
        self.implied.insert(path, (value, theirs));
    }

    fn find(&mut self, path: &'static str) -> Option<Found> {
        self.known.push(path);
        let in_file = take(&mut self.file, path);
        if let Some(text) = self.flags.remove(path) {
            return Some(Found {
                value: Value::String(text),
                from: format!("{path} (flag)"),
            });
        }
        let name = variable_name(path);
        if let Some(text) = self.variable(&name) {
            return Some(Found {
                value: Value::String(text),
                from: format!("{path} ({name})"),
            });
        }
        if let Some((text, theirs)) = self.implied.remove(path) {
            return Some(Found {
                value: Value::String(text),
                from: format!("{path} ({theirs})"),
            });
        }
        in_file.map(|value| Found {
            value,
            from: path.to_owned(),
        })
    }

    fn parse<T>(
        &mut self,
        path: &'static str,
        allowed: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let found = self.find(path)?;
        let parsed = parse(&found.value);
        if parsed.is_none() {
            self.problem(found.from, format!("is {}", shown(&found.value)), allowed);
        }
        parsed
    }

    pub(super) fn text(&mut self, path: &'static str) -> Option<String> {
        self.parse(path, "a text that is not empty", |value| {
            value
                .as_str()
                .map(str::trim)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        })
    }

    pub(super) fn parsed<T: std::str::FromStr>(
        &mut self,
        path: &'static str,
        allowed: &str,
    ) -> Option<T> {
        self.parse(path, allowed, |value| value.as_str()?.trim().parse().ok())
    }

    pub(super) fn number(
        &mut self,
        path: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.parse(path, &allowed, |value| {
            let number = match value {
                Value::Integer(number) => u64::try_from(*number).ok(),
                Value::String(text) => text.trim().parse().ok(),
                _ => None,
            };
            number.filter(|number| range.contains(number))
        })
        .unwrap_or(default)
    }

    pub(super) fn flag(&mut self, path: &'static str, default: bool) -> bool {
        self.parse(path, "true or false", |value| match value {
            Value::Boolean(flag) => Some(*flag),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        })
        .unwrap_or(default)
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        path: &'static str,
        words: &[(&str, T)],
        default: T,
    ) -> T {
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.parse(path, &allowed.join(" or "), |value| {
            let text = value.as_str()?.trim();
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value)
        })
        .unwrap_or(default)
    }

    /// A list; one text is split at commas.
    pub(super) fn list(&mut self, path: &'static str) -> Vec<String> {
        self.parse(path, "a list of texts", |value| match value {
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect(),
            Value::String(text) => Some(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(str::to_owned)
                    .collect(),
            ),
            _ => None,
        })
        .unwrap_or_default()
    }

    /// A table; text is read as TOML. Its content may be secret and is not shown.
    pub(super) fn table(&mut self, path: &'static str) -> Table {
        let Some(Found { value, from }) = self.find(path) else {
            return Table::new();
        };
        let table = match value {
            Value::Table(table) => Some(table),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        table.unwrap_or_else(|| {
            self.problem(from, "is no table", "a TOML table");
            Table::new()
        })
    }

    /// A list of tables. Its content may be secret and is not shown.
    pub(super) fn tables(&mut self, path: &'static str) -> Vec<Table> {
        let Some(Found { value, from }) = self.find(path) else {
            return Vec::new();
        };
        let tables = match value {
            Value::Array(items) => items.iter().map(|item| item.as_table().cloned()).collect(),
            _ => None,
        };
        tables.unwrap_or_else(|| {
            self.problem(from, "is no list of tables", "a TOML list of tables");
            Vec::new()
        })
    }

    /// A secret given as it is, or as the name of a file that holds it.
    pub(super) fn secret(&mut self, path: &'static str, file: &'static str) -> Option<Secret> {
        let direct = self.find(path);
        let file = self.find(file);
        match (direct, file) {
            (Some(_), Some(file)) => {
                self.problem(
                    file.from,
                    format!("is given together with {path}"),
                    "only one",
                );
                None
            }
            (Some(Found { value, from }), None) => match value {
                Value::String(text) if !text.trim().is_empty() => Some(Secret::new(text)),
                _ => {
                    self.problem(from, "is empty or no text", "a text");
                    None
                }
            },
            (None, Some(Found { value, from })) => match value.as_str() {
                Some(name) => self.secret_file(&from, Path::new(name)),
                None => {
                    self.problem(from, "is no text", "the path of a file");
                    None
                }
            },
            (None, None) => None,
        }
    }

    /// The content of a file that holds a secret, without the line end.
    pub(super) fn secret_file(&mut self, setting: &str, path: &Path) -> Option<Secret> {
        match std::fs::read_to_string(path) {
            Ok(text) if !text.trim().is_empty() => Some(Secret::new(text.trim().to_owned())),
            Ok(_) => {
                self.problem(
                    setting,
                    format!("names {}, which is empty", path.display()),
                    "a file that holds the secret",
                );
                None
            }
            Err(error) => {
                self.problem(
                    setting,
                    format!("names {}, which cannot be read ({error})", path.display()),
                    "a file that holds the secret",
                );
                None
            }
        }
    }

    /// A path; `~/` is the home directory.
    pub(super) fn path(&mut self, path: &'static str) -> Option<PathBuf> {
        let text = self.text(path)?;
        Some(self.at_home(&text))
    }

    /// Replaces a leading `~/`.
    pub(super) fn at_home(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), self.variable("HOME")) {
            (Some(rest), Some(home)) => Path::new(&home).join(rest),
            _ => PathBuf::from(text),
        }
    }

    /// Every problem, unknown settings included; `Ok` when there is none.
    pub(super) fn finish(mut self) -> Result<(), ConfigError> {
        let mut unknown = Vec::new();
        leaves(&self.file, "", &mut unknown);
        unknown.extend(self.flags.keys().cloned());
        for path in unknown {
            let allowed = match nearest(&path, &self.known) {
                Some(near) => format!("did you mean {near}?"),
                None => "the settings of config/chargehand.toml".to_owned(),
            };
            self.problem(path, "is no setting", allowed);
        }
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError(self.problems))
        }
    }

    /// Every setting that was asked for so far.
    #[cfg(test)]
    pub(super) fn known(&self) -> Vec<&'static str> {
        self.known.clone()
    }
}

/// `server.bind` -> `CHARGEHAND_SERVER_BIND`.
pub(super) fn variable_name(path: &str) -> String {
    format!("CHARGEHAND_{}", path.replace('.', "_").to_ascii_uppercase())
}

fn look_up<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => table.get(path),
        Some((section, rest)) => look_up(table.get(section)?.as_table()?, rest),
    }
}

fn take(table: &mut Table, path: &str) -> Option<Value> {
    match path.split_once('.') {
        None => table.remove(path),
        Some((section, rest)) => take(table.get_mut(section)?.as_table_mut()?, rest),
    }
}

fn leaves(table: &Table, prefix: &str, found: &mut Vec<String>) {
    for (name, value) in table {
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            Value::Table(inner) => leaves(inner, &path, found),
            _ => found.push(path),
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 {
        format!("{}…", text.chars().take(80).collect::<String>())
    } else {
        text
    }
}
