//! What can go wrong on the planner's side, as memory and notices tell it.
//!
//! In: answers of the other side. Out: what the actors do about each kind.

/// Why the planner's side did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlannerError {
    /// Somebody else was writing, or the agent is busy: soon again, with the newest state.
    #[error("{0}")]
    Conflict(String),
    /// It does not answer, or with an error of its own: again with patience.
    #[error("{0}")]
    Unavailable(String),
    /// It refuses us or what we ask: only a person can mend that. Looked at again after minutes.
    #[error("{0}")]
    Refused(String),
    /// There is no such agent, or the memory was removed by hand more than once: never again for this task.
    #[error("{0}")]
    Gone(String),
}
