//! Reads single settings by path from flags, environment and file, and collects every problem instead of stopping at the first.
//!
//! In: the merged sources. Out: typed values; at the end [`Read`] with all that is wrong (unknown settings and variables
//! included), where each value came from, and what a person should know.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Secret;
use super::checked::{Note, Origin, Weight};
use super::variables::{PREFIX, is_no_setting, variable_name};
use crate::nearest::nearest;

/// A file that holds a secret is not longer than this.
const SECRET_LIMIT: u64 = 64 * 1024;
/// Where container runtimes put secrets; they choose the rights, and nobody else is in the container.
const MOUNTED_SECRETS: &str = "/run/secrets";

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
    notes: Vec<Note>,
    /// Every setting that was asked for so far, and where its value came from.
    origins: BTreeMap<&'static str, Origin>,
}

/// What reading found out beside the values.
pub(super) struct Read {
    /// Everything that is wrong.
    pub(super) problems: Vec<SettingProblem>,
    /// What to know.
    pub(super) notes: Vec<Note>,
    /// Every setting, and where its value came from.
    pub(super) origins: BTreeMap<&'static str, Origin>,
}

/// A value and where it came from, for a person.
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
            notes: Vec::new(),
            origins: BTreeMap::new(),
        }
    }

    /// Records what a person should know.
    pub(super) fn note(
        &mut self,
        weight: Weight,
        about: impl Into<String>,
        text: impl Into<String>,
    ) {
        self.notes.push(Note {
            about: about.into(),
            text: text.into(),
            weight,
        });
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
        let ours = variable_name(path);
        if self.flags.contains_key(path) || self.variable(&ours).is_some() {
            let winner = if self.flags.contains_key(path) {
                "a flag"
            } else {
                ours.as_str()
            };
            self.note(
                Weight::Remark,
                theirs,
                format!("is not used: {winner} sets {path}"),
            );
        }
        self.implied.insert(path, (value, theirs));
    }

    fn find(&mut self, path: &'static str) -> Option<Found> {
        let in_file = take(&mut self.file, path);
        let name = variable_name(path);
        let (value, origin) = if let Some(text) = self.flags.remove(path) {
            (Value::String(text), Origin::Flag)
        } else if let Some(text) = self.variable(&name) {
            (Value::String(text), Origin::Variable(name))
        } else if let Some((text, theirs)) = self.implied.remove(path) {
            (Value::String(text), Origin::Variable(theirs.to_owned()))
        } else if let Some(value) = in_file {
            (value, Origin::File)
        } else {
            self.origins.insert(path, Origin::Default);
            return None;
        };
        let from = match &origin {
            Origin::Flag | Origin::Variable(_) => format!("{path} ({origin})"),
            Origin::File | Origin::Default => path.to_owned(),
        };
        self.origins.insert(path, origin);
        Some(Found { value, from })
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
            let text = shown(path, &found.value);
            self.problem(found.from, format!("is {text}"), allowed);
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

    /// A text that may be empty.
    pub(super) fn word(&mut self, path: &'static str) -> Option<String> {
        self.parse(path, "a text", |value| {
            value.as_str().map(|text| text.trim().to_owned())
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

    pub(super) fn decimal(
        &mut self,
        path: &'static str,
        range: RangeInclusive<f64>,
        default: f64,
    ) -> f64 {
        let allowed = format!("a number from {} to {}", range.start(), range.end());
        self.parse(path, &allowed, |value| {
            let text = match value {
                Value::String(text) => text.trim().to_owned(),
                Value::Integer(_) | Value::Float(_) => value.to_string(),
                _ => return None,
            };
            let number = text.parse().ok();
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

    /// A list; one text is read as a TOML list when it begins like one, else split at commas.
    pub(super) fn list(&mut self, path: &'static str) -> Vec<String> {
        let texts = |items: &[Value]| {
            items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect()
        };
        self.parse(path, "a list of texts", |value| match value {
            Value::Array(items) => texts(items),
            Value::String(text) if text.trim_start().starts_with('[') => {
                texts(inline(text)?.as_array()?)
            }
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

    /// A table; text is read as TOML, lines or inline. Its content may be secret and is not shown.
    pub(super) fn table(&mut self, path: &'static str) -> Table {
        let Some(Found { value, from }) = self.find(path) else {
            return Table::new();
        };
        let table = match value {
            Value::Table(table) => Some(table),
            Value::String(text) => match inline(&text) {
                Some(Value::Table(table)) => Some(table),
                _ => text.parse().ok(),
            },
            _ => None,
        };
        table.unwrap_or_else(|| {
            self.problem(from, "is no table", "a TOML table");
            Table::new()
        })
    }

    /// A list of tables; text is read as TOML. Its content may be secret and is not shown.
    pub(super) fn tables(&mut self, path: &'static str) -> Vec<Table> {
        let Some(Found { value, from }) = self.find(path) else {
            return Vec::new();
        };
        let value = match value {
            Value::String(text) => inline(&text),
            other => Some(other),
        };
        let tables = match value {
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_table().cloned()).collect()
            }
            _ => None,
        };
        tables.unwrap_or_else(|| {
            self.problem(from, "is no list of tables", "a TOML list of tables");
            Vec::new()
        })
    }

    /// A secret given as it is, or as the name of a file that holds it.
    pub(super) fn secret(&mut self, path: &'static str, file: &'static str) -> Option<Secret> {
        self.secret_and_file(path, file).map(|(secret, _)| secret)
    }

    /// The same, with the file that it came from.
    pub(super) fn secret_and_file(
        &mut self,
        path: &'static str,
        file: &'static str,
    ) -> Option<(Secret, Option<PathBuf>)> {
        // A variable that was meant to be filled in and was not would leave the door open.
        for name in [variable_name(path), variable_name(file)] {
            if self
                .env
                .get(&name)
                .is_some_and(|value| value.trim().is_empty())
            {
                self.problem(name, "is empty", "a value, or no such variable");
            }
        }
        let direct = self.find(path);
        let file = self.find(file);
        if direct.is_some() && self.origins.get(path) == Some(&Origin::Flag) {
            self.note(
                Weight::Warning,
                path,
                "is given on the command line, where every user of this machine can read it; give a file or a variable",
            );
        }
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
                Value::String(text) if !text.trim().is_empty() => Some((Secret::new(text), None)),
                _ => {
                    self.problem(from, "is empty or no text", "a text");
                    None
                }
            },
            (None, Some(Found { value, from })) => match value.as_str() {
                Some(name) => {
                    let path = self.at_home(name);
                    let secret = self.secret_file(&from, &path)?;
                    Some((secret, Some(path)))
                }
                None => {
                    self.problem(from, "is no text", "the path of a file");
                    None
                }
            },
            (None, None) => None,
        }
    }

    /// The content of a file that holds a secret, without the line end. `~/` is the home directory.
    pub(super) fn secret_file(&mut self, setting: &str, path: &Path) -> Option<Secret> {
        let path = self.at_home(&path.to_string_lossy());
        let problem = match read_secret(&path) {
            Ok(text) if text.trim().is_empty() => "which is empty".to_owned(),
            Ok(text) => {
                self.note_rights(&path);
                return Some(Secret::new(text.trim().to_owned()));
            }
            Err(error) => format!("which cannot be read ({error})"),
        };
        self.problem(
            setting,
            format!("names {}, {problem}", path.display()),
            "a file that holds the secret and nothing else",
        );
        None
    }

    /// Warns when every user of this machine can read the file.
    pub(super) fn note_rights(&mut self, path: &Path) {
        let open = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0);
        let about = path.display().to_string();
        let noted = self.notes.iter().any(|note| note.about == about);
        if open && !noted && !path.starts_with(MOUNTED_SECRETS) {
            self.note(
                Weight::Warning,
                about,
                format!(
                    "holds a secret and can be read by every user of this machine; chmod 600 {}",
                    path.display()
                ),
            );
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

    /// All that was found out, unknown settings and variables included.
    pub(super) fn finish(mut self) -> Read {
        let known: Vec<&str> = self.origins.keys().copied().collect();
        let mut unknown = Vec::new();
        leaves(&self.file, "", &mut unknown);
        unknown.extend(self.flags.keys().map(|path| format!("{path} (flag)")));
        let mut problems = Vec::new();
        for path in unknown {
            let bare = path.strip_suffix(" (flag)").unwrap_or(&path);
            let allowed = match nearest(bare, &known) {
                Some(near) => format!("did you mean {near}?"),
                None => "the settings of config/chargehand.toml".to_owned(),
            };
            problems.push((path, "is no setting", allowed));
        }
        problems.extend(self.unknown_variables(&known));
        for (path, problem, allowed) in problems {
            self.problem(path, problem, allowed);
        }
        Read {
            problems: self.problems,
            notes: self.notes,
            origins: self.origins,
        }
    }

    /// Variables with our prefix that nobody reads.
    fn unknown_variables(&self, known: &[&str]) -> Vec<(String, &'static str, String)> {
        let names: Vec<String> = known.iter().map(|path| variable_name(path)).collect();
        // Without the prefix, or any two would look alike.
        let bare: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_prefix(PREFIX))
            .collect();
        let unknown = |(name, value): (&String, &String)| {
            let rest = name.strip_prefix(PREFIX)?;
            if bare.contains(&rest) || is_no_setting(rest, value) {
                return None;
            }
            let allowed = match nearest(rest, &bare) {
                Some(near) => format!("did you mean {PREFIX}{near}?"),
                None => {
                    format!(
                        "{PREFIX}SECTION_NAME of a setting in config/chargehand.toml, or unset it"
                    )
                }
            };
            Some((name.clone(), "is the variable of no setting", allowed))
        };
        self.env.iter().filter_map(unknown).collect()
    }

    /// Every setting that was asked for so far.
    #[cfg(test)]
    pub(super) fn known(&self) -> Vec<&'static str> {
        self.origins.keys().copied().collect()
    }
}

/// Text as a TOML value: a list or an inline table.
fn inline(text: &str) -> Option<Value> {
    let mut table: Table = format!("value = {}", text.trim()).parse().ok()?;
    table.remove("value")
}

fn read_secret(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?
        .take(SECRET_LIMIT + 1)
        .read_to_string(&mut text)?;
    if read as u64 > SECRET_LIMIT {
        return Err(std::io::Error::other("it is longer than 64 KiB"));
    }
    Ok(text)
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

/// A value for a message, cut. An address may have a password before its `@`.
fn shown(path: &str, value: &Value) -> String {
    let text = value.to_string();
    if text.contains('@') && (path.ends_with("url") || text.contains("://")) {
        "no such address (not shown, because it has an @ and may hold a password)".to_owned()
    } else if text.chars().count() > 80 {
        format!("{}…", text.chars().take(80).collect::<String>())
    } else {
        text
    }
}
