//! The stored texts of a task, as a room takes them. In: a task, which text. Out: the text, cut at its limit.

use std::sync::Arc;

use crate::command::{Identity, TextKind, TextQuery};
use crate::id::TaskId;
use crate::tree::TreeHandle;
use crate::wiring::Wires;

/// Bytes of a file that is put into the room.
const FILE: u64 = 5_000_000;

/// A stored text of a task, cut at what a room takes. What cannot be read is told as that.
pub(super) async fn whole(wires: &Wires, task: TaskId, kind: TextKind) -> String {
    let tree = TreeHandle {
        wires: Arc::clone(wires),
    };
    let who = Identity::inside("rooms");
    let mut text = String::new();
    let mut offset = 0;
    loop {
        let query = TextQuery {
            task,
            text: kind,
            offset,
            limit: 1_000_000,
        };
        match tree.text(&who, query).await {
            Ok(chunk) if chunk.text.is_empty() || offset >= FILE => return text,
            Ok(chunk) => {
                text.push_str(&chunk.text);
                offset = chunk.next_offset;
                if offset >= chunk.total {
                    return text;
                }
            }
            Err(error) => {
                if text.is_empty() {
                    return String::new();
                }
                return format!("{text}\n… the rest cannot be read: {error}\n");
            }
        }
    }
}
