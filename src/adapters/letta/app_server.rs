//! Letta Code's App Server: a task's memory is a file of its agent, a notice is a message of a conversation.
//!
//! In: tasks and notices. Out: WebSocket requests. A memory file in the root of an agent's memory is part of the prompt of
//! new conversations, and of one that runs after that was recompiled. Its path is made from the task's id, so a repeat
//! writes the same file. The end of a turn is never waited for, its beginning is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use chargehand_actors::crash::CrashPoint;
use chargehand_actors::ports::{
    Delivered, LeftMemory, MemoryPage, MemoryPlace, Notice, PlannerError, Written,
};
use chargehand_actors::view::TaskView;
use serde_json::{Value, json};

use super::app_server_turn::{Fate, Turn};
use super::json_block;
use super::settings::{Format, LettaSettings};
use super::socket::{Socket, Sockets, failed};
use super::text::{self, Style};
use crate::labels::text_memory as label;

/// A plain scalar of the front matter: no colon followed by a space.
const DESCRIPTION: &str = "A development task that you delegated with opencode_execute_task. Not to be edited, for the task server keeps it current and removes it some time after the task has ended. You need not poll.";
/// Where files are that no prompt holds.
const ASIDE: &str = "tasks";
/// Agents whose memory is looked through for what was left.
const AGENTS: u32 = 200;
/// How long a message's turn is listened for. The call has a minute.
const BEGIN_LIMIT: Duration = Duration::from_secs(35);
/// How long the queue is waited for when there may be something in it.
const QUEUE_LIMIT: Duration = Duration::from_secs(3);
/// Messages that are searched for a notice that may have arrived.
const RECENT: u32 = 100;

/// One server.
#[derive(Debug)]
pub(super) struct AppServer {
    sockets: Sockets,
    settings: LettaSettings,
}

impl AppServer {
    pub(super) const fn new(sockets: Sockets, settings: LettaSettings) -> Self {
        Self { sockets, settings }
    }

