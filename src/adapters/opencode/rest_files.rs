//! Files of a directory on an OpenCode server, over its REST routes.
//!
//! In: a directory of the server and path components below it. Out: paths, or the bytes of a file. A path is followed
//! component by component through the server's own listings, which show no links and no devices: what is not listed is
//! not read. `.git` is not looked into.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chargehand_actors::ports::{EngineError, WorkdirError};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use uuid::Uuid;

use super::client::{Bytes, Client, Reply};
use super::wire::{FileNode, WireContent};
use crate::adapters::workdir::{refused, show};

/// Directories asked for and entries seen in one listing, and how long it may take: more, and the list is cut.
const DIRECTORIES: usize = 1_000;
const ENTRIES: usize = 20_000;
const DEPTH: usize = 64;
const TIME: Duration = Duration::from_secs(20);

/// The server gives files only whole, so a longer one is not asked for.
const FILE_LIMIT: usize = 20 * 1024 * 1024;

/// A directory on a server.
pub(super) struct RestFiles<'a> {
    pub(super) client: &'a Client,
    pub(super) directory: &'a str,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Files, as shown to a caller.
    pub(super) files: Vec<String>,
    /// There is more than was looked at.
    pub(super) cut: bool,
    /// Directories that git ignores were not looked into.
    pub(super) ignored: bool,
}

/// A file as the server gave it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    /// Not the bytes of the file: space at its start and end is lost.
    pub(super) trimmed: bool,
}

/// A directory still to be listed.
struct Open {
    parts: Vec<String>,
    /// It is, or lies in, something that git ignores.
    ignored: bool,
}

