//! The commands that read: tasks, show, logs, diff, files, cat, tree, health.
//!
//! In: their arguments. Out: text or JSON on standard output. None of them changes anything.

use std::time::Duration;

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answers::{ListedTask, TaskList, TaskStatus};
use super::args::{CatArgs, FilesArgs, LogsArgs, TaskArg, TasksArgs};
use super::client::Client;
use super::error::{CliError, Exit};
use super::table::{self, Cell};
use super::terminal::{
    DIM, bytes, clean, duration, one_line, paint, phase_style, print, print_json, print_raw,
};
use super::{diff, report, terminal, tree};

/// How often `logs --follow` looks for more output.
const LOG_POLL: Duration = Duration::from_millis(400);
/// Bytes of a file in one answer.
const FILE_PIECE: u64 = 262_144;

/// `tasks`.
pub(crate) async fn tasks(client: &Client, args: &TasksArgs, json: bool) -> Result<Exit, CliError> {
    let mut arguments = json!({ "limit": args.limit.min(100) });
    if !args.state.is_empty() {
        arguments["state"] = json!(args.state);
    }
    if let Some(label) = &args.label {
        arguments["label"] = json!(label);
    }
    if let Some(agent) = &args.agent_id {
        arguments["agent_id"] = json!(agent);
    }
    let mut found: Vec<Value> = Vec::new();
    loop {
        let page = client.call("list_tasks", arguments.clone()).await?;
        found.extend(page["tasks"].as_array().cloned().unwrap_or_default());
        match page["next_cursor"].as_str() {
            Some(cursor) if !cursor.is_empty() && found.len() < args.limit as usize => {
                arguments["cursor"] = json!(cursor);
            }
            _ => break,
        }
    }
    found.truncate(args.limit as usize);
    let all = json!({ "tasks": found });
    if json {
        print_json(&all)?;
        return Ok(Exit::Ok);
    }
    let list: TaskList = client.decode(all)?;
    if list.tasks.is_empty() {
        print("no tasks; `chargehand run \"TASK\"` starts one")?;
        return Ok(Exit::Ok);
    }
    print(&task_table(&list, Timestamp::now().as_millisecond()))?;
    Ok(Exit::Ok)
}

/// The table of tasks as of `now_ms`.
pub(crate) fn task_table(list: &TaskList, now_ms: i64) -> String {
    let rows: Vec<Vec<Cell>> = list
        .tasks
        .iter()
        .map(|task| {
            let id: String = task.task_id.chars().take(8).collect();
            vec![
                Cell::plain(clean(&id)),
                Cell::styled(clean(&task.phase), phase_style(&task.phase)),
                Cell::plain(report::ago(task.created_at, now_ms)),
                Cell::plain(took(task)),
                Cell::plain(one_line(&task.agent_id, 20)),
                Cell::plain(one_line(&task.description, 60)),
            ]
        })
        .collect();
    table::render(&["ID", "PHASE", "CREATED", "TOOK", "BY", "TASK"], &rows)
}

fn took(task: &ListedTask) -> String {
    match (task.started_at, task.completed_at) {
        (Some(from), Some(to)) => duration(u64::try_from(to - from).unwrap_or(0)),
        _ => String::new(),
    }
}

/// `show`.
pub(crate) async fn show(client: &Client, args: &TaskArg, json: bool) -> Result<Exit, CliError> {
    let task = client.task_id(&args.id).await?;
    let answer = client
        .call("get_task_status", json!({ "task_id": task }))
        .await?;
    if json {
        print_json(&answer)?;
    } else {
        let status: TaskStatus = client.decode(answer)?;
        print(&report::details(&status, Timestamp::now().as_millisecond()))?;
    }
    Ok(Exit::Ok)
}

/// `logs`.
pub(crate) async fn logs(client: &Client, args: &LogsArgs, json: bool) -> Result<Exit, CliError> {
    let task = client.task_id(&args.task.id).await?;
    let mut offset = 0;
    // With --follow the last look at the output comes after the end was seen, so that nothing is missed.
    let mut ended = !args.follow;
    loop {
        let piece = client.text(&task, "output", offset).await?;
        if json && !piece.text.is_empty() {
            print_raw(
                json!({ "offset": offset, "text": piece.text })
                    .to_string()
                    .as_bytes(),
            )?;
            print_raw(b"\n")?;
        } else {
            print_raw(clean(&piece.text).as_bytes())?;
        }
        let moved = piece.next_offset > offset;
        offset = piece.next_offset.max(offset);
        if moved && offset < piece.total {
            continue;
        }
        if ended {
            return Ok(Exit::Ok);
        }
        let status: TaskStatus = client
            .call_as("get_task_status", json!({ "task_id": task }))
            .await?;
        ended = status.is_final();
        if !ended {
            tokio::time::sleep(LOG_POLL).await;
        }
    }
}

/// `diff`.
pub(crate) async fn diff(client: &Client, args: &TaskArg, json: bool) -> Result<Exit, CliError> {
    let task = client.task_id(&args.id).await?;
    let text = patch(client, &task, u64::MAX).await?;
    if json {
        print_json(&json!({ "task_id": task, "diff": text }))?;
    } else if terminal::wants_colours() {
        print(&diff::render(&text))?;
    } else {
        // For `git apply`: exactly as it is.
        print_raw(text.as_bytes())?;
    }
    Ok(Exit::Ok)
}

