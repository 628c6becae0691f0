//! Tests with the real OpenCode.

mod cli_demo;
