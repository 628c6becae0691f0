//! Tasks from a full queue to the last result, at the default limit.
//!
//! In: nothing. Out: tasks a minute on this machine; with a model that answers at once it is OpenCode's CPU that counts.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::life::{World, one_answer};
use crate::server::PATIENCE;
use crate::steps::Steps;
use crate::table::{row, section};

const TASKS: usize = 9;

/// Measures and prints.
pub(crate) async fn measure() {
    section("Throughput (3 tasks at once, the default; model answers in 100 ms)");
    let world = World::new().await;
    let life = world.life().await;
    Steps::delegate(&life, &one_answer()).await;
    let began = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let asked = json!({"agent_id": "bench", "task_description": one_answer()});
        let answer = life.client.call("opencode_execute_task", asked).await;
        tasks.push(answer["task_id"].clone());
    }
    for task in &tasks {
        loop {
            let asked = json!({"task_id": task, "wait_seconds": 20});
            let status = life.client.call("get_task_status", asked).await;
            if status["status"] == "completed" {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "it ends well: {status:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let conditions = format!("{TASKS} tasks, each in a new directory of one OpenCode");
    row("tasks", "/min", &[TASKS as f64 / minutes], &conditions);
    life.server.stop().await;
}
