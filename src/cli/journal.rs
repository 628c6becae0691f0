//! `chargehand journal`: looks for damage, copies, exports. Works on the file, also while a server writes to it.
//!
//! In: the configuration (for the data directory) or a file. Out: findings, a copy, events as JSON lines.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use chargehand_actors::id::TaskId;
use chargehand_actors::ports::JournalError;
use serde_json::{Value, json};

use super::args::{
    ConfigArgs, ExportFormat, JournalBackupArgs, JournalCheckArgs, JournalCommand,
    JournalExportArgs,
};
use super::config::settings;
use super::error::{CliError, Exit};
use super::terminal::{GREEN, RED, YELLOW, clean, paint, print, print_json, say};
use crate::adapters::journal::{
    Depth, JournalReport, StoredEvent, backup, export, inspect, tasks_like,
};

/// The journal's name in the data directory.
pub(crate) const JOURNAL: &str = "journal.db";

/// `journal`.
pub(crate) async fn journal(command: &JournalCommand, json: bool) -> Result<Exit, CliError> {
    match command {
        JournalCommand::Check(args) => check(args, json).await,
        JournalCommand::Backup(args) => back_up(args, json).await,
        JournalCommand::Export(args) => print_events(args).await,
    }
}

/// The file that was named, or the journal of the data directory.
fn journal_file(file: Option<&Path>, args: &ConfigArgs) -> Result<PathBuf, CliError> {
    match file {
        Some(file) => Ok(file.to_owned()),
        None => Ok(settings(args, std::collections::BTreeMap::new())?
            .data
            .dir
            .join(JOURNAL)),
    }
}

async fn check(args: &JournalCheckArgs, json: bool) -> Result<Exit, CliError> {
    let file = journal_file(args.file.as_deref(), &args.config)?;
    let report = inspect(&file, Depth::Full).await?;
    let sound = report.findings.is_empty();
    if json {
        let findings: Vec<Value> = report
            .findings
            .iter()
            .map(|finding| json!({"place": finding.place, "what": finding.what}))
            .collect();
        print_json(&json!({
            "ok": sound, "file": file, "schema": report.schema, "tasks": report.tasks,
            "events": report.events, "last_event": report.last_event,
            "findings": findings, "more_findings": report.more,
        }))?;
    } else {
        print(&check_text(&file, &report))?;
    }
    Ok(if sound { Exit::Ok } else { Exit::Failed })
}

fn check_text(file: &Path, report: &JournalReport) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let line = finding.to_string();
        out.push_str(&format!("{} {}\n", paint(RED, "found:"), clean(&line)));
    }
    if report.more > 0 {
        out.push_str(&format!("and {} more\n", report.more));
    }
    let what = format!(
        "{}: {} tasks, {} events, the newest is {}",
        file.display(),
        report.tasks,
        report.events,
        report.last_event
    );
    if report.schema < report.newest_schema {
        out.push_str(&format!(
            "note: its schema is {}; the next start of a server brings it to {}\n",
            report.schema, report.newest_schema
        ));
    }
    if report.findings.is_empty() {
        out.push_str(&format!(
            "{} ({what})\n",
            paint(GREEN, "The journal is sound")
        ));
    } else {
        out.push_str(&format!(
            "{} ({what})\nKeep a copy of it and of its -wal file. A finding about one task concerns that task alone. With findings \
             about the file: put the last good backup in its place (docs/operations.md), or save what can be read with \
             `chargehand journal export`.\n",
            paint(RED, "The journal is not sound")
        ));
    }
    out
}

async fn back_up(args: &JournalBackupArgs, json: bool) -> Result<Exit, CliError> {
    let journal = journal_file(None, &args.config)?;
    let report = backup(&journal, &args.file).await?;
    if json {
        print_json(&json!({
            "file": args.file, "tasks": report.tasks, "events": report.events,
            "last_event": report.last_event, "findings": report.findings.len() as u64 + report.more,
        }))?;
    } else {
        let findings = report.findings.len() as u64 + report.more;
        if findings > 0 {
            say(&format!(
                "{} the journal is copied as it is, with {findings} findings; `chargehand journal check` lists them",
                paint(YELLOW, "warning:")
            ));
        }
        print(&format!(
            "{} holds {} tasks and {} events, up to event {}, and was checked",
            args.file.display(),
            report.tasks,
            report.events,
            report.last_event
        ))?;
    }
    Ok(Exit::Ok)
}

async fn print_events(args: &JournalExportArgs) -> Result<Exit, CliError> {
    let file = journal_file(args.file.as_deref(), &args.config)?;
    let task = match &args.task {
        Some(beginning) => Some(one_task(&file, beginning).await?),
        None => None,
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match args.format {
        ExportFormat::Jsonl => {
            export(&file, task, |event| {
                writeln!(out, "{}", json_line(event)).map_err(CliError::Output)
            })
            .await?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// The only task whose id begins so.
async fn one_task(file: &Path, beginning: &str) -> Result<TaskId, CliError> {
    let beginning = beginning.trim().to_ascii_lowercase();
    let found = tasks_like(file, &beginning).await?;
    match found.as_slice() {
        [id] => TaskId::from_str(id)
            .map_err(|error| CliError::Server(format!("{id} is no task id: {error}"))),
        [] => Err(CliError::Refused(format!(
            "no task of {} has an id that begins with {}",
            file.display(),
            clean(&beginning)
        ))),
        _ => Err(CliError::Refused(format!(
            "more than one task has an id that begins with {}; give more of it",
            clean(&beginning)
        ))),
    }
}

/// One event as JSON. Text of tasks is untrusted: nothing in it can act on a terminal.
fn json_line(event: StoredEvent) -> String {
    let time = jiff::Timestamp::from_millisecond(event.at)
        .map(|time| time.to_string())
        .unwrap_or_default();
    let mut line = json!({
        "number": event.number, "at": event.at, "time": time, "task": event.task,
        "type": event.kind, "version": event.version,
    });
    match event.event {
        Ok(event) => line["event"] = event,
        Err((stored, why)) => {
            line["stored"] = json!(stored);
            line["unreadable"] = json!(why);
        }
    }
    escape(&line.to_string())
}

/// Writes what a terminal may act on as `\uXXXX`. JSON itself does that for characters below U+0020 only; here the others
/// stand in strings.
fn escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if acts(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Controls, and characters that turn the direction of text or are not seen.
const fn acts(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

impl From<JournalError> for CliError {
    fn from(error: JournalError) -> Self {
        Self::Server(error.to_string())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn text_that_acts_on_a_terminal_is_written_as_numbers_and_reads_back_the_same() {
        let said = "a\u{1b}[31m\u{9b}2J\u{202e}b\u{7f}ö\u{e0041}\n";
        let event = StoredEvent {
            number: 1,
            at: 0,
            task: None,
            kind: "remark".to_owned(),
            version: 1,
            event: Ok(json!({"type": "remark", "message": said})),
        };
        let line = json_line(event);
        assert!(!line.chars().any(|c| c.is_control() || acts(c)), "{line}");
        assert!(line.contains('ö'), "{line}");
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["event"]["message"], said);
        assert_eq!(read["time"], "1970-01-01T00:00:00Z");
    }
}
