//! `get_task_files` and `read_task_file`: look into a task's workdir, during the run and after it.
//!
//! In: task, path, page. Out: names with sizes and marks; contents as text or base64. The workdir port confines every path.

use chargehand_actors::command::{FilesQuery, ReadFileQuery};
use chargehand_actors::ports::{FileContent, FileKind, FileList};
use schemars::JsonSchema;
use serde::Serialize;

use super::table::{Effect, Tool};
use crate::mcp::answer::{Refusal, output_schema, result};
use crate::mcp::args::{Arg, Args, Default, Kind};
use crate::mcp::call::Call;
use crate::mcp::shapes::mark_word;

/// `get_task_files`.
pub(crate) const LIST: Tool = Tool {
    name: "get_task_files",
    title: "Files of a task",
    about: "List the files in a task's workdir with their sizes and whether the task added, modified or deleted them. Works during the run and after it. Call read_task_file for a file's content.",
    args: &[
        Arg::required("task_id", Kind::TaskId, "The task."),
        Arg::optional(
            "path",
            Kind::Text { min: 0, max: 4_096 },
            "Only paths that start with this, relative to the workdir; / for all.",
        )
        .or(Default::Word("/")),
        Arg::optional(
            "offset",
            Kind::Integer {
                min: 0,
                max: i64::MAX,
            },
            "Skip this many files.",
        )
        .or(Default::Int(0)),
        Arg::optional(
            "limit",
            Kind::Integer { min: 1, max: 2_000 },
            "At most this many files.",
        )
        .or(Default::Int(200)),
    ],
    effect: Effect::Reads,
    open_world: false,
    output: output_schema::<FilesOut>,
    run: |call, args| Box::pin(async move { result(LIST.name, list(&call, &args).await) }),
};

/// `read_task_file`.
pub(crate) const READ: Tool = Tool {
    name: "read_task_file",
    title: "Read a file of a task",
    about: "Read a file of a task's workdir, during the run or after it. Text comes as it is, other content as base64 with its media type. A long file has next_offset: call again with offset=next_offset. Links, devices and paths outside the workdir are refused.",
    args: &[
        Arg::required("task_id", Kind::TaskId, "The task."),
        Arg::required(
            "file_path",
            Kind::Text { min: 1, max: 4_096 },
            "Path relative to the workdir, as get_task_files lists it.",
        ),
        Arg::optional(
            "offset",
            Kind::Integer {
                min: 0,
                max: i64::MAX,
            },
            "First byte.",
        )
        .or(Default::Int(0)),
        Arg::optional(
            "limit",
            Kind::Integer {
                min: 1,
                max: 1_000_000,
            },
            "At most this many bytes.",
        )
        .or(Default::Int(40_000)),
    ],
    effect: Effect::Reads,
    open_world: false,
    output: output_schema::<FileOut>,
    run: |call, args| Box::pin(async move { result(READ.name, read(&call, &args).await) }),
};

#[derive(Debug, Serialize, JsonSchema)]
struct FilesOut {
    /// The task.
    task_id: String,
    /// As asked.
    path: String,
    /// The paths, sorted; deleted files are among them.
    files: Vec<String>,
    /// The same with details.
    entries: Vec<EntryOut>,
    /// How many match in all.
    total: u64,
    /// Skipped before this page.
    offset: u64,
    /// Give this as offset for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<u64>,
    /// The workdir has more files than are looked at.
    cut: bool,
    /// What to know about this list, such as marks that are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// A file.
#[derive(Debug, Serialize, JsonSchema)]
struct EntryOut {
    /// Relative to the workdir.
    path: String,
    /// file, symlink (never followed) or other (never opened).
    kind: &'static str,
    /// Bytes; absent when only reading the file would tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// added, modified or deleted by the task; absent when unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<&'static str>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct FileOut {
    /// The task.
    task_id: String,
    /// Relative to the workdir.
    file_path: String,
    /// The text, or base64.
    content: String,
    /// utf-8 or base64.
    encoding: &'static str,
    /// A guess at the type, such as text/plain.
    media_type: String,
    /// Bytes of the whole file.
    size: u64,
    /// First byte of content.
    offset: u64,
    /// Bytes of the file in content.
    length: u64,
    /// Give this as offset to read on; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<u64>,
    /// Said when the content may differ from the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

// The original took `/` for the workdir; everything else about a path is judged by the workdir port.
fn relative(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    let path = path.strip_prefix("./").unwrap_or(path);
    if path == "." { "" } else { path }
}

async fn list(call: &Call, args: &Args) -> Result<FilesOut, Refusal> {
    let task = args.task()?;
    let path = args.text("path").unwrap_or("/");
    let query = FilesQuery {
        task,
        prefix: relative(path).to_owned(),
        offset: args.count("offset").unwrap_or(0),
        limit: args.count("limit").unwrap_or(200),
    };
    let list = call.edge.tree.files(&call.identity(), query).await?;
    Ok(files_out(task.to_string(), path.to_owned(), list))
}

fn files_out(task_id: String, path: String, list: FileList) -> FilesOut {
    let end = list.offset.saturating_add(list.files.len() as u64);
    FilesOut {
        task_id,
        path,
        files: list.files.iter().map(|file| file.path.clone()).collect(),
        entries: list
            .files
            .into_iter()
            .map(|file| EntryOut {
                path: file.path,
                kind: match file.kind {
                    FileKind::File => "file",
                    FileKind::Symlink => "symlink",
                    FileKind::Other => "other",
                },
                size: file.size,
                change: file.mark.map(mark_word),
            })
            .collect(),
        total: list.total,
        offset: list.offset,
        next_offset: (end < list.total).then_some(end),
        cut: list.cut,
        note: list.note,
    }
}

async fn read(call: &Call, args: &Args) -> Result<FileOut, Refusal> {
    let task = args.task()?;
    // A lower limit of this server makes more pages; `next_offset` leads on.
    let most = call.edge.settings.tasks.max_read_bytes;
    let query = ReadFileQuery {
        task,
        path: args.need_text("file_path")?.to_owned(),
        offset: args.count("offset").unwrap_or(0),
        limit: args.count("limit").unwrap_or(40_000).min(most),
    };
    let file = call.edge.tree.read_file(&call.identity(), query).await?;
    Ok(file_out(task.to_string(), file))
}

fn file_out(task_id: String, file: FileContent) -> FileOut {
    FileOut {
        task_id,
        file_path: file.path,
        content: file.content,
        encoding: if file.binary { "base64" } else { "utf-8" },
        media_type: file.media_type,
        size: file.size,
        offset: file.offset,
        length: file.length,
        next_offset: file.next_offset,
        note: file.note,
    }
}

#[cfg(test)]
mod tests {
    use super::relative;

    #[test]
    fn the_originals_slash_means_the_workdir() {
        for (given, prefix) in [
            ("/", ""),
            ("", ""),
            (".", ""),
            ("./src", "src"),
            ("/src/", "src/"),
            ("src/main.rs", "src/main.rs"),
            ("../x", "../x"),
        ] {
            assert_eq!(relative(given), prefix, "{given}");
        }
    }
}
