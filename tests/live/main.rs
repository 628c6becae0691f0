//! Tests with the real OpenCode: `engine_*` of the engine adapters, `task_*` of the whole product.

mod cli_demo;
mod engine_control;
mod engine_recovery;
mod engine_turns;
mod harness;
mod harness_client;
mod harness_outside;
mod harness_product;
mod task_answers;
mod task_cancel;
mod task_files;
mod task_input_required;
mod task_killed;
mod task_messages;
mod task_model_errors;
mod task_old_opencode;
mod task_pause;
mod task_queue;
mod task_remote;
mod task_remote_rest;
