//! Memory, rooms and notices: what is there when nothing is configured.
//!
//! In: nothing; the tree starts no actor for a port that is not enabled. Out: refusals that say so.

mod no_rooms;
mod none;

pub use no_rooms::NoRooms;
pub use none::{NoMemory, NoNotices};