/// The diff of a task, at most about `most` bytes of it.
pub(crate) async fn patch(client: &Client, task: &str, most: u64) -> Result<String, CliError> {
    let mut text = String::new();
    let mut offset = 0;
    loop {
        let piece = client.text(task, "patch", offset).await?;
        text.push_str(&piece.text);
        if piece.next_offset <= offset || piece.next_offset >= piece.total.min(most) {
            return Ok(text);
        }
        offset = piece.next_offset;
    }
}

/// `files`.
pub(crate) async fn files(client: &Client, args: &FilesArgs, json: bool) -> Result<Exit, CliError> {
    let task = client.task_id(&args.task.id).await?;
    let mut arguments = json!({ "task_id": task, "path": args.prefix, "limit": 1000 });
    let mut entries: Vec<Value> = Vec::new();
    loop {
        let page = client.call("get_task_files", arguments.clone()).await?;
        let found = page["entries"].as_array().cloned().unwrap_or_default();
        let (count, total) = (found.len(), page["total"].as_u64().unwrap_or(0));
        entries.extend(found);
        if count == 0 || entries.len() as u64 >= total {
            break;
        }
        arguments["offset"] = json!(entries.len());
    }
    if args.changed {
        entries.retain(|entry| entry["change"].is_string());
    }
    if json {
        print_json(&json!({ "task_id": task, "files": entries }))?;
    } else {
        print(&file_table(&entries))?;
    }
    Ok(Exit::Ok)
}

/// The list of files, one a line, with the mark of what was changed.
pub(crate) fn file_table(entries: &[Value]) -> String {
    let rows: Vec<Vec<Cell>> = entries
        .iter()
        .map(|entry| {
            let (mark, style) = report::change_mark(entry["change"].as_str().unwrap_or_default());
            vec![
                Cell::styled(mark, style),
                Cell::plain(entry["size"].as_u64().map_or_else(|| "-".to_owned(), bytes)),
                Cell::styled(clean(entry["path"].as_str().unwrap_or_default()), style),
            ]
        })
        .collect();
    table::render(&[" ", "SIZE", "PATH"], &rows)
}

/// `cat`.
pub(crate) async fn cat(client: &Client, args: &CatArgs, json: bool) -> Result<Exit, CliError> {
    let task = client.task_id(&args.task.id).await?;
    let mut offset = 0;
    loop {
        let arguments = json!({
            "task_id": task, "file_path": args.path, "offset": offset, "limit": FILE_PIECE,
        });
        let piece = client.call("read_task_file", arguments).await?;
        if json {
            print_json(&piece)?;
        } else {
            print_raw(&content(client, &piece)?)?;
        }
        match piece["next_offset"].as_u64() {
            Some(next) if next > offset => offset = next,
            _ => return Ok(Exit::Ok),
        }
    }
}

fn content(client: &Client, piece: &Value) -> Result<Vec<u8>, CliError> {
    let text = piece["content"].as_str().unwrap_or_default();
    if piece["encoding"] == "base64" || piece["binary"] == true {
        return base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|error| CliError::NotChargehand {
                url: client.url(),
                what: format!("the file's base64 is broken: {error}"),
            });
    }
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return Ok(clean(text).into_owned().into_bytes());
    }
    Ok(text.as_bytes().to_vec())
}

/// `tree`.
pub(crate) async fn tree(client: &Client, json: bool) -> Result<Exit, CliError> {
    let answer = client.get("/debug/tree").await?;
    if json {
        print_json(&answer)?;
    } else {
        print(&tree::render(&client.decode(answer)?))?;
    }
    Ok(Exit::Ok)
}

/// `health`: exit code 0 only when the server takes tasks.
pub(crate) async fn health(client: &Client, json: bool) -> Result<Exit, CliError> {
    let answer = client.call("health", json!({})).await?;
    let exit = if answer["metrics"]["can_accept_task"] == true {
        Exit::Ok
    } else {
        Exit::Failed
    };
    if json {
        print_json(&answer)?;
    } else {
        print(&health_table(&answer, Timestamp::now().as_millisecond()))?;
    }
    Ok(exit)
}

/// The health of the parts as of `now_ms`.
pub(crate) fn health_table(health: &Value, now_ms: i64) -> String {
    let status = health["status"].as_str().unwrap_or("unknown");
    let mut out = format!("{}\n\n", paint(phase_style(status), clean(status)));
    let rows: Vec<Vec<Cell>> = health["parts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|part| {
            let state = part["state"].as_str().unwrap_or_default();
            vec![
                Cell::plain(one_line(part["name"].as_str().unwrap_or_default(), 30)),
                Cell::styled(one_line(state, 12), phase_style(state)),
                Cell::styled(
                    report::ago(part["since"].as_i64().unwrap_or(now_ms), now_ms),
                    DIM,
                ),
                Cell::plain(one_line(part["detail"].as_str().unwrap_or_default(), 120)),
            ]
        })
        .collect();
    out.push_str(&table::render(&["PART", "STATE", "SINCE", "DETAIL"], &rows));
    out
}
