//! What can be asked of the tree, as plain data: no channels, no actor refs.
//!
//! In: decoded tool calls, control messages, CLI calls. Out: values that [`crate::handle::TreeHandle`] sends to the tree.

use serde::{Deserialize, Serialize};

use crate::id::{EngineName, EventNumber, RequestId, TaskId, WallTime};

/// Who asked: the bearer token's name and the agent that speaks through it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Caller {
    /// Name of the token; `local` where no token is required.
    pub token: String,
    /// The planner's agent id (argument `agent_id`, or header `X-Agent-Id`).
    pub agent_id: String,
}

/// Where a command came from, for the record: the way in and the address, such as `mcp 127.0.0.1`. Empty = inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Origin(pub String);

impl Origin {
    /// Whether nothing is known of it.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Who gave a command and from where, as events record it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// [`Identity::name`], or `default`, `policy`, `shutdown`.
    pub by: String,
    /// From where.
    #[serde(default, skip_serializing_if = "Origin::is_empty")]
    pub from: Origin,
}

/// Who may read or command: an operator sees every task, a caller the tasks of its own token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// Sees and controls every task.
    Operator {
        /// For the record: the token's name, a Matrix user, `cli`.
        name: String,
        /// From where.
        from: Origin,
    },
    /// Sees and controls the tasks submitted with the same token; with `agent_id`, only that agent's.
    Caller {
        /// Name of the token.
        token: String,
        /// Narrows the token to one agent when present.
        agent_id: Option<String>,
        /// From where.
        from: Origin,
    },
}

impl Identity {
    /// Chargehand itself, acting as an operator under this name.
    pub fn inside(name: &str) -> Self {
        Self::Operator {
            name: name.to_owned(),
            from: Origin::default(),
        }
    }

    /// For the record of a command.
    pub fn author(&self) -> Author {
        let (Self::Operator { from, .. } | Self::Caller { from, .. }) = self;
        Author {
            by: self.name(),
            from: from.clone(),
        }
    }

    /// Whether tasks of `owner` are visible to this identity.
    pub fn may_see(&self, owner: &Caller) -> bool {
        match self {
            Self::Operator { .. } => true,
            Self::Caller {
                token, agent_id, ..
            } => {
                *token == owner.token
                    && agent_id
                        .as_ref()
                        .is_none_or(|agent| *agent == owner.agent_id)
            }
        }
    }

    /// The name that goes into events: who did it.
    pub fn name(&self) -> String {
        match self {
            Self::Operator { name, .. } => name.clone(),
            Self::Caller {
                token,
                agent_id: Some(agent),
                ..
            } => format!("{token}/{agent}"),
            Self::Caller {
                token,
                agent_id: None,
                ..
            } => token.clone(),
        }
    }
}

/// A model as OpenCode names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelRef {
    /// OpenCode's provider id, such as `anthropic`.
    pub provider: String,
    /// The provider's model id.
    pub model: String,
}

/// What a workdir is filled with before the worker starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// An empty directory (with `git init`).
    #[default]
    Empty,
    /// A clone of a git repository.
    Repository {
        /// https, ssh or file URL.
        url: String,
        /// Branch, tag or commit; the remote's default branch when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
    /// A copy of a directory on Chargehand's machine. The original is never touched.
    Directory {
        /// Absolute path.
        path: String,
    },
}

/// Which of two waiting tasks of one caller goes first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After everything else.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before everything else.
    High,
}

/// What becomes of a permission that the worker asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PermissionAction {
    /// Granted at once.
    Allow,
    /// Asked of whoever is attached; refused where nobody is.
    Ask,
    /// Refused at once.
    Deny,
}

impl PermissionAction {
    /// OpenCode's word, and ours.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// One rule of a permission policy, in OpenCode's terms. Of several rules that match, the last one holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PermissionRule {
    /// What for: `bash`, `edit`, `webfetch`, `external_directory`, … or `*`.
    pub permission: String,
    /// The command, path or address concerned; `*` stands for any text.
    pub pattern: String,
    /// What becomes of it.
    pub action: PermissionAction,
}