    const fn style(&self) -> Style<'_> {
        Style {
            prefix: self.settings.tool_prefix.as_str(),
            words: self.settings.words,
        }
    }

    /// Kind, version and address, for health.
    pub(super) async fn probe(&self) -> Result<String, PlannerError> {
        let mut socket = self.sockets.open().await?;
        let request = json!({"type": "app_server_info"});
        let info = socket
            .call("say what it is", request, "app_server_info_response")
            .await?;
        socket.close().await;
        if info["capabilities"]["memory_management"] == false {
            return Err(PlannerError::Refused(
                "Letta's App Server offers no access to its agents' memory".to_owned(),
            ));
        }
        let version = info["letta_code_version"]
            .as_str()
            .unwrap_or("of unknown version");
        Ok(format!(
            "letta app server {} at {}",
            text::safe(version, 40),
            self.sockets.address()
        ))
    }

    fn file(&self, view: &TaskView, page: &MemoryPage) -> String {
        let says = match self.settings.format {
            Format::Text => text::memory(page, &self.style()),
            Format::Json { events, limit } => {
                json_block::block(page, events, limit, self.settings.words)
            }
        };
        format!(
            "---\nname: {}\ndescription: {DESCRIPTION} {}{})\n---\n{says}\n",
            label(view.id),
            self.owner(),
            view.id
        )
    }

    /// What says in a file's description, before the task's id, that it is this instance's. A key of its own would be refused:
    /// Letta's commit hook allows `name` and `description` (seen with 0.34.12).
    fn owner(&self) -> String {
        format!("(chargehand {} ", self.settings.instance)
    }

    pub(super) async fn write(
        &self,
        page: MemoryPage,
        at: Option<MemoryPlace>,
    ) -> Result<Written, PlannerError> {
        let view = &page.view;
        let content = self.file(view, &page);
        let digest = digest(&content);
        let label = label(view.id);
        let path = if self.settings.attach {
            format!("{label}.md")
        } else {
            format!("{ASIDE}/{label}.md")
        };
        if let Some(at) = at.filter(|at| at.digest == digest) {
            return Ok(Written {
                place: at,
                changed: false,
            });
        }
        let mut socket = self.sockets.open().await?;
        write_file(&mut socket, &view.caller.agent_id, &path, &content).await?;
        CrashPoint::MemoryMade.pass();
        if self.settings.attach {
            self.recompile(&mut socket, view).await?;
        }
        CrashPoint::MemoryAttached.pass();
        socket.close().await;
        Ok(Written {
            place: MemoryPlace {
                id: path,
                label,
                digest,
                remade: 0,
                only: true,
            },
            changed: true,
        })
    }

    /// Makes the conversation's prompt hold what the memory says now.
    async fn recompile(&self, socket: &mut Socket, view: &TaskView) -> Result<(), PlannerError> {
        let agent = &view.caller.agent_id;
        let Some(conversation) = conversation(socket, view).await? else {
            // A conversation that begins later reads the memory as it is then.
            return Ok(());
        };
        let request = json!({"type": "conversation_recompile", "agent_id": agent,
            "conversation_id": conversation, "body": {},
            "runtime": {"agent_id": agent, "conversation_id": conversation}});
        let said = socket
            .ask(request, "conversation_recompile_response", |_| false)
            .await?;
        match failed("recompile a conversation", &said) {
            _ if said["success"] != false => Ok(()),
            // The conversation is gone; the memory is not.
            PlannerError::Gone(_) => Ok(()),
            error => Err(error),
        }
    }

    pub(super) async fn archive(&self, page: &MemoryPage) -> Result<(), PlannerError> {
        let view = &page.view;
        let path = format!("{ASIDE}/{}.md", label(view.id));
        let mut socket = self.sockets.open().await?;
        let content = self.file(view, page);
        write_file(&mut socket, &view.caller.agent_id, &path, &content).await?;
        socket.close().await;
        Ok(())
    }

    pub(super) async fn close(&self, view: &TaskView) -> Result<(), PlannerError> {
        if self.settings.keep {
            let page = MemoryPage {
                view: view.clone(),
                events: Vec::new(),
            };
            self.archive(&page).await?;
        }
        let name = format!("{}.md", label(view.id));
        let mut socket = self.sockets.open().await?;
        delete_file(&mut socket, &view.caller.agent_id, &name).await?;
        if !self.settings.attach && !self.settings.keep && !self.settings.archival {
            let aside = format!("{ASIDE}/{name}");
            delete_file(&mut socket, &view.caller.agent_id, &aside).await?;
        }
        CrashPoint::MemoryHalfClosed.pass();
        if self.settings.attach {
            self.recompile(&mut socket, view).await?;
        }
        socket.close().await;
        Ok(())
    }

    pub(super) async fn left(&self) -> Result<Vec<LeftMemory>, PlannerError> {
        let mut socket = self.sockets.open().await?;
        let request = json!({"type": "agent_list", "query": {"limit": AGENTS}});
        let agents = socket
            .call("list its agents", request, "agent_list_response")
            .await?;
        let mut left = Vec::new();
        for agent in agents["agents"].as_array().into_iter().flatten() {
            let Some(agent) = agent["id"].as_str() else {
                continue;
            };
            left.extend(self.left_of(&mut socket, agent).await?);
        }
        socket.close().await;
        Ok(left)
    }

    async fn left_of(
        &self,
        socket: &mut Socket,
        agent: &str,
    ) -> Result<Vec<LeftMemory>, PlannerError> {
        let request = json!({"type": "list_memory", "agent_id": agent});
        let mut entries: Vec<Value> = Vec::new();
        let said = socket
            .ask(request, "list_memory_response", |piece| {
                entries.extend(piece["entries"].as_array().into_iter().flatten().cloned());
                piece["success"] != false && piece["done"] == false
            })
            .await?;
        if said["success"] == false {
            // An agent without memory files has none of ours.
            tracing::debug!(agent, error = %said["error"], "an agent's memory cannot be listed");
            return Ok(Vec::new());
        }
        let mark = self.owner();
        let ours = |entry| left_in(entry, &mark, agent);
        Ok(entries.iter().filter_map(ours).collect())
    }

    pub(super) async fn remove(&self, left: &LeftMemory) -> Result<(), PlannerError> {
        let mut socket = self.sockets.open().await?;
        delete_file(&mut socket, &left.agent, &left.id).await?;
        socket.close().await;
        Ok(())
    }

    pub(super) async fn notify(
        &self,
        notice: &Notice,
        in_doubt: bool,
    ) -> Result<Delivered, PlannerError> {
        let view = &notice.view;
        let agent = &view.caller.agent_id;
        let key = notice.key();
        let mut socket = self.sockets.open().await?;
        let conversation = conversation(&mut socket, view).await?;
        if let Some(conversation) = conversation.as_deref().filter(|_| in_doubt)
            && has_arrived(&mut socket, conversation, &key).await?
        {
            return Ok(Delivered::Before);
        }
        let mut start = json!({"type": "runtime_start", "agent_id": agent,
            "client_info": {"name": "chargehand", "version": env!("CARGO_PKG_VERSION")}});
        match conversation {
            Some(conversation) => start["conversation_id"] = json!(conversation),
            None => start["create_conversation"] = json!({}),
        }
        let started = socket
            .call("open a conversation", start, "runtime_start_response")
            .await?;
        let delivered = self.deliver(&mut socket, notice, &started["runtime"], in_doubt);
        delivered.await?;
        socket.close().await;
        Ok(Delivered::Now)
    }
}

