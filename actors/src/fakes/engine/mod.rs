//! A truthful model of an OpenCode server as [`Engine`]: what it was seen to do in the measurements, and nothing kinder.
//!
//! In: port calls, scripts in prompts ([`Script`]), kills of its worker. Out: sessions, runs that go on without the tree,
//! signals, and [`Tallies`] for checkers. Modelled: an accepted prompt is stored only later and lost with its worker;
//! a repeated prompt is harmless, resumes or runs again, as the state of its session has it; queued prompts are taken up
//! at the next step; an abort before the run begins is lost; a dead worker leaves an unfinished answer and no requests;
//! deleting is final. Not modelled: child sessions, orphans of killed shells.

mod arrival;
mod port;
mod records;
mod run;
mod script;
mod stream;

pub use port::{FakeEngine, LagRange};
pub use records::{RunCause, Tallies, Truth};
pub use script::{Script, ScriptStep};
pub use stream::SignalRates;
