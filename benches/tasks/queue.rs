//! Accepting tasks, and many of them waiting: nothing runs, because the engine never becomes ready.
//!
//! In: nothing. Out: latency of `opencode_execute_task` with a durable journal and of `get_task_status`, memory of queued tasks.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::process::resident_mb;
use crate::server::{Client, Server, folder, nothing_runs};
use crate::table::{row, section};

/// Tasks queued with each number of connections; together the 1,000 whose memory is measured.
const SUBMITTED: usize = 500;
/// So many of the first and of the last submits are shown alone: what the length of the queue costs.
const EDGE: usize = 100;
const STATUS_CALLS: usize = 2_000;
const CONNECTIONS: [usize; 2] = [1, 16];

/// Measures and prints.
pub(crate) async fn measure() {
    section("Queue (engine never ready; journal in SQLite with WAL, synchronous FULL)");
    let place = folder();
    let mut server = Server::spawn(place.path(), &nothing_runs());
    server.answers().await;
    // Connections and buffers of a server in use are not counted as memory of tasks.
    let none = Arc::new(Vec::from([json!({})]));
    for _ in 0..2 {
        calls(&server, "list_tasks", 16, 320, &none).await;
    }
    let before = resident_mb(server.pid());
    let mut tasks = Vec::new();
    for connections in CONNECTIONS {
        let asked = Arc::new(
            (0..SUBMITTED)
                .map(|n| {
                    json!({"agent_id": format!("agent-{}", n % 10),
                    "task_description": "Rename the module and make the tests pass. ".repeat(10)})
                })
                .collect(),
        );
        let (times, answers) = calls(
            &server,
            "opencode_execute_task",
            connections,
            SUBMITTED,
            &asked,
        )
        .await;
        assert!(answers.iter().all(|answer| answer["status"] == "queued"));
        tasks.extend(answers.iter().map(|answer| answer["task_id"].clone()));
        let conditions = format!("{connections} connections; the answer is durable");
        row("execute_task, accepted", "ms", &times, &conditions);
        if connections == 1 {
            let (first, last) = (&times[..EDGE], &times[times.len() - EDGE..]);
            row("  of it: the first", "ms", first, "short queue");
            row("  of it: the last", "ms", last, "queue of 400 to 500");
        }
    }
    let after = resident_mb(server.pid());
    let count = tasks.len();
    row(
        &format!("memory of {count} queued tasks"),
        "MB",
        &[after - before],
        &format!("RSS {before:.1} -> {after:.1} MB; description of 430 bytes"),
    );
    let asked = Arc::new(
        tasks
            .iter()
            .map(|task| json!({"task_id": task}))
            .collect::<Vec<Value>>(),
    );
    for connections in CONNECTIONS {
        let (times, _) = calls(
            &server,
            "get_task_status",
            connections,
            STATUS_CALLS,
            &asked,
        )
        .await;
        let conditions = format!("{connections} connections; {count} tasks queued");
        row("get_task_status", "ms", &times, &conditions);
    }
    let took = server.stop().await;
    row(
        "stop",
        "ms",
        &[took],
        &format!("SIGTERM to exit, {count} tasks queued"),
    );
}

/// So many calls of a tool over so many connections, with arguments in turn. Times in milliseconds, and the answers.
async fn calls(
    server: &Server,
    tool: &'static str,
    connections: usize,
    count: usize,
    arguments: &Arc<Vec<Value>>,
) -> (Vec<f64>, Vec<Value>) {
    let mut workers = Vec::new();
    for first in 0..connections {
        let client: Client = server.client();
        let arguments = Arc::clone(arguments);
        workers.push(tokio::spawn(async move {
            // The connection is opened before the first measured call.
            client.call("ping", json!({})).await;
            let mut done = Vec::new();
            for n in (first..count).step_by(connections) {
                let asked = arguments[n % arguments.len()].clone();
                done.push(client.timed(tool, asked).await);
            }
            done
        }));
    }
    let (mut times, mut answers) = (Vec::new(), Vec::new());
    for worker in workers {
        for (time, answer) in worker.await.unwrap() {
            times.push(time);
            answers.push(answer);
        }
    }
    (times, answers)
}