impl AppServer {
    /// Gives the message and listens until its turn has begun. It is not enough that it was accepted: what waits behind
    /// another turn begins only while somebody listens, and what collides with one is dropped.
    async fn deliver(
        &self,
        socket: &mut Socket,
        notice: &Notice,
        runtime: &Value,
        in_doubt: bool,
    ) -> Result<(), PlannerError> {
        let mut turn = Turn::new(&notice.key(), runtime);
        if in_doubt {
            // The queue is told to whoever comes; there it may still be from the last time.
            let queue = |said: &Value| (said["type"] == "update_queue").then(|| turn.hears(said));
            socket.hear(QUEUE_LIMIT, queue).await?;
        }
        if !turn.waits() {
            let mut id = notice.key();
            if in_doubt {
                // The server takes an id once, also of a message that it dropped.
                id = format!("{id}:{}", uuid::Uuid::new_v4().simple());
            }
            turn = Turn::new(&id, runtime);
            let input = json!({"type": "input", "runtime": runtime,
            "payload": {"kind": "create_message", "messages": [{
                "role": "user",
                "content": text::notice(notice, &self.style()),
                "client_message_id": id,
            }]}});
            let accepted = socket.ask(input, "input_accepted", |_| false).await?;
            if accepted["accepted"] != true {
                return Err(failed("take a message", &accepted));
            }
            turn.accepted(&accepted);
        }
        let begun = |said: &Value| Some(turn.hears(said)).filter(|fate| *fate != Fate::Open);
        match socket.hear(BEGIN_LIMIT, begun).await? {
            Some(Fate::Lost(why)) => Err(PlannerError::Conflict(format!(
                "the agent's turn did not begin: {}",
                text::safe(&why, 300)
            ))),
            None if turn.waits() => Err(PlannerError::Conflict(
                "the agent is in a turn; the message waits in its queue".to_owned(),
            )),
            // A model that thinks for long before its first word.
            Some(Fate::Begun | Fate::Open) | None => Ok(()),
        }
    }
}

/// A memory file in an agent's root that this instance wrote: it has the label of a task, and the description that goes with
/// it. A file of the agent's own that only quotes one is not. (Letta tells the front matter's description apart from the
/// content, which is what stands below it; seen with 0.34.12.)
fn left_in(entry: &Value, mark: &str, agent: &str) -> Option<LeftMemory> {
    let path = entry["relative_path"].as_str()?;
    let described = entry["description"].as_str()?;
    let (_, rest) = described.split_once(mark)?;
    let (task, _) = rest.split_once(')')?;
    let task = task.parse().ok()?;
    // What lies aside was put there to be kept, and has another path.
    (path == format!("{}.md", label(task))).then(|| LeftMemory {
        task,
        id: path.to_owned(),
        label: label(task),
        agent: agent.to_owned(),
    })
}

/// The conversation that the task came from; without it the agent's newest one, if there is any.
async fn conversation(
    socket: &mut Socket,
    view: &TaskView,
) -> Result<Option<String>, PlannerError> {
    if let Some(known) = &view.spec.conversation {
        return Ok(Some(known.clone()));
    }
    let query = json!({"agent_id": view.caller.agent_id, "limit": 1, "order": "desc"});
    let request = json!({"type": "conversation_list", "query": query});
    let listed = socket
        .call(
            "list an agent's conversations",
            request,
            "conversation_list_response",
        )
        .await?;
    let newest = listed["conversations"][0]["id"].as_str();
    Ok(newest.map(str::to_owned))
}

async fn has_arrived(
    socket: &mut Socket,
    conversation: &str,
    key: &str,
) -> Result<bool, PlannerError> {
    let request = json!({"type": "conversation_messages_list", "conversation_id": conversation,
        "query": {"limit": RECENT, "order": "desc"}});
    let listed = socket
        .call(
            "list a conversation's messages",
            request,
            "conversation_messages_list_response",
        )
        .await?;
    Ok(listed["messages"].to_string().contains(key))
}

async fn write_file(
    socket: &mut Socket,
    agent: &str,
    path: &str,
    content: &str,
) -> Result<(), PlannerError> {
    let request = json!({"type": "write_memory_file", "agent_id": agent, "path": path,
        "content": content, "commit_message": format!("chargehand: {path}")});
    let what = "write a memory file";
    socket
        .call(what, request, "write_memory_file_response")
        .await
        .map(drop)
}

/// A file that is not there is deleted already; that is no error there.
async fn delete_file(socket: &mut Socket, agent: &str, path: &str) -> Result<(), PlannerError> {
    let request = json!({"type": "delete_memory_file", "agent_id": agent, "path": path,
        "commit_message": format!("chargehand: {path} is over")});
    let said = socket
        .ask(request, "delete_memory_file_response", |_| false)
        .await?;
    match failed("delete a memory file", &said) {
        _ if said["success"] != false => Ok(()),
        PlannerError::Gone(_) => Ok(()),
        error => Err(error),
    }
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "app_server_tests.rs"]
mod tests;
