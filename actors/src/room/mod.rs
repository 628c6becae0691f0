//! One task's room: what is said in it ([`tell`]), what is heard in it ([`hear`]), and the actor that does both ([`actor`]).
//!
//! In: committed events of the task, news of the homeserver. Out: posts, answers, commands to the tree.

mod act;
mod actor;
mod command;
mod desk;
mod hear;
mod record;
mod tell;
mod text;
mod words;

pub(crate) use actor::{Room, RoomArgs, RoomMsg};
pub(crate) use command::is_user;
pub use desk::{RoomAnswer, RoomQuestion};
pub(crate) use desk::{answer, as_text};
pub(crate) use hear::nobody_watches;
pub use record::RoomSettings;
pub(crate) use record::cursor;
