//! `opencode_execute_task`: delegate a task.
//!
//! In: the description and how it is to run. Out: the task's id, its state, its place in the queue and what to call next;
//! with `sync` or `wait_seconds` the outcome, if it comes within 45 seconds.

use chargehand_actors::command::{
    ModelRef, Notify, Priority, Source, StatusQuery, Submit, TaskSpec, WaitFor,
};
use chargehand_actors::id::EngineName;
use chargehand_actors::view::{Submitted, TaskStatus};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::allowed::{self, Allowed};
use super::table::{Effect, Tool};
use super::{policy, source};
use crate::config::{NOTIFY, Settings};
use crate::mcp::answer::{Refusal, output_schema, result};
use crate::mcp::args::{Arg, Args, BadArguments, Default, Kind};
use crate::mcp::call::{Call, LONGEST_WAIT_S};
use crate::mcp::shapes::{ChangesOut, duration_ms, exit_code, next_call, output};
use crate::who::Role;

/// The shortest timeout of a task.
const SHORTEST_TIMEOUT_MS: i64 = 1_000;
/// The longest timeout that any setting can allow: 24 hours.
const LONGEST_TIMEOUT_MS: i64 = 86_400_000;
/// The most steps that a task may ask for.
const MOST_STEPS: i64 = 100_000;
/// Characters of the worker's text in a status answer; the whole is in the history's artifacts.
pub(crate) const OUTPUT_CHARS: usize = 5_000;

/// The tool.
pub(crate) const TOOL: Tool = Tool {
    name: "opencode_execute_task",
    title: "Delegate a development task",
    about: "Delegate a development task to an OpenCode worker in its own directory. Answers at once with task_id and status; then call get_task_status with that task_id and wait_seconds=45 until it has ended. Give everything the worker needs in task_description: it sees nothing else of your conversation. Give repository to work on a clone of it. Give idempotency_key so that repeating the call after a lost answer does not start the task twice.",
    args: &[
        Arg::optional(
            "agent_id",
            Kind::Text { min: 1, max: 200 },
            "Your agent id; owner of the task. May be left out when the request carries the header X-Agent-Id.",
        ),
        Arg::required(
            "task_description",
            Kind::Text { min: 1, max: 100_000 },
            "What the worker is to do, complete in itself: goal, constraints, how to check it.",
        ),
        Arg::optional(
            "idempotency_key",
            Kind::Text { min: 1, max: 200 },
            "Any text of yours. The same key with the same arguments within 24 hours answers with the first task instead of starting another.",
        ),
        Arg::optional(
            "timeout_ms",
            Kind::Integer {
                min: SHORTEST_TIMEOUT_MS,
                max: LONGEST_TIMEOUT_MS,
            },
            "Running time allowed in milliseconds (default 300000, 5 minutes). Queueing, pauses and open questions do not count.",
        ),
        Arg::optional(
            "sync",
            Kind::Bool,
            "Wait for the end, at most 45 seconds; then hands over the task_id like an asynchronous call.",
        )
        .or(Default::Bool(false)),
        Arg::optional(
            "wait_seconds",
            Kind::Integer {
                min: 0,
                max: LONGEST_WAIT_S,
            },
            "Wait this long for the end before answering.",
        )
        .or(Default::Int(0)),
        Arg::optional(
            "repository",
            Kind::Fields(&source::REPOSITORY),
            "Start from a clone of this git repository. Not together with directory.",
        ),
        Arg::optional(
            "directory",
            Kind::Text { min: 1, max: 4_096 },
            "Start from a copy of this directory on Chargehand's machine (absolute path); the original is not touched. Not together with repository.",
        ),
        Arg::optional(
            "engine",
            Kind::Text { min: 1, max: 64 },
            "Which configured engine runs it; the default one when left out. health names them.",
        ),
        Arg::optional(
            "model",
            Kind::Text { min: 3, max: 200 },
            "Model as provider/model, such as anthropic/claude-sonnet-4-5; the engine's default when left out.",
        ),
        Arg::optional(
            "agent",
            Kind::Text { min: 1, max: 100 },
            "OpenCode agent, such as build or plan.",
        ),
        Arg::optional(
            "priority",
            Kind::Choice(&["low", "normal", "high"]),
            "Order among your own waiting tasks.",
        )
        .or(Default::Word("normal")),
        Arg::optional(
            "labels",
            Kind::Texts {
                max_items: 20,
                max_chars: 64,
            },
            "Words of yours to find the task again with list_tasks.",
        ),
        Arg::optional(
            "observers",
            Kind::Texts {
                max_items: 50,
                max_chars: 255,
            },
            "Matrix user ids such as @ann:example.org to invite to the task's room.",
        ),
        Arg::optional(
            "attended",
            Kind::Bool,
            "You will answer the worker's permissions and questions with answer_task_request; otherwise each is denied at once, with a message to do without it.",
        )
        .or(Default::Bool(false)),
        Arg::optional(
            "permissions",
            Kind::Fields(&policy::PERMISSIONS),
            "What the worker may do, must ask for, may not do: lists of permission or permission:pattern in OpenCode's words, such as webfetch or bash:git push*. A denial beats a question, that beats a grant; rules of the server hold too.",
        ),
        Arg::optional(
            "max_steps",
            Kind::Integer {
                min: 1,
                max: MOST_STEPS,
            },
            "End the task as failed after this many model steps.",
        ),
        Arg::optional(
            "notify",
            Kind::Choice(&["never", "end", "questions"]),
            "For Letta agents: get a message of its own when the task has ended (end), or also when its worker asks (questions). Then there is no need to wait or to poll. The server's setting when left out.",
        ),
    ],
    effect: Effect::Adds,
    open_world: true,
    output: output_schema::<ExecuteOut>,
    run: |call, args| Box::pin(async move { result(TOOL.name, labelled(&call, &args).await) }),
};

