//! What the tree does to the outside, call by call, as it happens: for tests that check every step and not only the end.
//!
//! In: each fake says what it is asked for, before anything goes wrong with it. Out: the watcher of the test sees it.

use std::sync::{Arc, Mutex};

use super::trouble::lock;
use crate::command::Answer;
use crate::event::Prompt;
use crate::id::{AttemptId, EngineName, RequestId, TaskId};
use crate::ports::{Batch, OpenSession, Post};
use crate::view::TaskView;

/// One call of a port, as the tree asks for it; only [`PortCall::Appended`] comes after its effect.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is the port method of that name")]
pub enum PortCall<'a> {
    /// The journal is read: a tree begins, or begins anew.
    Load,
    /// These batches have become durable; repeated ones are left out.
    Appended(&'a [Batch]),
    Forget(TaskId),
    Prepare(AttemptId),
    Collect(AttemptId),
    RemoveWorkdir(TaskId),
    Open(&'a EngineName, &'a OpenSession),
    Prompt(&'a EngineName, &'a str, &'a Prompt),
    Read(&'a EngineName, &'a str),
    Abort(&'a EngineName, &'a str),
    Freeze(&'a EngineName, &'a str),
    Answer(&'a EngineName, &'a str, &'a RequestId, &'a Answer),
    Remove(&'a EngineName, AttemptId),
    Memory(&'a TaskView),
    Room(&'a str, &'a Post),
    Notice(&'a TaskView),
}

/// Sees every call.
pub type Watcher = Arc<dyn Fn(&PortCall<'_>) + Send + Sync>;

/// Where the fakes tell what they are asked for. Cheap to clone; nobody watches at first.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Option<Watcher>>>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Every call from now on is seen by `watcher`.
    pub fn set(&self, watcher: Watcher) {
        *lock(&self.0) = Some(watcher);
    }

    pub(super) fn saw(&self, call: PortCall<'_>) {
        let watcher = lock(&self.0).clone();
        if let Some(watcher) = watcher {
            watcher(&call);
        }
    }
}
