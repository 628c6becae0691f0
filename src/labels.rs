//! The labels of a task's memory: told to callers before it exists, and given to it outside.
//!
//! In: a task. Out: the label in one of the two formats.

use chargehand_actors::id::TaskId;

/// Of a text for the agent. It becomes a tag of the prompt, so it has only letters, digits and `_`.
pub(crate) fn text_memory(task: TaskId) -> String {
    let hex = task.uuid().simple().to_string();
    format!("oc_task_{}", &hex[..8])
}

/// Of the original system's JSON: its label.
pub(crate) fn json_memory(task: TaskId) -> String {
    format!("opencode_workspace_{task}")
}