#[derive(Debug, Serialize, JsonSchema)]
struct ExecuteOut {
    /// Id of the task, for every other tool.
    task_id: String,
    /// queued, running, completed, failed, timeout, paused or cancelled.
    status: &'static str,
    /// The precise phase.
    phase: &'static str,
    /// The idempotency_key had been used before: this is the earlier task and nothing new was started.
    existing: bool,
    /// Place in the queue (1 = next), while queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_position: Option<u32>,
    /// Label of the memory block that is kept current with the task, where that is configured.
    workspace_block_id: String,
    /// What happened.
    message: String,
    /// What to call next.
    next: &'static str,
    /// Said when the task did not end within the wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_hint: Option<String>,
    /// 0 when completed, 1 when failed; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// From the slot to the end in milliseconds, once ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// The worker's last text, once ended (at most 5000 characters).
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// Why it failed, timed out or was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What changed in the workdir, once ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<ChangesOut>,
}

/// What a call asks for.
fn decode(call: &Call, args: &Args) -> Result<Submit, BadArguments> {
    let settings = &call.edge.settings;
    let timeout_ms = args
        .count("timeout_ms")
        .unwrap_or(settings.tasks.default_timeout_ms);
    if timeout_ms > settings.tasks.max_timeout_ms {
        return Err(BadArguments::one(
            "timeout_ms",
            format!("is {timeout_ms}"),
            format!(
                "{SHORTEST_TIMEOUT_MS} to {} on this server",
                settings.tasks.max_timeout_ms
            ),
        ));
    }
    let spec = TaskSpec {
        description: args.need_text("task_description")?.to_owned(),
        engine: EngineName::new(args.text("engine").map_or_else(
            || settings.engine.default.clone(),
            |engine| engine.trim().to_owned(),
        )),
        model: args.text("model").map(model).transpose()?,
        agent: args.text("agent").map(|agent| agent.trim().to_owned()),
        source: source::decode(args)?,
        timeout_ms,
        priority: match args.text("priority") {
            Some("low") => Priority::Low,
            Some("high") => Priority::High,
            _ => Priority::Normal,
        },
        labels: args.texts("labels"),
        observers: observers(args.texts("observers"))?,
        attended: args.flag("attended").unwrap_or(false),
        permissions: policy::join(args, &settings.permissions)?,
        max_steps: max_steps(args, settings.watchdog.max_steps)?,
        notify: notify(args, settings),
        conversation: call.conversation.clone(),
    };
    Ok(Submit {
        caller: call.caller(args.text("agent_id"))?,
        spec,
        idempotency_key: args.text("idempotency_key").map(str::to_owned),
        asked: asked(args),
        from: call.who.from.clone(),
    })
}

