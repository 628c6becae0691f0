//! `chargehand config`: checks the configuration, or shows what is in force; and the settings of every other command.
//!
//! In: the configuration's flags, file and environment. Out: [`Settings`], every problem and note, or a table of settings with
//! where each came from. Secrets are never printed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::args::{ConfigArgs, ConfigCommand, ConfigShowArgs};
use super::error::{CliError, Exit};
use super::table::{self, Cell};
use super::terminal::{CYAN, DIM, GREEN, RED, YELLOW, clean, one_line, paint, print, print_json};
use crate::config::{
    Checked, Note, Origin, REDACTED, SECRETS, SettingProblem, Settings, Sources, Weight,
};

/// What every source says; `flags` are paths of settings with their values, as a command's own flags give them.
///
/// # Errors
/// [`CliError::Usage`] when the file cannot be read, or a setting is given twice on the command line.
pub(crate) fn checked(
    args: &ConfigArgs,
    mut flags: BTreeMap<String, String>,
) -> Result<Checked, CliError> {
    if let Some(directory) = &args.data_dir {
        flags.insert("data.dir".to_owned(), directory.display().to_string());
    }
    for (name, value) in &args.set {
        if flags.insert(name.clone(), value.clone()).is_some() {
            return Err(CliError::Usage(format!(
                "{name} is given twice on the command line; leave one of them out"
            )));
        }
    }
    Sources::of_process(args.config.as_deref(), flags)
        .map(Settings::check)
        .map_err(|error| CliError::Usage(error.to_string()))
}

/// The settings in force.
///
/// # Errors
/// [`CliError::Usage`] with everything that is wrong.
pub(crate) fn settings(
    args: &ConfigArgs,
    flags: BTreeMap<String, String>,
) -> Result<Settings, CliError> {
    let checked = checked(args, flags)?;
    checked
        .settings
        .map_err(|error| CliError::Usage(error.to_string()))
}

/// `config`.
pub(crate) fn config(command: &ConfigCommand, json: bool) -> Result<Exit, CliError> {
    match command {
        ConfigCommand::Check(args) => check(args, json),
        ConfigCommand::Show(args) => show(args, json),
    }
}

fn check(args: &ConfigArgs, json: bool) -> Result<Exit, CliError> {
    let checked = checked(args, BTreeMap::new())?;
    let problems = match &checked.settings {
        Ok(_) => &[][..],
        Err(error) => error.0.as_slice(),
    };
    if json {
        print_json(&check_json(&checked, problems))?;
    } else {
        print(&check_text(&checked, problems))?;
    }
    Ok(if problems.is_empty() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

fn check_json(checked: &Checked, problems: &[SettingProblem]) -> Value {
    let problems: Vec<Value> = problems
        .iter()
        .map(|p| json!({"setting": p.setting, "problem": p.problem, "allowed": p.allowed}))
        .collect();
    let notes: Vec<Value> = checked
        .notes
        .iter()
        .map(|note| json!({"weight": note.weight.as_str(), "about": note.about, "text": note.text}))
        .collect();
    json!({"ok": problems.is_empty(), "file": checked.file, "problems": problems, "notes": notes})
}

fn check_text(checked: &Checked, problems: &[SettingProblem]) -> String {
    let mut out = String::new();
    for problem in problems {
        let SettingProblem {
            setting,
            problem,
            allowed,
        } = problem;
        let line = format!("{setting} {problem}; allowed: {allowed}");
        out.push_str(&format!("{} {}\n", paint(RED, "problem:"), clean(&line)));
    }
    // What weakens something comes before what is only good to know.
    for weight in [Weight::Warning, Weight::Remark] {
        for note in checked.notes.iter().filter(|note| note.weight == weight) {
            out.push_str(&format!("{}\n", note_line(note)));
        }
    }
    let file = checked.file.as_ref().map_or_else(
        || "no file; environment and defaults".to_owned(),
        |file| file.display().to_string(),
    );
    let verdict = match problems.len() {
        0 => paint(GREEN, "The settings can be used").to_string(),
        1 => paint(RED, "1 problem: the settings cannot be used").to_string(),
        n => paint(RED, format!("{n} problems: the settings cannot be used")).to_string(),
    };
    out.push_str(&format!("{verdict} ({file}).\n"));
    out
}

fn note_line(note: &Note) -> String {
    let style = match note.weight {
        Weight::Warning => YELLOW,
        Weight::Remark => DIM,
    };
    let word = format!("{}:", note.weight.as_str());
    let line = format!("{} {}", note.about, note.text);
    format!("{} {}", paint(style, word), clean(&line))
}

fn show(args: &ConfigShowArgs, json: bool) -> Result<Exit, CliError> {
    let checked = checked(&args.config, BTreeMap::new())?;
    let settings = match &checked.settings {
        Ok(settings) => settings,
        Err(error) => return Err(CliError::Usage(error.to_string())),
    };
    let shown = settings.shown();
    let rows: Vec<(&str, String, Value, &Origin)> = checked
        .origins
        .iter()
        .filter(|(_, origin)| args.all || **origin != Origin::Default)
        .filter_map(|(path, origin)| {
            let given = SECRETS.contains(path) && *origin != Origin::Default;
            let secret = || given.then(|| toml::Value::String(REDACTED.to_owned()));
            let value = shown.get(path).cloned().or_else(secret)?;
            let as_json = serde_json::to_value(&value).unwrap_or_default();
            Some((*path, value.to_string(), as_json, origin))
        })
        .collect();
    if json {
        let settings: Vec<Value> = rows
            .into_iter()
            .map(|(name, _, value, origin)| {
                json!({"name": name, "value": value, "from": origin.to_string()})
            })
            .collect();
        print_json(&json!({"file": checked.file, "settings": settings}))?;
        return Ok(Exit::Ok);
    }
    let mut out = String::new();
    if let Some(file) = &checked.file {
        out.push_str(&format!("file: {}\n", file.display()));
    }
    if rows.is_empty() {
        let all = paint(CYAN, "chargehand config show --all");
        out.push_str(&format!(
            "Every setting has its default; `{all}` lists them.\n"
        ));
    } else {
        let cells: Vec<Vec<Cell>> = rows
            .into_iter()
            .map(|(name, value, _, origin)| {
                vec![
                    Cell::plain(name),
                    Cell::plain(origin.to_string()),
                    Cell::plain(one_line(&value, 400)),
                ]
            })
            .collect();
        out.push_str(&table::render(&["SETTING", "FROM", "VALUE"], &cells));
    }
    print(&out)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::cli::Cli;
    use crate::config::{Settings, Sources};

    /// Every variable of a command and of the commands below it.
    fn variables(command: &clap::Command, found: &mut Vec<String>) {
        let named = command.get_arguments().filter_map(clap::Arg::get_env);
        found.extend(named.map(|name| name.to_string_lossy().into_owned()));
        for below in command.get_subcommands() {
            variables(below, found);
        }
    }

    #[test]
    fn a_variable_of_the_command_line_is_not_taken_for_a_mistyped_setting() {
        let mut found = vec!["CHARGEHAND_DIE_AT".to_owned()];
        variables(&Cli::command(), &mut found);
        assert!(found.len() > 5, "{found:?}");
        for name in found {
            let checked = Settings::check(Sources {
                env: [(name.clone(), "x".to_owned())].into(),
                ..Sources::default()
            });
            assert!(checked.settings.is_ok(), "{name}: {:?}", checked.settings);
        }
    }
}
