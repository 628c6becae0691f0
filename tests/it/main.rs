//! Tests of the edge, with fakes and scripted servers; no engine needed.
mod workdir;
