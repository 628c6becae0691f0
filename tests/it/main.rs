//! Tests of the edge, with fakes and scripted servers; no engine needed.

mod opencode_fake;
mod opencode_remote;
mod scripted_model;