/// How long the call waits for the end. A call that has taken long already waits less: its client counts from the beginning.
fn wait_ms(args: &Args, begun: Instant) -> u64 {
    let asked = args.integer("wait_seconds");
    let seconds = match args.flag("sync") {
        Some(true) => asked.unwrap_or(LONGEST_WAIT_S),
        _ => asked.unwrap_or(0),
    };
    let used = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0) * 1_000;
    millis(seconds).min(millis(LONGEST_WAIT_S).saturating_sub(used))
}

/// What the agent is told of: by the call, else by the configuration.
fn notify(args: &Args, settings: &Settings) -> Notify {
    let usual = settings
        .letta
        .as_ref()
        .map_or(Notify::Never, |letta| letta.notify);
    let said = args.text("notify");
    NOTIFY
        .iter()
        .find(|(word, _)| Some(*word) == said)
        .map_or(usual, |(_, notify)| *notify)
}

/// The steps asked for, unless the server allows fewer.
fn max_steps(args: &Args, most: u32) -> Result<Option<u32>, BadArguments> {
    let asked = args.count("max_steps").and_then(|n| u32::try_from(n).ok());
    match asked {
        Some(asked) if most > 0 && asked > most => Err(BadArguments::one(
            "max_steps",
            format!("is {asked}"),
            format!("1 to {most} on this server"),
        )),
        asked => Ok(asked),
    }
}

fn model(text: &str) -> Result<ModelRef, BadArguments> {
    match text.trim().split_once('/') {
        Some((provider, model))
            if !provider.is_empty()
                && !model.is_empty()
                && !text.trim().contains(char::is_whitespace) =>
        {
            Ok(ModelRef {
                provider: provider.to_owned(),
                model: model.to_owned(),
            })
        }
        _ => Err(BadArguments::one(
            "model",
            "is not of the form provider/model",
            "such as anthropic/claude-sonnet-4-5",
        )),
    }
}

fn observers(ids: Vec<String>) -> Result<Vec<String>, BadArguments> {
    let sound = |id: &String| {
        id.strip_prefix('@')
            .and_then(|rest| rest.split_once(':'))
            .is_some_and(|(user, server)| {
                !user.is_empty() && !server.is_empty() && !id.contains(char::is_whitespace)
            })
    };
    match ids.iter().position(|id| !sound(id)) {
        None => Ok(ids),
        Some(index) => Err(BadArguments::one(
            "observers",
            format!("entry {index} is no Matrix user id"),
            "ids such as @ann:example.org",
        )),
    }
}

/// With the label that the task's memory has, or would have.
async fn labelled(call: &Call, args: &Args) -> Result<ExecuteOut, Refusal> {
    let mut out = execute(call, args).await?;
    if let Ok(task) = out.task_id.parse() {
        out.workspace_block_id = call.memory_label(task);
    }
    Ok(out)
}

/// The arguments that make the task, in one form. Not how it is waited for, and not the key itself.
fn asked(args: &Args) -> String {
    args.in_one_form(&["agent_id", "idempotency_key", "sync", "wait_seconds"])
}