impl PermissionRule {
    /// `permission` or `permission:pattern`; `None` when a part is empty or has control characters.
    pub fn parse(text: &str, action: PermissionAction) -> Option<Self> {
        let (permission, pattern) = text.trim().split_once(':').unwrap_or((text.trim(), "*"));
        let sound = |part: &str| !part.trim().is_empty() && !part.chars().any(char::is_control);
        let word = permission
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '*' | '.'));
        (sound(permission) && sound(pattern) && word).then(|| Self {
            permission: permission.to_owned(),
            pattern: pattern.trim().to_owned(),
            action,
        })
    }
}

/// A task as asked for, validated by the edge, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// What the worker is to do; the first prompt is made from it.
    pub description: String,
    /// The engine that runs it.
    pub engine: EngineName,
    /// Model; the engine's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    /// OpenCode agent, such as `build` or `plan`; OpenCode's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What the workdir starts with.
    #[serde(default)]
    pub source: Source,
    /// Running time allowed, in milliseconds; queueing, starting, pauses and open requests do not count.
    pub timeout_ms: u64,
    /// Order within the queue.
    #[serde(default)]
    pub priority: Priority,
    /// Free labels for listing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Matrix users to invite.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observers: Vec<String>,
    /// The caller will answer the worker's requests; otherwise their default is applied at once.
    #[serde(default)]
    pub attended: bool,
    /// The permission policy, the configuration's and the caller's rules joined: the last matching rule holds, and
    /// where none matches OpenCode's own default does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<PermissionRule>,
    /// Model steps allowed; the server's limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u32>,
    /// What the calling agent is told of without asking.
    #[serde(default, skip_serializing_if = "Notify::is_never")]
    pub notify: Notify,
    /// The agent's conversation (header `X-Conversation-Id`), where memory and notices are shown; its usual one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
}

/// What the calling agent is told of by a message of its own; each costs the agent a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notify {
    /// Of nothing: it asks.
    #[default]
    Never,
    /// Of the end of the task.
    End,
    /// Of the end, and of each request of the worker that waits for an answer.
    Questions,
}

impl Notify {
    /// Whether nothing is told.
    pub const fn is_never(&self) -> bool {
        matches!(self, Self::Never)
    }
}

/// Ask for a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submit {
    /// Who asks.
    pub caller: Caller,
    /// What for.
    pub spec: TaskSpec,
    /// Makes a repeat harmless: the same caller and key within 24 hours answers with the first task.
    pub idempotency_key: Option<String>,
    /// What was asked for as it was given, in one form: decides whether a key comes with the same arguments, whatever the
    /// configuration makes of them now. Where it is empty, `spec` decides.
    pub asked: String,
    /// From where, for the record.
    pub from: Origin,
}

/// The nine kinds of message a planner may send to a running worker (the original system's words).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    /// General progress or news.
    #[default]
    Update,
    /// Judgement on the work so far.
    Feedback,
    /// The surroundings of the task changed.
    ContextChange,
    /// The goal changed.
    RequirementChange,
    /// The order of work changed.
    PriorityChange,
    /// An answer to something unclear.
    Clarification,
    /// Something done is wrong.
    Correction,
    /// Advice.
    Guidance,
    /// Consent to go on.
    Approval,
}

impl MessageType {
    /// All of them, in the original's order.
    pub const ALL: [Self; 9] = [
        Self::Update,
        Self::Feedback,
        Self::ContextChange,
        Self::RequirementChange,
        Self::PriorityChange,
        Self::Clarification,
        Self::Correction,
        Self::Guidance,
        Self::Approval,
    ];

    /// The word used in tool arguments and prompts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Feedback => "feedback",
            Self::ContextChange => "context_change",
            Self::RequirementChange => "requirement_change",
            Self::PriorityChange => "priority_change",
            Self::Clarification => "clarification",
            Self::Correction => "correction",
            Self::Guidance => "guidance",
            Self::Approval => "approval",
        }
    }
}

