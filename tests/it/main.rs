//! Tests of the edge, with fakes and scripted servers; no engine needed.

mod bad;
mod cli_answer;
mod cli_args;
mod cli_bridge;
mod cli_exit;
mod cli_letta;
mod cli_render;
mod cli_run;
mod cli_serve;
mod cli_support;
mod compose;
mod config_cli;
mod journal;
mod journal_cli;
mod mcp;
mod opencode_fake;
mod opencode_fake_files;
mod opencode_remote;
mod opencode_remote_rest;
mod outward;
mod scripted_model;
mod system;
mod workdir;