/// The task that the call's key made before.
async fn known(call: &Call, args: &Args) -> Result<Option<Submitted>, Refusal> {
    let Some(key) = args.text("idempotency_key") else {
        return Ok(None);
    };
    let caller = call.caller(args.text("agent_id"))?;
    Ok(call
        .edge
        .tree
        .known(caller, key.to_owned(), asked(args))
        .await?)
}

async fn execute(call: &Call, args: &Args) -> Result<ExecuteOut, Refusal> {
    let begun = Instant::now();
    // A repeat is answered whatever the settings and the source are by now.
    if let Some(submitted) = known(call, args).await? {
        return Ok(wait(call, &submitted, wait_ms(args, begun)).await);
    }
    let mut wanted = decode(call, args)?;
    call.open_for_work()?;
    let source = std::mem::replace(&mut wanted.spec.source, Source::Empty);
    wanted.spec.source = allowed::check(source, &allowed_sources(call)).await?;
    let submitted = call.edge.tree.submit(wanted).await?;
    Ok(wait(call, &submitted, wait_ms(args, begun)).await)
}

/// Waits for the end if that was asked for.
async fn wait(call: &Call, submitted: &Submitted, wait_ms: u64) -> ExecuteOut {
    if wait_ms == 0 {
        return accepted(submitted);
    }
    let query = StatusQuery {
        task: submitted.task,
        since: None,
        events_limit: 1,
        wait_for: WaitFor::Final,
        wait_ms,
    };
    // The task exists: whatever the wait ends with, its id is handed over.
    match call.status(query).await {
        Ok(status) => waited(submitted, &status, wait_ms),
        Err(error) => {
            let mut out = accepted(submitted);
            out.timeout_hint = Some(format!(
                "The task was accepted, but waiting for it ended early: {error}"
            ));
            out
        }
    }
}

/// Where tasks of this call may start from. With tokens configured nothing on this machine is open unless the setting says so.
fn allowed_sources(call: &Call) -> Allowed<'_> {
    match &call.edge.settings.tasks.allowed_sources {
        Some(directories) => Allowed::Below(directories),
        None if call.who.role == Role::Local => Allowed::Any,
        None => Allowed::Below(&[]),
    }
}

fn accepted(submitted: &Submitted) -> ExecuteOut {
    let phase = submitted.phase;
    let message = match (submitted.existing, submitted.queue_position) {
        (true, _) => format!(
            "This idempotency_key already made a task; it is {}. Nothing new was started.",
            phase.as_str()
        ),
        (false, Some(1)) => "Accepted; it is next in the queue.".to_owned(),
        (false, Some(position)) => format!("Accepted; place {position} in the queue."),
        (false, None) => format!("Accepted; it is {}.", phase.as_str()),
    };
    ExecuteOut {
        task_id: submitted.task.to_string(),
        status: phase.status(),
        phase: phase.as_str(),
        existing: submitted.existing,
        queue_position: submitted.queue_position,
        workspace_block_id: String::new(),
        message,
        next: next_call(phase),
        timeout_hint: None,
        exit_code: None,
        duration_ms: None,
        output: None,
        error: None,
        changes: None,
    }
}

fn waited(submitted: &Submitted, status: &TaskStatus, wait_ms: u64) -> ExecuteOut {
    let view = &status.view;
    let phase = view.phase;
    let mut out = accepted(&Submitted {
        phase,
        queue_position: status.queue_position,
        ..submitted.clone()
    });
    if phase.is_final() {
        if !submitted.existing {
            out.message = format!("The task has ended: {}.", phase.as_str());
        }
        out.exit_code = exit_code(phase);
        out.duration_ms = duration_ms(view);
        out.output = output(view, OUTPUT_CHARS).map(|(text, _)| text);
        out.error = view.failure.as_ref().map(|f| f.message.clone());
        out.changes = ChangesOut::of(view);
    } else {
        out.timeout_hint = Some(format!(
            "Not ended within {} seconds; it goes on and {}.",
            wait_ms.div_ceil(1_000),
            view.doing
        ));
    }
    out
}
