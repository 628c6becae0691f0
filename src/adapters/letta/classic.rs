//! The classic Letta server: a task's memory is a block of its agent, a notice is a message that is not waited for.
//!
//! In: tasks and notices. Out: REST calls in the order that really changes what the agent sees: attaching a block or taking
//! it away does not change the agent's prompt before the agent is recompiled, and before 0.16.8 writing it does not either.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chargehand_actors::crash::CrashPoint;
use chargehand_actors::id::TaskId;
use chargehand_actors::ports::{
    Delivered, LeftMemory, MemoryPage, MemoryPlace, Notice, PlannerError, Written,
};
use chargehand_actors::view::TaskView;
use reqwest::Method;
use serde_json::{Value, json};

use super::json_block;
use super::rest::{Answer, Rest};
use super::settings::{Format, LettaSettings};
use super::text::{self, Style};
use crate::labels;

/// On every block of ours.
const TAG: &str = "oc-task";
/// From this release on a changed value of an attached block changes the prompts that hold it.
const RECOMPILES_ITSELF: (u32, u32, u32) = (0, 16, 8);
const DESCRIPTION: &str = "A development task that you delegated with opencode_execute_task. Read only: the task server keeps it current and removes it some time after the task has ended. You need not poll.";
/// Labels that are tried when others have taken the first ones.
const MOST_LABELS: u32 = 9;
/// Blocks of one page of a listing.
const PAGE: usize = 100;
/// Messages that are searched for a notice that may have arrived.
const RECENT: &str = "100";

/// One server.
#[derive(Debug)]
pub(super) struct Classic {
    rest: Rest,
    settings: LettaSettings,
    /// As it last said.
    version: Mutex<Option<(u32, u32, u32)>>,
}

/// A block as the server tells it.
struct Block {
    id: String,
    label: String,
    value: String,
    task: Option<TaskId>,
    agent: String,
}

impl Classic {
    pub(super) const fn new(rest: Rest, settings: LettaSettings) -> Self {
        Self {
            rest,
            settings,
            version: Mutex::new(None),
        }
    }

