//! The figures that the project promises, from the real program and a real OpenCode: `cargo bench --bench tasks`.
//!
//! In: names of parts (`queue`, `history`, `tasks`, `throughput`; all when none is given). Out: a table on standard output.
//! `docs/performance.md` says what each figure means. Everything listens on loopback, and everything that is started is stopped,
//! also after a failure and on Ctrl-C. The model is the scripted one.
#![expect(clippy::unwrap_used, reason = "a bench ends when something is wrong")]

mod delegated;
mod life;
mod opencode;
mod past;
mod process;
mod queue;
mod server;
mod steps;
mod table;
mod throughput;

#[path = "../support/history.rs"]
mod history;

const PARTS: [&str; 4] = ["queue", "history", "tasks", "throughput"];

async fn measure(parts: &[&str]) {
    table::introduce(server::folder().path());
    for part in parts {
        match *part {
            "queue" => queue::measure().await,
            "history" => past::measure().await,
            "tasks" => delegated::measure().await,
            "throughput" => throughput::measure().await,
            other => panic!("there is no part {other}; there are {}", PARTS.join(", ")),
        }
    }
    println!();
    table::load("at the end");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only wants to know that it starts.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let named: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let parts = if named.is_empty() { &PARTS[..] } else { &named };
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            tokio::select! {
                () = measure(parts) => {}
                _ = tokio::signal::ctrl_c() => eprintln!("interrupted; ending what was started"),
            }
        });
}