/// A message for the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendMessage {
    /// The task.
    pub task: TaskId,
    /// Kind of message.
    pub message_type: MessageType,
    /// What to tell the worker.
    pub text: String,
    /// Kept with the event; not shown to the worker.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// The three control signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlSignal {
    /// End the task now, for good.
    Cancel,
    /// Stop working until resumed.
    Pause,
    /// Go on after a pause.
    Resume,
}

impl ControlSignal {
    /// The word used in tool arguments.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// A control signal for a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The task.
    pub task: TaskId,
    /// What to do with it.
    pub signal: ControlSignal,
    /// Why, for the record.
    pub reason: Option<String>,
}

/// An answer to a request of the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Allow the permission, this time or for the rest of the task.
    Allow {
        /// Also allow the like from now on, where no rule denies it.
        always: bool,
    },
    /// Refuse the permission or question; the message is what the worker reads.
    Deny {
        /// Told to the worker. Never empty: a bare reject ends the run in OpenCode.
        message: String,
    },
    /// The labels or texts chosen, one list for each question.
    Choices {
        /// In the order of the questions.
        choices: Vec<Vec<String>>,
    },
}

/// Answer a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRequest {
    /// The task.
    pub task: TaskId,
    /// Which of its open requests.
    pub request: RequestId,
    /// The answer.
    pub answer: Answer,
}

/// Say who watches a task where it can be steered, and may answer its requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attendance {
    /// The task.
    pub task: TaskId,
    /// All of them, in order of their names.
    pub people: Vec<String>,
}

/// When a status read comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// At once.
    Nothing,
    /// When there is an event of the task after this one.
    EventAfter(EventNumber),
    /// When the phase is another than now, or final.
    PhaseChange,
    /// When the task is final.
    Final,
}

/// Read one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusQuery {
    /// The task.
    pub task: TaskId,
    /// Return events after this one; the newest few when absent.
    pub since: Option<EventNumber>,
    /// At most this many events.
    pub events_limit: usize,
    /// When to come back.
    pub wait_for: WaitFor,
    /// At the latest after this many milliseconds (at most 45,000).
    pub wait_ms: u64,
}

/// Read a page of a task's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The task.
    pub task: TaskId,
    /// Skip this many events.
    pub offset: u64,
    /// At most this many; `None` = all (capped by the store at 10,000).
    pub limit: Option<u64>,
}

/// List tasks, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only these states (the original's seven words or precise phases).
    pub states: Vec<String>,
    /// Only tasks of this agent.
    pub agent_id: Option<String>,
    /// Only tasks with this label.
    pub label: Option<String>,
    /// Only tasks created at or after.
    pub created_after: Option<WallTime>,
    /// Only tasks created before.
    pub created_before: Option<WallTime>,
    /// At most this many.
    pub limit: u32,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// List the files of a workdir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesQuery {
    /// The task.
    pub task: TaskId,
    /// Only paths under this prefix, relative to the workdir; empty = all.
    pub prefix: String,
    /// Skip this many.
    pub offset: u64,
    /// At most this many.
    pub limit: u64,
}

/// Read a file of a workdir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFileQuery {
    /// The task.
    pub task: TaskId,
    /// Relative to the workdir.
    pub path: String,
    /// First byte.
    pub offset: u64,
    /// At most this many bytes.
    pub limit: u64,
}

/// Read a stored text of a task by offset: the worker's output, or the patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextQuery {
    /// The task.
    pub task: TaskId,
    /// Which text.
    pub text: TextKind,
    /// First byte.
    pub offset: u64,
    /// At most this many bytes.
    pub limit: u64,
}

/// The stored texts of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextKind {
    /// What the worker said and did, as it came.
    Output,
    /// The unified diff of the result.
    Patch,
}