impl RestFiles<'_> {
    /// All files at or below a path; directories that git ignores only when the path leads into one.
    pub(super) async fn walk(&self, prefix: &[String]) -> Result<Walked, EngineError> {
        let end = Instant::now() + TIME;
        let mut found = Walked::default();
        let mut open = VecDeque::from([Open {
            parts: Vec::new(),
            ignored: false,
        }]);
        let (mut asked, mut seen) = (0, 0);
        while let Some(at) = open.pop_front() {
            if asked >= DIRECTORIES || seen >= ENTRIES || Instant::now() > end {
                found.cut = true;
                break;
            }
            asked += 1;
            let nodes = match self.list(&at.parts).await {
                Ok(nodes) => nodes,
                // It went away meanwhile, or cannot be read.
                Err(EngineError::Fault(_)) if !at.parts.is_empty() => {
                    found.cut = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            seen += nodes.len();
            for node in nodes {
                found.visit(&at, node, prefix, &mut open);
            }
        }
        found.files.sort_unstable();
        Ok(found)
    }

    /// The bytes of a file; `asked` is the path in the caller's words.
    pub(super) async fn read(
        &self,
        parts: &[String],
        asked: &str,
    ) -> Result<Content, WorkdirError> {
        self.find(parts, asked).await?;
        let encoded: Vec<String> = parts
            .iter()
            .map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string())
            .collect();
        match self.raw(&encoded.join("/")).await.map_err(fault)? {
            Bytes::Whole { bytes, web_page } if !web_page || self.gives_bytes().await? => {
                Ok(Content {
                    bytes,
                    trimmed: false,
                })
            }
            Bytes::TooLong(size) => Err(too_large(asked, size)),
            // The route came with a newer version, or does not give this file.
            Bytes::Whole { .. } | Bytes::Missing => self.read_trimmed(parts, asked).await,
        }
    }

    async fn raw(&self, encoded: &str) -> Result<Bytes, EngineError> {
        // This route takes the directory by this name only.
        let query = [("location[directory]", self.directory)];
        let path = format!("/api/fs/read/{encoded}");
        self.client.bytes(&path, &query, FILE_LIMIT).await
    }

    /// A server without the route answers with a web page, and so does one that gives a web page's file: only the first
    /// also has one for a name that does not exist.
    async fn gives_bytes(&self) -> Result<bool, WorkdirError> {
        let nobody = format!("no-such-file-{}", Uuid::new_v4().simple());
        Ok(matches!(
            self.raw(&nobody).await.map_err(fault)?,
            Bytes::Missing
        ))
    }

    async fn read_trimmed(&self, parts: &[String], asked: &str) -> Result<Content, WorkdirError> {
        let path = parts.join("/");
        let query = [("directory", self.directory), ("path", path.as_str())];
        let reply = self.client.get::<WireContent>("/file/content", &query);
        let content = match reply.await.map_err(fault)? {
            Reply::Json(content) => content,
            Reply::Missing | Reply::NoRoute => return Err(missing(asked)),
        };
        if content.encoding != "base64" {
            return Ok(Content {
                bytes: content.content.into_bytes(),
                trimmed: true,
            });
        }
        let bytes = STANDARD.decode(&content.content).map_err(|error| {
            WorkdirError::Fault(format!("the server sent \"{asked}\" garbled: {error}"))
        })?;
        Ok(Content {
            bytes,
            trimmed: false,
        })
    }

    /// Follows a path through the listings to a regular file.
    async fn find(&self, parts: &[String], asked: &str) -> Result<(), WorkdirError> {
        for (depth, name) in parts.iter().enumerate() {
            let above = parts.get(..depth).unwrap_or_default();
            let nodes = match self.list(above).await {
                Ok(nodes) => nodes,
                Err(EngineError::Fault(_)) if depth > 0 => return Err(missing(asked)),
                Err(error) => return Err(fault(error)),
            };
            let last = depth + 1 == parts.len();
            match nodes.iter().find(|node| node.name == *name) {
                None => return Err(missing(asked)),
                Some(node) if node.kind == "directory" && last => {
                    return Err(refused(
                        asked,
                        "it is a directory; list it with get_task_files",
                    ));
                }
                Some(node) if node.kind != "directory" && !last => return Err(missing(asked)),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// One directory.
    pub(super) async fn list(&self, parts: &[String]) -> Result<Vec<FileNode>, EngineError> {
        let path = parts.join("/");
        let query = [("directory", self.directory), ("path", path.as_str())];
        match self.client.get::<Vec<FileNode>>("/file", &query).await? {
            Reply::Json(nodes) => Ok(nodes),
            Reply::Missing | Reply::NoRoute => Err(EngineError::Unreachable(
                "the server lists no files: it has no GET /file".to_owned(),
            )),
        }
    }
}

impl Walked {
    fn visit(&mut self, at: &Open, node: FileNode, prefix: &[String], open: &mut VecDeque<Open>) {
        let name = node.name;
        if name.is_empty() || name.contains('/') || matches!(name.as_str(), "." | ".." | ".git") {
            return;
        }
        let mut parts = at.parts.clone();
        parts.push(name);
        let common = parts.iter().zip(prefix).all(|(part, asked)| part == asked);
        let below = common && parts.len() >= prefix.len();
        if node.kind != "directory" {
            if below {
                self.files.push(show(parts.join("/").as_bytes()));
            }
            return;
        }
        let ignored = at.ignored || node.ignored;
        // Into what git ignores only on the way to what was asked for, and below that.
        let asked_for = !prefix.is_empty() && (at.ignored || parts.len() <= prefix.len());
        if !common {
            return;
        }
        if ignored && !asked_for {
            self.ignored = true;
        } else if parts.len() >= DEPTH {
            self.cut = true;
        } else {
            open.push_back(Open { parts, ignored });
        }
    }
}

/// A call that failed, for a caller.
pub(super) fn fault(error: EngineError) -> WorkdirError {
    WorkdirError::Fault(format!("the OpenCode server: {error}"))
}

fn missing(asked: &str) -> WorkdirError {
    WorkdirError::NotFound(format!(
        "there is no file \"{}\" in the workdir on the OpenCode server (links are not followed)",
        show(asked.as_bytes())
    ))
}

fn too_large(asked: &str, size: Option<u64>) -> WorkdirError {
    let size = size.map_or_else(|| "too large".to_owned(), |size| format!("{size} bytes"));
    WorkdirError::TooLarge(format!(
        "\"{}\" is {size}; the OpenCode server gives files only whole, so more than {FILE_LIMIT} bytes are not read: \
         look at it with a task that prints the part you need",
        show(asked.as_bytes())
    ))
}