    const fn style(&self) -> Style<'_> {
        Style {
            prefix: self.settings.tool_prefix.as_str(),
            words: self.settings.words,
        }
    }

    fn says(&self, page: &MemoryPage) -> String {
        match self.settings.format {
            Format::Text => text::memory(page, &self.style()),
            Format::Json { events, limit } => {
                json_block::block(page, events, limit, self.settings.words)
            }
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer, PlannerError> {
        self.rest.call(method, path, &[], body.as_ref()).await
    }

    pub(super) async fn write(
        &self,
        page: MemoryPage,
        at: Option<MemoryPlace>,
        fresh: bool,
    ) -> Result<Written, PlannerError> {
        let says = self.says(&page);
        let digest = digest(&says);
        let mut remade = 0;
        if let Some(at) = at {
            if at.digest == digest {
                return Ok(Written {
                    place: at,
                    changed: false,
                });
            }
            let answer = self.put(&at.id, &says).await?;
            if answer.status != 404 {
                answer.ok("write a memory block")?;
                self.show(&page.view.caller.agent_id).await?;

                return Ok(Written {
                    place: MemoryPlace { digest, ..at },
                    changed: true,
                });
            }
            // Somebody has deleted it. Once that may be a mistake; whoever does it twice does not want it.
            if at.remade > 0 {
                return Err(PlannerError::Gone(
                    "the task's memory block was deleted twice by somebody else; it is not made again".to_owned(),
                ));
            }
            remade = at.remade + 1;
        }
        let view = &page.view;
        let found = if fresh {
            None
        } else {
            self.blocks_of(view.id).await?.into_iter().next()
        };
        let place = match found {
            Some(block) => self.take_up(view, block, &says).await?,
            None => self.make(view, &says).await?,
        };
        Ok(Written {
            place: MemoryPlace {
                digest,
                remade,
                only: fresh,
                ..place
            },
            changed: true,
        })
    }

    async fn put(&self, block: &str, says: &str) -> Result<Answer, PlannerError> {
        let body = json!({"value": says});
        self.call(Method::PATCH, &format!("v1/blocks/{block}"), Some(body))
            .await
    }

    /// A block of an earlier life: what it says may be old, and whether the agent sees it is not known.
    async fn take_up(
        &self,
        view: &TaskView,
        block: Block,
        says: &str,
    ) -> Result<MemoryPlace, PlannerError> {
        let label = self.attach(view, &block.id, block.label).await?;
        if block.value != says {
            let answer = self.put(&block.id, says).await?;
            answer.ok("write a memory block")?;
        }
        if self.settings.attach {
            self.recompile(&view.caller.agent_id).await?;
        }
        Ok(place(block.id, label))
    }

    async fn make(&self, view: &TaskView, says: &str) -> Result<MemoryPlace, PlannerError> {
        let label = self.label(view.id);
        let limit = match self.settings.format {
            Format::Text => text::MEMORY_CHARS,
            Format::Json { limit, .. } => limit,
        };
        let body = json!({
            "label": label,
            "value": says,
            "limit": limit,
            "description": DESCRIPTION,
            "read_only": true,
            "tags": [TAG, self.instance_tag(), task_tag(view.id)],
            "metadata": {
                "task_id": view.id.to_string(),
                "agent_id": view.caller.agent_id,
                "instance": self.settings.instance,
                "created_at": view.created_at.0,
            },
        });
        let made = self.call(Method::POST, "v1/blocks/", Some(body)).await?;
        let made = made.ok("make a memory block")?;
        CrashPoint::MemoryMade.pass();
        let id = made["id"].as_str().map(str::to_owned).ok_or_else(|| {
            PlannerError::Unavailable("Letta made a block and did not say which".to_owned())
        })?;
        if !self.settings.attach {
            return Ok(place(id, label));
        }
        let label = self.attach(view, &id, label).await?;
        CrashPoint::MemoryAttached.pass();
        self.recompile(&view.caller.agent_id).await?;
        Ok(place(id, label))
    }

    /// Puts the block before the agent's eyes; gives the label that it has there.
    async fn attach(
        &self,
        view: &TaskView,
        block: &str,
        label: String,
    ) -> Result<String, PlannerError> {
        if !self.settings.attach {
            return Ok(label);
        }
        let agent = path(&view.caller.agent_id);
        let attach = format!("v1/agents/{agent}/core-memory/blocks/attach/{block}");
        let mut label = label;
        for number in 2..=MOST_LABELS {
            let answer = self.call(Method::PATCH, &attach, None).await?;
            match answer.status {
                409 if self.is_taken(&agent, &label, block).await? => {
                    label = format!("{}_{number}", self.label(view.id));
                    let body = json!({"label": label});
                    let renamed = format!("v1/blocks/{block}");
                    let renamed = self.call(Method::PATCH, &renamed, Some(body)).await?;
                    renamed.ok("rename a memory block")?;
                }
                404 => return Err(self.nobody(view, block).await?),
                422 => {
                    self.delete(block).await?;
                    return Err(PlannerError::Gone(format!(
                        "{} is no agent of Letta: {}",
                        text::safe(&view.caller.agent_id, 80),
                        answer.detail()
                    )));
                }
                _ => {
                    answer.ok("attach a memory block")?;
                    return Ok(label);
                }
            }
        }
        Err(PlannerError::Gone(
            "every label for the task's memory block is taken by other blocks of the agent"
                .to_owned(),
        ))
    }

    /// Whether another block of the agent has this label; else somebody was only writing at the same time.
    async fn is_taken(&self, agent: &str, label: &str, block: &str) -> Result<bool, PlannerError> {
        let at = format!("v1/agents/{agent}/core-memory/blocks/{}", path(label));
        let answer = self.call(Method::GET, &at, None).await?;
        if answer.is_ok() && answer.body["id"] != block {
            return Ok(true);
        }
        Err(PlannerError::Conflict(
            "the agent was being changed by somebody else".to_owned(),
        ))
    }

    /// Either the block or the agent is not there.
    async fn nobody(&self, view: &TaskView, block: &str) -> Result<PlannerError, PlannerError> {
        let found = self
            .call(Method::GET, &format!("v1/blocks/{block}"), None)
            .await?;
        if found.status == 404 {
            return Ok(PlannerError::Conflict(
                "the memory block was deleted while it was being attached".to_owned(),
            ));
        }
        found.ok("look at a memory block")?;
        self.delete(block).await?;
        Ok(PlannerError::Gone(format!(
            "Letta has no agent {}",
            text::safe(&view.caller.agent_id, 80)
        )))
    }

    /// What was written becomes part of the prompt, where that does not happen by itself.
    async fn show(&self, agent: &str) -> Result<(), PlannerError> {
        if !self.settings.attach || self.version().await? >= RECOMPILES_ITSELF {
            return Ok(());
        }
        self.recompile(agent).await
    }

    async fn version(&self) -> Result<(u32, u32, u32), PlannerError> {
        let known = *self.lock();
        match known {
            Some(version) => Ok(version),
            None => self.ask_version().await.map(|(version, _)| version),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(u32, u32, u32)>> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_version(&self) -> Result<((u32, u32, u32), String), PlannerError> {
        let answer = self.call(Method::GET, "v1/health/", None).await?;
        let answer = answer.ok("say that it is there")?;
        let text = answer["version"].as_str().ok_or_else(|| {
            PlannerError::Refused("what answers at letta.url is no classic Letta server".to_owned())
        })?;
        let version = parse_version(text);
        *self.lock() = Some(version);
        Ok((version, text::safe(text, 40)))
    }

    /// Kind, version and address, for health.
    pub(super) async fn probe(&self) -> Result<String, PlannerError> {
        let (_, version) = self.ask_version().await?;
        Ok(format!(
            "letta classic {version} at {}",
            self.rest.address()
        ))
    }

    async fn recompile(&self, agent: &str) -> Result<(), PlannerError> {
        let at = format!("v1/agents/{}/recompile", path(agent));
        let answer = self.call(Method::POST, &at, Some(json!({}))).await?;
        // An agent that is gone has no prompt; servers without this route make each prompt anew.
        if answer.status == 404 {
            return Ok(());
        }
        answer.ok("recompile an agent's prompt").map(drop)
    }

    async fn delete(&self, block: &str) -> Result<(), PlannerError> {
        let at = format!("v1/blocks/{block}");
        let answer = self.call(Method::DELETE, &at, None).await?;
        if answer.status == 404 {
            return Ok(());
        }
        answer.ok("delete a memory block").map(drop)
    }

    /// Takes a block out of the agent's sight.
    async fn put_away(&self, agent: &str, block: &str) -> Result<(), PlannerError> {
        if self.settings.keep {
            let at = format!(
                "v1/agents/{}/core-memory/blocks/detach/{block}",
                path(agent)
            );
            let answer = self.call(Method::PATCH, &at, None).await?;
            if answer.status != 404 {
                answer.ok("detach a memory block")?;
            }
        } else {
            self.delete(block).await?;
        }
        CrashPoint::MemoryHalfClosed.pass();
        if self.settings.attach {
            self.recompile(agent).await?;
        }
        Ok(())
    }

    pub(super) async fn close(
        &self,
        view: &TaskView,
        at: Option<MemoryPlace>,
    ) -> Result<(), PlannerError> {
        let blocks = match at {
            Some(at) if at.only => vec![at.id],
            // A call whose answer was lost may have made another one.
            Some(_) | None => {
                let found = self.blocks_of(view.id).await?;
                found.into_iter().map(|block| block.id).collect()
            }
        };
        for block in blocks {
            self.put_away(&view.caller.agent_id, &block).await?;
        }
        Ok(())
    }

    pub(super) async fn left(&self) -> Result<Vec<LeftMemory>, PlannerError> {
        let seen = [("connected_to_agents_count_gt", "0")];
        // A block that was kept is nobody's burden as long as no agent sees it.
        let only: &[(&str, &str)] = if self.settings.keep { &seen } else { &[] };
        let blocks = self.blocks(&self.instance_tag(), only).await?;
        Ok(blocks
            .into_iter()
            .filter_map(|block| {
                Some(LeftMemory {
                    task: block.task?,
                    id: block.id,
                    label: block.label,
                    agent: block.agent,
                })
            })
            .collect())
    }

    pub(super) async fn remove(&self, left: &LeftMemory) -> Result<(), PlannerError> {
        self.put_away(&left.agent, &left.id).await
    }

    async fn blocks_of(&self, task: TaskId) -> Result<Vec<Block>, PlannerError> {
        let mut blocks = self.blocks(&task_tag(task), &[]).await?;
        blocks.retain(|block| block.task == Some(task));
        Ok(blocks)
    }

    /// Blocks with a tag that carry this instance. Not every release knows tags, so what a block says of itself decides.
    async fn blocks(&self, tag: &str, more: &[(&str, &str)]) -> Result<Vec<Block>, PlannerError> {
        let page = PAGE.to_string();
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = vec![("tags", tag), ("limit", page.as_str())];
            query.extend_from_slice(more);
            if let Some(after) = &after {
                query.push(("after", after));
            }
            let answer = self
                .rest
                .call(Method::GET, "v1/blocks/", &query, None)
                .await?;
            let answer = answer.ok("list memory blocks")?;
            let blocks = answer.as_array().map(Vec::as_slice).unwrap_or_default();
            found.extend(blocks.iter().filter_map(|block| self.ours(block)));
            let last = blocks.last().and_then(|block| block["id"].as_str());
            match last {
                Some(last) if blocks.len() == PAGE && after.as_deref() != Some(last) => {
                    after = Some(last.to_owned());
                }
                _ => return Ok(found),
            }
        }
    }

    fn ours(&self, block: &Value) -> Option<Block> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let told = &block["metadata"];
        (told["instance"] == self.settings.instance.as_str()).then_some(())?;
        Some(Block {
            id: text(&block["id"])?,
            label: text(&block["label"])?,
            value: text(&block["value"]).unwrap_or_default(),
            task: told["task_id"].as_str()?.parse().ok(),
            agent: text(&told["agent_id"])?,
        })
    }

    pub(super) async fn archive(
        &self,
        page: &MemoryPage,
        in_doubt: bool,
    ) -> Result<(), PlannerError> {
        let view = &page.view;
        let at = format!("v1/agents/{}/archival-memory", path(&view.caller.agent_id));
        let task = view.id.to_string();
        if in_doubt {
            let query = [("search", task.as_str()), ("limit", "10")];
            let found = self.rest.call(Method::GET, &at, &query, None).await?;
            let found = found.ok("search an agent's archive")?;
            if found.to_string().contains(&task) {
                return Ok(());
            }
        }
        let body = json!({
            "text": text::memory(page, &self.style()),
            "tags": [TAG, format!("task:{task}")],
        });
        let answer = self.call(Method::POST, &at, Some(body)).await?;
        answer.ok("write into an agent's archive").map(drop)
    }

    pub(super) async fn notify(
        &self,
        notice: &Notice,
        in_doubt: bool,
    ) -> Result<Delivered, PlannerError> {
        let agent = path(&notice.view.caller.agent_id);
        if in_doubt && self.has_arrived(&agent, &notice.key()).await? {
            return Ok(Delivered::Before);
        }
        let body = json!({"messages": [{
            "role": self.settings.role.as_str(),
            "content": text::notice(notice, &self.style()),
            "otid": notice.key(),
        }]});
        let at = format!("v1/agents/{agent}/messages/async");
        let answer = self.call(Method::POST, &at, Some(body)).await?;
        if answer.status == 404 {
            return Err(no_agent(&notice.view));
        }
        answer.ok("tell an agent of its task")?;
        Ok(Delivered::Now)
    }

    async fn has_arrived(&self, agent: &str, key: &str) -> Result<bool, PlannerError> {
        let at = format!("v1/agents/{agent}/messages");
        let query = [("limit", RECENT), ("order", "desc")];
        let recent = self.rest.call(Method::GET, &at, &query, None).await?;
        if recent.status == 404 {
            return Ok(false);
        }
        let recent = recent.ok("read an agent's messages")?;
        Ok(recent.to_string().contains(key))
    }

    fn label(&self, task: TaskId) -> String {
        match self.settings.format {
            Format::Text => labels::text_memory(task),
            Format::Json { .. } => labels::json_memory(task),
        }
    }

    fn instance_tag(&self) -> String {
        format!("oc-instance:{}", self.settings.instance)
    }
}

fn task_tag(task: TaskId) -> String {
    format!("oc-task:{task}")
}

fn place(id: String, label: String) -> MemoryPlace {
    MemoryPlace {
        id,
        label,
        digest: 0,
        remade: 0,
        only: true,
    }
}

fn no_agent(view: &TaskView) -> PlannerError {
    PlannerError::Gone(format!(
        "Letta has no agent {}",
        text::safe(&view.caller.agent_id, 80)
    ))
}

/// A piece of a path.
fn path(piece: &str) -> String {
    percent_encoding::utf8_percent_encode(piece, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// What is no number counts as 0, so that an unknown version is an old one.
fn parse_version(text: &str) -> (u32, u32, u32) {
    let mut parts = text
        .split(['.', '-', '+'])
        .map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
