//! Tests of the edge, with fakes and scripted servers; no engine needed.

mod journal;
mod mcp;
mod outward;
mod scripted_model;
mod system;
