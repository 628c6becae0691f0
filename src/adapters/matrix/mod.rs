//! Rooms on a Matrix homeserver (cargo feature `matrix`).
//!
//! In: posts, names, reactions of the room actors. Out: events with transaction ids that make a repeat harmless; what people
//! say, page by page; signals of the one stream.
//!
//! `settings` says where and as whom; `session` logs in and restores; `rooms` is the port; `open` makes rooms and the
//! space; `content` writes events, with `render` for what people read; `listen` is the only sync loop; `read` pages;
//! `budget` keeps to the homeserver's limits; `fault` says what an error means; `survey` asks for `doctor`.

mod budget;
mod content;
mod fault;
mod listen;
mod open;
mod read;
mod render;
mod rooms;
mod session;
mod settings;
mod survey;

pub use rooms::MatrixRooms;
pub use settings::{MatrixLogin, MatrixSettings, Password};
pub use survey::{MatrixSurvey, survey};
